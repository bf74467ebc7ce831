//! The charts of a run, each with its file name and caption.

use std::collections::BTreeMap;

use farmhand_core::Result;

use crate::charts::{self, Chart, Curves, LengthPoint, LengthWinRate, Panel, Series, WinRateBar, WinRates};
use crate::html::escape;
use crate::leaderboard::Leaderboard;
use crate::repetitions::split_seed;
use crate::report::{Part, length_controlled, rewards};
use crate::run_files::{AnswerScores, RunFiles, trained_reward_model};

/// The colour of what belongs to no evaluated model: the palette's grey.
const NEUTRAL: usize = 6;

/// Names of the scalar that is the reward an online method maximises, after the last `/`.
const REWARDS: [&str; 4] = ["reward", "mean_reward", "score", "mean_score"];

/// A chart, ready to be written and shown.
pub(super) struct Figure {
    /// File name without ending.
    pub(super) name: String,
    /// What it shows, plain text.
    pub(super) caption: String,
    pub(super) svg: String,
    pub(super) png: Vec<u8>,
}

impl Figure {
    fn new<C: Chart>(name: &str, caption: impl Into<String>, chart: &C) -> Result<Self> {
        Ok(Self { name: name.to_owned(), caption: caption.into(), svg: charts::svg(chart)?, png: charts::png(chart)? })
    }

    /// The chart inside the page.
    pub(super) fn html(&self) -> String {
        let caption = escape(&self.caption);
        let svg = self.svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{caption}\" "), 1);
        format!("<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>\n")
    }
}

/// The charts for which the run has data.
///
/// # Errors
/// When one cannot be drawn.
pub(super) fn figures(part: &Part) -> Result<Vec<Figure>> {
    let Part { run, board, optimised, by_dataset, ranks, .. } = part;
    let mut figures = Vec::new();
    let rates = win_rates(run, board);
    if !rates.is_empty() {
        figures.push(Figure::new("win_rates", "Win rates with 95 % intervals. A tie counts as half a win.", &rates)?);
    }
    let ranks = ranks.chart();
    if !ranks.is_empty() {
        let caption = "How sure the places on the leaderboard are: 95 % intervals of each model's place when the instructions, and the \
                       seeds of each method, are drawn anew 1,000 times.";
        figures.push(Figure::new("ranks", caption, &ranks)?);
    }
    let lengths = lengths(run, board);
    if !lengths.is_empty() {
        let caption = "Mean answer length against win rate. Judges, simulated ones above all, tend to prefer longer answers: \
                       a model that lies far to the right may win by length.";
        figures.push(Figure::new("length_win_rate", caption, &lengths)?);
    }
    let controlled = length_controlled::chart(run, board);
    if !controlled.is_empty() {
        let caption = "Win rates as judged and what they would be if both answers were equally long (Dubois et al., 2024), with 95 % \
                       intervals that count instructions and the regression. In brackets: the change, in points.";
        figures.push(Figure::new("length_controlled", caption, &controlled)?);
    }
    if !by_dataset.is_empty() {
        let caption =
            "Win rates on the instructions of each source. Blue: more often preferred than the reference; orange: less often.";
        figures.push(Figure::new("by_dataset", caption, &by_dataset.chart())?);
    }
    for (name, chart) in rewards::by_reward_model(run, board) {
        let file = if name == AnswerScores::REWARD_MODEL { "rewards".to_owned() } else { format!("rewards_{name}") };
        let caption = "How the rewards of the answers are spread, from the best win rate down: equal areas, the median marked.";
        figures.push(Figure::new(&file, caption, &chart)?);
    }
    let judged = rewards::by_judges(run, board);
    if !judged.is_empty() {
        let caption =
            "How the judges' scores of the answers are spread, from the best win rate down: equal areas, the median marked.";
        figures.push(Figure::new("judges_scores", caption, &judged)?);
    }
    let optimised = optimised.chart();
    if !optimised.is_empty() {
        let caption = "Proxy (the reward model that is optimised) and gold (the judge of the evaluation) against the divergence from the \
                       start. Where the proxy still rises and the gold falls, the reward model's mistakes are exploited. The divergence \
                       of best-of-n is its bound ln n − (n − 1)/n, a learner's the one that it recorded.";
        figures.push(Figure::new("over_optimisation", caption, &optimised)?);
    }
    let online = reward_and_kl(run);
    if !online.is_empty() {
        let caption = "Reward that the method maximises and divergence from the reference policy, over its steps.";
        figures.push(Figure::new("reward_kl", with_legend(caption, &online), &online)?);
    }
    let losses = losses(run);
    if !losses.is_empty() {
        figures.push(Figure::new("losses", with_legend("Training losses, step by step.", &losses), &losses)?);
    }
    Ok(figures)
}

/// The chart that several runs have in common: their win rates.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn of_runs(runs: &[Part], board: &Leaderboard) -> Result<Vec<Figure>> {
    let bars = (0..board.len()).filter_map(|row| {
        let (model, run) = (board.text("model", row)?, board.text("run", row)?);
        let interval = board.number("interval_low", row).zip(board.number("interval_high", row)).map(<[f64; 2]>::from);
        let colour = runs.iter().position(|part| part.run.name == run).unwrap_or(NEUTRAL);
        Some(WinRateBar { model: format!("{model} ({run})"), win_rate: board.number("win_rate", row)?, interval, colour })
    });
    let mut references: Vec<&str> = runs.iter().flat_map(|part| &part.run.models).filter_map(|model| model.reference()).collect();
    references.sort_unstable();
    references.dedup();
    let reference = if let [only] = references.as_slice() { Some((*only).to_owned()) } else { None };
    let rates = WinRates::new(bars, reference);
    if rates.is_empty() {
        return Ok(Vec::new());
    }
    let caption = "Win rates of all runs with 95 % intervals; a colour a run. A tie counts as half a win.";
    Ok(vec![Figure::new("win_rates", caption, &rates)?])
}

fn with_legend(caption: &str, chart: &Curves) -> String {
    let mut text = caption.to_owned();
    if chart.has_bands() {
        text.push_str(" Lines are means over the seeds, bands their 95 % intervals by Student's t; few seeds have wide ones.");
    }
    match (chart.is_smoothed(), chart.has_bands()) {
        (true, true) => text.push_str(" Long lines are smoothed."),
        (true, false) => text.push_str(" Light: each step; dark: smoothed."),
        _ => {}
    }
    text
}

fn win_rates(run: &RunFiles, board: &Leaderboard) -> WinRates {
    let bars = (0..board.len()).filter_map(|row| {
        let model = board.text("model", row)?.to_owned();
        let interval = board.number("interval_low", row).zip(board.number("interval_high", row)).map(<[f64; 2]>::from);
        Some(WinRateBar { colour: colour_of_model(run, &model), win_rate: board.number("win_rate", row)?, model, interval })
    });
    let mut references: Vec<&str> = run.models.iter().filter_map(|model| model.reference()).collect();
    references.dedup();
    let reference = if let [only] = references.as_slice() { Some((*only).to_owned()) } else { None };
    WinRates::new(bars, reference)
}

fn lengths(run: &RunFiles, board: &Leaderboard) -> LengthWinRate {
    let points = (0..board.len()).filter_map(|row| {
        let model = board.text("model", row)?.to_owned();
        let interval = board.number("interval_low", row).zip(board.number("interval_high", row)).map(<[f64; 2]>::from);
        // AlpacaEval's mean length is cut to a whole number, which lays short answers on top of one another.
        let length = board.number("mean_characters", row).or(board.number("avg_length", row))?;
        let win_rate = board.number("win_rate", row)?;
        Some(LengthPoint { colour: colour_of_model(run, &model), model, length, win_rate, interval })
    });
    LengthWinRate::new(points)
}

/// Lines of one panel at most; more have a panel each, for colours and lengths of training are then too many to tell apart.
const MAX_LINES: usize = 5;

/// Reward and KL of every method that recorded a KL.
fn reward_and_kl(run: &RunFiles) -> Curves {
    let online = |wanted: &[&str]| -> Vec<Series> {
        let methods = recorded(run).into_iter().filter(|(_, seeds)| seeds.iter().all(|scalars| find(scalars, &["kl"]).is_some()));
        methods.filter_map(|(stage, seeds)| series(run, stage, &seeds, wanted)).collect()
    };
    let panel = |title: &str, y_label: &str, series| Panel {
        title: title.into(),
        y_label: y_label.into(),
        x_label: "Step".into(),
        series,
    };
    let (rewards, divergences) = (online(&REWARDS), online(&["kl"]));
    if rewards.len().max(divergences.len()) <= MAX_LINES {
        return Curves::new([
            panel("Reward", "Mean reward", rewards),
            panel("Divergence from the reference policy", "KL (nats)", divergences),
        ]);
    }
    let each = |what: &str, y_label: &str, lines: Vec<Series>| {
        let one = |line: Series| panel(&format!("{}: {what}", line.label), y_label, vec![line]);
        lines.into_iter().map(one).collect::<Vec<Panel>>()
    };
    Curves::new(each("reward", "Mean reward", rewards).into_iter().chain(each("divergence", "KL (nats)", divergences)))
}

/// A panel for each stage that recorded a loss: training and, where there is one, validation.
fn losses(run: &RunFiles) -> Curves {
    let panels = recorded(run).into_iter().filter_map(|(stage, seeds)| {
        let mut lines = vec![Series { label: "training".into(), ..series(run, stage, &seeds, &["loss"])? }];
        if let Some(validation) = series(run, stage, &seeds, &["validation_loss"]) {
            lines.push(Series { label: "validation".into(), colour: 1, ..validation });
            lines[0].colour = 0;
        }
        let panel = Panel { title: stage_title(stage), y_label: "Loss".into(), x_label: "Step".into(), series: lines };
        Some((order(stage), panel))
    });
    let mut panels: Vec<(usize, Panel)> = panels.collect();
    panels.sort_by_key(|(order, _)| *order);
    Curves::new(panels.into_iter().map(|(_, panel)| panel))
}

/// Stages in the order in which they run; the methods among themselves by name.
fn order(stage: &str) -> usize {
    match stage {
        "base" => 0,
        "sft" => 1,
        _ if trained_reward_model(stage).is_some() => 2,
        _ => 3,
    }
}

/// The scalars of one repetition of a stage.
type StageScalars = BTreeMap<String, BTreeMap<u64, f64>>;

/// The stages that recorded something, by name without the seed, each with its repetitions in the order of their seeds.
fn recorded(run: &RunFiles) -> BTreeMap<&str, Vec<&StageScalars>> {
    let mut stages: BTreeMap<&str, Vec<(Option<u64>, &StageScalars)>> = BTreeMap::new();
    for (stage, scalars) in &run.scalars {
        let (name, seed) = split_seed(stage);
        stages.entry(name).or_default().push((seed, scalars));
    }
    let in_order = |mut seeds: Vec<(Option<u64>, _)>| {
        seeds.sort_by_key(|(seed, _)| *seed);
        seeds.into_iter().map(|(_, scalars)| scalars).collect()
    };
    stages.into_iter().map(|(name, seeds)| (name, in_order(seeds))).collect()
}

/// The scalar whose name ends in one of these.
fn find<'a>(scalars: &'a StageScalars, wanted: &[&str]) -> Option<&'a BTreeMap<u64, f64>> {
    scalars.iter().find(|(name, _)| wanted.contains(&leaf(name))).map(|(_, points)| points)
}

/// The mean over the repetitions of a stage, with its band; `None` where one of them has no such number.
fn series(run: &RunFiles, stage: &str, seeds: &[&StageScalars], wanted: &[&str]) -> Option<Series> {
    let method = method_of(stage);
    let line =
        |scalars: &&StageScalars| Some(find(scalars, wanted)?.iter().map(|(step, value)| (*step as f64, *value)).collect());
    let lines: Vec<Vec<(f64, f64)>> = seeds.iter().map(line).collect::<Option<_>>()?;
    Some(Series::over_seeds(method, &lines, colour_of_model(run, method)))
}

/// The place of a model among the run's, which gives its colour in every chart.
pub(super) fn colour_of_model(run: &RunFiles, name: &str) -> usize {
    run.by_method().iter().position(|method| method.name == name).unwrap_or(NEUTRAL)
}

fn method_of(stage: &str) -> &str {
    stage.strip_prefix("learn-").unwrap_or(stage)
}

fn stage_title(stage: &str) -> String {
    match stage {
        "sft" => "Supervised fine-tuning".to_owned(),
        other => match trained_reward_model(other) {
            Some(None) => "Reward model".to_owned(),
            Some(Some(name)) => format!("Reward model `{name}`"),
            None => method_of(other).to_owned(),
        },
    }
}

/// What comes after the last `/` of a scalar's name.
fn leaf(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_run_has_the_charts_its_data_allows() {
        let dir = fixture::run();
        let mut run = RunFiles::read(dir.path()).expect("read");
        let board = Leaderboard::load(&[dir.path()]).expect("loaded");
        let names = |run: &RunFiles, board: &Leaderboard| {
            let part = Part::with_board(run.clone(), board.clone());
            figures(&part).expect("drawn").into_iter().map(|figure| figure.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&run, &board), ["win_rates", "ranks", "length_win_rate", "reward_kl", "losses"]);
        run.scalars.remove("learn-ppo");
        assert_eq!(names(&run, &board), ["win_rates", "ranks", "length_win_rate", "losses"]);
        run.scalars.clear();
        assert!(names(&run, &Leaderboard::from_entries(&[]).expect("made")).is_empty());
    }

    #[test]
    fn only_numbers_that_a_repeated_run_repeats_are_drawn() {
        let dir = fixture::run();
        let run = RunFiles::read(dir.path()).expect("read");
        let svg = charts::svg(&losses(&run)).expect("drawn");
        assert!(!svg.contains("tokens") && !svg.contains("second"), "speeds differ from run to run");
    }
}
