//! Preference ranking optimisation: the likelihood of a whole ranking, each worse answer weighed by its reward gap to the better
//! one, and imitation of the best.
//!
//! Song et al. 2023, <https://arxiv.org/abs/2306.17492>. With s the mean log-probability of an answer's tokens
//! (end-of-sequence token included), for each place k of a list of l answers but the last
//! `ln Σ_{i≥k} e^(s_i g_i) − s_k g_k`, with `g_i = r_k − r_i` and `g_k = max g_i`; added is the best answer's negative log-likelihood,
//! summed over tokens, times `weight · (l − 1)²`. The batch loss is the mean over lists.
//!
//! The authors' code takes `ln(ε + Σ exp)`; this is a log-sum-exp. Of answers with equal rewards the first stays, for a gap of 0
//! would give an answer all the weight and no gradient.

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::ranked_lists::{plackett_luce, ranking_accuracy};
use crate::rl::reduction::{Reduction, StepTotals};
use crate::training::{
    Lists, Ranges, Task, TextLogProbs, TextPass, TiedAnswers, TrainOptions, Training, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "pro", config: ProConfig,
    summary: "preference ranking optimisation: the likelihood of ranked lists with reward gaps, and imitation of the best",
    paper: "https://arxiv.org/abs/2306.17492",
}

/// Options of `[learner.pro]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ProConfig {
    /// Weigh answers by their reward gaps (the paper's temperatures); without it the rewards only give the order.
    pub gap_temperatures: bool,
    /// What gaps are multiplied by, > 0. The gradient grows with the unit of the rewards: 1 divided by their spread makes reward
    /// models comparable. Only with `gap_temperatures`.
    pub gap_scale: f64,
    /// Weight of the best answer's negative log-likelihood, ≥ 0; it is multiplied by (l − 1)² in a list of l answers.
    pub imitation_weight: f64,
    /// How that likelihood becomes one number per step; the authors mean `seq_sum`.
    pub nll_reduction: Reduction,
    /// Records are ranked lists.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for ProConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, ..OptimConfig::default() };
        Self {
            gap_temperatures: true,
            gap_scale: 1.0,
            imitation_weight: 0.05,
            nll_reduction: Reduction::SeqSum,
            train: TrainOptions { epochs: 2, batch_size: 112, optim, ..TrainOptions::default() },
        }
    }
}

impl ProConfig {
    fn gap_scale(&self) -> Option<f64> {
        self.gap_temperatures.then_some(self.gap_scale)
    }
}

#[typetag::serde(name = "pro")]
impl LearnerConfig for ProConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Pro(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let unused = !self.gap_temperatures && self.gap_scale != 1.0;
        Ranges::new()
            .positive("gap_scale", self.gap_scale)
            .require("gap_scale", !unused, "`gap_temperatures = true` when it is set", "`false`")
            .not_negative("imitation_weight", self.imitation_weight)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Pro(ProConfig);

impl Learner for Pro {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::RankedLists)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let context = policy.config().max_positions();
        let tied = TiedAnswers::FirstStays;
        let train = Lists::admit(inputs.feedback, "ranked lists", tied, &codec, &config.train, context, ctx)?;
        let held_out = match inputs.validation.filter(|feedback| !feedback.is_empty()) {
            Some(feedback) => Some(Lists::admit(feedback, "held-out ranked lists", tied, &codec, &config.train, context, ctx)?),
            None => None,
        };

        let task = Task { learner: "pro", role: "policy", doing: "ranking", records: "ranked lists" };
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
        save_checkpoint(&policy, &codec, "pro", ctx)
    }
}

/// Runs the picked lists through the policy; with the seed of an optimiser step, adds the gradient of their mean loss. Gives the
/// loss and its two terms, the second one without `imitation_weight`; then, as means over lists, the share of pairs in the right
/// order and the best answer's mean log-probability.
fn pass_lists(
    policy: &LanguageModel,
    lists: &Lists,
    picked: &[usize],
    config: &ProConfig,
    train: Option<Seed>,
) -> Result<(f64, [f64; 4])> {
    let n = picked.len() as f64;
    let best_lengths: Vec<usize> = picked.iter().map(|&row| lists.records[row].texts[0].response().len()).collect();
    let totals = StepTotals::of(&best_lengths).with_width(config.train.max_tokens);
    TextPass::new(policy, &lists.records, &config.train.passes).run(picked, train, |texts| {
        let places = lists.places(texts);
        let scores = texts.means();
        let ranking = plackett_luce(&scores, &places, config.gap_scale()).sum(Kind::Float) / n;
        let nll = best_nll(texts, lists, config.nll_reduction, totals);
        let loss = &ranking + &nll * config.imitation_weight;
        let mean = |values: &Tensor| values.detach().sum(Kind::Double) / n;
        (loss, [ranking, nll, mean(&ranking_accuracy(&scores, &places)), mean(&texts.nth(&scores, 0))])
    })
}

/// The best answers' part in the step's negative log-likelihood, each times (l − 1)² for a list of l answers.
fn best_nll(texts: &TextLogProbs, lists: &Lists, reduction: Reduction, totals: StepTotals) -> Tensor {
    let weights = texts.of_tokens(|i, _| match texts.places[i] {
        (row, 0) => {
            let n_worse = lists.records[row].texts.len() as f64 - 1.0;
            n_worse * n_worse * reduction.token_weight(texts.lengths[i], totals)
        }
        _ => 0.0,
    });
    -(&texts.tokens * weights).sum(texts.tokens.kind())
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::RankedList;
    use farmhand_core::{ErrorKind, Feedback, NoEvents};
    use farmhand_models::{EncodedText, TextCodec};

    use super::*;
    use crate::testing::{
        Stage, assert_ranks, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split, fast_optim, learn_from,
        ranked_lists, tiny_checkpoint, with_context,
    };
    use crate::training::Record;

    fn config() -> ProConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        ProConfig { train, ..ProConfig::default() }
    }

    #[test]
    fn the_loss_matches_the_golden() {
        // Fixture B: three answers of three, four and two tokens.
        let tokens = Tensor::from_slice(&[-0.5, -1.0, -0.3, -0.9, -0.4, -1.2, -0.6, -0.2, -0.6]);
        let texts = TextLogProbs::new(tokens, vec![3, 4, 2], vec![(0, 0), (0, 1), (0, 2)]);
        let text = |n: usize| EncodedText { ids: vec![7; 2 + n], response_start: 2 };
        let lists = Lists { records: vec![Record::new("", [3, 4, 2].map(text))], rewards: vec![vec![1.0, 0.2, -0.5]] };
        let ranking = plackett_luce(&texts.means(), &lists.places(&texts), config().gap_scale()).double_value(&[0]);
        let nll = best_nll(&texts, &lists, Reduction::SeqSum, StepTotals::of(&[3])).double_value(&[]);
        assert!((ranking - 2.133_992).abs() < 1e-6 && (ranking + 0.05 * nll - 2.493_992).abs() < 1e-6, "{ranking} {nll}");
        let plain = ProConfig { gap_temperatures: false, ..config() };
        let ranking = plackett_luce(&texts.means(), &lists.places(&texts), plain.gap_scale()).double_value(&[0]);
        assert!((ranking - 2.016_819).abs() < 1e-6);
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
        let lists = with_context(&NoEvents, |ctx| {
            let options = TrainOptions::default();
            Lists::admit(Feedback::RankedLists(&given), "ranked lists", TiedAnswers::FirstStays, &codec, &options, 96, ctx)
        })
        .expect("encoded");
        for (gap_temperatures, nll_reduction) in [(true, Reduction::SeqSum), (false, Reduction::TokenMean)] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = ProConfig { gap_temperatures, nll_reduction, train, ..config() };
                pass_lists(&policy, &lists, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").0
            });
        }
    }

    #[test]
    fn it_learns_the_order_of_the_lists() {
        for gap_temperatures in [true, false] {
            let mut config = ProConfig { gap_temperatures, ..config() };
            config.train.epochs = 40;
            assert_ranks(&config, "pro");
        }
    }

    #[test]
    fn lists_of_equal_rewards_are_refused_and_of_equal_answers_the_first_stays() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let with_scores = |scores: fn(usize) -> f64| {
            let list = |list: RankedList| RankedList { scores: (0..list.scores.len()).map(scores).collect(), ..list };
            ranked_lists(6).into_iter().map(list).collect::<Vec<_>>()
        };
        let ctx = stage.context(&NoEvents);
        let equal = with_scores(|_| 1.0);
        let error = learn_from(&config(), &init, Feedback::RankedLists(&equal), &ctx).expect_err("nothing to rank");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        // The first two are equal; a list of two has nothing left to compare.
        let events = farmhand_core::RecordedEvents::default();
        let partly = with_scores(|place| if place < 2 { 1.0 } else { 0.0 });
        learn_from(&config(), &init, Feedback::RankedLists(&partly), &stage.context(&events)).expect("learned");
        assert!(events.scalars("pro/loss").iter().all(|(_, loss)| loss.is_finite()));
        let told = format!("{:?}", events.take());
        assert!(
            told.contains("2 of 6 ranked lists have the same reward") && told.contains("in ranked lists, 6 answers repeat"),
            "{told}"
        );
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let (init, lists) = (tiny_checkpoint(&base), ranked_lists(10));
        assert_resumes_exactly_also_with_an_adapter("pro/loss", config(), |c| &mut c.train, &init, Feedback::RankedLists(&lists));
        let wrong = ProConfig { gap_temperatures: false, gap_scale: 2.0, imitation_weight: -1.0, ..config() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["gap_scale", "imitation_weight"]);
    }
}
