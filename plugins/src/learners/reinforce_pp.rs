//! REINFORCE++: PPO without a value model; returns are whitened over the whole round.
//!
//! Hu 2025, <https://arxiv.org/abs/2501.03262>, algorithm 1. Each round samples responses and rewards their tokens with `−β kl_t`
//! plus the score at the last token, as PPO does; the return of a token is `R_t = r_t + γ R_{t+1}`, its advantage the return brought
//! to mean 0 and variance 1 over all tokens of the round, and the loss PPO's clipped surrogate, averaged over tokens.
//!
//! The preset `baseline` is the paper's REINFORCE++-Baseline: several responses to a prompt, whose mean score is subtracted from each
//! before the round is whitened, and the divergence (k2) in the loss instead of the reward.

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{OptimConfig, Schedule, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::advantage::{GroupAdvantage, discounted_returns};
use crate::rl::kl::{KlEstimator, KlPlacement};
use crate::rl::masked::Whitening;
use crate::rl::policy_gradient::clipped_policy_loss;
use crate::rl::reduction::Reduction;
use crate::rl::reward_shaping::token_rewards;
use crate::rl::rollout::{RolloutBatch, row_sums};
use crate::training::{
    MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, PassOptions, Ranges, RolloutOptions, update_policy,
};

register! {
    kind: Learner, name: "reinforce_pp", config: ReinforcePpConfig,
    summary: "REINFORCE++: returns whitened over the round, clipped as in PPO", paper: "https://arxiv.org/abs/2501.03262",
    presets: { "baseline": "REINFORCE++-Baseline: the group's mean subtracted first" => ReinforcePpConfig::baseline() },
}

/// What is subtracted from a response's score before the round is whitened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Nothing.
    #[default]
    None,
    /// The mean score of the responses to its prompt.
    GroupMean,
}

/// Options of `[learner.reinforce_pp]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ReinforcePpConfig {
    /// Rounds and sampling. The paper has 1024 responses a round, one to a prompt; with a baseline several.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// What is subtracted from a response's score first.
    pub baseline: Baseline,
    /// Weight β of the divergence from the reference, ≥ 0; 0 needs no reference. The paper has 0.01, and less for reasoning.
    pub kl_weight: f64,
    /// How the divergence is estimated per token.
    pub kl_estimator: KlEstimator,
    /// Where it counts; in the reward, token by token.
    pub kl_placement: KlPlacement,
    /// Discount γ per token, in [0, 1].
    pub gamma: f64,
    /// How returns become advantages.
    pub whitening: Whitening,
    /// How far from 1 the probability ratio may go before its gradient vanishes, > 0.
    pub clip: f64,
    /// How token losses become one number per optimiser step.
    pub reduction: Reduction,
    /// Responses per optimiser step, ≥ 1; a round's last step may have fewer. The paper has 128.
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

impl Default for ReinforcePpConfig {
    fn default() -> Self {
        Self {
            rollouts: RolloutOptions { prompts_per_step: 128, samples_per_prompt: 1, ..RolloutOptions::default() },
            baseline: Baseline::None,
            kl_weight: 0.01,
            kl_estimator: KlEstimator::K1,
            kl_placement: KlPlacement::Reward,
            gamma: 1.0,
            whitening: Whitening::TokensPopulation,
            clip: 0.2,
            reduction: Reduction::TokenMean,
            batch_size: 64,
            inner_epochs: 1,
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 5e-7, schedule: Schedule::Constant, ..OptimConfig::default() },
        }
    }
}

impl ReinforcePpConfig {
    /// REINFORCE++-Baseline.
    pub fn baseline() -> Self {
        Self {
            rollouts: RolloutOptions { prompts_per_step: 32, samples_per_prompt: 4, ..RolloutOptions::default() },
            baseline: Baseline::GroupMean,
            kl_estimator: KlEstimator::K2,
            kl_placement: KlPlacement::Loss,
            ..Self::default()
        }
    }
}

#[typetag::serde(name = "reinforce_pp")]
impl LearnerConfig for ReinforcePpConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(ReinforcePp(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let n = self.rollouts.samples_per_prompt;
        let drifts = self.kl_placement == KlPlacement::Loss && self.kl_weight > 0.0 && self.kl_estimator == KlEstimator::K1;
        Ranges::new()
            .rollouts(&self.rollouts, &self.passes)
            .require("samples_per_prompt", n > 1 || self.baseline == Baseline::None, "at least 2, for a `baseline`", n)
            .not_negative("kl_weight", self.kl_weight)
            .require("kl_estimator", !drifts, "`k2` or `k3` in the loss, for there the gradient of `k1` is 0 on average", "`k1`")
            .fraction("gamma", self.gamma)
            .positive("clip", self.clip)
            .at_least_one("batch_size", self.batch_size)
            .at_least_one("inner_epochs", self.inner_epochs as usize)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct ReinforcePp(ReinforcePpConfig);

impl Learner for ReinforcePp {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`reinforce_pp` needs a reward model"))?;
        let options = (&config.rollouts, &config.passes);
        let with_reference = config.kl_weight > 0.0;
        let models = OnPolicyModels::load(inputs.init, inputs.reference, with_reference, instructions, options, ctx)?;
        let reference = models.reference.as_ref();
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let n_prompts = config.rollouts.prompts_per_step;
        let task = OnPolicyTask { learner: "reinforce_pp", doing: "REINFORCE++" };
        let batch_size = config.batch_size.min(config.rollouts.n_responses());
        let optim = (&config.optim, config.rollouts.n_optimiser_steps(config.batch_size, config.inner_epochs));
        let mut training =
            OnPolicy::start_policy(task, &sampler, reference, Some(&*reward_model), (1, batch_size), optim, (), ctx)?;
        while let Some(step) = training.next_step()? {
            let sampled = training.keep(sampler.sample(step * n_prompts as u64, n_prompts, ctx))?;
            let scores = training.keep(sampler.score(&sampled, reward_model, ctx))?;
            let partition = |epoch| sampler.partition(&sampled.records, config.batch_size, step, epoch, ctx);
            let width = (config.whitening == Whitening::AllCells).then_some(config.rollouts.max_new_tokens as usize);
            let (batch, entropy) = sampler.roll_out(&sampled.records, &partition(0), reference, width)?;
            let returns = returns(config, &batch, &scores.rewards);
            let advantages = config.whitening.apply(&returns, &batch.mask, false);
            let kl = row_sums(&batch.kl(config.kl_estimator));
            training.log(&[
                ("reward", scores.mean()),
                ("return", row_sums(&returns).iter().sum::<f64>() / batch.lengths.iter().sum::<usize>() as f64),
                ("kl", kl.iter().sum::<f64>() / kl.len() as f64),
                ("entropy", entropy),
                ("score_secs", scores.secs),
            ]);
            training.log(&sampled.scalars());
            let in_loss = config.kl_placement == KlPlacement::Loss && with_reference;
            if !in_loss && advantages.abs().max().double_value(&[]) == 0.0 {
                training.idle("all returns are the same");
                training.end_step();
                continue;
            }

            let loss = |micro: &MicroBatch<'_>| token_loss(config, &batch, &advantages, micro);
            let partitions = (0..config.inner_epochs).map(partition);
            let optim = &mut training.parts[0].optim;
            let update = update_policy(&sampler, &sampled.records, partitions, &format!("step {step}"), optim, loss)?;
            training.log(&update.scalars());
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&models.policy, &models.codec, "reinforce_pp", ctx)
    }
}

/// The return of each token, `[rollouts, tokens]`, of responses with these scores.
fn returns(config: &ReinforcePpConfig, batch: &RolloutBatch, scores: &[f64]) -> Tensor {
    let scores = match config.baseline {
        Baseline::None => scores.to_vec(),
        Baseline::GroupMean => GroupAdvantage::GroupMean.of(scores, config.rollouts.samples_per_prompt),
    };
    let weight = if config.kl_placement == KlPlacement::Reward { config.kl_weight } else { 0.0 };
    let rewards = token_rewards(&Tensor::from_slice(&scores), &batch.kl(config.kl_estimator), &batch.lengths, weight);
    discounted_returns(&rewards, config.gamma)
}

/// The loss of some responses, with `advantages` `[rollouts, tokens]`.
fn token_loss(config: &ReinforcePpConfig, batch: &RolloutBatch, advantages: &Tensor, micro: &MicroBatch<'_>) -> MicroLoss {
    let flat = |block: &Tensor| batch.flat_rows(block, micro.rows).to_device(micro.log_probs.device());
    let mean = |values: &Tensor| values.sum(Kind::Double) / micro.totals.n_tokens as f64;
    let policy = clipped_policy_loss(micro.log_probs, &flat(&batch.log_probs), &flat(advantages), config.clip);
    let mut numbers = vec![("clip_fraction", mean(&policy.clipped)), ("approx_kl", mean(&policy.approx_kl))];
    let mut losses = policy.losses;
    if config.kl_placement == KlPlacement::Loss && config.kl_weight > 0.0 {
        let kl = config.kl_estimator.per_token(micro.log_probs, &flat(&batch.reference_log_probs));
        numbers.push(("kl_loss", mean(&kl.detach())));
        losses += kl * config.kl_weight;
    }
    MicroLoss { loss: config.reduction.reduce(&losses, &micro.lengths, micro.totals), numbers }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::{BatchLayout, LoraConfig};

    use super::*;
    use crate::rl::advantage::per_token;
    use crate::testing::{
        Constant, SPLITS, Stage, assert_resumes_exactly, assert_same_gradients, fast_optim, first_and_last, instructions,
        learn_from_prompts, learn_to_like_e, lively_checkpoint, small_lora, take_gradients, tiny_checkpoint,
    };
    use crate::training::{micro_step, step_totals};

    fn small(config: ReinforcePpConfig) -> ReinforcePpConfig {
        let rollouts = RolloutOptions {
            steps: 6,
            prompts_per_step: 8 / config.rollouts.samples_per_prompt,
            max_new_tokens: 8,
            save_every: 2,
            ..config.rollouts
        };
        ReinforcePpConfig { rollouts, batch_size: 4, optim: fast_optim(3e-3), ..config }
    }

    #[test]
    fn returns_match_the_golden_and_a_baseline_is_subtracted_from_the_scores() {
        // Fixture D's old log-probabilities and fixture A's reference; the whitened ones stand in `rl::advantage`.
        let old = Tensor::from_slice(&[-0.9f32, -1.0, -0.2, -0.6, -0.4, -1.2, -0.9]);
        let reference = Tensor::from_slice(&[-0.7f32, -1.1, -0.4, -0.8, -0.5, -1.0, -0.5]);
        let batch = RolloutBatch::new(4, vec![3, 4], &old, &reference);
        let config = ReinforcePpConfig::default();
        let assert_close = |got: Tensor, golden: [f32; 8]| {
            let got = Vec::<f32>::try_from(got.view(-1)).expect("numbers");
            assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?} is not {golden:?}");
        };
        let golden = [0.999, 0.997, 0.998, 0.0, -0.497, -0.495, -0.494, -0.496];
        let plain = returns(&config, &batch, &[1.0, -0.5]);
        assert_close(
            config.whitening.apply(&plain, &batch.mask, false),
            [1.156_052, 1.153_346, 1.154_699, 0.0, -0.868_054, -0.865_348, -0.863_995, -0.866_701],
        );
        assert_close(plain, golden);
        let baseline = ReinforcePpConfig {
            rollouts: RolloutOptions { samples_per_prompt: 2, ..config.rollouts },
            ..ReinforcePpConfig::baseline()
        };
        assert_close(returns(&baseline, &batch, &[1.0, -0.5]), [0.75, 0.75, 0.75, 0.0, -0.75, -0.75, -0.75, -0.75]);
    }

    #[test]
    fn it_finds_the_answers_that_the_reward_model_likes_with_and_without_a_baseline() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for preset in [ReinforcePpConfig::default(), ReinforcePpConfig::baseline()] {
            let config = small(preset);
            let rollouts =
                RolloutOptions { steps: 30, prompts_per_step: 4 * config.rollouts.prompts_per_step, ..config.rollouts };
            let config = ReinforcePpConfig { rollouts, batch_size: 16, inner_epochs: 2, optim: fast_optim(2e-2), ..config };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
            let (first, last) = first_and_last(&events, "reinforce_pp/reward", 4);
            assert!(first < 0.2 && last > 0.6, "{:?}: {first} to {last}", config.baseline);
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (init, instructions, ctx) = (tiny_checkpoint(&stage), instructions(8), stage.context(&NoEvents));
        for preset in
            [ReinforcePpConfig::default(), ReinforcePpConfig { reduction: Reduction::SeqMean, ..ReinforcePpConfig::baseline() }]
        {
            let gradients = |layout, size, tokens| {
                let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
                let config = ReinforcePpConfig { passes, ..small(preset.clone()) };
                let options = (&config.rollouts, &config.passes);
                let models = OnPolicyModels::load(&init, None, true, &instructions, options, &ctx).expect("loaded");
                let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
                let records = sampler.sample(0, config.rollouts.prompts_per_step, &ctx).expect("sampled").records;
                let rows: Vec<usize> = (0..8).rev().collect();
                let all = vec![vec![rows.clone()]];
                let (mut batch, _) = sampler.roll_out(&records, &all, models.reference.as_ref(), None).expect("measured");
                batch.reference_log_probs = &batch.reference_log_probs - (&batch.mask * 0.3);
                let advantages = per_token(&[1.0, -0.5, 0.3, 0.0, 2.0, -1.0, 0.1, 0.7], &batch.mask);
                let totals = step_totals(&sampler, &records, &rows);
                let mut loss = |micro: &MicroBatch<'_>| token_loss(&config, &batch, &advantages, micro);
                let mut total = 0.0;
                for rows in sampler.passes.micro_batching(tch::Device::Cpu).groups(&records, &rows) {
                    let (told, _) = micro_step(&sampler, &records, &rows, totals, 8, &mut loss).expect("run");
                    total += told.double_value(&[0]);
                }
                (total, take_gradients(&models.policy.trained()))
            };
            let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
            for (layout, size, tokens) in SPLITS {
                let (same_loss, same) = gradients(layout, size, tokens);
                assert!((loss - same_loss).abs() < 1e-5 * loss.abs().max(1.0), "{loss} {same_loss}");
                assert_same_gradients(&same, &expected, 1e-5);
            }
        }
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_adapters() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let run = |config: &ReinforcePpConfig| {
            assert_resumes_exactly("reinforce_pp/reward", 3, |ctx| learn_to_like_e(config, &init, ctx));
        };
        run(&small(ReinforcePpConfig::default()));
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let passes = PassOptions { lora, ..PassOptions::default() };
        run(&ReinforcePpConfig { passes, ..small(ReinforcePpConfig::baseline()) });
    }

    #[test]
    fn equal_rewards_are_an_error_that_says_so() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let free = ReinforcePpConfig { kl_weight: 0.0, ..small(ReinforcePpConfig::baseline()) };
        let error = learn_from_prompts(&free, 10, &init, &mut Constant, &stage.context(&NoEvents)).expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        let paths = |config: ReinforcePpConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(ReinforcePpConfig::default()), [""; 0]);
        assert_eq!(paths(ReinforcePpConfig::baseline()), [""; 0]);
        let alone = ReinforcePpConfig { baseline: Baseline::GroupMean, ..ReinforcePpConfig::default() };
        assert_eq!(paths(alone), ["samples_per_prompt"]);
        let k1 = ReinforcePpConfig { kl_placement: KlPlacement::Loss, ..ReinforcePpConfig::default() };
        assert_eq!(paths(k1), ["kl_estimator"]);
    }
}
