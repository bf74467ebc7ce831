//! Any reward model as a judge: the answer with the higher score is the better one.

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Error, Problem, Result, RewardModelSpec, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model_scores::ModelScores;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "reward_judge", config: RewardJudgeConfig,
    summary: "a reward model as a judge: the higher score wins",
    paper: "https://arxiv.org/abs/2210.10760",
}

/// Options of `[annotator.reward_judge]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardJudgeConfig {
    /// The name its annotations carry.
    pub name: String,
    /// The reward model that scores the answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<RewardModelSpec>,
    /// Give the probability that the second answer is better, σ((score₂ − score₁) / `scale`), in place of a plain verdict.
    pub graded: bool,
    /// The difference of scores that `graded` takes as odds of e to 1, in the reward model's unit, > 0.
    pub scale: f64,
}

impl Default for RewardJudgeConfig {
    fn default() -> Self {
        Self { name: "reward_judge".to_owned(), model: None, graded: false, scale: 1.0 }
    }
}

#[typetag::serde(name = "reward_judge")]
impl AnnotatorConfig for RewardJudgeConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let spec = self.model.as_ref().ok_or_else(|| {
            Error::invalid_config("`model`: a reward judge needs a reward model")
                .with_hint("for example `model = { bradley_terry = {} }`")
        })?;
        let scores = ModelScores::build(spec, ctx)?;
        Ok(TieIfIdentical::around(RewardJudge { config: self.clone(), scores }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            problems.push(Problem::new("scale", format!("expected a number > 0, got {}", self.scale)));
        }
        match &self.model {
            Some(spec) => problems.extend(spec.problems().into_iter().map(|problem| problem.under("model"))),
            None => problems.push(
                Problem::new("model", "a reward judge needs a reward model")
                    .with_hint("for example `model = { bradley_terry = {} }`"),
            ),
        }
        problems
    }
}

struct RewardJudge {
    config: RewardJudgeConfig,
    scores: ModelScores,
}

#[async_trait]
impl Annotator for RewardJudge {
    fn id(&self) -> &str {
        &self.config.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let judge = |scores: [f64; 2]| {
            let preference = if self.config.graded { graded(scores, self.config.scale)? } else { plain(scores) };
            Ok(Annotation { scores: Some(scores), ..Annotation::new(self.config.name.clone(), preference) })
        };
        self.scores.score(comparisons, ctx).into_iter().map(|scores| scores.and_then(judge)).collect()
    }
}

/// The answer with the higher score; equal scores are a tie.
fn plain([score_1, score_2]: [f64; 2]) -> Preference {
    if score_1 > score_2 {
        Preference::First
    } else if score_1 < score_2 {
        Preference::Second
    } else {
        Preference::Tie
    }
}

/// Bradley and Terry's probability that the second answer is better.
fn graded([score_1, score_2]: [f64; 2], scale: f64) -> Result<Preference> {
    Preference::from_p_second(1.0 / (1.0 + ((score_1 - score_2) / scale).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CharCount, Desk, comparison, varied};

    fn judge(graded: bool) -> RewardJudge {
        let config = RewardJudgeConfig { graded, scale: 2.0, ..RewardJudgeConfig::default() };
        RewardJudge { config, scores: ModelScores::new(Box::new(CharCount)) }
    }

    #[test]
    fn the_higher_score_wins_and_equal_scores_tie() {
        let pairs = [comparison(0, "ééé", "bb"), comparison(0, "a", "bb"), comparison(0, "aa", "bb")];
        let annotations = Desk::new().annotations(&judge(false), &pairs);
        let preferences: Vec<_> = annotations.iter().map(|annotation| annotation.preference).collect();
        assert_eq!(preferences, [Preference::First, Preference::Second, Preference::Tie]);
        assert_eq!(annotations[0].scores, Some([3.0, 2.0]));
    }

    #[test]
    fn graded_verdicts_are_the_sigmoid_of_the_difference() {
        let pairs = [comparison(0, "aa", "bbbb"), comparison(0, "aa", "bb")];
        let verdicts = Desk::new().preferences(&judge(true), &pairs);
        assert!((verdicts[0].p_second() - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-15); // a difference of 2 over a scale of 2
        assert_eq!(verdicts[1], Preference::Tie);
        assert_eq!(graded([1e9, 0.0], 1.0).expect("a probability"), Preference::First);
    }

    #[test]
    fn the_swapped_comparison_gets_the_swapped_verdict() {
        let (desk, pairs) = (Desk::new(), varied(50));
        let swapped: Vec<_> = pairs.iter().map(Comparison::swapped).collect();
        for judge in [judge(false), judge(true)] {
            for (given, turned) in desk.preferences(&judge, &pairs).iter().zip(desk.preferences(&judge, &swapped)) {
                assert!((given.p_second() + turned.p_second() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_missing_model_and_a_bad_scale_are_named() {
        let config = RewardJudgeConfig { scale: 0.0, ..RewardJudgeConfig::default() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["scale", "model"]);
    }
}
