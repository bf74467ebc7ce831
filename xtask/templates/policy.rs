//! Another policy's answers, cut after some sentences. Put your way of answering in its place.
//!
//! Say here how it answers, and cite the paper. An answer depends on its instruction, its sample index and `ctx.seed`, never on what
//! else is asked; a policy that holds a model of its own loads it in `build`.

use farmhand_core::types::{Completion, FinishReason, Instruction, SamplingParams};
use farmhand_core::{BuildContext, Policy, PolicyConfig, PolicySpec, Problem, Result, RunContext, checked, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;

register! {
    kind: Policy, name: "template_policy", config: TemplatePolicyConfig,
    summary: "the first sentences of another policy's answers",
    // paper: "https://arxiv.org/abs/…",
}

/// Options of `[policy.template_policy]`. These comments are the user's documentation: say unit and range.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TemplatePolicyConfig {
    /// Sentences that are kept, ≥ 1.
    pub sentences: usize,
    /// The policy that answers; by default `causal_lm` with the policy of the stage.
    pub policy: PolicySpec,
}

impl Default for TemplatePolicyConfig {
    fn default() -> Self {
        Self { sentences: 1, policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate") }
    }
}

#[typetag::serde(name = "template_policy")]
impl PolicyConfig for TemplatePolicyConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let policy = self.policy.build(ctx)?;
        Ok(Box::new(TemplatePolicy { sentences: self.sentences, name: format!("short {}", policy.model()), policy }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new().at_least_one("sentences", self.sentences).nested("policy", self.policy.problems()).problems()
    }
}

struct TemplatePolicy {
    sentences: usize,
    name: String,
    policy: Box<dyn Policy>,
}

impl Policy for TemplatePolicy {
    fn model(&self) -> &str {
        &self.name
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        let answers = checked::generate(self.policy.as_mut(), instructions, sampling, ctx)?;
        Ok(answers.into_iter().map(|answer| self.shortened(answer)).collect())
    }
}

impl TemplatePolicy {
    fn shortened(&self, answer: Completion) -> Completion {
        let kept = first_sentences(&answer.output, self.sentences).to_owned();
        // What was cut is not what the model's counts and log-probability are about.
        let finish = if kept.len() < answer.output.len() { FinishReason::StopString } else { answer.finish };
        Completion { output: kept, model: self.name.clone(), finish, log_prob: None, ..answer }
    }
}

/// The text up to the end of its `n`-th sentence: a full stop, question or exclamation mark before white space.
fn first_sentences(text: &str, n: usize) -> &str {
    let is_end = |(at, mark): &(usize, char)| {
        ".!?".contains(*mark) && text[at + mark.len_utf8()..].chars().next().is_none_or(char::is_whitespace)
    };
    match text.char_indices().filter(is_end).nth(n.saturating_sub(1)) {
        Some((at, mark)) => &text[..at + mark.len_utf8()],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_with_a_mark_and_white_space() {
        let text = "It costs 3.50. Why? Nobody knows!";
        assert_eq!(first_sentences(text, 1), "It costs 3.50.");
        assert_eq!(first_sentences(text, 2), "It costs 3.50. Why?");
        assert_eq!(first_sentences(text, 9), text);
        assert_eq!(first_sentences("", 1), "");
    }

    #[test]
    fn problems_of_the_parts_are_located() {
        assert_eq!(TemplatePolicyConfig::default().problems(), []);
        let wrong: TemplatePolicyConfig =
            serde_json::from_value(serde_json::json!({ "sentences": 0, "policy": { "causal_lm": { "max_batch": 0 } } }))
                .expect("a configuration");
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["sentences", "policy.causal_lm.max_batch"]);
    }
}
