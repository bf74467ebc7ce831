//! The charts of a run, each with its file name and caption.

use std::collections::BTreeMap;

use farmhand_core::Result;

use crate::charts::{self, Chart, Curves, LengthPoint, LengthWinRate, Panel, Series, WinRateBar, WinRates};
use crate::html::escape;
use crate::leaderboard::Leaderboard;
use crate::repetitions::split_seed;
use crate::report::over_optimisation::OverOptimisation;
use crate::run_files::RunFiles;

/// The colour of what belongs to no evaluated model: the palette's grey.
const NEUTRAL: usize = 6;

/// Names of the scalar that is the reward an online method maximises, after the last `/`.
const REWARDS: [&str; 4] = ["reward", "mean_reward", "score", "mean_score"];

/// A chart, ready to be written and shown.
pub(super) struct Figure {
    /// File name without ending.
    pub(super) name: &'static str,
    /// What it shows, plain text.
    pub(super) caption: String,
    pub(super) svg: String,
    pub(super) png: Vec<u8>,
}

impl Figure {
    fn new<C: Chart>(name: &'static str, caption: impl Into<String>, chart: &C) -> Result<Self> {
        Ok(Self { name, caption: caption.into(), svg: charts::svg(chart)?, png: charts::png(chart)? })
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
pub(super) fn figures(run: &RunFiles, board: &Leaderboard, optimised: &OverOptimisation) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let rates = win_rates(run, board);
    if !rates.is_empty() {
        figures.push(Figure::new("win_rates", "Win rates with 95 % intervals. A tie counts as half a win.", &rates)?);
    }
    let lengths = lengths(run, board);
    if !lengths.is_empty() {
        let caption = "Mean answer length against win rate. Judges, simulated ones above all, tend to prefer longer answers: \
                       a model that lies far to the right may win by length.";
        figures.push(Figure::new("length_win_rate", caption, &lengths)?);
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
        figures.push(Figure::new("reward_kl", with_smoothing(caption, &online), &online)?);
    }
    let losses = losses(run);
    if !losses.is_empty() {
        figures.push(Figure::new("losses", with_smoothing("Training losses, step by step.", &losses), &losses)?);
    }
    Ok(figures)
}

fn with_smoothing(caption: &str, chart: &Curves) -> String {
    if chart.is_smoothed() { format!("{caption} Light: each step; dark: smoothed.") } else { caption.to_owned() }
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
        let (length, win_rate) = (board.number("avg_length", row)?, board.number("win_rate", row)?);
        Some(LengthPoint { colour: colour_of_model(run, &model), model, length, win_rate, interval })
    });
    LengthWinRate::new(points)
}

/// Reward and KL of every stage that recorded a KL.
fn reward_and_kl(run: &RunFiles) -> Curves {
    let online = |wanted: &[&str]| -> Vec<Series> {
        let stages = shown_stages(run).filter(|(_, scalars)| scalars.keys().any(|name| leaf(name) == "kl"));
        let lines = stages.filter_map(|(stage, scalars)| {
            let points = scalars.iter().find(|(name, _)| wanted.contains(&leaf(name)))?.1;
            Some(series(run, stage, points))
        });
        lines.collect()
    };
    let panel = |title: &str, y_label: &str, series| Panel {
        title: title.into(),
        y_label: y_label.into(),
        x_label: "Step".into(),
        series,
    };
    Curves::new([
        panel("Reward", "Mean reward", online(&REWARDS)),
        panel("Divergence from the reference policy", "KL (nats)", online(&["kl"])),
    ])
}

/// A panel for each stage that recorded a loss: training and, where there is one, validation.
fn losses(run: &RunFiles) -> Curves {
    let panels = shown_stages(run).filter_map(|(stage, scalars)| {
        let find = |wanted: &str| scalars.iter().find(|(name, _)| leaf(name) == wanted);
        let mut lines = vec![Series { label: "training".into(), ..series(run, stage, find("loss")?.1) }];
        if let Some((_, points)) = find("validation_loss") {
            lines.push(Series { label: "validation".into(), colour: 1, ..series(run, stage, points) });
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
        _ if reward_model_name(stage).is_some() => 2,
        _ => 3,
    }
}

fn series(run: &RunFiles, stage: &str, points: &BTreeMap<u64, f64>) -> Series {
    let method = method_of(stage);
    let colour = colour_of_model(run, method);
    Series { label: method.to_owned(), points: points.iter().map(|(step, value)| (*step as f64, *value)).collect(), colour }
}

fn colour_of_model(run: &RunFiles, name: &str) -> usize {
    run.by_method().iter().position(|method| method.name == name).unwrap_or(NEUTRAL)
}

fn method_of(stage: &str) -> &str {
    split_seed(stage.strip_prefix("learn-").unwrap_or(stage)).0
}

/// The stages that recorded something; of repetitions the first, for the others say the same with other noise.
fn shown_stages(run: &RunFiles) -> impl Iterator<Item = (&String, &BTreeMap<String, BTreeMap<u64, f64>>)> {
    let is_later = |stage: &str| {
        let (method, seed) = split_seed(stage);
        seed.is_some() && run.scalars.keys().any(|other| split_seed(other).0 == method && split_seed(other).1 < seed)
    };
    run.scalars.iter().filter(move |(stage, _)| !is_later(stage))
}

fn stage_title(stage: &str) -> String {
    match stage {
        "sft" => "Supervised fine-tuning".to_owned(),
        other => match reward_model_name(other) {
            Some("") => "Reward model".to_owned(),
            Some(name) => format!("Reward model `{name}`"),
            None => method_of(other).to_owned(),
        },
    }
}

/// The name of the reward model that a stage trains, empty for the one without.
fn reward_model_name(stage: &str) -> Option<&str> {
    let rest = stage.strip_prefix("reward-model")?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('-') }
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
            figures(run, board, &OverOptimisation::of(run, board))
                .expect("drawn")
                .iter()
                .map(|figure| figure.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&run, &board), ["win_rates", "length_win_rate", "reward_kl", "losses"]);
        run.scalars.remove("learn-ppo");
        assert_eq!(names(&run, &board), ["win_rates", "length_win_rate", "losses"]);
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
