//! What the learners of an experiment ask for, and whether the experiment offers it.

use std::path::Path;

use farmhand_core::config::{
    Document, ExperimentConfig, LabelSource, MethodConfig, RewardModelStage, ScoreSource, trained_names,
};
use farmhand_core::plugin::load_plugins;
use farmhand_core::{BuildContext, FeedbackKind, LearnerSpec, Problem, Requirements, Result, RewardModelSpec};
use serde::Serialize;
use serde_json::Value;

use super::default_reward_model::{
    asks_default_reward_model, asks_trained_reward_model, default_reward_models, is_untrained, meant, untrained_scorer,
    without_place,
};
use super::reward_models::{TrainingOrder, stage_name, stage_of};
use super::to_json;

/// Reads an experiment and reports everything wrong with it at once, learners' requirements included.
///
/// # Errors
/// When it cannot be read or run.
pub fn read_experiment(document: &Document) -> Result<ExperimentConfig> {
    load_named_plugins(document)?;
    let config: ExperimentConfig = document.read_as()?;
    let mut problems = config.problems();
    problems.extend(requirement_problems(&config, document.path().parent().unwrap_or(Path::new(".")))?);
    if problems.is_empty() { Ok(config) } else { Err(document.problems_error(&problems)) }
}

/// Loads the plugins that the experiment names, before anything in it is looked up. What is not a list of paths is left to the check
/// against the schema.
fn load_named_plugins(document: &Document) -> Result<()> {
    let base_dir = document.path().parent().unwrap_or(Path::new("."));
    let named = document.values().get("plugins").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for path in named {
        load_plugins(&base_dir.join(path)).map_err(|error| error.context("`plugins`"))?;
    }
    Ok(())
}

/// What a learner needs, from its options alone.
pub(in crate::pipeline) fn requires(spec: &LearnerSpec, config: &ExperimentConfig, base_dir: &Path) -> Result<Requirements> {
    Ok(spec.build(&BuildContext::new(config.device, base_dir))?.requires())
}

/// The stages that make feedback of the sampled answers, as far as learners ask for what they make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::pipeline) struct FeedbackStages {
    /// A reward model learns from answers scored by the annotations.
    pub(in crate::pipeline) score_for_reward_model: bool,
    /// Methods learn from scores: scored answers, ranked lists, labels by a threshold.
    pub(in crate::pipeline) score: bool,
    /// Methods learn from labelled answers.
    pub(in crate::pipeline) label: bool,
    /// Methods learn from rated answers.
    pub(in crate::pipeline) rate: bool,
}

impl FeedbackStages {
    /// What the experiment's learners ask for and no file gives.
    ///
    /// # Errors
    /// When a learner cannot be built.
    pub(in crate::pipeline) fn of(config: &ExperimentConfig, base_dir: &Path) -> Result<Self> {
        let mut stages = Self::default();
        for spec in config.methods.values().filter_map(|method| method.learner.as_ref()) {
            let kind = requires(spec, config, base_dir)?.feedback;
            if config.feedback.files.of(kind).is_some() {
                continue;
            }
            match kind {
                FeedbackKind::Scored | FeedbackKind::RankedLists => stages.score = true,
                FeedbackKind::Labelled => stages.label = true,
                FeedbackKind::Rated => stages.rate = true,
                FeedbackKind::Demonstrations | FeedbackKind::Preferences | FeedbackKind::Prompts => {}
            }
        }
        stages.score |= stages.label && matches!(config.feedback.labels, LabelSource::Threshold(_));
        for learner in config.reward_model_stages().filter_map(|(_, stage)| stage.learner.as_ref()) {
            let kind = requires(learner, config, base_dir)?.feedback;
            let of_scores = matches!(kind, FeedbackKind::Scored | FeedbackKind::RankedLists);
            stages.score_for_reward_model |= of_scores && config.feedback.files.of(kind).is_none();
        }
        Ok(stages)
    }
}

/// Whether a method learns from the experiment's annotations: from the pairs, from what is made of them, or through the reward
/// model; or whether it answers with that reward model's help.
pub(super) fn uses_annotations(name: &str, config: &ExperimentConfig, base_dir: &Path) -> Result<bool> {
    let Some(method) = config.methods.get(name) else { return Ok(false) };
    let untrained = untrained_scorer(method.reward_model.as_deref(), config);
    let shared = untrained_scorer(None, config);
    let of_annotations = |scorer: &RewardModelSpec| asks_trained_reward_model(&to_json(scorer));
    if let Some(policy) = method.policy.as_ref().or(config.generate.policy.as_ref())
        && asks_trained_reward_model(&to_json(&meant(policy, untrained)?))
    {
        return Ok(true);
    }
    if let Some(spec) = &method.learner {
        let requires = requires(spec, config, base_dir)?;
        let by_scores = match &config.feedback.scores {
            ScoreSource::Auto => shared.is_none_or(of_annotations),
            ScoreSource::Annotations => true,
            ScoreSource::RewardModel(spec) => of_annotations(&meant(spec, shared)?),
        };
        let by_ratings = asks_trained_reward_model(&to_json(&meant(&config.feedback.ratings, shared)?));
        let from_feedback = config.feedback.files.of(requires.feedback).is_none()
            && match requires.feedback {
                FeedbackKind::Preferences => true,
                FeedbackKind::Scored | FeedbackKind::RankedLists => by_scores,
                FeedbackKind::Labelled => config.feedback.labels == LabelSource::Pairs || by_scores,
                FeedbackKind::Rated => by_ratings,
                FeedbackKind::Demonstrations | FeedbackKind::Prompts => false,
            };
        let rewarded = requires.reward_model && untrained.is_none_or(of_annotations);
        let judged = asks_trained_reward_model(&to_json(&meant(&method.annotator, untrained)?));
        if from_feedback || rewarded || judged || asks_trained_reward_model(&to_json(&meant(spec, untrained)?)) {
            return Ok(true);
        }
    }
    for used in [&method.init, &method.reference].into_iter().flatten() {
        if uses_annotations(used, config, base_dir)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What learners need and the experiment does not offer.
fn requirement_problems(config: &ExperimentConfig, base_dir: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let mut stages = vec![];
    if let Some(sft) = &config.sft {
        stages.push(("sft.learner".to_owned(), &sft.learner, Some(FeedbackKind::Demonstrations), false));
    }
    for (path, stage) in config.reward_model_stages() {
        stages.extend(stage.learner.as_ref().map(|learner| (format!("{path}.learner"), learner, None, true)));
        problems.extend(scorer_problems(&path, stage));
    }
    for (name, method) in &config.methods {
        problems.extend(method_model_problems(name, method, config, base_dir)?);
        stages.extend(method.learner.as_ref().map(|learner| (format!("methods.{name}.learner"), learner, None, false)));
    }
    for (path, spec, expected, is_reward_model) in stages {
        let requires = requires(spec, config, base_dir)?;
        let asked = Asked { spec, requires, is_reward_model };
        if let Some(expected) = expected.filter(|expected| *expected != requires.feedback) {
            problems.push(asked.other_feedback(&path, expected.name()));
        } else if let Some(problem) = asked.feedback_problem(&path, config) {
            problems.push(problem);
        }
    }
    problems.extend(source_problems(config, base_dir)?);
    problems.extend(shared_model_problems(config));
    Ok(problems)
}

/// The reward model and the annotator that a method's learner asks for and does not find, or that it is given for nothing, and
/// reward models in its options that have nothing to load.
fn method_model_problems(name: &str, method: &MethodConfig, config: &ExperimentConfig, base_dir: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let path = format!("methods.{name}");
    let reward_model = method.reward_model.as_deref();
    if let Some(policy) = &method.policy {
        problems.extend(unloadable(&format!("{path}.policy"), policy, reward_model, config));
    }
    let Some(spec) = &method.learner else { return Ok(problems) };
    let requires = requires(spec, config, base_dir)?;
    if requires.reward_model && reward_model.is_none() && config.reward_model.is_none() {
        let problem = Problem::new(format!("{path}.learner"), format!("learner `{}` needs a reward model", spec.name()));
        problems.push(problem.with_hint(match config.reward_models.keys().next() {
            Some(named) => format!("add `[reward_model]`, or set `{path}.reward_model = \"{named}\"`"),
            None => "add `[reward_model]` with `learner.reward_modeling = {}`, or with the `scorer` that there is".to_owned(),
        }));
    }
    if stage_of(reward_model, config).is_some() {
        problems.extend(unloadable(&format!("{path}.learner"), spec, reward_model, config));
    }
    let Some(annotator) = &method.annotator else { return Ok(problems) };
    if !requires.annotator {
        problems.push(Problem::new(format!("{path}.annotator"), format!("learner `{}` asks no annotator", spec.name())));
    }
    problems.extend(unloadable(&format!("{path}.annotator"), annotator, reward_model, config));
    Ok(problems)
}

/// Reward models that have nothing to load where no method stands: in how all answer, and in who judges them.
fn shared_model_problems(config: &ExperimentConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(annotator) = &config.evaluate.annotator {
        problems.extend(unloadable("evaluate.annotator", annotator, None, config));
    }
    if let Some(policy) = &config.generate.policy {
        let methods = config.methods.values().filter(|method| method.policy.is_none());
        let asked = std::iter::once(None).chain(methods.map(|method| method.reward_model.as_deref()));
        for problem in asked.flat_map(|reward_model| unloadable("generate.policy", policy, reward_model, config)) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
}

/// The reward models in options that name none and have nothing to load, because the one that is meant is not trained; the scorer
/// of an untrained one stands in for those that take it.
fn unloadable(path: &str, spec: &impl Serialize, reward_model: Option<&str>, config: &ExperimentConfig) -> Vec<Problem> {
    if !is_untrained(reward_model, config) {
        return Vec::new();
    }
    let options = to_json(spec);
    let found = match stage_of(reward_model, config) {
        Some(_) => without_place(options),
        None => default_reward_models(&options),
    };
    found.into_iter().map(|inner| nothing_to_load(format!("{path}.{inner}"), reward_model, config)).collect()
}

/// The scorer of a reward model that is not trained and yet means the trained one.
fn scorer_problems(path: &str, stage: &RewardModelStage) -> Vec<Problem> {
    let Some(scorer) = stage.scorer.as_ref().filter(|_| stage.learner.is_none()) else { return Vec::new() };
    let found = default_reward_models(&to_json(scorer));
    found.into_iter().map(|inner| not_trained(format!("{path}.scorer.{inner}"), path)).collect()
}

fn nothing_to_load(path: String, reward_model: Option<&str>, config: &ExperimentConfig) -> Problem {
    if stage_of(reward_model, config).is_some() {
        return not_trained(
            path,
            &reward_model.map_or_else(|| "reward_model".to_owned(), |name| format!("reward_models.{name}")),
        );
    }
    let problem = Problem::new(path, "this reward model has nothing to load: the experiment trains none");
    problem
        .with_hint("add `[reward_model]`, or set `model` to one that exists, or to `trained:NAME` for one of `[reward_models]`")
}

fn not_trained(path: String, table: &str) -> Problem {
    let problem = Problem::new(path, format!("this reward model has nothing to load: `{table}` has no `learner`"));
    problem.with_hint(format!(
        "set `model` to one that exists, or to `trained:NAME` for a trained one of `[reward_models]`, or add `{table}.learner`"
    ))
}

/// A learner and what it asks for.
struct Asked<'a> {
    spec: &'a LearnerSpec,
    requires: Requirements,
    is_reward_model: bool,
}

impl Asked<'_> {
    fn other_feedback(&self, path: &str, expected: &str) -> Problem {
        let message =
            format!("learner `{}` learns from {}, not from {expected}", self.spec.name(), self.requires.feedback.name());
        Problem::new(path, message)
    }

    /// Why the experiment has no feedback of the kind that the learner takes.
    fn feedback_problem(&self, path: &str, config: &ExperimentConfig) -> Option<Problem> {
        let (name, kind) = (self.spec.name(), self.requires.feedback);
        if config.feedback.files.of(kind).is_some() {
            return None;
        }
        let no_split = |split: &str, size: usize| {
            let given = if config.data.files.is_empty() { size > 0 } else { config.data.files.contains_key(split) };
            (!given).then(|| {
                let key = if config.data.files.is_empty() { "data.split" } else { "data.files" };
                let message = format!("learner `{name}` learns from the `{split}` split, which has no records");
                Problem::new(path, message).with_hint(format!("set `{key}.{split}`"))
            })
        };
        match kind {
            FeedbackKind::Prompts if self.is_reward_model => Some(self.other_feedback(path, "judged answers")),
            FeedbackKind::Prompts => no_split("unlabeled", config.data.split.unlabeled),
            FeedbackKind::Demonstrations => no_split("sft", config.data.split.sft),
            FeedbackKind::Rated if config.feedback.ratings.is_empty() => {
                let message = format!("learner `{name}` learns from rated completions, and nothing rates answers here");
                let hint = "name a file in `feedback.files.rated`, or a reward model for each attribute, for example \
                            `feedback.ratings.quality.bradley_terry = {}`";
                Some(Problem::new(path, message).with_hint(hint))
            }
            _ => None,
        }
    }
}

/// Sources of feedback that name a reward model which the experiment does not train.
fn source_problems(config: &ExperimentConfig, base_dir: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let order = TrainingOrder::of(config, base_dir)?;
    let needed = FeedbackStages::of(config, base_dir)?;
    if !order.rated.is_empty() {
        // What rates answers is there before the reward models that learn from the ratings.
        for (attribute, spec) in &config.feedback.ratings {
            let options = to_json(&meant(spec, untrained_scorer(None, config))?);
            let named = trained_names(&options).into_iter().map(|(_, name)| Some(name));
            let default = asks_default_reward_model(&options).then_some(None);
            if let Some(later) = named.chain(default).find(|name| order.rated.contains(name)) {
                let message = format!("a circle: `{}` learns from these ratings", stage_name(later.as_deref()));
                let problem = Problem::new(format!("feedback.ratings.{attribute}"), message);
                problems.push(problem.with_hint("rate with another reward model, or name a file in `feedback.files.rated`"));
            }
        }
    }
    if let ScoreSource::RewardModel(spec) = &config.feedback.scores
        && needed.score
    {
        problems.extend(unloadable("feedback.scores.reward_model", spec, None, config));
    }
    for (name, spec) in config.feedback.ratings.iter().filter(|_| needed.rate || !order.rated.is_empty()) {
        problems.extend(unloadable(&format!("feedback.ratings.{name}"), spec, None, config));
    }
    Ok(problems)
}
