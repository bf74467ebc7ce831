//! Nash mirror descent from human feedback: the policy learns to beat a mixture of itself and the reference.
//!
//! Munos et al. 2023, <https://arxiv.org/abs/2312.00886>, section 6.2 (Nash-MD-PG). Each round samples y from the policy and y' from the
//! geometric mixture `π^(1−m) π_ref^m`, token by token, to each prompt, asks a judge for the probability P that y is better, and takes
//! one optimiser step on `−(P − ½) Σ_t log π(y_t) + β Σ_t sg(log π(y_t) − log π_ref(y_t)) log π(y_t)`, averaged over responses; sg carries
//! no gradient. With m = 0 the policy plays against itself (self-play), with m = 1 against the reference.
//!
//! P comes from a preference model or another annotator, graded or 0, ½, 1; or from a reward model as `σ(r − r')`. The opponent's
//! responses are never trained on.

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    register,
};
use farmhand_models::{OptimConfig, Schedule, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::rl::advantage::per_token;
use crate::rl::kl::KlEstimator;
use crate::rl::policy_gradient::reinforce_losses;
use crate::rl::reduction::Reduction;
use crate::rl::rollout::{RolloutBatch, row_sums};
use crate::training::{
    JudgedBy, MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, Opponent, PassOptions, Ranges, RolloutOptions,
    update_policy,
};

register! {
    kind: Learner, name: "nash_md", config: NashMdConfig,
    summary: "Nash mirror descent: the policy learns to beat a mixture of itself and the reference",
    paper: "https://arxiv.org/abs/2312.00886",
}

/// Options of `[learner.nash_md]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct NashMdConfig {
    /// Who says how likely a response is better than another.
    pub judge: JudgedBy,
    /// Weight m of the reference in the opponent, in [0, 1]; the paper's best is 0.125.
    pub mixture_weight: f64,
    /// Weight β of the divergence from the reference, ≥ 0; the paper has 0.008, TRL 0.1.
    pub kl_weight: f64,
    /// Rounds and sampling; each round is one optimiser step on `samples_per_prompt` responses a prompt, and as many of the opponent
    /// are sampled.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// Records are responses. With `lora`, policy and reference share the weights; without dropout, for responses are sampled
    /// without it.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for NashMdConfig {
    fn default() -> Self {
        Self {
            judge: JudgedBy::Annotator,
            mixture_weight: 0.125,
            kl_weight: 0.008,
            rollouts: RolloutOptions { prompts_per_step: 32, samples_per_prompt: 1, ..RolloutOptions::default() },
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 5e-7, schedule: Schedule::Constant, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "nash_md")]
impl LearnerConfig for NashMdConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(NashMd(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .fraction("mixture_weight", self.mixture_weight)
            .not_negative("kl_weight", self.kl_weight)
            .rollouts(&self.rollouts, &self.passes)
            .judged(self.judge, self.rollouts.missing_end, None)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct NashMd(NashMdConfig);

impl Learner for NashMd {
    fn requires(&self) -> Requirements {
        self.0.judge.required_in(Requirements::policy_from(FeedbackKind::Prompts))
    }

    fn learn(&mut self, mut inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let mut judge = config.judge.take("nash_md", &mut inputs)?;
        let options = (&config.rollouts, &config.passes);
        let models = OnPolicyModels::load(inputs.init, inputs.reference, true, instructions, options, ctx)?;
        let reference = models.reference.as_ref().expect("it was asked for");
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let n_prompts = config.rollouts.prompts_per_step;
        let task = OnPolicyTask { learner: "nash_md", doing: "Nash mirror descent" };
        let (largest, optim) = ((1, config.rollouts.n_responses()), (&config.optim, config.rollouts.steps));
        let opponent = Opponent::Mixture { with: reference, weight: config.mixture_weight };
        let mut training =
            OnPolicy::start_policy(task, &sampler, Some(reference), judge.reward_model(), largest, optim, (), ctx)?;
        while let Some(step) = training.next_step()? {
            let first = step * n_prompts as u64;
            let own = training.keep(sampler.sample(first, n_prompts, ctx))?;
            let others = training.keep(sampler.sample_opponent(opponent, first, n_prompts, ctx))?;
            let verdicts = training.keep(judge.judge(&sampler, &own, &others, ctx))?;
            training.log(&own.scalars());
            training.log(&verdicts.scalars());
            if let Some([own, others]) = verdicts.rewards {
                training.log(&[("reward", own), ("opponent_reward", others)]);
            }
            let judged: Vec<usize> = (0..verdicts.p_first.len()).filter(|&row| verdicts.p_first[row].is_some()).collect();
            let gains: Vec<f64> = verdicts.p_first.iter().flatten().map(|p| p - 0.5).collect();
            training.log(&[("win_rate", 0.5 + gains.iter().sum::<f64>() / gains.len().max(1) as f64)]);
            if judged.is_empty() || (config.kl_weight == 0.0 && gains.iter().all(|gain| *gain == 0.0)) {
                training.idle("the judge prefers neither response of any pair");
                training.end_step();
                continue;
            }

            let records = own.only(&judged).records;
            let partition = sampler.partition(&records, records.len(), step, 0, ctx);
            let (batch, entropy) = sampler.roll_out(&records, &partition, Some(reference), None)?;
            let kl = batch.kl(KlEstimator::K1);
            let kl_of_response = row_sums(&kl).iter().sum::<f64>() / batch.len() as f64;
            training.log(&[("kl", kl_of_response), ("entropy", entropy)]);
            let advantages = advantages(&gains, &kl, &batch.mask, config.kl_weight);
            let loss = |micro: &MicroBatch<'_>| gain_loss(&batch, &advantages, micro);
            let optim = &mut training.parts[0].optim;
            let update = update_policy(&sampler, &records, [partition], &format!("step {step}"), optim, loss)?;
            training.log(&update.scalars());
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&models.policy, &models.codec, "nash_md", ctx)
    }
}

/// What multiplies `−log π(y_t)`, `[rollouts, tokens]`: `(P − ½) − β (log π(y_t) − log π_ref(y_t))`, from `gains` P − ½ a response and `kl`
/// `[rollouts, tokens]`.
fn advantages(gains: &[f64], kl: &Tensor, mask: &Tensor, kl_weight: f64) -> Tensor {
    per_token(gains, mask) - kl * kl_weight
}

/// The loss of some responses, summed over each one's tokens and averaged over responses.
fn gain_loss(batch: &RolloutBatch, advantages: &Tensor, micro: &MicroBatch<'_>) -> MicroLoss {
    let advantages = batch.flat_rows(advantages, micro.rows).to_device(micro.log_probs.device());
    let losses = reinforce_losses(micro.log_probs, &advantages);
    MicroLoss { loss: Reduction::SeqSum.reduce(&losses, &micro.lengths, micro.totals), numbers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::LoraConfig;
    use tch::Kind;

    use super::*;
    use crate::rl::reward_shaping::MissingEnd;
    use crate::testing::{
        Constant, LikesE, PrefersE, Stage, assert_resumes_exactly, assert_same_step_however_split, fast_optim, first_and_last,
        instructions, learn_from_judges, learn_to_like_e, lively_checkpoint, small_lora, split_step, tiny_checkpoint,
    };
    use crate::training::step_totals;

    fn config() -> NashMdConfig {
        let rollouts = RolloutOptions {
            steps: 6,
            prompts_per_step: 5,
            samples_per_prompt: 1,
            max_new_tokens: 8,
            save_every: 2,
            ..RolloutOptions::default()
        };
        NashMdConfig { rollouts, optim: fast_optim(3e-3), ..NashMdConfig::default() }
    }

    #[test]
    fn the_loss_matches_the_goldens() {
        let loss = |log_probs: &[f64], reference: &[f64], p: &[f64]| {
            let rows = p.len() as i64;
            let [log_probs, reference] = [log_probs, reference].map(|values| Tensor::from_slice(values).view([rows, -1]));
            let gains: Vec<f64> = p.iter().map(|p| p - 0.5).collect();
            let weights = advantages(&gains, &(&log_probs - reference), &log_probs.ones_like(), 0.1);
            reinforce_losses(&log_probs, &weights).sum(Kind::Double).double_value(&[]) / rows as f64
        };
        // Fixture A's chosen response.
        assert!((loss(&[-0.5, -1.0, -0.3], &[-0.7, -1.1, -0.4], &[0.7]) - 0.337).abs() < 1e-6);
        // TRL: two responses, the second of two tokens and a padded cell of 0.
        let (log_probs, reference) = ([-1.0, -2.0, -0.5, -0.3, -0.7, 0.0], [-1.2, -1.5, -0.6, -0.4, -0.5, 0.0]);
        assert!((loss(&log_probs, &reference, &[0.8, 0.3]) - 0.468).abs() < 1e-6);
        // The gradient has no part through the factors: −(P − ½) + β (log π − log π_ref) a token.
        let leaf = Tensor::from_slice(&[-0.5, -1.0, -0.3]).view([1, 3]).set_requires_grad(true);
        let kl = leaf.detach() - Tensor::from_slice(&[-0.7, -1.1, -0.4]).view([1, 3]);
        let weights = advantages(&[0.2], &kl, &leaf.ones_like(), 0.1);
        reinforce_losses(&leaf, &weights).sum(Kind::Double).backward();
        let gradient = Vec::<f64>::try_from(leaf.grad().view([-1])).expect("numbers");
        assert!(gradient.iter().zip([-0.18, -0.19, -0.19]).all(|(a, b)| (a - b).abs() < 1e-9), "{gradient:?}");
    }

    #[test]
    fn it_learns_to_win_against_the_reference_and_to_find_what_the_judge_likes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for (judge, mixture_weight) in [(JudgedBy::Annotator, 1.0), (JudgedBy::RewardModel, 0.125)] {
            let rollouts = RolloutOptions { steps: 50, prompts_per_step: 32, ..config().rollouts };
            let optim = fast_optim(3e-2);
            let config = NashMdConfig { judge, mixture_weight, rollouts, kl_weight: 1e-4, optim, ..config() };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
            assert_eq!(events.scalars("nash_md/kl")[0].1, 0.0);
            match judge {
                JudgedBy::Annotator => {
                    let (first, last) = first_and_last(&events, "nash_md/win_rate", 5);
                    assert!((0.35..0.65).contains(&first) && last > 0.8, "{first} to {last}");
                }
                JudgedBy::RewardModel => {
                    let (first, last) = first_and_last(&events, "nash_md/reward", 5);
                    assert!(first < 0.2 && last > 0.4, "{first} to {last}");
                }
            }
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (init, instructions, ctx) = (tiny_checkpoint(&stage), instructions(8), stage.context(&NoEvents));
        assert_same_step_however_split(1e-5, |passes| {
            let config = NashMdConfig { passes, ..config() };
            let options = (&config.rollouts, &config.passes);
            let models = OnPolicyModels::load(&init, None, false, &instructions, options, &ctx).expect("loaded");
            let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
            let records = sampler.sample(0, 8, &ctx).expect("sampled").records;
            let rows: Vec<usize> = (0..8).rev().collect();
            let (batch, _) = sampler.roll_out(&records, &vec![vec![rows.clone()]], None, None).expect("measured");
            let gains = [0.5, -0.5, 0.3, 0.0, 0.1, -0.2, 0.4, -0.1];
            let weights = advantages(&gains, &(&batch.mask * 0.3), &batch.mask, 0.1);
            let totals = step_totals(&sampler, &records, &rows);
            let loss = |micro: &MicroBatch<'_>| gain_loss(&batch, &weights, micro);
            split_step(&sampler, &records, &rows, totals, loss)
        });
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_adapters_and_failing_judgements() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let failing = PrefersE { fails: 3 };
        assert_resumes_exactly("nash_md/win_rate", 3, |ctx| {
            learn_from_judges(&config(), 10, &init, (&mut LikesE, &failing), ctx)
        });
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let passes = PassOptions { lora, ..PassOptions::default() };
        let adapted = NashMdConfig { passes, judge: JudgedBy::RewardModel, ..config() };
        assert_resumes_exactly("nash_md/win_rate", 3, |ctx| learn_to_like_e(&adapted, &init, ctx));
    }

    #[test]
    fn ties_alone_are_an_error_without_a_divergence_and_a_judge_that_is_out_is_always() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let out = PrefersE { fails: 1 };
        let free = NashMdConfig { judge: JudgedBy::RewardModel, kl_weight: 0.0, ..config() };
        let stage = Stage::new();
        let error = learn_from_judges(&free, 10, &init, (&mut Constant, &out), &stage.context(&NoEvents)).expect_err("ties");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let stage = Stage::new();
        let error = learn_from_judges(&config(), 10, &init, (&mut Constant, &out), &stage.context(&NoEvents)).expect_err("out");
        assert_eq!(error.kind(), ErrorKind::RemoteService);
    }

    #[test]
    fn options_out_of_range_are_located() {
        assert_eq!(NashMdConfig::default().problems(), []);
        let rollouts = RolloutOptions { missing_end: MissingEnd::Replace(-1.0), ..RolloutOptions::default() };
        let config = NashMdConfig { mixture_weight: 1.5, rollouts, ..NashMdConfig::default() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["mixture_weight", "missing_end"]);
    }
}
