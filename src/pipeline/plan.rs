//! `--dry-run`: what a run would do, on how much data, with how much memory.

use std::fmt;
use std::path::Path;

use farmhand_core::config::{ExperimentConfig, ModelSource, methods_in_order};
use farmhand_core::run::Manifest;
use farmhand_core::{FindModel, LearnerSpec, Result, RunContext};
use farmhand_models::{
    Activity, HeldModel, ModelConfig, Storage, default_pass_tokens, estimate_memory, memory_in_use, tch_device,
};
use farmhand_plugins::training::{MemoryNeeds, Trainee};
use serde::Serialize;

use super::annotate::describe_forecast;
use super::base_model::llama_options;
use super::experiment::{
    FeedbackStages, MEASURE, TrainingOrder, holds_model, measured_share, repetitions, requires, stage_name, stage_of,
    untrained_scorer,
};
use super::judging_plan::{PlannedJudging, planned_judging};

/// One stage of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedStage {
    /// Its name and folder.
    pub name: String,
    /// Whether an earlier run finished it.
    pub done: bool,
    /// What it works on, in words.
    pub work: String,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunPlan {
    /// The stages in order.
    pub stages: Vec<PlannedStage>,
    /// Parameters of the model.
    pub n_parameters: usize,
    /// Bytes of one copy of the weights (f32).
    pub weight_bytes: u64,
    /// Bytes a learner takes that trains one copy of the model, with as many tokens in a forward pass as learners take by default.
    pub training_bytes: u64,
    /// Bytes PPO takes, the hungriest of the learners: policy and value model trained, reference and reward model frozen.
    pub ppo_bytes: u64,
    /// Whether a reward model is among them: not where what scores in its place is a program, a server or a rule.
    pub ppo_holds_reward_model: bool,
    /// What the judges behind servers take.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub judging: Vec<PlannedJudging>,
    /// Bytes sampling takes, with 64 sequences of full length at a time.
    pub sampling_bytes: u64,
}

/// Plans a run without doing anything; a model on the hub is described without its weights.
///
/// # Errors
/// When the model's configuration or an earlier manifest cannot be read.
pub fn plan(
    config: &ExperimentConfig,
    base_dir: &Path,
    run_dir: &Path,
    models: &dyn FindModel,
    ctx: &RunContext<'_>,
) -> Result<RunPlan> {
    let model = match &config.model {
        ModelSource::Pretrained { path, .. } => ModelConfig::load(models.find_description(path, base_dir)?.path())?,
        ModelSource::Scratch(sizes) => ModelConfig::tiny_llama(llama_options(sizes)),
    };
    let finished = Manifest::read(&run_dir.join("manifest.json"))?.stages;
    let stages = stage_names(config, base_dir)?.into_iter().map(|(name, work)| PlannedStage {
        done: finished.contains_key(&name),
        name,
        work,
    });
    let stages: Vec<PlannedStage> = stages.collect();
    let n_models = stages.iter().filter(|stage| stage.name.starts_with("generate-")).count();
    let device = tch_device(config.device)?;
    let program = memory_in_use(device).unwrap_or_default();
    let held = |role: &str, has_head| HeldModel::frozen(role, &model, has_head, Storage::F32);
    let passes = Trainee::of_tokens(default_pass_tokens(device), 0);
    let (policy, value) = (held("policy", true).trained(), held("value model", false).trained());
    let ppo_holds_reward_model = untrained_scorer(None, config).is_none_or(holds_model);
    let frozen = std::iter::once(held("reference", true)).chain(ppo_holds_reward_model.then(|| held("reward model", false)));
    let (rows, length) = (64, model.max_positions().min(512));
    let generate = Activity::Generate { model: 0, rows, length };
    Ok(RunPlan {
        judging: planned_judging(config, n_models, base_dir, models, ctx),
        stages,
        n_parameters: model.n_parameters(),
        weight_bytes: 4 * model.n_parameters() as u64,
        training_bytes: MemoryNeeds::training(policy.clone(), passes).estimate(program).total(),
        ppo_bytes: MemoryNeeds::reinforcement(vec![policy, value], frozen.collect(), passes, rows, length)
            .estimate(program)
            .total(),
        ppo_holds_reward_model,
        sampling_bytes: estimate_memory(&[held("policy", true)], &[generate], program).total(),
    })
}

/// The stages of an experiment in order, each with what it works on.
fn stage_names(config: &ExperimentConfig, base_dir: &Path) -> Result<Vec<(String, String)>> {
    let split = &config.data.split;
    let records = |name: &str, count: usize| match config.data.files.get(name) {
        Some(file) => format!("the records of {}", file.display()),
        None => format!("{count} records"),
    };
    let mut stages = vec![("data".to_owned(), "reads and splits".to_owned())];
    let mut push = |name: String, work: String| stages.push((name, work));
    if let ModelSource::Scratch(_) = config.model {
        push("base".to_owned(), format!("tokenizer and random weights from {}", records("sft", split.sft)));
    }
    if let Some(sft) = &config.sft {
        push("sft".to_owned(), format!("`{}` on {}", sft.learner.name(), records("sft", split.sft)));
    }
    let given: Vec<String> = config.sample.comparisons.iter().map(|file| file.display().to_string()).collect();
    let sampled = || format!("{} answers each to {}", config.sample.sampling.n, records("preference", split.preference));
    push(
        "sample".to_owned(),
        if given.is_empty() { sampled() } else { format!("takes the comparisons of {}", given.join(", ")) },
    );
    push("annotate".to_owned(), format!("`{}` on the pairs", config.annotator.name()));
    let made = FeedbackStages::of(config, base_dir)?;
    if made.score_for_reward_model {
        push("score-by-annotations".to_owned(), "scores and ranks the answers by their annotations".to_owned());
    }
    let rate = ("rate".to_owned(), "rates the sampled answers".to_owned());
    let order = TrainingOrder::of(config, base_dir)?;
    let train = |name: &Option<String>| {
        let learner = stage_of(name.as_deref(), config).and_then(|stage| stage.learner.as_ref()).map_or("", LearnerSpec::name);
        (stage_name(name.as_deref()), format!("`{learner}` on the annotated answers"))
    };
    stages.extend(order.first.iter().map(train));
    if !order.rated.is_empty() {
        stages.push(rate.clone());
        stages.extend(order.rated.iter().map(train));
    }
    if measured_share(config) > 0.0 {
        let seen = if config.reward_model_stages().any(|(_, stage)| stage.learner.is_some()) { "held-out" } else { "annotated" };
        stages.push((MEASURE.to_owned(), format!("on {seen} pairs")));
    }
    let mut push = |name: String, work: String| stages.push((name, work));
    for (name, needed, work) in [
        ("score", made.score, "scores and ranks the sampled answers"),
        ("label", made.label, "labels answers good or bad"),
        (&rate.0, made.rate && order.rated.is_empty(), &rate.1),
    ] {
        if needed {
            push(name.to_owned(), work.to_owned());
        }
    }
    let repetitions = repetitions(config);
    let order = methods_in_order(&config.methods);
    for repetition in &repetitions {
        for name in &order {
            let method = &config.methods[*name];
            if let Some(learner) = &method.learner {
                let kept = method.checkpoint_every.map(|every| format!("; the model of every {every} steps is evaluated too"));
                let scored = match untrained_scorer(method.reward_model.as_deref(), config) {
                    Some(scorer) if requires(learner, config, base_dir)?.reward_model => {
                        format!(" by the scores of `{}`", scorer.name())
                    }
                    _ => String::new(),
                };
                let work = format!("`{}`{scored}{}", learner.name(), kept.unwrap_or_default());
                push(repetition.name_of(&format!("learn-{name}")), work);
            }
        }
    }
    let of_methods = repetitions.iter().flat_map(|repetition| order.iter().map(|name| repetition.name_of(name)));
    let models: Vec<String> = std::iter::once("sft".to_owned()).chain(of_methods).collect();
    for name in &models {
        push(format!("generate-{name}"), format!("one answer each to {}", records("eval", split.eval)));
    }
    for name in &models {
        push(format!("evaluate-{name}"), format!("against {}", config.evaluate.reference));
    }
    push("report".to_owned(), "leaderboard, charts, page".to_owned());
    Ok(stages)
}

impl fmt::Display for RunPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
        for stage in &self.stages {
            let status = if stage.done { "done" } else { "to do" };
            writeln!(f, "  {:width$}  {status:5}  {}", stage.name, stage.work)?;
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        writeln!(
            f,
            "\nmodel: {:.2} M parameters, {:.1} MB a copy (f32)",
            self.n_parameters as f64 / 1e6,
            megabytes(self.weight_bytes)
        )?;
        writeln!(f, "memory, estimated: {:.0} MB to train one copy,", megabytes(self.training_bytes))?;
        let reward_model = if self.ppo_holds_reward_model { ", reward model" } else { "" };
        writeln!(f, "  {:.0} MB for PPO (policy, value model, reference{reward_model}),", megabytes(self.ppo_bytes))?;
        writeln!(f, "  {:.0} MB to sample 64 sequences at a time", megabytes(self.sampling_bytes))?;
        for PlannedJudging { stage, forecast, unknown } in &self.judging {
            let told =
                forecast.as_ref().map(describe_forecast).or_else(|| unknown.as_ref().map(|why| format!("not known: {why}\n")));
            write!(f, "\njudging, {stage}: {}", told.unwrap_or_default())?;
        }
        if !self.judging.is_empty() {
            writeln!(
                f,
                "guessed before there are answers: each half as long as it may be; `annotate --dry-run` knows real ones"
            )?;
        }
        Ok(())
    }
}
