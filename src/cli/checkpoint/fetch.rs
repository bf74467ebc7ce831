//! `farmhand checkpoint fetch`: models from the hub into the cache.

use std::path::Path;

use farmhand_core::{Device, Error, Result};
use serde_json::json;

use crate::cli::args::{Cli, FetchArgs};
use crate::cli::{Terminal, print, print_json};
use crate::hub::{ModelName, Want};
use crate::pipeline::{CANCEL, Session};

/// Fetches and prints where the models are.
pub(super) fn fetch(args: &FetchArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let ids = args.models.iter().map(|name| match ModelName::read(name, Path::new(""))? {
        ModelName::Hub(id) => Ok(id),
        ModelName::Folder(path) => {
            Err(Error::invalid_config(format!("`{}` is a folder; there is nothing to fetch", path.display()))
                .with_hint(format!("for the hub's model of that name write `hf:{}`", path.display())))
        }
    });
    // Every name is read before the first is fetched.
    let ids = ids.collect::<Result<Vec<_>>>()?;
    let session = Session::new(Device::Cpu, terminal)?;
    let mut fetched = Vec::new();
    for id in &ids {
        let snapshot = session.hub.snapshot(id, Want::Model, &session, &CANCEL)?;
        let path = snapshot.checkpoint.path();
        if !cli.json {
            print(&format!("{}\n", path.display()))?;
        }
        fetched.push(json!({ "id": id.to_string(), "commit": snapshot.commit, "path": path }));
    }
    if cli.json { print_json(&json!({ "models": fetched })) } else { Ok(()) }
}
