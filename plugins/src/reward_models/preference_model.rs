//! A pairwise preference model as a reward model: how likely an answer is better than a baseline's.
//!
//! `r(x, y) = ln P(y ≻ y_b) − ln P(y_b ≻ y)` with y_b the greedy answer of a baseline policy: the scalar that RSO draws from
//! its text ranker (Liu et al. 2023, <https://arxiv.org/abs/2309.06657>, section 3.2). `preference_modeling` trains the model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_core::types::{Instruction, Response, SamplingParams};
use farmhand_core::{
    BuildContext, Policy, PolicySpec, Problem, Result, RewardModel, RewardModelConfig, RunContext, checked, register,
};
use farmhand_models::PromptFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pair_reading::{AnswerPair, PairReader};
use crate::training::Ranges;

register! {
    kind: RewardModel, name: "preference_model", config: PreferenceModelConfig,
    summary: "how much a pairwise preference model prefers the answer to a baseline's", paper: "https://arxiv.org/abs/2309.06657",
}

/// Options of `[reward_model.preference_model]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceModelConfig {
    /// The preference model's folder or hub id; by default the reward model of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How questions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// The policy whose greedy answers are the baseline; by default `causal_lm` with the policy of the stage.
    pub baseline: PolicySpec,
    /// Longest answer of the baseline, in tokens, ≥ 1.
    pub max_new_tokens: u32,
    /// Tokens per forward pass at most, ≥ 1. By default 1024 on the CPU and 8192 on a GPU. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

impl Default for PreferenceModelConfig {
    fn default() -> Self {
        Self {
            model: None,
            prompt: None,
            baseline: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            max_new_tokens: 256,
            max_batch_tokens: None,
        }
    }
}

#[typetag::serde(name = "preference_model")]
impl RewardModelConfig for PreferenceModelConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        let checkpoint = ctx.reward_checkpoint(self.model.as_deref())?;
        let reader = PairReader::load(&checkpoint, self.prompt, self.max_batch_tokens, ctx)?;
        let sampling = SamplingParams { temperature: 0.0, max_new_tokens: self.max_new_tokens, ..SamplingParams::default() };
        Ok(Box::new(PreferenceModel { reader, baseline: self.baseline.build(ctx)?, sampling, answers: BTreeMap::new() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .nested("baseline", self.baseline.problems())
            .at_least_one("max_new_tokens", self.max_new_tokens as usize)
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1))
            .problems()
    }
}

struct PreferenceModel {
    reader: PairReader,
    baseline: Box<dyn Policy>,
    sampling: SamplingParams,
    /// The baseline's answers so far, by instruction.
    answers: BTreeMap<String, String>,
}

impl RewardModel for PreferenceModel {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let unanswered: BTreeMap<&str, &Instruction> = items
            .iter()
            .filter(|item| !self.answers.contains_key(&item.instruction.id))
            .map(|item| (item.instruction.id.as_str(), item.instruction))
            .collect();
        let unanswered: Vec<Instruction> = unanswered.into_values().cloned().collect();
        if !unanswered.is_empty() {
            let answers = checked::generate(self.baseline.as_mut(), &unanswered, &self.sampling, ctx)?;
            self.answers.extend(answers.into_iter().map(|answer| (answer.instruction.id, answer.output)));
        }
        let pairs: Vec<AnswerPair<'_>> = items
            .iter()
            .map(|&Response { instruction, output }| AnswerPair {
                instruction,
                first: output,
                second: &self.answers[&instruction.id],
            })
            .collect();
        Ok(self.reader.probabilities(&pairs, ctx)?.into_iter().map(log_odds).collect())
    }
}

/// `ln p − ln(1 − p)`, at most that of one in a million.
fn log_odds(p: f64) -> f64 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests {
    use farmhand_core::{Device, NoEvents};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn the_score_is_the_log_odds_and_finite_for_a_certain_preference() {
        assert!((log_odds(0.8) - 1.386_294).abs() < 1e-6);
        assert!(log_odds(0.5).abs() < 1e-12 && (log_odds(1.0) - 13.8).abs() < 0.1 && (log_odds(0.0) + 13.8).abs() < 0.1);
    }

    #[test]
    fn the_baselines_own_answer_scores_0_whatever_else_is_scored() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let build = BuildContext {
            policy: Some(&checkpoint),
            reward_model: Some(&checkpoint),
            ..BuildContext::new(Device::Cpu, stage.path())
        };
        let config = PreferenceModelConfig { max_new_tokens: 5, ..PreferenceModelConfig::default() };
        assert_eq!(config.problems(), []);
        let asked = instructions(2);
        let greedy = SamplingParams { temperature: 0.0, max_new_tokens: 5, ..SamplingParams::default() };
        let answers =
            config.baseline.build(&build).and_then(|mut policy| policy.generate(&asked, &greedy, &ctx)).expect("answered");
        let mut model = config.build(&build).expect("built");
        let item = |i: usize, output| Response { instruction: &asked[i], output };
        let scores =
            model.score(&[item(0, &answers[0].output), item(1, "yes"), item(1, &answers[1].output)], &ctx).expect("scored");
        assert!(scores[0].abs() < 1e-5 && scores[2].abs() < 1e-5, "{scores:?}");
        let alone = config.build(&build).expect("built").score(&[item(1, "yes")], &ctx).expect("scored");
        assert!((alone[0] - scores[1]).abs() < 1e-5);
    }
}
