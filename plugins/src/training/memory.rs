//! The memory a learner will take: told before the first step, compared with what the machine has, measured against in the end.

use farmhand_core::{Error, ErrorKind, Result, RunContext};
use farmhand_models::native::tensor_memory;
use farmhand_models::{
    Activity, HeldModel, LanguageModel, MemoryEstimate, PassSize, StepPlan, Storage, computed_tokens, estimate_memory,
    machine_memory, memory_in_use, tokens_that_fit,
};

use super::micro_batching::MicroBatching;
use super::records::Record;

/// The models a learner holds and what it does with them.
#[derive(Debug, Clone)]
pub struct MemoryNeeds {
    /// The models.
    pub models: Vec<HeldModel>,
    /// What is done, in the order of a step.
    pub activities: Vec<Activity>,
}

/// How a model in memory is trained and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trainee {
    /// The size of the first, largest pass of a step.
    pub first: PassSize,
    /// The size of the largest pass that follows another in its step; gradients stand beside it. None where a step is one pass.
    pub later: Option<PassSize>,
    /// Blocks between two inputs that are kept for the backward pass; 0 keeps everything.
    pub checkpoint_every: usize,
}

impl Trainee {
    /// The passes that a plan's steps make from `start` on.
    pub fn of_plan(
        micro_batching: &MicroBatching,
        records: &[Record],
        plan: &StepPlan,
        start: u64,
        checkpoint_every: usize,
    ) -> Self {
        let size = |group: &Vec<usize>| {
            let texts = || group.iter().flat_map(|&index| &records[index].texts);
            let tokens = group.iter().map(|&index| computed_tokens(&records[index].texts, micro_batching.layout)).sum();
            PassSize { tokens, predicted: texts().map(|text| text.response().len()).sum() }
        };
        let (mut first, mut later) = (PassSize::default(), None);
        for step in start..plan.n_steps() {
            let groups = micro_batching.groups(records, plan.items(step));
            let mut sizes = groups.iter().map(size);
            first = larger(first, sizes.next().unwrap_or_default());
            later = sizes.next().map(|size| larger(later.unwrap_or_default(), size)).or(later);
        }
        Self { first, later, checkpoint_every }
    }

    /// Passes of so many tokens each, of which all may be predicted.
    pub fn of_tokens(tokens: usize, checkpoint_every: usize) -> Self {
        let pass = PassSize { tokens, predicted: tokens };
        Self { first: pass, later: Some(pass), checkpoint_every }
    }

    fn passes(self, model: usize) -> Vec<Activity> {
        let train = |pass| Activity::Train { model, pass, checkpoint_every: self.checkpoint_every };
        std::iter::once(self.first).chain(self.later).map(train).collect()
    }
}

fn larger(a: PassSize, b: PassSize) -> PassSize {
    if b.tokens > a.tokens { b } else { a }
}

/// A model that was loaded, as its parameters are set to train now.
pub fn held(role: &str, model: &LanguageModel) -> HeldModel {
    let frozen = HeldModel::frozen(role, model.config(), model.has_head(), storage(model));
    if let Some(adapter) = model.adapter() {
        let values = adapter.parameters();
        let n_values = values.iter().map(|(_, tensor)| tensor.numel()).sum();
        // Each layer that is changed has two tensors and keeps a narrow product.
        let n_narrow = values.len() / 2 * adapter.config().rank;
        return frozen.with_adapter_values(n_values, n_narrow);
    }
    let n_trained =
        model.parameters().iter().filter(|(_, tensor)| tensor.requires_grad()).map(|(_, tensor)| tensor.numel()).sum();
    frozen.trained_in_part(n_trained)
}

/// The same for a model beside others: weights that it shares with one of them count once.
pub fn held_beside(role: &str, model: &LanguageModel, others: &[&LanguageModel]) -> HeldModel {
    let shares = |other: &&LanguageModel| match (model.parameters().first(), other.parameters().first()) {
        (Some((_, own)), Some((_, others))) => own.data_ptr() == others.data_ptr(),
        _ => false,
    };
    let held = held(role, model);
    if others.iter().any(shares) { held.sharing_weights() } else { held }
}

fn storage(model: &LanguageModel) -> Storage {
    if model.kind() == tch::Kind::Float { Storage::F32 } else { Storage::Mixed }
}

impl MemoryNeeds {
    /// One model that is trained.
    pub fn training(model: HeldModel, trainee: Trainee) -> Self {
        Self { models: vec![model], activities: trainee.passes(0) }
    }

    /// One model that is trained after a frozen one has scored the same texts; the frozen one is the model itself before it
    /// moved, unless `reference` is another. Another is given up before training starts.
    pub fn training_after_scoring(model: HeldModel, reference: Option<HeldModel>, trainee: Trainee) -> Self {
        let score = |model| Activity::Score { model, pass: trainee.first };
        let scoring = match reference {
            Some(reference) => Self { activities: vec![score(1)], models: vec![model.clone(), reference] },
            None => Self { activities: vec![score(0)], models: vec![model.clone()] },
        };
        let training = Self::training(model, trainee);
        // Two moments with other models in memory: the larger one is what counts.
        if estimate_memory(&scoring.models, &scoring.activities, 0).total()
            > estimate_memory(&training.models, &training.activities, 0).total()
        {
            scoring
        } else {
            training
        }
    }

    /// A policy that is trained on texts that it sampled, with frozen models beside it that score these. `rows` texts of at most
    /// `length` tokens are sampled at a time.
    pub fn imitation_of_samples(policy: HeldModel, frozen: Vec<HeldModel>, trainee: Trainee, rows: usize, length: usize) -> Self {
        let mut activities = vec![Activity::Generate { model: 0, rows, length }];
        activities.extend((1..=frozen.len()).map(|model| Activity::Score { model, pass: trainee.first }));
        activities.extend(trainee.passes(0));
        Self { models: std::iter::once(policy).chain(frozen).collect(), activities }
    }

    /// A policy, and models beside it such as a value model, that are trained on sampled texts, with frozen models that score
    /// these. The policy is the first of `trained`. `rows` texts of at most `length` tokens are sampled at a time.
    pub fn reinforcement(trained: Vec<HeldModel>, frozen: Vec<HeldModel>, trainee: Trainee, rows: usize, length: usize) -> Self {
        let n_trained = trained.len();
        let models: Vec<HeldModel> = trained.into_iter().chain(frozen).collect();
        let mut activities = vec![Activity::Generate { model: 0, rows, length }];
        let scored = PassSize { tokens: trainee.first.tokens, predicted: trainee.first.predicted };
        activities.extend((0..models.len()).map(|model| Activity::Score { model, pass: scored }));
        // All models pass over a micro-batch before any passes over the next one.
        let passes: Vec<Vec<Activity>> = (0..n_trained).map(|model| trainee.passes(model)).collect();
        let n_passes = passes.first().map_or(0, Vec::len);
        activities.extend((0..n_passes).flat_map(|pass| passes.iter().map(move |passes| passes[pass])));
        Self { models, activities }
    }

    /// The peak, beside what the program takes by itself.
    pub fn estimate(&self, program: u64) -> MemoryEstimate {
        estimate_memory(&self.models, &self.activities, program)
    }

    /// Tells what the learner called `name` expects to take, as a message and as the scalar `name/expected_bytes`, and stops
    /// it where the machine cannot have that much.
    ///
    /// # Errors
    /// When the estimate is far above what the machine has in all.
    pub fn announce(&self, name: &str, step: u64, device: tch::Device, ctx: &RunContext<'_>) -> Result<()> {
        let estimate = self.estimate(program_bytes(device));
        ctx.scalar(&format!("{name}/expected_bytes"), step, estimate.total() as f64);
        let parts: Vec<String> = estimate.parts().into_iter().map(|(part, bytes)| format!("{part} {}", size(bytes))).collect();
        ctx.events.info(&format!("  memory, estimated: {} ({})", size(estimate.total()), parts.join(", ")));
        let Some(machine) = machine_memory(device) else { return Ok(()) };
        // What this process holds already will be used again.
        let room = (machine.available + memory_in_use(device).unwrap_or_default()).min(machine.total);
        if estimate.total() <= room {
            return Ok(());
        }
        let advice = self.advice(&estimate, room);
        let message = format!("training is expected to take {}, and {} are to be had", size(estimate.total()), size(room));
        if estimate.total() as f64 > HOPELESS * machine.total as f64 {
            return Err(Error::new(ErrorKind::OutOfMemory, message).with_hint(advice));
        }
        ctx.events.warn(&format!("{message}; if it runs out, {advice}"));
        Ok(())
    }

    /// Which number to lower, and to what.
    fn advice(&self, estimate: &MemoryEstimate, room: u64) -> String {
        let scaled = |tokens: usize| {
            let most = self.activities.iter().map(activity_tokens).max().unwrap_or(1).max(1);
            self.activities.iter().map(|activity| scale(activity, tokens as f64 / most as f64)).collect()
        };
        match tokens_that_fit(&self.models, scaled, estimate.program, room) {
            0 => "train adapters (`lora`), or take a smaller model: the model and its optimiser alone leave no room".to_owned(),
            tokens => format!(
                "lower `micro_batch_tokens` to {tokens}, keep less for the backward pass (`checkpoint_every`), or train adapters (`lora`)"
            ),
        }
    }
}

/// An estimate this many times above the machine's whole memory is refused; below it is warned about, for it may be too high.
const HOPELESS: f64 = 1.15;

/// What the process holds that is not tensors.
fn program_bytes(device: tch::Device) -> u64 {
    let tensors = tensor_memory(device).map(|memory| memory.now).unwrap_or_default();
    memory_in_use(device).unwrap_or_default().saturating_sub(tensors)
}

fn activity_tokens(activity: &Activity) -> usize {
    match *activity {
        Activity::Train { pass, .. } | Activity::Score { pass, .. } => pass.tokens,
        Activity::Generate { .. } | Activity::Step => 0,
    }
}

/// The same activity with passes of another size.
fn scale(activity: &Activity, factor: f64) -> Activity {
    let scaled = |n: usize| (n as f64 * factor).ceil() as usize;
    let pass = |pass: PassSize| PassSize { tokens: scaled(pass.tokens), predicted: scaled(pass.predicted) };
    match *activity {
        Activity::Train { model, pass: size, checkpoint_every } => Activity::Train { model, pass: pass(size), checkpoint_every },
        Activity::Score { model, pass: size } => Activity::Score { model, pass: pass(size) },
        other => other,
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 1e9 => format!("{:.0} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{RecordedEvents, Seed};
    use farmhand_models::{BatchLayout, EncodedText, LlamaOptions, ModelConfig};

    use super::*;
    use crate::testing::Stage;

    fn policy(options: LlamaOptions) -> HeldModel {
        HeldModel::frozen("policy", &ModelConfig::tiny_llama(options), true, Storage::F32).trained()
    }

    #[test]
    fn a_plans_passes_are_its_largest_first_and_its_largest_later_ones() {
        let text = |prompt: usize, response: usize| EncodedText { ids: vec![1; prompt + response], response_start: prompt };
        let records: Vec<Record> = [(2, 5), (2, 30), (2, 8)].map(|(p, r)| Record::new("", [text(p, r)])).into();
        let micro = MicroBatching { layout: BatchLayout::Padded, max_tokens: 10, max_records: 4 };
        let plan = StepPlan::new(3, 3, 1, Seed::root(0));
        let trainee = Trainee::of_plan(&micro, &records, &plan, 0, 2);
        assert_eq!(trainee.first, PassSize { tokens: 32, predicted: 30 });
        assert_eq!(trainee.later, Some(PassSize { tokens: 10, predicted: 8 }));
        let one_each = StepPlan::new(3, 1, 1, Seed::root(0));
        assert_eq!(Trainee::of_plan(&micro, &records, &one_each, 0, 2).later, None);
    }

    #[test]
    fn what_is_expected_is_told_and_what_no_machine_has_is_refused_with_the_number_to_lower() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let ctx = stage.context(&events);
        let small = MemoryNeeds::training(policy(LlamaOptions::default()), Trainee::of_tokens(64, 0));
        small.announce("sft", 0, tch::Device::Cpu, &ctx).expect("it fits");
        assert!(events.scalars("sft/expected_bytes")[0].1 > 1e6);
        assert!(format!("{:?}", events.take()).contains("memory, estimated"));

        let long = MemoryNeeds::training(policy(LlamaOptions::default()), Trainee::of_tokens(1 << 34, 0));
        let error = long.announce("sft", 0, tch::Device::Cpu, &ctx).expect_err("no machine has that");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.hint().is_some_and(|hint| hint.contains("lower `micro_batch_tokens` to ")), "{error:?}");

        let wide = LlamaOptions { hidden_size: 1 << 18, intermediate_size: 1 << 20, n_layers: 96, ..LlamaOptions::default() };
        let error = MemoryNeeds::training(policy(wide), Trainee::of_tokens(64, 0)).announce("sft", 0, tch::Device::Cpu, &ctx);
        assert!(error.expect_err("nor that").hint().is_some_and(|hint| hint.contains("smaller model")));
    }

    #[test]
    fn another_reference_counts_while_it_scores_and_every_frozen_model_of_ppo_does() {
        let model = || policy(LlamaOptions::default());
        let frozen = || HeldModel::frozen("reference", &ModelConfig::tiny_llama(LlamaOptions::default()), true, Storage::F32);
        let trainee = Trainee::of_tokens(512, 0);
        let alone = MemoryNeeds::training_after_scoring(model(), None, trainee).estimate(0);
        assert_eq!(alone, MemoryNeeds::training(model(), trainee).estimate(0));
        let wide = LlamaOptions { hidden_size: 512, n_heads: 8, ..LlamaOptions::default() };
        let other = HeldModel::frozen("reference", &ModelConfig::tiny_llama(wide), true, Storage::F32);
        let with = MemoryNeeds::training_after_scoring(model(), Some(other), Trainee::of_tokens(8, 0)).estimate(0);
        assert!(with.frozen_weights > 0);
        let ppo = MemoryNeeds::reinforcement(vec![model(), model()], vec![frozen(), frozen()], trainee, 8, 64).estimate(0);
        assert_eq!(ppo.frozen_weights, 2 * alone.weights);
        assert_eq!(ppo.optimiser, 2 * alone.optimiser);
        // Two adapters over the same weights, which are also the reference: they count once.
        let adapted = || frozen().with_adapters(2);
        let shared = vec![adapted(), adapted().sharing_weights()];
        let lora = MemoryNeeds::reinforcement(shared, vec![frozen().sharing_weights()], trainee, 8, 64).estimate(0);
        let one = MemoryNeeds::reinforcement(vec![adapted()], Vec::new(), trainee, 8, 64).estimate(0);
        assert_eq!(lora.frozen_weights, 0);
        assert_eq!(lora.optimiser, 2 * one.optimiser);
        assert!(one.weights > alone.weights);
        assert_eq!(lora.weights - one.weights, one.weights - alone.weights);
    }
}
