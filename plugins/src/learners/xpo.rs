//! Exploratory preference optimisation: online DPO against the reference's responses, with a bonus for leaving them.
//!
//! Xie et al. 2024, <https://arxiv.org/abs/2405.21046>, algorithm 1. Each round samples y from the policy and ỹ from the reference to
//! each prompt, asks a judge which is better, and takes one optimiser step on `−ln σ(β h) + α log π(ỹ)` with h the DPO margin of the
//! chosen over the rejected response. The second term lowers the probability of what the reference says, chosen or not, and so
//! keeps the policy exploring; with the reference as its own start it costs no more than online DPO.
//!
//! The paper's algorithm trains on the pairs of all rounds so far, to the end; here, as in TRL, a round is one step on its own pairs.
//! Ties are left out, and with them their bonus.

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    register,
};
use farmhand_models::{OptimConfig, Schedule, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::pairwise::{LogRatios, PairwiseLink};
use crate::training::{
    JudgedBy, JudgedPairs, MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, Opponent, PassOptions, Ranges,
    RolloutOptions, update_policy,
};

register! {
    kind: Learner, name: "xpo", config: XpoConfig,
    summary: "exploratory preference optimisation: own responses against the reference's, with optimism",
    paper: "https://arxiv.org/abs/2405.21046",
}

/// Options of `[learner.xpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct XpoConfig {
    /// Who says which of two responses is better.
    pub judge: JudgedBy,
    /// Strength β of the pull towards the reference policy, > 0.
    pub beta: f64,
    /// Weight α of the bonus for leaving the reference's responses, ≥ 0; with 0 it is online DPO against the reference. The paper has
    /// 1e-5 and lowers it from round to round.
    pub alpha: f64,
    /// The loss of a pair as a function of its log-ratios.
    pub link: PairwiseLink,
    /// Rounds and sampling; each round is one optimiser step on `samples_per_prompt` pairs a prompt.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// Records are pairs of responses. With `lora`, policy and reference share the weights; without dropout, for responses are
    /// sampled without it.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for XpoConfig {
    fn default() -> Self {
        Self {
            judge: JudgedBy::RewardModel,
            beta: 0.1,
            alpha: 1e-5,
            link: PairwiseLink::Logistic,
            rollouts: RolloutOptions { prompts_per_step: 32, samples_per_prompt: 1, ..RolloutOptions::default() },
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 5e-7, schedule: Schedule::Constant, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "xpo")]
impl LearnerConfig for XpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Xpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .positive("beta", self.beta)
            .not_negative("alpha", self.alpha)
            .rollouts(&self.rollouts, &self.passes)
            .judged(self.judge, self.rollouts.missing_end, Some(self.link))
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct Xpo(XpoConfig);

impl Learner for Xpo {
    fn requires(&self) -> Requirements {
        self.0.judge.required_in(Requirements::policy_from(FeedbackKind::Prompts))
    }

    fn learn(&mut self, mut inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let mut judge = config.judge.take("xpo", &mut inputs)?;
        let options = (&config.rollouts, &config.passes);
        let models = OnPolicyModels::load(inputs.init, inputs.reference, true, instructions, options, ctx)?;
        let reference = models.reference.as_ref().expect("it was asked for");
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let n_prompts = config.rollouts.prompts_per_step;
        let task = OnPolicyTask { learner: "xpo", doing: "exploratory preference optimisation" };
        let (largest, optim) = ((2, config.rollouts.n_responses()), (&config.optim, config.rollouts.steps));
        let mut training =
            OnPolicy::start_policy(task, &sampler, Some(reference), judge.reward_model(), largest, optim, (), ctx)?;
        while let Some(step) = training.next_step()? {
            let first = step * n_prompts as u64;
            let own = training.keep(sampler.sample(first, n_prompts, ctx))?;
            let others = training.keep(sampler.sample_opponent(Opponent::Model(reference), first, n_prompts, ctx))?;
            let verdicts = training.keep(judge.judge(&sampler, &own, &others, ctx))?;
            training.log(&own.scalars());
            training.log(&verdicts.scalars());
            if let Some([own, others]) = verdicts.rewards {
                training.log(&[("reward", own), ("reference_reward", others)]);
            }
            let pairs = JudgedPairs::new(&sampler, reference, [&own, &others], &verdicts, step, ctx)?;
            training.log(&[("pairs", pairs.records.len() as f64)]);
            if pairs.records.is_empty() {
                training.idle("the judge prefers neither response of any pair");
                training.end_step();
                continue;
            }

            let loss = |micro: &MicroBatch<'_>| pair_loss(config, &pairs, micro);
            let optim = &mut training.parts[0].optim;
            let partitions = [pairs.partition.clone()];
            let update = update_policy(&sampler, &pairs.records, partitions, &format!("step {step}"), optim, loss)?;
            training.log(&update.scalars());
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&models.policy, &models.codec, "xpo", ctx)
    }
}

/// The loss of some pairs.
fn pair_loss(config: &XpoConfig, pairs: &JudgedPairs, micro: &MicroBatch<'_>) -> MicroLoss {
    let (ratios, n) = (pairs.log_ratios(micro), micro.n_records as f64);
    let of_reference = pairs.second_log_probs(micro);
    let losses = optimistic_losses(config.link, &ratios, &of_reference, config.beta, config.alpha);
    let mut numbers = JudgedPairs::numbers(&ratios, config.beta, micro.n_records);
    numbers.push(("reference_log_prob", of_reference.detach().sum(Kind::Double) / n));
    MicroLoss { loss: losses.sum(Kind::Float) / n, numbers }
}

/// The losses `[pairs]`: the link's, plus α times the policy's log-probability of the reference's response `[pairs]`.
fn optimistic_losses(link: PairwiseLink, ratios: &LogRatios, of_reference: &Tensor, beta: f64, alpha: f64) -> Tensor {
    link.losses(ratios, beta) + of_reference * alpha
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::testing::{
        Constant, LikesE, PrefersE, Stage, assert_resumes_exactly, assert_same_step_however_split, fast_optim, first_and_last,
        instructions, learn_from_judges, learn_to_like_e, lively_checkpoint, small_lora, split_step, tiny_checkpoint,
    };
    use crate::training::{Verdicts, step_totals};

    fn config() -> XpoConfig {
        let rollouts = RolloutOptions {
            steps: 6,
            prompts_per_step: 5,
            samples_per_prompt: 1,
            max_new_tokens: 8,
            save_every: 2,
            ..RolloutOptions::default()
        };
        XpoConfig { rollouts, optim: fast_optim(3e-3), ..XpoConfig::default() }
    }

    #[test]
    fn the_loss_matches_the_goldens_and_ln_2_at_the_reference() {
        let losses = |chosen: &[f64], rejected: &[f64], of_reference: &[f64], alpha: f64| {
            let [chosen, rejected, of_reference] = [chosen, rejected, of_reference].map(Tensor::from_slice);
            let (zeros, ones) = (chosen.zeros_like(), chosen.ones_like());
            let ratios = LogRatios::new([&chosen, &rejected], [&zeros, &zeros], [&ones, &ones]);
            let losses = optimistic_losses(PairwiseLink::Logistic, &ratios, &of_reference, 0.1, alpha);
            losses.mean(Kind::Double).double_value(&[])
        };
        // Fixture A with the rejected response as the reference's.
        assert!((losses(&[0.4], &[-0.3], &[-3.1], 1e-5) - 0.658_729).abs() < 1e-6);
        // TRL: the policy's response chosen, then the reference's; their log-ratios from sums over three tokens.
        let trl = losses(&[-0.2, 0.2], &[0.1, -0.1], &[-3.8, -1.3], 1e-5);
        assert!((trl - 0.693_234_18).abs() < 1e-6, "{trl}");
        // Optimism pushes the reference's response down by α, whoever won; the rest of the slope is the link's.
        let slope = |alpha: f64| {
            let leaf = Tensor::from_slice(&[-3.1]).set_requires_grad(true);
            let (chosen, one) = (Tensor::from_slice(&[0.4]), Tensor::from_slice(&[1.0]));
            let ratios = LogRatios::new([&chosen, &(&leaf + 2.8)], [&chosen.zeros_like(), &chosen.zeros_like()], [&one, &one]);
            optimistic_losses(PairwiseLink::Logistic, &ratios, &leaf, 0.1, alpha).sum(Kind::Double).backward();
            leaf.grad().double_value(&[0])
        };
        assert!((slope(0.0) - 0.048_251).abs() < 1e-6 && (slope(0.3) - slope(0.0) - 0.3).abs() < 1e-9);
        assert!((losses(&[0.0], &[0.0], &[-3.0], 0.0) - std::f64::consts::LN_2).abs() < 1e-12);
    }

    #[test]
    fn it_finds_the_answers_that_either_judge_likes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for judge in [JudgedBy::RewardModel, JudgedBy::Annotator] {
            let rollouts = RolloutOptions { steps: 50, prompts_per_step: 20, ..config().rollouts };
            let config = XpoConfig { judge, rollouts, optim: fast_optim(1e-2), ..config() };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
            let loss = events.scalars("xpo/loss")[0].1;
            assert!((loss - std::f64::consts::LN_2).abs() < 1e-3, "at the reference the loss is about ln 2: {loss}");
            let (first, last) = first_and_last(&events, "xpo/first_preferred", 5);
            assert!(last > first + 0.3, "{judge:?}: {first} to {last}");
            if judge == JudgedBy::RewardModel {
                let (first, last) = first_and_last(&events, "xpo/reward", 5);
                assert!(first < 0.2 && last > 0.4, "{first} to {last}");
            }
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (init, instructions, ctx) = (tiny_checkpoint(&stage), instructions(8), stage.context(&NoEvents));
        assert_same_step_however_split(1e-5, |passes| {
            let config = XpoConfig { passes, alpha: 0.01, ..config() };
            let options = (&config.rollouts, &config.passes);
            let models = OnPolicyModels::load(&init, None, true, &instructions, options, &ctx).expect("loaded");
            let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
            let reference = models.reference.as_ref().expect("asked for");
            let own = sampler.sample(0, 8, &ctx).expect("sampled");
            let others = sampler.sample_opponent(Opponent::Model(reference), 0, 8, &ctx).expect("sampled");
            let p_first = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0].map(Some).to_vec();
            let verdicts = Verdicts { p_first, gaps: None, rewards: None };
            let pairs = JudgedPairs::new(&sampler, reference, [&own, &others], &verdicts, 0, &ctx).expect("measured");
            let rows: Vec<usize> = (0..pairs.records.len()).rev().collect();
            let totals = step_totals(&sampler, &pairs.records, &rows);
            let loss = |micro: &MicroBatch<'_>| pair_loss(&config, &pairs, micro);
            split_step(&sampler, &pairs.records, &rows, totals, loss)
        });
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_adapters() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        assert_resumes_exactly("xpo/pairs", 3, |ctx| learn_to_like_e(&config(), &init, ctx));
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let passes = PassOptions { lora, ..PassOptions::default() };
        let adapted = XpoConfig { passes, judge: JudgedBy::Annotator, ..config() };
        assert_resumes_exactly("xpo/pairs", 3, |ctx| learn_to_like_e(&adapted, &init, ctx));
    }

    #[test]
    fn failed_judgements_are_counted_and_ties_alone_are_an_error() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let (stage, events, failing) = (Stage::new(), RecordedEvents::default(), PrefersE { fails: 3 });
        let rollouts = RolloutOptions { prompts_per_step: 12, ..config().rollouts };
        let judged = XpoConfig { judge: JudgedBy::Annotator, rollouts, ..config() };
        learn_from_judges(&judged, 10, &init, (&mut LikesE, &failing), &stage.context(&events)).expect("learned");
        assert!(events.scalars("xpo/failed_judgements").iter().any(|(_, share)| *share > 0.0));
        let stage = Stage::new();
        let error =
            learn_from_judges(&config(), 10, &init, (&mut Constant, &failing), &stage.context(&NoEvents)).expect_err("ties");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn options_out_of_range_are_located() {
        assert_eq!(XpoConfig::default().problems(), []);
        let config = XpoConfig { alpha: -1.0, beta: 0.0, ..XpoConfig::default() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "alpha"]);
    }
}
