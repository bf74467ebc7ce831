//! Reward modelling: a scalar head on the language model's body, fitted to preference pairs.
//!
//! Bradley-Terry: `−ln σ(r_w − r_l − m)` for the rewards of the chosen and the rejected answer, read at the last real token
//! (Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, equation 1). Margins m after Llama 2 (Touvron et al. 2023,
//! section 3.2.2), centring `c (r_w + r_l)²` after Eisenstein et al. 2023, label smoothing ε as in conservative DPO.

use std::time::Instant;

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, CheckpointKind, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements,
    Result, RunContext, Seed, register,
};
use farmhand_models::{
    AdamW, BatchLayout, FreezeConfig, LanguageModel, LoraConfig, OptimConfig, PromptFormat, ScalarHead, ScalarModel, TextCodec,
    TokenBatch, backward, load_train_state, save_scalar_checkpoint, save_train_state, tch_device, zero_gradients,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::reward_models::ReadingRule;
use crate::rl::bradley_terry::preference_losses;
use crate::training::{
    MemoryNeeds, MicroBatching, Ranges, Record, TokenLimit, Trainee, admit, held, ids_of, in_training, items_before, plan_steps,
    start_training,
};

register! {
    kind: Learner, name: "reward_modeling", config: RewardModelingConfig,
    summary: "a reward model from preference pairs (Bradley-Terry)", paper: "https://arxiv.org/abs/2203.02155",
}

/// Options of `[learner.reward_modeling]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardModelingConfig {
    /// Passes over the pairs, ≥ 1; more than one over-fits quickly.
    pub epochs: u32,
    /// Pairs per optimiser step, ≥ 1.
    pub batch_size: usize,
    /// Tokens per optimiser step instead of `batch_size` pairs, a pair's prompt counted once, ≥ 1: a step takes pairs until the
    /// next one would exceed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Share ε of labels taken to be wrong, in [0, 0.5): `−(1−ε) ln σ(Δ) − ε ln σ(−Δ)`.
    pub label_smoothing: f64,
    /// What a pair's own margin is multiplied by before it is subtracted from the reward difference, ≥ 0; 0 ignores margins.
    pub margin_weight: f64,
    /// Weight c of `(r_w + r_l)²`, which keeps rewards around 0, ≥ 0.
    pub centring: f64,
    /// Read the reward at an end-of-sequence token after the answer instead of at the answer's last token. AlpacaFarm does not.
    pub with_eos: bool,
    /// Longest prompt and answer together, in tokens; pairs with a longer side are left out and counted. Never more than the
    /// model's context.
    pub max_tokens: usize,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Pairs per forward pass at most, ≥ 1; by default as many as `micro_batch_tokens` allows. Changes speed and memory, not
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
    /// Steps between evaluations on the held-out pairs, ≥ 1; the last step always evaluates.
    pub validate_every: u64,
    /// Train low-rank changes to the linear layers (LoRA) and the head, and no other weights; by default all weights are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Weights of the body that stay as they are; not together with `lora`.
    #[serde(skip_serializing_if = "FreezeConfig::is_empty")]
    pub freeze: FreezeConfig,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for RewardModelingConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch_size: 16,
            batch_tokens: None,
            label_smoothing: 0.0,
            margin_weight: 0.0,
            centring: 0.0,
            with_eos: false,
            max_tokens: 512,
            prompt: None,
            micro_batch_size: None,
            micro_batch_tokens: None,
            layout: BatchLayout::Packed,
            checkpoint_every: 0,
            save_every: 50,
            validate_every: 50,
            lora: None,
            freeze: FreezeConfig::default(),
            optim: OptimConfig { lr: 1e-5, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "reward_modeling")]
impl LearnerConfig for RewardModelingConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(RewardModeling(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("epochs", self.epochs as usize)
            .batch(self.batch_size, Self::default().batch_size, self.batch_tokens)
            .require("label_smoothing", (0.0..0.5).contains(&self.label_smoothing), "a number in [0, 0.5)", self.label_smoothing)
            .not_negative("margin_weight", self.margin_weight)
            .not_negative("centring", self.centring)
            .at_least_one("max_tokens", self.max_tokens)
            .at_least_one("micro_batch_size", self.micro_batch_size.unwrap_or(1))
            .at_least_one("micro_batch_tokens", self.micro_batch_tokens.unwrap_or(1))
            .at_least_one("save_every", self.save_every as usize)
            .at_least_one("validate_every", self.validate_every as usize)
            .trained_part(self.lora.as_ref(), &self.freeze)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

impl RewardModelingConfig {
    fn micro_batching(&self, device: tch::Device) -> MicroBatching {
        MicroBatching::new(self.layout, self.micro_batch_tokens, self.micro_batch_size, device)
    }
}

struct RewardModeling(RewardModelingConfig);

impl Learner for RewardModeling {
    fn requires(&self) -> Requirements {
        Requirements { produces: CheckpointKind::RewardModel, ..Requirements::policy_from(FeedbackKind::Preferences) }
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let rule = ReadingRule { with_eos: config.with_eos };
        let codec = TextCodec::load(inputs.init, config.prompt)?;
        let ScalarModel { body, head } = starting_model(inputs.init, ctx)?;
        head.set_trainable(true);
        let body = start_training(body, config.lora.as_ref(), &config.freeze, inputs.init, ctx.seed.child("lora", 0))?;
        let model = ScalarModel { body, head };
        model.body.set_checkpointing(config.checkpoint_every);

        let limit =
            TokenLimit { option: "max_tokens", max_tokens: config.max_tokens, context: model.body.config().max_positions() };
        let encode = |pair: &PreferencePair| -> Result<Record<2>> {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, rule.ending());
            let texts = [side(&pair.chosen)?, side(&pair.rejected)?];
            Ok(Record { margin: pair.margin.unwrap_or(0.0), ..Record::new(&pair.instruction.id, texts) })
        };
        let records = admit(inputs.feedback.preferences()?, "preference pairs", limit, false, ctx, encode)?;
        let held_out = match inputs.validation.map(|feedback| feedback.preferences()).transpose()? {
            Some(pairs) if !pairs.is_empty() => admit(pairs, "held-out preference pairs", limit, false, ctx, encode)?,
            _ => Vec::new(),
        };

        let plan = plan_steps(&records, config.batch_size, config.batch_tokens, config.epochs, ctx.seed.child("order", 0));
        let parameters = model.trained();
        let mut optim = AdamW::new(&parameters, &config.optim, plan.n_steps());
        let resumed = load_train_state(ctx, &[("reward_model", &parameters)], &mut [("reward_model", &mut optim)])?;
        let start = resumed.map_or(0, |(step, _)| step);
        let micro = config.micro_batching(model.body.device());
        let passes = Trainee::of_plan(&micro, &records, &plan, start, config.checkpoint_every);
        let needs = MemoryNeeds::training(held("reward model", &model.body), passes);
        needs.announce("reward_modeling", start, model.body.device(), ctx)?;
        let dry_run = |rows: &[usize]| run_pairs(&model, &records, rows, config, Some(ctx.seed)).map(drop);
        micro.dry_run(&records, &plan, start, dry_run)?;
        zero_gradients(&parameters);
        let mut progress = ctx.progress("reward modelling", Some(items_before(&plan, plan.n_steps())), "pairs");
        progress.advance(items_before(&plan, start));

        for step in start..plan.n_steps() {
            let cancelled = ctx.cancel.is_cancelled();
            if cancelled || (step > start && step % config.save_every == 0) {
                save_train_state(
                    ctx,
                    step,
                    &[("reward_model", &parameters)],
                    &[("reward_model", &optim)],
                    &serde_json::Value::Null,
                )?;
            }
            if cancelled {
                return Err(Error::cancelled());
            }

            let started = Instant::now();
            let picked = plan.items(step);
            let pass = run_pairs(&model, &records, picked, config, Some(ctx.seed.child("step", step)))?;
            let place = || format!("step {step}, preference pairs {}", ids_of(&records, picked));
            if !pass.loss.is_finite() {
                return Err(Error::non_finite(format!("the loss is {} at {}", pass.loss, place())).with_hint("lower `optim.lr`"));
            }
            let report = optim.step().map_err(|error| error.context(place()))?;

            ctx.scalar("reward_modeling/loss", step, pass.loss);
            ctx.scalar("reward_modeling/accuracy", step, pass.accuracy);
            ctx.scalar("reward_modeling/margin", step, pass.margin);
            ctx.scalar("reward_modeling/mean_reward", step, pass.mean_reward);
            ctx.scalar("reward_modeling/grad_norm", step, report.grad_norm);
            ctx.scalar("reward_modeling/lr", step, report.lr);
            let n_tokens: usize = picked.iter().map(|&i| records[i].n_tokens()).sum();
            ctx.scalar("reward_modeling/tokens_per_sec", step, n_tokens as f64 / started.elapsed().as_secs_f64().max(1e-9));
            let last = step + 1 == plan.n_steps();
            if !held_out.is_empty() && (last || (step + 1) % config.validate_every == 0) {
                let all: Vec<usize> = (0..held_out.len()).collect();
                let pass = run_pairs(&model, &held_out, &all, config, None)?;
                ctx.scalar("reward_modeling/validation_loss", step, pass.loss);
                ctx.scalar("reward_modeling/validation_accuracy", step, pass.accuracy);
            }
            progress.advance(picked.len() as u64);
        }
        let checkpoint = save_scalar_checkpoint(&model, &codec, "reward_modeling", ctx)?;
        rule.save(ctx)?;
        Ok(checkpoint)
    }
}

/// A reward model goes on from its own head, a language model gets a new one.
fn starting_model(init: &Checkpoint, ctx: &RunContext<'_>) -> Result<ScalarModel> {
    let device = tch_device(ctx.device)?;
    match init.kind()? {
        CheckpointKind::RewardModel => ScalarModel::load(init.path(), device),
        CheckpointKind::CausalLm => {
            let body = LanguageModel::load(init.path(), device)?;
            let head = ScalarHead::random(body.config().hidden_size(), ctx.seed.child("head", 0), device);
            Ok(ScalarModel::from_language_model(body, head))
        }
    }
}

/// What some pairs' rewards tell; means over the pairs.
struct Pass {
    loss: f64,
    /// Share of pairs whose chosen answer has the higher reward; equal rewards count half.
    accuracy: f64,
    /// Reward of the chosen minus the rejected answer.
    margin: f64,
    /// Reward of all answers.
    mean_reward: f64,
}

/// Runs the picked pairs through the model, micro-batch by micro-batch; with the seed of an optimiser step, adds the gradient of
/// their mean loss.
fn run_pairs(
    model: &ScalarModel,
    records: &[Record<2>],
    picked: &[usize],
    config: &RewardModelingConfig,
    train: Option<Seed>,
) -> Result<Pass> {
    // Loss, accuracy, margin and reward, summed over the pairs; read once, for a look makes the host wait for the device.
    let mut totals = Tensor::zeros([4], (Kind::Double, model.body.device()));
    for rows in config.micro_batching(model.body.device()).groups(records, picked) {
        let side = |side: usize| rows.iter().map(move |&i| &records[i].texts[side]);
        let texts: Vec<_> = side(0).chain(side(1)).collect();
        let batch = TokenBatch::new(&texts, config.layout, model.body.device())?;
        let rewards = match train {
            Some(seed) => model.last_token_scores(&in_training(batch, records, &rows, seed)),
            None => no_grad(|| model.last_token_scores(&batch)),
        };
        let n = rows.len() as i64;
        let (chosen, rejected) = (rewards.narrow(0, 0, n), rewards.narrow(0, n, n));
        let margins: Vec<f64> = rows.iter().map(|&i| records[i].margin * config.margin_weight).collect();
        let margins = Tensor::from_slice(&margins).to_kind(rewards.kind()).to_device(rewards.device());
        let losses = preference_losses(&chosen, &rejected, &margins, config.label_smoothing, config.centring);
        if train.is_some() {
            backward(&(losses.sum(Kind::Float) / picked.len() as f64));
        }
        let difference = (&chosen - &rejected).detach();
        let accuracy = (difference.sign() + 1.0) * 0.5;
        let sums = [losses.detach(), accuracy, difference, (&chosen + &rejected).detach() * 0.5];
        totals += Tensor::stack(&sums.map(|numbers| numbers.sum(Kind::Double)), 0);
    }
    let [loss, accuracy, margin, mean_reward] = [0, 1, 2, 3].map(|i| totals.double_value(&[i]) / picked.len() as f64);
    Ok(Pass { loss, accuracy, margin, mean_reward })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::Response;
    use farmhand_core::{Device, Feedback, RecordedEvents, RewardModelConfig};
    use farmhand_models::AdapterOutput;

    use super::*;
    use crate::reward_models::BradleyTerryConfig;
    use crate::testing::{
        SPLITS, Stage, assert_resumes_exactly, assert_same_bytes, assert_same_gradients, fast_optim, lively_checkpoint, pairs,
        small_lora, take_gradients, tiny_checkpoint,
    };

    fn config() -> RewardModelingConfig {
        let optim = fast_optim(1e-2);
        RewardModelingConfig {
            epochs: 6,
            batch_size: 4,
            save_every: 4,
            validate_every: 4,
            optim,
            ..RewardModelingConfig::default()
        }
    }

    fn learn(config: &RewardModelingConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let all = pairs(24);
        let (train, held_out) = all.split_at(16);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback: Feedback::Preferences(train),
            validation: Some(Feedback::Preferences(held_out)),
            reward_model: None,
            annotator: None,
        };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
    }

    #[test]
    fn it_learns_which_answers_are_better_and_scores_new_ones_as_trained() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let ctx = stage.context(&events);
        let checkpoint =
            learn(&RewardModelingConfig { with_eos: true, ..config() }, &tiny_checkpoint(&stage), &ctx).expect("learned");
        let accuracy = events.scalars("reward_modeling/validation_accuracy");
        assert_eq!(accuracy.len(), 6);
        assert_eq!(accuracy[5].1, 1.0, "{accuracy:?}");
        assert!(events.scalars("reward_modeling/validation_loss")[5].1 < 0.2);

        assert_eq!(ReadingRule::load(checkpoint.path()).expect("read"), ReadingRule { with_eos: true });
        let mut build = BuildContext::new(Device::Cpu, Path::new("."));
        build.reward_model = Some(&checkpoint);
        let mut model = BradleyTerryConfig::default().build(&build).expect("built");
        assert_eq!(model.checkpoint(), Some(&checkpoint));
        let new = &pairs(30)[24..];
        let side = |pick: fn(&PreferencePair) -> &str| {
            new.iter().map(move |pair| Response { instruction: &pair.instruction, output: pick(pair) }).collect::<Vec<_>>()
        };
        let chosen = model.score(&side(|pair| &pair.chosen), &ctx).expect("scored");
        let rejected = model.score(&side(|pair| &pair.rejected), &ctx).expect("scored");
        assert!(chosen.iter().zip(&rejected).all(|(chosen, rejected)| chosen > rejected), "{chosen:?} {rejected:?}");
        // A score depends on its item alone.
        let alone = model.score(&side(|pair| &pair.chosen)[3..4], &ctx).expect("scored")[0];
        assert!((alone - chosen[3]).abs() < 1e-5);
    }

    #[test]
    fn an_adapter_and_the_head_learn_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        for output in [AdapterOutput::Merged, AdapterOutput::Adapter] {
            let config = RewardModelingConfig { lora: Some(LoraConfig { output, ..small_lora() }), ..config() };
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let learned = learn(&config, &init, &stage.context(&events)).expect("learned");
            let accuracy = events.scalars("reward_modeling/validation_accuracy");
            assert!(accuracy.last().expect("validated").1 > 0.8, "{accuracy:?}");
            let model = ScalarModel::load(learned.path(), tch::Device::Cpu).expect("loaded");
            let fresh = starting_model(&init, &stage.context(&events)).expect("made");
            assert_ne!(model.head.weight(), fresh.head.weight());
            assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config, &init, ctx));
        }
    }

    #[test]
    fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let saving = RewardModelingConfig { checkpoint_every: 1, ..config() };
        let run = |config: &RewardModelingConfig, ctx: &RunContext<'_>| learn(config, &init, ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config(), &init, ctx));
        let by_tokens = RewardModelingConfig { batch_tokens: Some(60), ..RewardModelingConfig { batch_size: 16, ..config() } };
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&by_tokens, &init, ctx));
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let model = with_head(&init);
        let encode = |pair: &PreferencePair| {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, farmhand_models::Ending::Open).expect("encoded");
            Record::new("", [side(&pair.chosen), side(&pair.rejected)])
        };
        let records: Vec<_> = pairs(8).iter().map(encode).collect();
        let picked: Vec<usize> = (0..8).collect();
        let gradients = |layout, size, tokens| {
            let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
            let micro = RewardModelingConfig { layout, micro_batch_size, micro_batch_tokens, ..RewardModelingConfig::default() };
            let config = RewardModelingConfig { centring: 0.01, ..micro };
            let loss = run_pairs(&model, &records, &picked, &config, Some(Seed::root(0))).expect("run").loss;
            (loss, take_gradients(&model.parameters()))
        };
        let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
        for (layout, size, tokens) in SPLITS {
            let (same_loss, same) = gradients(layout, size, tokens);
            assert!((loss - same_loss).abs() < 1e-6);
            assert_same_gradients(&same, &expected, 1e-6);
        }
    }

    fn with_head(init: &Checkpoint) -> ScalarModel {
        let stage = Stage::new();
        let model = starting_model(init, &stage.context(&farmhand_core::NoEvents)).expect("made");
        model.set_trainable(true);
        model
    }
}
