//! A simulated rater: scores both answers by its own taste and prefers the better one, with some chance.
//!
//! The score of an answer y to an instruction x is `s(x, y) = Σ weight · feature(x, y)`, over the features of
//! [`crate::features`] and, if there is one, a reward model's score. The rater then looks at
//! `d = s(x, y₁) − s(x, y₂) + order_bias + temperature · Λ`
//! and prefers the first answer when d > `tie_band`, the second when d < −`tie_band`, and neither in between. Λ is standard
//! logistic noise, so without tie band and bias the first answer wins with probability
//! `1 / (1 + exp(−(s₁ − s₂) / temperature))`: Bradley and Terry's model, <https://doi.org/10.2307/2334029>.
//! Λ is drawn from the seed and the texts, and turns with the answers: the same pair in the other order gets the same
//! verdict, turned, whenever `order_bias` is 0.

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Preference, UnorderedPair};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Problem, Result, RewardModelSpec, RunContext, Seed, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::features;
use crate::model_scores::ModelScores;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "rater", config: RaterConfig,
    summary: "simulated rater with its own taste: length, repetition, overlap, a reward model",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.rater]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RaterConfig {
    /// The name its annotations carry.
    pub name: String,
    /// What counts how much; a negative weight is a dislike.
    pub weights: TasteWeights,
    /// The length the rater likes best, in characters (Unicode code points), ≥ 1.
    pub length_target: f64,
    /// How fickle the rater is, in units of the score, ≥ 0; 0 always prefers the better score.
    pub temperature: f64,
    /// Differences of scores up to this size are a tie, in units of the score, ≥ 0.
    pub tie_band: f64,
    /// Added to the score of whichever answer is shown first, in units of the score; negative prefers the last. Put
    /// `order_swap` around a rater that has one.
    pub order_bias: f64,
    /// A reward model whose score counts with `weights.model`, for example the likelihood of a judging language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<RewardModelSpec>,
}

/// How much each feature counts. All features but `model` lie between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TasteWeights {
    /// How near the length is to `length_target`, even in the logarithm.
    pub length: f64,
    /// How little the answer repeats itself: distinct stretches of 8 characters over all.
    pub distinct: f64,
    /// The share of the instruction's words (of 4 letters or more) that the answer takes up.
    pub overlap: f64,
    /// The share of the answer that is copied from the instruction, in stretches of 8 characters.
    pub echo: f64,
    /// 1 when the answer ends like a sentence.
    pub ending: f64,
    /// Lines that are list items: three make 1.
    pub list: f64,
    /// 1 when the answer says anything.
    pub not_empty: f64,
    /// The reward model's score, in its own unit; needs `model`.
    pub model: f64,
}

impl Default for TasteWeights {
    /// A little of everything that does not depend on a model.
    fn default() -> Self {
        Self { length: 1.0, distinct: 1.0, overlap: 1.0, echo: -0.5, ending: 0.5, list: 0.0, not_empty: 1.0, model: 0.0 }
    }
}

impl Default for RaterConfig {
    fn default() -> Self {
        Self {
            name: "rater".to_owned(),
            weights: TasteWeights::default(),
            length_target: 400.0,
            temperature: 0.2,
            tie_band: 0.0,
            order_bias: 0.0,
            model: None,
        }
    }
}

#[typetag::serde(name = "rater")]
impl AnnotatorConfig for RaterConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let model = self.model.as_ref().map(|spec| ModelScores::build(spec, ctx)).transpose()?;
        Ok(TieIfIdentical::around(Rater { config: self.clone(), model }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, message: String| {
            if !ok {
                problems.push(Problem::new(key, message));
            }
        };
        let at_least = |least: f64, value: f64| value >= least && value.is_finite();
        check(!self.name.is_empty(), "name", "expected a name, got an empty text".to_owned());
        check(
            at_least(1.0, self.length_target),
            "length_target",
            format!("expected at least 1 character, got {}", self.length_target),
        );
        check(at_least(0.0, self.temperature), "temperature", format!("expected a number ≥ 0, got {}", self.temperature));
        check(at_least(0.0, self.tie_band), "tie_band", format!("expected a number ≥ 0, got {}", self.tie_band));
        check(self.order_bias.is_finite(), "order_bias", format!("expected a finite number, got {}", self.order_bias));
        for (key, weight) in self.weights.by_name() {
            check(weight.is_finite(), &format!("weights.{key}"), format!("expected a finite number, got {weight}"));
        }
        check(
            self.weights.by_name().iter().any(|(_, weight)| *weight != 0.0),
            "weights",
            "a rater needs a weight that is not 0".to_owned(),
        );
        match &self.model {
            None => {
                check(self.weights.model == 0.0, "model", "`weights.model` is set, so a reward model is needed here".to_owned())
            }
            Some(spec) => {
                check(
                    self.weights.model != 0.0,
                    "weights.model",
                    "is 0, so the reward model under `model` would not count".to_owned(),
                );
                problems.extend(spec.problems().into_iter().map(|problem| problem.under("model")));
            }
        }
        problems
    }
}

impl TasteWeights {
    fn by_name(&self) -> [(&'static str, f64); 8] {
        let Self { length, distinct, overlap, echo, ending, list, not_empty, model } = *self;
        [
            ("length", length),
            ("distinct", distinct),
            ("overlap", overlap),
            ("echo", echo),
            ("ending", ending),
            ("list", list),
            ("not_empty", not_empty),
            ("model", model),
        ]
    }

    /// The weighted sum of an answer's features, the reward model's score left out.
    pub fn score(&self, instruction: &str, output: &str, length_target: f64) -> f64 {
        self.length * features::length(output, length_target)
            + self.distinct * features::distinct(output)
            + self.overlap * features::overlap(instruction, output)
            + self.echo * features::echo(instruction, output)
            + self.ending * features::ending(output)
            + self.list * features::list(output)
            + self.not_empty * features::not_empty(output)
    }
}

struct Rater {
    config: RaterConfig,
    model: Option<ModelScores>,
}

#[async_trait]
impl Annotator for Rater {
    fn id(&self) -> &str {
        &self.config.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let model_scores = match &self.model {
            Some(model) => model.score(comparisons, ctx),
            None => comparisons.iter().map(|_| Ok([0.0, 0.0])).collect(),
        };
        let judged = comparisons.iter().zip(model_scores);
        judged.map(|(comparison, scores)| scores.map(|scores| self.judge(comparison, scores, ctx.seed))).collect()
    }
}

impl Rater {
    fn judge(&self, comparison: &Comparison, [model_1, model_2]: [f64; 2], seed: Seed) -> Annotation {
        let Self { config, .. } = self;
        let text = comparison.instruction.text();
        let score = |output, model_score: f64| {
            config.weights.score(&text, output, config.length_target) + config.weights.model * model_score
        };
        let scores = [score(&comparison.output_1, model_1), score(&comparison.output_2, model_2)];
        let noise = if config.temperature > 0.0 { config.temperature * logistic_noise(comparison, seed) } else { 0.0 };
        let preference = verdict(scores[0] - scores[1] + config.order_bias + noise, config.tie_band);
        Annotation { scores: Some(scores), ..Annotation::new(config.name.clone(), preference) }
    }
}

/// The better of two answers by the difference of their scores, first minus second.
fn verdict(difference: f64, tie_band: f64) -> Preference {
    if difference > tie_band {
        Preference::First
    } else if difference < -tie_band {
        Preference::Second
    } else {
        Preference::Tie
    }
}

/// Standard logistic noise in favour of the first answer; that of the swapped comparison is its negative.
fn logistic_noise(comparison: &Comparison, seed: Seed) -> f64 {
    let pair = UnorderedPair::of(comparison);
    let p = seed.child_text("rater noise", &pair.id).rng().uniform();
    let noise = (p / (1.0 - p)).ln();
    if pair.is_turned { -noise } else { noise }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CharCount, Desk, comparison, varied};

    fn rater(config: RaterConfig) -> Rater {
        Rater { config, model: None }
    }

    #[test]
    fn scores_are_the_weighted_features() {
        let config = RaterConfig { length_target: 99.0, temperature: 0.0, ..RaterConfig::default() };
        let annotation = &Desk::new().annotations(&rater(config), &[comparison(0, "An animal.", "")])[0];
        // 10 characters: length 1 − ln(100 / 11) / ln 100. No window twice, none copied. One of the three words describe,
        // animal, number. A full stop. Not empty.
        let expected = (1.0 - (100.0_f64 / 11.0).ln() / 100.0_f64.ln()) + 1.0 + 1.0 / 3.0 + 0.5 + 1.0;
        let scores = annotation.scores.expect("scored");
        assert!((scores[0] - expected).abs() < 1e-12, "{scores:?} {expected}");
        assert_eq!(scores[1], 0.0);
        assert_eq!((annotation.preference, annotation.annotator.as_str()), (Preference::First, "rater"));
    }

    #[test]
    fn the_swapped_comparison_gets_the_swapped_verdict() {
        let (desk, pairs) = (Desk::new(), varied(200));
        let swapped: Vec<_> = pairs.iter().map(Comparison::swapped).collect();
        for temperature in [0.0, 0.3, 5.0] {
            let judge = rater(RaterConfig { temperature, tie_band: 0.05, ..RaterConfig::default() });
            for (given, turned) in desk.annotations(&judge, &pairs).iter().zip(desk.annotations(&judge, &swapped)) {
                assert_eq!(given.preference, turned.preference.swapped());
                assert_eq!(given.scores.map(|[a, b]| [b, a]), turned.scores);
            }
        }
    }

    #[test]
    fn verdicts_do_not_depend_on_the_batch() {
        let (desk, pairs) = (Desk::new(), varied(50));
        let judge = rater(RaterConfig { temperature: 1.0, ..RaterConfig::default() });
        let together = desk.preferences(&judge, &pairs);
        let reversed: Vec<_> = pairs.iter().rev().cloned().collect();
        let mut backwards = desk.preferences(&judge, &reversed);
        backwards.reverse();
        let alone: Vec<_> = pairs.iter().map(|pair| desk.preferences(&judge, std::slice::from_ref(pair))[0]).collect();
        assert_eq!(together, backwards);
        assert_eq!(together, alone);
    }

    #[test]
    fn the_better_answer_wins_as_often_as_bradley_and_terry_say() {
        let weights = TasteWeights { not_empty: 0.0, ..TasteWeights::default() };
        let zero = TasteWeights { length: 0.0, distinct: 0.0, overlap: 0.0, echo: 0.0, ending: 1.0, ..weights };
        let judge = rater(RaterConfig { weights: zero, temperature: 0.5, ..RaterConfig::default() });
        let n = 4000;
        let pairs: Vec<_> = (0..n).map(|i| comparison(i, "Yes.", "Yes")).collect();
        let wins = Desk::new().preferences(&judge, &pairs).iter().filter(|p| **p == Preference::First).count();
        let p = 1.0 / (1.0 + (-1.0_f64 / 0.5).exp()); // a difference of 1 at temperature ½: 0.8808
        let sd = (p * (1.0 - p) / n as f64).sqrt();
        assert!((wins as f64 / n as f64 - p).abs() < 4.0 * sd, "{wins} of {n}");
    }

    #[test]
    fn an_order_bias_favours_whichever_answer_is_shown_first() {
        let judge = rater(RaterConfig { order_bias: 100.0, ..RaterConfig::default() });
        let pairs: Vec<_> = varied(20).into_iter().flat_map(|pair| [pair.swapped(), pair]).collect();
        assert!(Desk::new().preferences(&judge, &pairs).iter().all(|p| *p == Preference::First));
    }

    #[test]
    fn small_differences_are_ties() {
        assert_eq!([0.2, 0.1, -0.1, -0.2].map(|d| verdict(d, 0.1)), {
            use Preference::{First, Second, Tie};
            [First, Tie, Tie, Second]
        });
        assert_eq!(verdict(0.0, 0.0), Preference::Tie);
    }

    #[test]
    fn a_reward_model_counts_with_its_weight_and_fails_for_its_pairs_only() {
        let weights = TasteWeights { model: 100.0, ..TasteWeights::default() };
        let config = RaterConfig { weights, temperature: 0.0, ..RaterConfig::default() };
        let judge = Rater { config, model: Some(ModelScores::new(Box::new(CharCount))) };
        let pairs = [comparison(0, "A fine sentence.", "xxxxxxxxxxxxxxxxxxxxxxxxxxxx"), comparison(1, "fail", "b")];
        let results = Desk::new().annotate(&judge, &pairs);
        assert_eq!(results[0].as_ref().expect("judged").preference, Preference::Second);
        assert!(results[1].is_err());
    }

    #[test]
    fn options_that_make_no_sense_are_named() {
        let weights = TasteWeights { model: 1.0, list: f64::NAN, ..TasteWeights::default() };
        let config = RaterConfig { weights, temperature: -1.0, length_target: 0.0, ..RaterConfig::default() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["length_target", "temperature", "weights.list", "model"]);
        assert!(RaterConfig::default().problems().is_empty());
    }
}
