//! One side of a comparison: what is known of a model's answers, by instruction and repetition.

use std::collections::{BTreeMap, BTreeSet};

use farmhand_core::types::{Instruction, Judgement, Outcome};

use crate::judgement_table::JudgementTable;
use crate::run_files::{AnswerScores, ModelFiles};

/// What is known of one answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    /// The probability that it is better than the reference's; the mean where several judged. `None` without a verdict.
    pub(super) p_win: Option<f64>,
    /// Its characters, where they are known.
    pub(super) length: Option<f64>,
    /// The characters of the reference's answer, where they are known.
    pub(super) reference_length: Option<f64>,
    /// What reward models gave it, by their names.
    pub(super) rewards: BTreeMap<String, f64>,
    /// The reference's answer, for telling whether two sides met the same one; `None` where a file has lengths only.
    pub(super) reference: Option<String>,
}

/// A model with its judged answers.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// What it is called in the result.
    pub name: String,
    /// Against whom it was judged, where the files say so.
    pub(super) references: BTreeSet<String>,
    /// Who judged.
    pub(super) annotators: BTreeSet<String>,
    /// Answers by instruction, then by seed; one that was not repeated has the key `None`.
    pub(super) answers: BTreeMap<String, BTreeMap<Option<u64>, Answer>>,
    /// Comparisons without a verdict.
    pub(super) n_failed: usize,
    /// Verdicts beyond the first on an answer.
    pub(super) n_repeated: usize,
}

impl Side {
    /// A model of that name without answers.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The repetitions of a method of a run.
    pub fn of_models<'a>(name: &str, models: impl IntoIterator<Item = (Option<u64>, &'a ModelFiles)>) -> Self {
        let mut side = Self::new(name);
        for (seed, model) in models {
            side.add(seed, &model.judgements);
            side.add_scores(seed, &model.scores);
        }
        side
    }

    /// Adds what reward models gave the answers of one repetition.
    pub(super) fn add_scores(&mut self, seed: Option<u64>, scores: &[AnswerScores]) {
        for scores in scores.iter().filter(|scores| scores.sample == 0) {
            if let Some(answer) = self.answers.get_mut(&scores.instruction).and_then(|answers| answers.get_mut(&seed)) {
                answer.rewards.clone_from(&scores.rewards);
            }
        }
    }

    /// Adds judgements of the reference's answers (`output_1`) against the model's (`output_2`) from one repetition. Several
    /// verdicts on one instruction count as their mean.
    pub fn add(&mut self, seed: Option<u64>, judgements: &[Judgement]) {
        let mut verdicts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for judgement in judgements {
            let comparison = &judgement.comparison;
            let id = comparison.instruction.id.as_str();
            self.references.extend(comparison.generator_1.clone());
            if let Outcome::Annotation(annotation) = &judgement.outcome {
                self.annotators.insert(annotation.annotator.clone());
            }
            let characters = |text: &str| Some(text.chars().count() as f64);
            self.answers.entry(id.to_owned()).or_default().entry(seed).or_insert_with(|| Answer {
                length: characters(&comparison.output_2),
                reference_length: characters(&comparison.output_1),
                reference: Some(comparison.output_1.clone()),
                ..Answer::default()
            });
            match judgement.preference() {
                Some(preference) => verdicts.entry(id).or_default().push(preference.p_second()),
                None => self.n_failed += 1,
            }
        }
        for (id, verdicts) in verdicts {
            self.set_verdicts(id, seed, &verdicts);
        }
    }

    /// Adds the rows of a table in which `model` is the one that was judged: files of the compact form have no texts.
    pub(super) fn add_rows(&mut self, table: &JudgementTable, model: &str) {
        let mut verdicts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for row in (0..table.len()).map(|row| table.row(row)).filter(|row| row.model == model) {
            let id = Instruction::new(row.instruction, None).id;
            self.references.insert(row.baseline.to_owned());
            self.annotators.insert(row.annotator.to_owned());
            self.answers.entry(id.clone()).or_default().entry(None).or_insert_with(|| Answer {
                length: row.len_2.map(f64::from),
                reference_length: row.len_1.map(f64::from),
                ..Answer::default()
            });
            match row.preference {
                Some(code) => verdicts.entry(id).or_default().push(code - 1.0),
                None => self.n_failed += 1,
            }
        }
        for (id, verdicts) in verdicts {
            self.set_verdicts(&id, None, &verdicts);
        }
    }

    fn set_verdicts(&mut self, id: &str, seed: Option<u64>, verdicts: &[f64]) {
        self.n_repeated += verdicts.len() - 1;
        if let Some(answer) = self.answers.get_mut(id).and_then(|answers| answers.get_mut(&seed)) {
            answer.p_win = Some(verdicts.iter().sum::<f64>() / verdicts.len() as f64);
        }
    }

    /// Its seeds; `[None]` for a model that was not repeated.
    pub(super) fn seeds(&self) -> BTreeSet<Option<u64>> {
        self.answers.values().flat_map(BTreeMap::keys).copied().collect()
    }
}
