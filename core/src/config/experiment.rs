//! A whole experiment: `config → data → SFT → sample → annotate → reward model → learn → generate → evaluate → report`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feedback::FeedbackConfig;
use super::method::{MethodConfig, method_problems};
use super::reward_models::{RewardModelStage, reference_problems};
use crate::component::{AnnotatorSpec, EvaluatorSpec, LearnerSpec, PolicySpec};
use crate::context::Device;
use crate::data::PairsPerInstruction;
use crate::error::Problem;
use crate::types::SamplingParams;

/// An experiment as its TOML file holds it. Every default is written out in the run directory's `run.toml`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// The run directory's name, below `runs/`: letters, digits, `-` and `_`.
    pub name: String,
    /// Root of the seed tree; another seed is another independent repetition.
    #[serde(default)]
    pub seed: u64,
    /// Repetitions of every method, each with its own seed: it learns and answers once with each of them, from the same SFT model
    /// and the same feedback, and the report gives means, intervals and paired differences over all. Empty: once, with `seed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
    /// Where tensors live: `auto`, `cpu` or `cuda`.
    #[serde(default)]
    pub device: Device,
    /// CPU threads for tensor work; 0 takes `OMP_NUM_THREADS`, or one per core. Two threads on busy cores are far slower than one.
    #[serde(default)]
    pub threads: usize,
    /// What the run may pay for requests to servers, in US dollars, over all its stages and resumptions; unset: without limit. When
    /// it is spent the run stops, what was bought is kept, and with a larger budget the same command goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_usd: Option<f64>,
    /// Shared libraries with components of your own, made by `farmhand plugin build`, or folders of them; from the configuration file's
    /// folder on. They run inside farmhand: name only what you trust.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PathBuf>,
    /// The model to start from.
    pub model: ModelSource,
    /// Instructions and answers, and how they are split.
    pub data: DataConfig,
    /// Supervised fine-tuning, the start of every method; without this table methods start from the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftConfig>,
    /// How pairs of answers are sampled for annotation.
    #[serde(default)]
    pub sample: SampleConfig,
    /// Who gives the feedback to learn from.
    pub annotator: AnnotatorSpec,
    /// The reward model, needed by methods that ask one: trained on the feedback by its `learner`, or not trained here, with a
    /// `scorer` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<RewardModelStage>,
    /// More reward models, by name, each like `reward_model`, on the same feedback with a seed of its own:
    /// `[reward_models.second.learner.reward_modeling]`. Options name one that is trained as `model = "trained:second"`, a method
    /// any as `reward_model = "second"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reward_models: BTreeMap<String, RewardModelStage>,
    /// The feedback of methods that learn from something other than instructions, demonstrations or pairs.
    #[serde(default)]
    pub feedback: FeedbackConfig,
    /// The methods to compare, by name. Each learns, or samples in its own way, or both.
    pub methods: BTreeMap<String, MethodConfig>,
    /// How answers for the evaluation are sampled.
    #[serde(default)]
    pub generate: GenerateConfig,
    /// Who judges the answers, against what.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
}

/// The model an experiment starts from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelSource {
    /// A Hugging Face folder or a model on the hub.
    Pretrained {
        /// The folder, from the configuration file's folder on; or a hub id: `owner/name`, `owner/name@revision`, `hf:owner/name`.
        path: PathBuf,
        /// How instructions become text: `none`, `alpaca` or `chat`. Unset: what the checkpoint says, else `chat` when it has a chat template, else `alpaca`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt: Option<String>,
    },
    /// A small Llama with random weights and a tokenizer trained on the `sft` split.
    Scratch(ScratchModel),
}

/// Sizes of a model made from scratch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScratchModel {
    /// Tokens in the vocabulary, ≥ 260 (256 bytes and the special tokens).
    pub vocab_size: usize,
    /// Width of the model, a multiple of `n_heads`.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Transformer blocks, ≥ 1.
    pub n_layers: usize,
    /// Attention heads, ≥ 1.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Longest sequence in tokens.
    pub max_positions: usize,
    /// How instructions become text: `none`, `alpaca` or `chat`.
    pub prompt: String,
}

impl Default for ScratchModel {
    fn default() -> Self {
        Self {
            vocab_size: 512,
            hidden_size: 128,
            intermediate_size: 384,
            n_layers: 4,
            n_heads: 4,
            n_kv_heads: 2,
            max_positions: 256,
            prompt: "none".to_owned(),
        }
    }
}

impl ScratchModel {
    /// Sizes that do not fit together, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, expected: &str, got: usize| {
            if !ok {
                problems.push(Problem::new(key, format!("expected {expected}, got {got}")));
            }
        };
        check(self.vocab_size >= 260, "vocab_size", "at least 260", self.vocab_size);
        check(self.n_heads >= 1, "n_heads", "at least 1", self.n_heads);
        check(self.n_layers >= 1, "n_layers", "at least 1", self.n_layers);
        check(self.intermediate_size >= 1, "intermediate_size", "at least 1", self.intermediate_size);
        check(self.max_positions >= 8, "max_positions", "at least 8", self.max_positions);
        let heads = self.n_heads.max(1);
        let fits = self.hidden_size >= 2 && self.hidden_size.is_multiple_of(2 * heads);
        check(fits, "hidden_size", "a multiple of twice `n_heads`", self.hidden_size);
        check(
            self.n_kv_heads >= 1 && heads.is_multiple_of(self.n_kv_heads.max(1)),
            "n_kv_heads",
            "a divisor of `n_heads`",
            self.n_kv_heads,
        );
        problems
    }
}

/// Where instructions come from and how they are split.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Demonstrations that farmhand makes itself: how many. For demos and tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synthetic: Option<usize>,
    /// One file of demonstrations to split by `split`; any format farmhand reads. Relative to the configuration file's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// One file a split, instead of `synthetic` or `file`: keys `sft`, `preference`, `unlabeled`, `val`, `eval`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, PathBuf>,
    /// Records in each split, taken in an order fixed by each record's content and the seed.
    pub split: SplitSizes,
    /// Count and list bad records instead of stopping at the first.
    pub skip_bad_records: bool,
}

/// How many records each split gets. What is left over is not used.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitSizes {
    /// Demonstrations for supervised fine-tuning.
    pub sft: usize,
    /// Instructions on which pairs are sampled and annotated.
    pub preference: usize,
    /// Instructions for methods that sample while they learn.
    pub unlabeled: usize,
    /// Held out for validation losses.
    pub val: usize,
    /// Instructions of the evaluation.
    pub eval: usize,
}

/// Supervised fine-tuning.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// The learner, a component that learns from demonstrations: `learner.sft = { … }`.
    pub learner: LearnerSpec,
}

/// How answers are sampled for annotation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Files of comparisons that exist, to be annotated instead of answers sampled here: any form that farmhand reads; verdicts in
    /// them are ignored. With recorded annotators, the comparisons they know. Relative to the configuration file's folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<PathBuf>,
    /// The policy; unset: `causal_lm` with the SFT model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicySpec>,
    /// How it samples; `n` ≥ 2.
    pub sampling: SamplingParams,
    /// How answers are paired.
    pub pairing: PairsPerInstruction,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            comparisons: Vec::new(),
            policy: None,
            sampling: SamplingParams { n: 2, max_new_tokens: 300, ..SamplingParams::default() },
            pairing: PairsPerInstruction::default(),
        }
    }
}

/// How answers for the evaluation are sampled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateConfig {
    /// The policy around each method's model; unset: `causal_lm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicySpec>,
    /// How it samples; `n` is 1. AlpacaFarm evaluates at temperature 0.7 and 300 tokens.
    pub sampling: SamplingParams,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        let sampling = SamplingParams { temperature: 0.7, max_new_tokens: 300, ..SamplingParams::default() };
        Self { policy: None, sampling }
    }
}

/// Who judges, against what, and what is measured.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateConfig {
    /// The judge; unset: the experiment's `annotator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotator: Option<AnnotatorSpec>,
    /// What the methods are compared with: `sft`, the name of a method, or `demonstrations` (the data's own answers).
    pub reference: String,
    /// What is measured; unset: win rate, in total and by data set, mean reward (when there is a reward model), lengths, diversity
    /// and refusals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evaluators: Vec<EvaluatorSpec>,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { annotator: None, reference: "sft".to_owned(), evaluators: Vec::new() }
    }
}

/// Whether a name can be a folder's and part of a stage's: letters, digits, `-` and `_`.
pub(super) fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// The splits an experiment knows.
pub const SPLITS: [&str; 5] = ["sft", "preference", "unlabeled", "val", "eval"];

impl ExperimentConfig {
    /// Everything that cannot be run, beyond what the schema already says: values out of range and combinations that
    /// make no sense. Touches no resources.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !is_folder_name(&self.name) {
            problems.push(Problem::new("name", format!("expected letters, digits, `-` and `_`, got `{}`", self.name)));
        }
        if self.threads > 1024 {
            problems.push(Problem::new("threads", format!("expected at most 1024, got {}", self.threads)));
        }
        if let Some(budget) = self.budget_usd.filter(|budget| !(budget.is_finite() && *budget >= 0.0)) {
            problems.push(Problem::new("budget_usd", format!("expected a number ≥ 0, got {budget}")));
        }
        if let ModelSource::Scratch(sizes) = &self.model {
            problems.extend(sizes.problems().into_iter().map(|problem| problem.under("model.scratch")));
        }
        self.data_problems(&mut problems);
        self.component_problems(&mut problems);
        let under =
            |prefix: &str, found: Vec<Problem>| found.into_iter().map(|problem| problem.under(prefix)).collect::<Vec<_>>();
        problems.extend(under("sample.sampling", self.sample.sampling.problems()));
        problems.extend(under("generate.sampling", self.generate.sampling.problems()));
        if self.sample.sampling.n < 2 {
            problems.push(
                Problem::new("sample.sampling.n", "expected at least 2, for pairs").with_hint("set `sample.sampling.n = 2`"),
            );
        }
        if self.generate.sampling.n != 1 {
            problems.push(Problem::new("generate.sampling.n", "expected 1: one answer an instruction is judged"));
        }
        if !self.sample.comparisons.is_empty() && self.sample.policy.is_some() {
            let problem = Problem::new("sample.policy", "nothing is sampled where `sample.comparisons` names files");
            problems.push(problem.with_hint("leave one of the two out"));
        }
        if self.methods.is_empty() {
            problems.push(Problem::new("methods", "expected at least one method"));
        }
        for (path, stage) in self.reward_model_stages() {
            problems.extend(stage.problems().into_iter().map(|problem| problem.under(&path)));
        }
        problems.extend(reference_problems(self));
        problems.extend(method_problems(&self.methods));
        problems.extend(under("feedback", self.feedback.problems()));
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        if let Some(twice) = seeds.windows(2).find(|pair| pair[0] == pair[1]) {
            let problem = Problem::new("seeds", format!("{} stands there twice", twice[0]));
            problems.push(problem.with_hint("a repetition with the same seed gives the same bytes"));
        }
        let reference = self.evaluate.reference.as_str();
        if !["sft", "demonstrations"].contains(&reference) && !self.methods.contains_key(reference) {
            let mut known: Vec<&str> = self.methods.keys().map(String::as_str).collect();
            known.extend(["sft", "demonstrations"]);
            let problem = Problem::new("evaluate.reference", format!("unknown method `{reference}`"));
            problems.push(problem.with_hint(super::did_you_mean(reference, &known)));
        }
        problems
    }

    /// Every reward model, each with its table's path.
    pub fn reward_model_stages(&self) -> impl Iterator<Item = (String, &RewardModelStage)> {
        let named = self.reward_models.iter().map(|(name, stage)| (format!("reward_models.{name}"), stage));
        self.reward_model.iter().map(|stage| ("reward_model".to_owned(), stage)).chain(named)
    }

    fn data_problems(&self, problems: &mut Vec<Problem>) {
        let data = &self.data;
        let sources =
            usize::from(data.synthetic.is_some()) + usize::from(data.file.is_some()) + usize::from(!data.files.is_empty());
        if sources != 1 {
            problems.push(Problem::new("data", "expected exactly one of `synthetic`, `file` and `files`"));
        }
        for split in data.files.keys().filter(|split| !SPLITS.contains(&split.as_str())) {
            let problem = Problem::new(format!("data.files.{split}"), format!("unknown split `{split}`"));
            problems.push(problem.with_hint(super::did_you_mean(split, &SPLITS)));
        }
        let wanted = [data.split.sft, data.split.preference, data.split.unlabeled, data.split.val, data.split.eval]
            .into_iter()
            .fold(0, usize::saturating_add);
        if let Some(made) = data.synthetic.filter(|made| *made < wanted) {
            let message = format!("the parts add up to {wanted}, but `data.synthetic` makes {made} records");
            problems.push(Problem::new("data.split", message).with_hint(format!("set `data.synthetic = {wanted}` or more")));
        }
        let needed = [
            ("sft", data.split.sft, self.sft.is_some() || matches!(self.model, ModelSource::Scratch(_))),
            ("preference", data.split.preference, self.sample.comparisons.is_empty()),
            ("eval", data.split.eval, true),
        ];
        for (split, size, needed) in needed {
            let given = if data.files.is_empty() { size > 0 } else { data.files.contains_key(split) };
            if needed && !given {
                let path = if data.files.is_empty() { format!("data.split.{split}") } else { format!("data.files.{split}") };
                problems.push(Problem::new(path, format!("the experiment needs a `{split}` split")));
            }
        }
    }

    fn component_problems(&self, problems: &mut Vec<Problem>) {
        let mut under =
            |prefix: String, found: Vec<Problem>| problems.extend(found.into_iter().map(|problem| problem.under(&prefix)));
        if let Some(sft) = &self.sft {
            under("sft.learner".to_owned(), sft.learner.problems());
        }
        if let Some(policy) = &self.sample.policy {
            under("sample.policy".to_owned(), policy.problems());
        }
        under("annotator".to_owned(), self.annotator.problems());
        if let Some(policy) = &self.generate.policy {
            under("generate.policy".to_owned(), policy.problems());
        }
        if let Some(annotator) = &self.evaluate.annotator {
            under("evaluate.annotator".to_owned(), annotator.problems());
        }
        for (i, evaluator) in self.evaluate.evaluators.iter().enumerate() {
            under(format!("evaluate.evaluators[{i}]"), evaluator.problems());
        }
    }
}
