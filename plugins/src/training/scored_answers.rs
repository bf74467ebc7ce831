//! A round's own feedback: which instructions it takes, the policy's answers to them, and what a reward model says of these.

use farmhand_core::types::{Completion, FinishReason, Instruction, SamplingParams, ScoredCompletion};
use farmhand_core::{Checkpoint, Error, Result, RewardModel, RunContext, Seed};
use farmhand_models::{EncodedText, ModelConfig, TextCodec, epoch_order};

use super::answers::{Answerer, sample_answers, score_answers};
use super::learner_options::TrainOptions;
use super::options::Ranges;
use super::records::{Record, TokenLimit, admit};
use crate::rl::selection::{all_equal, best, mean_and_std};

/// The instructions whose prompt leaves room for an answer within `max_tokens` and the model's context; the others are counted in a
/// warning.
///
/// # Errors
/// When there are none, or a prompt cannot be written.
pub fn answerable(
    instructions: &[Instruction],
    init: &Checkpoint,
    train: &TrainOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<Instruction>> {
    let codec = TextCodec::load(init, train.passes.prompt)?;
    let context = ModelConfig::load(init.path())?.max_positions();
    let limit =
        TokenLimit { option: "max_tokens", max_tokens: train.max_tokens.saturating_sub(1), context: context.saturating_sub(1) };
    let prompts = admit(instructions, "instructions", limit, false, ctx, |instruction| {
        let ids = codec.prompt(instruction)?;
        Ok(Record::new(&instruction.id, [EncodedText { response_start: ids.len(), ids }]))
    })?;
    Ok(prompts.iter().map(|record| instructions[record.index].clone()).collect())
}

/// Which of `n` instructions round `round` takes, as indices: consecutive parts of a shuffle, and another shuffle once fewer are
/// left than a round takes; so no instruction occurs twice in a round. All in their order without a number or with one that is too
/// large.
pub fn instructions_of_round(n: usize, per_round: Option<usize>, round: u64, seed: Seed) -> Vec<usize> {
    match per_round {
        Some(count) if count >= 1 && count < n => {
            let rounds_per_pass = (n / count) as u64;
            let (pass, place) = (round / rounds_per_pass, (round % rounds_per_pass) as usize);
            epoch_order(n, seed.child("instructions", 0), pass)[place * count..(place + 1) * count].to_vec()
        }
        _ => (0..n).collect(),
    }
}

impl Ranges {
    /// How answers are sampled from which some are chosen: two or more to an instruction, which can differ.
    #[must_use]
    pub fn answers_to_choose_from(self, key: &str, sampling: &SamplingParams) -> Self {
        self.nested(key, sampling.problems())
            .require(&format!("{key}.n"), sampling.n >= 2, "2 answers or more to choose from", sampling.n)
            .require(
                &format!("{key}.temperature"),
                !sampling.is_greedy(),
                "a number > 0, for greedy answers are all the same",
                sampling.temperature,
            )
    }
}

/// The answers of a policy with their scores, `sampling.n` to each instruction in the order of the instructions. They stay in the
/// stage as `scored.jsonl`; a stopped run goes on after those that it has.
///
/// # Errors
/// What the policy or the reward model reports.
pub fn scored_answers(
    who: Answerer<'_>,
    instructions: &[Instruction],
    sampling: &SamplingParams,
    reward_model: &mut dyn RewardModel,
    ctx: &RunContext<'_>,
) -> Result<Vec<ScoredCompletion>> {
    let answers = sample_answers(who, instructions, sampling, "answers", ctx)?;
    let scores = score_answers(reward_model, &answers, "scores", ctx)?;
    let scored: Vec<_> =
        answers.into_iter().zip(scores).map(|(completion, score)| ScoredCompletion { completion, score }).collect();
    ctx.stage.write_jsonl("scored.jsonl", &scored)?;
    Ok(scored)
}

/// The scores of some answers.
pub fn scores_of(answers: &[ScoredCompletion]) -> Vec<f64> {
    answers.iter().map(|answer| answer.score).collect()
}

/// Logs what a round's answers are like, `n` to an instruction: their mean score (`reward`) and its spread, the mean of each
/// instruction's best, the share of instructions whose answers all score alike, tokens, and the share that ended by themselves.
/// Gives back how many instructions have answers that differ in score.
///
/// # Errors
/// When all answers to all instructions have the same score, so that nothing can be learnt from them.
pub fn log_scored(learner: &str, round: u64, answers: &[ScoredCompletion], n: usize, ctx: &RunContext<'_>) -> Result<usize> {
    let scores = scores_of(answers);
    let groups: Vec<&[f64]> = scores.chunks(n.max(1)).collect();
    let tied = groups.iter().filter(|group| all_equal(group)).count();
    let best: f64 = groups.iter().map(|group| group.iter().copied().fold(f64::NEG_INFINITY, f64::max)).sum();
    let (mean, std) = mean_and_std(&scores);
    let count = answers.len().max(1) as f64;
    let share =
        |holds: &dyn Fn(&Completion) -> bool| answers.iter().filter(|answer| holds(&answer.completion)).count() as f64 / count;
    for (name, number) in [
        ("reward", mean),
        ("reward_std", std),
        ("reward_of_best", best / groups.len().max(1) as f64),
        ("tied", tied as f64 / groups.len().max(1) as f64),
        ("response_length", answers.iter().map(|answer| f64::from(answer.completion.n_tokens)).sum::<f64>() / count),
        ("ended", share(&|completion| completion.finish != FinishReason::Length)),
    ] {
        ctx.scalar(&format!("{learner}/{name}"), round, number);
    }
    if all_equal(&scores) {
        let message =
            format!("all {} answers of round {round} have the same score: there is nothing to select by", answers.len());
        return Err(Error::invalid_data(message)
            .with_hint("raise `sampling.temperature` so that answers differ, or use a reward model that tells them apart"));
    }
    Ok(groups.len() - tied)
}

/// The best answer to each instruction, `n` to an instruction in `answers`; of equal ones the first.
///
/// # Errors
/// When the answers to each instruction all score alike: then the best of them is any.
pub fn best_answers(answers: &[ScoredCompletion], n: usize, n_untied: usize) -> Result<Vec<&ScoredCompletion>> {
    if n_untied == 0 {
        let message = format!("the {n} answers to each instruction all have the same score: none is better than the others");
        return Err(
            Error::invalid_data(message).with_hint("raise `sampling.n` or `sampling.temperature`, or use another reward model")
        );
    }
    Ok(answers.chunks(n).filter_map(|group| Some(&group[best(&scores_of(group))?])).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use farmhand_core::RecordedEvents;

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint_with, with_context};

    #[test]
    fn rounds_take_other_instructions_until_all_had_their_turn() {
        let seed = Seed::root(3);
        let of_round = |round| instructions_of_round(10, Some(3), round, seed);
        let first_pass: Vec<usize> = (0..3).flat_map(of_round).collect();
        assert_eq!(first_pass.iter().collect::<BTreeSet<_>>().len(), 9);
        for round in 0..20 {
            assert_eq!(of_round(round).iter().collect::<BTreeSet<_>>().len(), 3, "none twice");
        }
        assert_ne!(of_round(0), of_round(3));
        for all in [None, Some(10), Some(99), Some(0)] {
            assert_eq!(instructions_of_round(10, all, 7, seed), (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn instructions_without_room_for_an_answer_are_counted() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let short = tiny_checkpoint_with(&stage, "short", 24);
        let mut items = instructions(3);
        items.insert(1, Instruction::new("count one two three four five six ".repeat(8), None));
        let kept = answerable(&items, &short, &TrainOptions::default(), &stage.context(&events)).expect("some are left");
        assert_eq!(kept.len(), 3);
        assert!(format!("{:?}", events.take()).contains("1 of 4 instructions are longer"));
    }

    #[test]
    fn scores_are_summed_up_and_equal_ones_refused() {
        let events = RecordedEvents::default();
        let answer = |(i, score): (usize, f64)| ScoredCompletion {
            completion: Completion {
                instruction: Instruction::new("x", None),
                output: String::new(),
                model: "m".into(),
                sample: i as u32 % 2,
                finish: if i == 0 { FinishReason::Length } else { FinishReason::Stop },
                n_tokens: 3,
                log_prob: None,
            },
            score,
        };
        let answers = |scores: [f64; 4]| scores.into_iter().enumerate().map(answer).collect::<Vec<_>>();
        let scored = answers([1.0, 3.0, 5.0, 5.0]);
        let n_untied = with_context(&events, |ctx| log_scored("raft", 2, &scored, 2, ctx)).expect("they differ");
        assert_eq!(n_untied, 1);
        let best = best_answers(&scored, 2, n_untied).expect("one group says something");
        assert_eq!(best.iter().map(|answer| (answer.score, answer.completion.sample)).collect::<Vec<_>>(), [(3.0, 1), (5.0, 0)]);
        assert!(best_answers(&answers([1.0, 1.0, 5.0, 5.0]), 2, 0).is_err());
        let value = |name: &str| events.scalars(&format!("raft/{name}"));
        assert_eq!((value("reward"), value("reward_of_best")), (vec![(2, 3.5)], vec![(2, 4.0)]));
        assert_eq!((value("tied"), value("ended"), value("response_length")), (vec![(2, 0.5)], vec![(2, 0.75)], vec![(2, 3.0)]));
        let error = with_context(&events, |ctx| log_scored("raft", 0, &answers([1.0; 4]), 2, ctx)).expect_err("all equal");
        assert!(error.message().contains("all 4 answers of round 0 have the same score"), "{error}");
    }
}
