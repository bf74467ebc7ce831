//! `farmhand run`: a whole experiment.

use std::path::Path;

use farmhand_core::config::Document;
use farmhand_core::run::Manifest;
use farmhand_core::{Result, Seed};

use super::Terminal;
use super::args::{Cli, RunArgs};
use super::stage_folder::with_scratch_stage;
use crate::hub::Want;
use crate::pipeline::{Experiment, Session, plan, read_experiment};

/// Runs, or with `--dry-run` says what it would do.
pub(super) fn run(args: &RunArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let mut document = Document::read(&args.config)?;
    for assignment in &args.set {
        document.set(assignment)?;
    }
    if let Some(budget) = args.budget {
        document.set(&format!("budget_usd={budget}"))?;
    }
    let config = read_experiment(&document)?;
    let base_dir = args.config.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let run_dir = args.runs_dir.join(&config.name);
    let mut session = Session::new(config.device, terminal)?;
    session.hub.stay_with(&Manifest::read(&run_dir.join("manifest.json"))?.models);
    if args.dry_run {
        let plan = with_scratch_stage(|stage| {
            let ctx = session.context(stage, Seed::root(config.seed));
            plan(&config, base_dir, &run_dir, &session.models(Want::Model), &ctx)
        })?;
        return if cli.json { super::print_json(&plan) } else { super::print(&plan.to_string()) };
    }
    farmhand_models::configure_threads(config.threads);
    let mut experiment = Experiment::open(config, base_dir, &args.runs_dir, args.redo, &mut session)?;
    experiment.run().map_err(|error| match error.is_cancelled() {
        true => error.with_hint(format!("run the same command again to go on; `{}` holds everything so far", run_dir.display())),
        false => error,
    })?;
    super::report::print_leaderboard(&run_dir, cli)
}
