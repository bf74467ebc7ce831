//! What is measured on one model of a leaderboard.

use std::collections::BTreeMap;

use farmhand_core::types::Metric;
use farmhand_evaluators::estimate::{Estimate, plain_metric};
use farmhand_evaluators::statistics::proportion::exact_interval;
use farmhand_evaluators::win_rate::win_metrics;

use super::chosen::Judged;
use crate::judgement_table::{JudgementTable, UNKNOWN};

/// The win rate with everything that follows from the verdicts: AlpacaEval's columns, the interval of resampled instructions, the
/// exact one of the discrete win rate.
pub(super) fn win_rates(table: &JudgementTable, one: &Judged, resampled: Option<[f64; 2]>) -> Vec<Metric> {
    let judged: Vec<usize> = one.rows.iter().copied().filter(|row| !table.preference[*row].is_nan()).collect();
    let p_wins: Vec<f64> = judged.iter().map(|row| table.preference[*row] - 1.0).collect();
    let mut metrics = win_metrics(&p_wins).unwrap_or_default();
    for metric in &mut metrics {
        match metric.name.as_str() {
            // Where nothing was resampled, the normal interval stays.
            "win_rate" => metric.interval = resampled.or(metric.interval),
            "discrete_win_rate" => metric.interval = discrete_interval(&p_wins, judged_once(table, &judged)),
            _ => {}
        }
    }
    let n_failed = one.rows.len() - judged.len();
    metrics.push(plain_metric("n_failed", n_failed as f64, one.rows.len(), "comparisons", Some(false)));
    metrics
}

/// Whether no two of these rows are on one instruction.
fn judged_once(table: &JudgementTable, rows: &[usize]) -> bool {
    let mut seen = vec![false; table.instructions.len()];
    rows.iter().all(|row| !std::mem::replace(&mut seen[table.instruction[*row] as usize], true))
}

/// The exact interval of the discrete win rate, in %. Ties are half a win, of which there is no exact distribution: the lower end
/// is that of the wins alone and the upper end that of wins and ties, which covers whatever way the ties might have gone. `None`
/// where an instruction was judged several times, since such verdicts are not independent.
fn discrete_interval(p_wins: &[f64], judged_once: bool) -> Option<[f64; 2]> {
    let n = p_wins.len();
    if n == 0 || !judged_once {
        return None;
    }
    let n_wins = p_wins.iter().filter(|p| **p > 0.5).count();
    let n_ties = p_wins.iter().filter(|p| **p == 0.5).count();
    let ([low, _], [_, high]) = (exact_interval(n_wins, n)?, exact_interval(n_wins + n_ties, n)?);
    Some([100.0 * low, 100.0 * high])
}

/// The mean length of the model's answers in characters, cut to a whole number: of the judged rows.
pub(super) fn judged_length(table: &JudgementTable, one: &Judged) -> Option<Metric> {
    let lengths = || one.rows.iter().map(|row| table.len_2[*row]);
    if one.rows.is_empty() || lengths().any(|length| length == UNKNOWN) {
        return None;
    }
    Some(mean_length(lengths().map(u64::from).sum(), one.rows.len()))
}

/// The mean of so many lengths, as AlpacaEval cuts it.
pub(super) fn mean_length(total: u64, n: usize) -> Metric {
    plain_metric("avg_length", (total / n as u64) as f64, n, "characters", None)
}

/// The mean price and time of a thousand judgements, where the files tell.
pub(super) fn costs(table: &JudgementTable, one: &Judged) -> Vec<Metric> {
    let mean = |column: &[f64], name: &str, unit: &str| {
        let known: Vec<f64> = one.rows.iter().map(|row| 1000.0 * column[*row]).filter(|value| !value.is_nan()).collect();
        Estimate::of_mean(&known).map(|estimate| plain_metric(name, estimate.mean, estimate.n, unit, None))
    };
    let price = mean(&table.price, "price_per_1000", "US dollars");
    price.into_iter().chain(mean(&table.time, "secs_per_1000", "s")).collect()
}

/// The win rate on each data set, in %, with its standard error and, where `resampled` has one, the interval of resampled
/// instructions.
pub(super) fn by_dataset(table: &JudgementTable, one: &Judged, resampled: impl Fn(u32) -> Option<[f64; 2]>) -> Vec<Metric> {
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); table.datasets.len()];
    for row in one.rows.iter().filter(|row| !table.preference[**row].is_nan()) {
        if let Some(dataset) = table.dataset_of(table.instruction[*row]) {
            values[dataset as usize].push(100.0 * (table.preference[*row] - 1.0));
        }
    }
    let metric = |(dataset, values): (u32, &Vec<f64>)| {
        let name = table.datasets.name(dataset);
        let mut metric = Estimate::of_mean(values)?.metric(&format!("win_rate_{name}"), "%", Some(true));
        metric.interval = resampled(dataset).or(metric.interval);
        Some((name, metric))
    };
    let by_name: BTreeMap<&str, Metric> = (0..).zip(&values).filter_map(metric).collect();
    by_name.into_values().collect()
}
