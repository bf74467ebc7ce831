//! Splits data by instruction, so that no instruction stands in two parts.
//!
//! Each instruction's place follows from a hash of its id and the seed, never from its position in the file. With
//! fractions, adding records moves no other record. With counts, the order stays and at most the ends of the parts
//! shift. Records of one instruction always go to the same part.
//!
//! When each part is a file of its own, [`check_disjoint`] finds instructions that stand in several.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seed::Seed;
use crate::types::{
    Comparison, Completion, Demonstration, Instruction, Judgement, LabelledCompletion, PreferencePair, RankedList,
    RatedCompletion, ScoredCompletion,
};

/// A record about one instruction.
pub trait HasInstruction {
    /// The instruction it is about.
    fn instruction(&self) -> &Instruction;
}

macro_rules! has_instruction {
    ($($type:ty => $($field:ident).+),+ $(,)?) => {
        $(impl HasInstruction for $type {
            fn instruction(&self) -> &Instruction {
                &self.$($field).+
            }
        })+
    };
}

has_instruction! {
    Demonstration => instruction,
    Completion => instruction,
    Comparison => instruction,
    Judgement => comparison.instruction,
    PreferencePair => instruction,
    RankedList => instruction,
    ScoredCompletion => completion.instruction,
    LabelledCompletion => completion.instruction,
    RatedCompletion => completion.instruction,
}

impl HasInstruction for Instruction {
    fn instruction(&self) -> &Instruction {
        self
    }
}

/// How much of the data a part takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// This fraction of the instructions, in [0, 1], on average: each instruction falls into the part with this
    /// probability, by its own hash.
    Fraction(f64),
    /// This many different instructions.
    Count(usize),
    /// All that the other parts leave; for at most one part.
    Rest,
}

/// Splits records into parts, one list for each of `parts` (name and share), in its order. All shares but `Rest` must be of
/// one sort. Records that no part takes are dropped, which only happens without a `Rest`.
///
/// Within a part, instructions stand in hash order (a random order fixed by the seed), the records of one instruction
/// in the order given.
///
/// # Errors
/// When the shares cannot be had: fractions outside [0, 1] or with a sum above 1, more instructions than there are,
/// fractions and counts mixed, two rests.
pub fn split<T: HasInstruction>(records: Vec<T>, parts: &[(&str, Share)], seed: Seed) -> Result<Vec<Vec<T>>> {
    check(parts)?;
    let mut groups: BTreeMap<(u64, String), Vec<T>> = BTreeMap::new();
    for record in records {
        let id = record.instruction().id.clone();
        let place = seed.child_text("split", &id).rng().next_u64();
        groups.entry((place, id)).or_default().push(record);
    }
    let bounds = bounds(parts, groups.len())?;
    let rest = parts.iter().position(|(_, share)| *share == Share::Rest);
    let mut split: Vec<Vec<T>> = parts.iter().map(|_| Vec::new()).collect();
    for (rank, ((place, _), group)) in groups.into_iter().enumerate() {
        let part = match &bounds {
            Bounds::Places(ends) => ends.iter().position(|end| u128::from(place) < *end),
            Bounds::Ranks(ends) => ends.iter().position(|end| rank < *end),
        };
        if let Some(part) = part.or(rest) {
            split[part].extend(group);
        }
    }
    Ok(split)
}

/// Where each part ends: in the hash's range of 2⁶⁴ places, or in ranks. The rest's end is that of the part before it.
enum Bounds {
    Places(Vec<u128>),
    Ranks(Vec<usize>),
}

fn check(parts: &[(&str, Share)]) -> Result<()> {
    let problem = |message: String| Err(Error::invalid_config(format!("a split {message}")));
    let (mut fractions, mut counts, mut rests) = (0, 0, 0);
    for (name, share) in parts {
        match share {
            Share::Fraction(fraction) if !(0.0..=1.0).contains(fraction) => {
                return problem(format!("part must be a fraction in [0, 1], but `{name}` is {fraction}"));
            }
            Share::Fraction(_) => fractions += 1,
            Share::Count(_) => counts += 1,
            Share::Rest => rests += 1,
        }
    }
    if rests > 1 {
        return problem("can have one rest".to_owned());
    }
    if fractions > 0 && counts > 0 {
        return problem("has either fractions or counts, not both".to_owned());
    }
    let sum: f64 = parts.iter().map(|(_, share)| if let Share::Fraction(fraction) = share { *fraction } else { 0.0 }).sum();
    if sum > 1.0 + 1e-9 {
        return problem(format!("has fractions with a sum of at most 1, got {sum}"));
    }
    Ok(())
}

fn bounds(parts: &[(&str, Share)], n_instructions: usize) -> Result<Bounds> {
    if parts.iter().any(|(_, share)| matches!(share, Share::Count(_))) {
        let mut end: usize = 0;
        let ends = parts.iter().map(|(_, share)| {
            end = end.saturating_add(if let Share::Count(count) = share { *count } else { 0 });
            end
        });
        let ends: Vec<usize> = ends.collect();
        if end > n_instructions {
            let wanted: Vec<String> = parts
                .iter()
                .filter_map(|(name, share)| if let Share::Count(count) = share { Some(format!("{name} {count}")) } else { None })
                .collect();
            return Err(Error::invalid_config(format!(
                "the split wants {end} different instructions ({}), but there are {n_instructions}",
                wanted.join(", ")
            )));
        }
        return Ok(Bounds::Ranks(ends));
    }
    let mut sum = 0.0;
    let ends = parts.iter().map(|(_, share)| {
        sum += if let Share::Fraction(fraction) = share { *fraction } else { 0.0 };
        // A sum that is 1 up to rounding takes every place.
        if sum > 1.0 - 1e-9 { 1u128 << 64 } else { (sum * (1u128 << 64) as f64) as u128 }
    });
    Ok(Bounds::Places(ends.collect()))
}

/// Checks that no instruction stands in two of the parts (name and instruction ids). For parts that are files of their own.
///
/// # Errors
/// When one does; the message names the two parts, says how many they share and shows one.
pub fn check_disjoint(parts: &[(&str, Vec<&Instruction>)]) -> Result<()> {
    let mut first_part: HashMap<&str, usize> = HashMap::new();
    let mut shared: BTreeMap<(usize, usize), (usize, &Instruction)> = BTreeMap::new();
    let mut counted: HashMap<&str, usize> = HashMap::new();
    for (part, (_, instructions)) in parts.iter().enumerate() {
        for instruction in instructions {
            let first = *first_part.entry(&instruction.id).or_insert(part);
            if first != part && counted.insert(&instruction.id, part) != Some(part) {
                shared.entry((first, part)).or_insert((0, instruction)).0 += 1;
            }
        }
    }
    match shared.first_key_value() {
        None => Ok(()),
        Some(((first, second), (count, instruction))) => {
            let words: String = instruction.instruction.chars().take(60).collect();
            Err(Error::invalid_data(format!(
                "splits `{}` and `{}` share {count} instructions, for example `{words}`",
                parts[*first].0, parts[*second].0
            ))
            .with_hint("an instruction must stand in one split only, or results on one say nothing about the other"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(numbers: &[u8]) -> Vec<Demonstration> {
        let record = |(i, n): (usize, &u8)| Demonstration {
            instruction: Instruction::new(format!("instruction {n}"), None),
            output: format!("{i}"),
        };
        numbers.iter().enumerate().map(record).collect()
    }

    fn ids(part: &[Demonstration]) -> Vec<&str> {
        let mut ids: Vec<&str> = part.iter().map(|record| record.instruction.id.as_str()).collect();
        ids.dedup();
        ids
    }

    const PARTS: [(&str, Share); 3] = [("a", Share::Fraction(0.3)), ("rest", Share::Rest), ("b", Share::Fraction(0.3))];

    proptest! {
        #[test]
        fn parts_are_disjoint_and_complete(numbers in prop::collection::vec(any::<u8>(), 0..200), seed: u64, n in 0usize..20) {
            let n_different = records(&numbers).iter().map(|r| r.instruction.id.clone()).collect::<std::collections::HashSet<_>>().len();
            let n = n.min(n_different);
            let counts = [("a", Share::Count(n / 2)), ("b", Share::Count(n - n / 2)), ("rest", Share::Rest)];
            for parts in [PARTS, counts] {
                let split = split(records(&numbers), &parts, Seed::root(seed)).expect("split");
                let mut outputs: Vec<usize> = split.iter().flatten().map(|record| record.output.parse().expect("a number")).collect();
                outputs.sort_unstable();
                prop_assert_eq!(outputs, (0..numbers.len()).collect::<Vec<_>>());
                let lists: Vec<(&str, Vec<&Instruction>)> =
                    split.iter().map(|part| ("part", part.iter().map(|record| &record.instruction).collect())).collect();
                prop_assert!(check_disjoint(&lists).is_ok());
            }
            let split = split(records(&numbers), &counts, Seed::root(seed)).expect("split");
            prop_assert_eq!(ids(&split[0]).len() + ids(&split[1]).len(), n);
        }

        #[test]
        fn neither_order_nor_added_records_move_the_others(numbers in prop::collection::vec(any::<u8>(), 1..100), extra: Vec<u8>, seed: u64) {
            let seed = Seed::root(seed);
            let whole = split(records(&numbers), &PARTS, seed).expect("split");
            let mut reversed = records(&numbers);
            reversed.reverse();
            let reversed = split(reversed, &PARTS, seed).expect("split");
            let more = split(records(&[numbers.as_slice(), extra.as_slice()].concat()), &PARTS, seed).expect("split");
            for part in 0..PARTS.len() {
                prop_assert_eq!(ids(&whole[part]), ids(&reversed[part]));
                let kept: Vec<&str> = ids(&more[part]).into_iter().filter(|id| ids(&whole[part]).contains(id)).collect();
                prop_assert_eq!(kept, ids(&whole[part]));
            }
        }
    }

    #[test]
    fn fractions_are_met_on_average_and_another_seed_splits_otherwise() {
        let many: Vec<Instruction> = (0..4000).map(|i| Instruction::new(format!("{i}"), None)).collect();
        let sizes = |seed| split(many.clone(), &PARTS, Seed::root(seed)).expect("split").iter().map(Vec::len).collect::<Vec<_>>();
        assert!(sizes(0).iter().zip([0.3, 0.4, 0.3]).all(|(size, share)| (*size as f64 / 4000.0 - share).abs() < 0.03));
        assert_ne!(sizes(0), sizes(1));
        let thirds = [("a", Share::Fraction(0.1)), ("b", Share::Fraction(0.2)), ("c", Share::Fraction(0.7))];
        let split = split(many.clone(), &thirds, Seed::root(0)).expect("split");
        assert_eq!(split.iter().map(Vec::len).sum::<usize>(), 4000, "fractions that add up to 1 leave nothing");
    }

    #[test]
    fn shares_that_cannot_be_had_are_refused() {
        let refused = |parts: &[(&str, Share)]| split(records(&[1, 2]), parts, Seed::root(0)).expect_err("refused").to_string();
        assert!(
            refused(&[("a", Share::Count(2)), ("b", Share::Count(1))])
                .contains("wants 3 different instructions (a 2, b 1), but there are 2")
        );
        assert!(refused(&[("a", Share::Fraction(0.7)), ("b", Share::Fraction(0.7))]).contains("sum of at most 1"));
        assert!(refused(&[("a", Share::Fraction(f64::NAN))]).contains("`a` is NaN"));
        assert!(refused(&[("a", Share::Fraction(0.5)), ("b", Share::Count(1))]).contains("not both"));
        assert!(refused(&[("a", Share::Rest), ("b", Share::Rest)]).contains("one rest"));
    }

    #[test]
    fn overlapping_files_are_named() {
        let [a, b] = ["a", "b"].map(|text| Instruction::new(text, None));
        let error = check_disjoint(&[("sft", vec![&a, &a]), ("val", vec![&b]), ("eval", vec![&b, &b])]).expect_err("shared");
        assert!(error.to_string().contains("`val` and `eval` share 1 instructions, for example `b`"), "{error}");
    }
}
