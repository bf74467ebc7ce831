//! The feedback of an experiment beside instructions and preference pairs: scored, ranked, labelled and rated answers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::experiment::is_folder_name;
use crate::component::RewardModelSpec;
use crate::error::Problem;
use crate::learner::FeedbackKind;

/// What methods learn from when they take neither instructions, demonstrations nor preference pairs. Each kind is made of the
/// sampled answers by a stage of its own, once, and only when a method asks for it; or it is read from a file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackConfig {
    /// Who scores the sampled answers, for methods that learn from scored answers or ranked lists.
    pub scores: ScoreSource,
    /// What makes an answer a good one, for methods that learn from labelled answers.
    pub labels: LabelSource,
    /// The attributes on which sampled answers are rated and the reward model that rates each: `quality.bradley_terry = {}`,
    /// `verbosity.length = {}`. For methods that learn from rated answers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ratings: BTreeMap<String, RewardModelSpec>,
    /// Ratings are whole numbers from 0 to this number less one: the group of an answer when all answers, sorted by their score,
    /// are cut into so many equal groups. 5 is HelpSteer's scale; 0 keeps the scores as they are.
    pub rating_levels: u32,
    /// Files to learn from instead of what a stage makes.
    pub files: FeedbackFiles,
}

impl Default for FeedbackConfig {
    fn default() -> Self {
        Self {
            scores: ScoreSource::default(),
            labels: LabelSource::default(),
            ratings: BTreeMap::new(),
            rating_levels: 5,
            files: FeedbackFiles::default(),
        }
    }
}

/// Who scores sampled answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreSource {
    /// The experiment's reward model when it has one, otherwise the annotations.
    #[default]
    Auto,
    /// The annotations: the share of its comparisons that an answer won, a tie counting half. Answers in no comparison are left
    /// out, so `sample.pairing = "all"` ranks every answer and `"one"` makes lists of two.
    Annotations,
    /// A reward model; `bradley_terry` without a `model` is that of the experiment.
    RewardModel(RewardModelSpec),
}

/// What makes a sampled answer a good or a bad one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// The preference pairs: the chosen answer is good, the rejected one bad.
    #[default]
    Pairs,
    /// Scores (`feedback.scores`): answers that score more than this are good, the others bad.
    Threshold(f64),
}

/// Feedback in files, in any form that farmhand reads. Relative to the configuration file's folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackFiles {
    /// Scored completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scored: Option<PathBuf>,
    /// Ranked lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranked_lists: Option<PathBuf>,
    /// Completions labelled good or bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labelled: Option<PathBuf>,
    /// Completions rated on attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rated: Option<PathBuf>,
}

impl FeedbackFiles {
    /// Every file that is named.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.scored, &self.ranked_lists, &self.labelled, &self.rated].into_iter().flatten()
    }

    /// The file of this kind, if one is named.
    pub fn of(&self, kind: FeedbackKind) -> Option<&PathBuf> {
        match kind {
            FeedbackKind::Scored => self.scored.as_ref(),
            FeedbackKind::RankedLists => self.ranked_lists.as_ref(),
            FeedbackKind::Labelled => self.labelled.as_ref(),
            FeedbackKind::Rated => self.rated.as_ref(),
            FeedbackKind::Demonstrations | FeedbackKind::Preferences | FeedbackKind::Prompts => None,
        }
    }
}

impl FeedbackConfig {
    /// Values out of range and problems of the reward models, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let ScoreSource::RewardModel(spec) = &self.scores {
            problems.extend(spec.problems().into_iter().map(|problem| problem.under("scores.reward_model")));
        }
        for (name, spec) in &self.ratings {
            if !is_folder_name(name) {
                let message = format!("`{name}` cannot name an attribute: letters, digits, `-` and `_`");
                problems.push(Problem::new(format!("ratings.{name}"), message));
            }
            problems.extend(spec.problems().into_iter().map(|problem| problem.under(&format!("ratings.{name}"))));
        }
        if let LabelSource::Threshold(threshold) = self.labels
            && !threshold.is_finite()
        {
            problems.push(Problem::new("labels.threshold", format!("expected a number, got {threshold}")));
        }
        if self.rating_levels == 1 {
            let problem = Problem::new("rating_levels", "expected 0 or at least 2, got 1");
            problems.push(problem.with_hint("one level says nothing about an answer; 0 keeps the scores as they are"));
        }
        problems
    }
}
