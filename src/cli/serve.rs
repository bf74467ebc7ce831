//! `farmhand serve`: runs in a browser, live and read-only.

use farmhand_core::Result;
use farmhand_web::runs::RunsSession;
use serde_json::json;

use super::Terminal;
use super::args::{Cli, ServeArgs};
use super::label::listen_options;
use crate::pipeline::CANCEL;

/// Serves until Ctrl-C, which is the usual end and no failure.
pub(super) fn serve(args: &ServeArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let session = RunsSession::open(&args.runs)?;
    terminal.note(&format!("{}: {} runs", args.runs.display(), session.n_runs()));
    let listen = listen_options(&args.listen, args.port, terminal);
    session.serve(listen, &CANCEL, |url| {
        if cli.json {
            return super::print(&format!("{}\n", json!({ "runs": url })));
        }
        super::print(&format!("runs: {url}\n"))?;
        terminal.note("Ctrl-C ends");
        Ok(())
    })
}
