//! `farmhand sft`, `reward-model` and `learn`: one learner on the user's own files.

use std::path::PathBuf;

use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::{AnnotatorSpec, BuildContext, ComponentKind, LearnerInputs, LearnerSpec, Result, RunContext};
use serde_json::json;

use super::Terminal;
use super::args::{Cli, LearnArgs};
use super::stage_folder::{StageFolder, open_model, open_reward_model, options_with_overrides, refuse, session_for};
use crate::pipeline::{OwnedFeedback, learn as run_learner, read_options, reward_model_spec};

/// Trains and prints where the model is.
pub(super) fn learn(
    method: &str,
    args: &LearnArgs,
    reward_model: Option<&PathBuf>,
    reference: Option<&PathBuf>,
    cli: &Cli,
    terminal: Terminal,
) -> Result<()> {
    let options = options_with_overrides(ComponentKind::Learner, method, &args.common.set)?;
    let spec = LearnerSpec::from_json(method, &options.to_string())?;
    refuse(&spec.problems(), ComponentKind::Learner, method)?;
    let session = session_for(&args.out, &args.common, terminal)?;
    let init = open_model(&args.model, &args.common, &session)?;
    let reference = reference.map(|name| open_model(name, &args.common, &session)).transpose()?;
    let reward_model = open_reward_model(reward_model, &session)?;
    let mut options = json!({ "learner": serde_json::to_value(&spec).expect("options are JSON"), "skip_bad_records": args.common.skip_bad_records });
    if let Some(every) = args.checkpoint_every {
        options["checkpoint_every"] = every.into();
    }
    let files: Vec<_> = [Some(&args.data), args.validation.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
    let models: Vec<_> = [Some(&init), reference.as_ref(), reward_model.as_ref()].into_iter().flatten().collect();
    let folder = StageFolder::open(method, &args.out, &args.common, options, (&files, &models), session)?;
    folder.work(|ctx, build| {
        let stage = ctx.stage.clone().keeping_checkpoints(args.checkpoint_every);
        let ctx = &RunContext { stage: &stage, ..*ctx };
        let build = BuildContext { policy: Some(&init), reward_model: reward_model.as_ref(), ..*build };
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
        let pool = AnnotatorSpec::from_json("pool", "{}")?;
        let annotator = if requires.annotator { Some(TieIfIdentical::build(&pool, &build)?) } else { None };
        let inputs = LearnerInputs {
            init: &init,
            reference: reference.as_ref(),
            feedback: feedback.borrow(),
            validation: validation.as_ref().map(OwnedFeedback::borrow),
            reward_model: scorer.as_deref_mut().map(|model| model as &mut dyn farmhand_core::RewardModel),
            annotator: annotator.as_deref(),
            models: build.models,
        };
        run_learner(&mut *learner, method, inputs, ctx).map(|_| ())
    })?;
    let checkpoint = args.out.join("checkpoint");
    if cli.json {
        return super::print_json(&json!({ "checkpoint": checkpoint }));
    }
    super::print(&format!("{}\n", checkpoint.display()))
}
