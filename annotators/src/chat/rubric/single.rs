//! The rubric as a reward model: one answer a sheet.

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grades::weighted_mean;
use super::{GradeOptions, Grader, Grades, read_grades};
use crate::chat::ask::Said;
use crate::chat::parsers::Reply;
use crate::chat::prompt::asked;
use crate::chat::reading::{read_or_fail, spend};

register! {
    kind: RewardModel, name: "rubric", config: RubricScoreConfig,
    summary: "a language model behind a server that grades an answer by a rubric",
    paper: "https://arxiv.org/abs/2311.09528",
}

const NAME: &str = "A";

/// Options of `[reward_model.rubric]`. `[feedback.ratings]` takes one for each attribute, with `rating_levels = 0` so that the
/// grades stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RubricScoreConfig {
    /// The attribute whose grade is the score; unset: the weighted mean of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// How it grades.
    #[serde(flatten)]
    pub grade: GradeOptions,
}

#[typetag::serde(name = "rubric")]
impl RewardModelConfig for RubricScoreConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        Ok(Box::new(RubricScore { config: self.clone(), grader: Grader::build(&self.grade, ctx)? }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.grade.problems();
        if let Some(attribute) = &self.attribute
            && !self.grade.attributes.iter().any(|known| known.name == *attribute)
        {
            let known: Vec<String> = self.grade.attributes.iter().map(|known| format!("`{}`", known.name)).collect();
            problems.push(
                Problem::new("attribute", format!("the rubric has no attribute `{attribute}`"))
                    .with_hint(format!("it has {}", known.join(", "))),
            );
        }
        problems
    }
}

struct RubricScore {
    config: RubricScoreConfig,
    grader: Grader,
}

impl RubricScore {
    fn score_of(&self, grades: &Grades) -> f64 {
        match &self.config.attribute {
            Some(attribute) => grades.get(attribute).copied().unwrap_or(f64::NAN),
            None => weighted_mean(grades, &self.config.grade.attributes),
        }
    }
}

impl RewardModel for RubricScore {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let write = |i: usize| self.grader.question(&asked(items[i].instruction), &[(NAME, items[i].output)], ctx);
        let read = |_: usize, said: Result<Said>| {
            let spent = said.as_ref().ok().map(Said::spent);
            (read_or_fail(said, |answer| read_grades(Reply::of(answer).text, &[NAME], &self.config.grade)), spent)
        };
        let replies = ctx.block_on(self.grader.asker.ask(items.len(), write, read, ctx));
        spend(replies.iter().filter_map(|(_, spent)| *spent), ctx);
        replies.into_iter().map(|(grades, _)| Ok(self.score_of(&grades?.remove(0)))).collect()
    }
}
