//! Which answers are compared, chosen as AlpacaFarm's `annotate_samples` and `annotate_head2head` choose them.
//!
//! farmhand's own choice is [`farmhand_core::data::pair_samples`] and [`farmhand_core::data::pair_with_reference`]; this one
//! gives the very pairs of the Python programs, so that their annotations can be used again.

use std::collections::{BTreeMap, HashMap, HashSet};

use farmhand_core::data::{PairedSamples, PairedWithReference, PairsPerInstruction};
use farmhand_core::types::{Comparison, Completion, Instruction};
use farmhand_core::{Error, Result};

use crate::python_random::PythonRandom;
use crate::seeding::Seeding;

/// Pairs the answers to each instruction as AlpacaFarm's `annotate_samples` does.
///
/// Instructions come in the order of their text. Each one's different answers, in the order of `completions`, are paired with
/// themselves in an order that Python's `Random(seed)` shuffled until none was in its own place. One pair is kept, the first
/// answer's, or with [`PairsPerInstruction::All`] every answer's. An answer that has no other is paired with itself, a tie.
///
/// After ten shuffles in vain (one seed and number of answers in a hundred; none for seeds 0 to 2 and up to 128 answers), the
/// original enumerates all orders and takes one by the order of a Python set; here shuffling goes on, and the pair is another.
pub fn pair_samples_as_alpaca_farm(
    completions: &[Completion],
    pairs: PairsPerInstruction,
    seeding: Seeding,
    seed: u64,
) -> PairedSamples {
    let mut groups: BTreeMap<[String; 2], Vec<&Completion>> = BTreeMap::new();
    for completion in completions {
        groups.entry(input_keys(seeding, &completion.instruction)).or_default().push(completion);
    }
    let mut paired = PairedSamples { comparisons: Vec::new(), n_identical: 0, n_unpaired: 0 };
    for samples in groups.into_values() {
        let mut seen = HashSet::new();
        let answers: Vec<&Completion> = samples.iter().copied().filter(|sample| seen.insert(&sample.output)).collect();
        paired.n_identical += samples.len() - answers.len();
        paired.n_unpaired += usize::from(answers.len() < 2);
        let n_kept = if pairs == PairsPerInstruction::One { 1 } else { answers.len() };
        let others = derangement(answers.len(), seed);
        paired.comparisons.extend(answers.iter().zip(others).take(n_kept).map(|(first, other)| compare(first, answers[other])));
    }
    paired
}

/// Joins a reference's answers with a model's as AlpacaFarm's `annotate_head2head` does: every two answers to the same
/// instruction, in the order of the reference, the reference's first; pairs that are the same in everything are kept once.
///
/// # Errors
/// When not one instruction is in both.
pub fn pair_with_reference_as_alpaca_farm(
    answers: &[Completion],
    reference: &[Completion],
    seeding: Seeding,
) -> Result<PairedWithReference> {
    let keys = |completions: &[Completion]| -> Vec<[String; 2]> {
        completions.iter().map(|completion| input_keys(seeding, &completion.instruction)).collect()
    };
    let (answer_keys, reference_keys) = (keys(answers), keys(reference));
    let mut answers_to: HashMap<&[String; 2], Vec<&Completion>> = HashMap::new();
    for (key, answer) in answer_keys.iter().zip(answers) {
        answers_to.entry(key).or_default().push(answer);
    }
    let mut seen = HashSet::new();
    let mut comparisons = Vec::new();
    for (key, first) in reference_keys.iter().zip(reference) {
        for second in answers_to.get(key).into_iter().flatten() {
            let comparison = compare(first, second);
            if seen.insert((comparison.id.clone(), &first.model, &second.model)) {
                comparisons.push(comparison);
            }
        }
    }
    let known: HashSet<&[String; 2]> = reference_keys.iter().collect();
    let n_without_reference = answer_keys.iter().filter(|key| !known.contains(key)).count();
    let unanswered: HashSet<_> = reference_keys.iter().filter(|key| !answers_to.contains_key(key)).collect();
    joined(PairedWithReference { comparisons, n_without_reference, n_without_answer: unanswered.len() }, answers, reference)
}

/// Joins two lists of answers that are in one order (`is_ordered` there): each with the one in its place, when they answer
/// the same instruction.
///
/// # Errors
/// When no two in one place do.
pub fn pair_in_order(answers: &[Completion], reference: &[Completion]) -> Result<PairedWithReference> {
    let together = answers.iter().zip(reference);
    let same = |(answer, reference): &(&Completion, &Completion)| answer.instruction.text() == reference.instruction.text();
    let comparisons: Vec<Comparison> = together.filter(same).map(|(answer, reference)| compare(reference, answer)).collect();
    let n_without_reference = answers.len() - comparisons.len();
    let n_without_answer = reference.len() - comparisons.len();
    joined(PairedWithReference { comparisons, n_without_reference, n_without_answer }, answers, reference)
}

fn joined(paired: PairedWithReference, answers: &[Completion], reference: &[Completion]) -> Result<PairedWithReference> {
    if !paired.comparisons.is_empty() {
        return Ok(paired);
    }
    Err(Error::missing_input(format!(
        "none of the {} answers and the {} reference answers are to the same instruction",
        answers.len(),
        reference.len()
    ))
    .with_hint("compare answers to the same instructions, with the same input"))
}

fn compare(first: &Completion, second: &Completion) -> Comparison {
    Comparison::new(first.instruction.clone(), first.output.as_str(), second.output.as_str())
        .between(first.model.as_str(), second.model.as_str())
}

/// The columns by which the program groups, sorts and joins, in its order.
fn input_keys(seeding: Seeding, instruction: &Instruction) -> [String; 2] {
    let input = || instruction.input.clone().unwrap_or_default();
    match seeding {
        Seeding::AlpacaFarm => [input(), instruction.instruction.clone()],
        Seeding::AlpacaFarm01 => [instruction.instruction.clone(), input()],
        Seeding::AlpacaEval | Seeding::Farmhand => [instruction.text(), String::new()],
    }
}

/// An order of 0 to n − 1 with none in its own place; of fewer than two, the order itself.
fn derangement(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    if n < 2 {
        return order;
    }
    let mut random = PythonRandom::from_number(seed);
    loop {
        random.shuffle(&mut order);
        if order.iter().enumerate().all(|(place, other)| place != *other) {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::FinishReason;
    use proptest::prelude::*;

    fn answer(model: &str, asked: &str, input: &str, output: &str) -> Completion {
        Completion {
            instruction: Instruction::new(asked, Some(input)),
            output: output.to_owned(),
            model: model.to_owned(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 0,
            log_prob: None,
        }
    }

    fn texts(comparisons: &[Comparison]) -> Vec<(String, &str, &str)> {
        comparisons.iter().map(|c| (c.instruction.text(), c.output_1.as_str(), c.output_2.as_str())).collect()
    }

    fn text<'a>(asked: &str, first: &'a str, second: &'a str) -> (String, &'a str, &'a str) {
        (asked.to_owned(), first, second)
    }

    #[test]
    fn orders_are_pythons() {
        // `tests/golden/make_alpaca_farm_pairs.py` prints these.
        assert_eq!(derangement(4, 0), [2, 0, 3, 1]);
        assert_eq!(derangement(3, 0), [1, 2, 0]);
        assert_eq!(derangement(8, 1), [3, 6, 1, 5, 7, 0, 4, 2]);
        assert_eq!(derangement(8, 42), [6, 0, 3, 7, 1, 4, 5, 2]);
        assert_eq!((derangement(0, 0), derangement(1, 0), derangement(2, 0)), (vec![], vec![0], vec![1, 0]));
    }

    #[test]
    fn samples_are_paired_once_an_instruction_and_in_the_order_of_their_text() {
        let samples: Vec<Completion> = [("b", "5"), ("a", "x"), ("b", "1"), ("b", "5"), ("b", "4"), ("a", "y"), ("c", "only")]
            .map(|(asked, output)| answer("m", asked, "", output))
            .to_vec();
        let one = pair_samples_as_alpaca_farm(&samples, PairsPerInstruction::One, Seeding::AlpacaFarm, 0);
        assert_eq!(texts(&one.comparisons), [text("a", "x", "y"), text("b", "5", "1"), text("c", "only", "only")]);
        assert_eq!((one.n_identical, one.n_unpaired), (1, 1));
        let all = pair_samples_as_alpaca_farm(&samples[2..5], PairsPerInstruction::All, Seeding::AlpacaFarm, 0);
        assert_eq!(texts(&all.comparisons), [text("b", "1", "5"), text("b", "5", "4"), text("b", "4", "1")]);
    }

    #[test]
    fn the_columns_decide_on_the_order() {
        let samples = [answer("m", "b", "1", "x"), answer("m", "a", "2", "x"), answer("m", "a", "", "x")];
        let order = |seeding| {
            let paired = pair_samples_as_alpaca_farm(&samples, PairsPerInstruction::One, seeding, 0);
            paired.comparisons.iter().map(|comparison| comparison.instruction.text()).collect::<Vec<_>>()
        };
        assert_eq!(order(Seeding::AlpacaFarm), ["a", "b\n\n1", "a\n\n2"]);
        assert_eq!(order(Seeding::AlpacaFarm01), ["a", "a\n\n2", "b\n\n1"]);
        assert_eq!(order(Seeding::AlpacaEval), ["a", "a\n\n2", "b\n\n1"]);
    }

    #[test]
    fn head_to_head_takes_every_two_answers_and_drops_what_is_the_same() {
        let reference =
            [answer("r", "b", "", "B"), answer("r", "a", "1", "A"), answer("r", "b", "", "B"), answer("r", "z", "", "Z")];
        let answers =
            [answer("m", "a\n\n1", "", "a"), answer("m", "b", "", "b0"), answer("m", "b", "", "b1"), answer("m", "q", "", "q")];
        let paired = pair_with_reference_as_alpaca_farm(&answers, &reference, Seeding::AlpacaEval).expect("joined");
        let expected = [text("b", "B", "b0"), text("b", "B", "b1"), text("a\n\n1", "A", "a")];
        assert_eq!(texts(&paired.comparisons), expected);
        assert_eq!((paired.n_without_reference, paired.n_without_answer), (1, 1));
        let apart = pair_with_reference_as_alpaca_farm(&answers, &reference, Seeding::AlpacaFarm).expect("joined");
        assert_eq!((apart.comparisons.len(), apart.n_without_reference), (2, 2));
        assert!(pair_with_reference_as_alpaca_farm(&answers[3..], &reference, Seeding::AlpacaFarm).is_err());
        let ordered = pair_in_order(&answers[1..], &reference).expect("joined");
        assert_eq!(texts(&ordered.comparisons), [text("b", "B", "b0")]);
        assert_eq!((ordered.n_without_reference, ordered.n_without_answer), (2, 3));
    }

    proptest! {
        #[test]
        fn no_answer_meets_itself(n in 2..40_usize, seed: u64) {
            let mut order = derangement(n, seed);
            prop_assert!(order.iter().enumerate().all(|(place, other)| place != *other));
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}
