//! `farmhand evaluate --outputs` and `--judgements`: a model's answers against the reference's.

use std::path::{Path, PathBuf};

use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::{BuildContext, Checkpoint, Error, EvaluationInputs, EvaluatorSpec, Result, data};
use serde_json::Value;

use crate::cli::Terminal;
use crate::cli::args::{Cli, EvaluateArgs};
use crate::cli::samples::{annotator_spec, to_json};
use crate::cli::stage_folder::{StageFolder, open_model, open_reward_model, session_for};
use crate::pipeline::{self, note_left_out, read_options};

/// Judges answers against the reference's, or takes finished judgements, and measures.
pub(super) fn answers(args: &EvaluateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let spec = annotator_spec(&args.judge.annotator, &args.common)?;
    let Some(out) = &args.out else {
        return Err(Error::missing_input("`--out` must name the folder to write to"));
    };
    let outputs = match args.outputs.as_slice() {
        [] => None,
        [one] => Some(one),
        several => {
            let message = format!("`--outputs` names {} files, but one model is judged at a time", several.len());
            return Err(Error::invalid_config(message)
                .with_hint("several files go with `--annotations`, whose models' answers they hold"));
        }
    };
    if outputs.is_some() != args.reference.is_some() {
        return Err(Error::missing_input("`--outputs` and `--reference` go together: answers, and those they are compared with"));
    }
    let session = session_for(out, &args.common, terminal)?;
    let model = args.judge.model.as_ref().map(|name| open_model(name, &args.common, &session)).transpose()?;
    let reward_model = open_reward_model(args.judge.reward_model.as_ref(), &session)?;
    let files: Vec<&Path> =
        [outputs, args.reference.as_ref(), args.judgements.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
    let models: Vec<&Checkpoint> = model.iter().chain(&reward_model).collect();
    let options = if args.judgements.is_some() { Value::Null } else { to_json(&spec) };
    let folder =
        StageFolder::open("evaluate", out, &args.common, options, (&files, &models), session)?.with_budget(args.judge.budget)?;
    folder.work(|ctx, build| {
        let reading = read_options(args.common.skip_bad_records);
        let build = BuildContext { policy: model.as_ref(), reward_model: reward_model.as_ref(), ..*build };
        let (judgements, answers) = match (outputs, &args.reference, &args.judgements) {
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
            _ => return Err(Error::missing_input("give `--outputs` with `--reference`, or `--judgements`")),
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
        let mut names = vec!["win_rate", "by_dataset"];
        names.extend(["length", "diversity", "refusal"].into_iter().filter(|_| !answers.is_empty()));
        names.extend((!rewards.is_empty()).then_some("mean_reward"));
        let evaluators =
            names.into_iter().map(|name| EvaluatorSpec::from_json(name, "{}")?.build(&build)).collect::<Result<Vec<_>>>()?;
        let inputs = EvaluationInputs { model: &evaluated, completions: &answers, judgements: &judgements, rewards: &rewards };
        pipeline::measure(&evaluators, &inputs, (&reference, &judge), ctx).map(|_| ())
    })?;
    let report = out.join("report.json");
    let reports = farmhand_analysis::read_reports(&report)?;
    if cli.json {
        return crate::cli::print_json(&reports);
    }
    let mut text = String::new();
    for metric in reports.iter().flat_map(|report| &report.metrics) {
        let error = metric.std_error.map(|error| format!(" ± {error:.3}")).unwrap_or_default();
        text += &format!("{:22} {:>12.3}{error} {} (n = {})\n", metric.name, metric.value, metric.unit, metric.n);
    }
    crate::cli::print(&text)
}
