//! Verdicts of several judges on pairs of answers, matched by what was asked and answered.

use std::collections::HashMap;

use farmhand_core::types::{Comparison, Failure, Judgement, Outcome, ShownOrder, UnorderedPair};

use crate::preference_bias::{ListRule, has_list};

/// Two answers to one instruction, in the order in which they were met first.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The number of the instruction.
    pub instruction: usize,
    /// Who gave the answers.
    pub generators: [Option<String>; 2],
    /// The answers' lengths, in characters (Unicode code points).
    pub lengths: [Option<usize>; 2],
    /// Whether the answers have lists; not known where there are no texts.
    pub lists: [Option<bool>; 2],
}

/// One verdict, or the failure to reach one.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The number of the pair.
    pub pair: usize,
    /// The number of the judge.
    pub judge: usize,
    /// The number of the annotator: the judge itself, or a member of its pool.
    pub member: usize,
    /// The probability that the pair's second answer is better; `None` for a failure.
    pub p_second: Option<f64>,
    /// Whether the pair's second answer was shown first; `None` where nobody recorded it.
    pub second_shown_first: Option<bool>,
    /// Of a judge that was asked in both orders: the probability that the pair's second answer is better as it said when the
    /// second and when the first was shown first.
    pub both_orders: Option<[f64; 2]>,
    /// US dollars; `None` where not known, or kept from an earlier time.
    pub price: Option<f64>,
    /// Seconds; `None` where not known, or kept from an earlier time.
    pub time: Option<f64>,
}

/// How a file tells in which order the judge saw the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It does not.
    Unknown,
    /// In the file's order.
    AsGiven,
    /// As each record says, farmhand's own files do.
    Recorded,
    /// In the other order.
    Swapped,
}

/// Whose verdict it is.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The judge.
    pub judge: &'a str,
    /// The annotator's name, for a failure that does not say whose it is.
    pub member: &'a str,
}

/// What a file of lengths says of a pair and of a judge's verdict on it: no texts.
#[derive(Debug, Clone, Copy)]
pub struct BareVerdict<'a> {
    /// What tells the instruction from others.
    pub instruction: &'a str,
    /// Who gave the answers.
    pub generators: [&'a str; 2],
    /// The answers' lengths, in characters.
    pub lengths: [Option<usize>; 2],
    /// The probability that the second answer is better; `None` for a failure.
    pub p_second: Option<f64>,
    /// Whether the second answer was shown first, where that is known.
    pub is_swapped: Option<bool>,
    /// US dollars.
    pub price: Option<f64>,
    /// Seconds.
    pub time: Option<f64>,
}

/// Verdicts of several judges. Pairs are numbered as they are met, so the order of whoever comes first is the one in which ties of
/// AlpacaEval's modes are broken.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    /// The judges' names, by number.
    pub judges: Vec<String>,
    /// The annotators' names, by number.
    pub members: Vec<String>,
    /// The pairs, by number.
    pub pairs: Vec<Pair>,
    /// How many instructions there are.
    pub n_instructions: usize,
    /// In the order in which they were added.
    pub verdicts: Vec<Verdict>,
    numbers: HashMap<String, usize>,
    /// Of each pair's id: its number, and whether its first answer is the later one of the alphabet.
    places: HashMap<String, (usize, bool)>,
}

impl Verdicts {
    /// Adds a judgement. What it cost counts where it did not come from a cache.
    pub fn add(&mut self, source: Source<'_>, judgement: &Judgement, shown: Shown) {
        let comparison = &judgement.comparison;
        let (pair, turned) = self.pair_of(comparison);
        let is_swapped = |recorded: Option<ShownOrder>| match shown {
            Shown::Unknown => None,
            Shown::AsGiven => Some(false),
            Shown::Swapped => Some(true),
            Shown::Recorded => recorded.map(|order| order == ShownOrder::Swapped),
        };
        let turn = |p: f64| if turned { 1.0 - p } else { p };
        let known_now = |cached: bool, value: Option<f64>| value.filter(|value| !cached && value.is_finite());
        let (member, verdict) = match &judgement.outcome {
            Outcome::Annotation(one) => {
                let note = |name: &str| one.notes.get(name).and_then(|value| value.as_f64()).map(|code| turn(code - 1.0));
                // As it said with the pair's second answer first, then with the first one first.
                let both = note("as_given").zip(note("swapped"));
                let both = both.map(|(given, swapped)| if turned { [given, swapped] } else { [swapped, given] });
                let verdict = Verdict {
                    pair,
                    judge: 0,
                    member: 0,
                    p_second: Some(turn(one.preference.p_second())),
                    second_shown_first: is_swapped(Some(one.shown)).filter(|_| both.is_none()).map(|swapped| swapped != turned),
                    both_orders: both,
                    price: known_now(one.cached, one.cost_usd),
                    time: known_now(one.cached, one.time_secs),
                };
                (one.annotator.as_str(), verdict)
            }
            Outcome::Failure(Failure { judging, .. }) => {
                let verdict = Verdict {
                    pair,
                    judge: 0,
                    member: 0,
                    p_second: None,
                    second_shown_first: None,
                    both_orders: None,
                    price: known_now(judging.cached, judging.cost_usd),
                    time: known_now(judging.cached, judging.time_secs),
                };
                (judging.annotator.as_deref().unwrap_or(source.member), verdict)
            }
        };
        let (judge, member) = (number_of(&mut self.judges, source.judge), number_of(&mut self.members, member));
        self.verdicts.push(Verdict { judge, member, ..verdict });
    }

    /// Adds a verdict on a pair of which only lengths are known.
    pub fn add_bare(&mut self, source: Source<'_>, bare: &BareVerdict<'_>) {
        let key = UnorderedPair::with_text(bare.instruction, bare.generators[0], bare.generators[1]);
        let fresh = Pair {
            instruction: self.instruction_number(bare.instruction),
            generators: bare.generators.map(|name| Some(name.to_owned())),
            lengths: bare.lengths,
            lists: [None; 2],
        };
        let (pair, turned) = self.place(key, || fresh);
        self.verdicts.push(Verdict {
            pair,
            judge: number_of(&mut self.judges, source.judge),
            member: number_of(&mut self.members, source.member),
            p_second: bare.p_second.map(|p| if turned { 1.0 - p } else { p }),
            second_shown_first: bare.is_swapped.map(|swapped| swapped != turned),
            both_orders: None,
            price: bare.price,
            time: bare.time,
        });
    }

    /// A judge's number.
    pub fn judge(&self, name: &str) -> Option<usize> {
        self.judges.iter().position(|one| one == name)
    }

    /// One judge's verdicts, failures among them.
    pub fn of_judge(&self, judge: usize) -> impl Iterator<Item = &Verdict> + Clone {
        self.verdicts.iter().filter(move |verdict| verdict.judge == judge)
    }

    /// Of every pair the codes (1 to 2) of the verdicts that `keep` keeps, in the order in which they were added: what
    /// [`crate::agreement::alpaca_eval`] works on.
    pub fn codes(&self, keep: impl Fn(&Verdict) -> bool) -> Vec<Vec<f64>> {
        let mut codes = vec![Vec::new(); self.pairs.len()];
        for verdict in self.verdicts.iter().filter(|verdict| keep(verdict)) {
            codes[verdict.pair].extend(verdict.p_second.map(|p| 1.0 + p));
        }
        codes
    }

    /// The instruction of every pair.
    pub fn clusters(&self) -> Vec<usize> {
        self.pairs.iter().map(|pair| pair.instruction).collect()
    }

    fn pair_of(&mut self, comparison: &Comparison) -> (usize, bool) {
        let key = UnorderedPair::as_asked(comparison);
        let number = self.instruction_number(&comparison.instruction.text());
        let outputs = [&comparison.output_1, &comparison.output_2];
        let fresh = || Pair {
            instruction: number,
            generators: [comparison.generator_1.clone(), comparison.generator_2.clone()],
            lengths: outputs.map(|output| Some(output.chars().count())),
            lists: outputs.map(|output| Some(has_list(output, ListRule::LineStart))),
        };
        let (pair, turned) = self.place(key, fresh);
        // A file of people's votes may not say whose answers they are; another may.
        let names = if turned {
            [&comparison.generator_2, &comparison.generator_1]
        } else {
            [&comparison.generator_1, &comparison.generator_2]
        };
        for (known, name) in self.pairs[pair].generators.iter_mut().zip(names) {
            if known.is_none() {
                known.clone_from(name);
            }
        }
        (pair, turned)
    }

    fn instruction_number(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.numbers.insert(text.to_owned(), self.n_instructions);
        self.n_instructions += 1;
        self.n_instructions - 1
    }

    /// A pair's number, and whether this one has its answers the other way round.
    fn place(&mut self, key: UnorderedPair, fresh: impl FnOnce() -> Pair) -> (usize, bool) {
        if let Some((number, is_turned)) = self.places.get(&key.id) {
            return (*number, *is_turned != key.is_turned);
        }
        self.places.insert(key.id, (self.pairs.len(), key.is_turned));
        self.pairs.push(fresh());
        (self.pairs.len() - 1, false)
    }
}

fn number_of(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|one| one == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}
