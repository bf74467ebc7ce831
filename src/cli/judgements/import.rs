//! `farmhand judgements import`.

use farmhand_annotators::store::Store;
use farmhand_core::Result;
use serde_json::json;

use crate::cli::args::{Cli, ImportArgs};
use crate::cli::{print, print_json};

/// Imports the files one after the other and says what each added.
pub(super) fn import(args: &ImportArgs, cli: &Cli) -> Result<()> {
    let store = Store::open(&args.store)?;
    let mut reports = Vec::new();
    for file in &args.files {
        let report = store.import(file, args.annotator.as_deref())?;
        if !cli.json {
            print(&format!(
                "{}: {} records, {} new verdicts, {} new failures, {} known\n",
                file.display(),
                report.n_records,
                report.n_verdicts,
                report.n_failures,
                report.n_known
            ))?;
        }
        reports.push(json!({ "file": file, "report": report }));
    }
    if cli.json { print_json(&reports) } else { Ok(()) }
}
