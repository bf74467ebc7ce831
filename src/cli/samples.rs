//! `farmhand sample`, `generate` and `evaluate`: answers on the user's own files.

use std::path::{Path, PathBuf};

use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::data::{self, PairsPerInstruction};
use farmhand_core::types::Completion;
use farmhand_core::{
    AnnotatorSpec, BuildContext, Checkpoint, ComponentKind, EvaluationInputs, EvaluatorSpec, PolicySpec, Result, RunContext,
};
use serde_json::{Value, json};

use super::Terminal;
use super::args::{Cli, Common, EvaluateArgs, GenerateArgs, SampleArgs};
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

/// `farmhand evaluate`.
pub(super) fn evaluate(args: &EvaluateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let spec = annotator_spec(&args.judge.annotator, &args.common)?;
    let session = session_for(&args.out, &args.common, terminal)?;
    let model = args.judge.model.as_ref().map(|name| open_model(name, &args.common, &session)).transpose()?;
    let reward_model = open_reward_model(args.judge.reward_model.as_ref(), &session)?;
    let files: Vec<&Path> =
        [&args.outputs, &args.reference, &args.judgements].into_iter().flatten().map(PathBuf::as_path).collect();
    let models: Vec<&Checkpoint> = model.iter().chain(&reward_model).collect();
    let options = if args.judgements.is_some() { Value::Null } else { to_json(&spec) };
    let folder = StageFolder::open("evaluate", &args.out, &args.common, options, (&files, &models), session)?
        .with_budget(args.judge.budget)?;
    folder.work(|ctx, build| {
        let reading = read_options(args.common.skip_bad_records);
        let build = BuildContext { policy: model.as_ref(), reward_model: reward_model.as_ref(), ..*build };
        let (judgements, answers) = match (&args.outputs, &args.reference, &args.judgements) {
            (Some(outputs), Some(reference), _) => {
                let (answers, report) = data::read_completions(outputs, &reading)?;
                note_left_out(&report, ctx);
                let (references, report) = data::read_completions(reference, &reading)?;
                note_left_out(&report, ctx);
                let comparisons = pipeline::comparisons_against(&references, &answers, ctx)?;
                (pipeline::annotate(&*TieIfIdentical::build(&spec, &build)?, &comparisons, ctx)?, answers)
            }
            (_, _, Some(path)) => {
                let (judgements, report) = data::read_judgements(path, &reading)?;
                note_left_out(&report, ctx);
                (judgements, Vec::new())
            }
            _ => return Err(farmhand_core::Error::missing_input("give `--outputs` with `--reference`, or `--judgements`")),
        };
        let rewards = match &reward_model {
            Some(_) if !answers.is_empty() => {
                let mut scorer = pipeline::reward_model_spec().build(&build)?;
                pipeline::rewards(&mut *scorer, &answers, ctx)?
            }
            _ => Vec::new(),
        };
        let first = judgements.first();
        let name = |generator: Option<&String>| generator.cloned();
        let evaluated = first.and_then(|j| name(j.comparison.generator_2.as_ref())).unwrap_or_else(|| "model".to_owned());
        let reference = first.and_then(|j| name(j.comparison.generator_1.as_ref())).unwrap_or_else(|| "reference".to_owned());
        let judge = first
            .and_then(|j| j.annotation())
            .map_or_else(|| args.judge.annotator.clone(), |annotation| annotation.annotator.clone());
        let mut names = vec!["win_rate"];
        names.extend((!answers.is_empty()).then_some("length"));
        names.extend((!rewards.is_empty()).then_some("mean_reward"));
        let evaluators =
            names.into_iter().map(|name| EvaluatorSpec::from_json(name, "{}")?.build(&build)).collect::<Result<Vec<_>>>()?;
        let inputs = EvaluationInputs { model: &evaluated, completions: &answers, judgements: &judgements, rewards: &rewards };
        pipeline::measure(&evaluators, &inputs, (&reference, &judge), ctx).map(|_| ())
    })?;
    let report = args.out.join("report.json");
    let reports = farmhand_analysis::read_reports(&report)?;
    if cli.json {
        return super::print_json(&reports);
    }
    let mut text = String::new();
    for metric in reports.iter().flat_map(|report| &report.metrics) {
        let error = metric.std_error.map(|error| format!(" ± {error:.3}")).unwrap_or_default();
        text += &format!("{:22} {:>12.3}{error} {} (n = {})\n", metric.name, metric.value, metric.unit, metric.n);
    }
    super::print(&text)
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
