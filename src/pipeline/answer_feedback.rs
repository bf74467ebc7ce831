//! Sampled answers and what is known about them, as feedback: scored, ranked, labelled, rated. Pure functions; every choice
//! between equals takes the first.

use std::collections::{BTreeMap, HashMap};

use farmhand_core::types::{
    Completion, FinishReason, Instruction, Judgement, LabelledCompletion, PreferencePair, RankedList, RatedCompletion,
    ScoredCompletion,
};

/// Each answer with its score; `scores` is as long as `answers`.
pub(super) fn scored(answers: Vec<Completion>, scores: &[f64]) -> Vec<ScoredCompletion> {
    answers.into_iter().zip(scores).map(|(completion, score)| ScoredCompletion { completion, score: *score }).collect()
}

/// The share of its comparisons that each answer won, a tie counting half; answers in no comparison with a verdict are left out.
/// Two samples that read the same are one answer, so both get its score.
pub(super) fn scored_by_verdicts(answers: Vec<Completion>, judgements: &[Judgement]) -> Vec<ScoredCompletion> {
    let mut won: HashMap<(&str, &str), (f64, f64)> = HashMap::new();
    for judgement in judgements {
        let Some(p_second) = judgement.preference().map(|preference| preference.p_second()) else { continue };
        let comparison = &judgement.comparison;
        for (output, p) in [(&comparison.output_1, 1.0 - p_second), (&comparison.output_2, p_second)] {
            let entry = won.entry((&comparison.instruction.id, output)).or_default();
            *entry = (entry.0 + p, entry.1 + 1.0);
        }
    }
    let score = |completion: Completion| {
        let (p, n) = won.get(&(completion.instruction.id.as_str(), completion.output.as_str()))?;
        Some(ScoredCompletion { score: p / n, completion })
    };
    answers.into_iter().filter_map(score).collect()
}

/// The answers to each instruction, best first, those that read the same once; and how many instructions make no list because all
/// their answers score the same. Lists are in the order of the instructions, equal scores in the order of the answers.
pub(super) fn ranked(scored: &[ScoredCompletion]) -> (Vec<RankedList>, usize) {
    let mut lists: Vec<RankedList> = Vec::new();
    let mut list_of: HashMap<&str, usize> = HashMap::new();
    for ScoredCompletion { completion, score } in scored {
        let index = *list_of.entry(&completion.instruction.id).or_insert(lists.len());
        if index == lists.len() {
            lists.push(RankedList { instruction: completion.instruction.clone(), outputs: Vec::new(), scores: Vec::new() });
        }
        if !lists[index].outputs.contains(&completion.output) {
            lists[index].outputs.push(completion.output.clone());
            lists[index].scores.push(*score);
        }
    }
    for list in &mut lists {
        let mut order: Vec<usize> = (0..list.scores.len()).collect();
        order.sort_by(|a, b| list.scores[*b].total_cmp(&list.scores[*a]));
        list.outputs = order.iter().map(|i| list.outputs[*i].clone()).collect();
        list.scores = order.iter().map(|i| list.scores[*i]).collect();
    }
    let n_lists = lists.len();
    lists.retain(|list| list.scores.first() != list.scores.last());
    let n_level = n_lists - lists.len();
    (lists, n_level)
}

/// Both sides of every pair: the chosen answer good, the rejected one bad. What the samples know of an answer (its tokens, how it
/// ended) goes with it.
pub(super) fn labelled_by_pairs(pairs: &[PreferencePair], answers: &[Completion]) -> Vec<LabelledCompletion> {
    let mut sampled: HashMap<(&str, &str), &Completion> = HashMap::new();
    for answer in answers {
        sampled.entry((&answer.instruction.id, &answer.output)).or_insert(answer);
    }
    let labelled = |instruction: &Instruction, output: &str, desirable: bool| {
        let known = sampled.get(&(instruction.id.as_str(), output)).map(|answer| (*answer).clone());
        let completion = known.unwrap_or_else(|| Completion {
            instruction: instruction.clone(),
            output: output.to_owned(),
            model: String::new(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 0,
            log_prob: None,
        });
        LabelledCompletion { completion, desirable }
    };
    let both = |pair: &PreferencePair| {
        [labelled(&pair.instruction, &pair.chosen, true), labelled(&pair.instruction, &pair.rejected, false)]
    };
    pairs.iter().flat_map(both).collect()
}

/// Answers that score more than the threshold are good, the others bad.
pub(super) fn labelled_by_score(scored: Vec<ScoredCompletion>, threshold: f64) -> Vec<LabelledCompletion> {
    let labelled = |ScoredCompletion { completion, score }| LabelledCompletion { completion, desirable: score > threshold };
    scored.into_iter().map(labelled).collect()
}

/// Each answer with its ratings; the scores of an attribute are as many as the answers.
pub(super) fn rated(answers: Vec<Completion>, attributes: &BTreeMap<String, Vec<f64>>) -> Vec<RatedCompletion> {
    let ratings = |i: usize| attributes.iter().map(|(name, scores)| (name.clone(), scores[i])).collect();
    answers.into_iter().enumerate().map(|(i, completion)| RatedCompletion { completion, ratings: ratings(i) }).collect()
}

/// The group of each score, 0 the lowest, when all are sorted and cut into `n_levels` groups of equal size: ⌊levels · (number of
/// lower scores) / n⌋. Equal scores are in one group.
pub(super) fn levels(scores: &[f64], n_levels: u32) -> Vec<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let level = |score: &f64| {
        let n_lower = sorted.partition_point(|other| other < score);
        (u64::from(n_levels) * n_lower as u64 / scores.len() as u64) as f64
    };
    scores.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Annotation, Comparison, Preference};

    use super::*;

    fn answer(instruction: &str, output: &str, n_tokens: u32) -> Completion {
        Completion {
            instruction: Instruction::new(instruction, None),
            output: output.to_owned(),
            model: "sft".to_owned(),
            sample: 0,
            finish: FinishReason::Length,
            n_tokens,
            log_prob: None,
        }
    }

    fn judged(instruction: &str, first: &str, second: &str, preference: Preference) -> Judgement {
        let comparison = Comparison::new(Instruction::new(instruction, None), first, second);
        Judgement::new(comparison, Ok(Annotation::new("judge", preference)))
    }

    #[test]
    fn lists_are_sorted_without_repetition_and_level_ones_are_counted() {
        let answers = ["a", "b", "b", "c"].map(|output| answer("one", output, 1)).into_iter();
        let level = ["x", "y"].map(|output| answer("two", output, 1)).into_iter();
        let alone = [answer("three", "z", 1)].into_iter();
        let scored = scored(answers.chain(level).chain(alone).collect(), &[0.5, 2.0, 2.0, 0.5, 1.0, 1.0, 3.0]);
        let (lists, n_level) = ranked(&scored);
        assert_eq!((lists.len(), n_level), (1, 2));
        assert_eq!(lists[0].outputs, ["b", "a", "c"], "equal scores keep their order");
        assert_eq!(lists[0].scores, [2.0, 0.5, 0.5]);
    }

    #[test]
    fn verdicts_score_an_answer_by_the_share_it_won() {
        let judgements = [
            judged("one", "a", "b", Preference::First),
            judged("one", "c", "a", Preference::Tie),
            judged("one", "b", "c", Preference::Graded(0.25)),
            Judgement::new(
                Comparison::new(Instruction::new("one", None), "d", "a"),
                Err(farmhand_core::Error::other("no verdict")),
            ),
        ];
        let answers = ["a", "b", "c", "d", "a"].map(|output| answer("one", output, 1)).to_vec();
        let scored = scored_by_verdicts(answers, &judgements);
        let found: Vec<(&str, f64)> = scored.iter().map(|s| (s.completion.output.as_str(), s.score)).collect();
        assert_eq!(found, [("a", 0.75), ("b", 0.375), ("c", 0.375), ("a", 0.75)]);
        assert_eq!(ranked(&scored).0[0].outputs, ["a", "b", "c"]);
    }

    #[test]
    fn both_sides_of_a_pair_are_labelled_and_keep_what_the_samples_know() {
        let instruction = Instruction::new("one", None);
        let pair = PreferencePair { instruction, chosen: "good".into(), rejected: "bad".into(), p_chosen: None, margin: None };
        let labelled = labelled_by_pairs(&[pair], &[answer("one", "good", 7), answer("two", "bad", 9)]);
        let found: Vec<(&str, bool, u32)> =
            labelled.iter().map(|l| (l.completion.output.as_str(), l.desirable, l.completion.n_tokens)).collect();
        assert_eq!(found, [("good", true, 7), ("bad", false, 0)]);
        let by_score = labelled_by_score(scored(vec![answer("one", "a", 1), answer("one", "b", 1)], &[0.5, 0.6]), 0.5);
        assert_eq!(by_score.iter().map(|l| l.desirable).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn levels_cut_the_sorted_scores_into_equal_groups() {
        assert_eq!(levels(&[0.3, -1.0, 5.0, 0.2, 0.1, 9.0], 3), [1.0, 0.0, 2.0, 1.0, 0.0, 2.0]);
        assert_eq!(levels(&[1.0, 1.0, 1.0, 2.0], 2), [0.0, 0.0, 0.0, 1.0], "equal scores stay together");
        let ratings = rated(vec![answer("one", "a", 1)], &[("quality".to_owned(), vec![2.0])].into());
        assert_eq!(ratings[0].ratings["quality"], 2.0);
    }
}
