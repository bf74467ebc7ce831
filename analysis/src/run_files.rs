//! What a finished or half-finished run left on the disk, read into memory. A file that is not there is an
//! empty part; a file that is there and broken is an error.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use farmhand_core::types::{AnnotatorId, Completion, EvalReport, Judgement, JudgingCost};
use farmhand_core::{Error, Event, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Scalars of a run: stage → name → step → value. Non-finite values are left out.
pub type Scalars = BTreeMap<String, BTreeMap<String, BTreeMap<u64, f64>>>;

/// What a run directory holds that a report can show.
#[derive(Debug, Clone, Default)]
pub struct RunFiles {
    /// The run's name, from `run.toml`; without one, the folder's name.
    pub name: String,
    /// The text of `run.toml`, the resolved configuration.
    pub config: Option<String>,
    /// The evaluated models, by name of the method.
    pub models: Vec<ModelFiles>,
    /// The numbers the stages recorded while they worked, from `events.jsonl`.
    pub scalars: Scalars,
    /// How the reward models order held-out pairs, from `measure-reward-models/report.jsonl`.
    pub reward_models: Vec<MeasuredRewardModel>,
    /// The reward models that the run asked without training them, from `run.toml`: the name, as in
    /// [`AnswerScores::rewards`], and the component that scores.
    pub untrained_reward_models: Vec<(String, String)>,
    /// What judging took: by stage, then by annotator.
    pub judging: Vec<(String, BTreeMap<AnnotatorId, JudgingCost>)>,
}

/// How one of the run's reward models orders pairs that none of them learned from.
#[derive(Debug, Clone, Deserialize)]
pub struct MeasuredRewardModel {
    /// The stage that trained it, if one did: `reward-model`, or `reward-model-NAME`.
    pub model: String,
    /// The component that scores with it.
    pub scorer: String,
    /// Pairs.
    pub n: usize,
    /// Shares and means by name: `accuracy`, `brier`, `calibration_error`, and accuracy in groups of pairs.
    pub numbers: BTreeMap<String, f64>,
}

/// What the reward models of a run gave one answer: a line of `evaluate-METHOD/scores.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    /// The id of the instruction.
    pub instruction: String,
    /// Which of the answers to it, from 0.
    pub sample: u32,
    /// By name of the reward model: [`Self::REWARD_MODEL`], or the one in `[reward_models]`. In each model's own unit.
    pub rewards: BTreeMap<String, f64>,
}

impl AnswerScores {
    /// The name of the reward model that has none, `[reward_model]`.
    pub const REWARD_MODEL: &str = "reward_model";
}

/// What a run directory holds about one method's model.
#[derive(Debug, Clone, Default)]
pub struct ModelFiles {
    /// The method, as its folders `evaluate-METHOD` and `generate-METHOD` name it.
    pub method: String,
    /// What the evaluators measured.
    pub reports: Vec<EvalReport>,
    /// The judgements of the reference's answers (`output_1`) against the model's (`output_2`).
    pub judgements: Vec<Judgement>,
    /// The model's answers.
    pub completions: Vec<Completion>,
    /// What reward models gave them, where it is kept.
    pub scores: Vec<AnswerScores>,
}

impl ModelFiles {
    /// The name to show: the one in the reports, else the method's.
    pub fn model(&self) -> &str {
        self.reports.first().map_or(&self.method, |report| &report.model)
    }

    /// Against whom it was compared, where the reports say so.
    pub fn reference(&self) -> Option<&str> {
        self.reports.iter().find_map(|report| report.reference.as_deref())
    }
}

impl RunFiles {
    /// Reads a run directory.
    ///
    /// # Errors
    /// When there is no such folder, or one of its files cannot be read or does not hold what its name promises.
    pub fn read(run_dir: &Path) -> Result<Self> {
        if !run_dir.is_dir() {
            return Err(Error::missing_input(format!("there is no run directory `{}`", run_dir.display()))
                .with_hint("a run directory is what `farmhand run` makes: it holds run.toml and a folder for each stage"));
        }
        let config = read_optional(&run_dir.join("run.toml"))?;
        let name = name_of(run_dir, config.as_deref())?;
        let models: Vec<ModelFiles> =
            evaluated_methods(run_dir)?.into_iter().map(|method| read_model(run_dir, method)).collect::<Result<_>>()?;
        let untrained_reward_models = config.as_deref().map(untrained_reward_models).unwrap_or_default();
        let reward_models = read_jsonl(&run_dir.join("measure-reward-models/report.jsonl"))?;
        let judging = read_judging(run_dir, &models)?;
        let mut scalars = read_scalars(&run_dir.join("events.jsonl"))?;
        // What an earlier configuration trained in their place is not this run's.
        let untrained = |name: Option<&str>| {
            let name = name.unwrap_or(AnswerScores::REWARD_MODEL);
            untrained_reward_models.iter().any(|(other, _)| other == name)
        };
        scalars.retain(|stage, _| !trained_reward_model(stage).is_some_and(untrained));
        Ok(Self { name, config, models, scalars, reward_models, untrained_reward_models, judging })
    }
}

/// One line of a stage's `summary.json`, as far as a report needs it.
#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    by_annotator: BTreeMap<AnnotatorId, JudgingCost>,
}

/// What judging took in the stages that judge, in their order.
fn read_judging(run_dir: &Path, models: &[ModelFiles]) -> Result<Vec<(String, BTreeMap<AnnotatorId, JudgingCost>)>> {
    let stages = std::iter::once("annotate".to_owned()).chain(models.iter().map(|model| format!("evaluate-{}", model.method)));
    let mut judging = Vec::new();
    for stage in stages {
        let summaries: Vec<Summary> = read_jsonl(&run_dir.join(&stage).join("summary.json"))?;
        judging.extend(summaries.into_iter().map(|summary| (stage.clone(), summary.by_annotator)));
    }
    Ok(judging)
}

fn read_model(run_dir: &Path, method: String) -> Result<ModelFiles> {
    let completions = read_jsonl(&run_dir.join(format!("generate-{method}")).join("completions.jsonl"))?;
    Ok(ModelFiles { completions, ..read_evaluation(run_dir, &method)? })
}

/// What the evaluation of a method left, without its answers.
pub(crate) fn read_evaluation(run_dir: &Path, method: &str) -> Result<ModelFiles> {
    read_evaluation_folder(&run_dir.join(format!("evaluate-{method}")), method)
}

/// What is in an evaluation folder.
pub(crate) fn read_evaluation_folder(evaluation: &Path, method: &str) -> Result<ModelFiles> {
    let reports = match read_optional(&evaluation.join("report.json"))? {
        Some(text) => parse_reports(&text, &evaluation.join("report.json"))?,
        None => Vec::new(),
    };
    let judgements = read_jsonl(&evaluation.join("judgements.jsonl"))?;
    let scores = read_jsonl(&evaluation.join("scores.jsonl"))?;
    Ok(ModelFiles { method: method.to_owned(), reports, judgements, completions: Vec::new(), scores })
}

/// Reads a file of evaluation reports: a JSON list.
///
/// # Errors
/// When it cannot be read or is no such list.
pub fn read_reports(path: &Path) -> Result<Vec<EvalReport>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    parse_reports(&text, path)
}

fn parse_reports(text: &str, path: &Path) -> Result<Vec<EvalReport>> {
    serde_json::from_str(text).map_err(|error| {
        Error::invalid_data(format!("`{}` is not a list of evaluation reports", path.display()))
            .with_source(error)
            .with_hint("remove the folder it lies in and run the same command again; the evaluation is made anew")
    })
}

/// The methods that have an `evaluate-METHOD` folder, sorted; those of repetitions end in `@SEED`.
pub(crate) fn evaluated_methods(run_dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(run_dir).map_err(|error| Error::io("list", run_dir, error))?;
    let mut methods = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", run_dir, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(method) = name.strip_prefix("evaluate-").filter(|_| entry.path().is_dir()) {
            methods.push(method.to_owned());
        }
    }
    methods.sort();
    Ok(methods)
}

/// A run's name, from `run.toml`; without one, the folder's name.
pub(crate) fn run_name(run_dir: &Path) -> Result<String> {
    name_of(run_dir, read_optional(&run_dir.join("run.toml"))?.as_deref())
}

fn name_of(run_dir: &Path, config: Option<&str>) -> Result<String> {
    let named = config.map(|text| name_in(text, &run_dir.join("run.toml"))).transpose()?.flatten();
    Ok(named.unwrap_or_else(|| run_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()))
}

fn name_in(config: &str, path: &Path) -> Result<Option<String>> {
    let table: toml::Table = toml::from_str(config)
        .map_err(|error| Error::invalid_data(format!("`{}` is not TOML", path.display())).with_source(error))?;
    Ok(table.get("name").and_then(toml::Value::as_str).map(str::to_owned))
}

/// The reward model that a stage trains, by its name in `[reward_models]`; without a name, that of `[reward_model]`.
pub(crate) fn trained_reward_model(stage: &str) -> Option<Option<&str>> {
    match stage.strip_prefix("reward-model")? {
        "" => Some(None),
        rest => rest.strip_prefix('-').map(Some),
    }
}

/// The reward models of a configuration that have a scorer and no learner.
fn untrained_reward_models(config: &str) -> Vec<(String, String)> {
    let Ok(config) = toml::from_str::<toml::Table>(config) else { return Vec::new() };
    let named = config.get("reward_models").and_then(toml::Value::as_table).into_iter().flatten();
    let named = named.map(|(name, stage)| (name.as_str(), stage));
    let all = config.get(AnswerScores::REWARD_MODEL).map(|stage| (AnswerScores::REWARD_MODEL, stage)).into_iter().chain(named);
    let untrained = all.filter(|(_, stage)| stage.get("learner").is_none());
    let scorer = |stage: &toml::Value| stage.get("scorer")?.as_table()?.keys().next().cloned();
    untrained.filter_map(|(name, stage)| Some((name.to_owned(), scorer(stage)?))).collect()
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

fn open_optional(path: &Path) -> Result<Option<std::io::BufReader<std::fs::File>>> {
    match std::fs::File::open(path) {
        Ok(file) => Ok(Some(std::io::BufReader::new(file))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Reads records from JSON lines; no file, no records.
fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let Some(reader) = open_optional(path)? else { return Ok(Vec::new()) };
    let mut records = Vec::new();
    for (index, line) in reader.lines().enumerate() {
        let line = line.map_err(|error| Error::io("read", path, error))?;
        if line.trim().is_empty() {
            continue;
        }
        let record = serde_json::from_str(&line).map_err(|error| {
            Error::invalid_data(format!("`{}`, line {}: not a record of this kind", path.display(), index + 1)).with_source(error)
        })?;
        records.push(record);
    }
    Ok(records)
}

/// One line of `events.jsonl`, as far as a report needs it.
#[derive(Deserialize)]
struct EventLine {
    #[serde(default)]
    stage: String,
    #[serde(flatten)]
    event: Event,
}

/// Reads the scalars of an event log; where a step is told twice (a resumed stage), the last counts. A log is no
/// data: lines that are no scalar event, half-written ones included, are passed over.
pub(crate) fn read_scalars(path: &Path) -> Result<Scalars> {
    let mut scalars = Scalars::new();
    let Some(reader) = open_optional(path)? else { return Ok(scalars) };
    for line in reader.split(b'\n') {
        let line = line.map_err(|error| Error::io("read", path, error))?;
        let Ok(line) = serde_json::from_slice::<EventLine>(&line) else { continue };
        if let Event::Scalar { name, step, value } = line.event
            && value.is_finite()
        {
            scalars.entry(line.stage).or_default().entry(name).or_default().insert(step, value);
        }
    }
    Ok(scalars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_run_is_read_whole_and_the_last_value_of_a_step_counts() {
        let dir = fixture::run();
        let run = RunFiles::read(dir.path()).expect("read");
        assert_eq!(run.name, "quick start");
        assert_eq!(run.models.iter().map(|model| model.method.as_str()).collect::<Vec<_>>(), ["best_of_n", "dpo", "ppo", "sft"]);
        assert_eq!(run.models[1].judgements.len(), 8);
        let rewards = &run.scalars["learn-ppo"]["ppo/reward"];
        assert_eq!(rewards[&3], 0.25, "the repeated step's last value");
        assert!(!run.scalars["learn-ppo"].contains_key("ppo/nan"));
    }

    #[test]
    fn an_empty_folder_is_an_empty_run_and_no_folder_is_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = RunFiles::read(dir.path()).expect("read");
        assert!(run.models.is_empty() && run.config.is_none() && run.scalars.is_empty());
        let error = RunFiles::read(&dir.path().join("no")).expect_err("refused");
        assert_eq!(error.kind(), farmhand_core::ErrorKind::MissingInput);
    }

    #[test]
    fn reward_models_without_a_learner_are_told_by_what_scores() {
        let dir = tempfile::tempdir().expect("a folder");
        let loss = |stage: &str| {
            let event = Event::Scalar { name: "loss".to_owned(), step: 1, value: 0.5 };
            let mut line = serde_json::to_value(event).expect("JSON");
            line["stage"] = stage.into();
            format!("{line}\n")
        };
        std::fs::write(dir.path().join("events.jsonl"), ["reward-model", "reward-model-b"].map(loss).concat()).expect("written");
        std::fs::write(dir.path().join("run.toml"), "[reward_model.scorer.length]\n").expect("written");
        let run = RunFiles::read(dir.path()).expect("read");
        assert_eq!(run.scalars.keys().collect::<Vec<_>>(), ["reward-model-b"], "what is not trained has no loss");

        let config = "[reward_model.scorer.http]\nform = \"plain\"\n[reward_models.trained.learner.reward_modeling]\n\
                      [reward_models.gold]\nheld_out = 0.1\nscorer = { length = {} }\n";
        let named = |(name, scorer): (&str, &str)| (name.to_owned(), scorer.to_owned());
        assert_eq!(untrained_reward_models(config), [("reward_model", "http"), ("gold", "length")].map(named));
        assert_eq!(untrained_reward_models("name = \"tiny\"\n"), []);
    }

    #[test]
    fn a_broken_record_is_named_by_file_and_line() {
        let dir = fixture::run();
        let path = dir.path().join("evaluate-dpo/judgements.jsonl");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, format!("{}{{\n", text.lines().take(1).map(|line| format!("{line}\n")).collect::<String>()))
            .expect("written");
        let error = RunFiles::read(dir.path()).expect_err("refused");
        assert!(error.to_string().contains("judgements.jsonl`, line 2"), "{error}");
    }
}
