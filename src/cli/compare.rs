//! `farmhand compare`: whether the difference between two models is real.

use farmhand_analysis::{compare, sides_of_one, sides_of_two};
use farmhand_core::{Error, Result, Seed};

use super::args::{Cli, CompareArgs, ComparisonFormat};

/// Reads both models, compares them and prints the result.
pub(super) fn compare_models(args: &CompareArgs, cli: &Cli) -> Result<()> {
    let name = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let [a, b] = match args.what.as_slice() {
        [source, a, b] if args.method.is_none() => sides_of_one(source, &name(a), &name(b))?,
        [a, b] => sides_of_two(a, b, args.method.as_deref())?,
        _ => {
            return Err(Error::invalid_config(
                "`--method` names the model of two sources, but two models of one source are given",
            )
            .with_hint("leave `--method` out, or give two sources"));
        }
    };
    let found = compare(&a, &b, Seed::root(args.seed))?;
    match args.format {
        _ if cli.json => super::print_json(&found),
        ComparisonFormat::Json => super::print_json(&found),
        ComparisonFormat::Md => super::print(&found.markdown()),
        ComparisonFormat::Text => super::print(&found.terminal()),
    }
}
