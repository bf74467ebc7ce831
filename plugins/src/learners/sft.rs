//! Supervised fine-tuning: imitate demonstrations.
//!
//! Cross-entropy of the response tokens, the end-of-sequence token included, given the instruction: −log π(y_t | x, y_<t),
//! reduced over the whole optimiser step (Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, section 3.5; AlpacaFarm's
//! SFT). The prompt is never trained on.

use farmhand_core::types::Demonstration;
use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    register,
};
use farmhand_models::{Ending, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::training::{
    Ranges, Record, Task, TrainOptions, Training, admit, imitation_loss, imitation_step, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "sft", config: SftConfig,
    summary: "supervised fine-tuning on demonstrations", paper: "https://arxiv.org/abs/2203.02155",
}

/// Options of `[learner.sft]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct SftConfig {
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are demonstrations; the held-out loss is also measured after every pass over them.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for SftConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        Self {
            reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 3, validate_every: 200, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "sft")]
impl LearnerConfig for SftConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Sft(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new().train(&self.train, Self::default().train.batch_size).problems()
    }
}

struct Sft(SftConfig);

impl Learner for Sft {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Demonstrations)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, model) = config.train.passes.load(inputs.init, ctx)?;
        let model = start_training(model, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let limit = config.train.token_limit(model.config().max_positions());
        let encode = |demonstration: &Demonstration| -> Result<Record> {
            let text = codec.encode(&demonstration.instruction, &demonstration.output, Ending::WithEos)?;
            Ok(Record::new(&demonstration.instruction.id, [text]))
        };
        let records = admit(inputs.feedback.demonstrations()?, "demonstrations", limit, true, ctx, encode)?;
        let held_out = match inputs.validation.map(|feedback| feedback.demonstrations()).transpose()? {
            Some(items) if !items.is_empty() => admit(items, "held-out demonstrations", limit, true, ctx, encode)?,
            _ => Vec::new(),
        };

        let pass = |picked: &[usize], seed| imitation_step(&model, &records, None, picked, config.reduction, &config.train, seed);
        let task = Task { learner: "sft", role: "policy", doing: "supervised fine-tuning", records: "demonstrations" };
        let plan = shuffled_steps(&records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass(rows, ctx.seed).map(drop);
        let mut training = Training::start(task, &model, model.trained(), &records, plan, &config.train, ctx, dry_run)?
            .keeping(&model, &codec)?;
        while let Some(step) = training.next_step()? {
            let loss = pass(&step.picked, step.seed)?;
            training.apply(&step, loss)?;
            if !held_out.is_empty() && (training.ends_epoch(&step) || training.validates_after(&step)) {
                training.log(&step, &[("validation_loss", imitation_loss(&model, &held_out, &config.train)?)]);
            }
        }
        save_checkpoint(&model, &codec, "sft", ctx)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, Feedback, RecordedEvents};
    use farmhand_models::{AdapterOutput, FreezeConfig, LanguageModel, LoraConfig, Precision};

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_same_bytes, demonstrations, fast_optim, lively_checkpoint, moved, small_lora,
        tiny_checkpoint, tiny_checkpoint_with,
    };

    fn with(change: impl FnOnce(&mut TrainOptions)) -> SftConfig {
        let mut train =
            TrainOptions { epochs: 12, batch_size: 4, save_every: 5, optim: fast_optim(3e-2), ..TrainOptions::default() };
        change(&mut train);
        SftConfig { train, ..SftConfig::default() }
    }

    fn config() -> SftConfig {
        with(|_| ())
    }

    fn learn(
        config: &SftConfig,
        init: &Checkpoint,
        demonstrations: &[Demonstration],
        ctx: &RunContext<'_>,
    ) -> Result<Checkpoint> {
        let feedback = Feedback::Demonstrations(demonstrations);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback,
            validation: Some(feedback),
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
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
        let config = with(|train| train.passes.lora = Some(small_lora()));
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
        let alone = with(|train| train.passes.lora = Some(lora));
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
        let config = with(|train| train.passes.freeze = freeze);
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let learned = learn(&config, &init, &demonstrations(8), &stage.context(&events)).expect("learned");
        let names = moved(&init, &learned);
        assert!(names.len() == 9 && names.iter().all(|name| name.starts_with("model.layers.1.")), "{names:?}");
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&config, &init, &demonstrations(8), ctx));
    }

    #[test]
    fn activations_of_16_bits_learn_as_those_of_32_do_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let final_loss = |precision: Precision| {
            let events = RecordedEvents::default();
            let config = with(|train| train.passes.precision = precision);
            learn(&config, &init, &demonstrations(8), &Stage::new().context(&events)).expect("learned");
            events.scalars("sft/loss").last().expect("logged").1
        };
        let (exact, rounded) = (final_loss(Precision::F32), final_loss(Precision::Bf16));
        assert!(exact != rounded && (exact - rounded).abs() < 0.1 * exact.max(0.5), "{exact} {rounded}");
        let config = with(|train| train.passes.precision = Precision::Bf16);
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&config, &init, &demonstrations(8), ctx));
    }

    #[test]
    fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let saving = with(|train| train.passes.checkpoint_every = 1);
        let run = |config: &SftConfig, ctx: &RunContext<'_>| learn(config, &init, &demonstrations(8), ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("sft/loss", 12, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&config(), &init, &demonstrations(8), ctx));
        let by_tokens = with(|train| (train.batch_size, train.batch_tokens) = (32, Some(40)));
        assert_resumes_exactly("sft/loss", 12, |ctx| learn(&by_tokens, &init, &demonstrations(8), ctx));
    }

    #[test]
    fn long_demonstrations_are_left_out_and_no_demonstrations_is_an_error() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let mut items = demonstrations(4);
        items[1].output = "one two three ".repeat(40);
        let init = tiny_checkpoint_with(&stage, "short", 32);
        learn(&with(|train| train.epochs = 1), &init, &items, &stage.context(&events)).expect("learned");
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
        let config = with(|train| train.optim = fast_optim(1e30));
        let error = learn(&config, &tiny_checkpoint(&stage), &items, &stage.context(&events)).expect_err("diverged");
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(
            error.message().contains("step 1, demonstrations") && error.message().contains(&items[0].instruction.id),
            "{error}"
        );
    }
}
