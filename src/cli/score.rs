//! `farmhand score`: log-probabilities of given responses, one JSON line a record; with a reward model, how it orders given pairs.

use farmhand_core::data::{read_demonstrations, read_preference_pairs};
use farmhand_core::run::StageDir;
use farmhand_core::{CheckpointKind, Result, Seed};
use farmhand_models::PromptFormat;

use super::Terminal;
use super::args::{Cli, ScoreArgs};
use super::stage_folder::open_model;
use crate::pipeline::{Session, note_left_out, read_options, score_pairs, score_records};

/// Scores and prints; writes no file but the events, when asked.
pub(super) fn score(args: &ScoreArgs, _: &Cli, terminal: Terminal) -> Result<()> {
    farmhand_models::configure_threads(args.common.threads.into());
    let mut session = Session::new(args.common.device.into(), terminal)?;
    if let Some(file) = &args.events {
        session.log_to(file)?;
        session.enter_stage("score");
    }
    let checkpoint = open_model(&args.model, &args.common, &session)?;
    let format = args.common.template.map(|template| PromptFormat::from_name(template.name())).transpose()?;
    let stage = StageDir::create(std::env::temp_dir())?;
    let ctx = session.context(&stage, Seed::root(args.common.seed));
    let reading = read_options(args.common.skip_bad_records);
    if checkpoint.kind()? == CheckpointKind::RewardModel {
        let (pairs, report) = read_preference_pairs(&args.data, &reading)?;
        note_left_out(&report, &ctx);
        let scores = score_pairs(&checkpoint, format, &pairs, args.max_batch_tokens, &ctx)?;
        let numbers = scores.numbers().into_iter().map(|(name, number)| (name, number.into()));
        let table: serde_json::Map<String, serde_json::Value> = numbers.chain([("n".to_owned(), scores.all.n.into())]).collect();
        return super::print(&format!("{}\n", serde_json::Value::Object(table)));
    }
    let (records, report) = read_demonstrations(&args.data, &reading)?;
    note_left_out(&report, &ctx);
    let scored = score_records(&checkpoint, format, &records, args.max_batch_tokens, &ctx)?;
    let mut text = String::new();
    for record in &scored {
        text += &serde_json::to_string(record).expect("a score is JSON");
        text.push('\n');
    }
    super::print(&text)
}
