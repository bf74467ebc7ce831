//! The stages that turn sampled answers into feedback: `score`, `label`, `rate`. Each runs once, for all methods that ask for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_core::config::{LabelSource, ScoreSource};
use farmhand_core::data::{self, ReadOptions};
use farmhand_core::types::ScoredCompletion;
use farmhand_core::{BuildContext, Checkpoint, Error, FeedbackKind, Result, RewardModelSpec, RunContext};
use serde_json::json;

use super::default_reward_model::{meant, untrained_scorer};
use super::requirements::FeedbackStages;
use super::reward_models::{OwnModel, TrainingOrder};
use super::{Experiment, to_json, with_models};
use crate::pipeline::{answer_feedback, evaluate};

const ANSWERS: &str = "sample/completions.jsonl";
const JUDGEMENTS: &str = "annotate/judgements.jsonl";
pub(super) const PAIRS: &str = "annotate/preferences.jsonl";

/// The stage that scores answers by their annotations, for a reward model that learns from ranked lists.
const SCORE_FOR_REWARD_MODEL: &str = "score-by-annotations";

impl Experiment<'_> {
    /// What reward models learn from, as far as a stage has to make it before there is any.
    pub(super) fn supply_reward_models(&mut self, start: &Checkpoint) -> Result<()> {
        if FeedbackStages::of(&self.config, &self.base_dir)?.score_for_reward_model {
            self.score(SCORE_FOR_REWARD_MODEL, None, start)?;
        }
        Ok(())
    }

    /// What the methods learn from, as far as stages have to make it.
    pub(super) fn supply_methods(&mut self, start: &Checkpoint) -> Result<()> {
        let needed = FeedbackStages::of(&self.config, &self.base_dir)?;
        if needed.score {
            let scorer = match self.config.feedback.scores.clone() {
                ScoreSource::Auto => self.own_models.get(None).map(OwnModel::scorer),
                ScoreSource::Annotations => None,
                ScoreSource::RewardModel(spec) => Some(meant(&spec, untrained_scorer(None, &self.config))?),
            };
            self.score("score", scorer, start)?;
        }
        if needed.label {
            self.label()?;
        }
        if needed.rate {
            self.rate(start)?;
        }
        Ok(())
    }

    /// The file, in the run directory or the user's own, that holds the feedback of this kind.
    pub(super) fn feedback_file(&self, kind: FeedbackKind, for_reward_model: bool) -> PathBuf {
        if let Some(file) = self.config.feedback.files.of(kind) {
            return self.base_dir.join(file);
        }
        let score = if for_reward_model { SCORE_FOR_REWARD_MODEL } else { "score" };
        self.input(&match kind {
            FeedbackKind::Demonstrations => "data/sft.jsonl".to_owned(),
            FeedbackKind::Prompts => "data/unlabeled.jsonl".to_owned(),
            FeedbackKind::Preferences => PAIRS.to_owned(),
            FeedbackKind::Scored => format!("{score}/scored.jsonl"),
            FeedbackKind::RankedLists => format!("{score}/ranked_lists.jsonl"),
            FeedbackKind::Labelled => "label/labelled.jsonl".to_owned(),
            FeedbackKind::Rated => "rate/rated.jsonl".to_owned(),
        })
    }

    /// Scores the sampled answers and ranks those to the same instruction: by a reward model, or without one by the annotations.
    fn score(&mut self, name: &str, scorer: Option<RewardModelSpec>, start: &Checkpoint) -> Result<()> {
        let reward_model = self.own_models.checkpoint(None).cloned();
        let reward_model = reward_model.as_ref();
        let (options, inputs) = match &scorer {
            Some(spec) => {
                (json!({ "reward_model": to_json(spec) }), with_models(ANSWERS, std::iter::once(start).chain(reward_model)))
            }
            None => (json!({ "by": "annotations" }), vec![ANSWERS.into(), JUDGEMENTS.into()]),
        };
        let (answers, judgements) = (self.input(ANSWERS), self.input(JUDGEMENTS));
        self.stage(name, options, inputs, |_, ctx, build| {
            let (answers, _) = data::read_completions(&answers, &ReadOptions::default())?;
            let n_answers = answers.len();
            let scored = match scorer {
                Some(spec) => {
                    let build = BuildContext { policy: Some(start), reward_model, ..*build };
                    let scores = evaluate::rewards(&mut *spec.build(&build)?, &answers, ctx)?;
                    answer_feedback::scored(answers, &scores)
                }
                None => {
                    let (judgements, _) = data::read_judgements(&judgements, &ReadOptions::default())?;
                    answer_feedback::scored_by_verdicts(answers, &judgements)
                }
            };
            write_scored(&scored, n_answers, ctx)
        })?;
        Ok(())
    }

    /// Labels answers good or bad.
    fn label(&mut self) -> Result<()> {
        let by = self.config.feedback.labels;
        let (pairs, answers, scored) = (self.input(PAIRS), self.input(ANSWERS), self.feedback_file(FeedbackKind::Scored, false));
        let inputs = match by {
            LabelSource::Pairs => vec![PAIRS.into(), ANSWERS.into()],
            LabelSource::Threshold(_) => vec![scored.clone()],
        };
        self.stage("label", json!({ "labels": to_json(&by) }), inputs, |_, ctx, _| {
            let options = ReadOptions::default();
            let labelled = match by {
                LabelSource::Pairs => {
                    let (pairs, _) = data::read_preference_pairs(&pairs, &options)?;
                    answer_feedback::labelled_by_pairs(&pairs, &data::read_completions(&answers, &options)?.0)
                }
                LabelSource::Threshold(threshold) => {
                    answer_feedback::labelled_by_score(data::read_scored_completions(&scored, &options)?.0, threshold)
                }
            };
            let n_good = labelled.iter().filter(|answer| answer.desirable).count();
            if n_good == 0 || n_good == labelled.len() {
                let all = if n_good == 0 { "bad" } else { "good" };
                return Err(Error::invalid_data(format!(
                    "all {} answers are labelled {all}, which teaches nothing",
                    labelled.len()
                ))
                .with_hint("move `feedback.labels.threshold` into the range of the scores, or take `pairs`"));
            }
            ctx.events.info(&format!("  {n_good} of {} answers are good ones", labelled.len()));
            ctx.stage.write_jsonl("labelled.jsonl", &labelled).map(|_| ())
        })?;
        Ok(())
    }

    /// Rates the sampled answers on every attribute.
    pub(super) fn rate(&mut self, start: &Checkpoint) -> Result<()> {
        // A reward model that learns from these ratings is trained after them.
        let first = TrainingOrder::of(&self.config, &self.base_dir)?.first.contains(&None);
        let reward_model = self.own_models.checkpoint(None).filter(|_| first).cloned();
        let reward_model = reward_model.as_ref();
        let attributes = meant(&self.config.feedback.ratings, untrained_scorer(None, &self.config))?;
        let n_levels = self.config.feedback.rating_levels;
        let options = json!({ "ratings": to_json(&attributes), "levels": n_levels });
        let inputs = with_models(ANSWERS, std::iter::once(start).chain(reward_model));
        let answers = self.input(ANSWERS);
        self.stage("rate", options, inputs, |_, ctx, build| {
            let (answers, _) = data::read_completions(&answers, &ReadOptions::default())?;
            let build = BuildContext { policy: Some(start), reward_model, ..*build };
            let mut ratings = BTreeMap::new();
            for (name, spec) in &attributes {
                let scores = evaluate::rewards_kept_as(&format!("{name}.jsonl"), &mut *spec.build(&build)?, &answers, ctx)?;
                let levels = if n_levels == 0 { scores } else { answer_feedback::levels(&scores, n_levels) };
                ratings.insert(name.clone(), levels);
            }
            ctx.stage.write_jsonl("rated.jsonl", &answer_feedback::rated(answers, &ratings)).map(|_| ())
        })?;
        Ok(())
    }
}

/// Writes `scored.jsonl` and `ranked_lists.jsonl`.
fn write_scored(scored: &[ScoredCompletion], n_answers: usize, ctx: &RunContext<'_>) -> Result<()> {
    if scored.is_empty() {
        return Err(Error::invalid_data(format!("none of {n_answers} answers has a score: no comparison has a verdict")));
    }
    if scored.len() < n_answers {
        ctx.events.info(&format!("  {} of {n_answers} answers are in no comparison and have no score", n_answers - scored.len()));
    }
    let (lists, n_level) = answer_feedback::ranked(scored);
    if n_level > 0 {
        ctx.events.info(&format!("  {n_level} instructions make no list: their answers all score the same"));
    }
    ctx.stage.write_jsonl("scored.jsonl", scored)?;
    ctx.stage.write_jsonl("ranked_lists.jsonl", &lists).map(|_| ())
}
