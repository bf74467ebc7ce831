//! The bookkeeping of a learner that passes over records: which records a step takes, the optimiser, saved states, the dry run,
//! and what every step logs. The loop itself, and what happens in a step, stand in the learner's file:
//!
//! ```text
//! let mut training = Training::start(task, &policy, policy.trained(), &records, plan, &config.train, ctx, dry_run)?;
//! while let Some(step) = training.next_step()? {
//!     let pass = run(&policy, &records, &step.picked, config, Some(step.seed))?;
//!     training.apply(&step, pass.loss)?;
//! }
//! ```

use std::time::Instant;

use farmhand_core::{Error, Progress, Result, RunContext, Seed};
use farmhand_models::{
    AdamW, BatchLayout, LanguageModel, StepPlan, TextCodec, computed_tokens, load_train_state, save_train_state, zero_gradients,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::Tensor;

use super::kept::KeptCheckpoints;
use super::learner_options::{RecordOrder, TrainOptions};
use super::memory::{MemoryNeeds, Trainee, held};
use super::records::{Record, ids_of};

/// What a training is called in logs, progress and messages.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// The learner's name; its scalars begin with it.
    pub learner: &'static str,
    /// What is trained: `policy`, `reward model`.
    pub role: &'static str,
    /// What goes on, for the progress bar: `preference optimisation`.
    pub doing: &'static str,
    /// The records, for messages: `preference pairs`.
    pub records: &'static str,
}

impl Task {
    /// The name under which the trained model and its optimiser are saved.
    fn state_name(&self) -> String {
        self.role.replace(' ', "_")
    }
}

/// One optimiser step to be made.
#[derive(Debug)]
pub struct Step {
    /// Its number, from 0.
    pub number: u64,
    /// The records it takes, as indices.
    pub picked: Vec<usize>,
    /// Where its randomness comes from.
    pub seed: Seed,
    started: Instant,
}

/// A training between two of its steps.
pub struct Training<'a> {
    task: Task,
    options: &'a TrainOptions,
    ctx: &'a RunContext<'a>,
    records: &'a [Record],
    trained: Vec<(String, Tensor)>,
    optim: AdamW,
    plan: StepPlan,
    first: u64,
    next: u64,
    carried: serde_json::Value,
    kept: Option<KeptCheckpoints<'a>>,
    progress: Progress<'a>,
}

impl<'a> Training<'a> {
    /// Goes on from the stage's saved state or begins. `body` is the model whose passes take the memory, `trained` everything
    /// that the optimiser moves. `dry_run` makes one forward and backward pass over the records it is given, so that memory
    /// runs out before the first step or not at all; its gradient is forgotten.
    ///
    /// # Errors
    /// When a saved state does not fit, the memory does not suffice, or `dry_run` fails.
    #[expect(clippy::too_many_arguments, reason = "each is another thing, and a learner names all of them once")]
    pub fn start(
        task: Task,
        body: &LanguageModel,
        trained: Vec<(String, Tensor)>,
        records: &'a [Record],
        plan: StepPlan,
        options: &'a TrainOptions,
        ctx: &'a RunContext<'a>,
        dry_run: impl FnOnce(&[usize]) -> Result<()>,
    ) -> Result<Self> {
        let mut optim = AdamW::new(&trained, &options.optim, plan.n_steps());
        let key = task.state_name();
        let resumed = load_train_state(ctx, &[(&key, &trained)], &mut [(&key, &mut optim)])?;
        let (first, carried) = resumed.unwrap_or_default();
        let micro = options.passes.micro_batching(body.device());
        let passes = Trainee::of_plan(&micro, records, &plan, first, options.passes.checkpoint_every);
        MemoryNeeds::training(held(task.role, body), passes).announce(task.learner, first, body.device(), ctx)?;
        micro.dry_run(records, &plan, first, dry_run)?;
        zero_gradients(&trained);
        let mut progress = ctx.progress(task.doing, Some(items_before(&plan, plan.n_steps())), task.records);
        progress.advance(items_before(&plan, first));
        Ok(Self { task, options, ctx, records, trained, optim, plan, first, next: first, carried, kept: None, progress })
    }

    /// The same training, which keeps the policy on its way where the stage asks for it. Every learner that makes a policy says so.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keeping(self, policy: &'a LanguageModel, codec: &'a TextCodec) -> Result<Self> {
        let kept = KeptCheckpoints::of(policy, codec, self.task.learner, self.first, self.ctx)?;
        Ok(Self { kept: Some(kept), ..self })
    }

    /// The next step; `None` when all are made. Saves the state and keeps the policy when it is time to.
    ///
    /// # Errors
    /// On cancellation, after the state was saved, and when the disk refuses.
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        if self.next == self.plan.n_steps() {
            return Ok(None);
        }
        let number = self.next;
        self.kept.as_ref().map_or(Ok(()), |kept| kept.after(number))?;
        let cancelled = self.ctx.cancel.is_cancelled();
        if cancelled || (number > self.first && number.is_multiple_of(self.options.save_every)) {
            let key = self.task.state_name();
            save_train_state(self.ctx, number, &[(&key, &self.trained)], &[(&key, &self.optim)], &self.carried)?;
        }
        if cancelled {
            return Err(Error::cancelled());
        }
        let picked = self.plan.items(number).to_vec();
        Ok(Some(Step { number, picked, seed: self.ctx.seed.child("step", number), started: Instant::now() }))
    }

    /// Moves the weights along the gradients that the step's passes left, and logs loss, gradient norm, learning rate and speed.
    ///
    /// # Errors
    /// When the loss or a gradient is not finite; the message names the step's records.
    pub fn apply(&mut self, step: &Step, loss: f64) -> Result<()> {
        let (name, number) = (self.task.learner, step.number);
        let place = || format!("step {number}, {} {}", self.task.records, ids_of(self.records, &step.picked));
        if !loss.is_finite() {
            return Err(Error::non_finite(format!("the loss is {loss} at {}", place())).with_hint("lower `optim.lr`"));
        }
        let report = self.optim.step().map_err(|error| error.context(place()))?;
        let n_tokens: usize = step.picked.iter().map(|&i| self.records[i].n_tokens()).sum();
        let seconds = step.started.elapsed().as_secs_f64().max(1e-9);
        self.log(step, &[("loss", loss), ("grad_norm", report.grad_norm), ("lr", report.lr)]);
        self.ctx.scalar(&format!("{name}/tokens_per_sec"), number, n_tokens as f64 / seconds);
        self.progress.advance(step.picked.len() as u64);
        self.next += 1;
        Ok(())
    }

    /// Logs numbers of a step under the learner's name.
    pub fn log(&self, step: &Step, numbers: &[(&str, f64)]) {
        for (name, number) in numbers {
            self.ctx.scalar(&format!("{}/{name}", self.task.learner), step.number, *number);
        }
    }

    /// What the step before left beside weights and optimiser; the default where no step has.
    ///
    /// # Errors
    /// When the saved state holds something else.
    pub fn carried<T: DeserializeOwned + Default>(&self) -> Result<T> {
        if self.carried.is_null() {
            return Ok(T::default());
        }
        serde_json::from_value(self.carried.clone())
            .map_err(|error| Error::invalid_data("the saved state is of another kind of training").with_source(error))
    }

    /// Leaves something for the next step, which is saved with weights and optimiser.
    pub fn carry(&mut self, value: &impl Serialize) {
        self.carried = serde_json::to_value(value).expect("what is carried is JSON");
    }

    /// Whether held-out records are due after this step.
    pub fn validates_after(&self, step: &Step) -> bool {
        step.number + 1 == self.plan.n_steps() || (step.number + 1).is_multiple_of(self.options.validate_every)
    }

    /// Whether this step is the last of its pass over the records.
    pub fn ends_epoch(&self, step: &Step) -> bool {
        self.plan.ends_epoch(step.number)
    }
}

/// The records of every optimiser step in plain passes over all records, in an order that the seed gives or, with
/// [`RecordOrder::Given`], as they are: `batch_size` of them, or as many as `batch_tokens` tokens allow. A pair's prompt counts once,
/// and no padding counts, so that the plan does not depend on how texts lie in a forward pass.
pub fn shuffled_steps(records: &[Record], options: &TrainOptions, ctx: &RunContext<'_>) -> StepPlan {
    let (epochs, seed) = (u64::from(options.epochs), ctx.seed.child("order", 0));
    let tokens = |record: &Record| computed_tokens(&record.texts, BatchLayout::Packed);
    let lengths = || records.iter().map(tokens).collect::<Vec<_>>();
    match (options.order, options.batch_tokens) {
        (RecordOrder::Shuffled, None) => StepPlan::new(records.len(), options.batch_size, epochs, seed),
        (RecordOrder::Shuffled, Some(max_tokens)) => StepPlan::by_tokens(&lengths(), max_tokens, epochs, seed),
        (RecordOrder::Given, None) => StepPlan::in_order(records.len(), options.batch_size, epochs),
        (RecordOrder::Given, Some(max_tokens)) => StepPlan::by_tokens_in_order(&lengths(), max_tokens, epochs),
    }
}

/// Records seen in the first `step` optimiser steps of a plan, repeated ones counted again.
fn items_before(plan: &StepPlan, step: u64) -> u64 {
    (0..step).map(|step| plan.items(step).len() as u64).sum()
}
