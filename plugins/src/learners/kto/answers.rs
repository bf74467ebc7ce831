//! Labelled answers as records, with what the reference says about them and about answers to other instructions.

use std::path::Path;

use farmhand_core::types::{FinishReason, Instruction, LabelledCompletion, PreferencePair};
use farmhand_core::{Error, Feedback, Result, RunContext, Seed};
use farmhand_models::{Ending, TextCodec};

use super::{KtoConfig, LabelLoss, LabelSource};
use crate::training::{Record, Reference, TokenLimit, admit};

/// An answer and its label.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    instruction: &'a Instruction,
    output: &'a str,
    ending: Ending,
    desirable: bool,
}

impl<'a> Answer<'a> {
    fn of_pair(pair: &'a PreferencePair) -> [Self; 2] {
        let side = |output, desirable| Answer { instruction: &pair.instruction, output, ending: Ending::WithEos, desirable };
        [side(&pair.chosen, true), side(&pair.rejected, false)]
    }

    fn of_labelled(item: &'a LabelledCompletion) -> Self {
        let completion = &item.completion;
        // An answer that the limit cut off did not end.
        let ending = if completion.finish == FinishReason::Length { Ending::Open } else { Ending::WithEos };
        Self { instruction: &completion.instruction, output: &completion.output, ending, desirable: item.desirable }
    }
}

pub(super) fn labelled_answers(feedback: Feedback<'_>, source: LabelSource) -> Result<Vec<Answer<'_>>> {
    Ok(match source {
        LabelSource::Labelled => feedback.labelled()?.iter().map(Answer::of_labelled).collect(),
        LabelSource::Pairs => feedback.preferences()?.iter().flat_map(Answer::of_pair).collect(),
    })
}

/// Both labels must be there; far apart in number, the rarer one hardly counts.
pub(super) fn warn_of_imbalance(answers: &[Answer<'_>], config: &KtoConfig, ctx: &RunContext<'_>) -> Result<()> {
    let n_desirable = answers.iter().filter(|answer| answer.desirable).count();
    let n_undesirable = answers.len() - n_desirable;
    if config.loss == LabelLoss::Bco && (n_desirable == 0 || n_undesirable == 0) {
        return Err(Error::invalid_data(format!(
            "{n_desirable} desirable and {n_undesirable} undesirable answers: `bco` tells them apart"
        ))
        .with_hint("use answers with both labels, or `loss = \"kto\"`"));
    }
    let balance = config.desirable_weight * n_desirable as f64 / (config.undesirable_weight * n_undesirable as f64);
    if !(0.99..=1.34).contains(&balance) {
        ctx.events.warn(&format!(
            "{n_desirable} desirable and {n_undesirable} undesirable answers count {balance:.2} to 1 with their weights; the paper \
             keeps this between 1 and 4/3 by `desirable_weight` and `undesirable_weight`"
        ));
    }
    Ok(())
}

/// Answers with the log-probabilities of the frozen reference.
pub(super) struct Answers {
    pub(super) records: Vec<Record>,
    /// One entry a record: summed over the answer's tokens, in nats.
    pub(super) reference: Vec<Vec<f32>>,
    /// One entry a record.
    pub(super) desirable: Vec<bool>,
    /// Each record's instruction with the answer to another one, where one fits.
    pub(super) mismatched: Vec<Record>,
    pub(super) mismatched_reference: Vec<Vec<f32>>,
    /// The place of each record's in `mismatched`.
    pub(super) mismatch_of: Vec<Option<usize>>,
}

impl Answers {
    #[expect(clippy::too_many_arguments, reason = "called twice, by the learner")]
    pub(super) fn new(
        answers: &[Answer<'_>],
        noun: &str,
        codec: &TextCodec,
        limit: TokenLimit,
        reference: &mut Reference<'_>,
        config: &KtoConfig,
        cache_dir: Option<&Path>,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let encode = |answer: &Answer<'_>| -> Result<Record> {
            let text = codec.encode(answer.instruction, answer.output, answer.ending)?;
            Ok(Record::new(&answer.instruction.id, [text]))
        };
        let records = admit(answers, noun, limit, true, ctx, encode)?;
        let desirable = records.iter().map(|record| answers[record.index].desirable).collect();
        let (mut mismatched, mut mismatch_of) = (Vec::new(), vec![None; records.len()]);
        if config.loss == LabelLoss::Kto {
            for (row, other) in mismatches(&records, limit.max_tokens.min(limit.context), ctx.seed.child("mismatch", 0)) {
                let text = codec.encode_tokens(records[row].texts[0].prompt(), records[other].texts[0].response());
                mismatch_of[row] = Some(mismatched.len());
                mismatched.push(Record::new(&records[row].id, [text]));
            }
            if mismatched.is_empty() {
                return Err(Error::invalid_data(format!(
                    "no {noun} fit another instruction, so that there is no reference point"
                ))
                .with_hint("answers to two instructions or more are needed; `loss = \"apo_zero\"` has no reference point"));
            }
            if mismatched.len() < records.len() {
                let n = records.len() - mismatched.len();
                ctx.events.warn(&format!(
                    "for {n} of {} {noun} no other answer fits; they are not in the reference point",
                    records.len()
                ));
            }
        }
        let mut ask = |records: &[Record]| reference.sums(records, 1.0, config.train.passes.layout, cache_dir, ctx);
        let (reference, mismatched_reference) = (ask(&records)?, ask(&mismatched)?);
        Ok(Self { records, reference, desirable, mismatched, mismatched_reference, mismatch_of })
    }
}

/// For each record another one whose instruction is different and whose answer fits after its own prompt: the next such one in an
/// order that the seed gives. Records without any are left out.
fn mismatches(records: &[Record], max_tokens: usize, seed: Seed) -> Vec<(usize, usize)> {
    let order = seed.rng().permutation(records.len());
    let fits = |row: usize, other: usize| {
        let n_tokens = records[row].texts[0].prompt().len() + records[other].texts[0].response().len();
        records[row].id != records[other].id && n_tokens <= max_tokens
    };
    let found = |place: usize| {
        let row = order[place];
        let others = order[place + 1..].iter().chain(&order[..place]).copied();
        others.into_iter().find(|&other| fits(row, other)).map(|other| (row, other))
    };
    let mut pairs: Vec<(usize, usize)> = (0..order.len()).filter_map(found).collect();
    pairs.sort_unstable();
    pairs
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Completion;
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::EncodedText;

    use super::super::tests::config;
    use super::*;
    use crate::testing::{Stage, learn_from, pairs, tiny_checkpoint};

    #[test]
    fn a_mismatch_is_another_instructions_answer_that_fits() {
        let record = |id: &str, prompt: usize, response: usize| {
            Record::new(id, [EncodedText { ids: vec![7; prompt + response], response_start: prompt }])
        };
        let records = [record("a", 3, 2), record("a", 3, 4), record("b", 5, 3), record("c", 2, 9)];
        let found = mismatches(&records, 9, Seed::root(1));
        assert_eq!(found, mismatches(&records, 9, Seed::root(1)));
        assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2, 3]);
        for (row, other) in found {
            assert!(records[row].id != records[other].id && other != 3, "{row} got {other}");
        }
        assert!(mismatches(&records[..2], 9, Seed::root(1)).is_empty(), "one instruction has no other");
    }

    #[test]
    fn labelled_answers_are_taken_as_they_ended_and_one_sided_labels_are_told() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let label = |(i, pair): (usize, PreferencePair)| LabelledCompletion {
            completion: Completion {
                instruction: pair.instruction,
                output: pair.chosen,
                model: "test".into(),
                sample: 0,
                finish: if i == 0 { FinishReason::Length } else { FinishReason::Stop },
                n_tokens: 1,
                log_prob: None,
            },
            desirable: true,
        };
        let items: Vec<LabelledCompletion> = pairs(6).into_iter().enumerate().map(label).collect();
        let answers = labelled_answers(Feedback::Labelled(&items), LabelSource::Labelled).expect("labelled");
        assert_eq!((answers[0].ending, answers[1].ending), (Ending::Open, Ending::WithEos));
        let events = RecordedEvents::default();
        let all_good = KtoConfig { learn_from: LabelSource::Labelled, ..config() };
        learn_from(&all_good, &init, Feedback::Labelled(&items), &stage.context(&events)).expect("learned");
        assert!(format!("{:?}", events.take()).contains("6 desirable and 0 undesirable answers"));
        let bco = KtoConfig { loss: LabelLoss::Bco, ..all_good };
        let error = learn_from(&bco, &init, Feedback::Labelled(&items), &stage.context(&NoEvents)).expect_err("one label");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
