//! Makes comparisons out of answers: samples of one model against each other, or a model against a reference.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seed::Seed;
use crate::types::{Comparison, Completion, Instruction, content_id};

/// How many comparisons the samples of one instruction make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairsPerInstruction {
    /// One, of two different answers drawn at random, as AlpacaFarm does.
    #[default]
    One,
    /// Every two different answers.
    All,
}

/// The comparisons of samples, and what made none.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedSamples {
    /// The comparisons, instructions in the order of their first answer.
    pub comparisons: Vec<Comparison>,
    /// Answers left out because an earlier answer to the same instruction reads the same.
    pub n_identical: usize,
    /// Instructions that had fewer than two different answers and so make no comparison.
    pub n_unpaired: usize,
}

/// Pairs the answers to each instruction with each other. Which are drawn and which comes first depends on the seed, the
/// instruction and its different answers, not on their order or on other instructions.
pub fn pair_samples(completions: &[Completion], pairs: PairsPerInstruction, seed: Seed) -> PairedSamples {
    let mut groups: Vec<Vec<&Completion>> = Vec::new();
    let mut group_of: HashMap<&str, usize> = HashMap::new();
    for completion in completions {
        let group = *group_of.entry(&completion.instruction.id).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(completion);
    }
    let mut paired = PairedSamples { comparisons: Vec::new(), n_identical: 0, n_unpaired: 0 };
    for mut group in groups {
        let n_samples = group.len();
        group.sort_by(|a, b| (&a.output, &a.model, a.sample).cmp(&(&b.output, &b.model, b.sample)));
        group.dedup_by(|a, b| a.output == b.output);
        paired.n_identical += n_samples - group.len();
        if group.len() < 2 {
            paired.n_unpaired += 1;
            continue;
        }
        let mut rng = seed.child_text("pairs", &group[0].instruction.id).rng();
        rng.shuffle(&mut group);
        match pairs {
            PairsPerInstruction::One => paired.comparisons.push(compare(group[0], group[1])),
            PairsPerInstruction::All => {
                for (i, second) in group.iter().enumerate() {
                    for first in &group[..i] {
                        paired.comparisons.push(if rng.bernoulli(0.5) { compare(first, second) } else { compare(second, first) });
                    }
                }
            }
        }
    }
    paired
}

fn compare(first: &Completion, second: &Completion) -> Comparison {
    Comparison::new(first.instruction.clone(), first.output.as_str(), second.output.as_str())
        .between(first.model.as_str(), second.model.as_str())
}

/// The comparisons of a model with a reference, and what had no counterpart.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedWithReference {
    /// The comparisons in the order of the model's answers; the reference's answer is the first.
    pub comparisons: Vec<Comparison>,
    /// The model's answers to instructions that the reference has not answered.
    pub n_without_reference: usize,
    /// The reference's instructions that the model has not answered.
    pub n_without_answer: usize,
}

/// Joins a model's answers with a reference's by instruction. Where the ids differ, instruction and input joined to one text
/// are compared, for AlpacaEval's files have them joined and AlpacaFarm's do not. Where there are several answers to one
/// instruction, the one of the same number (`sample`) is the counterpart, else the reference's first.
///
/// # Errors
/// When not one instruction is in both.
pub fn pair_with_reference(answers: &[Completion], reference: &[Completion]) -> Result<PairedWithReference> {
    let mut by_key: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, completion) in reference.iter().enumerate() {
        by_key.entry(text_id(&completion.instruction)).or_default().push(i);
    }
    for (i, completion) in reference.iter().enumerate() {
        let same_id = by_key.entry(completion.instruction.id.clone()).or_default();
        if !same_id.contains(&i) {
            same_id.push(i);
        }
    }
    let mut answered = vec![false; reference.len()];
    let mut paired = PairedWithReference { comparisons: Vec::new(), n_without_reference: 0, n_without_answer: 0 };
    for answer in answers {
        let found = by_key.get(&answer.instruction.id).or_else(|| by_key.get(&text_id(&answer.instruction)));
        let Some(candidates) = found else {
            paired.n_without_reference += 1;
            continue;
        };
        candidates.iter().for_each(|i| answered[*i] = true);
        let same_sample = candidates.iter().find(|i| reference[**i].sample == answer.sample);
        let Some(counterpart) = same_sample.or(candidates.first()).map(|i| &reference[*i]) else { continue };
        let comparison = Comparison::new(answer.instruction.clone(), counterpart.output.as_str(), answer.output.as_str());
        paired.comparisons.push(comparison.between(counterpart.model.as_str(), answer.model.as_str()));
    }
    let unanswered = reference.iter().zip(&answered).filter(|(_, answered)| !**answered);
    paired.n_without_answer =
        unanswered.map(|(completion, _)| &completion.instruction.id).collect::<std::collections::HashSet<_>>().len();
    if paired.comparisons.is_empty() {
        return Err(Error::missing_input(format!(
            "none of the {} answers and the {} reference answers are to the same instruction",
            answers.len(),
            reference.len()
        ))
        .with_hint("compare answers to the same instructions, with the same input and earlier turns"));
    }
    Ok(paired)
}

/// An id of what is asked that is the same whether instruction and input stand apart or are one text.
fn text_id(instruction: &Instruction) -> String {
    let text = instruction.text();
    let turns = instruction.history.iter().flat_map(|turn| [turn.role.name(), turn.content.as_str()]);
    content_id(["text"].into_iter().chain(turns).chain([text.as_str()]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::FinishReason;

    fn completion(instruction: &Instruction, output: &str, sample: u32) -> Completion {
        Completion {
            instruction: instruction.clone(),
            output: output.to_owned(),
            model: "m".to_owned(),
            sample,
            finish: FinishReason::Stop,
            n_tokens: 1,
            log_prob: None,
        }
    }

    proptest! {
        #[test]
        fn every_pair_is_of_one_instruction_and_different_answers(
            answers in prop::collection::vec((0u8..5, 0u8..4), 0..40), seed: u64, all: bool,
        ) {
            let sample = |(i, (instruction, output)): (usize, &(u8, u8))| {
                completion(&Instruction::new(format!("{instruction}"), None), &format!("{output}"), i as u32)
            };
            let completions: Vec<Completion> = answers.iter().enumerate().map(sample).collect();
            let pairs = if all { PairsPerInstruction::All } else { PairsPerInstruction::One };
            let paired = pair_samples(&completions, pairs, Seed::root(seed));
            let mut n_expected = 0;
            let mut n_different = 0;
            for instruction in 0..5u8 {
                let mut outputs: Vec<u8> = answers.iter().filter(|a| a.0 == instruction).map(|a| a.1).collect();
                outputs.sort_unstable();
                outputs.dedup();
                n_different += outputs.len();
                n_expected += if all { outputs.len() * outputs.len().saturating_sub(1) / 2 } else { usize::from(outputs.len() > 1) };
            }
            prop_assert_eq!(paired.comparisons.len(), n_expected);
            prop_assert_eq!(paired.n_identical, completions.len() - n_different);
            prop_assert!(paired.comparisons.iter().all(|comparison| comparison.output_1 != comparison.output_2));
            let mut shuffled = completions;
            Seed::root(seed).rng().shuffle(&mut shuffled);
            let mut again: Vec<String> = pair_samples(&shuffled, pairs, Seed::root(seed)).comparisons.into_iter().map(|c| c.id).collect();
            let mut ids: Vec<String> = paired.comparisons.into_iter().map(|c| c.id).collect();
            ids.sort();
            again.sort();
            prop_assert_eq!(ids, again);
        }
    }

    #[test]
    fn both_orders_occur() {
        let first_is_a = |i: u32| {
            let instruction = Instruction::new(format!("{i}"), None);
            let samples = [completion(&instruction, "a", 0), completion(&instruction, "b", 1)];
            pair_samples(&samples, PairsPerInstruction::One, Seed::root(0)).comparisons[0].output_1 == "a"
        };
        let n = (0..400).filter(|i| first_is_a(*i)).count();
        assert!((150..250).contains(&n), "{n}");
    }

    #[test]
    fn answers_join_their_reference_by_instruction() {
        let [a, b, c] = ["a", "b", "c"].map(|text| Instruction::new(text, None));
        let apart = Instruction::new("d", Some("1"));
        let joined = Instruction::new("d\n\n1", None);
        let answers = [completion(&a, "a0", 0), completion(&a, "a1", 1), completion(&b, "b0", 0), completion(&joined, "d0", 0)];
        let reference = [completion(&apart, "D0", 0), completion(&c, "C0", 0), completion(&a, "A0", 0), completion(&a, "A1", 1)];
        let paired = pair_with_reference(&answers, &reference).expect("joined");
        let outputs: Vec<(&str, &str)> = paired.comparisons.iter().map(|c| (c.output_1.as_str(), c.output_2.as_str())).collect();
        assert_eq!(outputs, [("A0", "a0"), ("A1", "a1"), ("D0", "d0")]);
        assert_eq!((paired.n_without_reference, paired.n_without_answer), (1, 1));
        let error = pair_with_reference(&answers[2..3], &reference[1..2]).expect_err("nothing in common");
        assert!(error.to_string().contains("none of the 1 answers and the 1 reference answers"), "{error}");
    }
}
