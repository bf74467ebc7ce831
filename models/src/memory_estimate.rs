//! How much memory a method will take, estimated from the sizes of its models before anything is loaded.
//!
//! Weights, gradients and optimiser state follow from the number of parameters. What a forward pass keeps for the backward
//! pass is counted tensor by tensor: for each token and block the inputs of the norms, of the linear layers and of the
//! activation, queries, keys, values and attention's result. Logits exist for a chunk of tokens at a time. The peak is the
//! largest of the moments that a step goes through: activations stand beside the gradients of earlier passes, not beside
//! those of their own, which grow while activations are freed.
//!
//! Freed memory that the allocator keeps, or cannot use for what is asked next, counts as gaps. What the program takes by itself
//! is added by the caller, who knows it.

use crate::architecture::ModelShape;
use crate::config::ModelConfig;
use crate::flops::n_heads;
use crate::log_probs::CHUNK_LOGITS;
use crate::lora::linear_modules;

/// Gaps as a share of what tensors hold, and what the allocator for CPU tensors keeps beside: at most this much, and of few
/// tensors at most this share. Measured with SmolLM2-135M and a model of two million parameters: with them the estimate of
/// every learner was 8 % below to 11 % above the peak, see `benches/memory.py`.
const GAPS: f64 = 0.04;
const KEPT_FREE: f64 = 64e6;
const KEPT_FREE_SHARE: f64 = 0.1;

/// How a model's numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Everything in 4 bytes: what learners do on the CPU.
    F32,
    /// Weights and gradients in 4 bytes, activations in 2, and a copy in 2 of every weight that a pass has read: what learners
    /// do on a GPU.
    Mixed,
    /// Weights, gradients and activations in 2 bytes; trained weights have a master copy in 4. No learner does this yet.
    Bf16,
}

impl Storage {
    fn weight_bytes(self) -> u64 {
        if self == Self::Bf16 { 2 } else { 4 }
    }

    fn activation_bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct HeldModel {
    role: String,
    config: ModelConfig,
    has_head: bool,
    storage: Storage,
    /// Parameters of its own.
    n_parameters: u64,
    /// How many of them are trained.
    n_trained: u64,
    /// Values of adapters beside it, all trained, in 4 bytes.
    n_adapter: u64,
    /// Values that the adapters of a block add to a token's activations.
    adapter_width: u64,
    /// Whether its own parameters are those of another model in memory.
    shares_weights: bool,
}

impl HeldModel {
    /// A model that is not trained: a reference policy, a reward model. `has_head` says whether it gives logits.
    pub fn frozen(role: &str, config: &ModelConfig, has_head: bool, storage: Storage) -> Self {
        let shape = config.shape();
        let left_out = if has_head || config.is_tied() { 0 } else { shape.vocab_size * shape.hidden_size };
        Self {
            role: role.to_owned(),
            config: config.clone(),
            has_head,
            storage,
            n_parameters: (config.n_parameters() - left_out) as u64,
            n_trained: 0,
            n_adapter: 0,
            adapter_width: 0,
            shares_weights: false,
        }
    }

    /// All of its parameters are trained.
    #[must_use]
    pub fn trained(self) -> Self {
        Self { n_trained: self.n_parameters, ..self }
    }

    /// So many of its parameters are trained.
    #[must_use]
    pub fn trained_in_part(self, n_trained: usize) -> Self {
        Self { n_trained: n_trained as u64, ..self }
    }

    /// Low-rank adapters of `rank` on every linear layer of its blocks are trained.
    #[must_use]
    pub fn with_adapters(self, rank: usize) -> Self {
        let modules = linear_modules(&self.config);
        let n_adapter = modules.iter().map(|module| (module.from + module.to) as usize * rank).sum();
        self.with_adapter_values(n_adapter, modules.len() * rank)
    }

    /// Adapters of `n_values` values are trained; in a pass they keep `n_kept` values a token.
    #[must_use]
    pub fn with_adapter_values(self, n_values: usize, n_kept: usize) -> Self {
        let adapter_width = n_kept.div_ceil(self.config.n_layers().max(1)) as u64;
        Self { n_trained: 0, n_adapter: n_values as u64, adapter_width, ..self }
    }

    /// Its own parameters, none of which is trained, are those of another model in memory: two adapters over one base.
    #[must_use]
    pub fn sharing_weights(self) -> Self {
        Self { shares_weights: true, ..self }
    }

    /// What it is for, for example `policy`.
    pub fn role(&self) -> &str {
        &self.role
    }
}

/// The size of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassSize {
    /// Tokens computed, padding included.
    pub tokens: usize,
    /// Tokens whose successors are predicted, so that they need logits.
    pub predicted: usize,
}

/// Something that a learner does with one of its models; the peak is the largest over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// A forward and backward pass of the model at this place in the list; its gradients stay until the step ends.
    Train {
        /// Which model.
        model: usize,
        /// How much goes through it.
        pass: PassSize,
        /// Blocks between two kept inputs; 0 keeps everything.
        checkpoint_every: usize,
    },
    /// A forward pass without gradients.
    Score {
        /// Which model.
        model: usize,
        /// How much goes through it.
        pass: PassSize,
    },
    /// Sampling with a key-value cache.
    Generate {
        /// Which model.
        model: usize,
        /// Sequences at a time.
        rows: usize,
        /// Prompt and answer together, in tokens.
        length: usize,
    },
    /// The end of an optimiser step: gradients are forgotten.
    Step,
}

/// Bytes by purpose, at the moment of the peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEstimate {
    /// The parameters of the models that are trained or sampled from.
    pub weights: u64,
    /// The parameters of frozen models: reference, reward model.
    pub frozen_weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// The optimisers' moments, and master copies of weights.
    pub optimiser: u64,
    /// What a pass keeps for each token.
    pub activations: u64,
    /// A chunk of logits with its gradient.
    pub logits: u64,
    /// The key-value cache.
    pub cache: u64,
    /// Freed memory that lies between tensors or is kept for the next ones.
    pub gaps: u64,
    /// What the program takes by itself.
    pub program: u64,
}

impl MemoryEstimate {
    /// All together.
    pub fn total(&self) -> u64 {
        self.fixed() + self.gradients + self.activations + self.logits + self.cache + self.gaps
    }

    /// What is there whatever the batches: models, optimisers, the program.
    pub fn fixed(&self) -> u64 {
        self.weights + self.frozen_weights + self.optimiser + self.program
    }

    /// The parts that are not nothing, by name, in order of the fields.
    pub fn parts(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("weights", self.weights),
            ("frozen weights", self.frozen_weights),
            ("gradients", self.gradients),
            ("optimiser", self.optimiser),
            ("activations", self.activations),
            ("logits", self.logits),
            ("key-value cache", self.cache),
            ("gaps", self.gaps),
            ("program", self.program),
        ];
        all.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    }
}

/// The peak over all activities of a learner that holds these models, beside what the program takes by itself.
pub fn estimate_memory(models: &[HeldModel], activities: &[Activity], program: u64) -> MemoryEstimate {
    let fixed = models.iter().fold(MemoryEstimate { program, ..MemoryEstimate::default() }, |mut sum, model| {
        *if model.gradients() > 0 { &mut sum.weights } else { &mut sum.frozen_weights } += model.weights();
        sum.optimiser += model.optimiser();
        sum
    });
    let mut peak = fixed;
    let mut keep = |moment: MemoryEstimate| {
        if moment.total() > peak.total() {
            peak = moment;
        }
    };
    let mut gradients = vec![0; models.len()];
    for activity in activities {
        let standing = MemoryEstimate { gradients: gradients.iter().sum(), ..fixed };
        match *activity {
            Activity::Train { model, pass, checkpoint_every } => {
                let (held, sizes) = (&models[model], BlockSizes::of(&models[model]));
                let (activations, logits) = (held.kept(&sizes, pass.tokens, checkpoint_every), held.logits(pass));
                keep(MemoryEstimate { activations, logits, ..standing });
                gradients[model] = held.gradients();
                // The gradient of the embedding is made whole before it is added.
                let table = if held.n_trained == held.n_parameters { held.embedding() } else { 0 };
                keep(MemoryEstimate { gradients: gradients.iter().sum::<u64>() + table, ..fixed });
            }
            Activity::Score { model, pass } => {
                let held = &models[model];
                let activations = held.passing(&BlockSizes::of(held), pass.tokens);
                keep(MemoryEstimate { activations, logits: held.logits(pass), ..standing });
            }
            Activity::Generate { model, rows, length } => {
                let held = &models[model];
                let shape = held.config.shape();
                let per_token = 2 * (shape.n_layers * shape.n_kv_heads * shape.head_dim) as u64;
                let logits = 4 * (rows * shape.vocab_size) as u64;
                let activations = held.passing(&BlockSizes::of(held), PREFILL_TOKENS.min(rows * length));
                // Generation computes in the type of the weights.
                let cache = held.storage.weight_bytes() * per_token * (rows * length) as u64;
                keep(MemoryEstimate { activations, logits, cache, ..standing });
            }
            Activity::Step => gradients.fill(0),
        }
    }
    let tensors = (peak.total() - program) as f64;
    let gaps = (GAPS * tensors + KEPT_FREE.min(KEPT_FREE_SHARE * tensors)) as u64;
    MemoryEstimate { gaps, ..peak }
}

/// Tokens of prompts that generation computes at a time.
const PREFILL_TOKENS: usize = 2048;

/// The most tokens a pass may have so that `activities` stay within `budget` bytes: a multiple of 64 found by halving, 0 when
/// not even 64 fit. `activities` makes the list for a number of tokens.
pub fn tokens_that_fit(models: &[HeldModel], activities: impl Fn(usize) -> Vec<Activity>, program: u64, budget: u64) -> usize {
    let fits = |units: usize| estimate_memory(models, &activities(64 * units), program).total() <= budget;
    let (mut low, mut high) = (0_usize, 1_usize << 16);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    64 * low
}

impl HeldModel {
    fn weights(&self) -> u64 {
        let own = if self.shares_weights { 0 } else { self.n_parameters };
        self.storage.weight_bytes() * own + 4 * self.n_adapter
    }

    fn gradients(&self) -> u64 {
        self.storage.weight_bytes() * self.n_trained + 4 * self.n_adapter
    }

    /// Two moments, and a master copy of what is not `f32`.
    fn optimiser(&self) -> u64 {
        let master = if self.storage == Storage::Bf16 { 4 } else { 0 };
        (8 + master) * self.n_trained + 8 * self.n_adapter
    }

    fn embedding(&self) -> u64 {
        let shape = self.config.shape();
        self.storage.weight_bytes() * (shape.vocab_size * shape.hidden_size) as u64
    }

    /// What a pass keeps for its backward pass.
    fn kept(&self, sizes: &BlockSizes, tokens: usize, checkpoint_every: usize) -> u64 {
        let layers = self.config.n_layers() as u64;
        let values = match checkpoint_every as u64 {
            0 => layers * sizes.kept_by_block,
            every => layers.div_ceil(every) * sizes.hidden + every.min(layers) * sizes.kept_by_block,
        };
        // The embedding's result, the last norm, the rows that are predicted from, and what the backward pass of a block holds.
        self.in_bytes(tokens, values + 4 * sizes.hidden + sizes.backward_of_block) + self.rounded_weights(checkpoint_every)
    }

    /// Copies of weights in the type of the activations: the backward pass reads them again, all of them or, with checkpoints,
    /// those of the blocks that are run again.
    fn rounded_weights(&self, checkpoint_every: usize) -> u64 {
        let layers = self.config.n_layers().max(1) as u64;
        let share = if checkpoint_every == 0 { layers } else { (checkpoint_every as u64).min(layers) };
        if self.storage == Storage::Mixed { 2 * self.n_parameters * share / layers } else { 0 }
    }

    /// What a pass without gradients holds at a time.
    fn passing(&self, sizes: &BlockSizes, tokens: usize) -> u64 {
        self.in_bytes(tokens, sizes.forward_of_block)
    }

    fn in_bytes(&self, tokens: usize, values: u64) -> u64 {
        self.storage.activation_bytes() * values * tokens as u64
    }

    /// Logits are `f32` whatever the weights; the chunk becomes its own gradient in place.
    fn logits(&self, pass: PassSize) -> u64 {
        let v = self.config.vocab_size() as u64;
        if self.has_head { 4 * v * (pass.predicted as u64).min((CHUNK_LOGITS as u64 / v.max(1)).max(1)) } else { 0 }
    }
}

/// Values per token.
struct BlockSizes {
    hidden: u64,
    kept_by_block: u64,
    forward_of_block: u64,
    backward_of_block: u64,
}

impl BlockSizes {
    fn of(model: &HeldModel) -> Self {
        let config = &model.config;
        let ModelShape { hidden_size, n_kv_heads, head_dim, .. } = config.shape();
        let d = hidden_size as u64;
        let (q, kv) = ((n_heads(config) * head_dim) as u64, (n_kv_heads * head_dim) as u64);
        let inner = feed_forward_width(config);
        // The CPU kernels keep the input and the result of each of the two norms, libtorch also the normalised input, where the
        // norm's weight trains. A gate keeps both its inputs and its result, with libtorch the activation as well.
        let has_kernels = model.storage == Storage::F32;
        let norms = if has_kernels || !is_gated(config) || model.n_trained == 0 { 4 * d } else { 6 * d };
        // Turned queries and keys, values, attention's result.
        let attention = 2 * q + 2 * kv;
        let feed_forward = match is_gated(config) {
            true if has_kernels && is_silu(config) => 3 * inner,
            true => 4 * inner,
            // Input and result of the activation.
            false => 2 * inner,
        };
        Self {
            hidden: d,
            kept_by_block: norms + attention + feed_forward + model.adapter_width,
            forward_of_block: 2 * d + attention.max(feed_forward),
            backward_of_block: 2 * d + inner,
        }
    }
}

fn is_gated(config: &ModelConfig) -> bool {
    !matches!(config.model_type(), "gpt2" | "gpt_neox")
}

fn is_silu(config: &ModelConfig) -> bool {
    matches!(config.json().get("hidden_act").and_then(serde_json::Value::as_str), None | Some("silu" | "swish"))
}

/// Width of the feed-forward layers; four times the hidden width where the configuration leaves it out, as GPT-2 does.
fn feed_forward_width(config: &ModelConfig) -> u64 {
    let stated = ["intermediate_size", "n_inner"].iter().find_map(|key| config.json().get(*key)?.as_u64());
    stated.unwrap_or(4 * config.hidden_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LlamaOptions;

    fn config() -> ModelConfig {
        ModelConfig::tiny_llama(LlamaOptions::default())
    }

    fn policy(config: &ModelConfig) -> HeldModel {
        HeldModel::frozen("policy", config, true, Storage::F32)
    }

    fn train(tokens: usize) -> Activity {
        Activity::Train { model: 0, pass: PassSize { tokens, predicted: tokens / 2 }, checkpoint_every: 0 }
    }

    #[test]
    fn weights_gradients_and_moments_are_exact() {
        let config = config();
        let bytes = 4 * config.n_parameters() as u64;
        let twice = [train(64), train(64)];
        let estimate = estimate_memory(&[policy(&config).trained()], &twice, 5);
        assert_eq!((estimate.weights, estimate.gradients, estimate.optimiser), (bytes, bytes, 2 * bytes));
        assert_eq!(estimate.total(), 4 * bytes + estimate.activations + estimate.logits + estimate.gaps + 5);
        assert_eq!(estimate.parts().iter().map(|(_, bytes)| bytes).sum::<u64>(), estimate.total());
        let half = HeldModel::frozen("policy", &config, true, Storage::Bf16).trained();
        let half = estimate_memory(&[half], &twice, 0);
        assert_eq!((half.weights, half.gradients, half.optimiser), (bytes / 2, bytes / 2, 3 * bytes));
        let mixed = HeldModel::frozen("policy", &config, true, Storage::Mixed).trained();
        let mixed = estimate_memory(&[mixed], &twice, 0);
        assert_eq!((mixed.weights, mixed.gradients, mixed.optimiser), (bytes, bytes, 2 * bytes));
        assert_eq!(mixed.activations, half.activations + bytes / 2, "a copy of every weight");
        // Llama's blocks: two norms, 4 heads of 16 with 2 for keys and values, 172 inner values; the sizes of the tests above.
        let block = 4 * 64 + 2 * 64 + 2 * 32 + 3 * 172;
        assert_eq!(estimate.activations, 4 * 64 * (2 * block + 6 * 64 + 172));
    }

    #[test]
    fn the_first_pass_of_a_step_has_no_gradients_beside_it_and_a_later_one_has() {
        let config = config();
        let models = [policy(&config).trained()];
        let once = estimate_memory(&models, &[train(4096), Activity::Step, train(4096)], 0);
        let twice = estimate_memory(&models, &[train(4096), train(4096)], 0);
        assert_eq!(once.gradients, 0);
        assert_eq!(twice.gradients, 4 * config.n_parameters() as u64);
        assert_eq!((twice.activations, twice.logits), (once.activations, once.logits));
        // With next to no activations, the peak is at the end, when the gradients are whole.
        let tiny = estimate_memory(&models, &[train(1)], 0);
        assert!(tiny.gradients > 4 * config.n_parameters() as u64 && tiny.activations == 0);
    }

    #[test]
    fn checkpoints_and_frozen_weights_take_less() {
        let config = ModelConfig::tiny_llama(LlamaOptions { n_layers: 8, ..LlamaOptions::default() });
        let peak = |model: HeldModel, checkpoint_every| {
            let pass = PassSize { tokens: 1024, predicted: 10 };
            estimate_memory(&[model], &[Activity::Train { model: 0, pass, checkpoint_every }], 0)
        };
        let (all, every) = (peak(policy(&config).trained(), 0), peak(policy(&config).trained(), 1));
        assert!(every.activations * 3 < all.activations, "{every:?} {all:?}");
        assert!(peak(policy(&config).trained(), 2).activations > every.activations);
        let adapters = peak(policy(&config).with_adapters(2), 0);
        // Seven layers a block: q and o, k and v, gate and up, down.
        let values = 8 * 2 * (2 * 128 + 2 * 96 + 2 * 236 + 236);
        assert_eq!(adapters.weights, 4 * (config.n_parameters() as u64 + values));
        assert_eq!(adapters.optimiser, 8 * values);
        // Activations stay, with the narrow products beside them; most of the optimiser goes.
        assert!(adapters.activations > all.activations && adapters.optimiser < all.optimiser);
        assert_eq!(peak(policy(&config).trained_in_part(100), 0).optimiser, 800);
    }

    #[test]
    fn frozen_models_add_their_weights_and_the_largest_activity_counts() {
        let config = config();
        let models = [policy(&config).trained(), policy(&config)];
        let score = |tokens| Activity::Score { model: 1, pass: PassSize { tokens, predicted: 1 } };
        let small = estimate_memory(&models, &[train(512), score(64)], 0);
        assert_eq!(small, estimate_memory(&models, &[train(512)], 0));
        assert_eq!(small.frozen_weights, 4 * config.n_parameters() as u64);
        assert!(estimate_memory(&models, &[train(512), score(1 << 16)], 0).total() > small.total());
        let generate = |rows| Activity::Generate { model: 0, rows, length: 512 };
        let cache = |rows| estimate_memory(&models, &[generate(rows)], 0).cache;
        assert_eq!(cache(8), 4 * 2 * 2 * 2 * 16 * 8 * 512);
        assert_eq!(cache(16), 2 * cache(8));
    }

    #[test]
    fn the_tokens_that_fit_do_fit_and_more_do_not() {
        let config = config();
        let models = [policy(&config).trained()];
        let activities = |tokens| vec![train(tokens), train(tokens)];
        let budget = 40 << 20;
        let tokens = tokens_that_fit(&models, activities, 0, budget);
        assert!(tokens > 0 && tokens.is_multiple_of(64));
        assert!(estimate_memory(&models, &activities(tokens), 0).total() <= budget);
        assert!(estimate_memory(&models, &activities(tokens + 64), 0).total() > budget);
        assert_eq!(tokens_that_fit(&models, activities, 0, 1000), 0);
    }
}
