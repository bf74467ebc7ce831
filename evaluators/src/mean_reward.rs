//! The mean of a reward model's scores of the model's answers.
//!
//! The reward a learner climbed is a proxy: read it beside a win rate to see over-optimisation (Gao et al., 2022).

use farmhand_core::types::EvalReport;
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::Estimate;

register! {
    kind: Evaluator, name: "mean_reward", config: MeanRewardConfig,
    summary: "mean score of a reward model, with standard error",
    paper: "https://arxiv.org/abs/2210.10760",
}

/// Options of `[evaluator.mean_reward]`: none.
///
/// Metric: `mean_reward` (in the reward model's own unit), with standard error and the normal 95 % interval.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeanRewardConfig {}

#[typetag::serde(name = "mean_reward")]
impl EvaluatorConfig for MeanRewardConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(MeanReward))
    }
}

/// Averages the rewards it is given.
#[derive(Debug, Clone, Copy)]
pub struct MeanReward;

impl Evaluator for MeanReward {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let EvaluationInputs { model, completions, rewards, .. } = inputs;
        if !completions.is_empty() && !rewards.is_empty() && completions.len() != rewards.len() {
            let (n, m) = (rewards.len(), completions.len());
            return Err(Error::invalid_data(format!("expected one reward for each of the {m} answers of `{model}`, got {n}")));
        }
        if let Some(i) = rewards.iter().position(|reward| !reward.is_finite()) {
            return Err(Error::non_finite(format!("reward {} of `{model}` is {}", i + 1, rewards[i])));
        }
        let Some(mean) = Estimate::of_mean(rewards) else {
            return Err(Error::missing_input(format!("no rewards of `{model}` to average"))
                .with_hint("score its answers with a reward model first"));
        };
        let metrics = vec![mean.metric("mean_reward", "", Some(true))];
        Ok(EvalReport { model: (*model).to_owned(), reference: None, annotator: None, metrics })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::ErrorKind;

    fn evaluate(rewards: &[f64]) -> Result<EvalReport> {
        MeanReward.evaluate(&EvaluationInputs { model: "ppo", completions: &[], judgements: &[], rewards })
    }

    #[test]
    fn the_mean_comes_with_its_standard_error() {
        let report = evaluate(&[-1.0, 0.0, 4.0]).expect("evaluated");
        let metric = report.metric("mean_reward").expect("there");
        // Deviations −2, −1, 3: variance 14 / 2, over n = 3.
        assert_eq!((metric.value, metric.n), (1.0, 3));
        assert!((metric.std_error.expect("three") - (7.0_f64 / 3.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn missing_and_broken_rewards_are_errors() {
        assert_eq!(evaluate(&[]).expect_err("refused").kind(), ErrorKind::MissingInput);
        let error = evaluate(&[0.0, f64::NAN]).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.message().contains("reward 2"), "{error}");
    }
}
