//! Answers asked for with a control, as a policy around a policy: how a model of `reward_conditioning`, `decision_transformer`,
//! `quark` or `steerlm` is used.
//!
//! The control is the one that asks for the best answer, or any other that the model knows, so that a sweep over its values shows
//! whether the model follows it (Korbak et al. 2023, <https://arxiv.org/abs/2302.08582>). In an experiment:
//!
//! ```toml
//! [methods.conditioning.learner.reward_conditioning]
//! [methods.conditioning.policy.conditioned]
//! ```

use std::path::PathBuf;

use farmhand_core::types::{Completion, Instruction, SamplingParams};
use farmhand_core::{BuildContext, Policy, PolicyConfig, PolicySpec, Problem, Result, RunContext, checked, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::{Controls, Ranges};

register! {
    kind: Policy, name: "conditioned", config: ConditionedConfig,
    summary: "another policy, asked with the control for the best answer", paper: "https://arxiv.org/abs/2302.08582",
}

/// Options of `[policy.conditioned]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConditionedConfig {
    /// The policy that answers; by default `causal_lm` with the policy of the stage.
    pub policy: PolicySpec,
    /// The value that is asked for, such as `bad`, `2.00` or `quality:4,toxicity:0`; by default the one for the best answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
    /// The folder of the model whose controls are used; by default the policy of the stage. Needed where `policy` names a model of
    /// its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controls_of: Option<PathBuf>,
}

impl Default for ConditionedConfig {
    fn default() -> Self {
        let policy = PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate");
        Self { policy, ask: None, controls_of: None }
    }
}

#[typetag::serde(name = "conditioned")]
impl PolicyConfig for ConditionedConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let controls = Controls::load(ctx.policy_checkpoint(self.controls_of.as_deref())?.path())?;
        let value = controls.value(self.ask.as_deref())?.to_owned();
        let policy = self.policy.build(ctx)?;
        let name = match &self.ask {
            Some(value) => format!("{} asked for {value}", policy.model()),
            None => policy.model().to_owned(),
        };
        Ok(Box::new(Conditioned { name, value, controls, policy }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new().nested("policy", self.policy.problems()).problems()
    }
}

struct Conditioned {
    name: String,
    value: String,
    controls: Controls,
    policy: Box<dyn Policy>,
}

impl Policy for Conditioned {
    fn model(&self) -> &str {
        &self.name
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        let asked: Vec<Instruction> =
            instructions.iter().map(|instruction| self.controls.apply(instruction, &self.value)).collect();
        let answers = checked::generate(self.policy.as_mut(), &asked, sampling, ctx)?;
        // Whoever judges the answer sees the question, not the control.
        let plain = |(i, answer): (usize, Completion)| Completion {
            instruction: instructions[i / sampling.n as usize].clone(),
            model: self.name.clone(),
            ..answer
        };
        Ok(answers.into_iter().enumerate().map(plain).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::{Checkpoint, Device, NoEvents};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    fn answers(config: &ConditionedConfig, checkpoint: &Checkpoint, stage: &Stage) -> Result<Vec<Completion>> {
        let build = BuildContext { policy: Some(checkpoint), ..BuildContext::new(Device::Cpu, Path::new(".")) };
        let sampling = SamplingParams { n: 2, max_new_tokens: 8, ..SamplingParams::default() };
        config.build(&build)?.generate(&instructions(3), &sampling, &stage.context(&NoEvents))
    }

    #[test]
    fn the_best_control_or_another_is_asked_for_and_answers_carry_the_plain_question() {
        let stage = Stage::new();
        let checkpoint = tiny_checkpoint(&stage);
        let controls = Controls::of_values("Quality: {}", vec!["good".into(), "bad".into()]);
        let text = serde_json::to_string(&controls).expect("JSON");
        std::fs::write(checkpoint.path().join("controls.json"), text).expect("written");
        let ask = |value: Option<&str>| {
            answers(&ConditionedConfig { ask: value.map(str::to_owned), ..ConditionedConfig::default() }, &checkpoint, &stage)
        };
        let best = ask(None).expect("answered");
        let asked: Vec<Instruction> = instructions(3).iter().map(|instruction| controls.apply(instruction, "good")).collect();
        let build = BuildContext { policy: Some(&checkpoint), ..BuildContext::new(Device::Cpu, Path::new(".")) };
        let mut plain = PolicySpec::from_json("causal_lm", "{}").and_then(|spec| spec.build(&build)).expect("built");
        let sampling = SamplingParams { n: 2, max_new_tokens: 8, ..SamplingParams::default() };
        let expected = plain.generate(&asked, &sampling, &stage.context(&NoEvents)).expect("answered");
        assert_eq!(best.len(), 6);
        for (i, (got, expected)) in best.iter().zip(&expected).enumerate() {
            assert_eq!((&got.output, got.sample), (&expected.output, expected.sample));
            assert_eq!(got.instruction, instructions(3)[i / 2]);
        }
        let bad = ask(Some("bad")).expect("answered");
        assert_eq!(bad[0].model, "base asked for bad");
        assert!(bad.iter().zip(&best).any(|(bad, best)| bad.output != best.output));
        assert!(ask(Some("great")).is_err());
    }

    #[test]
    fn a_model_trained_without_controls_and_bad_options_are_refused() {
        let stage = Stage::new();
        let error = answers(&ConditionedConfig::default(), &tiny_checkpoint(&stage), &stage).expect_err("no controls");
        assert!(error.message().contains("was trained without controls"), "{error}");
        let config: ConditionedConfig =
            serde_json::from_value(serde_json::json!({ "policy": { "causal_lm": { "max_batch": 0 } } })).expect("options");
        assert_eq!(config.problems()[0].path, "policy.causal_lm.max_batch");
    }
}
