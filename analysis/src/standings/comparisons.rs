//! Models against each other: each against the one above it, all of them on Elo's scale, and what a difference takes to be seen.

use std::collections::BTreeMap;

use farmhand_core::types::Metric;
use farmhand_core::{Result, Seed};
use farmhand_evaluators::estimate::plain_metric;
use farmhand_evaluators::statistics::bradley_terry::{Match, Strengths};
use farmhand_evaluators::statistics::multiple_comparisons::holm;
use farmhand_evaluators::statistics::{normal, paired, power};
use serde::Serialize;

use super::chosen::Chosen;
use crate::judgement_table::JudgementTable;

/// The level and the power that are meant where nothing else is said.
const ALPHA: f64 = 0.05;
const POWER: f64 = 0.8;

/// What counts for a model on each instruction, in percentage points.
#[derive(Debug, Clone, Default)]
pub(super) struct ByInstruction {
    /// Values by instruction, in the instructions' order; their mean is the model's number.
    values: Vec<(u32, f64)>,
    /// Whether they are influences around the number and not the numbers themselves.
    centred: Option<f64>,
}

impl ByInstruction {
    /// The verdicts of a model: on each instruction the mean of them.
    pub(super) fn verdicts(table: &JudgementTable, rows: &[usize]) -> Self {
        let mut sums = vec![(0.0, 0.0); table.instructions.len()];
        for row in rows.iter().filter(|row| !table.preference[**row].is_nan()) {
            let (sum, n) = &mut sums[table.instruction[*row] as usize];
            *sum += 100.0 * (table.preference[*row] - 1.0);
            *n += 1.0;
        }
        let means = (0..).zip(sums).filter(|(_, (_, n))| *n > 0.0).map(|(instruction, (sum, n))| (instruction, sum / n));
        Self { values: means.collect(), centred: None }
    }

    /// A number with the influences of its instructions on it.
    pub(super) fn influences(value: f64, influences: impl IntoIterator<Item = (u32, f64)>) -> Self {
        let mut values: BTreeMap<u32, f64> = BTreeMap::new();
        influences.into_iter().for_each(|(instruction, influence)| *values.entry(instruction).or_default() += influence);
        Self { values: values.into_iter().collect(), centred: Some(value) }
    }

    /// The pairs on the instructions that both have, in the instructions' order.
    fn pairs(&self, other: &Self) -> Vec<(f64, f64)> {
        let (mut pairs, mut rest) = (Vec::with_capacity(self.values.len().min(other.values.len())), other.values.as_slice());
        for (instruction, value) in &self.values {
            while let [(first, _), behind @ ..] = rest
                && first < instruction
            {
                rest = behind;
            }
            if let [(first, found), ..] = rest
                && first == instruction
            {
                pairs.push((*value, *found));
            }
        }
        pairs
    }
}

/// How two neighbours on a leaderboard differ.
#[derive(Debug, Clone, Copy)]
struct Difference {
    p_value: f64,
    /// Of single differences, in points; `None` of a single one.
    sd: Option<f64>,
    n: usize,
}

/// The difference of a model and the one above it; `None` without a shared instruction.
fn difference(upper: &ByInstruction, lower: &ByInstruction) -> Option<Difference> {
    let pairs = upper.pairs(lower);
    let n = pairs.len();
    if let (Some(high), Some(low)) = (upper.centred, lower.centred) {
        // A number is its mean plus the sum of influences: the variance of a difference is that of the summed differences.
        let squares: f64 = pairs.iter().map(|(a, b)| (a - b).powi(2)).sum();
        let error = (squares * n as f64 / (n as f64 - 1.0)).sqrt();
        let p_value = if n < 2 || high == low { 1.0 } else { normal::two_sided_p((high - low) / error) };
        return (n > 0).then_some(Difference { p_value, sd: (n > 1).then(|| error * (n as f64).sqrt()), n });
    }
    let found = paired::compare(&pairs, 0, Seed::root(0))?;
    let sd = found.std_error.map(|error| error * (n as f64).sqrt());
    Some(Difference { p_value: found.p_value, sd, n })
}

/// For each model of a leaderboard, the best first: the p value of no difference from the one above it, all of them corrected
/// together (Holm), and the smallest difference from it that so many instructions show; `[models]` of metrics.
pub(super) fn against_above(ranked: &[&ByInstruction]) -> Vec<Vec<Metric>> {
    let found: Vec<Option<Difference>> =
        (0..ranked.len()).map(|i| i.checked_sub(1).and_then(|above| difference(ranked[above], ranked[i]))).collect();
    let p_values: Vec<f64> = found.iter().flatten().map(|found| found.p_value).collect();
    let mut corrected = holm(&p_values).into_iter();
    let metrics = |found: &Option<Difference>| {
        let Some(Difference { sd, n, .. }) = found else { return Vec::new() };
        let p = plain_metric("p_above", corrected.next().unwrap_or(1.0), *n, "", None);
        let detectable = sd.and_then(|sd| power::detectable_difference(*n, sd, ALPHA, POWER));
        let detectable = detectable.map(|points| plain_metric("detectable_difference", points, *n, "points", None));
        std::iter::once(p).chain(detectable).collect()
    };
    found.iter().map(metrics).collect()
}

/// How many instructions a difference takes to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Power {
    /// The difference of two win rates, in percentage points.
    pub difference: f64,
    /// The standard deviation of the difference on one instruction, in points: the median over neighbouring models.
    pub sd: f64,
    /// The level of the two-sided test.
    pub alpha: f64,
    /// How likely the difference is to be seen.
    pub power: f64,
    /// The instructions it takes.
    pub n_instructions: usize,
    /// The smallest difference that this many instructions show, in points: as many as neighbouring models share.
    pub detectable: f64,
    /// How many those are: the median.
    pub n_shared: usize,
}

/// What it takes to see `points` between two models such as these; `None` when no two share two instructions.
pub(super) fn power_for(points: f64, ranked: &[&ByInstruction]) -> Option<Power> {
    let found: Vec<Difference> = ranked.windows(2).filter_map(|two| difference(two[0], two[1])).collect();
    let mut sds: Vec<f64> = found.iter().filter_map(|found| found.sd).filter(|sd| *sd > 0.0).collect();
    let mut counts: Vec<usize> = found.iter().map(|found| found.n).collect();
    sds.sort_by(f64::total_cmp);
    counts.sort_unstable();
    let (sd, n_shared) = (*sds.get(sds.len() / 2)?, *counts.get(counts.len() / 2)?);
    Some(Power {
        difference: points,
        sd,
        alpha: ALPHA,
        power: POWER,
        n_instructions: power::n_instructions(points, sd, ALPHA, POWER)?,
        detectable: power::detectable_difference(n_shared, sd, ALPHA, POWER)?,
        n_shared,
    })
}

/// Elo's points of each judged model with intervals, and the ranks it may have among them: `[models]` of metrics. And the
/// baseline's points, `None` where no verdict is against it.
///
/// # Errors
/// When the strengths cannot be fitted.
pub(super) fn elo(table: &JudgementTable, chosen: &Chosen) -> Result<(Vec<Vec<Metric>>, Option<f64>)> {
    let n = chosen.judged.len();
    let of_model = |name: &str| chosen.judged.iter().position(|one| table.models.name(one.model) == name);
    let own_place = of_model(&chosen.baseline);
    // The baseline plays too; where it is no judged model it stands behind them.
    let baseline = own_place.unwrap_or(n);
    let n_players = n + usize::from(own_place.is_none());
    let mut matches = Vec::new();
    for (second, one) in chosen.judged.iter().enumerate().filter(|(second, _)| *second != baseline) {
        let rows = one.rows.iter().filter(|row| !table.preference[**row].is_nan());
        matches.extend(rows.map(|row| Match {
            first: baseline,
            second,
            instruction: table.instruction[*row] as usize,
            p_second: table.preference[*row] - 1.0,
        }));
    }
    if matches.is_empty() {
        return Ok((vec![Vec::new(); n], None));
    }
    let strengths = Strengths::fit(n_players, &matches)?;
    let elo_of_baseline = strengths.places()[baseline].elo;
    let among_judged = Strengths {
        theta: strengths.theta[..n].to_vec(),
        covariance: (0..n).flat_map(|i| strengths.covariance[i * n_players..i * n_players + n].to_vec()).collect(),
    };
    let places = among_judged.places().into_iter().zip(&chosen.judged).map(|(place, one)| {
        let mut elo = plain_metric("elo", place.elo, one.rows.len(), "points", Some(true));
        elo.interval = Some(place.elo_interval);
        let [low, high] = place.rank_interval;
        vec![elo, plain_metric("rank_low", low as f64, n, "", None), plain_metric("rank_high", high as f64, n, "", None)]
    });
    Ok((places.collect(), Some(elo_of_baseline)))
}
