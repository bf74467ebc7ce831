//! RRHF, rank responses to align with human feedback: every answer's score is its mean log-probability, every pair of a list in the
//! wrong order is pushed apart, and the best answer is imitated. No reference policy, no margin.
//!
//! Yuan et al. 2023, <https://arxiv.org/abs/2304.05302>, equations 1 to 4: with s the mean log-probability of an answer's tokens
//! (end-of-sequence token included) and r its reward, `Σ_{r_i < r_j} max(0, s_i − s_j) − Σ_t log π(y*_t)` for the best answer y*,
//! summed over the pairs of a list and the tokens of y*, averaged over lists. Answers of equal reward are not compared; of equal best
//! ones the first is imitated.
//!
//! The authors' released code divides by the padded length of the list instead of the answer's own, in both terms (`released`).

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::ranked_lists::{ranking_accuracy, ranking_hinge};
use crate::training::{
    Lists, Ranges, Record, Task, TextLogProbs, TextPass, TiedAnswers, TrainOptions, Training, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "rrhf", config: RrhfConfig,
    summary: "rank responses to align with human feedback: a hinge on all pairs of ranked lists, and imitation of the best",
    paper: "https://arxiv.org/abs/2304.05302",
    presets: {
        "released": "the arithmetic of the authors' released code: lengths of padded rows" => RrhfConfig::released(),
    },
}

/// What log-probabilities are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LengthNormalisation {
    /// Scores by the answer's own tokens, the likelihood of the best answer by nothing: the paper.
    #[default]
    Answer,
    /// Both by the tokens of the list's longest text, prompt included: the released code.
    PaddedRow,
}

/// Options of `[learner.rrhf]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RrhfConfig {
    /// Weight of the ranking loss, ≥ 0; the paper's is 1, more was worse.
    pub ranking_weight: f64,
    /// Weight of the best answer's negative log-likelihood, ≥ 0; the paper's is 1.
    pub imitation_weight: f64,
    /// What log-probabilities are divided by.
    pub normalisation: LengthNormalisation,
    /// Records are ranked lists.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for RrhfConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        Self {
            ranking_weight: 1.0,
            imitation_weight: 1.0,
            normalisation: LengthNormalisation::Answer,
            train: TrainOptions { epochs: 3, batch_size: 64, optim, ..TrainOptions::default() },
        }
    }
}

impl RrhfConfig {
    fn released() -> Self {
        Self { normalisation: LengthNormalisation::PaddedRow, ..Self::default() }
    }
}

#[typetag::serde(name = "rrhf")]
impl LearnerConfig for RrhfConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Rrhf(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let nothing = self.ranking_weight == 0.0 && self.imitation_weight == 0.0;
        Ranges::new()
            .not_negative("ranking_weight", self.ranking_weight)
            .not_negative("imitation_weight", self.imitation_weight)
            .require("ranking_weight", !nothing, "a weight above 0, here or in `imitation_weight`", "0 for both")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Rrhf(RrhfConfig);

impl Learner for Rrhf {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::RankedLists)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let context = policy.config().max_positions();
        let tied = TiedAnswers::Stay;
        let train = Lists::admit(inputs.feedback, "ranked lists", tied, &codec, &config.train, context, ctx)?;
        let held_out = match inputs.validation.filter(|feedback| !feedback.is_empty()) {
            Some(feedback) => Some(Lists::admit(feedback, "held-out ranked lists", tied, &codec, &config.train, context, ctx)?),
            None => None,
        };

        let task = Task { learner: "rrhf", role: "policy", doing: "ranking", records: "ranked lists" };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_lists(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train.records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let (loss, [ranking, nll, accuracy, best]) = pass_lists(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, loss)?;
            training.log(&step, &[("ranking_loss", ranking), ("nll", nll)]);
            training.log(&step, &[("ranking_accuracy", accuracy), ("best_log_prob", best)]);
            if let Some(held_out) = held_out.as_ref().filter(|_| training.validates_after(&step)) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let (loss, [_, _, accuracy, _]) = pass_lists(&policy, held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", loss), ("validation_accuracy", accuracy)]);
            }
        }
        save_checkpoint(&policy, &codec, "rrhf", ctx)
    }
}

/// Runs the picked lists through the policy; with the seed of an optimiser step, adds the gradient of their mean loss. Gives the
/// loss and, as means over lists, its two terms without weights, the share of pairs in the right order, and the best answer's mean
/// log-probability.
fn pass_lists(
    policy: &LanguageModel,
    lists: &Lists,
    picked: &[usize],
    config: &RrhfConfig,
    train: Option<Seed>,
) -> Result<(f64, [f64; 4])> {
    let n = picked.len() as f64;
    TextPass::new(policy, &lists.records, &config.train.passes).run(picked, train, |texts| {
        let places = lists.places(texts);
        let (scores, likelihood) = scores(texts, &lists.records, config.normalisation);
        let ranking = ranking_hinge(&scores, &places).sum(Kind::Float) / n;
        let nll = -texts.nth(&likelihood, 0).sum(Kind::Float) / n;
        let loss = &ranking * config.ranking_weight + &nll * config.imitation_weight;
        let mean = |values: &Tensor| values.detach().sum(Kind::Double) / n;
        let accuracy = mean(&ranking_accuracy(&scores, &places));
        (loss, [ranking, nll, accuracy, mean(&texts.nth(&texts.means(), 0))])
    })
}

/// What is ranked and what is imitated: the score and the likelihood of each text, `[texts]`.
fn scores(texts: &TextLogProbs, records: &[Record], normalisation: LengthNormalisation) -> (Tensor, Tensor) {
    let sums = texts.sums();
    match normalisation {
        LengthNormalisation::Answer => (&sums / texts.counts(), sums),
        LengthNormalisation::PaddedRow => {
            let score = sums / texts.of_texts(|i| records[texts.places[i].0].longest() as f64);
            (score.shallow_clone(), score)
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::RankedList;
    use farmhand_core::{Feedback, RecordedEvents};
    use farmhand_models::{EncodedText, TextCodec};

    use super::*;
    use crate::rl::ranked_lists::RankedPlaces;
    use crate::testing::{
        Stage, assert_ranks, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split, fast_optim, learn_from,
        ranked_lists, tiny_checkpoint, with_context,
    };

    fn config() -> RrhfConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        RrhfConfig { train, ..RrhfConfig::default() }
    }

    #[test]
    fn the_loss_and_the_released_one_match_the_goldens() {
        // Fixture B: three answers of three, four and two tokens after a prompt of two.
        let tokens = [-0.5, -1.0, -0.3, -0.9, -0.4, -1.2, -0.6, -0.2, -0.6];
        let record = Record::new("", [3, 4, 2].map(|n| EncodedText { ids: vec![7; 2 + n], response_start: 2 }));
        let list = [RankedPlaces { places: vec![0, 1, 2], rewards: vec![1.0, 0.2, -0.5] }];
        for (normalisation, golden) in
            [(LengthNormalisation::Answer, [0.575, 1.8, 2.375]), (LengthNormalisation::PaddedRow, [0.55, 0.3, 0.85])]
        {
            let leaf = Tensor::from_slice(&tokens).set_requires_grad(true);
            let texts = TextLogProbs::new(leaf.shallow_clone(), vec![3, 4, 2], vec![(0, 0), (0, 1), (0, 2)]);
            let (scores, likelihood) = scores(&texts, std::slice::from_ref(&record), normalisation);
            let (ranking, nll) = (ranking_hinge(&scores, &list).sum(Kind::Double), -likelihood.get(0));
            let loss = &ranking + &nll;
            let got = [&ranking, &nll, &loss].map(|value| value.double_value(&[]));
            assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-9), "{normalisation:?}: {got:?}");
            loss.backward();
            let gradient = Vec::<f64>::try_from(leaf.grad()).expect("numbers");
            let expected = match normalisation {
                LengthNormalisation::Answer => [-4.0 / 3.0, -0.25, 1.0],
                LengthNormalisation::PaddedRow => [-2.0 / 6.0, -1.0 / 6.0, 2.0 / 6.0],
            };
            for (token, expected) in [(0, expected[0]), (3, expected[1]), (8, expected[2])] {
                assert!((gradient[token] - expected).abs() < 1e-9, "{normalisation:?}: {gradient:?}");
            }
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let codec = TextCodec::load(&init, None).expect("a codec");
        // Lists of two, three and four answers.
        let given = ranked_lists(8);
        let lists = with_context(&farmhand_core::NoEvents, |ctx| {
            let options = TrainOptions::default();
            Lists::admit(Feedback::RankedLists(&given), "ranked lists", TiedAnswers::Stay, &codec, &options, 96, ctx)
        })
        .expect("encoded");
        for normalisation in [LengthNormalisation::Answer, LengthNormalisation::PaddedRow] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = RrhfConfig { normalisation, train, ..config() };
                pass_lists(&policy, &lists, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").0
            });
        }
    }

    #[test]
    fn it_learns_the_order_of_the_lists() {
        let mut config = config();
        config.train.epochs = 30;
        assert_ranks(&config, "rrhf");
    }

    #[test]
    fn lists_of_equal_rewards_are_told_and_imitated() {
        let stage = Stage::new();
        let equal = |list: RankedList| RankedList { scores: vec![1.0; list.scores.len()], ..list };
        let lists: Vec<RankedList> = ranked_lists(6).into_iter().map(equal).collect();
        let events = RecordedEvents::default();
        let ctx = stage.context(&events);
        learn_from(&config(), &tiny_checkpoint(&stage), Feedback::RankedLists(&lists), &ctx).expect("learned");
        assert!(events.scalars("rrhf/ranking_loss").iter().all(|(_, loss)| *loss == 0.0));
        let nll: Vec<f64> = events.scalars("rrhf/nll").into_iter().map(|(_, nll)| nll).collect();
        assert!(nll[nll.len() - 2..].iter().sum::<f64>() < nll[..2].iter().sum::<f64>(), "{nll:?}");
        assert!(format!("{:?}", events.take()).contains("6 of 6 ranked lists have the same reward"));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let (init, lists) = (tiny_checkpoint(&base), ranked_lists(10));
        assert_resumes_exactly_also_with_an_adapter(
            "rrhf/loss",
            config(),
            |c| &mut c.train,
            &init,
            Feedback::RankedLists(&lists),
        );
        let wrong = RrhfConfig { ranking_weight: 0.0, imitation_weight: 0.0, ..config() };
        assert_eq!(wrong.problems()[0].path, "ranking_weight");
        assert!(RrhfConfig::released().problems().is_empty());
    }
}
