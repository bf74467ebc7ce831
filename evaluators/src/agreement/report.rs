//! Everything there is to say about how far raters agree, at once: every two of them, all together, each against the others.

use farmhand_core::Seed;
use farmhand_core::types::{Judgement, Outcome};
use serde::Serialize;

use super::alpaca_eval::{self, Agreement, ScoringRule};
use super::cohen::{self, Weights};
use super::krippendorff::{self, Level};
use super::{Ratings, bootstrap, fleiss, gwet, raw};

/// How raters agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgreementReport {
    /// Comparisons; a second verdict of a rater on the same one makes another.
    pub n_comparisons: usize,
    /// Verdicts.
    pub n_verdicts: usize,
    /// Comparisons on which someone came to no verdict.
    pub n_failed: usize,
    /// Every two raters that share a comparison.
    pub pairs: Vec<PairAgreement>,
    /// All raters together.
    pub overall: Vec<Measure>,
    /// One rater's verdict against the others', as AlpacaEval measures it; nothing without comparisons with two verdicts.
    pub leave_one_out: Option<Agreement>,
    /// Each rater.
    pub raters: Vec<RaterReport>,
}

/// How two raters agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairAgreement {
    /// Their names.
    pub raters: [String; 2],
    /// Comparisons that both judged.
    pub n: usize,
    /// The share on which they say the same.
    pub agreement: f64,
    /// Cohen's κ; nothing where it is not defined.
    pub kappa: Option<f64>,
    /// κ with linear weights over first, tie, second.
    pub linear_kappa: Option<f64>,
    /// κ with quadratic weights.
    pub quadratic_kappa: Option<f64>,
}

/// One measure of all raters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measure {
    /// Its name.
    pub name: &'static str,
    /// Its value; nothing where it is not defined.
    pub value: Option<f64>,
    /// Its 95 % interval over resampled comparisons.
    pub interval: Option<[f64; 2]>,
}

/// One rater among the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RaterReport {
    /// The rater's name.
    pub name: String,
    /// Verdicts.
    pub n: usize,
    /// Share for the first answer.
    pub first: f64,
    /// Share of ties.
    pub tie: f64,
    /// Share for the second answer.
    pub second: f64,
    /// How many of the others say the same, the mean over comparisons that another judged; nothing without one.
    pub with_others: Option<f64>,
}

impl AgreementReport {
    /// Measures the agreement of everyone in `judgements`. Raw agreement, κ, AC1 and nominal α are of verdicts (first, tie, second),
    /// ordinal and interval α of grades. `n_resamples` of 0 leaves intervals out.
    pub fn of(judgements: &[Judgement], n_resamples: usize, seed: Seed) -> Self {
        let (verdicts, grades) = (Ratings::of_verdicts(judgements), Ratings::of_grades(judgements));
        let measure = |name, table: &Ratings, statistic: fn(&Ratings) -> Option<f64>| Measure {
            name,
            value: statistic(table),
            interval: bootstrap::interval(table, n_resamples, seed.child_text("agreement", name), statistic),
        };
        let overall = vec![
            measure("raw_agreement", &verdicts, raw::observed),
            measure("fleiss_kappa", &verdicts, fleiss::kappa),
            measure("krippendorff_alpha_nominal", &verdicts, |table| krippendorff::alpha(table, Level::Nominal)),
            measure("krippendorff_alpha_ordinal", &grades, |table| krippendorff::alpha(table, Level::Ordinal)),
            measure("krippendorff_alpha_interval", &grades, |table| krippendorff::alpha(table, Level::Interval)),
            measure("gwet_ac1", &verdicts, gwet::ac1),
        ];
        // Codes as AlpacaEval has them, in the order of the raters.
        let probabilities = Ratings::of(judgements, |annotation| Some(2.0 * annotation.preference.p_second() - 1.0));
        let codes: Vec<Vec<f64>> =
            probabilities.values.iter().map(|row| row.iter().flatten().map(|value| 1.5 + value / 2.0).collect()).collect();
        Self {
            n_comparisons: verdicts.values.len(),
            n_verdicts: verdicts.n_values(),
            n_failed: judgements.iter().filter(|judgement| matches!(judgement.outcome, Outcome::Failure(_))).count(),
            pairs: pairs(&verdicts),
            overall,
            leave_one_out: alpaca_eval::within(&codes, 1, None, ScoringRule::Absolute),
            raters: (0..verdicts.raters.len()).map(|rater| rater_report(&verdicts, rater)).collect(),
        }
    }
}

fn pairs(verdicts: &Ratings) -> Vec<PairAgreement> {
    let n = verdicts.raters.len();
    let both = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let of_pair = |(a, b): (usize, usize)| {
        let values = verdicts.pairs(a, b);
        let same = values.iter().filter(|(x, y)| x == y).count();
        (!values.is_empty()).then(|| PairAgreement {
            raters: [verdicts.raters[a].clone(), verdicts.raters[b].clone()],
            n: values.len(),
            agreement: same as f64 / values.len() as f64,
            kappa: cohen::kappa(&values, Weights::None),
            linear_kappa: cohen::kappa(&values, Weights::Linear),
            quadratic_kappa: cohen::kappa(&values, Weights::Quadratic),
        })
    };
    both.filter_map(of_pair).collect()
}

fn rater_report(verdicts: &Ratings, rater: usize) -> RaterReport {
    let own: Vec<f64> = verdicts.values.iter().filter_map(|row| row[rater]).collect();
    let share = |value: f64| own.iter().filter(|one| **one == value).count() as f64 / own.len() as f64;
    let same = |row: &Vec<Option<f64>>| {
        let own = row[rater]?;
        let others: Vec<f64> = row.iter().enumerate().filter(|(i, _)| *i != rater).filter_map(|(_, value)| *value).collect();
        (!others.is_empty()).then(|| others.iter().filter(|value| **value == own).count() as f64 / others.len() as f64)
    };
    let shares: Vec<f64> = verdicts.values.iter().filter_map(same).collect();
    RaterReport {
        name: verdicts.raters[rater].clone(),
        n: own.len(),
        first: share(-1.0),
        tie: share(0.0),
        second: share(1.0),
        with_others: (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::{Annotation, Comparison, Instruction, Preference};

    #[test]
    fn three_raters_and_four_comparisons_by_hand() {
        let (first, second, tie) = (Preference::First, Preference::Second, Preference::Tie);
        let table = [[first, first, first], [second, second, first], [tie, second, first], [first, first, second]];
        let judgement = |i: usize, rater: &str, preference| {
            let comparison = Comparison::new(Instruction::new(format!("{i}"), None), "a", "b");
            Judgement::new(comparison, Ok(Annotation::new(rater, preference)))
        };
        let judgements: Vec<Judgement> = table
            .iter()
            .enumerate()
            .flat_map(|(i, row)| ["ann", "bob", "cem"].into_iter().zip(row).map(move |(rater, p)| judgement(i, rater, *p)))
            .collect();
        let report = AgreementReport::of(&judgements, 50, Seed::root(0));
        assert_eq!((report.n_comparisons, report.n_verdicts, report.n_failed), (4, 12, 0));
        let agreements: Vec<f64> = report.pairs.iter().map(|pair| pair.agreement).collect();
        assert_eq!(agreements, [0.75, 0.25, 0.25]);
        // Pairs that agree: 3, 1, 0 and 1 of 3 each.
        assert!((report.overall[0].value.expect("defined") - 5.0 / 12.0).abs() < 1e-15);
        let [low, high] = report.overall[0].interval.expect("resampled");
        assert!(low < 5.0 / 12.0 && high > 5.0 / 12.0);
        let ann = &report.raters[0];
        assert_eq!((ann.n, ann.first, ann.tie, ann.second, ann.with_others), (4, 0.5, 0.25, 0.25, Some(0.5)));
        // Against the mode of the two others, of two the higher code: ann 1, 1, 0.5 (a tie against 2) and 0; bob 1, 1, 0.5, 0; cem
        // 1, 0, 0, 0.
        assert_eq!(report.leave_one_out.expect("defined").score, 0.5);
        assert!(AgreementReport::of(&[], 0, Seed::root(0)).leave_one_out.is_none());
    }
}
