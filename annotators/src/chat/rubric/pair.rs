//! The rubric as an annotator: both answers are graded on one sheet.

use std::collections::BTreeMap;

use farmhand_core::types::{Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::grades::weighted_mean;
use super::{GradeOptions, Grader, read_grades};
use crate::chat::ask::{Asker, Question};
use crate::chat::judging::{Interview, Sheet, Verdict, Verdicts};
use crate::chat::one_by_one::{OneByOne, Singly};
use crate::chat::parsers::Reply;
use crate::chat::prompt::asked;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "rubric", config: RubricConfig,
    summary: "a language model behind a server that grades both answers by a rubric",
    paper: "https://arxiv.org/abs/2311.09528",
}

const NAMES: [&str; 2] = ["A", "B"];

/// Options of `[annotator.rubric]`. The grades are kept in the annotation's notes, under `A` for the answer shown first and `B`
/// for the second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RubricConfig {
    /// The name its annotations carry.
    pub name: String,
    /// Weighted means that differ by no more than this are a tie, in grades, ≥ 0.
    pub tie_band: f64,
    /// How it grades.
    #[serde(flatten)]
    pub grade: GradeOptions,
}

impl Default for RubricConfig {
    fn default() -> Self {
        Self { name: "rubric".to_owned(), tie_band: 0.0, grade: GradeOptions::default() }
    }
}

#[typetag::serde(name = "rubric")]
impl AnnotatorConfig for RubricConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(TieIfIdentical::around(OneByOne(Rubric { config: self.clone(), grader: Grader::build(&self.grade, ctx)? })))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.grade.problems();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        if !(self.tie_band >= 0.0 && self.tie_band.is_finite()) {
            problems.push(Problem::new("tie_band", format!("expected a number ≥ 0, got {}", self.tie_band)));
        }
        problems
    }
}

struct Rubric {
    config: RubricConfig,
    grader: Grader,
}

impl Interview for Rubric {
    fn id(&self) -> &str {
        &self.config.name
    }

    fn write(&self, shown: &[Comparison], _: &Sheet, ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let Comparison { instruction, output_1, output_2, .. } = &shown[0];
        self.grader.question(&asked(instruction), &[(NAMES[0], output_1), (NAMES[1], output_2)], ctx)
    }

    fn read(&self, reply: Reply<'_>, _: &Sheet) -> Verdicts {
        let RubricConfig { tie_band, grade, .. } = &self.config;
        let grades = read_grades(reply.text, &NAMES, grade)?;
        let [first, second] = [0, 1].map(|i: usize| weighted_mean(&grades[i], &grade.attributes));
        let preference = match first - second {
            lead if lead.abs() <= *tie_band => Preference::Tie,
            lead if lead > 0.0 => Preference::First,
            _ => Preference::Second,
        };
        let notes = BTreeMap::from([0, 1].map(|i: usize| (NAMES[i].to_owned(), json!(grades[i]))));
        Ok(vec![Ok(Verdict { preference, scores: Some([first, second]), notes })])
    }
}

impl Singly for Rubric {
    fn asker(&self) -> &Asker {
        &self.grader.asker
    }
}
