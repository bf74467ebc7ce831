//! `farmhand sample` and `generate`: answers on the user's own files.

use std::path::{Path, PathBuf};

use farmhand_core::data::{self, PairsPerInstruction};
use farmhand_core::types::Completion;
use farmhand_core::{AnnotatorSpec, BuildContext, Checkpoint, ComponentKind, PolicySpec, Result, RunContext};
use serde_json::{Value, json};

use super::Terminal;
use super::args::{Cli, Common, GenerateArgs, SampleArgs};
use super::stage_folder::{StageFolder, open_model, open_reward_model, options_with_overrides, refuse, sampling, session_for};
use crate::pipeline::{self, note_left_out, read_options};

pub(super) fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("options are JSON")
}

/// Prints the files that were written.
pub(super) fn print_files(out: &Path, names: &[&str], cli: &Cli) -> Result<()> {
    let files: Vec<PathBuf> = names.iter().map(|name| out.join(name)).collect();
    if cli.json {
        return super::print_json(&json!({ "files": files }));
    }
    super::print(&files.iter().map(|file| format!("{}\n", file.display())).collect::<String>())
}

/// `farmhand sample`.
pub(super) fn sample(args: &SampleArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let sampling = sampling(&args.sampling, args.n)?;
    if args.n < 2 {
        return Err(farmhand_core::Error::invalid_config(format!(
            "`-n {}`: pairs need at least 2 answers an instruction",
            args.n
        )));
    }
    let pairs = if args.all_pairs { PairsPerInstruction::All } else { PairsPerInstruction::One };
    let spec = policy_spec(&args.policy, &args.common)?;
    let session = session_for(&args.out, &args.common, terminal)?;
    let model = open_model(&args.model, &args.common, &session)?;
    let options = json!({ "policy": to_json(&spec), "sampling": to_json(&sampling), "pairs": to_json(&pairs) });
    let inputs: (&[&Path], &[&Checkpoint]) = (&[&args.data], &[&model]);
    let folder = StageFolder::open("sample", &args.out, &args.common, options, inputs, session)?;
    folder.work(|ctx, build| {
        let build = BuildContext { policy: Some(&model), ..*build };
        let completions = answer(&spec, &build, &args.data, &sampling, None, &args.common, ctx)?;
        pipeline::pair(&completions, pairs, ctx)
    })?;
    print_files(&args.out, &["completions.jsonl", "comparisons.jsonl"], cli)
}

/// `farmhand generate`.
pub(super) fn generate(args: &GenerateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let sampling = sampling(&args.sampling, 1)?;
    let spec = policy_spec(&args.policy, &args.common)?;
    let session = session_for(&args.out, &args.common, terminal)?;
    let model = open_model(&args.model, &args.common, &session)?;
    let reward_model = open_reward_model(args.reward_model.as_ref(), &session)?;
    let options = json!({ "policy": to_json(&spec), "sampling": to_json(&sampling), "name": args.name });
    let models: Vec<&Checkpoint> = std::iter::once(&model).chain(&reward_model).collect();
    let inputs: (&[&Path], _) = (&[&args.data], models.as_slice());
    let folder = StageFolder::open("generate", &args.out, &args.common, options, inputs, session)?;
    folder.work(|ctx, build| {
        let build = BuildContext { policy: Some(&model), reward_model: reward_model.as_ref(), ..*build };
        let name = args.name.clone().unwrap_or_else(|| model.name());
        let completions = answer(&spec, &build, &args.data, &sampling, Some(&name), &args.common, ctx)?;
        data::write_alpaca_eval_outputs(&ctx.stage.path().join("outputs.json"), &completions)
    })?;
    print_files(&args.out, &["completions.jsonl", "outputs.json"], cli)
}

fn answer(
    spec: &PolicySpec,
    build: &BuildContext<'_>,
    file: &Path,
    sampling: &farmhand_core::types::SamplingParams,
    name: Option<&str>,
    common: &Common,
    ctx: &RunContext<'_>,
) -> Result<Vec<Completion>> {
    let (instructions, report) = data::read_instructions(file, &read_options(common.skip_bad_records))?;
    note_left_out(&report, ctx);
    let mut policy = spec.build(build)?;
    let own_name = policy.model().to_owned();
    pipeline::generate(&mut *policy, &instructions, sampling, name.unwrap_or(&own_name), ctx)
}

fn policy_spec(name: &str, common: &Common) -> Result<PolicySpec> {
    let options = options_with_overrides(ComponentKind::Policy, name, &common.set)?;
    let spec = PolicySpec::from_json(name, &options.to_string())?;
    refuse(&spec.problems(), ComponentKind::Policy, name)?;
    Ok(spec)
}

pub(super) fn annotator_spec(name: &str, common: &Common) -> Result<AnnotatorSpec> {
    let options = options_with_overrides(ComponentKind::Annotator, name, &common.set)?;
    let spec = AnnotatorSpec::from_json(name, &options.to_string())?;
    refuse(&spec.problems(), ComponentKind::Annotator, name)?;
    Ok(spec)
}
