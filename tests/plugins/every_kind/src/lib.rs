//! A component of every kind, and the ways a plugin can go wrong.

use async_trait::async_trait;
use farmhand_core::run::write_dir_atomic;
use farmhand_core::types::{
    Annotation, Comparison, Completion, EvalReport, FinishReason, Instruction, Metric, Preference, Response, SamplingParams,
};
use farmhand_core::{
    Annotator, AnnotatorConfig, BuildContext, Checkpoint, Error, EvaluationInputs, Evaluator, EvaluatorConfig, FeedbackKind,
    Learner, LearnerConfig, LearnerInputs, Policy, PolicyConfig, Requirements, Result, RewardModel, RewardModelConfig,
    RewardModelSpec, RunContext, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

farmhand_core::export_plugin!();

register! { kind: Policy, name: "echo", config: Echo, summary: "answers with the instruction" }

/// Options of `[policy.echo]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Echo {
    /// Put in front of every answer.
    prefix: String,
}

#[typetag::serde(name = "echo")]
impl PolicyConfig for Echo {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        Ok(Box::new(self.clone()))
    }
}

impl Policy for Echo {
    fn model(&self) -> &str {
        "echo"
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        let mut progress = ctx.progress("echoing", Some(instructions.len() as u64), "instructions");
        let mut completions = Vec::new();
        for instruction in instructions {
            ctx.cancel.check()?;
            completions.extend((0..sampling.n).map(|sample| Completion {
                instruction: instruction.clone(),
                output: format!("{}{}", self.prefix, instruction.text()),
                model: self.model().to_owned(),
                sample,
                finish: FinishReason::Stop,
                n_tokens: 1,
                log_prob: None,
            }));
            progress.advance(1);
        }
        Ok(completions)
    }
}

register! { kind: RewardModel, name: "doubled", config: Doubled, summary: "twice another reward model's score" }

/// Options of `[reward_model.doubled]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Doubled {
    /// Whose score.
    inner: RewardModelSpec,
}

impl Default for Doubled {
    fn default() -> Self {
        Self { inner: RewardModelSpec::from_json("length", "{}").expect("built in") }
    }
}

#[typetag::serde(name = "doubled")]
impl RewardModelConfig for Doubled {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        Ok(Box::new(Twice(self.inner.build(ctx)?)))
    }

    fn problems(&self) -> Vec<farmhand_core::Problem> {
        self.inner.problems().into_iter().map(|problem| problem.under("inner")).collect()
    }
}

struct Twice(Box<dyn RewardModel>);

impl RewardModel for Twice {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        Ok(self.0.score(items, ctx)?.into_iter().map(|score| 2.0 * score).collect())
    }
}

register! { kind: Annotator, name: "shorter", config: Shorter, summary: "prefers the shorter answer" }

/// Options of `[annotator.shorter]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Shorter {
    /// Panics instead.
    panics: bool,
}

#[typetag::serde(name = "shorter")]
impl AnnotatorConfig for Shorter {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Annotator for Shorter {
    fn id(&self) -> &str {
        "shorter"
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        assert!(!self.panics, "no opinion");
        let judge = |comparison: &Comparison| match comparison.output_1.len().cmp(&comparison.output_2.len()) {
            std::cmp::Ordering::Less => Preference::First,
            std::cmp::Ordering::Equal => Preference::Tie,
            std::cmp::Ordering::Greater => Preference::Second,
        };
        comparisons.iter().map(|comparison| Ok(Annotation::new(self.id(), judge(comparison)))).collect()
    }
}

#[cfg(not(feature = "clashing"))]
register! { kind: Evaluator, name: "words", config: Words, summary: "words an answer" }
#[cfg(feature = "clashing")]
register! { kind: Evaluator, name: "win_rate", config: Words, summary: "words an answer" }

/// Options of `[evaluator.words]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Words {}

#[typetag::serde(name = "words")]
impl EvaluatorConfig for Words {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(self.clone()))
    }
}

impl Evaluator for Words {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let n = inputs.completions.len();
        if n == 0 {
            return Err(Error::missing_input("no answers to count words in"));
        }
        let words: usize = inputs.completions.iter().map(|completion| completion.output.split_whitespace().count()).sum();
        let metric = Metric {
            name: "words".to_owned(),
            value: words as f64 / n as f64,
            std_error: None,
            interval: None,
            n,
            unit: "words".to_owned(),
            higher_is_better: None,
        };
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics: vec![metric] })
    }
}

register! { kind: Evaluator, name: "speechless", config: Speechless, summary: "panics when somebody asks for its options" }

/// Options of `[evaluator.speechless]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Speechless {
    /// Not to be described.
    #[schemars(schema_with = "no_words")]
    unspeakable: bool,
}

fn no_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    panic!("no words for it")
}

#[typetag::serde(name = "speechless")]
impl EvaluatorConfig for Speechless {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(Words {}))
    }
}

register! { kind: Learner, name: "stumbling", config: Stumbling, summary: "gives back the policy it started from, or goes wrong" }

/// Options of `[learner.stumbling]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Stumbling {
    /// How it goes wrong.
    how: How,
}

/// The ways to go wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum How {
    /// Not at all.
    #[default]
    NotAtAll,
    /// A panic while the options are checked.
    PanicInProblems,
    /// A panic while it is built.
    PanicInBuild,
    /// A panic while it learns.
    PanicInLearn,
    /// The process ends.
    Abort,
}

#[typetag::serde(name = "stumbling")]
impl LearnerConfig for Stumbling {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        assert!(self.how != How::PanicInBuild, "nothing to build");
        Ok(Box::new(self.clone()))
    }

    fn problems(&self) -> Vec<farmhand_core::Problem> {
        assert!(self.how != How::PanicInProblems, "no idea what is wrong");
        Vec::new()
    }
}

impl Learner for Stumbling {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        match self.how {
            How::PanicInLearn => {
                let pairs = inputs.feedback.preferences()?;
                panic!("pair {} of {} is too much", pairs.len() + 1, pairs.len());
            }
            How::Abort => std::process::abort(),
            _ => {}
        }
        let to = ctx.stage.checkpoint_dir();
        write_dir_atomic(&to, |dir| {
            let entries = std::fs::read_dir(inputs.init.path()).map_err(|error| Error::io("read", inputs.init.path(), error))?;
            for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
                let copy = dir.join(entry.file_name());
                std::fs::copy(entry.path(), &copy).map_err(|error| Error::io("write", &copy, error))?;
            }
            Ok(())
        })?;
        Checkpoint::open(to)
    }
}
