//! `farmhand judgements export`.

use farmhand_annotators::store::{AlpacaEvalLayout, ExportFilter, ExportForm, Store};
use farmhand_core::run::write_atomic;
use farmhand_core::{Error, Result};
use serde_json::json;

use crate::cli::args::{Cli, ExportArgs, FormArg};
use crate::cli::{print, print_json};

/// Writes the file whole or not at all.
pub(super) fn export(args: &ExportArgs, cli: &Cli) -> Result<()> {
    let store = Store::open_existing(&args.store)?;
    if args.file.exists() {
        return Err(
            Error::invalid_config(format!("`{}` exists and is left alone", args.file.display())).with_hint("name another file")
        );
    }
    let form = match args.form {
        FormArg::AlpacaEval => ExportForm::AlpacaEval(AlpacaEvalLayout::AsImported),
        FormArg::AlpacaEvalResults => ExportForm::AlpacaEval(AlpacaEvalLayout::Results),
        FormArg::AlpacaEvalCache => ExportForm::AlpacaEval(AlpacaEvalLayout::Cache),
        FormArg::Farmhand => ExportForm::Farmhand,
    };
    let filter = ExportFilter { annotator: args.annotator.clone(), generator_2: args.generator.clone() };
    let mut n_records = 0;
    write_atomic(&args.file, |out| {
        n_records = store.export(form, &filter, out)?;
        Ok(())
    })?;
    if cli.json {
        return print_json(&json!({ "file": args.file, "n_records": n_records }));
    }
    print(&format!("{}: {n_records} records\n", args.file.display()))
}
