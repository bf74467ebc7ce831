//! Sequence likelihood calibration from human feedback: the better answer's log-probability must be above the worse one's by a margin,
//! and a reference text is imitated. No reference policy.
//!
//! Zhao et al. 2023, <https://arxiv.org/abs/2305.10425>: `max(0, δ − S_w + S_l) + λ · (−S_ref)` with S the
//! log-probability of a text summed over its tokens, end-of-sequence token included. *Direct* takes given pairs and imitates their
//! better answers. *Sample and rank* lets the start policy answer, ranks the answers with a reward model, by a knock-out tournament
//! or by drawing pairs, and imitates the better or the best answer.
//!
//! The paper's y_ref is the dataset's demonstration; pairs and own answers have none, so that it is the better or the best answer
//! here. λ is not published.

use std::path::PathBuf;

use farmhand_core::types::SamplingParams;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, PolicySpec, Problem, Requirements,
    Result, Rng, RunContext, Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, TextCodec, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::rl::reduction::Reduction;
use crate::rl::selection::{Pair, by_score, tournament};
use crate::training::{
    Answerer, PairPass, Ranges, Record, Task, TextNll, TextPass, TrainOptions, Training, admit_pairs, answerable, log_scored,
    margin_and_accuracy, own_pairs, run_pairs, scored_answers, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "slic", config: SlicConfig,
    summary: "sequence likelihood calibration: a margin between answers, and imitation of a reference text",
    paper: "https://arxiv.org/abs/2305.10425",
}

/// How answers become pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankedBy {
    /// A knock-out tournament: n − 1 pairs of n answers.
    #[default]
    Tournament,
    /// n pairs drawn at random, without a pair twice.
    Draws,
}

/// Which text is imitated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceText {
    /// The best answer to the instruction.
    #[default]
    Best,
    /// The better answer of the pair.
    Chosen,
}

/// Options of `source.sample_rank`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleRank {
    /// The policy that answers; by default `causal_lm` with the weights that training starts from.
    pub policy: PolicySpec,
    /// How it answers: `n` answers to rank, ≥ 2.
    pub sampling: SamplingParams,
    /// How answers become pairs.
    pub ranked_by: RankedBy,
    /// Which text is imitated.
    pub reference_text: ReferenceText,
}

impl Default for SampleRank {
    fn default() -> Self {
        Self {
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { n: 8, temperature: 0.7, top_k: 40, ..SamplingParams::default() },
            ranked_by: RankedBy::Tournament,
            reference_text: ReferenceText::Best,
        }
    }
}

/// Where pairs come from.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairSource {
    /// Given preference pairs.
    #[default]
    Direct,
    /// The start policy's answers to instructions, ranked by a reward model.
    SampleRank(SampleRank),
}

/// Options of `[learner.slic]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct SlicConfig {
    /// Where pairs come from.
    pub source: PairSource,
    /// Margin δ between the log-probabilities, in nats, > 0. On sums of many tokens 1 is little.
    pub delta: f64,
    /// Weight λ of the reference text's negative log-likelihood, ≥ 0. The paper does not say which it takes: ½ is our choice, and
    /// RSO (Liu et al. 2023) goes without.
    pub imitation_weight: f64,
    /// How that likelihood becomes one number per step; the paper's is `seq_sum`.
    pub nll_reduction: Reduction,
    /// Records are pairs.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for SlicConfig {
    fn default() -> Self {
        Self {
            source: PairSource::Direct,
            delta: 1.0,
            imitation_weight: 0.5,
            nll_reduction: Reduction::SeqSum,
            train: TrainOptions {
                epochs: 1,
                optim: OptimConfig { lr: 1e-5, ..OptimConfig::default() },
                ..TrainOptions::default()
            },
        }
    }
}

#[typetag::serde(name = "slic")]
impl LearnerConfig for SlicConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Slic { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        let ranges = Ranges::new()
            .positive("delta", self.delta)
            .not_negative("imitation_weight", self.imitation_weight)
            .train(&self.train, Self::default().train.batch_size);
        match &self.source {
            PairSource::Direct => ranges.problems(),
            PairSource::SampleRank(own) => ranges
                .nested("source.sample_rank.policy", own.policy.problems())
                .answers_to_choose_from("source.sample_rank.sampling", &own.sampling)
                .problems(),
        }
    }
}

struct Slic {
    config: SlicConfig,
    /// Where relative paths in the policy's options start.
    base_dir: PathBuf,
}

impl Learner for Slic {
    fn requires(&self) -> Requirements {
        match self.config.source {
            PairSource::Direct => Requirements::policy_from(FeedbackKind::Preferences),
            PairSource::SampleRank(_) => Requirements::policy_from(FeedbackKind::Prompts).with_reward_model(),
        }
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let config = self.config.clone();
        let init = inputs.init;
        let (codec, policy) = config.train.passes.load(init, ctx)?;
        let policy = start_training(policy, &config.train.passes, init, ctx.seed.child("lora", 0))?;
        let context = policy.config().max_positions();
        let [train, held_out] = match &config.source {
            PairSource::Direct => admit_pairs(&inputs, &codec, &config.train, context, ctx)?,
            PairSource::SampleRank(own) => [self.ranked_answers(own, inputs, &codec, context, ctx)?, Vec::new()],
        };

        let task = Task { learner: "slic", role: "policy", doing: "likelihood calibration", records: "preference pairs" };
        let plan = shuffled_steps(&train, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_pairs(&policy, &train, rows, &config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_pairs(&policy, &train, &step.picked, &config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            let [calibration, margin, accuracy, active] = pass.means;
            training.log(&step, &[("calibration_loss", calibration), ("active", active), ("nll", pass.nll)]);
            training.log(&step, &[("margin", margin), ("accuracy", accuracy)]);
            if !held_out.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.len()).collect();
                let pass = pass_pairs(&policy, &held_out, &all, &config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.means[2])]);
            }
        }
        save_checkpoint(&policy, &codec, "slic", ctx)
    }
}

impl Slic {
    /// The start policy's answers in pairs: better, worse, and best.
    fn ranked_answers(
        &self,
        own: &SampleRank,
        inputs: LearnerInputs<'_>,
        codec: &TextCodec,
        context: usize,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Record>> {
        let train = &self.config.train;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`slic` ranks answers with a reward model"))?;
        let instructions = answerable(inputs.feedback.prompts()?, inputs.init, train, ctx)?;
        let who = Answerer { policy: &own.policy, checkpoint: inputs.init, base_dir: &self.base_dir, models: inputs.models };
        let scored = scored_answers(who, &instructions, &own.sampling, reward_model, ctx)?;
        let n = own.sampling.n as usize;
        log_scored("slic", 0, &scored, n, ctx)?;
        own_pairs(&scored, n, codec, train, context, ctx, |_, scores, rng| match own.ranked_by {
            RankedBy::Tournament => tournament(&(0..scores.len()).collect::<Vec<_>>(), by_score(scores)),
            RankedBy::Draws => drawn_pairs(scores, rng),
        })
    }
}

/// As many of all pairs as there are answers, drawn without repetition; equal scores make no pair.
fn drawn_pairs(scores: &[f64], rng: &mut Rng) -> Vec<Pair> {
    let n = scores.len();
    let mut all: Vec<(usize, usize)> = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))).collect();
    rng.shuffle(&mut all);
    all.truncate(n);
    let pair = |(a, b): (usize, usize)| match scores[a].total_cmp(&scores[b]) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(Pair { better: a, worse: b }),
        std::cmp::Ordering::Less => Some(Pair { better: b, worse: a }),
    };
    all.into_iter().filter_map(pair).collect()
}

/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. Gives the
/// calibration loss, S_w − S_l, the share of pairs in which it is positive, and the share whose margin is not yet reached.
fn pass_pairs(
    policy: &LanguageModel,
    records: &[Record],
    picked: &[usize],
    config: &SlicConfig,
    train: Option<Seed>,
) -> Result<PairPass<4>> {
    let text = match &config.source {
        PairSource::SampleRank(SampleRank { reference_text: ReferenceText::Best, .. }) => 2,
        _ => 0,
    };
    let nll = TextNll { text, ..TextNll::of_chosen(config.imitation_weight, config.nll_reduction, &config.train) };
    run_pairs(&TextPass::new(policy, records, &config.train.passes), picked, nll, train, |texts| {
        let sums = texts.sums();
        let differences = texts.nth(&sums, 0) - texts.nth(&sums, 1);
        let losses = calibration_losses(&differences, config.delta);
        let [margin, accuracy] = margin_and_accuracy(&differences);
        let active = losses.detach().gt(0.0).to_kind(losses.kind());
        [losses, margin, accuracy, active]
    })
}

/// `max(0, δ − (S_w − S_l))` of each pair, `[pairs]`.
fn calibration_losses(differences: &Tensor, delta: f64) -> Tensor {
    (-differences + delta).relu()
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, Feedback, RecordedEvents};
    use tch::Kind;

    use super::*;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, assert_same_however_split, disliked_pairs, fast_optim, learn_from,
        learn_from_prompts, lively_checkpoint, pair_records, pairs, small_lora, tiny_checkpoint,
    };

    fn config() -> SlicConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        SlicConfig { imitation_weight: 0.1, train, ..SlicConfig::default() }
    }

    fn sampling(ranked_by: RankedBy, reference_text: ReferenceText) -> SlicConfig {
        let sampling = SamplingParams { n: 5, max_new_tokens: 6, ..SamplingParams::default() };
        let source = PairSource::SampleRank(SampleRank { sampling, ranked_by, reference_text, ..SampleRank::default() });
        let mut config = SlicConfig { source, ..config() };
        config.train.epochs = 2;
        config
    }

    #[test]
    fn the_loss_matches_the_goldens() {
        // Fixture A: sums −1.8 and −3.1.
        let difference = Tensor::from_slice(&[1.3]).set_requires_grad(true);
        let at = |delta| calibration_losses(&difference, delta).double_value(&[0]);
        assert!(at(1.0) == 0.0 && (at(2.0) - 0.7).abs() < 1e-9 && (at(2.0) + 0.5 * 1.8 - 1.6).abs() < 1e-9);
        calibration_losses(&difference, 2.0).sum(Kind::Double).backward();
        assert_eq!(difference.grad().double_value(&[0]), -1.0);
    }

    #[test]
    fn draws_repeat_no_pair_and_equal_scores_make_none() {
        let mut rng = Seed::root(1).rng();
        let drawn = drawn_pairs(&[0.1, 0.9, 0.4, 0.4, 0.7], &mut rng);
        assert!(drawn.len() == 4 || drawn.len() == 5);
        let mut unordered: Vec<_> = drawn.iter().map(|pair| (pair.better.min(pair.worse), pair.better.max(pair.worse))).collect();
        unordered.sort_unstable();
        unordered.dedup();
        assert_eq!(unordered.len(), drawn.len());
        assert!(drawn_pairs(&[1.0, 1.0, 1.0], &mut rng).is_empty());
        assert_eq!(drawn_pairs(&[1.0, 2.0], &mut rng), [Pair { better: 1, worse: 0 }]);
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let two = pair_records(&codec, 8);
        let three: Vec<Record> = two
            .iter()
            .map(|record| Record { texts: [&record.texts[..], &record.texts[..1]].concat(), ..record.clone() })
            .collect();
        for (records, source) in
            [(&two, PairSource::Direct), (&three, sampling(RankedBy::Tournament, ReferenceText::Best).source)]
        {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = SlicConfig { source: source.clone(), delta: 4.0, train, ..config() };
                pass_pairs(&policy, records, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
            });
        }
    }

    #[test]
    fn it_turns_preferences_that_the_policy_had_the_other_way_round_and_then_stops() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let items = disliked_pairs(&init, 12);
        let mut config = SlicConfig { delta: 2.0, imitation_weight: 0.0, ..config() };
        config.train.epochs = 60;
        learn_from(&config, &init, Feedback::Preferences(&items), &stage.context(&events)).expect("learned");
        let accuracy = events.scalars("slic/validation_accuracy");
        assert_eq!(accuracy.last().expect("validated").1, 1.0, "{accuracy:?}");
        let active: Vec<f64> = events.scalars("slic/active").into_iter().map(|(_, share)| share).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (early, late) = (mean(&active[..3]), mean(&active[active.len() - 6..]));
        assert!(early > 0.3 && late < 0.5 * early, "from {early} to {late}");
    }

    #[test]
    fn it_ranks_its_own_answers_and_comes_to_prefer_what_the_reward_model_likes() {
        for (ranked_by, reference_text) in [(RankedBy::Tournament, ReferenceText::Best), (RankedBy::Draws, ReferenceText::Chosen)]
        {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let mut config = sampling(ranked_by, reference_text);
            config.train.epochs = 8;
            learn_from_prompts(&config, 12, &tiny_checkpoint(&stage), &mut LikesE, &stage.context(&events)).expect("learned");
            let accuracy: Vec<f64> = events.scalars("slic/accuracy").into_iter().map(|(_, value)| value).collect();
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
            let (early, late) = (mean(&accuracy[..4]), mean(&accuracy[accuracy.len() - 4..]));
            assert!(late > 0.9 && late > early, "from {early} to {late}");
        }
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let config = sampling(RankedBy::Tournament, ReferenceText::Best);
        let error = learn_from_prompts(&config, 4, &tiny_checkpoint(&stage), &mut Constant, &stage.context(&events));
        assert_eq!(error.expect_err("nothing to rank").kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        for lora in [None, Some(small_lora())] {
            let mut config = config();
            config.train.passes.lora = lora;
            assert_resumes_exactly("slic/loss", 9, |ctx| learn_from(&config, &init, Feedback::Preferences(&pairs(10)), ctx));
        }
        let mut config = sampling(RankedBy::Draws, ReferenceText::Best);
        config.train.save_every = 2;
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("slic/loss", 3, |ctx| learn_from_prompts(&config, 8, &init, &mut LikesE, ctx));
    }

    #[test]
    fn options_out_of_range_are_located_and_requirements_follow_the_source() {
        let mut wrong = SlicConfig { delta: 0.0, ..sampling(RankedBy::Draws, ReferenceText::Best) };
        if let PairSource::SampleRank(own) = &mut wrong.source {
            own.sampling.n = 1;
        }
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["delta", "source.sample_rank.sampling.n"]);
        let written: SlicConfig =
            serde_json::from_value(serde_json::json!({ "source": { "sample_rank": { "ranked_by": "draws" } } }))
                .expect("options");
        let build = BuildContext::new(farmhand_core::Device::Cpu, std::path::Path::new("."));
        let requires = written.build(&build).expect("built").requires();
        assert!(requires.reward_model && requires.feedback == FeedbackKind::Prompts);
    }
}
