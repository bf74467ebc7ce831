//! REINFORCE whose baseline is the reward of the policy's greedy response to the same prompt.
//!
//! Li et al. 2023, <https://arxiv.org/abs/2310.10505>, algorithm 1. Each round samples a response y and decodes a greedy one ȳ to each
//! prompt; `A = clamp(r(y) − r(ȳ), ±c)`, the return of token t of T is `γ^(T−t) A − β kl_t` (one-step divergence) or with the
//! divergence of all tokens from t on (full-step), and the loss `−Σ return_t log π(y_t)` over all tokens, divided by their number.
//!
//! As in the authors' code the discount is applied before its first use, so that already the last token is scaled by γ, and the
//! divergence is not discounted. Each round is one optimiser step; the greedy responses are never trained on.

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{OptimConfig, Schedule, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::rl::advantage::{KlReturn, greedy_baseline_returns};
use crate::rl::kl::KlEstimator;
use crate::rl::policy_gradient::reinforce_losses;
use crate::rl::reduction::Reduction;
use crate::rl::rollout::{RolloutBatch, row_sums};
use crate::training::{
    MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, PassOptions, Ranges, RolloutOptions, update_policy,
};

register! {
    kind: Learner, name: "remax", config: RemaxConfig,
    summary: "REINFORCE with the greedy response's reward as baseline", paper: "https://arxiv.org/abs/2310.10505",
}

/// Options of `[learner.remax]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RemaxConfig {
    /// Rounds and sampling; each round is one optimiser step. One greedy response a prompt is decoded beside the sampled ones. The
    /// authors sample one response of up to 256 tokens to a prompt, at `top_p` 0.9.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// The largest advantage either way, c > 0; the authors' is 5, and 1 in their Mistral recipe.
    pub max_advantage: f64,
    /// Discount γ per token, in (0, 1].
    pub gamma: f64,
    /// Weight β of the divergence from the reference in the return, ≥ 0; 0 needs no reference. `full_step` wants about a tenth.
    pub kl_weight: f64,
    /// Whether a token's return has its own divergence or that of all tokens from it on.
    pub kl_return: KlReturn,
    /// How the divergence is estimated per token.
    pub kl_estimator: KlEstimator,
    /// How token losses become one number per optimiser step.
    pub reduction: Reduction,
    /// Records are responses. With `lora`, policy and reference share the weights; without dropout, for responses are sampled
    /// without it.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for RemaxConfig {
    fn default() -> Self {
        Self {
            rollouts: RolloutOptions { prompts_per_step: 64, samples_per_prompt: 1, ..RolloutOptions::default() },
            max_advantage: 5.0,
            gamma: 0.99,
            kl_weight: 0.05,
            kl_return: KlReturn::OneStep,
            kl_estimator: KlEstimator::K1,
            reduction: Reduction::TokenMean,
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 1e-6, schedule: Schedule::Cosine, warmup_ratio: 0.0, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "remax")]
impl LearnerConfig for RemaxConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Remax(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .rollouts(&self.rollouts, &self.passes)
            .positive("max_advantage", self.max_advantage)
            .require("gamma", self.gamma > 0.0 && self.gamma <= 1.0, "a number in (0, 1]", self.gamma)
            .not_negative("kl_weight", self.kl_weight)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct Remax(RemaxConfig);

impl Learner for Remax {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`remax` needs a reward model"))?;
        let options = (&config.rollouts, &config.passes);
        let with_reference = config.kl_weight > 0.0;
        let models = OnPolicyModels::load(inputs.init, inputs.reference, with_reference, instructions, options, ctx)?;
        let reference = models.reference.as_ref();
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let (n_prompts, group) = (config.rollouts.prompts_per_step, config.rollouts.samples_per_prompt);
        let batch_size = config.rollouts.n_responses();
        let task = OnPolicyTask { learner: "remax", doing: "REINFORCE with a greedy baseline" };
        let optim = (&config.optim, config.rollouts.steps);
        let mut training =
            OnPolicy::start_policy(task, &sampler, reference, Some(&*reward_model), (1, batch_size), optim, (), ctx)?;
        while let Some(step) = training.next_step()? {
            let first = step * n_prompts as u64;
            let sampled = training.keep(sampler.sample(first, n_prompts, ctx))?;
            let greedy = training.keep(sampler.sample_greedy(first, n_prompts, ctx))?;
            let scores = training.keep(sampler.score(&sampled, reward_model, ctx))?;
            let baselines = training.keep(sampler.score(&greedy, reward_model, ctx))?;
            let advantages = greedy_advantages(&scores.rewards, &baselines.rewards, group, config.max_advantage);

            let partition = sampler.partition(&sampled.records, batch_size, step, 0, ctx);
            let (batch, entropy) = sampler.roll_out(&sampled.records, &partition, reference, None)?;
            let kl = batch.kl(config.kl_estimator);
            let n_level = advantages.iter().filter(|advantage| **advantage == 0.0).count();
            training.log(&[
                ("reward", scores.mean()),
                ("greedy_reward", baselines.mean()),
                ("kl", row_sums(&kl).iter().sum::<f64>() / batch.len() as f64),
                ("entropy", entropy),
                ("zero_advantages", n_level as f64 / advantages.len() as f64),
                ("score_secs", scores.secs + baselines.secs),
                ("greedy_secs", greedy.secs),
            ]);
            training.log(&sampled.scalars());
            let returns =
                greedy_baseline_returns(&advantages, &kl, &batch.lengths, config.gamma, config.kl_weight, config.kl_return);
            if returns.eq(0.0).all().int64_value(&[]) == 1 {
                training.idle("no response scored better or worse than the greedy one");
                training.end_step();
                continue;
            }

            let loss = |micro: &MicroBatch<'_>| return_loss(config.reduction, &batch, &returns, micro);
            let optim = &mut training.parts[0].optim;
            let update = update_policy(&sampler, &sampled.records, [partition], &format!("step {step}"), optim, loss)?;
            training.log(&update.scalars());
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&models.policy, &models.codec, "remax", ctx)
    }
}

/// Each response's reward less that of the greedy response to its prompt, at most `max` either way.
fn greedy_advantages(rewards: &[f64], baselines: &[f64], group: usize, max: f64) -> Vec<f64> {
    rewards.iter().enumerate().map(|(row, reward)| (reward - baselines[row / group]).clamp(-max, max)).collect()
}

/// The loss of some responses, with `returns` `[rollouts, tokens]`.
fn return_loss(reduction: Reduction, batch: &RolloutBatch, returns: &Tensor, micro: &MicroBatch<'_>) -> MicroLoss {
    let returns = batch.flat_rows(returns, micro.rows).to_device(micro.log_probs.device());
    let losses = reinforce_losses(micro.log_probs, &returns);
    MicroLoss { loss: reduction.reduce(&losses, &micro.lengths, micro.totals), numbers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::rl::advantage::per_token;
    use crate::testing::{
        Constant, Stage, assert_resumes_exactly, assert_same_step_however_split, fast_optim, first_and_last, instructions,
        learn_from_prompts, learn_to_like_e, lively_checkpoint, small_lora, split_step, tiny_checkpoint,
    };
    use crate::training::step_totals;

    fn config() -> RemaxConfig {
        let rollouts = RolloutOptions {
            steps: 6,
            prompts_per_step: 8,
            samples_per_prompt: 1,
            max_new_tokens: 8,
            save_every: 2,
            ..RolloutOptions::default()
        };
        RemaxConfig { rollouts, kl_weight: 0.01, optim: fast_optim(3e-3), ..RemaxConfig::default() }
    }

    #[test]
    fn advantages_are_differences_to_the_greedy_reward_within_the_bounds() {
        let advantages = greedy_advantages(&[1.0, -9.0, 0.4, 7.0], &[0.4, 0.5], 2, 5.0);
        assert!(advantages.iter().zip([0.6, -5.0, -0.1, 5.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{advantages:?}");
    }

    #[test]
    fn it_finds_the_answers_that_the_reward_model_likes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for kl_return in [KlReturn::OneStep, KlReturn::FullStep] {
            let rollouts = RolloutOptions { steps: 40, prompts_per_step: 32, ..config().rollouts };
            let config = RemaxConfig { rollouts, kl_return, kl_weight: 1e-3, optim: fast_optim(3e-2), ..config() };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
            let (first, last) = first_and_last(&events, "remax/reward", 4);
            assert!(first < 0.2 && last > 0.6, "{kl_return:?}: {first} to {last}");
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (init, instructions, ctx) = (tiny_checkpoint(&stage), instructions(8), stage.context(&NoEvents));
        for reduction in [Reduction::TokenMean, Reduction::SeqSum] {
            assert_same_step_however_split(1e-5, |passes| {
                let config = RemaxConfig { passes, ..config() };
                let options = (&config.rollouts, &config.passes);
                let models = OnPolicyModels::load(&init, None, false, &instructions, options, &ctx).expect("loaded");
                let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
                let records = sampler.sample(0, 8, &ctx).expect("sampled").records;
                let rows: Vec<usize> = (0..8).rev().collect();
                let (batch, _) = sampler.roll_out(&records, &vec![vec![rows.clone()]], None, None).expect("measured");
                let returns = per_token(&[1.0, -0.5, 0.3, 0.0, 2.0, -1.0, 0.1, 0.7], &batch.mask);
                let totals = step_totals(&sampler, &records, &rows);
                let loss = |micro: &MicroBatch<'_>| return_loss(reduction, &batch, &returns, micro);
                split_step(&sampler, &records, &rows, totals, loss)
            });
        }
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_adapters() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        assert_resumes_exactly("remax/reward", 3, |ctx| learn_to_like_e(&config(), &init, ctx));
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let adapted = RemaxConfig { passes: PassOptions { lora, ..PassOptions::default() }, ..config() };
        assert_resumes_exactly("remax/reward", 3, |ctx| learn_to_like_e(&adapted, &init, ctx));
    }

    #[test]
    fn equal_rewards_are_an_error_that_says_so() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let free = RemaxConfig { kl_weight: 0.0, ..config() };
        let error = learn_from_prompts(&free, 10, &init, &mut Constant, &stage.context(&NoEvents)).expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn options_out_of_range_are_located() {
        assert_eq!(RemaxConfig::default().problems(), []);
        let config = RemaxConfig { gamma: 0.0, max_advantage: -1.0, ..RemaxConfig::default() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["max_advantage", "gamma"]);
    }
}
