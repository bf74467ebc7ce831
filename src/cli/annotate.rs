//! `farmhand annotate`: pairs of answers, samples to be paired, or two models head to head, judged.

use std::path::{Path, PathBuf};

use farmhand_annotators::alpaca_farm_pairs::{pair_in_order, pair_samples_as_alpaca_farm, pair_with_reference_as_alpaca_farm};
use farmhand_annotators::seeding::Seeding;
use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::component::find_component;
use farmhand_core::data::{self, PairsPerInstruction};
use farmhand_core::types::{Comparison, Completion, Judgement};
use farmhand_core::{AnnotatorSpec, BuildContext, Checkpoint, ComponentKind, Result, RunContext};
use serde_json::{Value, json};

use super::Terminal;
use super::args::{AnnotateArgs, Cli, FormatArg, SeedingArg};
use super::samples::{annotator_spec, print_files, to_json};
use super::stage_folder::{StageFolder, open_model, open_reward_model, refuse, session_for, with_scratch_stage};
use crate::cache_dir::cache_dir;
use crate::hub::Want;
use crate::pipeline::{self, AnnotationSummary, Session, note_left_out, read_options};

impl From<SeedingArg> for Seeding {
    fn from(arg: SeedingArg) -> Self {
        match arg {
            SeedingArg::Farmhand => Self::Farmhand,
            SeedingArg::AlpacaFarm => Self::AlpacaFarm,
            SeedingArg::AlpacaFarm01 => Self::AlpacaFarm01,
            SeedingArg::AlpacaEval => Self::AlpacaEval,
        }
    }
}

/// Whose draws pair the answers and toss the coins of label noise.
fn seeding(args: &AnnotateArgs) -> Seeding {
    args.seeding.map(Seeding::from).unwrap_or_default()
}

/// `farmhand annotate`.
pub(super) fn annotate(args: &AnnotateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let spec = with_noise(seeded_spec(args)?, args)?;
    let session = session_for(&args.out, &args.common, terminal)?;
    let model = args.judge.model.as_ref().map(|name| open_model(name, &args.common, &session)).transpose()?;
    let reward_model = open_reward_model(args.judge.reward_model.as_ref(), &session)?;
    let models: Vec<&Checkpoint> = model.iter().chain(&reward_model).collect();
    let files: Vec<&Path> =
        [&args.data, &args.samples, &args.outputs, &args.reference].into_iter().flatten().map(PathBuf::as_path).collect();
    let options = json!({
        "annotator": to_json(&spec),
        "pairs": [to_json(&seeding(args)), json!(args.seeding_seed), json!(args.all_pairs), json!(args.ordered)],
        "files": files.len(),
        "formats": args.format.iter().map(|format| file_of(*format)).collect::<Vec<_>>(),
    });
    if args.dry_run {
        return dry_run(args, &spec, (model.as_ref(), reward_model.as_ref()), &session, cli);
    }
    let folder = StageFolder::open("annotate", &args.out, &args.common, options, (&files, &models), session)?
        .with_budget(args.judge.budget)?;
    folder.work(|ctx, build| {
        let comparisons = comparisons(args, ctx)?;
        let build = BuildContext { policy: model.as_ref(), reward_model: reward_model.as_ref(), ..*build };
        let annotator = TieIfIdentical::build(&spec, &build)?;
        let judgements = pipeline::annotate(&*annotator, &comparisons, ctx)?;
        let summary = AnnotationSummary::of(&judgements);
        ctx.events.info(&format!(
            "  first {}, second {}, ties {}, repeated {}, noise {}",
            summary.n_first, summary.n_second, summary.n_ties, summary.n_repeated, summary.n_noised
        ));
        for format in &args.format {
            write_as(*format, &judgements, ctx)?;
        }
        pipeline::write_preferences(&judgements, ctx).map(|_| ())
    })?;
    let mut names = vec!["judgements.jsonl", "preferences.jsonl", "summary.json"];
    names.extend(args.format.iter().map(|format| file_of(*format)));
    print_files(&args.out, &names, cli)
}

/// What judging would take, from what the store knows and a guess at the rest.
fn dry_run(
    args: &AnnotateArgs,
    spec: &AnnotatorSpec,
    (policy, reward_model): (Option<&Checkpoint>, Option<&Checkpoint>),
    session: &Session,
    cli: &Cli,
) -> Result<()> {
    let forecast = with_scratch_stage(|stage| {
        let ctx = session.context(stage, StageFolder::seed_of(&args.common));
        let models = session.models(Want::Model);
        let cache_dir = cache_dir();
        let cache_dir = cache_dir.as_deref();
        let found = BuildContext { models: &models, cache_dir, ..BuildContext::new(ctx.device, Path::new(".")) };
        let build = BuildContext { policy, reward_model, ..found };
        let comparisons = comparisons(args, &ctx)?;
        pipeline::forecast(&*TieIfIdentical::build(spec, &build)?, &comparisons, &ctx)
    })?;
    if cli.json { super::print_json(&forecast) } else { super::print(&pipeline::describe_forecast(&forecast)) }
}

/// The annotator; its own draws are seeded as the command line says, if it does and `--set` does not say otherwise.
fn seeded_spec(args: &AnnotateArgs) -> Result<AnnotatorSpec> {
    let name = args.judge.annotator.as_str();
    let spec = annotator_spec(name, &args.common)?;
    let Some(seeding) = args.seeding.map(Seeding::from) else {
        return Ok(spec);
    };
    let defaults = find_component(ComponentKind::Annotator, name).map(|info| (info.defaults)()).unwrap_or_default();
    let defaults: Value = serde_json::from_str(&defaults).unwrap_or_default();
    let is_set = |key: &str| args.common.set.iter().any(|set| set.split('=').next().is_some_and(|path| path.trim() == key));
    let mut options = to_json(&spec)[name].take();
    let chosen = [("seeding", to_json(&seeding)), ("seeding_seed", json!(args.seeding_seed))];
    for (key, value) in chosen {
        if defaults.get(key).is_some() && !is_set(key) {
            options[key] = value;
        }
    }
    AnnotatorSpec::from_json(name, &options.to_string())
}

/// Label noise around the annotator, if asked for.
fn with_noise(spec: AnnotatorSpec, args: &AnnotateArgs) -> Result<AnnotatorSpec> {
    let Some(p) = args.noise else {
        return Ok(spec);
    };
    let options = json!({ "p": p, "seeding": seeding(args), "seeding_seed": args.seeding_seed, "inner": to_json(&spec) });
    let spec = AnnotatorSpec::from_json("label_noise", &options.to_string())?;
    refuse(&spec.problems(), ComponentKind::Annotator, "label_noise")?;
    Ok(spec)
}

/// The pairs to judge.
fn comparisons(args: &AnnotateArgs, ctx: &RunContext<'_>) -> Result<Vec<Comparison>> {
    let reading = read_options(args.common.skip_bad_records);
    let completions = |path: &Path| -> Result<Vec<Completion>> {
        let (completions, report) = data::read_completions(path, &reading)?;
        note_left_out(&report, ctx);
        Ok(completions)
    };
    let seeding = seeding(args);
    if let Some(path) = &args.samples {
        let samples = completions(path)?;
        let pairs = if args.all_pairs { PairsPerInstruction::All } else { PairsPerInstruction::One };
        let paired = match seeding {
            Seeding::Farmhand => data::pair_samples(&samples, pairs, ctx.seed),
            _ => pair_samples_as_alpaca_farm(&samples, pairs, seeding, args.seeding_seed),
        };
        if paired.n_identical + paired.n_unpaired > 0 {
            ctx.events.warn(&format!(
                "{} of {} answers read like another to the same instruction and are left out; {} instructions have one answer only",
                paired.n_identical,
                samples.len(),
                paired.n_unpaired
            ));
        }
        return Ok(paired.comparisons);
    }
    if let (Some(outputs), Some(reference)) = (&args.outputs, &args.reference) {
        let (answers, reference) = (completions(outputs)?, completions(reference)?);
        let paired = match seeding {
            _ if args.ordered => pair_in_order(&answers, &reference)?,
            Seeding::Farmhand => data::pair_with_reference(&answers, &reference)?,
            _ => pair_with_reference_as_alpaca_farm(&answers, &reference, seeding)?,
        };
        if (answers.len(), reference.len()) != (paired.comparisons.len(), paired.comparisons.len()) {
            ctx.events.warn(&format!(
                "{} answers and {} reference answers make {} pairs: {} answers are to instructions that the reference has not \
                 answered, and {} of the reference's instructions have no answer",
                answers.len(),
                reference.len(),
                paired.comparisons.len(),
                paired.n_without_reference,
                paired.n_without_answer
            ));
        }
        return Ok(paired.comparisons);
    }
    let path =
        args.data.as_ref().ok_or_else(|| farmhand_core::Error::missing_input("give `--data`, `--samples` or `--outputs`"))?;
    let (comparisons, report) = data::read_comparisons(path, &reading)?;
    note_left_out(&report, ctx);
    Ok(comparisons)
}

fn file_of(format: FormatArg) -> &'static str {
    match format {
        FormatArg::AlpacaEval => "annotations.json",
        FormatArg::AlpacaFarm => "preferences.json",
    }
}

fn write_as(format: FormatArg, judgements: &[Judgement], ctx: &RunContext<'_>) -> Result<()> {
    let path = ctx.stage.path().join(file_of(format));
    match format {
        FormatArg::AlpacaEval => data::write_alpaca_eval_annotations(&path, judgements),
        FormatArg::AlpacaFarm => {
            let left_out = data::write_alpaca_farm_preferences(&path, judgements)?;
            if left_out.n_ties + left_out.n_no_verdict > 0 {
                let (ties, failed) = (left_out.n_ties, left_out.n_no_verdict);
                ctx.events.warn(&format!("`preferences.json` leaves out {ties} ties and {failed} pairs without a verdict"));
            }
            Ok(())
        }
    }
}
