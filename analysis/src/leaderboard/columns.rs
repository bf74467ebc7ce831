//! The columns of numbers of a leaderboard: their order, their headers, what of a report goes into which.

use std::collections::{BTreeMap, BTreeSet};

use farmhand_core::types::Metric;
use farmhand_evaluators::estimate::NORMAL_975;

use super::Entry;

/// The columns of numbers in the order in which they are shown; others follow in alphabetical order.
pub(super) const KNOWN_COLUMNS: [&str; 31] = [
    "win_rate",
    "standard_error",
    "interval_low",
    "interval_high",
    "length_controlled_winrate",
    "lc_standard_error",
    "length_controlled_winrate_low",
    "length_controlled_winrate_high",
    "lc_standard_error_with_estimation",
    "lc_c",
    "discrete_win_rate",
    "discrete_win_rate_low",
    "discrete_win_rate_high",
    "p_above",
    "detectable_difference",
    "elo",
    "elo_low",
    "elo_high",
    "rank_low",
    "rank_high",
    "n_wins",
    "n_wins_base",
    "n_draws",
    "n_total",
    "n_failed",
    "avg_length",
    "mean_reward",
    "price_per_1000",
    "secs_per_1000",
    "n_labels",
    "n_seeds",
];

/// Columns that stand in the cell of another one: upper ends, errors.
pub(super) const INSIDE_OTHERS: [&str; 8] = [
    "interval_high",
    "lc_standard_error",
    "lc_standard_error_with_estimation",
    "length_controlled_winrate_high",
    "discrete_win_rate_high",
    "elo_low",
    "elo_high",
    "rank_high",
];

/// Lower ends of intervals, their upper ends and the headers under which both are shown.
pub(super) const INTERVALS: [(&str, &str, &str); 4] = [
    ("interval_low", "interval_high", "95 % interval"),
    ("length_controlled_winrate_low", "length_controlled_winrate_high", "LC 95 % interval"),
    ("discrete_win_rate_low", "discrete_win_rate_high", "Discrete 95 %"),
    ("rank_low", "rank_high", "Ranks 95 %"),
];

/// Metrics whose own intervals get columns, beside the win rate's.
const WITH_INTERVALS: [&str; 3] = ["length_controlled_winrate", "discrete_win_rate", "elo"];

/// AlpacaEval's columns, in its order; a leaderboard file of ours starts with them.
pub(super) const ALPACA_EVAL_COLUMNS: [&str; 9] =
    ["win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode", "avg_length"];

/// The columns that AlpacaEval 2 adds behind them, where lengths are controlled.
pub(super) const ALPACA_EVAL_2_COLUMNS: [&str; 2] = ["length_controlled_winrate", "lc_standard_error"];

/// Whether a column holds whole numbers. AlpacaEval cuts the mean length to one.
pub(super) fn is_count(name: &str) -> bool {
    name.starts_with("n_") || ["avg_length", "rank", "rank_low", "rank_high"].contains(&name)
}

/// What stands above a column; `is_percent`: its metric is a percentage.
pub(super) fn header(name: &str, is_percent: bool) -> String {
    if let Some((_, _, header)) = INTERVALS.iter().find(|(low, ..)| *low == name) {
        return (*header).to_owned();
    }
    match name {
        "win_rate" => "Win rate (%)".to_owned(),
        "standard_error" => "SE".to_owned(),
        "length_controlled_winrate" => "LC win rate (%)".to_owned(),
        "discrete_win_rate" => "Discrete (%)".to_owned(),
        "p_above" => "p vs above".to_owned(),
        "detectable_difference" => "Detectable (points)".to_owned(),
        "lc_c" => "LC C".to_owned(),
        "n_wins" => "Wins".to_owned(),
        "n_wins_base" => "Losses".to_owned(),
        "n_draws" => "Ties".to_owned(),
        "n_total" => "n".to_owned(),
        "n_failed" => "Failed".to_owned(),
        "avg_length" => "Length (chars)".to_owned(),
        "n_labels" => "Labels".to_owned(),
        "n_seeds" => "Seeds".to_owned(),
        "price_per_1000" => "$ per 1,000".to_owned(),
        "secs_per_1000" => "s per 1,000".to_owned(),
        other => {
            let words = other.replace('_', " ");
            let mut letters = words.chars();
            let capital = letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default();
            if is_percent { format!("{capital} (%)") } else { capital }
        }
    }
}

/// The finite numbers of one entry by column name.
pub(super) fn numbers(entry: &Entry) -> BTreeMap<String, f64> {
    let mut row = BTreeMap::new();
    for metric in entry.reports.iter().flat_map(|report| &report.metrics) {
        if !metric.value.is_finite() || row.contains_key(&metric.name) {
            continue;
        }
        row.insert(metric.name.clone(), metric.value);
        if let Some(error) = metric.std_error.filter(|error| error.is_finite()) {
            row.insert(error_column(&metric.name), error);
        }
        if metric.name == "win_rate" {
            row.entry("n_total".to_owned()).or_insert(metric.n as f64);
            if let Some([low, high]) = interval(metric) {
                row.extend([("interval_low".to_owned(), low), ("interval_high".to_owned(), high)]);
            }
        } else if let Some([low, high]) = metric.interval.filter(|_| WITH_INTERVALS.contains(&metric.name.as_str())) {
            row.extend([(format!("{}_low", metric.name), low), (format!("{}_high", metric.name), high)]);
        }
    }
    // The number of verdicts as the evaluator counted them, if it did, wins over the win rate's own n.
    let counted = entry.reports.iter().find_map(|report| report.metric("n_total"));
    row.extend(counted.map(|metric| ("n_total".to_owned(), metric.value)));
    row
}

fn error_column(metric: &str) -> String {
    match metric {
        "win_rate" => "standard_error".to_owned(),
        "length_controlled_winrate" => "lc_standard_error".to_owned(),
        other => format!("{other}_standard_error"),
    }
}

/// The metric's 95 % interval; where the evaluator gave none, the normal one within 0 to 100 %.
pub(crate) fn interval(metric: &Metric) -> Option<[f64; 2]> {
    let finite = |ends: &[f64; 2]| ends.iter().all(|end| end.is_finite());
    metric.interval.filter(finite).or_else(|| {
        let half = NORMAL_975 * metric.std_error?;
        let ends =
            [metric.value - half, metric.value + half].map(|end| if metric.unit == "%" { end.clamp(0.0, 100.0) } else { end });
        finite(&ends).then_some(ends)
    })
}

/// The names of the number columns in order; `win_rate` is always there, so that a table can be sorted by it.
pub(super) fn number_columns(rows: &[BTreeMap<String, f64>]) -> Vec<String> {
    let mut names: BTreeSet<&str> = rows.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
    names.insert("win_rate");
    let position = |name: &str| KNOWN_COLUMNS.iter().position(|known| *known == name).unwrap_or(KNOWN_COLUMNS.len());
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| (position(name), *name));
    names.into_iter().map(str::to_owned).collect()
}
