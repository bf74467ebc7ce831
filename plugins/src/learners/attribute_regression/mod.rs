//! Attribute regression: heads on the language model's body that predict how an answer would be rated.
//!
//! SteerLM's attribute prediction model (Dong et al. 2023, <https://arxiv.org/abs/2310.05344>). The paper lets a language model
//! write the ratings; here, as in its authors' library, there is a linear head an attribute, read at the answer's last token, and
//! the loss of a step is `Σ mask · (prediction − rating)² / Σ mask` over its answers and attributes, where the mask leaves
//! out what was not rated. A head starts at the mean rating of its attribute, which leaves the differences to be learnt.
//!
//! The reward model `attributes` reads the heads; read as `bradley_terry`, the checkpoint gives the mean of all attributes.

use std::collections::{BTreeMap, BTreeSet};

use farmhand_core::types::RatedCompletion;
use farmhand_core::{
    BuildContext, Checkpoint, CheckpointKind, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements,
    Result, RunContext, Seed, register,
};
use farmhand_models::{
    LanguageModel, OptimConfig, ScalarHead, ScalarModel, TextCodec, backward, save_scalar_checkpoint, tch_device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::reward_models::{AttributeHeads, ReadingRule};
use crate::rl::attributes::{n_labels, squared_errors};
use crate::training::{
    Ranges, Record, Task, TokenLimit, TrainOptions, Training, admit, record_batch, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "attribute_regression", config: AttributeRegressionConfig,
    summary: "heads that predict attributes of an answer from rated answers", paper: "https://arxiv.org/abs/2310.05344",
}

/// Options of `[learner.attribute_regression]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct AttributeRegressionConfig {
    /// The attributes to predict, in this order; when it is empty, all that the data has, by name.
    pub attributes: Vec<String>,
    /// Read the hidden state at an end-of-sequence token after the answer instead of at the answer's last token.
    pub with_eos: bool,
    /// Records are rated answers. SteerLM: batches of 128, 5 epochs, a learning rate of 5e-6, weight decay 0.01.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for AttributeRegressionConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, weight_decay: 0.01, ..OptimConfig::default() };
        Self {
            attributes: Vec::new(),
            with_eos: false,
            train: TrainOptions { epochs: 5, batch_size: 128, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "attribute_regression")]
impl LearnerConfig for AttributeRegressionConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(AttributeRegression(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let distinct = self.attributes.iter().collect::<BTreeSet<_>>().len() == self.attributes.len();
        Ranges::new()
            .require("attributes", distinct, "each attribute once", "one twice")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct AttributeRegression(AttributeRegressionConfig);

impl Learner for AttributeRegression {
    fn requires(&self) -> Requirements {
        Requirements { produces: CheckpointKind::RewardModel, ..Requirements::policy_from(FeedbackKind::Rated) }
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let codec = TextCodec::load(inputs.init, config.train.passes.prompt)?;
        let body = starting_body(inputs.init, ctx)?;
        body.set_precision(config.train.passes.precision);
        let body = start_training(body, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let rated = inputs.feedback.rated()?;
        let names = attributes_of(rated, &config.attributes)?;
        let limit = config.train.token_limit(body.config().max_positions());
        let train = Rated::new(rated, "rated answers", &names, config, &codec, limit, ctx)?;
        let held_out = match inputs.validation.map(|feedback| feedback.rated()).transpose()? {
            Some(rated) if !rated.is_empty() => Rated::new(rated, "held-out rated answers", &names, config, &codec, limit, ctx)?,
            _ => Rated::default(),
        };
        let seed = ctx.seed.child("heads", 0);
        let heads = AttributeHeads::random(names, &train.means(), body.config().hidden_size(), seed, body.device());
        heads.set_trainable(true);
        let model = Model { body, heads };

        let task = Task {
            learner: "attribute_regression",
            role: "reward model",
            doing: "attribute regression",
            records: "rated answers",
        };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| run_rated(&model, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training =
            Training::start(task, &model.body, model.trained(), &train.records, plan, &config.train, ctx, dry_run)?;
        while let Some(step) = training.next_step()? {
            let errors = run_rated(&model, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, mean(&errors))?;
            if !held_out.records.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let errors = run_rated(&model, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", mean(&errors))]);
                for (name, (sum, n)) in model.heads.names().iter().zip(errors).filter(|(_, (_, n))| *n > 0) {
                    training.log(&step, &[(&format!("validation_loss_{name}"), sum / n as f64)]);
                }
            }
        }
        let Model { body, heads } = model;
        let model = ScalarModel { head: heads.mean_head(), body };
        let checkpoint = save_scalar_checkpoint(&model, &codec, "attribute_regression", ctx)?;
        heads.save(ctx)?;
        ReadingRule { with_eos: config.with_eos }.save(ctx)?;
        Ok(checkpoint)
    }
}

/// The body of a language model or of a reward model, without a head.
fn starting_body(init: &Checkpoint, ctx: &RunContext<'_>) -> Result<LanguageModel> {
    let device = tch_device(ctx.device)?;
    match init.kind()? {
        CheckpointKind::RewardModel => Ok(ScalarModel::load(init.path(), device)?.body),
        CheckpointKind::CausalLm => {
            let model = LanguageModel::load(init.path(), device)?;
            let no_head = ScalarHead::zeros(model.config().hidden_size(), device);
            Ok(ScalarModel::from_language_model(model, no_head).body)
        }
    }
}

/// The attributes to predict: those that are asked for, which must be rated somewhere, or all that are.
fn attributes_of(rated: &[RatedCompletion], asked: &[String]) -> Result<Vec<String>> {
    let known: BTreeSet<&String> = rated.iter().flat_map(|answer| answer.ratings.keys()).collect();
    if asked.is_empty() {
        return Ok(known.into_iter().cloned().collect());
    }
    match asked.iter().find(|name| !known.contains(name)) {
        None => Ok(asked.to_vec()),
        Some(missing) => {
            let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Err(Error::invalid_config(format!("`attributes`: no answer is rated on `{missing}`"))
                .with_hint(format!("answers are rated on {known}")))
        }
    }
}

/// Answers with the ratings that are to be predicted.
#[derive(Default)]
struct Rated {
    records: Vec<Record>,
    /// For each record, one entry an attribute; none where it was not rated.
    labels: Vec<Vec<Option<f64>>>,
}

impl Rated {
    fn new(
        rated: &[RatedCompletion],
        noun: &str,
        names: &[String],
        config: &AttributeRegressionConfig,
        codec: &TextCodec,
        limit: TokenLimit,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let labels = |ratings: &BTreeMap<String, f64>| names.iter().map(|name| ratings.get(name).copied()).collect::<Vec<_>>();
        let is_rated = |answer: &&RatedCompletion| labels(&answer.ratings).iter().any(Option::is_some);
        let usable: Vec<&RatedCompletion> = rated.iter().filter(is_rated).collect();
        let n_unrated = rated.len() - usable.len();
        if n_unrated > 0 {
            let what = format!("{n_unrated} of {} {noun} are rated on none of the attributes", rated.len());
            if usable.is_empty() {
                return Err(Error::invalid_data(what).with_hint("check the names in `attributes`"));
            }
            ctx.events.warn(&format!("{what}; they are left out"));
        }
        for answer in &usable {
            if let Some((name, rating)) = answer.ratings.iter().find(|(_, rating)| !rating.is_finite()) {
                let id = &answer.completion.instruction.id;
                return Err(Error::invalid_data(format!("instruction `{id}`: the rating of `{name}` is {rating}")));
            }
        }
        let rule = ReadingRule { with_eos: config.with_eos };
        let records = admit(&usable, noun, limit, false, ctx, |answer| {
            let completion = &answer.completion;
            let text = codec.encode(&completion.instruction, &completion.output, rule.ending())?;
            Ok(Record::new(&completion.instruction.id, [text]))
        })?;
        let labels = records.iter().map(|record| labels(&usable[record.index].ratings)).collect();
        Ok(Self { records, labels })
    }

    /// The mean rating of each attribute; 0 where there is none.
    fn means(&self) -> Vec<f64> {
        let n_attributes = self.labels.first().map_or(0, Vec::len);
        let mean = |i: usize| {
            let known: Vec<f64> = self.labels.iter().filter_map(|labels| labels[i]).collect();
            known.iter().sum::<f64>() / known.len().max(1) as f64
        };
        (0..n_attributes).map(mean).collect()
    }
}

struct Model {
    body: LanguageModel,
    heads: AttributeHeads,
}

impl Model {
    /// Everything that is trained, sorted by name.
    fn trained(&self) -> Vec<(String, Tensor)> {
        let mut trained = self.body.trained();
        trained.extend(self.heads.parameters().iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())));
        trained.sort_by(|a, b| a.0.cmp(&b.0));
        trained
    }
}

/// The mean over all ratings.
fn mean(errors: &[(f64, usize)]) -> f64 {
    let (sum, n) = errors.iter().fold((0.0, 0), |(sum, n), (one, many)| (sum + one, n + many));
    sum / n.max(1) as f64
}

/// Runs the picked answers through the model, micro-batch by micro-batch: for each attribute, the summed squared error and the number
/// of ratings. With the seed of an optimiser step, adds the gradient of the mean squared error over all ratings of the step.
fn run_rated(
    model: &Model,
    rated: &Rated,
    picked: &[usize],
    config: &AttributeRegressionConfig,
    train: Option<Seed>,
) -> Result<Vec<(f64, usize)>> {
    let Model { body, heads } = model;
    let n_attributes = heads.names().len();
    let n_in_step = n_labels(picked.iter().map(|&i| rated.labels[i].as_slice()));
    let mut sums = Tensor::zeros([n_attributes as i64], (Kind::Double, body.device()));
    let passes = &config.train.passes;
    for rows in passes.micro_batching(body.device()).groups(&rated.records, picked) {
        let batch = record_batch(&rated.records, &rows, passes.layout, body.device(), train)?;
        let predictions = match train {
            Some(_) => heads.predict(body, &batch),
            None => no_grad(|| heads.predict(body, &batch)),
        };
        let labels: Vec<&[Option<f64>]> = rows.iter().map(|&i| rated.labels[i].as_slice()).collect();
        if train.is_some() {
            backward(&(squared_errors(&predictions, &labels) / n_in_step as f64));
        }
        let of_attribute = |i: usize| {
            let column: Vec<[Option<f64>; 1]> = labels.iter().map(|labels| [labels[i]]).collect();
            let column: Vec<&[Option<f64>]> = column.iter().map(<[_; 1]>::as_slice).collect();
            squared_errors(&predictions.detach().narrow(1, i as i64, 1), &column)
        };
        sums += Tensor::stack(&(0..n_attributes).map(of_attribute).collect::<Vec<_>>(), 0);
    }
    let sums = Vec::<f64>::try_from(sums).map_err(|error| Error::other(error.to_string()))?;
    let count = |i: usize| picked.iter().filter(|&&row| rated.labels[row][i].is_some()).count();
    Ok(sums.into_iter().enumerate().map(|(i, sum)| (sum, count(i))).collect())
}

#[cfg(test)]
mod tests;
