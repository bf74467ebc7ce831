//! The whole job: every stage in order, each a function of options, input files and a seed to output files.
//!
//! * `methods`: learning, answering, evaluation.
//! * `reward_models`: their training, their names, how well they order what they have not seen.
//! * `default_reward_model`: which of them options mean that name none.
//! * `requirements`: what learners ask for, checked before anything runs.
//! * `supply`: the stages that make it of the sampled answers.
//! * `repetition`: methods that run several times, each with its own seed.

mod default_reward_model;
mod methods;
mod repetition;
mod requirements;
mod reward_models;
mod supply;

use std::path::{Path, PathBuf};

use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::config::{ExperimentConfig, ModelSource};
use farmhand_core::data::{self, PairsPerInstruction, ReadOptions};
use farmhand_core::plugin::{LoadedPlugin, loaded_plugins};
use farmhand_core::run::{RunDir, StageDir, StagePlan, StageStatus, hash_path};
use farmhand_core::types::{Completion, Instruction};
use farmhand_core::{
    BuildContext, Checkpoint, Error, EventSink as _, FeedbackKind, LearnerInputs, PolicySpec, Result, RewardModelSpec, RunContext,
};
use serde_json::{Value, json};

pub(super) use self::default_reward_model::{holds_model, untrained_scorer};
use self::methods::Model;
use self::repetition::Repetition;
pub(super) use self::repetition::repetitions;
pub use self::requirements::read_experiment;
pub(super) use self::requirements::{FeedbackStages, requires};
use self::reward_models::{FindTrained, OwnModels};
pub(super) use self::reward_models::{MEASURE, TrainingOrder, measured_share, stage_name, stage_of};
use super::learn::{OwnedFeedback, learn};
use super::session::{CANCEL, Session};
use super::{annotate, base_model, generate, given_comparisons, read_options, split_data};
use crate::cache_dir::cache_dir;
use crate::hub::{ModelName, Want};

/// An experiment ready to run: its configuration is checked, its run directory is open and locked.
pub struct Experiment<'a> {
    config: ExperimentConfig,
    base_dir: PathBuf,
    session: &'a mut Session,
    run: RunDir,
    redo: bool,
    /// The reward models that can be asked so far.
    own_models: OwnModels,
}

/// The policy that samples when a configuration names none.
fn default_policy() -> PolicySpec {
    PolicySpec::from_json("causal_lm", "{}").expect("`causal_lm` is built in")
}

fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("options are JSON")
}

impl<'a> Experiment<'a> {
    /// Opens the run directory.
    ///
    /// # Errors
    /// When the directory is in use or cannot be written.
    pub fn open(
        config: ExperimentConfig,
        base_dir: &Path,
        runs_dir: &Path,
        redo: bool,
        session: &'a mut Session,
    ) -> Result<Self> {
        let run = RunDir::open(runs_dir.join(&config.name))?;
        session.log_to(&run.path().join("events.jsonl"))?;
        session.cap(config.budget_usd, run.path())?;
        let base_dir = std::path::absolute(base_dir).map_err(|error| Error::io("resolve", base_dir, error))?;
        Ok(Self { config, base_dir, session, run, redo, own_models: OwnModels::default() })
    }

    /// The run directory.
    pub fn path(&self) -> &Path {
        self.run.path()
    }

    /// Runs every stage that is not done yet, the report last.
    ///
    /// # Errors
    /// What a stage reports; everything finished before stays.
    pub fn run(&mut self) -> Result<()> {
        self.record_plugins()?;
        self.prepare_data()?;
        let base = self.base()?;
        let start = self.supervised(&base)?;
        self.sample(&start)?;
        self.annotate(&start)?;
        self.supply_reward_models(&start)?;
        self.reward_models(&start)?;
        self.supply_methods(&start)?;
        let models = self.methods(&start)?;
        for model in &models {
            self.generate(model)?;
        }
        for model in &models {
            self.evaluate(model, &start)?;
        }
        let names: Vec<String> = models.iter().map(Model::name).collect();
        self.report(&names)?;
        // Every stage fits this configuration; a file edited or deleted by hand is put right.
        self.write_configuration()
    }

    /// Runs a stage that all methods share, unless it is done. `options` shape its output; `inputs` are paths inside the run
    /// directory or absolute.
    fn stage(
        &mut self,
        name: &str,
        options: Value,
        inputs: Vec<PathBuf>,
        work: impl FnOnce(&ExperimentConfig, &RunContext<'_>, &BuildContext<'_>) -> Result<()>,
    ) -> Result<StageDir> {
        self.repeated_stage(name, Repetition::only(self.config.seed), options, inputs, work)
    }

    /// Runs a stage of one repetition, unless it is done.
    fn repeated_stage(
        &mut self,
        name: &str,
        repetition: Repetition,
        options: Value,
        inputs: Vec<PathBuf>,
        work: impl FnOnce(&ExperimentConfig, &RunContext<'_>, &BuildContext<'_>) -> Result<()>,
    ) -> Result<StageDir> {
        let seed = repetition.root().child(name, 0);
        let name = repetition.name_of(name);
        let inside = |input: PathBuf| input.strip_prefix(self.run.path()).map(Path::to_owned).unwrap_or(input);
        let named = self.own_models.named_in(&options).into_iter().flat_map(Checkpoint::inputs);
        let mut inputs: Vec<PathBuf> = inputs.into_iter().map(inside).collect();
        for input in named.map(inside) {
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        let plan = StagePlan { name: name.clone(), options: json!({ "seed": repetition.seed, "options": options }), inputs };
        let status = self.run.status(&plan, self.redo)?;
        if status == StageStatus::Done {
            self.session.terminal.note(&format!("{name}: done before"));
            let stage = StageDir::create(self.run.stage_path(&name))?;
            stage.clear_state()?;
            return Ok(stage);
        }
        self.session.terminal.note(&match status {
            StageStatus::Interrupted => format!("{name}: going on"),
            StageStatus::Stale => format!("{name}: again"),
            _ => format!("{name}:"),
        });
        self.write_configuration()?;
        let stage = self.run.begin(&plan, status)?;
        self.session.enter_stage(&name);
        let models = self.session.models(Want::Model);
        let models = FindTrained { own_models: &self.own_models, others: &models };
        let budget = self.session.budget.as_ref();
        let cache_dir = cache_dir();
        let cache_dir = cache_dir.as_deref();
        let build = BuildContext { models: &models, budget, cache_dir, ..BuildContext::new(self.config.device, &self.base_dir) };
        let result = work(&self.config, &self.session.context(&stage, seed), &build);
        self.session.enter_stage("");
        self.run.record_models(&self.session.hub.commits())?;
        result.map_err(|error| if error.is_cancelled() { error } else { error.context(format_args!("stage `{name}`")) })?;
        self.run.finish(&plan, &stage)?;
        Ok(stage)
    }

    /// Writes `run.toml`, the configuration with every default. Only when a stage is about to run: a run that is refused
    /// leaves the configuration alone that made what is there.
    fn write_configuration(&self) -> Result<()> {
        let text = toml::to_string(&self.config)
            .map_err(|error| Error::other("the configuration cannot be written as TOML").with_source(error))?;
        self.run.write("run.toml", &text)
    }

    /// Notes the plugins in the manifest, and warns where one is not the file that it was.
    fn record_plugins(&mut self) -> Result<()> {
        let hash = |plugin: &&'static LoadedPlugin| Ok((plugin.package.clone(), hash_path(&plugin.path)?));
        let plugins = loaded_plugins().iter().map(hash).collect::<Result<_>>()?;
        for name in self.run.record_plugins(&plugins)? {
            self.session.warn(&format!(
                "the plugin `{name}` was built anew since this run was here; stages that are finished keep what the earlier one made"
            ));
        }
        Ok(())
    }

    fn input(&self, path: &str) -> PathBuf {
        self.run.path().join(path)
    }

    fn prepare_data(&mut self) -> Result<()> {
        let options = to_json(&self.config.data);
        let base_dir = self.base_dir.clone();
        let files: Vec<PathBuf> =
            self.config.data.file.iter().chain(self.config.data.files.values()).map(|file| base_dir.join(file)).collect();
        // What is learned later is missed before hours of work.
        let feedback: Vec<PathBuf> =
            self.config.feedback.files.all().chain(&self.config.sample.comparisons).map(|file| base_dir.join(file)).collect();
        if let Some(file) = files.iter().chain(&feedback).find(|file| !file.is_file()) {
            return Err(Error::missing_input(format!("there is no data file `{}`", file.display()))
                .with_hint("paths in a configuration start at the configuration file's folder"));
        }
        self.stage("data", options, files, |config, ctx, _| split_data::split_data(&config.data, &base_dir, ctx))?;
        Ok(())
    }

    /// The model everything starts from.
    fn base(&mut self) -> Result<Checkpoint> {
        match self.config.model.clone() {
            ModelSource::Pretrained { path, prompt } => {
                let model = self.pretrained(&path)?.with_prompt_format(prompt.as_deref());
                self.run.record_models(&self.session.hub.commits())?;
                Ok(model)
            }
            ModelSource::Scratch(sizes) => {
                let train = self.input("data/sft.jsonl");
                let options = to_json(&sizes);
                let stage = self
                    .stage("base", options, vec!["data/sft.jsonl".into()], |_, ctx, _| base_model::make(&sizes, &train, ctx))?;
                Checkpoint::open(stage.checkpoint_dir())
            }
        }
    }

    /// A model that exists. The commit of one from the hub goes into the configuration that is written beside the results.
    fn pretrained(&mut self, name: &Path) -> Result<Checkpoint> {
        match ModelName::read(name, &self.base_dir)? {
            ModelName::Folder(path) => Checkpoint::open(path),
            ModelName::Hub(id) => {
                let found = self.session.hub.snapshot(&id, Want::Model, &*self.session, &CANCEL)?;
                if let ModelSource::Pretrained { path, .. } = &mut self.config.model {
                    *path = id.at(&found.commit).explicit_name().into();
                }
                Ok(found.checkpoint)
            }
        }
    }

    fn supervised(&mut self, base: &Checkpoint) -> Result<Checkpoint> {
        let Some(sft) = self.config.sft.clone() else { return Ok(base.clone()) };
        let inputs = with_models("data/sft.jsonl", [base]);
        let options = json!({ "learner": to_json(&sft.learner), "prompt": base.prompt_format()? });
        let (train, validation) = (self.input("data/sft.jsonl"), self.input("data/val.jsonl"));
        let stage = self.stage("sft", options, inputs, |_, ctx, build| {
            let feedback = OwnedFeedback::read(FeedbackKind::Demonstrations, &train, &ReadOptions::default(), ctx)?;
            let validation = validation
                .is_file()
                .then(|| OwnedFeedback::read(FeedbackKind::Demonstrations, &validation, &ReadOptions::default(), ctx))
                .transpose()?;
            let mut learner = sft.learner.build(build)?;
            let inputs = LearnerInputs {
                init: base,
                reference: None,
                feedback: feedback.borrow(),
                validation: validation.as_ref().map(OwnedFeedback::borrow),
                reward_model: None,
                annotator: None,
                models: build.models,
            };
            learn(&mut *learner, sft.learner.name(), inputs, ctx).map(|_| ())
        })?;
        Checkpoint::open(stage.checkpoint_dir())
    }

    fn sample(&mut self, start: &Checkpoint) -> Result<()> {
        if !self.config.sample.comparisons.is_empty() {
            return self.given_comparisons();
        }
        let spec = self.config.sample.policy.clone().unwrap_or_else(default_policy);
        let options = json!({ "policy": to_json(&spec), "sampling": to_json(&self.config.sample.sampling), "pairing": to_json(&self.config.sample.pairing) });
        let inputs = with_models("data/preference.jsonl", [start]);
        let file = self.input("data/preference.jsonl");
        self.stage("sample", options, inputs, |config, ctx, build| {
            let instructions = read_split(&file)?;
            let build = BuildContext { policy: Some(start), ..*build };
            let mut policy = spec.build(&build)?;
            let completions = generate::generate(&mut *policy, &instructions, &config.sample.sampling, "sft", ctx)?;
            pair(&completions, config.sample.pairing, ctx)
        })?;
        Ok(())
    }

    /// Takes comparisons from files in place of sampled ones.
    fn given_comparisons(&mut self) -> Result<()> {
        let files: Vec<PathBuf> = self.config.sample.comparisons.iter().map(|file| self.base_dir.join(file)).collect();
        let options = json!({ "comparisons": to_json(&self.config.sample.comparisons) });
        self.stage("sample", options, files.clone(), |config, ctx, _| {
            let reading = read_options(config.data.skip_bad_records);
            given_comparisons::take(&files, &reading, ctx)
        })?;
        Ok(())
    }

    fn annotate(&mut self, start: &Checkpoint) -> Result<()> {
        let spec = self.config.annotator.clone();
        let inputs = with_models("sample/comparisons.jsonl", [start]);
        let file = self.input("sample/comparisons.jsonl");
        self.stage("annotate", to_json(&spec), inputs, |_, ctx, build| {
            let (comparisons, _) = data::read_comparisons(&file, &ReadOptions::default())?;
            let build = BuildContext { policy: Some(start), ..*build };
            let annotator = TieIfIdentical::build(&spec, &build)?;
            let judgements = annotate::annotate(&*annotator, &comparisons, ctx)?;
            annotate::write_preferences(&judgements, ctx).map(|_| ())
        })?;
        Ok(())
    }

    fn report(&mut self, names: &[String]) -> Result<()> {
        let mut inputs: Vec<PathBuf> = names.iter().map(|name| PathBuf::from(format!("evaluate-{name}"))).collect();
        if self.input(MEASURE).is_dir() {
            inputs.push(MEASURE.into());
        }
        let run_dir = self.run.path().to_owned();
        self.stage("report", json!({ "models": names }), inputs, |_, ctx, _| {
            farmhand_analysis::write_report(&run_dir, ctx.stage).map(|_| ())
        })?;
        Ok(())
    }
}

/// A file of the run and the models a stage reads.
fn with_models<'a>(file: &str, models: impl IntoIterator<Item = &'a Checkpoint>) -> Vec<PathBuf> {
    std::iter::once(file.into()).chain(models.into_iter().flat_map(Checkpoint::inputs)).collect()
}

/// Pairs answers and writes `comparisons.jsonl`.
///
/// # Errors
/// When no instruction has two different answers, or the disk refuses.
pub fn pair(completions: &[Completion], pairs: PairsPerInstruction, ctx: &RunContext<'_>) -> Result<()> {
    let paired = data::pair_samples(completions, pairs, ctx.seed.child("pairing", 0));
    if paired.comparisons.is_empty() {
        return Err(Error::invalid_data("no instruction has two different answers to compare")
            .with_hint("sample at a higher temperature, or more answers an instruction"));
    }
    if paired.n_unpaired > 0 {
        ctx.events.info(&format!("  {} instructions have only identical answers and make no pair", paired.n_unpaired));
    }
    ctx.stage.write_jsonl("comparisons.jsonl", &paired.comparisons).map(|_| ())
}

/// The reward model that stages ask: the one trained before.
pub fn reward_model_spec() -> RewardModelSpec {
    RewardModelSpec::from_json("bradley_terry", "{}").expect("`bradley_terry` is built in")
}

fn read_split(path: &Path) -> Result<Vec<Instruction>> {
    Ok(data::read_instructions(path, &ReadOptions::default())?.0)
}
