//! `farmhand judgements list`.

use farmhand_annotators::store::Store;
use farmhand_core::Result;

use crate::cli::args::{Cli, StoreArgs};
use crate::cli::{print, print_json};

/// Prints a line for each annotator and pair of generators.
pub(super) fn list(args: &StoreArgs, cli: &Cli) -> Result<()> {
    let sets = Store::open_existing(&args.store)?.sets()?;
    if cli.json {
        return print_json(&sets);
    }
    let name = |generator: &Option<String>| generator.clone().unwrap_or_else(|| "?".to_owned());
    let width = sets.iter().map(|set| set.annotator.chars().count()).max().unwrap_or(0);
    let lines: String = sets
        .iter()
        .map(|set| {
            let (one, two) = (name(&set.generator_1), name(&set.generator_2));
            format!("{:width$}  {:>8}  {one} against {two}\n", set.annotator, set.n_verdicts)
        })
        .collect();
    print(&lines)
}
