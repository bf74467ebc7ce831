//! The whole job: every stage in order, each a function of options, input files and a seed to output files.

use std::path::{Path, PathBuf};

use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::config::{Document, ExperimentConfig, MethodConfig, ModelSource};
use farmhand_core::data::{self, PairsPerInstruction, ReadOptions};
use farmhand_core::run::{RunDir, StageDir, StagePlan, StageStatus};
use farmhand_core::types::{Completion, Demonstration, FinishReason, Instruction};
use farmhand_core::{
    AnnotatorSpec, BuildContext, Checkpoint, Error, EvaluationInputs, EvaluatorSpec, FeedbackKind, LearnerInputs, LearnerSpec,
    PolicySpec, Problem, Result, RewardModelSpec, RunContext, Seed,
};
use serde_json::{Value, json};

use super::learn::{OwnedFeedback, learn};
use super::session::{CANCEL, Session};
use super::{annotate, base_model, evaluate, generate, split_data};
use crate::cache_dir::cache_dir;
use crate::hub::{ModelName, Want};

/// An experiment ready to run: its configuration is checked, its run directory is open and locked.
pub struct Experiment<'a> {
    config: ExperimentConfig,
    base_dir: PathBuf,
    session: &'a mut Session,
    run: RunDir,
    redo: bool,
}

/// Reads an experiment and reports everything wrong with it at once, learners' requirements included.
///
/// # Errors
/// When it cannot be read or run.
pub fn read_experiment(document: &Document) -> Result<ExperimentConfig> {
    let config: ExperimentConfig = document.read_as()?;
    let mut problems = config.problems();
    problems.extend(requirement_problems(&config, document.path())?);
    if problems.is_empty() { Ok(config) } else { Err(document.problems_error(&problems)) }
}

/// What learners need and the experiment does not offer.
fn requirement_problems(config: &ExperimentConfig, path: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let build = BuildContext::new(config.device, path.parent().unwrap_or(Path::new(".")));
    let mut check = |path: String, spec: &LearnerSpec, feedback: Option<FeedbackKind>| -> Result<()> {
        let requires = spec.build(&build)?.requires();
        if requires.reward_model && config.reward_model.is_none() {
            let problem = Problem::new(&path, format!("learner `{}` needs a reward model", spec.name()));
            problems.push(problem.with_hint("add `[reward_model]` with `learner.reward_modeling = {}`"));
        }
        if let Some(feedback) = feedback.filter(|feedback| *feedback != requires.feedback) {
            let message =
                format!("learner `{}` learns from {}, not from {}", spec.name(), requires.feedback.name(), feedback.name());
            problems.push(Problem::new(&path, message));
        }
        let split = if requires.feedback == FeedbackKind::Prompts { config.data.split.unlabeled } else { 1 };
        if split == 0 && !config.data.files.contains_key("unlabeled") {
            let message = format!("learner `{}` samples on the `unlabeled` split, which has no records", spec.name());
            problems.push(Problem::new(&path, message).with_hint("set `data.split.unlabeled`"));
        }
        if matches!(requires.feedback, FeedbackKind::RankedLists | FeedbackKind::Scored) {
            let message = format!(
                "learner `{}` learns from {}, which no stage of an experiment makes",
                spec.name(),
                requires.feedback.name()
            );
            problems.push(Problem::new(&path, message).with_hint(format!("use `farmhand learn {}` on a file", spec.name())));
        }
        Ok(())
    };
    if let Some(sft) = &config.sft {
        check("sft.learner".to_owned(), &sft.learner, Some(FeedbackKind::Demonstrations))?;
    }
    if let Some(stage) = &config.reward_model {
        check("reward_model.learner".to_owned(), &stage.learner, Some(FeedbackKind::Preferences))?;
    }
    for (name, method) in &config.methods {
        if let Some(learner) = &method.learner {
            check(format!("methods.{name}.learner"), learner, None)?;
        }
    }
    Ok(problems)
}

/// The policy that samples when a configuration names none.
fn default_policy() -> PolicySpec {
    PolicySpec::from_json("causal_lm", "{}").expect("`causal_lm` is built in")
}

/// What is measured when a configuration names nothing.
fn default_evaluators(with_rewards: bool) -> Vec<EvaluatorSpec> {
    let names = ["win_rate", "mean_reward", "length"].into_iter().filter(|name| *name != "mean_reward" || with_rewards);
    names.map(|name| EvaluatorSpec::from_json(name, "{}").expect("the evaluators are built in")).collect()
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
        let base_dir = std::path::absolute(base_dir).map_err(|error| Error::io("resolve", base_dir, error))?;
        Ok(Self { config, base_dir, session, run, redo })
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
        self.prepare_data()?;
        let base = self.base()?;
        let start = self.supervised(&base)?;
        self.sample(&start)?;
        self.annotate(&start)?;
        let reward_model = self.reward_model(&start)?;
        let methods = self.config.methods.clone();
        let mut models = vec![("sft".to_owned(), start.clone(), MethodConfig::default())];
        for (name, method) in methods {
            let checkpoint = match &method.learner {
                Some(spec) => self.method(&name, spec, &start, reward_model.as_ref())?,
                None => start.clone(),
            };
            models.push((name, checkpoint, method));
        }
        for (name, checkpoint, method) in &models {
            self.generate(name, checkpoint, method, reward_model.as_ref())?;
        }
        for (name, ..) in &models {
            self.evaluate(name, &start, reward_model.as_ref())?;
        }
        let names: Vec<String> = models.into_iter().map(|(name, ..)| name).collect();
        self.report(&names)?;
        // Every stage fits this configuration; a file edited or deleted by hand is put right.
        self.write_configuration()
    }

    /// Runs one stage unless it is done. `options` shape its output; `inputs` are paths inside the run directory or absolute.
    fn stage(
        &mut self,
        name: &str,
        options: Value,
        inputs: Vec<PathBuf>,
        work: impl FnOnce(&ExperimentConfig, &RunContext<'_>, &BuildContext<'_>) -> Result<()>,
    ) -> Result<StageDir> {
        let seed = Seed::root(self.config.seed).child(name, 0);
        let inside = |input: PathBuf| input.strip_prefix(self.run.path()).map(Path::to_owned).unwrap_or(input);
        let inputs = inputs.into_iter().map(inside).collect();
        let plan = StagePlan { name: name.to_owned(), options: json!({ "seed": self.config.seed, "options": options }), inputs };
        let status = self.run.status(&plan, self.redo)?;
        if status == StageStatus::Done {
            self.session.terminal.note(&format!("{name}: done before"));
            let stage = StageDir::create(self.run.stage_path(name))?;
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
        self.session.enter_stage(name);
        let models = self.session.models(Want::Model);
        let build = BuildContext { models: &models, ..BuildContext::new(self.config.device, &self.base_dir) };
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

    fn input(&self, path: &str) -> PathBuf {
        self.run.path().join(path)
    }

    fn prepare_data(&mut self) -> Result<()> {
        let options = to_json(&self.config.data);
        let base_dir = self.base_dir.clone();
        let files: Vec<PathBuf> =
            self.config.data.file.iter().chain(self.config.data.files.values()).map(|file| base_dir.join(file)).collect();
        if let Some(file) = files.iter().find(|file| !file.is_file()) {
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
            };
            learn(&mut *learner, sft.learner.name(), inputs, ctx).map(|_| ())
        })?;
        Checkpoint::open(stage.checkpoint_dir())
    }

    fn sample(&mut self, start: &Checkpoint) -> Result<()> {
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

    fn reward_model(&mut self, start: &Checkpoint) -> Result<Option<Checkpoint>> {
        let Some(config) = self.config.reward_model.clone() else { return Ok(None) };
        self.learn_stage("reward-model", &config.learner, start, None, config.held_out).map(Some)
    }

    fn method(
        &mut self,
        name: &str,
        spec: &LearnerSpec,
        start: &Checkpoint,
        reward_model: Option<&Checkpoint>,
    ) -> Result<Checkpoint> {
        self.learn_stage(&format!("learn-{name}"), spec, start, reward_model, 0.0)
    }

    /// One learner on the feedback it takes, a share of which may be held out for validation.
    fn learn_stage(
        &mut self,
        stage: &str,
        spec: &LearnerSpec,
        start: &Checkpoint,
        reward_model: Option<&Checkpoint>,
        held_out: f64,
    ) -> Result<Checkpoint> {
        let requires = spec.build(&BuildContext::new(self.config.device, &self.base_dir))?.requires();
        let file = match requires.feedback {
            FeedbackKind::Demonstrations => "data/sft.jsonl",
            FeedbackKind::Prompts => "data/unlabeled.jsonl",
            _ => "annotate/preferences.jsonl",
        };
        let asked = reward_model.filter(|_| requires.reward_model);
        let inputs = with_models(file, std::iter::once(start).chain(asked));
        let (file, annotator_spec) = (self.input(file), self.config.annotator.clone());
        let options = match requires.annotator {
            true => json!({ "learner": to_json(spec), "held_out": held_out, "annotator": to_json(&annotator_spec) }),
            false => json!({ "learner": to_json(spec), "held_out": held_out }),
        };
        let done = self.stage(stage, options, inputs, |_, ctx, build| {
            let feedback = OwnedFeedback::read(requires.feedback, &file, &ReadOptions::default(), ctx)?;
            let (feedback, validation) = feedback.hold_out(held_out, ctx.seed.child("held out", 0))?;
            let cache_dir = cache_dir();
            let build = BuildContext { policy: Some(start), reward_model, cache_dir: cache_dir.as_deref(), ..*build };
            let mut learner = spec.build(&build)?;
            let mut scorer = asked.map(|_| reward_model_spec().build(&build)).transpose()?;
            let annotator = requires.annotator.then(|| TieIfIdentical::build(&annotator_spec, &build)).transpose()?;
            let inputs = LearnerInputs {
                init: start,
                reference: None,
                feedback: feedback.borrow(),
                validation: validation.as_ref().map(OwnedFeedback::borrow),
                reward_model: scorer.as_deref_mut().map(|model| model as &mut dyn farmhand_core::RewardModel),
                annotator: annotator.as_deref(),
            };
            learn(&mut *learner, spec.name(), inputs, ctx).map(|_| ())
        })?;
        Checkpoint::open(done.checkpoint_dir())
    }

    fn generate(
        &mut self,
        name: &str,
        checkpoint: &Checkpoint,
        method: &MethodConfig,
        reward_model: Option<&Checkpoint>,
    ) -> Result<()> {
        let spec = method.policy.clone().or_else(|| self.config.generate.policy.clone()).unwrap_or_else(default_policy);
        let options = json!({ "policy": to_json(&spec), "sampling": to_json(&self.config.generate.sampling) });
        let inputs = with_models("data/eval.jsonl", std::iter::once(checkpoint).chain(reward_model));
        let file = self.input("data/eval.jsonl");
        self.stage(&format!("generate-{name}"), options, inputs, |config, ctx, build| {
            let instructions = read_split(&file)?;
            // The same random numbers for every method: methods that agree give the same answer.
            let ctx = &ctx.with_seed(Seed::root(config.seed).child("generate", 0));
            let build = BuildContext { policy: Some(checkpoint), reward_model, ..*build };
            let mut policy = spec.build(&build)?;
            generate::generate(&mut *policy, &instructions, &config.generate.sampling, name, ctx).map(|_| ())
        })?;
        Ok(())
    }

    fn evaluate(&mut self, name: &str, start: &Checkpoint, reward_model: Option<&Checkpoint>) -> Result<()> {
        let config = &self.config.evaluate;
        let spec: AnnotatorSpec = config.annotator.clone().unwrap_or_else(|| self.config.annotator.clone());
        let reference = config.reference.clone();
        let evaluators =
            if config.evaluators.is_empty() { default_evaluators(reward_model.is_some()) } else { config.evaluators.clone() };
        let options = json!({ "annotator": to_json(&spec), "reference": reference, "evaluators": to_json(&evaluators) });
        let reference_file = if reference == "demonstrations" {
            "data/eval.jsonl".to_owned()
        } else {
            format!("generate-{reference}/completions.jsonl")
        };
        let answers_file = format!("generate-{name}/completions.jsonl");
        let mut inputs = with_models(&answers_file, std::iter::once(start).chain(reward_model));
        inputs.push(reference_file.clone().into());
        let (answers_file, reference_file) = (self.input(&answers_file), self.input(&reference_file));
        self.stage(&format!("evaluate-{name}"), options, inputs, |config, ctx, build| {
            let (answers, _) = data::read_completions(&answers_file, &ReadOptions::default())?;
            let references = read_reference(&reference, &reference_file)?;
            let build = BuildContext { policy: Some(start), reward_model, ..*build };
            let annotator = TieIfIdentical::build(&spec, &build)?;
            let comparisons = evaluate::comparisons_against(&references, &answers, ctx)?;
            // One seed for all methods: the same annotator meets the same instruction everywhere.
            let judging = ctx.with_seed(Seed::root(config.seed).child("judging", 0));
            let judgements = annotate::annotate(&*annotator, &comparisons, &judging)?;
            let rewards = match reward_model {
                Some(_) => evaluate::rewards(&mut *reward_model_spec().build(&build)?, &answers, ctx)?,
                None => Vec::new(),
            };
            let built = evaluators.iter().map(|spec| spec.build(&build)).collect::<Result<Vec<_>>>()?;
            let inputs = EvaluationInputs { model: name, completions: &answers, judgements: &judgements, rewards: &rewards };
            evaluate::measure(&built, &inputs, (&reference, annotator.id()), ctx).map(|_| ())
        })?;
        Ok(())
    }

    fn report(&mut self, names: &[String]) -> Result<()> {
        let inputs = names.iter().map(|name| PathBuf::from(format!("evaluate-{name}"))).collect();
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

/// The reference's answers: a method's completions, or the data's own.
fn read_reference(reference: &str, path: &Path) -> Result<Vec<Completion>> {
    if reference != "demonstrations" {
        return Ok(data::read_completions(path, &ReadOptions::default())?.0);
    }
    let (demonstrations, _) = data::read_demonstrations(path, &ReadOptions::default())?;
    let answer = |shown: Demonstration| Completion {
        instruction: shown.instruction,
        output: shown.output,
        model: "demonstrations".to_owned(),
        sample: 0,
        finish: FinishReason::Stop,
        n_tokens: 0,
        log_prob: None,
    };
    Ok(demonstrations.into_iter().map(answer).collect())
}
