//! `farmhand evaluate --annotations`: a leaderboard out of files of judgements; `--from-weights`: out of saved fits.

use std::path::Path;
use std::time::Instant;

use farmhand_analysis::{
    ControlledLengths, DifficultySource, Duplicates, Join, Judge, JudgementTable, Leaderboard, LengthControl, Measure,
    OutputLengths, PublishedLengthControl, Standings, StandingsOptions, TableOptions, WeightTable, read_options,
};
use farmhand_core::run::write_atomic;
use farmhand_core::{Error, Event, EventSink, Result};
use farmhand_evaluators::length_controlled::ModelWeights;
use farmhand_evaluators::length_controlled::covariates::Covariate;
use serde_json::{Value, json};

use crate::cli::Terminal;
use crate::cli::args::{Cli, CovariateArg, DuplicatesArg, EvaluateArgs, JoinArg, LayoutArg, LeaderboardArgs, MetricArg};

/// Prints the leaderboard of files of judgements, or of a file of weights.
pub(super) fn leaderboard(args: &EvaluateArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let board = &args.leaderboard;
    if let Some(weights) = &board.from_weights {
        return from_weights(weights, board, cli);
    }
    refuse_judging(args)?;
    let options = options(args)?;
    let (table, outputs) = read(args, terminal)?;
    let started = Instant::now();
    let phase = || "length control".to_owned();
    let mut done = 0;
    let standings = Standings::of(&table, &outputs, &options, &mut |now, total| {
        if done == 0 {
            terminal.emit(Event::PhaseStarted { phase: phase(), total: Some(total as u64), unit: "models".to_owned() });
        }
        done = now;
        terminal.emit(Event::PhaseAdvanced { phase: phase(), done: now as u64 });
    })?;
    if done > 0 {
        terminal.emit(Event::PhaseFinished { phase: phase(), done: done as u64, secs: started.elapsed().as_secs_f64() });
    }
    tell(&standings, &outputs, terminal);
    if let (Some(path), Some(lengths)) = (&board.lc_weights, &standings.length_control) {
        save_weights(path, &standings.weights, lengths, terminal)?;
    }
    let document = document(&standings, &table)?;
    if let Some(out) = &args.out {
        write_files(out, &standings.leaderboard, &document)?;
    }
    let caption =
        format!("{} models against `{}`, judged by `{}`\n", standings.leaderboard.len(), standings.baseline, standings.annotator);
    print(&standings.leaderboard, &caption, &document, board.format, cli)
}

/// Options that say how answers are judged have no use where the judgements are there.
fn refuse_judging(args: &EvaluateArgs) -> Result<()> {
    let judge = &args.judge;
    let given = [
        ("--annotator", judge.annotator != "pool"),
        ("--model", judge.model.is_some()),
        ("--reward-model", judge.reward_model.is_some()),
        ("--budget", judge.budget.is_some()),
        ("--set", !args.common.set.is_empty()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((option, _)) => Err(Error::invalid_config(format!(
            "`{option}` says how answers are judged, but `--annotations` holds finished judgements"
        ))
        .with_hint("to judge answers, give `--outputs` with `--reference`; to choose among the judges of files, `--judge NAME`")),
    }
}

/// Prints every model of a file of weights against one of them.
fn from_weights(path: &Path, board: &LeaderboardArgs, cli: &Cli) -> Result<()> {
    let Some(folder) = &board.lc_data else {
        return Err(Error::missing_input("`--from-weights` needs `--lc-data`, the folder of the difficulties to average over"));
    };
    let (weights, published) = (WeightTable::read(path)?, PublishedLengthControl::read(folder)?);
    let baseline = match &board.baseline {
        Some(name) => name.clone(),
        None => reference(&weights)?,
    };
    let leaderboard = weights.leaderboard(&baseline, &published)?;
    let rows: Value = parsed(&leaderboard)?;
    let document = json!({ "baseline": baseline, "n_instructions": published.n_instructions(), "leaderboard": rows });
    let caption = format!("{} models against `{baseline}` at equal length\n", leaderboard.len());
    print(&leaderboard, &caption, &document, board.format, cli)
}

/// The one model whose weights are all 0: the baseline of the fits.
fn reference(weights: &WeightTable) -> Result<String> {
    let mut zeros = weights.models.iter().filter(|(_, weights)| *weights == ModelWeights::default());
    match (zeros.next(), zeros.next()) {
        (Some((name, _)), None) => Ok(name.clone()),
        _ => Err(Error::missing_input("the weights do not say whom to compare with").with_hint("name a model with `--baseline`")),
    }
}

fn options(args: &EvaluateArgs) -> Result<StandingsOptions> {
    let board = &args.leaderboard;
    let wants_control = board.metrics.contains(&MetricArg::LengthControlled)
        || board.metrics.is_empty() && (board.lc_data.is_some() || !board.lc_covariates.is_empty() || !board.lc_gamed.is_empty());
    if board.lc_weights.is_some() && !wants_control {
        return Err(Error::invalid_config("`--lc-weights` saves fits, but lengths are not controlled")
            .with_hint("add `--lc-data DIR`, or `--metrics length_controlled` to estimate difficulties"));
    }
    let mut measures: std::collections::BTreeSet<Measure> = board.metrics.iter().map(|metric| measure(*metric)).collect();
    if measures.is_empty() {
        measures = Measure::USUAL.into();
        measures.extend(wants_control.then_some(Measure::LengthControlled));
    }
    let length_control = if wants_control { Some(length_control(board)?) } else { None };
    Ok(StandingsOptions {
        judge: match board.judge.as_deref() {
            None => Judge::TheOnly,
            Some("all") => Judge::All,
            Some(name) => Judge::Named(name.to_owned()),
        },
        baseline: board.baseline.clone(),
        duplicates: match board.duplicates {
            DuplicatesArg::Refuse => Duplicates::Refuse,
            DuplicatesArg::First => Duplicates::First,
            DuplicatesArg::Last => Duplicates::Last,
            DuplicatesArg::All => Duplicates::All,
        },
        common_instructions: board.common_instructions,
        measures,
        length_control,
        rank_by: board.rank_by.clone(),
        n_resamples: board.resamples,
        seed: args.common.seed,
        power_for: board.power,
    })
}

fn length_control(board: &LeaderboardArgs) -> Result<LengthControl> {
    let covariate = |covariate: &CovariateArg| match covariate {
        CovariateArg::Lists => Covariate::Lists,
        CovariateArg::Markdown => Covariate::Markdown,
        CovariateArg::Language => Covariate::Language,
    };
    Ok(LengthControl {
        published: board.lc_data.as_deref().map(PublishedLengthControl::read).transpose()?,
        join: match board.lc_join {
            JoinArg::Instruction => Join::Instruction,
            JoinArg::Row => Join::Row,
        },
        gamed: board.lc_gamed.clone(),
        covariates: board.lc_covariates.iter().map(covariate).collect(),
    })
}

fn measure(metric: MetricArg) -> Measure {
    match metric {
        MetricArg::WinRate => Measure::WinRate,
        MetricArg::LengthControlled => Measure::LengthControlled,
        MetricArg::Discrete => Measure::Discrete,
        MetricArg::Counts => Measure::Counts,
        MetricArg::Totals => Measure::Totals,
        MetricArg::Length => Measure::Length,
        MetricArg::Above => Measure::Above,
        MetricArg::Elo => Measure::Elo,
        MetricArg::Detectable => Measure::Detectable,
        MetricArg::Cost => Measure::Cost,
        MetricArg::Datasets => Measure::Datasets,
    }
}

fn read(args: &EvaluateArgs, terminal: &Terminal) -> Result<(JudgementTable, OutputLengths)> {
    let files = &args.leaderboard.annotations;
    let options = TableOptions {
        bad_records: read_options(args.common.skip_bad_records).bad_records,
        texts: !args.leaderboard.lc_covariates.is_empty(),
    };
    let (started, phase) = (Instant::now(), || "read judgements".to_owned());
    terminal.emit(Event::PhaseStarted { phase: phase(), total: Some(files.len() as u64), unit: "files".to_owned() });
    let mut table = JudgementTable::default();
    for (i, file) in files.iter().enumerate() {
        table.read_file(file, &options)?;
        terminal.emit(Event::PhaseAdvanced { phase: phase(), done: i as u64 + 1 });
    }
    let secs = started.elapsed().as_secs_f64();
    terminal.emit(Event::PhaseFinished { phase: phase(), done: files.len() as u64, secs });
    Ok((table, OutputLengths::read(&args.outputs)?))
}

/// Says what was decided, and how lengths were controlled.
fn tell(standings: &Standings, outputs: &OutputLengths, terminal: &Terminal) {
    for decision in &standings.decisions {
        terminal.warn(&decision.message);
    }
    let judged = |model: &str| !standings.numbers(model).is_empty();
    let others: Vec<&str> = outputs.models().filter(|model| !judged(model)).collect();
    if !others.is_empty() && outputs.models().count() > 0 {
        terminal.note(&format!("answers of models without judgements are not used: `{}`", others.join("`, `")));
    }
    if let Some(lengths) = &standings.length_control {
        if let Some(misfit) = &lengths.misfit {
            terminal.warn(misfit);
        }
        let text = format!("length control: {}; {} rows tie the slopes down", lengths.how, lengths.n_regulariser);
        if lengths.source == DifficultySource::Published { terminal.note(&text) } else { terminal.warn(&text) }
    }
    if let Some(elo) = standings.baseline_elo {
        terminal.note(&format!("the baseline `{}` has {elo:.0} Elo points; the mean of all is 1000", standings.baseline));
    }
    if let Some(power) = &standings.power {
        terminal.note(&format!(
            "to see {} points between two of these models four times in five (5 % level, single differences vary by {:.1} points): \
             {} instructions; the {} they share show {:.1} points",
            power.difference, power.sd, power.n_instructions, power.n_shared, power.detectable
        ));
    }
}

/// Adds the weights to a file that may hold other models', and estimated difficulties beside it.
fn save_weights(path: &Path, weights: &WeightTable, lengths: &ControlledLengths, terminal: &Terminal) -> Result<()> {
    let mut all = if path.is_file() { WeightTable::read(path)? } else { WeightTable::default() };
    let n_before = all.models.len();
    all.extend(weights);
    let n_kept = all.models.len() - weights.models.len();
    all.write(path)?;
    if n_before > 0 {
        terminal.note(&format!("`{}`: {} models written, {n_kept} others kept", path.display(), weights.models.len()));
    }
    if lengths.source == DifficultySource::Estimated {
        let beside = path.with_file_name("instruction_difficulty.csv");
        lengths.write_difficulties(&beside)?;
        terminal.note(&format!("estimated difficulties: `{}`", beside.display()));
    }
    Ok(())
}

fn parsed(leaderboard: &Leaderboard) -> Result<Value> {
    serde_json::from_str(&leaderboard.json()).map_err(|error| Error::other("the leaderboard is not JSON").with_source(error))
}

/// Everything that is known, for scripts.
fn document(standings: &Standings, table: &JudgementTable) -> Result<Value> {
    let lengths = standings.length_control.as_ref().map(|lengths| {
        let weights: Vec<Value> = standings
            .weights
            .models
            .iter()
            .map(|(model, w)| {
                let covariates = standings.weights.covariates.get(model);
                json!({ "model": model, "length": w.length, "difficulty": w.difficulty, "own": w.model, "covariates": covariates })
            })
            .collect();
        json!({
            "difficulties": lengths.source, "how": lengths.how, "misfit": lengths.misfit, "n_regulariser": lengths.n_regulariser, "weights": weights,
        })
    });
    Ok(json!({
        "leaderboard": parsed(&standings.leaderboard)?,
        "annotator": standings.annotator,
        "baseline": standings.baseline,
        "decisions": standings.decisions,
        "files": table.files(),
        "length_control": lengths,
        "baseline_elo": standings.baseline_elo,
        "power": standings.power,
    }))
}

fn write_files(out: &Path, leaderboard: &Leaderboard, document: &Value) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|error| Error::io("make", out, error))?;
    let files = [
        ("leaderboard.csv", leaderboard.csv()?),
        ("leaderboard.json", format!("{document:#}\n")),
        ("leaderboard.md", leaderboard.markdown()),
    ];
    for (name, text) in files {
        let path = out.join(name);
        write_atomic(&path, |file| file.write_all(text.as_bytes()).map_err(|error| Error::io("write", &path, error)))?;
    }
    Ok(())
}

fn print(leaderboard: &Leaderboard, caption: &str, document: &Value, format: LayoutArg, cli: &Cli) -> Result<()> {
    if cli.json {
        return crate::cli::print_json(document);
    }
    match format {
        LayoutArg::Json => crate::cli::print_json(document),
        LayoutArg::Csv => crate::cli::print(&leaderboard.csv()?),
        LayoutArg::Md => crate::cli::print(&leaderboard.markdown()),
        LayoutArg::Table => crate::cli::print(&format!("{caption}\n{}", leaderboard.terminal())),
    }
}
