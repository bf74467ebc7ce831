//! Online direct preference optimisation: pairs of the policy's own responses, judged as they are made.
//!
//! Guo et al. 2024, <https://arxiv.org/abs/2402.04792>, algorithm 1 (direct alignment from AI feedback, online). Each round samples two
//! responses to each prompt, asks a judge which is better, and takes one optimiser step on the DPO loss `−ln σ(β h)`, with
//! `h = [log π(y_w) − log π_ref(y_w)] − [log π(y_l) − log π_ref(y_l)]` and a reference that stays where the policy began. Other losses
//! of the same log-ratios are links, as for `dpo`.
//!
//! The judge is the reward model or an annotator. Ties are left out, where other implementations take the first response.

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    register,
};
use farmhand_models::{OptimConfig, Schedule, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::rl::pairwise::PairwiseLink;
use crate::training::{
    JudgedBy, JudgedPairs, MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, PassOptions, Ranges, RolloutOptions,
    update_policy,
};

register! {
    kind: Learner, name: "online_dpo", config: OnlineDpoConfig,
    summary: "direct preference optimisation on the policy's own responses, judged as they are made",
    paper: "https://arxiv.org/abs/2402.04792",
}

/// Options of `[learner.online_dpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct OnlineDpoConfig {
    /// Who says which of two responses is better.
    pub judge: JudgedBy,
    /// Strength β of the pull towards the reference policy, > 0.
    pub beta: f64,
    /// The loss of a pair as a function of its log-ratios.
    pub link: PairwiseLink,
    /// Rounds and sampling; each round is one optimiser step, and `samples_per_prompt` is 2. The paper has 128 prompts a round and a
    /// temperature of 0.9.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// Records are pairs of responses. With `lora`, policy and reference share the weights; without dropout, for responses are
    /// sampled without it.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for OnlineDpoConfig {
    fn default() -> Self {
        Self {
            judge: JudgedBy::RewardModel,
            beta: 0.1,
            link: PairwiseLink::Logistic,
            rollouts: RolloutOptions {
                prompts_per_step: 32,
                samples_per_prompt: 2,
                temperature: 0.9,
                ..RolloutOptions::default()
            },
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 5e-7, schedule: Schedule::Constant, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "online_dpo")]
impl LearnerConfig for OnlineDpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(OnlineDpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let n = self.rollouts.samples_per_prompt;
        Ranges::new()
            .positive("beta", self.beta)
            .rollouts(&self.rollouts, &self.passes)
            .require("samples_per_prompt", n == 2, "2 responses to compare", n)
            .judged(self.judge, self.rollouts.missing_end, Some(self.link))
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct OnlineDpo(OnlineDpoConfig);

impl Learner for OnlineDpo {
    fn requires(&self) -> Requirements {
        self.0.judge.required_in(Requirements::policy_from(FeedbackKind::Prompts))
    }

    fn learn(&mut self, mut inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let mut judge = config.judge.take("online_dpo", &mut inputs)?;
        let options = (&config.rollouts, &config.passes);
        let models = OnPolicyModels::load(inputs.init, inputs.reference, true, instructions, options, ctx)?;
        let reference = models.reference.as_ref().expect("it was asked for");
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let n_prompts = config.rollouts.prompts_per_step;
        let task = OnPolicyTask { learner: "online_dpo", doing: "online preference optimisation" };
        let optim = (&config.optim, config.rollouts.steps);
        let mut training =
            OnPolicy::start_policy(task, &sampler, Some(reference), judge.reward_model(), (2, n_prompts), optim, (), ctx)?;
        while let Some(step) = training.next_step()? {
            let sampled = training.keep(sampler.sample(step * n_prompts as u64, n_prompts, ctx))?;
            let [first, second] = [0, 1].map(|sample| sampled.only(&(0..n_prompts).map(|i| 2 * i + sample).collect::<Vec<_>>()));
            let verdicts = training.keep(judge.judge(&sampler, &first, &second, ctx))?;
            training.log(&sampled.scalars());
            training.log(&verdicts.scalars());
            if let Some([first, second]) = verdicts.rewards {
                training.log(&[("reward", 0.5 * (first + second))]);
            }
            let pairs = JudgedPairs::new(&sampler, reference, [&first, &second], &verdicts, step, ctx)?;
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
        save_checkpoint(&models.policy, &models.codec, "online_dpo", ctx)
    }
}

/// The loss of some pairs.
fn pair_loss(config: &OnlineDpoConfig, pairs: &JudgedPairs, micro: &MicroBatch<'_>) -> MicroLoss {
    let ratios = pairs.log_ratios(micro);
    MicroLoss {
        loss: config.link.losses(&ratios, config.beta).sum(Kind::Float) / micro.n_records as f64,
        numbers: JudgedPairs::numbers(&ratios, config.beta, micro.n_records),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::rl::pairwise::LengthScale;
    use crate::rl::reward_shaping::MissingEnd;
    use crate::testing::{
        Constant, LikesE, PrefersE, Stage, assert_resumes_exactly, assert_same_step_however_split, fast_optim, first_and_last,
        instructions, learn_from_judges, learn_to_like_e, lively_checkpoint, small_lora, split_step, tiny_checkpoint,
    };
    use crate::training::{Verdicts, step_totals};

    fn config() -> OnlineDpoConfig {
        let rollouts = RolloutOptions {
            steps: 6,
            prompts_per_step: 4,
            samples_per_prompt: 2,
            max_new_tokens: 8,
            save_every: 2,
            ..RolloutOptions::default()
        };
        OnlineDpoConfig { rollouts, optim: fast_optim(3e-3), ..OnlineDpoConfig::default() }
    }

    fn with_annotator() -> OnlineDpoConfig {
        OnlineDpoConfig { judge: JudgedBy::Annotator, ..config() }
    }

    #[test]
    fn it_finds_the_answers_that_either_judge_likes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for config in [config(), with_annotator()] {
            let rollouts = RolloutOptions { steps: 60, prompts_per_step: 16, ..config.rollouts };
            let config = OnlineDpoConfig { rollouts, optim: fast_optim(1e-2), ..config };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let learned = learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
            let loss = events.scalars("online_dpo/loss")[0].1;
            assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "at the reference the loss is ln 2: {loss}");
            // What the new policy answers, scored.
            let again = OnlineDpoConfig {
                judge: JudgedBy::RewardModel,
                rollouts: RolloutOptions { steps: 1, ..config.rollouts.clone() },
                ..config.clone()
            };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let result = learn_to_like_e(&again, &learned, &stage.context(&events));
            let (reward, _) = first_and_last(&events, "online_dpo/reward", 1);
            assert!(reward > 0.5, "{:?}: {reward} {result:?}", config.judge);
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (init, instructions, ctx) = (tiny_checkpoint(&stage), instructions(8), stage.context(&NoEvents));
        for link in [PairwiseLink::Logistic, PairwiseLink::Ipo { log_ratios: LengthScale::Mean }] {
            assert_same_step_however_split(1e-5, |passes| {
                let config = OnlineDpoConfig { passes, link, ..config() };
                let options = (&config.rollouts, &config.passes);
                let models = OnPolicyModels::load(&init, None, true, &instructions, options, &ctx).expect("loaded");
                let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
                let reference = models.reference.as_ref().expect("asked for");
                let sampled = sampler.sample(0, 8, &ctx).expect("sampled");
                let [first, second] = [0, 1].map(|side| sampled.only(&(0..8).map(|i| 2 * i + side).collect::<Vec<_>>()));
                let p_first = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0].map(Some).to_vec();
                let verdicts = Verdicts { p_first, gaps: None, rewards: None };
                let pairs = JudgedPairs::new(&sampler, reference, [&first, &second], &verdicts, 0, &ctx).expect("measured");
                let rows: Vec<usize> = (0..pairs.records.len()).rev().collect();
                let totals = step_totals(&sampler, &pairs.records, &rows);
                let loss = |micro: &MicroBatch<'_>| pair_loss(&config, &pairs, micro);
                split_step(&sampler, &pairs.records, &rows, totals, loss)
            });
        }
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_adapters_and_failing_judgements() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        assert_resumes_exactly("online_dpo/pairs", 3, |ctx| learn_to_like_e(&config(), &init, ctx));
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let adapted = OnlineDpoConfig { passes: PassOptions { lora, ..PassOptions::default() }, ..with_annotator() };
        let judge = PrefersE { fails: 3 };
        assert_resumes_exactly("online_dpo/pairs", 3, |ctx| learn_from_judges(&adapted, 10, &init, (&mut LikesE, &judge), ctx));
    }

    #[test]
    fn failed_judgements_are_counted_and_ties_alone_are_an_error() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let failing = PrefersE { fails: 3 };
        let longer =
            OnlineDpoConfig { rollouts: RolloutOptions { prompts_per_step: 10, ..config().rollouts }, ..with_annotator() };
        learn_from_judges(&longer, 10, &init, (&mut LikesE, &failing), &stage.context(&events)).expect("learned");
        assert!(events.scalars("online_dpo/failed_judgements").iter().any(|(_, share)| *share > 0.0));
        let (stage, out) = (Stage::new(), PrefersE { fails: 1 });
        let error =
            learn_from_judges(&with_annotator(), 10, &init, (&mut LikesE, &out), &stage.context(&NoEvents)).expect_err("out");
        assert_eq!(error.kind(), ErrorKind::RemoteService);
        assert!(stage.stage.latest_state().expect("listed").is_some(), "what was learned before is kept");
        let stage = Stage::new();
        let error = learn_from_judges(&config(), 10, &init, (&mut Constant, &out), &stage.context(&NoEvents)).expect_err("ties");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        let paths = |config: OnlineDpoConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(OnlineDpoConfig::default()), [""; 0]);
        let rollouts =
            RolloutOptions { samples_per_prompt: 3, missing_end: MissingEnd::Replace(-1.0), ..RolloutOptions::default() };
        assert_eq!(paths(OnlineDpoConfig { rollouts, ..with_annotator() }), ["samples_per_prompt", "missing_end"]);
        let gaps = PairwiseLink::RewardAware { scale: 1.0 };
        assert_eq!(paths(OnlineDpoConfig { link: gaps, ..with_annotator() }), ["link"]);
        assert_eq!(paths(OnlineDpoConfig { link: gaps, ..config() }), [""; 0]);
        assert_eq!(paths(OnlineDpoConfig { link: PairwiseLink::Aot { label_smoothing: 0.0 }, ..config() }), ["link"]);
    }
}
