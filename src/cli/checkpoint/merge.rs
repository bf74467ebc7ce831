//! `farmhand checkpoint merge`: a low-rank adapter and its base as one whole model.

use std::path::Path;

use farmhand_core::{Checkpoint, Device, Error, FindModel, Result};
use farmhand_models::{configure_threads, merge_adapter};
use serde_json::json;

use crate::cli::args::{Cli, MergeArgs};
use crate::cli::{Terminal, print, print_json};
use crate::hub::Want;
use crate::pipeline::Session;

/// Merges and prints where the model is.
pub(super) fn merge(args: &MergeArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("the output folder `{}` is not empty", args.out.display());
        return Err(Error::invalid_config(message).with_hint("name a new or empty folder"));
    }
    configure_threads(args.threads.into());
    let session = Session::new(Device::Cpu, terminal)?;
    let models = session.models(Want::Model);
    let base = args.base.as_ref().map(|base| models.find_model(base, Path::new(""))).transpose()?;
    let made = merge_adapter(&args.adapter, base.as_ref().map(Checkpoint::path), &args.out)?;
    if cli.json {
        return print_json(&json!({ "checkpoint": args.out, "kind": made.kind()? }));
    }
    print(&format!("{}\n", args.out.display()))
}
