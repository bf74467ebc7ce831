//! A program as a reward model.
//!
//! An item is `{"instruction", "output"}`, with `"history"` for earlier turns; its result a finite number. A score must depend on its
//! item alone.

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Error, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::CommandOptions;
use crate::process::Process;

register! {
    kind: RewardModel, name: "command", config: CommandRewardModelConfig,
    summary: "a program of one's own, in any language, that scores answers",
}

/// Options of `[reward_model.command]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct CommandRewardModelConfig {
    /// The program.
    #[serde(flatten)]
    pub program: CommandOptions,
}

#[typetag::serde(name = "command")]
impl RewardModelConfig for CommandRewardModelConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        let process = Process::new(self.program.clone(), CommandOptions::folder(ctx), "reward_model");
        Ok(Box::new(Scorer { process, batch_size: self.program.batch_size }))
    }

    fn problems(&self) -> Vec<Problem> {
        self.program.problems()
    }
}

struct Scorer {
    process: Process,
    batch_size: usize,
}

impl RewardModel for Scorer {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let mut scores = Vec::with_capacity(items.len());
        for batch in items.chunks(self.batch_size.max(1)) {
            let request = json!({ "items": batch.iter().map(item).collect::<Vec<Value>>() });
            let results = self.process.ask_for(batch.len(), request, ctx.events, Some(ctx.cancel))?;
            for result in results {
                let place = scores.len() + 1;
                scores.push(result.as_f64().ok_or_else(|| {
                    Error::broken_contract(format!("a program scored answer {place} with `{result}`, expected a finite number"))
                })?);
            }
        }
        Ok(scores)
    }
}

/// A response as programs and servers see it.
pub(crate) fn item(response: &Response<'_>) -> Value {
    let mut item = json!({ "instruction": response.instruction.text(), "output": response.output });
    if !response.instruction.history.is_empty() {
        item["history"] = json!(response.instruction.history);
    }
    item
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;

    use super::*;
    use crate::testing::{Desk, python};

    fn scorer(desk: &Desk, body: &str, batch_size: usize) -> Box<dyn RewardModel> {
        let program = CommandOptions { batch_size, ..python(desk, body) };
        let config = CommandRewardModelConfig { program };
        assert_eq!(config.problems(), []);
        config.build(&desk.building()).expect("built")
    }

    #[test]
    fn scores_come_back_in_order_batch_by_batch() {
        let desk = Desk::new();
        let mut model = scorer(&desk, "reply([len(i['output']) + len(i['instruction']) / 10 for i in items])", 2);
        let instruction = Instruction::new("Say it.", None);
        let outputs = ["a", "bb", "", "dddd", "é"];
        let items: Vec<_> = outputs.iter().map(|&output| Response { instruction: &instruction, output }).collect();
        assert_eq!(desk.with(|ctx| model.score(&items, ctx)).expect("scored"), [1.7, 2.7, 0.7, 4.7, 1.7]);
        assert_eq!(desk.with(|ctx| model.score(&[], ctx)).expect("nothing to score"), [0.0; 0]);
    }

    #[test]
    fn a_score_that_is_no_number_is_named_by_its_place() {
        let desk = Desk::new();
        let mut model = scorer(&desk, "reply([1.0 if i['output'] else None for i in items])", 64);
        let instruction = Instruction::new("Say it.", None);
        let items = ["a", ""].map(|output| Response { instruction: &instruction, output });
        let error = desk.with(|ctx| model.score(&items, ctx)).expect_err("refused");
        assert!(error.message().contains("answer 2 with `null`"), "{error}");
    }
}
