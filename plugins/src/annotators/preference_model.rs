//! A pairwise preference model as a judge: P(second is better) of each comparison, asked in both orders.
//!
//! The preference oracle of iterative and Nash-style learning (RLHF Workflow, Dong et al. 2024; Munos et al. 2023,
//! <https://arxiv.org/abs/2312.00886>). `preference_modeling` trains the model.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Error, Problem, Result, RunContext, register};
use farmhand_models::PromptFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reward_models::{AnswerPair, PairReader};
use crate::training::Ranges;

register! {
    kind: Annotator, name: "preference_model", config: PreferenceAnnotatorConfig,
    summary: "a pairwise preference model as a judge, asked in both orders", paper: "https://arxiv.org/abs/2405.07863",
}

/// Options of `[annotator.preference_model]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceAnnotatorConfig {
    /// The name its annotations carry.
    pub name: String,
    /// The preference model's folder or hub id; by default the reward model of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How questions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Give the probability that the second answer is better; otherwise a plain verdict, a tie at ½.
    pub graded: bool,
    /// Tokens per forward pass at most, ≥ 1. By default 1024 on the CPU and 8192 on a GPU. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

impl Default for PreferenceAnnotatorConfig {
    fn default() -> Self {
        Self { name: "preference_model".to_owned(), model: None, prompt: None, graded: true, max_batch_tokens: None }
    }
}

#[typetag::serde(name = "preference_model")]
impl AnnotatorConfig for PreferenceAnnotatorConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let checkpoint = ctx.reward_checkpoint(self.model.as_deref())?;
        let reader = PairReader::load(&checkpoint, self.prompt, self.max_batch_tokens, ctx)?;
        Ok(Box::new(PreferenceModel { config: self.clone(), reader: Mutex::new(reader) }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .require("name", !self.name.is_empty(), "a name", "an empty text")
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1))
            .problems()
    }
}

struct PreferenceModel {
    config: PreferenceAnnotatorConfig,
    /// Tensors may move between threads but not be shared.
    reader: Mutex<PairReader>,
}

impl PreferenceModel {
    fn annotation(&self, p_first: f64) -> Result<Annotation> {
        let p_second = 1.0 - p_first;
        let preference = match self.config.graded {
            true => Preference::from_p_second(p_second)?,
            false if p_second > 0.5 => Preference::Second,
            false if p_second < 0.5 => Preference::First,
            false => Preference::Tie,
        };
        Ok(Annotation::new(self.config.name.clone(), preference))
    }
}

#[async_trait]
impl Annotator for PreferenceModel {
    fn id(&self) -> &str {
        &self.config.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs: Vec<AnswerPair<'_>> = comparisons
            .iter()
            .map(|Comparison { instruction, output_1, output_2, .. }| AnswerPair {
                instruction,
                first: output_1,
                second: output_2,
            })
            .collect();
        match reader.probabilities(&pairs, ctx) {
            Ok(probabilities) => probabilities.into_iter().map(|p| self.annotation(p)).collect(),
            Err(error) if error.is_cancelled() => comparisons.iter().map(|_| Err(Error::cancelled())).collect(),
            // One that cannot be read (too long) does not lose the others.
            Err(_) => pairs.iter().map(|&pair| reader.probabilities(&[pair], ctx).and_then(|p| self.annotation(p[0]))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{Device, NoEvents, checked};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn verdicts_turn_with_the_comparison_and_one_that_is_too_long_fails_alone() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let build = BuildContext { reward_model: Some(&checkpoint), ..BuildContext::new(Device::Cpu, stage.path()) };
        let long = "one two three four five six ".repeat(20);
        let asked = instructions(2);
        let compare = |one: &str, other: &str| Comparison::new(asked[0].clone(), one, other);
        let comparisons = [compare("yes", "no"), compare("no", "yes"), compare(&long, "no"), compare("yes", "yes")];
        for graded in [true, false] {
            let config = PreferenceAnnotatorConfig { graded, ..PreferenceAnnotatorConfig::default() };
            let judge = config.build(&build).expect("built");
            let judgements = ctx.block_on(checked::annotate(&*judge, &comparisons, &ctx)).expect("judged");
            let p = |i: usize| judgements[i].preference().map(Preference::p_second);
            assert!((p(0).expect("a verdict") + p(1).expect("a verdict") - 1.0).abs() < 1e-6);
            assert_eq!(p(2), None);
            assert!((p(3).expect("a verdict") - 0.5).abs() < 1e-6 || !graded);
        }
    }
}
