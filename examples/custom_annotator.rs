//! An annotator of one's own in one file: prefers the answer that asks fewer questions. It is registered by name, so a
//! configuration can say `annotator = { fewer_questions = { } }` next to the built-in ones, also inside `pool`, `label_noise` …
//!
//! Run it with `cargo run --example custom_annotator`.

use async_trait::async_trait;
use farmhand::core::types::{Annotation, Comparison, Preference};
use farmhand::core::{Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, CancelFlag, Device, NoEvents, PollingExecutor};
use farmhand::core::{Result, RunContext, Seed, register, run::StageDir};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

register! {
    kind: Annotator, name: "fewer_questions", config: FewerQuestions,
    summary: "prefers the answer with fewer question marks",
}

/// Options of `[annotator.fewer_questions]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct FewerQuestions {
    /// Question marks that an answer may have more than the other and still tie.
    tolerance: usize,
}

#[typetag::serde(name = "fewer_questions")]
impl AnnotatorConfig for FewerQuestions {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Annotator for FewerQuestions {
    fn id(&self) -> &str {
        "fewer_questions"
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let questions = |text: &str| text.matches('?').count();
        let judge = |comparison: &Comparison| {
            let (first, second) = (questions(&comparison.output_1), questions(&comparison.output_2));
            let preference = match first.abs_diff(second) {
                difference if difference <= self.tolerance => Preference::Tie,
                _ if first < second => Preference::First,
                _ => Preference::Second,
            };
            Ok(Annotation::new(self.id(), preference))
        };
        comparisons.iter().map(judge).collect()
    }
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let annotator = AnnotatorSpec::from_json("fewer_questions", "{}")?.build(&BuildContext::new(Device::Cpu, ".".as_ref()))?;
    let instruction = farmhand::core::types::Instruction::new("Name a colour.", None);
    let comparisons = [Comparison::new(instruction, "Do you mean a bright one?", "Red.")];

    let stage = StageDir::create(std::env::temp_dir().join("farmhand-custom-annotator"))?;
    let cancel = CancelFlag::new();
    let (events, executor) = (NoEvents, PollingExecutor);
    let ctx = RunContext {
        stage: &stage,
        seed: Seed::root(0),
        device: Device::Cpu,
        events: &events,
        cancel: &cancel,
        executor: &executor,
    };
    let judgements = ctx.block_on(farmhand::core::checked::annotate(&*annotator, &comparisons, &ctx))?;
    for judgement in judgements {
        println!("{}", serde_json::to_string_pretty(&judgement).expect("a judgement is JSON"));
    }
    Ok(())
}
