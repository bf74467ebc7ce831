//! Verdicts on methods under two annotators, checked before they are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use farmhand_core::{Error, Result};

/// Which of the two annotators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one whose ranking is tested: the simulated annotator, say.
    A,
    /// The one it is held against: people, say.
    B,
}

impl Side {
    fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// One verdict on a method's answer against the reference's.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    /// The method.
    pub method: &'a str,
    /// What its answer was compared with, where that is known.
    pub reference: Option<&'a str>,
    /// What tells the instruction from others, the same under both annotators.
    pub instruction: &'a str,
    /// The probability, in [0, 1], that the method's answer is better; `None` without a verdict.
    pub p_win: Option<f64>,
    /// The lengths of the method's and of the reference's answer, in characters.
    pub lengths: Option<[f64; 2]>,
}

/// Collects verdicts under two annotators.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    methods: BTreeMap<String, JudgedMethod>,
    references: [BTreeSet<String>; 2],
    instructions: HashMap<String, usize>,
    n_failed: [usize; 2],
}

/// One method's verdicts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JudgedMethod {
    /// Instruction and probability that the method wins, under A and under B.
    pub p_wins: [Vec<(usize, f64)>; 2],
    /// By instruction: the lengths of the method's and of the reference's answer, in characters.
    pub lengths: BTreeMap<usize, [f64; 2]>,
}

/// Methods with verdicts of both annotators on answers compared with one reference.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedMethods {
    /// By name.
    pub methods: Vec<(String, JudgedMethod)>,
    /// How many instructions there are.
    pub n_instructions: usize,
    /// The reference, where it is known.
    pub reference: Option<String>,
    /// Methods that only one of the two judged, and are left out.
    pub left_out: Vec<String>,
    /// Failures of A and of B.
    pub n_failed: [usize; 2],
}

impl Judged {
    /// Adds a verdict; a failure is counted. The reference compared with itself is left out.
    pub fn add(&mut self, side: Side, verdict: &Verdict<'_>) {
        if verdict.reference == Some(verdict.method) {
            return;
        }
        let next = self.instructions.len();
        let instruction = *self.instructions.entry(verdict.instruction.to_owned()).or_insert(next);
        self.references[side.index()].extend(verdict.reference.map(str::to_owned));
        let method = self.methods.entry(verdict.method.to_owned()).or_default();
        if let Some(lengths) = verdict.lengths {
            method.lengths.entry(instruction).or_insert(lengths);
        }
        match verdict.p_win {
            Some(p_win) => method.p_wins[side.index()].push((instruction, p_win)),
            None => self.n_failed[side.index()] += 1,
        }
    }

    /// The methods that both judged, or those of `wanted`.
    ///
    /// # Errors
    /// When there are fewer than two methods, a wanted one is not known, or the answers were compared with several references.
    pub fn methods(self, wanted: Option<&[String]>) -> Result<JudgedMethods> {
        let reference = one_reference(&self.references)?;
        let names = |side: Side| -> Vec<&str> {
            let judged = self.methods.iter().filter(|(_, method)| !method.p_wins[side.index()].is_empty());
            judged.map(|(name, _)| name.as_str()).collect()
        };
        for side in [Side::A, Side::B] {
            if names(side).is_empty() {
                return Err(Error::missing_input(format!("no verdict under annotator {}", side.name())));
            }
        }
        let is_both = |method: &JudgedMethod| method.p_wins.iter().all(|side| !side.is_empty());
        for name in wanted.into_iter().flatten() {
            match self.methods.get(name) {
                Some(method) if is_both(method) => {}
                found => {
                    let what = if found.is_some() { "was judged by one of the two annotators only" } else { "was not judged" };
                    let known: Vec<&str> =
                        self.methods.iter().filter(|(_, method)| is_both(method)).map(|(name, _)| name.as_str()).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { format!("`{}`", known.join("`, `")) };
                    return Err(Error::invalid_config(format!("method `{name}` {what}"))
                        .with_hint(format!("methods that both judged: {known}")));
                }
            }
        }
        let is_wanted = |name: &String| wanted.is_none_or(|wanted| wanted.contains(name));
        let n_both = self.methods.iter().filter(|(name, method)| is_both(method) && is_wanted(name)).count();
        if n_both < 2 {
            let (a, b) = (names(Side::A).join("`, `"), names(Side::B).join("`, `"));
            let message = if n_both == 1 {
                "only one method has verdicts of both annotators, and a ranking needs at least two"
            } else {
                "no method has verdicts of both annotators"
            };
            return Err(Error::missing_input(message).with_hint(format!("A judged `{a}`; B judged `{b}`")));
        }
        let left_out = self.methods.iter().filter(|(_, method)| !is_both(method)).map(|(name, _)| name.clone()).collect();
        let n_instructions = self.instructions.len();
        let methods = self.methods.into_iter().filter(|(name, method)| is_both(method) && is_wanted(name)).collect();
        Ok(JudgedMethods { methods, n_instructions, reference, left_out, n_failed: self.n_failed })
    }
}

fn one_reference(references: &[BTreeSet<String>; 2]) -> Result<Option<String>> {
    let list = |names: &BTreeSet<String>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let hint = "win rates against different references cannot be compared; give files of one reference";
    for (side, names) in [Side::A, Side::B].into_iter().zip(references) {
        if names.len() > 1 {
            let message =
                format!("under annotator {}, answers were compared with several references: {}", side.name(), list(names));
            return Err(Error::invalid_data(message).with_hint(hint));
        }
    }
    match (references[0].first(), references[1].first()) {
        (Some(a), Some(b)) if a != b => {
            let message = format!("annotator A compared with `{a}` and annotator B with `{b}`");
            Err(Error::invalid_data(message).with_hint(hint))
        }
        (a, b) => Ok(a.or(b).cloned()),
    }
}

/// A method's win rates from a table, in %.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow {
    /// The method.
    pub method: String,
    /// Its win rate under A.
    pub a: f64,
    /// Its win rate under B.
    pub b: f64,
    /// The standard error of the one under A.
    pub a_se: Option<f64>,
    /// The standard error of the one under B.
    pub b_se: Option<f64>,
}
