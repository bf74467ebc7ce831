//! Statistical rejection sampling optimisation: preference pairs are drawn from an estimate of the optimal policy instead of the data
//! or the start policy, and any loss on pairs learns from them.
//!
//! Liu et al. 2023, <https://arxiv.org/abs/2309.06657>. The start policy gives N answers to each instruction; of these n are accepted
//! as if drawn from `π · exp(r / β_sampling)` (algorithm 1: in passes, with probability `exp((r − r_max) / β_sampling)`, r_max among
//! the answers that are left), a reward model ranks them in disjoint pairs or a tournament, and a link of `γ h` learns, with h the
//! difference of the log-ratios to the start policy as in `dpo`: the paper's sigmoid-norm is `logistic`, its hinge-norm `hinge`, its
//! hinge `hinge` with `reference_free`.
//!
//! The paper's reward is the logit of a pairwise ranker against a fixed answer; a Bradley-Terry reward model is on the same scale.

use std::path::{Path, PathBuf};

use farmhand_core::types::SamplingParams;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, PolicySpec, Problem, Requirements,
    Result, Rng, RunContext, Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::pairwise::PairwiseLink;
use crate::rl::selection::{Pair, by_score, first_round, rejection_sample, tournament};
use crate::training::{
    Answerer, PairPass, Ranges, Record, Reference, Task, TextNll, TextPass, TrainOptions, Training, answerable, log_scored,
    margin_and_accuracy, own_pairs, pair_log_ratios, reference_sums, run_pairs, scored_answers, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "rso", config: RsoConfig,
    summary: "statistical rejection sampling optimisation: pairs of own answers drawn from the optimal policy",
    paper: "https://arxiv.org/abs/2309.06657",
}

/// How accepted answers become pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Shuffled, then neighbours meet: n / 2 pairs without a common answer.
    #[default]
    FirstRound,
    /// A knock-out tournament: n − 1 pairs.
    Tournament,
}

/// Options of `[learner.rso]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RsoConfig {
    /// The policy that answers; by default `causal_lm` with the weights that training starts from.
    pub policy: PolicySpec,
    /// How it answers: `n` candidates to each instruction, ≥ 2; the paper's N is 64.
    pub sampling: SamplingParams,
    /// Candidates to accept for each instruction, ≥ 2; fewer where fewer are different. The paper's n is 8.
    pub accepted: usize,
    /// Temperature β of the rewards in the acceptance, ≥ 0, in their unit: 0 accepts the best ones, a large one the first ones.
    pub sampling_beta: f64,
    /// How accepted answers become pairs.
    pub pairing: Pairing,
    /// Scale γ of the log-ratios in the loss, > 0; apart from `sampling_beta`.
    pub gamma: f64,
    /// The loss of a pair as a function of its log-ratios.
    pub link: PairwiseLink,
    /// Count the reference's log-probabilities as 0.
    pub reference_free: bool,
    /// Keep the reference's log-probabilities in the shared cache folder, where other runs on the same pairs find them.
    pub reference_cache: bool,
    /// Records are pairs of accepted answers.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for RsoConfig {
    fn default() -> Self {
        Self {
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { n: 64, temperature: 0.7, top_k: 40, ..SamplingParams::default() },
            accepted: 8,
            sampling_beta: 0.5,
            pairing: Pairing::FirstRound,
            gamma: 0.05,
            link: PairwiseLink::Logistic,
            reference_free: false,
            reference_cache: true,
            train: TrainOptions {
                epochs: 1,
                optim: OptimConfig { lr: 1e-5, ..OptimConfig::default() },
                ..TrainOptions::default()
            },
        }
    }
}

#[typetag::serde(name = "rso")]
impl LearnerConfig for RsoConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        let (base_dir, cache_dir) = (ctx.base_dir.to_owned(), ctx.cache_dir.map(Path::to_owned));
        Ok(Box::new(Rso { config: self.clone(), base_dir, cache_dir }))
    }

    fn problems(&self) -> Vec<Problem> {
        let without_zero = self.reference_free && self.link.needs_reference();
        let enough = self.accepted <= self.sampling.n as usize;
        Ranges::new()
            .nested("policy", self.policy.problems())
            .answers_to_choose_from("sampling", &self.sampling)
            .require("accepted", self.accepted >= 2, "2 or more, for a pair needs two", self.accepted)
            .require("accepted", enough, "no more than `sampling.n`", self.accepted)
            .not_negative("sampling_beta", self.sampling_beta)
            .positive("gamma", self.gamma)
            .nested("link", self.link.problems())
            .require("reference_free", !without_zero, "`false` with links of single log-ratios", "`true`")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Rso {
    config: RsoConfig,
    /// Where relative paths in the policy's options start.
    base_dir: PathBuf,
    /// Where reference log-probabilities are kept for other runs.
    cache_dir: Option<PathBuf>,
}

impl Learner for Rso {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir, cache_dir } = self;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`rso` needs a reward model"))?;
        let instructions = answerable(inputs.feedback.prompts()?, inputs.init, &config.train, ctx)?;
        let who = Answerer { policy: &config.policy, checkpoint: inputs.init, base_dir, models: inputs.models };
        let scored = scored_answers(who, &instructions, &config.sampling, reward_model, ctx)?;
        let n = config.sampling.n as usize;
        log_scored("rso", 0, &scored, n, ctx)?;

        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let context = policy.config().max_positions();
        let select = |texts: &[&str], scores: &[f64], rng: &mut Rng| accepted_pairs(texts, scores, config, rng);
        let records = own_pairs(&scored, n, &codec, &config.train, context, ctx, select)?;
        // The best answer to the instruction is not needed.
        let records: Vec<Record> =
            records.into_iter().map(|record| Record { texts: record.texts[..2].to_vec(), ..record }).collect();
        let mean_gap = records.iter().map(|record| record.margin).sum::<f64>() / records.len() as f64;
        ctx.scalar("rso/n_pairs", 0, records.len() as f64);
        ctx.scalar("rso/reward_gap", 0, mean_gap);
        let reference = if config.reference_free {
            vec![vec![0.0; 2]; records.len()]
        } else {
            let mut reference = Reference::new(inputs.init, inputs.reference, &policy)?;
            let cache_dir = cache_dir.as_deref().filter(|_| config.reference_cache);
            reference_sums(&records, &mut reference, 1.0, config.train.passes.layout, cache_dir, ctx)?
        };
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let task = Task { learner: "rso", role: "policy", doing: "preference optimisation", records: "pairs of own answers" };
        let plan = shuffled_steps(&records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_pairs(&policy, &records, &reference, rows, config, ctx.seed).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_pairs(&policy, &records, &reference, &step.picked, config, step.seed)?;
            training.apply(&step, pass.loss)?;
            let [_, margin, accuracy, chosen, rejected] = pass.means;
            training.log(&step, &[("margin", margin), ("accuracy", accuracy)]);
            training.log(&step, &[("chosen_log_ratio", chosen), ("rejected_log_ratio", rejected)]);
        }
        save_checkpoint(&policy, &codec, "rso", ctx)
    }
}

/// The pairs among the accepted ones of an instruction's candidates, as indices into these.
fn accepted_pairs(texts: &[&str], scores: &[f64], config: &RsoConfig, rng: &mut Rng) -> Vec<Pair> {
    let accepted = rejection_sample(texts, scores, config.sampling_beta, config.accepted, || rng.uniform());
    match config.pairing {
        Pairing::FirstRound => first_round(&accepted, by_score(scores), rng),
        Pairing::Tournament => tournament(&accepted, by_score(scores)),
    }
}

/// Runs the picked pairs through the policy and adds the gradient of their loss. Gives the loss, the implicit reward margin γ h, the
/// share of pairs in which it is positive, and both log-ratios.
fn pass_pairs(
    policy: &LanguageModel,
    records: &[Record],
    reference: &[Vec<f32>],
    picked: &[usize],
    config: &RsoConfig,
    seed: Seed,
) -> Result<PairPass<5>> {
    let whole_step = config.link.compares_pairs();
    let pass = TextPass { whole_step, ..TextPass::new(policy, records, &config.train.passes) };
    run_pairs(&pass, picked, TextNll::off(), Some(seed), |texts| {
        let ratios = pair_log_ratios(texts, &texts.sums(), records, reference);
        let [margin, accuracy] = margin_and_accuracy(&(&ratios.chosen - &ratios.rejected));
        [config.link.losses(&ratios, config.gamma), margin * config.gamma, accuracy, ratios.chosen, ratios.rejected]
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::PreferencePair;
    use farmhand_core::{ErrorKind, RecordedEvents};
    use farmhand_models::TextCodec;

    use super::*;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, assert_same_however_split, fast_optim, learn_from_prompts, pair_records,
        small_lora, tiny_checkpoint,
    };

    fn config() -> RsoConfig {
        let optim = fast_optim(3e-3);
        RsoConfig {
            sampling: SamplingParams { n: 10, max_new_tokens: 6, ..SamplingParams::default() },
            accepted: 5,
            sampling_beta: 0.05,
            gamma: 0.5,
            train: TrainOptions { epochs: 3, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() },
            ..RsoConfig::default()
        }
    }

    #[test]
    fn accepted_answers_are_paired_with_ties_and_duplicates_left_out() {
        let mut rng = Seed::root(2).rng();
        let texts = ["a", "b", "b", "c", "d", "e"];
        let scores = [1.0, 0.5, 0.5, 0.5, -1.0, 1.0];
        for pairing in [Pairing::FirstRound, Pairing::Tournament] {
            let config = RsoConfig { accepted: 6, sampling_beta: 0.5, pairing, ..config() };
            for _ in 0..20 {
                let pairs = accepted_pairs(&texts, &scores, &config, &mut rng);
                // Five different answers: an odd one out, or a tournament of four matches, less the ties.
                assert!(pairs.len() <= if pairing == Pairing::FirstRound { 2 } else { 4 });
                assert!(pairs.iter().all(|pair| scores[pair.better] > scores[pair.worse] && pair.better != 2 && pair.worse != 2));
            }
            assert!(accepted_pairs(&["a", "a"], &[1.0, 1.0], &config, &mut rng).is_empty());
            assert!(accepted_pairs(&["a", "b", "c"], &[1.0; 3], &config, &mut rng).is_empty());
        }
        // At β = 0 the best two are accepted, however often one is asked.
        let greedy = RsoConfig { accepted: 2, sampling_beta: 0.0, ..config() };
        assert_eq!(accepted_pairs(&["x", "y", "z"], &[0.1, 0.9, 0.4], &greedy, &mut rng), [Pair { better: 1, worse: 2 }]);
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches_and_start_at_ln_2() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let records = pair_records(&TextCodec::load(&init, None).expect("a codec"), 8);
        let picked = [7, 6, 5, 4, 3, 2, 1, 0];
        let other: Vec<Vec<f32>> = (0..8).map(|i| vec![-8.0 - i as f32, -9.0 + 0.5 * i as f32]).collect();
        for link in [PairwiseLink::Logistic, PairwiseLink::Hinge, PairwiseLink::AotUnpaired { label_smoothing: 0.0 }] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = RsoConfig { link, train, ..config() };
                pass_pairs(&policy, &records, &other, &picked, &config, Seed::root(0)).expect("run").loss
            });
        }
        let mut reference = Reference::new(&init, None, &policy).expect("fits");
        let ctx = stage.context(&farmhand_core::NoEvents);
        let same = reference_sums(&records, &mut reference, 1.0, config().train.passes.layout, None, &ctx).expect("computed");
        let pass = pass_pairs(&policy, &records, &same, &picked, &config(), Seed::root(0)).expect("run");
        assert!((pass.loss - std::f64::consts::LN_2).abs() < 1e-6);
    }

    #[test]
    fn it_comes_to_prefer_what_the_reward_model_likes() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let mut config = RsoConfig { pairing: Pairing::Tournament, ..config() };
        config.train.epochs = 10;
        learn_from_prompts(&config, 16, &init, &mut LikesE, &stage.context(&events)).expect("learned");
        assert!((events.scalars("rso/loss")[0].1 - std::f64::consts::LN_2).abs() < 1e-5);
        let accuracy: Vec<f64> = events.scalars("rso/accuracy").into_iter().map(|(_, accuracy)| accuracy).collect();
        let late = accuracy[accuracy.len() - 5..].iter().sum::<f64>() / 5.0;
        assert!(late > 0.85, "{accuracy:?}");
        let kept = std::fs::read_to_string(stage.stage.path().join("pairs.jsonl")).expect("written");
        let pairs: Vec<PreferencePair> = kept.lines().map(|line| serde_json::from_str(line).expect("a pair")).collect();
        assert!(pairs.iter().all(|pair| pair.margin.is_some_and(|margin| margin > 0.0)));
        let error = learn_from_prompts(&config, 4, &init, &mut Constant, &Stage::new().context(&events)).expect_err("no pair");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for (lora, pairing) in [(None, Pairing::FirstRound), (Some(small_lora()), Pairing::Tournament)] {
            let mut config = RsoConfig { pairing, ..config() };
            (config.train.passes.lora, config.train.save_every) = (lora, 2);
            assert_resumes_exactly("rso/loss", 3, |ctx| learn_from_prompts(&config, 8, &init, &mut LikesE, ctx));
        }
    }

    #[test]
    fn options_out_of_range_are_located() {
        assert!(config().problems().is_empty() && RsoConfig::default().problems().is_empty());
        let wrong = RsoConfig {
            accepted: 11,
            sampling_beta: -1.0,
            gamma: 0.0,
            link: PairwiseLink::Robust { label_smoothing: 0.7 },
            ..config()
        };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["accepted", "sampling_beta", "gamma", "link.robust.label_smoothing"]);
        let lonely = RsoConfig { accepted: 1, ..config() };
        assert_eq!(lonely.problems()[0].path, "accepted");
    }
}
