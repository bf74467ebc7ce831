//! Reward modelling: a scalar head on the language model's body, fitted to preference pairs.
//!
//! Bradley-Terry: `−ln σ(r_w − r_l − m)` for the rewards of the chosen and the rejected answer, read at the last real token
//! (Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, equation 1). Margins m after Llama 2 (Touvron et al. 2023,
//! section 3.2.2), centring `c (r_w + r_l)²` after Eisenstein et al. 2023, label smoothing ε as in conservative DPO.

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, CheckpointKind, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, Seed, register,
};
use farmhand_models::{LanguageModel, ScalarHead, ScalarModel, TextCodec, backward, save_scalar_checkpoint, tch_device};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::reward_models::ReadingRule;
use crate::rl::bradley_terry::preference_losses;
use crate::training::{Ranges, Record, Task, TrainOptions, Training, admit, record_batch, shuffled_steps, start_training};

register! {
    kind: Learner, name: "reward_modeling", config: RewardModelingConfig,
    summary: "a reward model from preference pairs (Bradley-Terry)", paper: "https://arxiv.org/abs/2203.02155",
}

/// Options of `[learner.reward_modeling]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RewardModelingConfig {
    /// Share ε of labels taken to be wrong, in [0, 0.5): `−(1−ε) ln σ(Δ) − ε ln σ(−Δ)`.
    pub label_smoothing: f64,
    /// What a pair's own margin is multiplied by before it is subtracted from the reward difference, ≥ 0; 0 ignores margins.
    pub margin_weight: f64,
    /// Weight c of `(r_w + r_l)²`, which keeps rewards around 0, ≥ 0.
    pub centring: f64,
    /// Read the reward at an end-of-sequence token after the answer instead of at the answer's last token. AlpacaFarm does not.
    pub with_eos: bool,
    /// Records are pairs; more than one pass over them over-fits quickly.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for RewardModelingConfig {
    fn default() -> Self {
        Self {
            label_smoothing: 0.0,
            margin_weight: 0.0,
            centring: 0.0,
            with_eos: false,
            train: TrainOptions { batch_size: 16, ..TrainOptions::default() },
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
            .require("label_smoothing", (0.0..0.5).contains(&self.label_smoothing), "a number in [0, 0.5)", self.label_smoothing)
            .not_negative("margin_weight", self.margin_weight)
            .not_negative("centring", self.centring)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
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
        let codec = TextCodec::load(inputs.init, config.train.passes.prompt)?;
        let ScalarModel { body, head } = starting_model(inputs.init, ctx)?;
        head.set_trainable(true);
        body.set_precision(config.train.passes.precision);
        let body = start_training(body, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let model = ScalarModel { body, head };

        let limit = config.train.token_limit(model.body.config().max_positions());
        let encode = |pair: &PreferencePair| -> Result<Record> {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, rule.ending());
            let texts = [side(&pair.chosen)?, side(&pair.rejected)?];
            Ok(Record { margin: pair.margin.unwrap_or(0.0), ..Record::new(&pair.instruction.id, texts) })
        };
        let records = admit(inputs.feedback.preferences()?, "preference pairs", limit, false, ctx, encode)?;
        let held_out = match inputs.validation.map(|feedback| feedback.preferences()).transpose()? {
            Some(pairs) if !pairs.is_empty() => admit(pairs, "held-out preference pairs", limit, false, ctx, encode)?,
            _ => Vec::new(),
        };

        let task =
            Task { learner: "reward_modeling", role: "reward model", doing: "reward modelling", records: "preference pairs" };
        let plan = shuffled_steps(&records, &config.train, ctx);
        let dry_run = |rows: &[usize]| run_pairs(&model, &records, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &model.body, model.trained(), &records, plan, &config.train, ctx, dry_run)?;
        while let Some(step) = training.next_step()? {
            let pass = run_pairs(&model, &records, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            training.log(&step, &[("accuracy", pass.accuracy), ("margin", pass.margin), ("mean_reward", pass.mean_reward)]);
            if !held_out.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.len()).collect();
                let pass = run_pairs(&model, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.accuracy)]);
            }
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
    records: &[Record],
    picked: &[usize],
    config: &RewardModelingConfig,
    train: Option<Seed>,
) -> Result<Pass> {
    // Loss, accuracy, margin and reward, summed over the pairs; read once, for a look makes the host wait for the device.
    let mut totals = Tensor::zeros([4], (Kind::Double, model.body.device()));
    let passes = &config.train.passes;
    for rows in passes.micro_batching(model.body.device()).groups(records, picked) {
        let batch = record_batch(records, &rows, passes.layout, model.body.device(), train)?;
        let rewards = match train {
            Some(_) => model.last_token_scores(&batch),
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
    use farmhand_models::{AdapterOutput, BatchLayout, LoraConfig};

    use super::*;
    use crate::reward_models::BradleyTerryConfig;
    use crate::testing::{
        SPLITS, Stage, assert_resumes_exactly, assert_same_bytes, assert_same_gradients, fast_optim, lively_checkpoint, pairs,
        small_lora, take_gradients, tiny_checkpoint,
    };
    use crate::training::PassOptions;

    fn with(change: impl FnOnce(&mut RewardModelingConfig)) -> RewardModelingConfig {
        let mut config = RewardModelingConfig::default();
        let optim = fast_optim(1e-2);
        config.train =
            TrainOptions { epochs: 6, batch_size: 4, save_every: 4, validate_every: 4, optim, ..TrainOptions::default() };
        change(&mut config);
        config
    }

    fn config() -> RewardModelingConfig {
        with(|_| ())
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
        let checkpoint = learn(&with(|config| config.with_eos = true), &tiny_checkpoint(&stage), &ctx).expect("learned");
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
            let config = with(|config| config.train.passes.lora = Some(LoraConfig { output, ..small_lora() }));
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
        let saving = with(|config| config.train.passes.checkpoint_every = 1);
        let run = |config: &RewardModelingConfig, ctx: &RunContext<'_>| learn(config, &init, ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config(), &init, ctx));
        let by_tokens = with(|config| (config.train.batch_size, config.train.batch_tokens) = (16, Some(60)));
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
            let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
            let config = with(|config| (config.centring, config.train.passes) = (0.01, passes));
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
