//! Win rate against a reference, exactly as AlpacaEval computes it.
//!
//! Each verdict is the probability p that the model's answer (the second one) is better: 1 a win, 0 a loss, ½ a tie,
//! anything between from a judge that grades. The win rate is 100 · mean(p) and its standard error
//! 100 · sd(p, divisor n − 1) / √n. Comparisons without a verdict are left out of every number and counted as `n_failed`.
//! Source: Dubois et al., 2023, AlpacaFarm, section 3, and the metrics of the `alpaca_eval` package, version 0.6.6.

use std::collections::BTreeSet;

use farmhand_core::types::{EvalReport, Judgement, Metric};
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, plain_metric};

register! {
    kind: Evaluator, name: "win_rate", config: WinRateConfig,
    summary: "how often a judge prefers the model's answers to the reference's",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[evaluator.win_rate]`: none.
///
/// Metrics: `win_rate` (%, with standard error and the normal 95 % interval cut to 0–100), `discrete_win_rate` (%, every
/// graded verdict taken as a whole win or loss, ties as half a win), `n_wins`, `n_wins_base`, `n_draws`, `n_total`,
/// `n_failed` (comparisons) and `avg_length` (characters of the model's answers, mean without its fraction).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WinRateConfig {}

#[typetag::serde(name = "win_rate")]
impl EvaluatorConfig for WinRateConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(WinRate))
    }
}

struct WinRate;

impl Evaluator for WinRate {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let p_wins = p_wins(inputs.judgements);
        let n_failed = inputs.judgements.len() - p_wins.len();
        let Some(mut metrics) = win_metrics(&p_wins) else {
            return Err(no_verdict(inputs));
        };
        metrics.push(plain_metric("n_failed", n_failed as f64, inputs.judgements.len(), "comparisons", Some(false)));
        let lengths = answer_lengths(inputs);
        let total: usize = lengths.iter().sum();
        metrics.push(plain_metric("avg_length", (total / lengths.len()) as f64, lengths.len(), "characters", None));
        Ok(EvalReport {
            model: inputs.model.to_owned(),
            reference: the_only(inputs.judgements.iter().filter_map(|judgement| judgement.comparison.generator_1.as_deref())),
            annotator: annotator(inputs.judgements),
            metrics,
        })
    }
}

/// The probability that the model's answer is better, of every comparison that has a verdict, in order.
pub fn p_wins(judgements: &[Judgement]) -> Vec<f64> {
    judgements.iter().filter_map(Judgement::preference).map(|preference| preference.p_second()).collect()
}

/// The metrics that follow from the verdicts alone; `None` without a verdict. `p_wins`: each in [0, 1].
pub fn win_metrics(p_wins: &[f64]) -> Option<Vec<Metric>> {
    let percents: Vec<f64> = p_wins.iter().map(|p| 100.0 * p).collect();
    let mut win_rate = Estimate::of_mean(&percents)?.metric("win_rate", "%", Some(true));
    win_rate.interval = win_rate.interval.map(|ends| ends.map(|end| end.clamp(0.0, 100.0)));
    let n = p_wins.len();
    let count = |keep: fn(&f64) -> bool| p_wins.iter().filter(|p| keep(p)).count() as f64;
    let (n_wins, n_wins_base, n_draws) = (count(|p| *p > 0.5), count(|p| *p < 0.5), count(|p| *p == 0.5));
    let discrete = 100.0 * (n_wins + 0.5 * n_draws) / n as f64;
    let tally = |name, value| plain_metric(name, value, n, "comparisons", None);
    Some(vec![
        win_rate,
        plain_metric("discrete_win_rate", discrete, n, "%", Some(true)),
        tally("n_wins", n_wins),
        tally("n_wins_base", n_wins_base),
        tally("n_draws", n_draws),
        tally("n_total", n as f64),
    ])
}

/// Characters (Unicode code points) of the model's answers: of all its completions when they are given, judged or not,
/// otherwise of the judged ones'.
fn answer_lengths(inputs: &EvaluationInputs<'_>) -> Vec<usize> {
    if inputs.completions.is_empty() {
        inputs.judgements.iter().map(|judgement| judgement.comparison.output_2.chars().count()).collect()
    } else {
        inputs.completions.iter().map(|completion| completion.output.chars().count()).collect()
    }
}

fn the_only<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: BTreeSet<&str> = names.collect();
    if names.len() == 1 { names.first().map(|name| (*name).to_owned()) } else { None }
}

/// The judge's name, or how many there were.
fn annotator(judgements: &[Judgement]) -> Option<String> {
    let names: BTreeSet<&str> = judgements.iter().filter_map(|j| j.annotation()).map(|a| a.annotator.as_str()).collect();
    match names.len() {
        0 => None,
        1 => names.first().map(|name| (*name).to_owned()),
        n => Some(format!("{n} annotators")),
    }
}

fn no_verdict(inputs: &EvaluationInputs<'_>) -> Error {
    let model = inputs.model;
    if inputs.judgements.is_empty() {
        return Error::missing_input(format!("no judgements of `{model}` to count"))
            .with_hint("annotate its answers against the reference's first");
    }
    Error::invalid_data(format!("none of the {} comparisons of `{model}` has a verdict", inputs.judgements.len()))
        .with_hint("the judgements file gives the reason of each failure")
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::{Annotation, Comparison, Instruction, Preference};

    fn judged(i: usize, verdict: Option<f64>) -> Judgement {
        let comparison = Comparison::new(Instruction::new(format!("Say {i}."), None), "ref", "äöüß").between("sft", "dpo");
        let result = verdict
            .ok_or_else(|| Error::other("no answer"))
            .and_then(Preference::from_code)
            .map(|preference| Annotation::new("judge", preference));
        Judgement::new(comparison, result)
    }

    fn evaluate(codes: &[Option<f64>]) -> Result<EvalReport> {
        let judgements: Vec<_> = codes.iter().enumerate().map(|(i, code)| judged(i, *code)).collect();
        WinRate.evaluate(&EvaluationInputs { model: "dpo", completions: &[], judgements: &judgements, rewards: &[] })
    }

    fn value(report: &EvalReport, name: &str) -> f64 {
        report.metric(name).expect(name).value
    }

    #[test]
    fn a_small_case_by_hand() {
        // p = 1, 0, ½ (code 0), ¾; the failed comparison is left out. Mean 0.5625; deviations
        // .4375, .5625, .0625, .1875: squares sum to .546875, variance .546875 / 3, over n = 4.
        let report = evaluate(&[Some(2.0), Some(1.0), Some(0.0), None, Some(1.75)]).expect("evaluated");
        let win_rate = report.metric("win_rate").expect("there");
        assert!((win_rate.value - 56.25).abs() < 1e-12);
        assert!((win_rate.std_error.expect("four") - 100.0 * (0.546_875_f64 / 12.0).sqrt()).abs() < 1e-12);
        let counts = ["n_wins", "n_wins_base", "n_draws", "n_total", "n_failed"].map(|name| value(&report, name));
        assert_eq!(counts, [2.0, 1.0, 1.0, 4.0, 1.0]);
        assert_eq!(value(&report, "discrete_win_rate"), 62.5);
        assert_eq!(value(&report, "avg_length"), 4.0);
        assert_eq!((report.reference.as_deref(), report.annotator.as_deref()), (Some("sft"), Some("judge")));
    }

    #[test]
    fn a_model_against_itself_draws_everything() {
        let report = evaluate(&[Some(1.5); 805]).expect("evaluated");
        let win_rate = report.metric("win_rate").expect("there");
        assert_eq!((win_rate.value, win_rate.std_error, win_rate.interval), (50.0, Some(0.0), Some([50.0, 50.0])));
        assert_eq!((value(&report, "n_draws"), value(&report, "discrete_win_rate")), (805.0, 50.0));
    }

    #[test]
    fn win_rates_of_a_over_b_and_b_over_a_sum_to_100() {
        let p_b = [0.0, 1.0, 0.5, 0.125, 0.875, 1.0, 0.3];
        let p_a = p_b.map(|p| 1.0 - p);
        let (b, a) = (win_metrics(&p_b).expect("some"), win_metrics(&p_a).expect("some"));
        for (b, a) in b.iter().zip(&a).take(2) {
            assert!((b.value + a.value - 100.0).abs() < 1e-12, "{}", b.name);
        }
        assert!((b[0].std_error.expect("some") - a[0].std_error.expect("some")).abs() < 1e-12);
        assert_eq!((b[2].value, b[3].value), (a[3].value, a[2].value));
    }

    #[test]
    fn the_interval_stays_within_0_and_100() {
        let report = evaluate(&[Some(2.0), Some(2.0), Some(2.0), Some(1.0)]).expect("evaluated");
        assert_eq!(report.metric("win_rate").expect("there").interval.map(|ends| ends[1]), Some(100.0));
    }

    #[test]
    fn no_verdict_is_an_error_and_not_a_win_rate() {
        assert_eq!(evaluate(&[]).expect_err("refused").kind(), farmhand_core::ErrorKind::MissingInput);
        assert_eq!(evaluate(&[None]).expect_err("refused").kind(), farmhand_core::ErrorKind::InvalidData);
    }
}
