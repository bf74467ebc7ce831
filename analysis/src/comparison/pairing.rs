//! The answers that two sides have in common, instruction by instruction and seed by seed.

use std::collections::BTreeSet;

use farmhand_core::{Error, Result};
use farmhand_evaluators::length_controlled::{Instance, is_extreme};

use super::side::{Answer, Side};
use super::{Cells, Difference};

/// Both sides, joined.
pub(super) struct Pairing<'a> {
    sides: [&'a Side; 2],
    /// The instructions with a verdict on both sides in every repetition.
    instructions: Vec<&'a str>,
    /// The seeds of both sides, repetition by repetition.
    seeds: Vec<[Option<u64>; 2]>,
    /// Instructions that only one side has, or of which a repetition has no verdict.
    n_left_out: usize,
}

impl<'a> Pairing<'a> {
    /// Joins two sides. A side that was not repeated goes with every repetition of the other.
    ///
    /// # Errors
    /// When nothing is common to both.
    pub(super) fn of(a: &'a Side, b: &'a Side) -> Result<Self> {
        let (seeds_a, seeds_b) = (a.seeds(), b.seeds());
        let alone = |seeds: &BTreeSet<Option<u64>>| seeds.len() == 1 && seeds.contains(&None);
        let seeds: Vec<[Option<u64>; 2]> = match (alone(&seeds_a), alone(&seeds_b)) {
            (true, _) => seeds_b.iter().map(|seed| [None, *seed]).collect(),
            (_, true) => seeds_a.iter().map(|seed| [*seed, None]).collect(),
            _ => seeds_a.intersection(&seeds_b).map(|seed| [*seed, *seed]).collect(),
        };
        if seeds.is_empty() {
            let list = |seeds: &BTreeSet<Option<u64>>| seeds.iter().flatten().map(u64::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid_data(format!(
                "`{}` (seeds {}) and `{}` (seeds {}) have no seed in common",
                a.name,
                list(&seeds_a),
                b.name,
                list(&seeds_b)
            )));
        }
        let sides = [a, b];
        let judged = |id: &str, pair: &[Option<u64>; 2]| {
            sides.iter().zip(pair).all(|(side, seed)| {
                let answer = side.answers.get(id).and_then(|answers| answers.get(seed));
                answer.is_some_and(|answer| answer.p_win.is_some())
            })
        };
        let instructions: Vec<&str> =
            a.answers.keys().map(String::as_str).filter(|id| seeds.iter().all(|pair| judged(id, pair))).collect();
        let all: BTreeSet<&String> = a.answers.keys().chain(b.answers.keys()).collect();
        if instructions.is_empty() {
            let n_common = a.answers.keys().filter(|id| b.answers.contains_key(*id)).count();
            let message = if n_common == 0 {
                format!(
                    "`{}` ({} instructions) and `{}` ({}) have no instruction in common",
                    a.name,
                    a.answers.len(),
                    b.name,
                    b.answers.len()
                )
            } else {
                format!("`{}` and `{}` share {n_common} instructions, but none with a verdict on both", a.name, b.name)
            };
            return Err(Error::invalid_data(message).with_hint(
                "a paired comparison needs answers to the same instructions, each judged against the same reference",
            ));
        }
        let n_left_out = all.len() - instructions.len();
        Ok(Self { sides, instructions, seeds, n_left_out })
    }

    pub(super) fn n_instructions(&self) -> usize {
        self.instructions.len()
    }

    pub(super) fn n_seeds(&self) -> usize {
        self.seeds.len()
    }

    fn answer(&self, side: usize, seeds: &[Option<u64>; 2], id: &str) -> &'a Answer {
        &self.sides[side].answers[id][&seeds[side]]
    }

    /// Both sides' numbers, over the instructions that have one on both sides in all repetitions.
    pub(super) fn values(&self, of: impl Fn(&Answer) -> Option<f64>) -> Cells {
        let pair = |seeds: &[Option<u64>; 2], id: &str| Some((of(self.answer(0, seeds, id))?, of(self.answer(1, seeds, id))?));
        let whole: Vec<&&str> =
            self.instructions.iter().filter(|id| self.seeds.iter().all(|seeds| pair(seeds, id).is_some())).collect();
        self.seeds.iter().map(|seeds| whole.iter().filter_map(|id| pair(seeds, id)).collect()).collect()
    }

    /// The reward models that scored answers of both.
    pub(super) fn common_rewards(&self) -> Vec<String> {
        let names = |side: &Side| -> BTreeSet<String> {
            side.answers.values().flat_map(|answers| answers.values()).flat_map(|answer| answer.rewards.keys().cloned()).collect()
        };
        names(self.sides[0]).intersection(&names(self.sides[1])).cloned().collect()
    }

    /// Whether the lengths of all common answers are known.
    pub(super) fn knows_lengths(&self) -> bool {
        let known = |answer: &Answer| answer.length.is_some() && answer.reference_length.is_some();
        let both = |seeds: &[Option<u64>; 2]| {
            self.instructions.iter().all(|id| known(self.answer(0, seeds, id)) && known(self.answer(1, seeds, id)))
        };
        self.seeds.iter().all(both)
    }

    /// The rows of each side's length-controlled regression: `[seeds][instructions]`.
    pub(super) fn instances(&self) -> [Vec<Vec<Instance>>; 2] {
        [0, 1].map(|side| {
            let row = |seeds: &[Option<u64>; 2]| {
                let instance = |id: &&str| {
                    let answer = self.answer(side, seeds, id);
                    let delta_len = answer.reference_length.zip(answer.length).map_or(0.0, |(reference, own)| reference - own);
                    Instance { delta_len, difficulty: None, covariates: Vec::new(), p_win: answer.p_win }
                };
                self.instructions.iter().map(instance).collect()
            };
            self.seeds.iter().map(row).collect()
        })
    }

    /// What a reader must know.
    pub(super) fn notes(&self, differences: &[Difference]) -> Vec<String> {
        let [a, b] = self.sides;
        let mut notes = Vec::new();
        if self.n_left_out > 0 {
            notes.push(match self.n_left_out {
                1 => "1 instruction without a verdict on both sides is left out.".to_owned(),
                n => format!("{n} instructions without a verdict on both sides are left out."),
            });
        }
        for side in self.sides {
            if side.n_repeated > 0 {
                let n = side.n_repeated;
                notes.push(format!(
                    "`{}` has {n} further verdicts on the same answers; each instruction counts with their mean.",
                    side.name
                ));
            }
        }
        if a.references != b.references && !a.references.is_empty() && !b.references.is_empty() {
            let list = |side: &Side| side.references.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "The references differ: {} and {}. The win rates are not against the same answers.",
                list(a),
                list(b)
            ));
        } else {
            let differs = |id: &&&str| {
                let both = |seeds| self.answer(0, seeds, id).reference.as_ref().zip(self.answer(1, seeds, id).reference.as_ref());
                self.seeds.iter().filter_map(both).any(|(a, b)| a != b)
            };
            let n = self.instructions.iter().filter(differs).count();
            if n > 0 {
                notes.push(format!(
                    "The reference's answers differ on {n} of {} instructions: the win rates are not against the same answers.",
                    self.instructions.len()
                ));
            }
        }
        if a.annotators.is_disjoint(&b.annotators) && !a.annotators.is_empty() && !b.annotators.is_empty() {
            let list = |side: &Side| side.annotators.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            notes.push(format!("Different judges: {} and {}. Part of the difference may be theirs.", list(a), list(b)));
        }
        if self.n_seeds() > 1 {
            notes.push("Intervals count instructions and seeds; the sign test counts instructions alone.".to_owned());
        }
        let controlled = differences.iter().find(|found| found.name == "length_controlled_winrate");
        for (name, raw, found) in
            controlled.iter().flat_map(|found| [(&a.name, differences[0].a, found.a), (&b.name, differences[0].b, found.b)])
        {
            if is_extreme(raw / 100.0, found / 100.0) {
                notes.push(format!("Length control moves the win rate of `{name}` further than AlpacaEval finds believable."));
            }
        }
        notes
    }
}
