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
mod tests;
