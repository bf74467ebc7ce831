//! The stages of methods: they learn, every model answers, its answers are judged and measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farmhand_annotators::counted::CountedAnnotator;
use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::config::{MethodConfig, methods_in_order};
use farmhand_core::data::{self, ReadOptions};
use farmhand_core::run::StageDir;
use farmhand_core::types::{Completion, Demonstration, EvalReport, FinishReason, Metric};
use farmhand_core::{
    AnnotatorSpec, BuildContext, Checkpoint, Error, EvaluationInputs, Evaluator, EvaluatorSpec, LearnerInputs, LearnerSpec,
    Result, RunContext, Seed,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::default_reward_model::{asks_trained_reward_model, meant, untrained_scorer};
use super::repetition::{Repetition, repetitions};
use super::requirements::{requires, uses_annotations};
use super::reward_models::OwnModel;
use super::{Experiment, default_policy, read_split, to_json, with_models};
use crate::pipeline::learn::{OwnedFeedback, learn};
use crate::pipeline::{annotate, evaluate, generate, read_options};

/// What a learner is given beside its feedback.
pub(super) struct Learning<'a> {
    /// Where it starts.
    init: &'a Checkpoint,
    /// Its reference policy, if that is another than `init`.
    reference: Option<&'a Checkpoint>,
    /// The fine-tuned model: what components mean that name no model.
    start: &'a Checkpoint,
    reward_model: Option<&'a OwnModel>,
    /// Who annotates while it learns, when that is not the experiment's annotator.
    annotator: Option<&'a AnnotatorSpec>,
    /// Share of the feedback kept for validation.
    held_out: f64,
    /// After how many steps each a model is kept on the way.
    checkpoint_every: Option<u64>,
}

impl<'a> Learning<'a> {
    /// What a reward model starts with.
    pub(super) fn of_reward_model(start: &'a Checkpoint, held_out: f64) -> Self {
        Self { init: start, reference: None, start, reward_model: None, annotator: None, held_out, checkpoint_every: None }
    }
}

/// A model that is evaluated.
pub(super) struct Model {
    /// The method that made it, or `sft`.
    method: String,
    /// After how many steps of the learner it was kept; `None` for the model that the method ends with.
    steps: Option<u64>,
    config: MethodConfig,
    checkpoint: Checkpoint,
    repetition: Repetition,
}

impl Model {
    /// The name in results: the method's, with the steps of a model kept on the way and the seed when there are several:
    /// `ppo`, `ppo.20`, `ppo.20@1`.
    pub(super) fn name(&self) -> String {
        self.repetition.name_of(&self.point())
    }

    /// The method's name with the steps of a model kept on the way.
    fn point(&self) -> String {
        match self.steps {
            Some(steps) => format!("{}.{steps}", self.method),
            None => self.method.clone(),
        }
    }
}

/// Where a learner's stage keeps how many annotations it asked for.
const LABELS_FILE: &str = "labels.json";

/// What stands in [`LABELS_FILE`].
#[derive(Debug, Serialize, Deserialize)]
struct LabelsAsked {
    /// Different comparisons that the annotator judged while the method learned; those that a reward model of the experiment judged
    /// are no annotations.
    n_asked: usize,
}

/// Reports how many annotations a model has cost.
struct LabelBudget(usize);

impl Evaluator for LabelBudget {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let metric = Metric {
            name: "n_labels".to_owned(),
            value: self.0 as f64,
            std_error: None,
            interval: None,
            n: self.0,
            unit: "annotations".to_owned(),
            higher_is_better: None,
        };
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics: vec![metric] })
    }
}

/// Reports what one of several reward models gives the answers, as `mean_reward/NAME`.
struct RewardOf {
    name: String,
    rewards: Vec<f64>,
}

impl Evaluator for RewardOf {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let inputs = EvaluationInputs { rewards: &self.rewards, ..*inputs };
        let mut report = farmhand_evaluators::mean_reward::MeanReward.evaluate(&inputs)?;
        for metric in &mut report.metrics {
            metric.name = format!("{}/{}", metric.name, self.name);
        }
        Ok(report)
    }
}

/// The records of a file of JSON lines that a stage wrote.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let read = |line| {
        serde_json::from_str(line)
            .map_err(|error| Error::invalid_data(format!("`{}` is not what its stage wrote", path.display())).with_source(error))
    };
    text.lines().map(read).collect()
}

impl Experiment<'_> {
    /// The models that are evaluated: the fine-tuned one, then every method's, repetition by repetition.
    pub(super) fn methods(&mut self, start: &Checkpoint) -> Result<Vec<Model>> {
        let only = Repetition::only(self.config.seed);
        let mut models = vec![Model {
            method: "sft".to_owned(),
            steps: None,
            config: MethodConfig::default(),
            checkpoint: start.clone(),
            repetition: only,
        }];
        let methods = self.config.methods.clone();
        for repetition in repetitions(&self.config) {
            let mut made: BTreeMap<&str, Checkpoint> = BTreeMap::new();
            for name in methods_in_order(&methods) {
                let config = &methods[name];
                let of = |used: &Option<String>| used.as_deref().map(|used| made.get(used).unwrap_or(start).clone());
                let (init, reference) = (of(&config.init).unwrap_or_else(|| start.clone()), of(&config.reference));
                let model =
                    |steps, checkpoint| Model { method: name.to_owned(), steps, config: config.clone(), checkpoint, repetition };
                let checkpoint = match &config.learner {
                    Some(spec) => {
                        let reward_model = self.own_models.get(config.reward_model.as_deref()).cloned();
                        let learning = Learning {
                            init: &init,
                            reference: reference.as_ref(),
                            start,
                            reward_model: reward_model.as_ref(),
                            annotator: config.annotator.as_ref(),
                            held_out: 0.0,
                            checkpoint_every: config.checkpoint_every,
                        };
                        let file = self.feedback_file(requires(spec, &self.config, &self.base_dir)?.feedback, false);
                        let stage = self.learn(&format!("learn-{name}"), spec, file, learning, repetition)?;
                        for (steps, dir) in stage.kept_checkpoints()? {
                            models.push(model(Some(steps), Checkpoint::open(dir)?));
                        }
                        Checkpoint::open(stage.checkpoint_dir())?
                    }
                    None => init,
                };
                made.insert(name, checkpoint.clone());
                models.push(model(None, checkpoint));
            }
        }
        Ok(models)
    }

    /// One learner on the feedback in `file`, a share of which may be held out for validation.
    pub(super) fn learn(
        &mut self,
        stage: &str,
        spec: &LearnerSpec,
        file: PathBuf,
        learning: Learning<'_>,
        repetition: Repetition,
    ) -> Result<StageDir> {
        let requires = requires(spec, &self.config, &self.base_dir)?;
        let Learning { init, reference, start, reward_model, annotator, held_out, checkpoint_every } = learning;
        let untrained = reward_model.and_then(OwnModel::untrained_scorer);
        let (spec, annotator_spec) = (&meant(spec, untrained)?, meant(annotator.unwrap_or(&self.config.annotator), untrained)?);
        let is_judge = annotator.is_some_and(|spec| asks_trained_reward_model(&to_json(spec)));
        let asked = reward_model.filter(|_| requires.reward_model);
        // Components inside the learner, and a judge, may mean it without being asked for it.
        let checkpoint = reward_model.and_then(|model| model.checkpoint.as_ref());
        let read = checkpoint.filter(|_| asked.is_some() || is_judge);
        let mut inputs = vec![file.clone()];
        inputs.extend(std::iter::once(init).chain(reference).chain(read).flat_map(Checkpoint::inputs));
        let mut options = json!({ "learner": to_json(spec), "held_out": held_out });
        if let Some(model) = asked {
            options["scorer"] = model.written_scorer();
        }
        if requires.annotator {
            options["annotator"] = to_json(&annotator_spec);
        }
        if let Some(every) = checkpoint_every {
            options["checkpoint_every"] = every.into();
        }
        let reading = read_options(self.config.data.skip_bad_records);
        let held_out_seed = self.held_out_seed();
        self.repeated_stage(stage, repetition, options, inputs, |_, ctx, build| {
            let keeping = ctx.stage.clone().keeping_checkpoints(checkpoint_every);
            let ctx = &RunContext { stage: &keeping, ..*ctx };
            let feedback = OwnedFeedback::read(requires.feedback, &file, &reading, ctx)?;
            let (feedback, validation) = feedback.hold_out(held_out, held_out_seed)?;
            let build = BuildContext { policy: Some(start), reward_model: checkpoint, ..*build };
            let mut learner = spec.build(&build)?;
            let mut model = asked.map(|model| model.scorer().build(&build)).transpose()?;
            let counted = requires.annotator.then(|| CountedAnnotator::around(annotator_spec.build(&build)?, ctx)).transpose()?;
            let (annotator, judged) = counted.map(|(counted, judged)| (TieIfIdentical::around(counted), judged)).unzip();
            let inputs = LearnerInputs {
                init,
                reference,
                feedback: feedback.borrow(),
                validation: validation.as_ref().map(OwnedFeedback::borrow),
                reward_model: model.as_deref_mut().map(|model| model as &mut dyn farmhand_core::RewardModel),
                annotator: annotator.as_deref(),
                models: build.models,
            };
            learn(&mut *learner, spec.name(), inputs, ctx)?;
            if let Some(every) = checkpoint_every
                && keeping.kept_checkpoints()?.is_empty()
            {
                let message =
                    format!("no model was kept on the way: `{}` made no more than {every} steps, or keeps none", spec.name());
                ctx.events.warn(&message);
            }
            match judged {
                Some(judged) => {
                    let n_asked = if is_judge { 0 } else { judged.count() };
                    ctx.stage.write_jsonl(LABELS_FILE, &[LabelsAsked { n_asked }]).map(|_| ())
                }
                None => Ok(()),
            }
        })
    }

    /// How many annotations a method's model learned from or answers by: those of the `annotate` stage, which methods share, when
    /// it uses them in any way, and those it asked for while it learned. A model kept on the way counts as the one at the end.
    fn n_labels(&self, method: &str, repetition: Repetition) -> Result<usize> {
        let shared = if uses_annotations(method, &self.config, &self.base_dir)? {
            read_lines::<annotate::AnnotationSummary>(&self.input("annotate/summary.json"))?
                .iter()
                .map(|summary| summary.n_comparisons - summary.n_failed)
                .sum()
        } else {
            0
        };
        let mut asked = 0;
        let mut open = vec![method];
        let mut seen = Vec::new();
        while let Some(method) = open.pop() {
            if seen.contains(&method) {
                continue;
            }
            seen.push(method);
            let file = self.input(&repetition.name_of(&format!("learn-{method}"))).join(LABELS_FILE);
            if file.is_file() {
                asked += read_lines::<LabelsAsked>(&file)?.iter().map(|labels| labels.n_asked).sum::<usize>();
            }
            let config = self.config.methods.get(method);
            open.extend(config.into_iter().flat_map(|config| [&config.init, &config.reference]).flatten().map(String::as_str));
        }
        Ok(shared + asked)
    }

    pub(super) fn generate(&mut self, model: &Model) -> Result<()> {
        let Model { config, checkpoint, repetition, .. } = model;
        let spec = config.policy.clone().or_else(|| self.config.generate.policy.clone()).unwrap_or_else(default_policy);
        let spec = meant(&spec, untrained_scorer(config.reward_model.as_deref(), &self.config))?;
        let options = json!({ "policy": to_json(&spec), "sampling": to_json(&self.config.generate.sampling) });
        let reward_model = self.own_models.checkpoint(config.reward_model.as_deref()).cloned();
        let reward_model = reward_model.as_ref();
        let inputs = with_models("data/eval.jsonl", std::iter::once(checkpoint).chain(reward_model));
        let (file, name) = (self.input("data/eval.jsonl"), model.name());
        self.repeated_stage(&format!("generate-{}", model.point()), *repetition, options, inputs, |config, ctx, build| {
            let instructions = read_split(&file)?;
            // The same random numbers for every method: methods that agree give the same answer.
            let ctx = &ctx.with_seed(repetition.root().child("generate", 0));
            let build = BuildContext { policy: Some(checkpoint), reward_model, ..*build };
            let mut policy = spec.build(&build)?;
            generate::generate(&mut *policy, &instructions, &config.generate.sampling, &name, ctx).map(|_| ())
        })?;
        Ok(())
    }

    pub(super) fn evaluate(&mut self, model: &Model, start: &Checkpoint) -> Result<()> {
        let own = self.own_models.get(None).cloned();
        let (reward_model, scorer) =
            (own.as_ref().and_then(|model| model.checkpoint.as_ref()), own.as_ref().map(OwnModel::scorer));
        let others: Vec<(String, OwnModel)> =
            self.own_models.named_scorers().map(|(name, model)| (name.to_owned(), model.clone())).collect();
        let config = &self.config.evaluate;
        let spec = config.annotator.as_ref().unwrap_or(&self.config.annotator);
        let spec = meant(spec, own.as_ref().and_then(OwnModel::untrained_scorer))?;
        let reference = config.reference.clone();
        let evaluators = if config.evaluators.is_empty() { default_evaluators(own.is_some()) } else { config.evaluators.clone() };
        let Model { method, repetition, .. } = model;
        let n_labels = self.n_labels(method, *repetition)?;
        let mut options = json!({
            "scorer": to_json(&scorer), "annotator": to_json(&spec), "reference": reference, "evaluators": to_json(&evaluators), "n_labels": n_labels,
        });
        if !others.is_empty() {
            let scorers: BTreeMap<&str, _> =
                others.iter().map(|(name, model)| (name.as_str(), to_json(&model.scorer()))).collect();
            options["scorers"] = to_json(&scorers);
        }
        let reference_file = match reference.as_str() {
            "demonstrations" => "data/eval.jsonl".to_owned(),
            "sft" => "generate-sft/completions.jsonl".to_owned(),
            method => format!("{}/completions.jsonl", self.reference_repetition(model).name_of(&format!("generate-{method}"))),
        };
        let answers_file = format!("generate-{}/completions.jsonl", model.name());
        let scoring = reward_model.into_iter().chain(others.iter().filter_map(|(_, model)| model.checkpoint.as_ref()));
        let mut inputs = with_models(&answers_file, std::iter::once(start).chain(scoring));
        inputs.push(reference_file.clone().into());
        let (answers_file, reference_file, name) = (self.input(&answers_file), self.input(&reference_file), model.name());
        self.repeated_stage(&format!("evaluate-{}", model.point()), *repetition, options, inputs, |config, ctx, build| {
            let (answers, _) = data::read_completions(&answers_file, &ReadOptions::default())?;
            let references = read_reference(&reference, &reference_file)?;
            let build = BuildContext { policy: Some(start), reward_model, ..*build };
            let annotator = TieIfIdentical::build(&spec, &build)?;
            let comparisons = evaluate::comparisons_against(&references, &answers, ctx)?;
            // One seed for all methods and repetitions: the same annotator meets the same instruction everywhere.
            let judging = ctx.with_seed(Seed::root(config.seed).child("judging", 0));
            let judgements = annotate::annotate(&*annotator, &comparisons, &judging)?;
            let rewards = match &scorer {
                Some(scorer) => evaluate::rewards(&mut *scorer.build(&build)?, &answers, ctx)?,
                None => Vec::new(),
            };
            let mut other_rewards = Vec::new();
            for (name, model) in &others {
                let build = BuildContext { reward_model: model.checkpoint.as_ref(), ..build };
                let journal = format!("rewards-{name}.jsonl");
                let scored = model
                    .scorer()
                    .build(&build)
                    .and_then(|mut scorer| evaluate::rewards_kept_as(&journal, &mut *scorer, &answers, ctx));
                match scored {
                    Ok(rewards) => other_rewards.push((name.as_str(), rewards)),
                    Err(error) if error.is_cancelled() => return Err(error),
                    // Methods may ask it for more than it can say here.
                    Err(error) => ctx.events.warn(&format!("reward model `{name}` could not score the answers: {error}")),
                }
            }
            evaluate::write_scores(&answers, &rewards, &other_rewards, ctx)?;
            let mut built = evaluators.iter().map(|spec| spec.build(&build)).collect::<Result<Vec<_>>>()?;
            for (name, rewards) in other_rewards {
                built.push(Box::new(RewardOf { name: name.to_owned(), rewards }));
            }
            built.push(Box::new(LabelBudget(n_labels)));
            let inputs = EvaluationInputs { model: &name, completions: &answers, judgements: &judgements, rewards: &rewards };
            evaluate::measure(&built, &inputs, (&reference, annotator.id()), ctx).map(|_| ())
        })?;
        Ok(())
    }

    /// The repetition of the reference that a model is compared with: its own; the fine-tuned model's is the first.
    fn reference_repetition(&self, model: &Model) -> Repetition {
        if model.method == "sft" { repetitions(&self.config)[0] } else { model.repetition }
    }
}

/// What is measured when a configuration names nothing.
fn default_evaluators(with_rewards: bool) -> Vec<EvaluatorSpec> {
    let names = ["win_rate", "mean_reward", "length", "by_dataset", "diversity", "refusal"];
    let names = names.into_iter().filter(|name| *name != "mean_reward" || with_rewards);
    names.map(|name| EvaluatorSpec::from_json(name, "{}").expect("the evaluators are built in")).collect()
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
