//! The charts of judges.

use farmhand_core::types::HumanJudgement;
use farmhand_evaluators::judges::pairwise::PairwiseAgreement;
use farmhand_evaluators::judges::{JudgeReport, Verdicts, leanings};
use farmhand_evaluators::statistics::bootstrap::quantile;

use super::PEOPLE;
use crate::charts::{
    AgreementHeatMap, CostAgreement, CostPoint, LengthBin, LengthPreference, LengthSeries, NamedChart, PositionBias,
    PositionShare,
};

/// Bins of the chart of lengths at most, each with as many verdicts as the others.
const N_BINS: usize = 10;
/// Verdicts of a bin at least.
const LEAST_IN_BIN: usize = 20;

/// The charts that the judges allow: `agreement_heat_map`, `position_bias`, `length_preference`, `cost_agreement`. Only what was measured
/// without label noise is drawn.
///
/// # Errors
/// When a chart cannot be drawn, which no data causes.
pub fn judge_charts(
    verdicts: &Verdicts,
    reports: &[JudgeReport],
    pairwise: &[PairwiseAgreement],
) -> farmhand_core::Result<Vec<NamedChart>> {
    let reports: Vec<&JudgeReport> = reports.iter().filter(|report| report.noise == 0.0).collect();
    let mut charts = Vec::new();
    if !pairwise.is_empty() {
        charts.push(NamedChart::draw("agreement_heat_map", &heat_map(&verdicts.judges, pairwise))?);
    }
    let positions: Vec<PositionShare> = reports.iter().filter_map(|report| position(report)).collect();
    if !positions.is_empty() {
        charts.push(NamedChart::draw("position_bias", &PositionBias { judges: positions })?);
    }
    let series: Vec<LengthSeries> = reports.iter().filter_map(|report| lengths(verdicts, &report.judge)).collect();
    if !series.is_empty() {
        charts.push(NamedChart::draw("length_preference", &LengthPreference { judges: series })?);
    }
    let costs = CostAgreement::new(reports.iter().filter_map(|report| cost(report)));
    if !costs.is_empty() {
        charts.push(NamedChart::draw("cost_agreement", &costs)?);
    }
    Ok(charts)
}

fn heat_map(judges: &[String], pairwise: &[PairwiseAgreement]) -> AgreementHeatMap {
    let found = |one: &String, other: &String| {
        let of_two = pairwise.iter().find(|two| two.judges.contains(one) && two.judges.contains(other) && one != other);
        of_two.map(|two| two.agreement)
    };
    let agreement = judges.iter().map(|one| judges.iter().map(|other| found(one, other)).collect()).collect();
    AgreementHeatMap { judges: judges.to_vec(), agreement }
}

fn position(report: &JudgeReport) -> Option<PositionShare> {
    let metric = report.metric("prefers_first")?;
    Some(PositionShare { judge: report.judge.clone(), share: metric.value, interval: metric.interval })
}

/// The price of people is AlpacaFarm's, where their files tell none.
fn cost(report: &JudgeReport) -> Option<CostPoint> {
    let agreement = report.metric("agreement")?;
    let known = report.metric("price_per_1000").map(|metric| metric.value);
    let price = known.or((report.judge == PEOPLE).then_some(HumanJudgement::USD_PER_1000))?;
    Some(CostPoint { judge: report.judge.clone(), price, agreement: agreement.value, interval: agreement.interval })
}

/// A judge's verdicts by the difference of lengths, in bins of equal size.
fn lengths(verdicts: &Verdicts, judge: &str) -> Option<LengthSeries> {
    let judge_number = verdicts.judge(judge)?;
    let of = |verdict: &farmhand_evaluators::judges::Verdict| {
        let pair = &verdicts.pairs[verdict.pair];
        let [first, second] = pair.lengths;
        Some((second? as f64 - first? as f64, pair.instruction, 100.0 * verdict.p_second?))
    };
    let mut values: Vec<(f64, usize, f64)> = verdicts.of_judge(judge_number).filter_map(of).collect();
    values.sort_by(|one, other| one.0.total_cmp(&other.0));
    let n_bins = (values.len() / LEAST_IN_BIN).min(N_BINS);
    if n_bins < 2 {
        return None;
    }
    let sorted: Vec<f64> = values.iter().map(|value| value.0).collect();
    // Cut by the difference and not by the place, so that equal differences share a bin.
    let mut cuts: Vec<f64> = (1..n_bins).map(|bin| quantile(&sorted, bin as f64 / n_bins as f64)).collect();
    cuts.dedup();
    let bin_of = |difference: f64| cuts.partition_point(|cut| *cut < difference);
    let bins = values.chunk_by(|one, other| bin_of(one.0) == bin_of(other.0)).map(|bin| {
        let sums = leanings::weighted(bin.iter().map(|(_, instruction, preferred)| (*instruction, *preferred, 1.0)));
        let difference = bin.iter().map(|value| value.0).sum::<f64>() / bin.len() as f64;
        let interval = sums.mean_interval(400, farmhand_core::Seed::root(0));
        LengthBin { difference, preferred: sums.mean().unwrap_or(f64::NAN), interval }
    });
    Some(LengthSeries { judge: judge.to_owned(), bins: bins.collect() })
}
