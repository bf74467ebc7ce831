//! `farmhand sft`, `reward-model` and `learn`: one learner on the user's own files.

use std::path::Path;

use farmhand_core::{AnnotatorSpec, BuildContext, Checkpoint, ComponentKind, LearnerInputs, LearnerSpec, Result};
use serde_json::json;

use super::Terminal;
use super::args::{Cli, LearnArgs};
use super::stage_folder::{StageFolder, open_model, options_with_overrides, refuse};
use crate::pipeline::{OwnedFeedback, learn as run_learner, read_options, reward_model_spec};

/// Trains and prints where the model is.
pub(super) fn learn(
    method: &str,
    args: &LearnArgs,
    reward_model: Option<&Path>,
    reference: Option<&Path>,
    cli: &Cli,
    terminal: Terminal,
) -> Result<()> {
    let options = options_with_overrides(ComponentKind::Learner, method, &args.common.set)?;
    let spec = LearnerSpec::from_json(method, &options.to_string())?;
    refuse(&spec.problems(), ComponentKind::Learner, method)?;
    let init = open_model(&args.model, &args.common)?;
    let reference = reference.map(|path| open_model(path, &args.common)).transpose()?;
    let reward_model = reward_model.map(Checkpoint::open).transpose()?;
    let options = json!({ "learner": serde_json::to_value(&spec).expect("options are JSON"), "skip_bad_records": args.common.skip_bad_records });
    let others =
        [args.validation.as_deref(), reference.as_ref().map(Checkpoint::path), reward_model.as_ref().map(Checkpoint::path)];
    let inputs: Vec<&Path> = [init.path(), args.data.as_path()].into_iter().chain(others.into_iter().flatten()).collect();
    let folder = StageFolder::open(method, &args.out, &args.common, options, &inputs, terminal)?;
    let working_dir = Path::new(".");
    folder.work(|ctx| {
        let build = BuildContext {
            policy: Some(&init),
            reward_model: reward_model.as_ref(),
            ..BuildContext::new(ctx.device, working_dir)
        };
        let mut learner = spec.build(&build)?;
        let requires = learner.requires();
        let reading = read_options(args.common.skip_bad_records);
        let feedback = OwnedFeedback::read(requires.feedback, &args.data, &reading, ctx)?;
        let validation =
            args.validation.as_ref().map(|path| OwnedFeedback::read(requires.feedback, path, &reading, ctx)).transpose()?;
        let mut scorer = match &reward_model {
            Some(_) if requires.reward_model => Some(reward_model_spec().build(&build)?),
            _ => None,
        };
        let annotator = if requires.annotator { Some(AnnotatorSpec::from_json("pool", "{}")?.build(&build)?) } else { None };
        let inputs = LearnerInputs {
            init: &init,
            reference: reference.as_ref(),
            feedback: feedback.borrow(),
            validation: validation.as_ref().map(OwnedFeedback::borrow),
            reward_model: scorer.as_deref_mut().map(|model| model as &mut dyn farmhand_core::RewardModel),
            annotator: annotator.as_deref(),
        };
        run_learner(&mut *learner, method, inputs, ctx).map(|_| ())
    })?;
    let checkpoint = args.out.join("checkpoint");
    if cli.json {
        return super::print_json(&json!({ "checkpoint": checkpoint }));
    }
    super::print(&format!("{}\n", checkpoint.display()))
}
