//! The prompt of one of our own judges: the one it comes with, or a user's file.

use std::path::Path;

use farmhand_core::{BuildContext, Error, Result};

use super::prompt::{PromptFile, Variables};

/// Reads the prompt file that the options name, or the embedded one.
///
/// # Errors
/// When the file cannot be read or is no prompt for this judge.
pub(super) fn read_prompt(
    file: Option<&Path>,
    embedded: &str,
    variables: Variables,
    ctx: &BuildContext<'_>,
) -> Result<PromptFile> {
    let Some(file) = file else { return PromptFile::parse(embedded, variables) };
    let path = ctx.resolve(file);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read the prompt", &path, error))?;
    PromptFile::parse(&text, variables).map_err(|error| error.context(format_args!("`{}`", path.display())))
}
