//! Pairs among a policy's own scored answers.

use farmhand_core::types::{Completion, FinishReason, PreferencePair, ScoredCompletion};
use farmhand_core::{Error, Result, Rng, RunContext};
use farmhand_models::{EncodedText, Ending, TextCodec};

use super::learner_options::TrainOptions;
use super::records::{Record, admit};
use super::scored_answers::scores_of;
use crate::rl::selection::{Pair, best};

/// A pair of answers to one instruction, as indices into all answers.
#[derive(Debug, Clone, Copy)]
struct OwnPair {
    better: usize,
    worse: usize,
    /// The first of the best answers to the instruction.
    best: usize,
}

/// Pairs answers, `n` to an instruction in `scored`, and encodes them: a record has the better answer, the worse one and the best one
/// to their instruction; its margin is the difference of their scores. `select` gives the pairs of one instruction from the texts and
/// scores of its answers, as indices into these, with random numbers that follow from the instruction. Answers with the same text
/// make no pair. The pairs stay in the stage as `pairs.jsonl`. An answer that the limit cut off has no end-of-sequence token.
///
/// # Errors
/// When there is no pair, or none that fits.
pub fn own_pairs(
    scored: &[ScoredCompletion],
    n: usize,
    codec: &TextCodec,
    options: &TrainOptions,
    context: usize,
    ctx: &RunContext<'_>,
    select: impl Fn(&[&str], &[f64], &mut Rng) -> Vec<Pair>,
) -> Result<Vec<Record>> {
    let (mut pairs, mut n_without) = (Vec::new(), 0);
    for (group, answers) in scored.chunks(n.max(1)).enumerate() {
        let texts: Vec<&str> = answers.iter().map(|answer| answer.completion.output.as_str()).collect();
        let scores = scores_of(answers);
        let mut rng = ctx.seed.child_text("pairs", &answers[0].completion.instruction.id).rng();
        let first = group * n.max(1);
        let best = first + best(&scores).expect("an instruction has answers");
        let before = pairs.len();
        for Pair { better, worse } in select(&texts, &scores, &mut rng) {
            if texts[better] != texts[worse] {
                pairs.push(OwnPair { better: first + better, worse: first + worse, best });
            }
        }
        n_without += usize::from(pairs.len() == before);
    }
    let n_instructions = scored.len() / n.max(1);
    let without =
        format!("the answers to {n_without} of {n_instructions} instructions make no pair: their scores or texts are equal");
    if pairs.is_empty() {
        return Err(Error::invalid_data(without)
            .with_hint("raise `sampling.n` or `sampling.temperature` so that answers differ, or use another reward model"));
    }
    if n_without > 0 {
        ctx.events.warn(&format!("{without}; they are left out"));
    }
    let gap = |pair: &OwnPair| scored[pair.better].score - scored[pair.worse].score;
    let shown = |pair: &OwnPair| PreferencePair {
        instruction: scored[pair.better].completion.instruction.clone(),
        chosen: scored[pair.better].completion.output.clone(),
        rejected: scored[pair.worse].completion.output.clone(),
        p_chosen: None,
        margin: Some(gap(pair)),
    };
    ctx.stage.write_jsonl("pairs.jsonl", &pairs.iter().map(shown).collect::<Vec<_>>())?;
    admit(&pairs, "pairs of own answers", options.token_limit(context), true, ctx, |pair| {
        let text = |i: usize| encode_answer(codec, &scored[i].completion);
        let texts = [text(pair.better)?, text(pair.worse)?, text(pair.best)?];
        Ok(Record { margin: gap(pair), ..Record::new(&scored[pair.better].completion.instruction.id, texts) })
    })
}

fn encode_answer(codec: &TextCodec, answer: &Completion) -> Result<EncodedText> {
    let ending = if answer.finish == FinishReason::Length { Ending::Open } else { Ending::WithEos };
    codec.encode(&answer.instruction, &answer.output, ending)
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, RecordedEvents};

    use super::*;
    use crate::rl::selection::{by_score, tournament};
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    fn scored(outputs: &[(&str, f64)], n: usize) -> Vec<ScoredCompletion> {
        let instructions = instructions(outputs.len() / n);
        let answer = |(i, (output, score)): (usize, &(&str, f64))| ScoredCompletion {
            completion: Completion {
                instruction: instructions[i / n].clone(),
                output: (*output).to_owned(),
                model: "test".into(),
                sample: (i % n) as u32,
                finish: if output.ends_with('…') { FinishReason::Length } else { FinishReason::Stop },
                n_tokens: 1,
                log_prob: None,
            },
            score: *score,
        };
        outputs.iter().enumerate().map(answer).collect()
    }

    fn paired(scored: &[ScoredCompletion], n: usize, stage: &Stage, events: &RecordedEvents) -> Result<Vec<Record>> {
        let codec = TextCodec::load(&tiny_checkpoint(stage), None).expect("a codec");
        let ids = |scores: &[f64]| (0..scores.len()).collect::<Vec<_>>();
        own_pairs(scored, n, &codec, &TrainOptions::default(), 96, &stage.context(events), |_, scores, _| {
            tournament(&ids(scores), by_score(scores))
        })
    }

    #[test]
    fn a_tournament_of_an_odd_number_gives_pairs_with_gaps_and_the_best_answer() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let answers = [("yes", 0.1), ("no", 0.9), ("one…", 0.4), ("a", 1.0), ("a", 1.0), ("a", 1.0)];
        let records = paired(&scored(&answers, 3), 3, &stage, &events).expect("two pairs");
        assert_eq!(records.len(), 2);
        assert!((records[0].margin - 0.8).abs() < 1e-12 && (records[1].margin - 0.5).abs() < 1e-12);
        assert_eq!(records[1].texts[0], records[1].texts[2], "the winner is the best");
        let ends = |i: usize, text: usize| *records[i].texts[text].ids.last().expect("tokens");
        assert_eq!(ends(0, 0), ends(0, 1));
        assert_ne!(ends(1, 0), ends(1, 1), "an answer that was cut off has no end");
        assert!(format!("{:?}", events.take()).contains("the answers to 1 of 2 instructions make no pair"));
        let kept = std::fs::read_to_string(stage.stage.path().join("pairs.jsonl")).expect("written");
        assert_eq!(kept.lines().count(), 2);
    }

    #[test]
    fn no_pair_at_all_is_an_error() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        for answers in [[("a", 1.0), ("b", 1.0)], [("a", 1.0), ("a", 2.0)]] {
            assert_eq!(paired(&scored(&answers, 2), 2, &stage, &events).expect_err("nothing").kind(), ErrorKind::InvalidData);
        }
    }
}
