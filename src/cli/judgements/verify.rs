//! `farmhand judgements verify`.

use farmhand_annotators::store::Store;
use farmhand_core::Result;

use crate::cli::args::{Cli, StoreArgs};
use crate::cli::{print, print_json};

/// Reads everything and says how much that is.
pub(super) fn verify(args: &StoreArgs, cli: &Cli) -> Result<()> {
    let stats = Store::open_existing(&args.store)?.verify()?;
    if cli.json {
        return print_json(&stats);
    }
    let n_verdicts: u64 = stats.annotators.iter().map(|row| row.n_verdicts).sum();
    let n_failures: u64 = stats.annotators.iter().flat_map(|row| row.failures.values()).sum();
    let n_answers: u64 = stats.models.iter().map(|row| row.n_answers).sum();
    print(&format!("{}: whole; {n_verdicts} verdicts and {n_failures} failures, {n_answers} answers\n", args.store.display()))
}
