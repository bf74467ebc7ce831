//! The win rate on each data set that the instructions come from.
//!
//! AlpacaFarm's 805 instructions come from five sources (self-instruct, open-assistant, helpful-base, Koala, Vicuna); a model may
//! win on one and lose on another (Dubois et al., 2023, section 3).

use std::collections::BTreeMap;

use farmhand_core::types::EvalReport;
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, plain_metric};

register! {
    kind: Evaluator, name: "by_dataset", config: ByDatasetConfig,
    summary: "win rate on each data set that the instructions come from",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[evaluator.by_dataset]`: none.
///
/// Metrics: `n_datasets`, and where there is more than one `win_rate/NAME` for each (%, with standard error and the normal 95 %
/// interval cut to 0–100; n is the number of its verdicts). Instructions that name none are together `win_rate/other`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ByDatasetConfig {}

#[typetag::serde(name = "by_dataset")]
impl EvaluatorConfig for ByDatasetConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(ByDataset))
    }
}

/// What instructions without a data set stand under.
pub const OTHER: &str = "other";

struct ByDataset;

impl Evaluator for ByDataset {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let mut percents: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for judgement in inputs.judgements {
            if let Some(preference) = judgement.preference() {
                let dataset = judgement.comparison.instruction.dataset.as_deref().unwrap_or(OTHER);
                percents.entry(dataset).or_default().push(100.0 * preference.p_second());
            }
        }
        let n: usize = percents.values().map(Vec::len).sum();
        if n == 0 {
            return Err(Error::missing_input(format!("no verdict on an answer of `{}`", inputs.model)));
        }
        let mut metrics = vec![plain_metric("n_datasets", percents.len() as f64, n, "data sets", None)];
        let rate = |(dataset, percents): (&&str, &Vec<f64>)| {
            let mut rate = Estimate::of_mean(percents)?.metric(&format!("win_rate/{dataset}"), "%", Some(true));
            rate.interval = rate.interval.map(|ends| ends.map(|end| end.clamp(0.0, 100.0)));
            Some(rate)
        };
        if percents.len() > 1 {
            metrics.extend(percents.iter().filter_map(rate));
        }
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::{Annotation, Comparison, Instruction, Judgement, Preference};

    fn judged(i: usize, dataset: Option<&str>, p: Option<f64>) -> Judgement {
        let mut instruction = Instruction::new(format!("Say {i}."), None);
        instruction.dataset = dataset.map(str::to_owned);
        let verdict = p.ok_or_else(|| Error::other("no answer")).and_then(Preference::from_p_second);
        Judgement::new(Comparison::new(instruction, "a", "b"), verdict.map(|preference| Annotation::new("judge", preference)))
    }

    fn report(judgements: &[Judgement]) -> Result<EvalReport> {
        ByDataset.evaluate(&EvaluationInputs { model: "dpo", completions: &[], judgements, rewards: &[] })
    }

    #[test]
    fn each_source_has_its_rate_and_the_unnamed_are_together() {
        let judgements = [
            judged(0, Some("koala"), Some(1.0)),
            judged(1, Some("koala"), Some(0.0)),
            judged(2, Some("vicuna"), Some(1.0)),
            judged(3, None, Some(0.5)),
            judged(4, Some("koala"), None),
        ];
        let report = report(&judgements).expect("evaluated");
        let names: Vec<_> = report.metrics.iter().map(|metric| (metric.name.as_str(), metric.value, metric.n)).collect();
        let expected =
            [("n_datasets", 3.0, 4), ("win_rate/koala", 50.0, 2), ("win_rate/other", 50.0, 1), ("win_rate/vicuna", 100.0, 1)];
        assert_eq!(names, expected);
        assert_eq!(report.metric("win_rate/vicuna").expect("there").std_error, None);
    }

    #[test]
    fn one_source_is_not_broken_down_and_no_verdict_is_an_error() {
        let report_of_one = report(&[judged(0, None, Some(1.0)), judged(1, None, Some(0.0))]).expect("evaluated");
        assert_eq!(report_of_one.metrics.len(), 1);
        assert_eq!(report(&[judged(0, None, None)]).expect_err("refused").kind(), farmhand_core::ErrorKind::MissingInput);
    }
}
