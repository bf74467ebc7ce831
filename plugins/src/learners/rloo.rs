//! REINFORCE with the leave-one-out baseline: each response is compared with the mean of the others to its prompt.
//!
//! Ahmadian et al. 2024, <https://arxiv.org/abs/2402.14740>, equations 6 and 9, after Kool et al. 2019. Each round samples n responses
//! y_i to each prompt; the reward of a whole response is `R_i = r_i − β Σ_t kl_t`, its advantage `A_i = R_i − mean_{j≠i} R_j`, and the
//! loss the mean over responses of `−A_i Σ_t log π(y_it)`.
//!
//! The response is one action: one advantage, no discount, no clip. Where a round is passed over more than once, its responses are no
//! longer the policy's own; then `ratio = "clipped"` weighs them by `ρ = exp(Σ_t log π − Σ_t log π_old)` as TRL does,
//! `max(−A ρ, −A clip(ρ, 1 ± ε))`, whose gradient at the first optimiser step is the same.

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{OptimConfig, Schedule, save_checkpoint, sequence_sums};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::advantage::{is_level, leave_one_out};
use crate::rl::kl::KlEstimator;
use crate::rl::policy_gradient::{clipped_policy_loss, reinforce_losses};
use crate::rl::rollout::row_sums;
use crate::training::{
    MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, PassOptions, Ranges, RolloutOptions, update_policy,
};

register! {
    kind: Learner, name: "rloo", config: RlooConfig,
    summary: "REINFORCE with the mean reward of the other responses as baseline", paper: "https://arxiv.org/abs/2402.14740",
}

/// What weighs a response when the policy has moved since it was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ResponseRatio {
    /// Nothing: REINFORCE. Each round is one optimiser step.
    #[default]
    None,
    /// The probability ratio of the whole response, clipped: TRL.
    Clipped {
        /// How far from 1 the ratio may go before its gradient vanishes, > 0; TRL's is 0.2.
        clip: f64,
    },
}

/// Options of `[learner.rloo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RlooConfig {
    /// Rounds and sampling. The paper has 2 or 4 responses to a prompt, and 512 prompts a round.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// Weight β of the divergence from the reference in the reward, ≥ 0; 0 needs no reference. The paper has 0.03 and 0.1.
    pub kl_weight: f64,
    /// How the divergence is estimated per token.
    pub kl_estimator: KlEstimator,
    /// What weighs a response when the policy has moved since it was sampled.
    pub ratio: ResponseRatio,
    /// Responses per optimiser step, ≥ 1; a round's last step may have fewer.
    pub batch_size: usize,
    /// Passes over a round's responses, ≥ 1.
    pub inner_epochs: u32,
    /// Records are responses. With `lora`, policy and reference share the weights; without dropout, for responses are sampled
    /// without it.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser; its schedule runs over all optimiser steps of all rounds.
    pub optim: OptimConfig,
}

impl Default for RlooConfig {
    fn default() -> Self {
        Self {
            rollouts: RolloutOptions::default(),
            kl_weight: 0.05,
            kl_estimator: KlEstimator::K1,
            ratio: ResponseRatio::None,
            batch_size: 64,
            inner_epochs: 1,
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 1e-6, schedule: Schedule::Constant, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "rloo")]
impl LearnerConfig for RlooConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Rloo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let n = self.rollouts.samples_per_prompt;
        let one_step = self.inner_epochs == 1 && self.batch_size >= self.rollouts.n_responses();
        let clip = if let ResponseRatio::Clipped { clip } = self.ratio { clip } else { 1.0 };
        Ranges::new()
            .rollouts(&self.rollouts, &self.passes)
            .require("samples_per_prompt", n != 1, "at least 2 responses to compare", n)
            .not_negative("kl_weight", self.kl_weight)
            .positive("ratio.clipped.clip", clip)
            .require(
                "ratio",
                one_step || self.ratio != ResponseRatio::None,
                "`clipped`, or one optimiser step a round (`inner_epochs = 1` and `batch_size` of all its responses)",
                "`none` with more steps, which would train on responses that are no longer the policy's own",
            )
            .at_least_one("batch_size", self.batch_size)
            .at_least_one("inner_epochs", self.inner_epochs as usize)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct Rloo(RlooConfig);

impl Learner for Rloo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`rloo` needs a reward model"))?;
        let options = (&config.rollouts, &config.passes);
        let with_reference = config.kl_weight > 0.0;
        let models = OnPolicyModels::load(inputs.init, inputs.reference, with_reference, instructions, options, ctx)?;
        let reference = models.reference.as_ref();
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let (n_prompts, group) = (config.rollouts.prompts_per_step, config.rollouts.samples_per_prompt);
        let task = OnPolicyTask { learner: "rloo", doing: "REINFORCE leave-one-out" };
        let batch_size = config.batch_size.min(config.rollouts.n_responses());
        let optim = (&config.optim, config.rollouts.n_optimiser_steps(config.batch_size, config.inner_epochs));
        let mut training =
            OnPolicy::start_policy(task, &sampler, reference, Some(&*reward_model), (1, batch_size), optim, (), ctx)?;
        while let Some(step) = training.next_step()? {
            let sampled = training.keep(sampler.sample(step * n_prompts as u64, n_prompts, ctx))?;
            let scores = training.keep(sampler.score(&sampled, reward_model, ctx))?;
            let partition = |epoch| sampler.partition(&sampled.records, config.batch_size, step, epoch, ctx);
            let (batch, entropy) = sampler.roll_out(&sampled.records, &partition(0), reference, None)?;

            let kl = row_sums(&batch.kl(config.kl_estimator));
            let rewards: Vec<f64> = scores.rewards.iter().zip(&kl).map(|(score, kl)| score - config.kl_weight * kl).collect();
            let advantages = leave_one_out(&rewards, group);
            let n_level = rewards.chunks(group).filter(|group| is_level(group)).count();
            training.log(&[
                ("reward", scores.mean()),
                ("kl", kl.iter().sum::<f64>() / kl.len() as f64),
                ("entropy", entropy),
                ("zero_advantage_groups", n_level as f64 / n_prompts as f64),
                ("score_secs", scores.secs),
            ]);
            training.log(&sampled.scalars());
            if n_level == n_prompts {
                training.idle("no response has an advantage over the others to its prompt");
                training.end_step();
                continue;
            }

            let old = row_sums(&batch.log_probs);
            let loss = |micro: &MicroBatch<'_>| response_loss(config.ratio, &advantages, &old, micro);
            let partitions = (0..config.inner_epochs).map(partition);
            let optim = &mut training.parts[0].optim;
            let update = update_policy(&sampler, &sampled.records, partitions, &format!("step {step}"), optim, loss)?;
            training.log(&update.scalars());
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&models.policy, &models.codec, "rloo", ctx)
    }
}

/// The loss of some responses; `advantages` and `old`, the log-probabilities they were sampled with, have one number a response of
/// the round.
fn response_loss(ratio: ResponseRatio, advantages: &[f64], old: &[f64], micro: &MicroBatch<'_>) -> MicroLoss {
    let sums = sequence_sums(micro.log_probs, micro.batch);
    let of_rows = |numbers: &[f64]| {
        let picked: Vec<f64> = micro.rows.iter().map(|&row| numbers[row]).collect();
        Tensor::from_slice(&picked).to_kind(sums.kind()).to_device(sums.device())
    };
    let n = micro.n_records as f64;
    let (losses, numbers) = sequence_losses(ratio, &sums, &of_rows(old), &of_rows(advantages));
    let numbers = numbers.into_iter().map(|(name, values)| (name, values.sum(Kind::Double) / n)).collect();
    MicroLoss { loss: losses.sum(Kind::Float) / n, numbers }
}

/// The losses `[responses]`, differentiable, from whole responses' log-probabilities now and at sampling and their advantages, all
/// `[responses]`; and what else there is to tell of each.
fn sequence_losses(
    ratio: ResponseRatio,
    sums: &Tensor,
    old: &Tensor,
    advantages: &Tensor,
) -> (Tensor, Vec<(&'static str, Tensor)>) {
    match ratio {
        ResponseRatio::None => (reinforce_losses(sums, advantages), Vec::new()),
        ResponseRatio::Clipped { clip } => {
            let policy = clipped_policy_loss(sums, old, advantages, clip);
            (policy.losses, vec![("clip_fraction", policy.clipped), ("approx_kl", policy.approx_kl)])
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::rl::reduction::StepTotals;
    use crate::testing::{
        Constant, Stage, assert_resumes_exactly, assert_same_step_however_split, fast_optim, first_and_last, instructions,
        learn_from_prompts, learn_to_like_e, lively_checkpoint, small_lora, split_step, tiny_checkpoint,
    };

    fn config() -> RlooConfig {
        let rollouts = RolloutOptions {
            steps: 6,
            prompts_per_step: 2,
            samples_per_prompt: 4,
            max_new_tokens: 8,
            save_every: 2,
            ..RolloutOptions::default()
        };
        RlooConfig { rollouts, kl_weight: 0.01, batch_size: 8, optim: fast_optim(3e-3), ..RlooConfig::default() }
    }

    const CLIPPED: ResponseRatio = ResponseRatio::Clipped { clip: 0.2 };

    #[test]
    fn both_losses_match_the_goldens_and_have_one_gradient_at_a_ratio_of_1() {
        let mean = |losses: Tensor| losses.mean(Kind::Double).double_value(&[]);
        // Fixture C.
        let sums = Tensor::from_slice(&[-1.8, -3.1, -0.8, -2.0]);
        let advantages = Tensor::from_slice(&leave_one_out(&[1.0, 0.2, -0.5, 0.2], 4));
        assert!((mean(sequence_losses(ResponseRatio::None, &sums, &sums, &advantages).0) - 0.229_167).abs() < 1e-6);
        let gradient = |ratio| {
            let leaf = sums.copy().set_requires_grad(true);
            sequence_losses(ratio, &leaf, &sums, &advantages).0.sum(Kind::Double).backward();
            leaf.grad()
        };
        assert!((gradient(ResponseRatio::None) - gradient(CLIPPED)).abs().max().double_value(&[]) < 1e-12);
        // TRL: the sums of four responses, how far they were off at sampling, and advantages.
        let sums = Tensor::from_slice(&[-5.0, -2.0, -1.3, -0.6]);
        let old = &sums + Tensor::from_slice(&[-0.15, -0.2, 0.4, 0.3]);
        let advantages = Tensor::from_slice(&[1.0, -0.5, 0.25, -1.0]);
        assert!((mean(sequence_losses(CLIPPED, &sums, &old, &advantages).0) - 0.020_321_78).abs() < 1e-6);
    }

    #[test]
    fn it_finds_the_answers_that_the_reward_model_likes_with_and_without_a_ratio() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for (ratio, batch_size, inner_epochs) in [(ResponseRatio::None, 32, 1), (CLIPPED, 16, 2)] {
            let rollouts = RolloutOptions { steps: 30, prompts_per_step: 8, ..config().rollouts };
            let optim = fast_optim(2e-2);
            let config = RlooConfig { rollouts, ratio, batch_size, inner_epochs, optim, ..config() };
            assert_eq!(config.problems(), []);
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
            let (first, last) = first_and_last(&events, "rloo/reward", 4);
            assert!(first < 0.2 && last > 0.6, "{ratio:?}: {first} to {last}");
            let kl = events.scalars("rloo/kl");
            assert!(kl[0].1 == 0.0 && kl[29].1 > 0.5, "{kl:?}");
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (init, instructions, ctx) = (tiny_checkpoint(&stage), instructions(6), stage.context(&NoEvents));
        let advantages = [1.0, -0.5, 0.3, 0.0, 2.0, -1.0, 0.1, 0.7];
        for ratio in [ResponseRatio::None, CLIPPED] {
            assert_same_step_however_split(1e-5, |passes| {
                let config = RlooConfig { passes, ..config() };
                let options = (&config.rollouts, &config.passes);
                let models = OnPolicyModels::load(&init, None, false, &instructions, options, &ctx).expect("loaded");
                let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
                let sampled = sampler.sample(0, 2, &ctx).expect("sampled");
                let old = [-40.0; 8];
                let totals = StepTotals::of(&sampled.lengths());
                let loss = |micro: &MicroBatch<'_>| response_loss(ratio, &advantages, &old, micro);
                split_step(&sampler, &sampled.records, &[7, 6, 5, 4, 3, 2, 1, 0], totals, loss)
            });
        }
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_adapters() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        assert_resumes_exactly("rloo/reward", 3, |ctx| learn_to_like_e(&config(), &init, ctx));
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let passes = PassOptions { lora, ..PassOptions::default() };
        let adapted = RlooConfig { passes, ratio: CLIPPED, inner_epochs: 2, ..config() };
        assert_resumes_exactly("rloo/reward", 3, |ctx| learn_to_like_e(&adapted, &init, ctx));
    }

    #[test]
    fn equal_rewards_are_an_error_that_says_so() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let free = RlooConfig { kl_weight: 0.0, ..config() };
        let error = learn_from_prompts(&free, 10, &init, &mut Constant, &stage.context(&NoEvents)).expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn more_steps_a_round_need_a_ratio() {
        let paths = |config: RlooConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(RlooConfig::default()), [""; 0]);
        assert_eq!(paths(RlooConfig { inner_epochs: 2, ..config() }), ["ratio"]);
        assert_eq!(paths(RlooConfig { batch_size: 4, ..config() }), ["ratio"]);
        assert_eq!(paths(RlooConfig { inner_epochs: 2, ratio: CLIPPED, ..config() }), [""; 0]);
        let nothing = ResponseRatio::Clipped { clip: 0.0 };
        assert_eq!(paths(RlooConfig { ratio: nothing, ..config() }), ["ratio.clipped.clip"]);
    }
}
