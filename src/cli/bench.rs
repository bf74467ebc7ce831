//! `farmhand bench`: how fast this machine does what farmhand does.

use farmhand_core::Result;

use super::Terminal;
use super::args::{BenchArgs, Cli};
use crate::bench::{BenchOptions, HEAD, bench, write_builtin_model};
use crate::pipeline::CANCEL;

/// Measures, and prints a line for every phase as it ends, or one JSON document.
pub(super) fn run(args: &BenchArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    farmhand_models::configure_threads(args.threads.into());
    if let Some(dir) = &args.write_model {
        let checkpoint = write_builtin_model(dir, args.data.as_deref(), args.device.into())?;
        return super::print(&format!("{}\n", checkpoint.path().display()));
    }
    let options = BenchOptions {
        model: args.model.clone(),
        data: args.data.clone(),
        phases: args.phases.clone(),
        seconds: args.seconds,
        threads: args.threads.into(),
        device: args.device.into(),
    };
    let mut is_first = true;
    let report = bench(&options, &terminal, &CANCEL, &mut |phase| {
        if cli.json {
            return Ok(());
        }
        let head = if std::mem::take(&mut is_first) { format!("{HEAD}\n") } else { String::new() };
        super::print(&format!("{head}{phase}\n"))
    })?;
    if cli.json { super::print_json(&report) } else { super::print(&format!("\n{}\n", report.machine)) }
}
