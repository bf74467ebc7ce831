//! A judge that grades answers by a rubric: each attribute on a scale of its own.
//!
//! As an annotator it grades both answers on one sheet, and the higher weighted mean wins. As a reward model it grades one answer
//! a sheet: with an `attribute` its grade on that, which is what SteerLM's ratings are made of (`[feedback.ratings]`), without one
//! the weighted mean, for ranked lists. The reward models of all attributes ask the very same question, so a store answers all
//! but the first.

mod attributes;
mod grades;
mod pair;
mod single;

use std::path::PathBuf;

use farmhand_core::{BuildContext, Problem, Result, RunContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ask::{Asker, Question};
use super::ask_options::AskOptions;
use super::own_prompt::read_prompt;
use super::own_question::question;
use super::prompt::{PromptFile, Variables};

pub use attributes::Attribute;
pub use grades::{Grades, read_grades};
pub use pair::RubricConfig;
pub use single::RubricScoreConfig;

const EMBEDDED: &str = include_str!("../prompts/rubric.toml");
const VARIABLES: Variables = Variables { needed: &["instruction", "answers"], other: &["attributes", "lowest", "highest"] };

/// What both uses of the judge have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GradeOptions {
    /// What is graded, at least one attribute. By default HelpSteer's five.
    pub attributes: Vec<Attribute>,
    /// The lowest grade.
    pub lowest: f64,
    /// The highest grade, above the lowest.
    pub highest: f64,
    /// The prompt, in place of the embedded one: a TOML file with `[[messages]]`, which can show `instruction`, `answers` (with
    /// `name` and `output`), `attributes` (with `name` and `description`), `lowest` and `highest`. The reply is a JSON object
    /// with the grades by attribute for the name of each answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PathBuf>,
    /// Whom it asks.
    #[serde(flatten)]
    pub ask: AskOptions,
}

impl Default for GradeOptions {
    fn default() -> Self {
        let ask = AskOptions { max_tokens: 512, ..AskOptions::default() };
        Self { attributes: attributes::help_steer(), lowest: 0.0, highest: 4.0, prompt: None, ask }
    }
}

impl GradeOptions {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.ask.problems();
        problems.extend(attributes::problems(&self.attributes));
        if !(self.lowest.is_finite() && self.highest.is_finite() && self.lowest < self.highest) {
            let message = format!("expected a number above `lowest` ({}), got {}", self.lowest, self.highest);
            problems.push(Problem::new("highest", message));
        }
        problems
    }
}

/// A judge that is ready to grade.
pub(super) struct Grader {
    options: GradeOptions,
    pub(super) asker: Asker,
    prompt: PromptFile,
}

impl Grader {
    fn build(options: &GradeOptions, ctx: &BuildContext<'_>) -> Result<Self> {
        options.ask.model()?;
        let prompt = read_prompt(options.prompt.as_deref(), EMBEDDED, VARIABLES, ctx)?;
        Ok(Self { options: options.clone(), asker: Asker::new(&options.ask.server, &options.ask.keep, ctx)?, prompt })
    }

    /// The question that shows these answers under these names.
    fn question(&self, instruction: &str, answers: &[(&str, &str)], ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let GradeOptions { attributes, lowest, highest, ask, .. } = &self.options;
        let answer = |(name, output): &(&str, &str)| json!({ "name": name, "output": output });
        let attribute = |a: &Attribute| json!({ "name": a.name, "description": a.description });
        let prompt = self.prompt.fill(&json!({
            "instruction": instruction,
            "answers": answers.iter().map(answer).collect::<Vec<_>>(),
            "attributes": attributes.iter().map(attribute).collect::<Vec<_>>(),
            "lowest": plain(*lowest), "highest": plain(*highest),
        }))?;
        let names: Vec<&str> = answers.iter().map(|(name, _)| *name).collect();
        question(ask, prompt, ask.format("grades", || schema(&names, &self.options)), ctx)
    }
}

/// A whole number without a fraction, as people write it.
fn plain(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { Value::from(number as i64) } else { Value::from(number) }
}

/// The reply's JSON Schema.
fn schema(names: &[&str], options: &GradeOptions) -> Value {
    let object = |keys: &[&str], of: &Value| {
        let properties: serde_json::Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), of.clone())).collect();
        json!({ "type": "object", "additionalProperties": false, "required": keys, "properties": properties })
    };
    let attributes: Vec<&str> = options.attributes.iter().map(|attribute| attribute.name.as_str()).collect();
    object(names, &object(&attributes, &json!({ "type": "number" })))
}
