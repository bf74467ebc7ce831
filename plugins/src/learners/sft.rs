//! Supervised fine-tuning: imitate demonstrations.
//!
//! Cross-entropy of the response tokens, the end-of-sequence token included, given the instruction: −log π(y_t | x, y_<t),
//! reduced over the whole optimiser step (Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, section 3.5; AlpacaFarm's
//! SFT). The prompt is never trained on.

use std::time::Instant;

use farmhand_core::types::Demonstration;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, Seed, register,
};
use farmhand_models::{
    AdamW, BatchLayout, Ending, FreezeConfig, LanguageModel, LoraConfig, OptimConfig, PromptFormat, TextCodec, TokenBatch,
    load_train_state, save_checkpoint, save_train_state, selected_log_probs, selected_log_probs_no_grad, tch_device,
    zero_gradients,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::reduction::{Reduction, StepTotals};
use crate::training::{
    MemoryNeeds, MicroBatching, Ranges, Record, TokenLimit, Trainee, admit, held, ids_of, in_training, items_before, plan_steps,
    start_training,
};

register! {
    kind: Learner, name: "sft", config: SftConfig,
    summary: "supervised fine-tuning on demonstrations", paper: "https://arxiv.org/abs/2203.02155",
}

/// Options of `[learner.sft]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Passes over the demonstrations, ≥ 1.
    pub epochs: u32,
    /// Demonstrations per optimiser step, ≥ 1.
    pub batch_size: usize,
    /// Tokens per optimiser step instead of `batch_size` demonstrations, prompts included, ≥ 1: a step takes demonstrations
    /// until the next one would exceed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Longest prompt and response together, in tokens; longer demonstrations are left out and counted. Never more than the
    /// model's context.
    pub max_tokens: usize,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Demonstrations per forward pass at most, ≥ 1; by default as many as `micro_batch_tokens` allows. Changes speed and memory, not
    /// the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1: padding counts, an equal prompt counts once. By default 1024 on the CPU and 8192
    /// on a GPU. Changes speed and memory, not the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// How texts lie in a forward pass. Changes speed and memory, not the result.
    pub layout: BatchLayout,
    /// Gradient checkpointing: of every so many blocks only the input is kept for the backward pass, which computes the rest
    /// again; 0 keeps everything. Less memory for more time; changes neither the loss nor the gradients.
    pub checkpoint_every: usize,
    /// Steps between saved states, ≥ 1.
    pub save_every: u64,
    /// Train low-rank changes to the linear layers (LoRA) and none of the weights; by default the weights are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Weights that stay as they are; not together with `lora`.
    #[serde(skip_serializing_if = "FreezeConfig::is_empty")]
    pub freeze: FreezeConfig,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: 32,
            batch_tokens: None,
            reduction: Reduction::TokenMean,
            max_tokens: 512,
            prompt: None,
            micro_batch_size: None,
            micro_batch_tokens: None,
            layout: BatchLayout::Packed,
            checkpoint_every: 0,
            save_every: 50,
            lora: None,
            freeze: FreezeConfig::default(),
            optim: OptimConfig { lr: 2e-5, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "sft")]
impl LearnerConfig for SftConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Sft(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("epochs", self.epochs as usize)
            .batch(self.batch_size, Self::default().batch_size, self.batch_tokens)
            .at_least_one("max_tokens", self.max_tokens)
            .at_least_one("micro_batch_size", self.micro_batch_size.unwrap_or(1))
            .at_least_one("micro_batch_tokens", self.micro_batch_tokens.unwrap_or(1))
            .at_least_one("save_every", self.save_every as usize)
            .trained_part(self.lora.as_ref(), &self.freeze)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

impl SftConfig {
    fn micro_batching(&self, device: tch::Device) -> MicroBatching {
        MicroBatching::new(self.layout, self.micro_batch_tokens, self.micro_batch_size, device)
    }
}

struct Sft(SftConfig);

impl Learner for Sft {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Demonstrations)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let demonstrations = inputs.feedback.demonstrations()?;
        let validation = inputs.validation.map(|feedback| feedback.demonstrations()).transpose()?;
        let codec = TextCodec::load(inputs.init, config.prompt)?;
        let model = LanguageModel::load(inputs.init.path(), tch_device(ctx.device)?)?;
        let model = start_training(model, config.lora.as_ref(), &config.freeze, inputs.init, ctx.seed.child("lora", 0))?;
        model.set_checkpointing(config.checkpoint_every);

        let limit = TokenLimit { option: "max_tokens", max_tokens: config.max_tokens, context: model.config().max_positions() };
        let encode = |demonstration: &Demonstration| -> Result<Record<1>> {
            let text = codec.encode(&demonstration.instruction, &demonstration.output, Ending::WithEos)?;
            Ok(Record::new(&demonstration.instruction.id, [text]))
        };
        let records = admit(demonstrations, "demonstrations", limit, true, ctx, encode)?;
        let held_out = match validation {
            Some(items) if !items.is_empty() => admit(items, "held-out demonstrations", limit, true, ctx, encode)?,
            _ => Vec::new(),
        };

        let plan = plan_steps(&records, config.batch_size, config.batch_tokens, config.epochs, ctx.seed.child("order", 0));
        let trained = model.trained();
        let mut optim = AdamW::new(&trained, &config.optim, plan.n_steps());
        let resumed = load_train_state(ctx, &[("policy", &trained)], &mut [("policy", &mut optim)])?;
        let start = resumed.map_or(0, |(step, _)| step);
        let micro = config.micro_batching(model.device());
        let passes = Trainee::of_plan(&micro, &records, &plan, start, config.checkpoint_every);
        MemoryNeeds::training(held("policy", &model), passes).announce("sft", start, model.device(), ctx)?;
        micro.dry_run(&records, &plan, start, |rows| accumulate(&model, &records, rows, config, ctx.seed).map(drop))?;
        zero_gradients(&trained);
        let mut progress = ctx.progress("supervised fine-tuning", Some(items_before(&plan, plan.n_steps())), "demonstrations");
        progress.advance(items_before(&plan, start));

        for step in start..plan.n_steps() {
            let cancelled = ctx.cancel.is_cancelled();
            if cancelled || (step > start && step % config.save_every == 0) {
                save_train_state(ctx, step, &[("policy", &trained)], &[("policy", &optim)], &serde_json::Value::Null)?;
            }
            if cancelled {
                return Err(Error::cancelled());
            }

            let started = Instant::now();
            let picked = plan.items(step);
            let gradient = accumulate(&model, &records, picked, config, ctx.seed.child("step", step))?;
            let place = || format!("step {step}, demonstrations {}", ids_of(&records, picked));
            if !gradient.loss.is_finite() {
                return Err(
                    Error::non_finite(format!("the loss is {} at {}", gradient.loss, place())).with_hint("lower `optim.lr`")
                );
            }
            let report = optim.step().map_err(|error| error.context(place()))?;

            ctx.scalar("sft/loss", step, gradient.loss);
            ctx.scalar("sft/grad_norm", step, report.grad_norm);
            ctx.scalar("sft/lr", step, report.lr);
            ctx.scalar("sft/tokens_per_sec", step, gradient.n_tokens as f64 / started.elapsed().as_secs_f64().max(1e-9));
            if !held_out.is_empty() && plan.ends_epoch(step) {
                ctx.scalar("sft/validation_loss", step, mean_loss(&model, &held_out, config)?);
            }
            progress.advance(picked.len() as u64);
        }
        save_checkpoint(&model, &codec, "sft", ctx)
    }
}

/// What one optimiser step's forward and backward passes gave; the gradients are in the model.
struct Gradient {
    /// The reduced loss, in nats.
    loss: f64,
    /// Tokens read, prompts included.
    n_tokens: usize,
}

/// Adds the gradient of the picked records' loss to the model, micro-batch by micro-batch; the normaliser is that of all of them.
/// `seed` is the step's.
fn accumulate(
    model: &LanguageModel,
    records: &[Record<1>],
    picked: &[usize],
    config: &SftConfig,
    seed: Seed,
) -> Result<Gradient> {
    let totals = StepTotals::of(&response_lengths(records, picked)).with_width(config.max_tokens);
    let mut total = Tensor::zeros([], (Kind::Double, model.device()));
    for rows in config.micro_batching(model.device()).groups(records, picked) {
        let batch = in_training(batch_of(records, &rows, config.layout, model.device())?, records, &rows, seed);
        let selected = selected_log_probs(model, &batch);
        let loss = config.reduction.reduce(&-&selected.values, &batch.response_lengths(), totals);
        total += loss.detach();
        selected.backward(&loss);
    }
    // Read once: a look at a number makes the host wait for the device.
    Ok(Gradient { loss: total.double_value(&[]), n_tokens: picked.iter().map(|&i| records[i].n_tokens()).sum() })
}

/// The mean loss per response token of all records, in nats, without gradient.
fn mean_loss(model: &LanguageModel, records: &[Record<1>], config: &SftConfig) -> Result<f64> {
    let all: Vec<usize> = (0..records.len()).collect();
    let mut sum = Tensor::zeros([], (Kind::Double, model.device()));
    for rows in config.micro_batching(model.device()).groups(records, &all) {
        let batch = batch_of(records, &rows, config.layout, model.device())?;
        let (log_probs, _) = selected_log_probs_no_grad(model, &batch);
        sum -= log_probs.sum(Kind::Double);
    }
    let n_tokens: usize = response_lengths(records, &all).iter().sum();
    Ok(sum.double_value(&[]) / n_tokens.max(1) as f64)
}

fn response_lengths(records: &[Record<1>], picked: &[usize]) -> Vec<usize> {
    picked.iter().map(|&i| records[i].texts[0].response().len()).collect()
}

fn batch_of(records: &[Record<1>], rows: &[usize], layout: BatchLayout, device: tch::Device) -> Result<TokenBatch> {
    let texts: Vec<_> = rows.iter().map(|&i| &records[i].texts[0]).collect();
    TokenBatch::new(&texts, layout, device)
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, Feedback, RecordedEvents};
    use farmhand_models::AdapterOutput;

    use super::*;
    use crate::testing::{
        SPLITS, Stage, assert_resumes_exactly, assert_same_bytes, assert_same_gradients, demonstrations, fast_optim,
        lively_checkpoint, moved, small_lora, take_gradients, tiny_checkpoint, tiny_checkpoint_with,
    };

    fn config() -> SftConfig {
        SftConfig { epochs: 12, batch_size: 4, save_every: 5, optim: fast_optim(3e-2), ..SftConfig::default() }
    }

    fn learn(
        config: &SftConfig,
        init: &Checkpoint,
        demonstrations: &[Demonstration],
        ctx: &RunContext<'_>,
    ) -> Result<Checkpoint> {
        let feedback = Feedback::Demonstrations(demonstrations);
        let inputs =
            LearnerInputs { init, reference: None, feedback, validation: Some(feedback), reward_model: None, annotator: None };
        config.build(&BuildContext::new(farmhand_core::Device::Cpu, std::path::Path::new(".")))?.learn(inputs, ctx)
    }

    #[test]
    fn it_learns_the_demonstrations_by_heart() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let init = tiny_checkpoint(&stage);
        learn(&config(), &init, &demonstrations(8), &stage.context(&events)).expect("learned");
        let losses = events.scalars("sft/loss");
        assert_eq!(losses.len(), 24);
        // A random model finds each of about 300 tokens equally likely.
        assert!((losses[0].1 - 300f64.ln()).abs() < 0.3, "{losses:?}");
        let validation = events.scalars("sft/validation_loss");
        assert_eq!(validation.len(), 12);
        assert!(validation[11].1 < 0.3 * losses[0].1, "{validation:?}");
    }

    #[test]
    fn an_adapter_learns_while_the_weights_stay_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let config = SftConfig { lora: Some(small_lora()), ..config() };
        let events = RecordedEvents::default();
        let stage = Stage::new();
        let learned = learn(&config, &init, &demonstrations(8), &stage.context(&events)).expect("learned");
        let losses = events.scalars("sft/loss");
        assert!(losses[23].1 < 0.8 * losses[0].1, "{losses:?}");
        // The merged weights differ in the adapted layers only.
        let names = moved(&init, &learned);
        assert!(names.len() == 2 * 7 && names.iter().all(|name| name.ends_with("_proj.weight")), "{names:?}");
        assert!(learned.path().join("adapter/adapter_model.safetensors").is_file());
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&config, &init, &demonstrations(8), ctx));

        let lora = LoraConfig { output: AdapterOutput::Adapter, ..small_lora() };
        let alone = SftConfig { lora: Some(lora), ..config };
        let stage = Stage::new();
        let small = learn(&alone, &init, &demonstrations(8), &stage.context(&events)).expect("learned");
        let load = |checkpoint: &Checkpoint| LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
        let (small, learned) = (load(&small), load(&learned));
        let mut pairs = small.parameters().iter().zip(learned.parameters());
        assert!(pairs.all(|(a, b)| (&a.1 - &b.1).abs().max().double_value(&[]) < 1e-6));
    }

    #[test]
    fn frozen_weights_do_not_move_by_a_bit_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let names = vec!["model.norm.weight".to_owned()];
        let freeze = FreezeConfig { embeddings: true, first_blocks: 1, names };
        let config = SftConfig { freeze, ..config() };
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let learned = learn(&config, &init, &demonstrations(8), &stage.context(&events)).expect("learned");
        let names = moved(&init, &learned);
        assert!(names.len() == 9 && names.iter().all(|name| name.starts_with("model.layers.1.")), "{names:?}");
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&config, &init, &demonstrations(8), ctx));
    }

    #[test]
    fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let saving = SftConfig { checkpoint_every: 1, ..config() };
        let run = |config: &SftConfig, ctx: &RunContext<'_>| learn(config, &init, &demonstrations(8), ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("sft/loss", 12, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&config(), &init, &demonstrations(8), ctx));
        let by_tokens = SftConfig { batch_size: 32, batch_tokens: Some(40), ..config() };
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&by_tokens, &init, &demonstrations(8), ctx));
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let model = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        model.set_trainable(true);
        let encode = |demonstration: &Demonstration| {
            let text = codec.encode(&demonstration.instruction, &demonstration.output, Ending::WithEos).expect("encoded");
            Record::new("", [text])
        };
        let records: Vec<_> = demonstrations(8).iter().map(encode).collect();
        let picked: Vec<usize> = (0..8).collect();
        for reduction in [Reduction::TokenMean, Reduction::SeqMean, Reduction::SeqSum, Reduction::FixedNorm] {
            let gradients = |layout, size, tokens| {
                let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                let config = SftConfig { layout, micro_batch_size, micro_batch_tokens, reduction, ..SftConfig::default() };
                let loss = accumulate(&model, &records, &picked, &config, Seed::root(0)).expect("run").loss;
                (loss, take_gradients(model.parameters()))
            };
            let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
            for (layout, size, tokens) in SPLITS {
                let (same_loss, same) = gradients(layout, size, tokens);
                assert!((loss - same_loss).abs() < 1e-6 * loss.abs());
                assert_same_gradients(&same, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn long_demonstrations_are_left_out_and_no_demonstrations_is_an_error() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let mut items = demonstrations(4);
        items[1].output = "one two three ".repeat(40);
        let init = tiny_checkpoint_with(&stage, "short", 32);
        learn(&SftConfig { epochs: 1, ..config() }, &init, &items, &stage.context(&events)).expect("learned");
        assert!(format!("{:?}", events.take()).contains("1 of 4 demonstrations are longer than the room in the model's context"));

        let error = learn(&config(), &init, &[], &Stage::new().context(&events)).expect_err("nothing to learn from");
        assert_eq!(error.kind(), ErrorKind::MissingInput);
        let error = learn(&config(), &init, &items[1..2], &Stage::new().context(&events)).expect_err("all are too long");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_loss_that_is_not_finite_names_the_step_and_the_demonstrations() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let items = demonstrations(4);
        let config = SftConfig { optim: fast_optim(1e30), ..config() };
        let error = learn(&config, &tiny_checkpoint(&stage), &items, &stage.context(&events)).expect_err("diverged");
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(
            error.message().contains("step 1, demonstrations") && error.message().contains(&items[0].instruction.id),
            "{error}"
        );
    }
}
