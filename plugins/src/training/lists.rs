//! Ranked lists as learners take them: encoded, sorted, with their rewards, and what cannot be ranked counted.

use farmhand_core::types::RankedList;
use farmhand_core::{Error, Feedback, Result, RunContext};
use farmhand_models::{Ending, TextCodec};

use super::learner_options::TrainOptions;
use super::records::{Record, admit};
use super::text_pass::TextLogProbs;
use crate::rl::ranked_lists::RankedPlaces;

/// What becomes of answers with equal rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TiedAnswers {
    /// They stay, for a loss that does not compare them.
    Stay,
    /// Of equal ones only the first stays, for a loss that would.
    FirstStays,
}

/// Lists whose first text is the best answer.
#[derive(Debug)]
pub struct Lists {
    /// One text an answer, two or more.
    pub records: Vec<Record>,
    /// The rewards of each record's texts, descending.
    pub rewards: Vec<Vec<f64>>,
}

impl Lists {
    /// Encodes ranked lists. Lists in which all answers have the same reward are counted in a warning, and left out where of equal
    /// answers only the first stays; so are lists of one answer. `noun` names them in messages, `context` is the model's.
    ///
    /// # Errors
    /// When the feedback is of another kind, a list is broken, or none is left.
    pub fn admit(
        feedback: Feedback<'_>,
        noun: &str,
        tied: TiedAnswers,
        codec: &TextCodec,
        options: &TrainOptions,
        context: usize,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let given = feedback.ranked_lists()?;
        let (mut sorted, mut n_dropped, mut n_single, mut n_equal) = (Vec::new(), 0, 0, 0);
        for list in given {
            let order = best_first(list)?;
            let kept = match tied {
                TiedAnswers::Stay => order.clone(),
                TiedAnswers::FirstStays => first_of_equal(&order, &list.scores),
            };
            let is_equal = order.iter().all(|&i| list.scores[i] == list.scores[order[0]]);
            if order.len() < 2 {
                n_single += 1;
                continue;
            }
            n_equal += usize::from(is_equal);
            if kept.len() >= 2 {
                n_dropped += order.len() - kept.len();
                sorted.push((list, kept));
            }
        }
        let n = given.len();
        let single = format!("{n_single} of {n} {noun} have one answer");
        let equal = format!("{n_equal} of {n} {noun} have the same reward for all answers");
        if n > 0 && sorted.is_empty() {
            return Err(Error::invalid_data(format!("no {noun} are left to learn from: {single}, {equal}"))
                .with_hint("a list needs answers with different rewards"));
        }
        if n_single > 0 {
            ctx.events.warn(&format!("{single}; they are left out"));
        }
        if n_equal > 0 {
            let what = if tied == TiedAnswers::Stay { "they rank nothing" } else { "they are left out" };
            ctx.events.warn(&format!("{equal}; {what}"));
        }
        if n_dropped > 0 {
            ctx.events
                .warn(&format!("in {noun}, {n_dropped} answers repeat the reward of another one; the first of equal ones stays"));
        }
        let records = admit(&sorted, noun, options.token_limit(context), true, ctx, |(list, kept)| {
            let text = |&i: &usize| codec.encode(&list.instruction, &list.outputs[i], Ending::WithEos);
            Ok(Record::new(&list.instruction.id, kept.iter().map(text).collect::<Result<Vec<_>>>()?))
        })?;
        let rewards = |record: &Record| {
            let (list, kept) = &sorted[record.index];
            kept.iter().map(|&i| list.scores[i]).collect()
        };
        Ok(Self { rewards: records.iter().map(rewards).collect(), records })
    }

    /// The lists of a forward pass, in the order of [`TextLogProbs::rows`].
    pub fn places(&self, texts: &TextLogProbs) -> Vec<RankedPlaces> {
        let mut places: Vec<Vec<usize>> = texts.rows().iter().map(|&row| vec![0; self.records[row].texts.len()]).collect();
        let number_of: std::collections::HashMap<usize, usize> = texts.rows().into_iter().zip(0..).collect();
        for (place, (row, text)) in texts.places.iter().enumerate() {
            places[number_of[row]][*text] = place;
        }
        let with_rewards = |(row, places): (usize, Vec<usize>)| RankedPlaces { places, rewards: self.rewards[row].clone() };
        texts.rows().into_iter().zip(places).map(with_rewards).collect()
    }
}

/// The answers of a list, best first; equal ones as they stand.
fn best_first(list: &RankedList) -> Result<Vec<usize>> {
    let id = &list.instruction.id;
    if list.outputs.len() != list.scores.len() {
        let (outputs, scores) = (list.outputs.len(), list.scores.len());
        return Err(Error::invalid_data(format!("the ranked list `{id}` has {outputs} answers and {scores} scores")));
    }
    if let Some(score) = list.scores.iter().find(|score| !score.is_finite()) {
        return Err(Error::invalid_data(format!("the ranked list `{id}` has a score of {score}")));
    }
    let mut order: Vec<usize> = (0..list.scores.len()).collect();
    order.sort_by(|&a, &b| list.scores[b].total_cmp(&list.scores[a]));
    Ok(order)
}

/// Leaves out the answers whose score is that of the one before, of answers in descending order.
fn first_of_equal(order: &[usize], scores: &[f64]) -> Vec<usize> {
    let is_new = |place: usize| place == 0 || scores[order[place]] != scores[order[place - 1]];
    (0..order.len()).filter(|&place| is_new(place)).map(|place| order[place]).collect()
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;
    use farmhand_core::{ErrorKind, RecordedEvents};
    use tch::Tensor;

    use super::*;
    use crate::testing::{Stage, tiny_checkpoint};

    fn list(scores: &[f64]) -> RankedList {
        let outputs = (0..scores.len()).map(|i| format!("answer {i}")).collect();
        RankedList { instruction: Instruction::new(format!("{scores:?}"), None), outputs, scores: scores.to_vec() }
    }

    fn admitted(lists: &[RankedList], tied: TiedAnswers, events: &RecordedEvents) -> Result<Lists> {
        let stage = Stage::new();
        let codec = TextCodec::load(&tiny_checkpoint(&stage), None).expect("a codec");
        let options = TrainOptions::default();
        Lists::admit(Feedback::RankedLists(lists), "ranked lists", tied, &codec, &options, 96, &stage.context(events))
    }

    #[test]
    fn lists_are_sorted_and_what_cannot_be_ranked_is_counted() {
        let lists = [list(&[0.5, 1.0, 0.5, -1.0]), list(&[2.0]), list(&[1.0, 1.0]), list(&[0.0, 3.0])];
        let events = RecordedEvents::default();
        let ranked = admitted(&lists, TiedAnswers::FirstStays, &events).expect("two are left");
        assert_eq!(ranked.rewards, [vec![1.0, 0.5, -1.0], vec![3.0, 0.0]]);
        assert_eq!(ranked.records.iter().map(|record| record.texts.len()).collect::<Vec<_>>(), [3, 2]);
        let told = format!("{:?}", events.take());
        for part in [
            "1 of 4 ranked lists have one answer",
            "1 of 4 ranked lists have the same reward",
            "in ranked lists, 1 answers repeat",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let ranked = admitted(&lists, TiedAnswers::Stay, &events).expect("three are left");
        assert_eq!(ranked.rewards, [vec![1.0, 0.5, 0.5, -1.0], vec![1.0, 1.0], vec![3.0, 0.0]]);
    }

    #[test]
    fn nothing_to_rank_and_broken_lists_are_errors() {
        let events = RecordedEvents::default();
        let error = |lists: &[RankedList]| admitted(lists, TiedAnswers::FirstStays, &events).expect_err("nothing to learn");
        assert!(error(&[list(&[1.0, 1.0]), list(&[0.0])]).message().contains("no ranked lists are left"));
        assert_eq!(error(&[RankedList { scores: vec![1.0], ..list(&[1.0, 0.0]) }]).kind(), ErrorKind::InvalidData);
        assert!(error(&[list(&[1.0, f64::NAN])]).message().contains("a score of NaN"));
    }

    #[test]
    fn places_follow_the_batch_whatever_the_lengths() {
        let lists = [list(&[1.0, 0.5, -1.0]), list(&[3.0, 0.0])];
        let ranked = admitted(&lists, TiedAnswers::Stay, &RecordedEvents::default()).expect("encoded");
        // The texts of a batch stand by number: all first ones, then all second ones.
        let places = vec![(1, 0), (0, 0), (1, 1), (0, 1), (0, 2)];
        let texts = TextLogProbs::new(Tensor::zeros([5], tch::kind::FLOAT_CPU), vec![1; 5], places);
        let found = ranked.places(&texts);
        assert_eq!((found[0].places.as_slice(), found[1].places.as_slice()), (&[0, 2][..], &[1, 3, 4][..]));
        assert_eq!(found[1].rewards, [1.0, 0.5, -1.0]);
    }
}
