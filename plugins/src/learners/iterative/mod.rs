//! Iterative learning from own answers: a learner around a learner.
//!
//! RLHF Workflow (Dong et al. 2024, <https://arxiv.org/abs/2405.07863>, algorithm 1). Each round takes instructions that no round
//! before had, samples n answers to each from the round's policy, scores them, selects pairs, and lets the inner learner (the
//! paper's is DPO) learn from them. The next round samples from what it made. Who trains from what is explicit:
//!
//! * `init`: the inner learner goes on from the round before (the paper), or starts from the initial policy each time.
//! * `reference`: it stays close to the initial policy (the paper: the divergence to π_0 is what is bounded), or to the policy the
//!   round began with, as the authors' later code, SPPO and self-rewarding models have it.
//! * `replay`: it learns from the new answers alone (the paper), or also from those of earlier rounds.
//!
//! With an annotator as the scorer, an answer scores the share of the other answers that it beats: learning against a preference
//! oracle, which need not be transitive (SPPO, Wu et al. 2024, <https://arxiv.org/abs/2405.00675>). With a reward model made of the
//! round's own weights the policy rewards itself (Yuan et al. 2024, <https://arxiv.org/abs/2401.10020>).
//!
//! A round's folder `rounds/NN` holds its `scored.jsonl` and the selected `preferences.jsonl` (or `ranked_lists.jsonl`); the inner
//! learner works in `rounds/NN/learner`, which goes when the round is done.

mod answers;
mod config;
mod selection;

use std::path::PathBuf;

use farmhand_core::run::StageDir;
use farmhand_core::types::{FinishReason, Instruction, ScoredCompletion};
use farmhand_core::{
    BuildContext, Checkpoint, Device, Error, Feedback, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem,
    Requirements, Result, RewardModel, RunContext, register,
};
use farmhand_models::epoch_order;

use self::answers::{RoundScorer, read_scored, sample, score};
use self::config::unfit;
pub use self::config::{IterativeConfig, Replay, Scorer};
pub use self::selection::PairSelection;
use self::selection::{Selected, groups, select};
use crate::training::{Answerer, RoundStart, Rounds};

register! {
    kind: Learner, name: "iterative", config: IterativeConfig,
    summary: "rounds of own answers, scored and paired, around any pairwise learner", paper: "https://arxiv.org/abs/2405.07863",
    presets: {
        "rlhf_workflow": "RLHF Workflow: three rounds of 20 000 instructions, DPO on best and worst of 8" => IterativeConfig::rlhf_workflow(),
        "sppo": "SPPO: five answers judged against each other, the round's policy as the reference" => IterativeConfig::sppo(),
        "self_rewarding": "self-rewarding language models: the policy judges its own four answers" => IterativeConfig::self_rewarding(),
    },
}

/// The folder below a round's in which the inner learner works.
const INNER: &str = "learner";

#[typetag::serde(name = "iterative")]
impl LearnerConfig for IterativeConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        let inner = self.learner.build(ctx)?.requires();
        Ok(Box::new(Iterative {
            config: self.clone(),
            inner,
            device: ctx.device,
            base_dir: ctx.base_dir.to_owned(),
            reward_model: ctx.reward_model.cloned(),
        }))
    }

    fn problems(&self) -> Vec<Problem> {
        self.problems()
    }
}

struct Iterative {
    config: IterativeConfig,
    /// What the inner learner asks for.
    inner: Requirements,
    device: Device,
    base_dir: PathBuf,
    /// The reward model of the stage, for components that name none.
    reward_model: Option<Checkpoint>,
}

impl Learner for Iterative {
    fn requires(&self) -> Requirements {
        let scorer = &self.config.scorer;
        Requirements {
            reward_model: self.inner.reward_model || matches!(scorer, Scorer::RewardModel),
            annotator: self.inner.annotator || matches!(scorer, Scorer::Annotator),
            ..Requirements::policy_from(FeedbackKind::Prompts)
        }
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let config = &self.config;
        if let Some(reason) = unfit(&config.learner) {
            return Err(Error::invalid_config(format!("`learner`: {reason}")));
        }
        let LearnerInputs { init, reference, feedback, mut reward_model, annotator, models, .. } = inputs;
        let instructions = feedback.prompts()?;
        let per_round = per_round(config, instructions.len())?;
        let initial_reference = reference.unwrap_or(init);

        let mut rounds = Rounds::open(config.rounds, init, ctx)?;
        while let Some(round) = rounds.next_round()? {
            let (number, seed) = (round.number, ctx.seed);
            ctx.events.info(&format!("  round {} of {}", number + 1, config.rounds));
            let ctx = &round.context(ctx);
            let build = BuildContext {
                policy: Some(&round.start),
                reward_model: self.reward_model.as_ref(),
                models,
                ..BuildContext::new(self.device, &self.base_dir)
            };

            let asked: Vec<Instruction> = match per_round {
                None => instructions.to_vec(),
                Some(n) => {
                    let order = epoch_order(instructions.len(), seed.child("instructions", 0), 0);
                    order[number as usize * n..][..n].iter().map(|&i| instructions[i].clone()).collect()
                }
            };
            let who = Answerer { policy: &config.policy, checkpoint: &round.start, base_dir: &self.base_dir, models };
            let answers = sample(who, &asked, &config.sampling, &config.temperatures, ctx)?;
            let mut scorer = match &config.scorer {
                Scorer::RewardModel => RoundScorer::RewardModel(present(&mut reward_model)?),
                Scorer::Annotator => {
                    RoundScorer::Annotator(annotator.ok_or_else(|| Error::missing_input("`iterative` needs an annotator"))?)
                }
                Scorer::Own(spec) => RoundScorer::Own(spec, build),
            };
            let scored = score(&mut scorer, answers, config.n(), ctx)?;
            log_round(&scored, number, ctx);

            let mut candidates = Vec::new();
            if config.replay != Replay::New {
                for earlier in 0..number {
                    candidates.push((earlier, read_scored(&rounds.path(earlier))?));
                }
            }
            candidates.push((number, scored));
            let pooled = config.replay == Replay::BestOfAll;
            let groups = groups(&candidates, config, pooled, seed);
            let selected = select(&groups, self.inner.feedback, config.selection, number, ctx)?;
            let feedback = match &selected {
                Selected::Pairs(pairs) => Feedback::Preferences(pairs),
                Selected::Lists(lists) => Feedback::RankedLists(lists),
            };

            let inner_stage = StageDir::create(ctx.stage.path().join(INNER))?;
            let events = rounds.later_steps(ctx)?;
            let inner_ctx = RunContext { stage: &inner_stage, seed: ctx.seed.child("learner", 0), events: &events, ..*ctx };
            let reference = match config.reference {
                RoundStart::Initial => initial_reference,
                RoundStart::Previous => &round.start,
            };
            let inputs = LearnerInputs {
                init: config.init.of(&round, init),
                reference: Some(reference),
                feedback,
                validation: None,
                reward_model: match self.inner.reward_model {
                    true => Some(present(&mut reward_model)?),
                    false => None,
                },
                annotator: annotator.filter(|_| self.inner.annotator),
                models,
            };
            let made = config.learner.build(&build)?.learn(inputs, &inner_ctx)?;
            Rounds::note_steps(events.n_steps(), ctx)?;
            round.adopt(&made)?;
            ctx.stage.remove_dir(INNER)?;
            rounds.finish(round)?;
        }
        rounds.result(ctx)
    }
}

fn present<'a>(reward_model: &'a mut Option<&mut dyn RewardModel>) -> Result<&'a mut dyn RewardModel> {
    match reward_model {
        Some(model) => Ok(&mut **model),
        None => Err(Error::missing_input("`iterative` needs a reward model")),
    }
}

/// How many instructions a round takes; none for all of them.
fn per_round(config: &IterativeConfig, n: usize) -> Result<Option<usize>> {
    if config.same_instructions {
        return Ok(None);
    }
    let rounds = config.rounds as usize;
    let each = config.instructions_per_round.unwrap_or(n / rounds);
    if each == 0 || each * rounds > n {
        let wanted = each.max(1);
        let message = format!("{rounds} rounds of {wanted} instructions need {}, there are {n}", rounds * wanted);
        return Err(Error::missing_input(message)
            .with_hint("give more instructions, lower `rounds` or `instructions_per_round`, or set `same_instructions = true`"));
    }
    Ok(Some(each))
}

/// Logs what a round's answers are like.
fn log_round(scored: &[ScoredCompletion], number: u64, ctx: &RunContext<'_>) {
    let n = scored.len().max(1) as f64;
    let mean = |value: &dyn Fn(&ScoredCompletion) -> f64| scored.iter().map(value).sum::<f64>() / n;
    for (name, value) in [
        ("reward", mean(&|answer| answer.score)),
        ("response_length", mean(&|answer| f64::from(answer.completion.n_tokens))),
        ("ended", mean(&|answer| f64::from(u8::from(answer.completion.finish != FinishReason::Length)))),
    ] {
        ctx.scalar(&format!("iterative/{name}"), number, value);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use farmhand_core::types::Response;
    use farmhand_core::{ErrorKind, RecordedEvents};
    use serde_json::json;

    use super::*;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, learn_from_prompts, lively_checkpoint, small_lora, tiny_checkpoint,
    };

    /// Likes letters: their share of the answer's characters.
    struct LikesLetters;

    impl RewardModel for LikesLetters {
        fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
            let share =
                |text: &str| text.chars().filter(char::is_ascii_alphabetic).count() as f64 / text.chars().count().max(1) as f64;
            Ok(items.iter().map(|item| share(item.output)).collect())
        }
    }

    /// Options laid over those of a small loop.
    fn with(options: serde_json::Value) -> IterativeConfig {
        let learner = json!({ "dpo": {
            "beta": 0.05, "batch_size": 4, "epochs": 4, "save_every": 2,
            "optim": { "lr": 5e-3, "schedule": "constant", "warmup_ratio": 0.0 },
        } });
        let mut all = json!({ "sampling": { "n": 4, "max_new_tokens": 6 }, "temperatures": [1.0], "learner": learner });
        for (key, value) in options.as_object().expect("a table") {
            all[key] = value.clone();
        }
        serde_json::from_value(all).expect("options")
    }

    /// The instructions of a round, by its scored answers.
    fn asked(ctx: &RunContext<'_>, round: u64) -> BTreeSet<String> {
        let scored = read_scored(&ctx.stage.path().join(format!("rounds/{round:02}"))).expect("kept");
        scored.into_iter().map(|answer| answer.completion.instruction.id).collect()
    }

    #[test]
    fn reward_rises_over_rounds_of_instructions_that_no_other_round_has() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let ctx = stage.context(&events);
        // A random model gives almost all tokens alike: without the likelihood of the chosen answers, what is taken from the
        // rejected ones would go anywhere.
        let learner = json!({ "dpo": {
            "beta": 0.05, "nll_weight": 1.0, "batch_size": 4, "epochs": 4,
            "optim": { "lr": 1e-2, "schedule": "constant", "warmup_ratio": 0.0 },
        } });
        let config = with(json!({ "sampling": { "n": 8, "max_new_tokens": 8 }, "learner": learner }));
        assert_eq!(config.problems(), []);
        let made = learn_from_prompts(&config, 36, &tiny_checkpoint(&stage), &mut LikesLetters, &ctx).expect("learned");
        assert_eq!(made.path(), ctx.stage.checkpoint_dir());
        let reward = events.scalars("iterative/reward");
        assert!(reward.len() == 3 && reward[2].1 > reward[0].1 + 0.1, "{reward:?}");
        let rounds = [0, 1, 2].map(|round| asked(&ctx, round));
        assert!(rounds.iter().all(|ids| ids.len() == 12));
        assert_eq!(rounds.iter().flatten().collect::<BTreeSet<_>>().len(), 36);
        // One curve over all rounds.
        let loss = events.scalars("dpo/loss");
        assert!(loss.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{loss:?}");
        assert!(!ctx.stage.path().join("rounds/02/learner").exists());
    }

    #[test]
    fn a_round_begins_at_ln_2_where_start_and_reference_are_the_same_policy() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for (options, begins_at_ln_2) in [
            (json!({ "rounds": 2 }), false),
            (json!({ "rounds": 2, "reference": "previous" }), true),
            (json!({ "rounds": 2, "init": "initial" }), true),
            (json!({ "rounds": 2, "init": "initial", "reference": "previous" }), false),
        ] {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_from_prompts(&with(options.clone()), 16, &init, &mut LikesE, &stage.context(&events)).expect("learned");
            let second = 4 * (events.scalars("iterative/selected")[0].1 as usize).div_ceil(4);
            let loss = events.scalars("dpo/loss")[second];
            assert_eq!(loss.0 as usize, second);
            assert_eq!((loss.1 - std::f64::consts::LN_2).abs() < 1e-5, begins_at_ln_2, "{options}: {loss:?}");
        }
    }

    #[test]
    fn earlier_rounds_come_back_with_replay() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let selected = |options: serde_json::Value| {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_from_prompts(&with(options), 8, &init, &mut LikesE, &stage.context(&events)).expect("learned");
            events.scalars("iterative/selected").into_iter().map(|(_, n)| n as usize).collect::<Vec<_>>()
        };
        let new = selected(json!({ "rounds": 2 }));
        assert!(new[1] <= 4);
        let all = selected(json!({ "rounds": 2, "replay": "all" }));
        assert!(all[0] == new[0] && all[1] > new[0].max(4), "{all:?}");
        // The same instructions each round: their answers compete across rounds.
        let pooled = selected(json!({ "rounds": 2, "same_instructions": true, "replay": "best_of_all" }));
        assert!(pooled[0] <= 8 && pooled[1] <= 8 && pooled[1] >= pooled[0], "{pooled:?}");
    }

    #[test]
    fn every_scorer_and_a_learner_of_lists_work() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let own = json!({ "own": { "likelihood": {} } });
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let config = with(json!({ "rounds": 2, "scorer": own }));
        let built = config.build(&BuildContext::new(Device::Cpu, Path::new("."))).expect("built");
        assert!(!built.requires().reward_model && !built.requires().annotator);
        learn_from_prompts(&config, 8, &init, &mut Constant, &stage.context(&events)).expect("it needs no reward model");
        assert_eq!(events.scalars("iterative/reward").len(), 2);
        let judged =
            with(json!({ "scorer": "annotator" })).build(&BuildContext::new(Device::Cpu, Path::new("."))).expect("built");
        assert!(judged.requires().annotator && !judged.requires().reward_model);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let config = with(json!({ "rounds": 2, "temperatures": [1.0, 0.7], "replay": "all" }));
        // While a round's inner learner trains, and before it does.
        assert_resumes_exactly("dpo/loss", 6, |ctx| learn_from_prompts(&config, 16, &init, &mut LikesE, ctx));
        assert_resumes_exactly("iterative/reward", 1, |ctx| learn_from_prompts(&config, 16, &init, &mut LikesE, ctx));
        let lively = lively_checkpoint(&base);
        let lora = json!({ "dpo": { "batch_size": 4, "save_every": 2, "lora": small_lora() } });
        let config = with(json!({ "rounds": 2, "learner": lora }));
        assert_resumes_exactly("dpo/loss", 3, |ctx| learn_from_prompts(&config, 16, &lively, &mut LikesE, ctx));
    }

    #[test]
    fn answers_that_all_score_alike_are_an_error_and_too_few_instructions_too() {
        let stage = Stage::new();
        let (init, ctx) = (tiny_checkpoint(&stage), stage.context(&farmhand_core::NoEvents));
        let error = learn_from_prompts(&with(json!({})), 6, &init, &mut Constant, &ctx).expect_err("nothing is better");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.message().contains("the answers to 2 of 2 instructions all score alike"), "{error}");
        let stage = Stage::new();
        let error = learn_from_prompts(
            &with(json!({ "instructions_per_round": 4 })),
            6,
            &init,
            &mut LikesE,
            &stage.context(&farmhand_core::NoEvents),
        )
        .expect_err("too few");
        assert!(error.message().contains("3 rounds of 4 instructions need 12, there are 6"), "{error}");
    }
}
