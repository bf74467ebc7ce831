//! The bookkeeping of a learner that samples responses of its own: rounds, saved states, the dry run, progress, and what a round
//! logs. The loop itself, and what happens in a round, stand in the learner's file:
//!
//! ```text
//! let mut training = OnPolicy::start(task, &config.rollouts, parts, carried, &needs, ctx, dry_run)?;
//! while let Some(step) = training.next_step()? {
//!     let sampled = training.keep(sampler.sample(step * n, n, ctx))?;
//!     …
//!     training.log(&[("reward", scores.mean())]);
//!     training.end_step();
//! }
//! training.finish()?;
//! ```

use farmhand_core::types::Instruction;
use farmhand_core::{Checkpoint, Error, Progress, Result, RewardModel, RunContext};
use farmhand_models::{AdamW, LanguageModel, OptimConfig, TextCodec, load_train_state, save_train_state, zero_gradients};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::kept::KeptCheckpoints;
use super::learner_options::PassOptions;
use super::memory::{MemoryNeeds, held, held_beside};
use super::policy_update::rehearse;
use super::records::Record;
use super::reference::standing_reference;
use super::rollout_options::{RolloutOptions, fitting_prompts};
use super::rollouts::Sampler;
use super::trained_part::start_training;

/// What a training is called in logs and progress.
#[derive(Debug, Clone, Copy)]
pub struct OnPolicyTask {
    /// The learner's name; its scalars begin with it.
    pub learner: &'static str,
    /// What goes on, for the progress bar: `policy optimisation`.
    pub doing: &'static str,
}

/// Something that is trained, with its optimiser.
pub struct TrainedPart {
    /// Its name in saved states: `policy`.
    key: &'static str,
    parameters: Vec<(String, Tensor)>,
    /// Its optimiser.
    pub optim: AdamW,
}

impl TrainedPart {
    /// Parameters that are trained in `n_steps` optimiser steps.
    pub fn new(key: &'static str, parameters: Vec<(String, Tensor)>, optim: &OptimConfig, n_steps: u64) -> Self {
        Self { key, optim: AdamW::new(&parameters, optim, n_steps), parameters }
    }
}

/// What a learner that trains a policy alone on its own responses loads.
pub struct OnPolicyModels {
    /// The policy's tokenizer and prompt format.
    pub codec: TextCodec,
    /// The policy, ready to train.
    pub policy: LanguageModel,
    /// The frozen reference, where the method needs one.
    pub reference: Option<LanguageModel>,
    /// The prompts of the instructions that fit.
    pub prompts: Vec<Record>,
}

impl OnPolicyModels {
    /// Loads the policy from `init` and, `with_reference`, the reference: `other`, or without one the policy as it starts.
    ///
    /// # Errors
    /// When a file is missing or does not fit, no instruction fits, or nothing is left to train.
    pub fn load(
        init: &Checkpoint,
        other: Option<&Checkpoint>,
        with_reference: bool,
        instructions: &[Instruction],
        options: (&RolloutOptions, &PassOptions),
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let (rollouts, passes) = options;
        let (codec, policy) = passes.load(init, ctx)?;
        let reference = match with_reference {
            true => Some(standing_reference(init, other, &policy, passes)?),
            false => None,
        };
        let prompts = fitting_prompts(instructions, policy.config().max_positions(), &codec, rollouts, ctx)?;
        let policy = start_training(policy, passes, init, ctx.seed.child("lora", 0))?;
        Ok(Self { codec, policy, reference, prompts })
    }

    /// What samples from the policy.
    pub fn sampler<'a>(
        &'a self,
        instructions: &'a [Instruction],
        options: &'a RolloutOptions,
        passes: &'a PassOptions,
    ) -> Sampler<'a> {
        Sampler { options, passes, codec: &self.codec, instructions, prompts: &self.prompts, policy: &self.policy }
    }
}

/// What a saved state holds besides weights and optimisers.
#[derive(Serialize, Deserialize)]
struct Extra<C> {
    carried: C,
    n_idle: u64,
}

/// A training between two of its rounds. `C` is what a round leaves for the next one besides weights and optimisers.
pub struct OnPolicy<'a, C> {
    /// What is trained.
    pub parts: Vec<TrainedPart>,
    /// What the next round needs of those before it.
    pub carried: C,
    task: OnPolicyTask,
    options: &'a RolloutOptions,
    ctx: &'a RunContext<'a>,
    first: u64,
    next: u64,
    /// Rounds so far that taught nothing.
    n_idle: u64,
    kept: Option<KeptCheckpoints<'a>>,
    progress: Progress<'a>,
}

impl<'a, C: Serialize + DeserializeOwned> OnPolicy<'a, C> {
    /// Goes on from the stage's saved state or begins with `carried`. `dry_run` makes the largest forward and backward pass there
    /// can be, so that memory runs out before the first round or not at all; its gradient is forgotten.
    ///
    /// # Errors
    /// When a saved state does not fit, the memory does not suffice, or `dry_run` fails.
    pub fn start(
        task: OnPolicyTask,
        options: &'a RolloutOptions,
        mut parts: Vec<TrainedPart>,
        carried: C,
        needs: &MemoryNeeds,
        ctx: &'a RunContext<'a>,
        dry_run: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let tensors: Vec<(&str, Vec<(String, Tensor)>)> =
            parts.iter().map(|part| (part.key, shallow(&part.parameters))).collect();
        let models: Vec<(&str, &[(String, Tensor)])> = tensors.iter().map(|(key, tensors)| (*key, tensors.as_slice())).collect();
        let mut optims: Vec<(&str, &mut AdamW)> = parts.iter_mut().map(|part| (part.key, &mut part.optim)).collect();
        let (first, Extra { carried, n_idle }) = match load_train_state(ctx, &models, &mut optims)? {
            Some((step, extra)) => (step, extra_from(extra, task.learner)?),
            None => (0, Extra { carried, n_idle: 0 }),
        };
        let device = parts.first().and_then(|part| part.parameters.first()).map_or(Device::Cpu, |(_, tensor)| tensor.device());
        needs.announce(task.learner, first, device, ctx)?;
        if first < options.steps {
            dry_run()?;
            parts.iter().for_each(|part| zero_gradients(&part.parameters));
        }
        let n_responses = options.n_responses() as u64;
        let mut progress = ctx.progress(task.doing, Some(options.steps * n_responses), "responses");
        progress.advance(first * n_responses);
        Ok(Self { parts, carried, task, options, ctx, first, next: first, n_idle, kept: None, progress })
    }

    /// The same training, which keeps the sampler's policy on its way where the stage asks for it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keeping(self, sampler: &Sampler<'a>) -> Result<Self> {
        let kept = KeptCheckpoints::of(sampler.policy, sampler.codec, self.task.learner, self.first, self.ctx)?;
        Ok(Self { kept: Some(kept), ..self })
    }

    /// The same for a learner that trains a policy alone, in optimiser steps of `batch_size` records of `texts` texts each.
    ///
    /// # Errors
    /// As [`OnPolicy::start`].
    #[expect(clippy::too_many_arguments, reason = "each is another thing, and a learner names all of them once")]
    pub fn start_policy(
        task: OnPolicyTask,
        sampler: &Sampler<'a>,
        reference: Option<&LanguageModel>,
        reward_model: Option<&dyn RewardModel>,
        (texts, batch_size): (usize, usize),
        (optim, n_steps): (&OptimConfig, u64),
        carried: C,
        ctx: &'a RunContext<'a>,
    ) -> Result<Self> {
        let policy = sampler.policy;
        let (largest, is_one_of_many) = sampler.largest_pass(texts, batch_size);
        let frozen = reference.map(|reference| held_beside("reference", reference, &[policy])).into_iter().collect();
        let needs = sampler.memory_needs(vec![held("policy", policy)], frozen, &largest, is_one_of_many, reward_model)?;
        let parts = vec![TrainedPart::new("policy", policy.trained(), optim, n_steps)];
        Self::start(task, sampler.options, parts, carried, &needs, ctx, || rehearse(sampler, &largest))?.keeping(sampler)
    }

    /// The number of the next round, from 0; `None` when all are done. Saves the state and keeps the policy when it is time to.
    ///
    /// # Errors
    /// On cancellation, after the state was saved, and when the disk refuses.
    pub fn next_step(&mut self) -> Result<Option<u64>> {
        if self.next == self.options.steps {
            return Ok(None);
        }
        self.kept.as_ref().map_or(Ok(()), |kept| kept.after(self.next))?;
        let cancelled = self.ctx.cancel.is_cancelled();
        if cancelled || (self.next > self.first && self.next.is_multiple_of(self.options.save_every)) {
            self.save()?;
        }
        if cancelled {
            return Err(Error::cancelled());
        }
        Ok(Some(self.next))
    }

    /// What part of a round gave that has not moved anything yet. When it failed or was stopped, the state is saved as it was
    /// before the round, so that a later run goes on there.
    ///
    /// # Errors
    /// Those of `result`.
    pub fn keep<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.save()?;
        }
        result
    }

    /// Logs numbers of the round under the learner's name.
    pub fn log(&self, numbers: &[(&str, f64)]) {
        for (name, number) in numbers {
            self.ctx.scalar(&format!("{}/{name}", self.task.learner), self.next, *number);
        }
    }

    /// Says that the round taught nothing: nothing was trained on. Warned about the first time, counted after that.
    pub fn idle(&mut self, why: &str) {
        if self.n_idle == 0 {
            self.ctx.events.warn(&format!("nothing is learned in step {}: {why}", self.next));
        }
        self.n_idle += 1;
    }

    /// Ends the round.
    pub fn end_step(&mut self) {
        self.progress.advance(self.options.n_responses() as u64);
        self.next += 1;
    }

    /// Ends the training.
    ///
    /// # Errors
    /// When no round taught anything.
    pub fn finish(self) -> Result<()> {
        let steps = self.options.steps;
        match self.n_idle {
            0 => Ok(()),
            n if n == steps => Err(Error::invalid_data(format!("nothing was learned in any of {steps} steps"))
                .with_hint("the warnings say why; look at the reward model or annotator and at what the policy answers")),
            n => {
                self.ctx.events.warn(&format!("nothing was learned in {n} of {steps} steps"));
                Ok(())
            }
        }
    }

    fn save(&self) -> Result<()> {
        let models: Vec<(&str, &[(String, Tensor)])> =
            self.parts.iter().map(|part| (part.key, part.parameters.as_slice())).collect();
        let optims: Vec<(&str, &AdamW)> = self.parts.iter().map(|part| (part.key, &part.optim)).collect();
        let extra = serde_json::to_value(Extra { carried: &self.carried, n_idle: self.n_idle }).expect("numbers are JSON");
        save_train_state(self.ctx, self.next, &models, &optims, &extra)
    }
}

fn shallow(parameters: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}

fn extra_from<C: DeserializeOwned>(extra: serde_json::Value, learner: &str) -> Result<Extra<C>> {
    serde_json::from_value(extra)
        .map_err(|error| Error::invalid_data(format!("the saved state is not one of `{learner}`")).with_source(error))
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, RecordedEvents};

    use super::*;
    use crate::testing::{Stage, fast_optim};

    const TASK: OnPolicyTask = OnPolicyTask { learner: "toy", doing: "playing" };

    fn start<'a>(options: &'a RolloutOptions, ctx: &'a RunContext<'a>) -> (OnPolicy<'a, u64>, Tensor) {
        let weight = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let parameters = vec![("weight".to_owned(), weight.shallow_clone())];
        let part = TrainedPart::new("policy", parameters, &fast_optim(0.1), options.steps);
        let needs = MemoryNeeds { models: Vec::new(), activities: Vec::new() };
        let dry_run = || {
            (&weight * 100.0).sum(tch::Kind::Float).backward();
            Ok(())
        };
        (OnPolicy::start(TASK, options, vec![part], 10, &needs, ctx, dry_run).expect("started"), weight)
    }

    #[test]
    fn what_a_round_carries_and_what_it_moved_come_back_after_a_failure_and_the_dry_run_moves_nothing() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let ctx = stage.context(&events);
        let options = RolloutOptions { steps: 4, ..RolloutOptions::default() };
        let moved = {
            let (mut training, weight) = start(&options, &ctx);
            assert!(!weight.grad().defined() || weight.grad().double_value(&[0]) == 0.0);
            assert_eq!(training.next_step().expect("goes on"), Some(0));
            weight.sum(tch::Kind::Float).backward();
            training.parts[0].optim.step().expect("finite");
            training.carried = 17;
            training.idle("nobody answered");
            training.end_step();
            assert_eq!(training.next_step().expect("goes on"), Some(1));
            let failed = Error::new(ErrorKind::RemoteService, "gone");
            assert_eq!(training.keep::<()>(Err(failed)).expect_err("failed").message(), "gone");
            weight.double_value(&[0])
        };
        assert!((moved - 0.9).abs() < 1e-3);
        let (mut training, weight) = start(&options, &ctx);
        assert_eq!(training.next_step().expect("goes on"), Some(1));
        assert_eq!((training.carried, weight.double_value(&[0])), (17, moved));
        for _ in 1..4 {
            training.idle("nobody answered");
            training.end_step();
        }
        assert_eq!(training.next_step().expect("ended"), None);
        let error = training.finish().expect_err("nothing was learned");
        assert!(error.message().contains("any of 4 steps"), "{error}");
        assert_eq!(format!("{:?}", events.take()).matches("nobody answered").count(), 1);
    }
}
