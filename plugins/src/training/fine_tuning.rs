//! Fine-tuning on answers that a method selected, weighted or put behind a control: what comes after the selection is the same in
//! all of these methods.
//!
//! ```text
//! let answers = …;                                 // Vec<Imitated>, the method's own choice
//! let tuning = FineTuning { task, init: inputs.init, train: &config.train, reduction: config.reduction, rounds: None };
//! tuning.learn(&answers, &held_out, ctx)
//! ```

use farmhand_core::types::{Completion, FinishReason, Instruction};
use farmhand_core::{Checkpoint, Error, Result, RunContext};
use farmhand_models::{Ending, save_checkpoint};

use super::imitation::{imitation_loss, imitation_step};
use super::learner_options::TrainOptions;
use super::records::{Record, admit};
use super::rounds::{LaterSteps, Rounds};
use super::steps::{Task, Training, shuffled_steps};
use super::trained_part::start_training;
use crate::rl::reduction::Reduction;

/// An answer to imitate.
#[derive(Debug, Clone, PartialEq)]
pub struct Imitated {
    /// What is asked, with a control where the method has one; never trained on.
    pub instruction: Instruction,
    /// The answer.
    pub output: String,
    /// Whether its end is imitated too. An answer that was cut off has none.
    pub ending: Ending,
    /// How much it counts; 1 is plain imitation.
    pub weight: f64,
}

impl Imitated {
    /// A whole answer.
    pub fn whole(instruction: &Instruction, output: &str) -> Self {
        Self { instruction: instruction.clone(), output: output.to_owned(), ending: Ending::WithEos, weight: 1.0 }
    }

    /// A policy's answer: its end is imitated unless the token limit cut it off.
    pub fn sampled(completion: &Completion) -> Self {
        let ending = if completion.finish == FinishReason::Length { Ending::Open } else { Ending::WithEos };
        Self { ending, ..Self::whole(&completion.instruction, &completion.output) }
    }
}

/// One fine-tuning.
#[derive(Debug, Clone, Copy)]
pub struct FineTuning<'a> {
    /// What it is called.
    pub task: Task,
    /// Where the policy starts.
    pub init: &'a Checkpoint,
    /// How it goes over the answers.
    pub train: &'a TrainOptions,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// The rounds of which this is one: steps are logged as going on from those of the rounds before.
    pub rounds: Option<&'a Rounds>,
}

impl FineTuning<'_> {
    /// Fine-tunes the policy on weighted answers and saves it in the context's stage. The loss on held-out answers, which counts
    /// them alike, is measured as the options say.
    ///
    /// # Errors
    /// When there is nothing to learn from, an input does not fit, a loss is not finite, or on cancellation.
    pub fn learn(&self, answers: &[Imitated], held_out: &[Imitated], ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { task, init, train, reduction, rounds } = *self;
        if !answers.is_empty() && answers.iter().all(|answer| answer.weight == 0.0) {
            return Err(Error::invalid_data(format!("all {} {} have the weight 0", answers.len(), task.records)));
        }
        let events = LaterSteps::new(ctx.events, rounds.map_or(Ok(0), Rounds::steps_before)?);
        let ctx = &RunContext { events: &events, ..*ctx };
        let (codec, model) = train.passes.load(init, ctx)?;
        let model = start_training(model, &train.passes, init, ctx.seed.child("lora", 0))?;

        let limit = train.token_limit(model.config().max_positions());
        let encode = |answer: &Imitated| -> Result<Record> {
            let text = codec.encode(&answer.instruction, &answer.output, answer.ending)?;
            Ok(Record::new(&answer.instruction.id, [text]))
        };
        let records = admit(answers, task.records, limit, true, ctx, encode)?;
        let held_out = match held_out {
            [] => Vec::new(),
            _ => admit(held_out, &format!("held-out {}", task.records), limit, true, ctx, encode)?,
        };
        let weights: Vec<f64> = records.iter().map(|record| answers[record.index].weight).collect();
        let weights = weights.iter().any(|&weight| weight != 1.0).then_some(weights);

        let pass = |picked: &[usize], seed| imitation_step(&model, &records, weights.as_deref(), picked, reduction, train, seed);
        let plan = shuffled_steps(&records, train, ctx);
        if rounds.is_some() {
            Rounds::note_steps(plan.n_steps(), ctx)?;
        }
        let dry_run = |rows: &[usize]| pass(rows, ctx.seed).map(drop);
        let mut training =
            Training::start(task, &model, model.trained(), &records, plan, train, ctx, dry_run)?.keeping(&model, &codec)?;
        while let Some(step) = training.next_step()? {
            let loss = pass(&step.picked, step.seed)?;
            training.apply(&step, loss)?;
            if !held_out.is_empty() && (training.ends_epoch(&step) || training.validates_after(&step)) {
                training.log(&step, &[("validation_loss", imitation_loss(&model, &held_out, train)?)]);
            }
        }
        save_checkpoint(&model, &codec, task.learner, ctx)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::RecordedEvents;
    use farmhand_models::{LanguageModel, TextCodec};

    use super::*;
    use crate::testing::{Stage, assert_resumes_exactly, demonstrations, fast_optim, small_lora, tiny_checkpoint};

    const TASK: Task = Task { learner: "test", role: "policy", doing: "imitation", records: "chosen answers" };

    fn train() -> TrainOptions {
        TrainOptions { epochs: 12, batch_size: 4, save_every: 5, optim: fast_optim(3e-2), ..TrainOptions::default() }
    }

    fn answers() -> Vec<Imitated> {
        demonstrations(8).iter().map(|item| Imitated::whole(&item.instruction, &item.output)).collect()
    }

    fn learn(answers: &[Imitated], train: &TrainOptions, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let tuning = FineTuning { task: TASK, init, train, reduction: Reduction::TokenMean, rounds: None };
        tuning.learn(answers, answers, ctx)
    }

    fn loss_of(checkpoint: &Checkpoint, answers: &[Imitated]) -> f64 {
        let codec = TextCodec::load(checkpoint, None).expect("a codec");
        let model = LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
        let encode = |answer: &Imitated| {
            Record::new("", [codec.encode(&answer.instruction, &answer.output, answer.ending).expect("encoded")])
        };
        let records: Vec<_> = answers.iter().map(encode).collect();
        imitation_loss(&model, &records, &train()).expect("measured")
    }

    #[test]
    fn weighted_answers_are_learnt_and_those_of_weight_0_are_not() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let mut all = answers();
        all[..4].iter_mut().for_each(|answer| answer.weight = 0.0);
        let train = TrainOptions { epochs: 40, ..train() };
        let learned = learn(&all, &train, &init, &stage.context(&events)).expect("learned");
        let (left_out, kept) = (loss_of(&learned, &all[..4]), loss_of(&learned, &all[4..]));
        assert!(kept < 1.0 && left_out > kept + 1.0, "{kept} {left_out}");
        assert_eq!(events.scalars("test/validation_loss").len(), 40);

        all.iter_mut().for_each(|answer| answer.weight = 0.0);
        let error = learn(&all, &train, &init, &Stage::new().context(&events)).expect_err("nothing counts");
        assert!(error.message().contains("all 8 chosen answers have the weight 0"), "{error}");
        assert!(learn(&[], &train, &init, &Stage::new().context(&events)).is_err());
    }

    #[test]
    fn a_stopped_or_killed_fine_tuning_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let mut answers = answers();
        answers[2].weight = 3.0;
        let mut with_lora = train();
        with_lora.passes.lora = Some(small_lora());
        for train in [train(), with_lora] {
            assert_resumes_exactly("test/loss", 12, |ctx| learn(&answers, &train, &init, ctx));
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_has_no_end() {
        let mut completion = Completion {
            instruction: Instruction::new("count", None),
            output: "one two".into(),
            model: "m".into(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 2,
            log_prob: None,
        };
        assert_eq!(Imitated::sampled(&completion), Imitated::whole(&completion.instruction, "one two"));
        completion.finish = FinishReason::StopString;
        assert_eq!(Imitated::sampled(&completion).ending, Ending::WithEos);
        completion.finish = FinishReason::Length;
        assert_eq!(Imitated::sampled(&completion).ending, Ending::Open);
    }
}
