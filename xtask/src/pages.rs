//! The pages that farmhand generates from its own components, and the check that they are up to date.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cargo::Workshop;
use crate::failure::{Failure, Result};

/// Each page with the `farmhand` command that prints it.
const PAGES: [(&str, &[&str]); 2] =
    [("docs/reference.md", &["describe", "--all", "--markdown"]), ("docs/methods.md", &["list", "--markdown"])];

/// Writes every page that changed.
pub(crate) fn write(workshop: &Workshop) -> Result<()> {
    for (path, text) in generate(workshop)? {
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            println!("{} is up to date", path.display());
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
        }
        fs::write(&path, text).map_err(|error| Failure::io("write", &path, &error))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Fails when a page differs from what its command prints now, and names the first line that does.
pub(crate) fn compare(workshop: &Workshop) -> Result<()> {
    for (path, text) in generate(workshop)? {
        let old = fs::read_to_string(&path).unwrap_or_default();
        if old != text {
            let same = old.lines().zip(text.lines()).take_while(|(old, new)| old == new).count();
            return Err(Failure::new(format!("`{}` is out of date from line {} on", path.display(), same + 1))
                .with_hint("run `cargo xtask docs` and commit the result"));
        }
    }
    Ok(())
}

fn generate(workshop: &Workshop) -> Result<Vec<(PathBuf, String)>> {
    let program = workshop.build(&[])?;
    let page = |(path, args): (&str, &[&str])| {
        let command = format!("farmhand {}", args.join(" "));
        let output = Command::new(&program).args(args).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| Failure::new(format!("cannot run `{command}`: {error}")))?;
        if !output.status.success() {
            return Err(Failure::ended(&format!("`{command}`"), output.status));
        }
        let text = String::from_utf8(output.stdout)
            .map_err(|_| Failure::new(format!("`{command}` printed something that is not UTF-8")))?;
        Ok((workshop.places.root.join(path), text))
    };
    PAGES.into_iter().map(page).collect()
}
