//! A model restored from its base and a published weight difference, as AlpacaFarm released its models.
//!
//! Dubois et al., 2023, <https://arxiv.org/abs/2305.14387>; the arithmetic is that of `recover_model_weights.py` in its
//! repository. Everything in `f32`. A base whose tokenizer has no padding token first gets one, whose row of the input and the
//! output embedding is the mean of the old rows. Then each tensor of the base is added to the one of the same name in the
//! difference; where only the number of embedded tokens differs, the difference holds the whole tensor. A reward model's
//! difference has the names of the language model behind `backbone_model.`, and a whole head.
//!
//! The sum over all tensors of the result is compared with the one in `model_sum.txt`. AlpacaFarm only prints that it differs
//! and writes the model all the same; here it is an error. The constants that old versions of transformers stored count in the
//! sum and are not written. Tensors are read, added and written one at a time.

use std::path::Path;

use farmhand_core::run::write_dir_atomic;
use farmhand_core::{CancelFlag, CheckpointKind, Error, EventSink, Progress, Result};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::config::ModelConfig;
use crate::recovered_folder::{pad_token, tokenizer_length, write_description};
use crate::sharded_weights::{PlannedTensor, SHARD_BYTES, write_sharded_weights};
use crate::stored_tensors::StoredTensors;

/// What AlpacaFarm put before the names of a reward model's language model.
const BACKBONE: &str = "backbone_model.";
/// A reward model's head there, and what transformers' sequence classifiers call it.
const REWARD_HEAD: [(&str, &str); 2] = [("reward_head.weight", "score.weight"), ("reward_head.bias", "score.bias")];
/// The file with the sum over all tensors.
const SUM_FILE: &str = "model_sum.txt";

/// The type of restored weights on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightType {
    /// 4 bytes a parameter, as computed.
    #[default]
    F32,
    /// 2 bytes a parameter, rounded.
    Bf16,
    /// 2 bytes a parameter, rounded.
    F16,
}

impl WeightType {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }

    /// The name in `config.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// What the sum over all restored tensors is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum SumCheck {
    /// With the number in the difference's `model_sum.txt`.
    #[default]
    Published,
    /// With this number.
    Expect(f64),
    /// With nothing; then nothing says whether the base is the right one.
    Skip,
}

/// A recovery to be done.
#[derive(Debug, Clone, Copy)]
pub struct Recovery<'a> {
    /// The folder of the model that the difference was taken from.
    pub base: &'a Path,
    /// The folder of the difference.
    pub difference: &'a Path,
    /// The folder to make; an existing one is replaced.
    pub out: &'a Path,
    /// The type of the weights there.
    pub weight_type: WeightType,
    /// What the result is checked against.
    pub check: SumCheck,
}

/// What a recovery made.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// A language model or a reward model.
    pub kind: CheckpointKind,
    /// Parameters written.
    pub n_parameters: u64,
    /// The sum over all tensors.
    pub sum: f64,
    /// What it was compared with.
    pub expected_sum: Option<f64>,
    /// Tensors that the difference holds whole.
    pub whole: Vec<String>,
    /// Rows that were added to the base's embeddings.
    pub n_added_rows: usize,
}

/// One tensor of the difference and what becomes of it.
struct Step {
    /// Its name in the difference.
    stored: String,
    /// The base's tensor that is added.
    base: Option<String>,
    /// Whether it is written; constants only count.
    write: Option<PlannedTensor>,
}

/// Restores a model.
///
/// # Errors
/// When a folder cannot be read, the two do not fit each other, the sum is not the published one, the user asked to stop, or
/// the disk refuses. Then `out` is as it was.
pub fn recover(recovery: &Recovery<'_>, events: &dyn EventSink, cancel: &CancelFlag) -> Result<Recovered> {
    let base_config = ModelConfig::load(recovery.base)?;
    let mut base = Base::open(recovery.base, &base_config)?;
    let mut difference = StoredTensors::open(recovery.difference)?;
    let is_reward_model = difference.names().any(|name| name.starts_with(BACKBONE));
    let kind = if is_reward_model { CheckpointKind::RewardModel } else { CheckpointKind::CausalLm };
    let steps = plan(&base, &difference, &base_config, is_reward_model)?;
    let expected_sum = expected_sum(recovery)?;

    let (written, counted): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|step| step.write.is_some());
    let tensors: Vec<PlannedTensor> = written.iter().filter_map(|step| step.write.clone()).collect();
    let mut sum = 0.0;
    let mut progress = Progress::start(events, "recover", Some(steps.len() as u64), "tensors");
    write_dir_atomic(recovery.out, |dir| {
        let mut steps = written.iter();
        write_sharded_weights(dir, &tensors, recovery.weight_type.kind(), SHARD_BYTES, |_| {
            cancel.check()?;
            let step = steps.next().expect("as many steps as tensors");
            let tensor = restored(step, &mut base, &mut difference)?;
            sum += total(&tensor);
            progress.advance(1);
            Ok(tensor)
        })?;
        let mut constants = 0.0;
        for step in &counted {
            constants += total(&restored(step, &mut base, &mut difference)?);
            progress.advance(1);
        }
        if counted.is_empty() {
            constants = base.constants_sum();
        }
        // The published sum has the constants in it or not, by the version of transformers that took it.
        match expected_sum {
            Some(expected) if is_close(expected, sum + constants) => sum += constants,
            Some(expected) if !is_close(expected, sum) => {
                return Err(wrong_sum(sum + constants, expected, recovery, &base_config));
            }
            _ => {}
        }
        let vocab_size = tensors.iter().find(|tensor| tensor.name == base_config.architecture().embedding());
        let vocab_size = vocab_size.map_or(base_config.vocab_size(), |tensor| tensor.shape[0] as usize);
        write_description(recovery, dir, &base_config, kind, vocab_size, events)
    })?;
    let whole =
        steps.iter().filter(|step| step.base.is_none()).filter_map(|step| step.write.as_ref()).map(|tensor| tensor.name.clone());
    Ok(Recovered {
        kind,
        n_parameters: tensors.iter().map(PlannedTensor::n_elements).sum(),
        sum,
        expected_sum,
        whole: whole.filter(|name| !REWARD_HEAD.iter().any(|(_, ours)| ours == name)).collect(),
        n_added_rows: base.n_added_rows(),
    })
}

/// The base's tensors, as they are once its tokenizer has a padding token.
struct Base<'a> {
    tensors: StoredTensors,
    config: &'a ModelConfig,
    /// Rows of the input and output embedding: old ones, and all.
    rows: (i64, i64),
}

impl<'a> Base<'a> {
    fn open(dir: &Path, config: &'a ModelConfig) -> Result<Self> {
        let tensors = StoredTensors::open(dir)?;
        let old = config.vocab_size() as i64;
        let all = match pad_token(dir)? {
            Some(_) => old,
            None => tokenizer_length(dir)?.unwrap_or(config.vocab_size()) as i64 + 1,
        };
        Ok(Self { tensors, config, rows: (old, all) })
    }

    fn n_added_rows(&self) -> usize {
        usize::try_from(self.rows.1 - self.rows.0).unwrap_or(0)
    }

    fn is_embedding(&self, name: &str) -> bool {
        name == self.config.architecture().embedding() || name == self.config.architecture().head()
    }

    fn is_constant(&self, name: &str) -> bool {
        self.config.architecture().is_stored_constant(name)
    }

    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        let mut shape = self.tensors.shape(name)?;
        if self.is_embedding(name) && shape.first() == Some(&self.rows.0) {
            shape[0] = self.rows.1;
        }
        Some(shape)
    }

    fn read(&mut self, name: &str) -> Result<Tensor> {
        if self.is_constant(name) && self.tensors.shape(name).is_none() {
            return Ok(self.rotary_constant());
        }
        let tensor = self.tensors.read(name)?;
        let (old, all) = self.rows;
        if !self.is_embedding(name) || tensor.size().first() != Some(&old) {
            return Ok(tensor);
        }
        match all - old {
            0 => Ok(tensor),
            fewer @ ..0 => Ok(tensor.narrow(0, 0, old + fewer)),
            more => {
                let mean = tensor.mean_dim(0, true, Kind::Float);
                Ok(Tensor::cat(&[tensor, mean.repeat([more, 1])], 0))
            }
        }
    }

    /// The rotary frequencies `θ^(−2i/d)` that transformers stored beside a Llama's weights up to version 4.31.
    fn rotary_constant(&self) -> Tensor {
        let theta = self.config.json().get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
        let d = self.config.shape().head_dim;
        let frequencies: Vec<f32> = (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64) as f32).collect();
        Tensor::from_slice(&frequencies)
    }

    /// The sum over the constants of all layers.
    fn constants_sum(&self) -> f64 {
        if self.config.model_type() == "llama" { self.config.n_layers() as f64 * total(&self.rotary_constant()) } else { 0.0 }
    }
}

/// What becomes of every tensor, checked against the base and against the model that is to come out.
fn plan(base: &Base<'_>, difference: &StoredTensors, config: &ModelConfig, is_reward_model: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for stored in difference.names() {
        let shape = difference.shape(stored).expect("a name of the file");
        let head = REWARD_HEAD.iter().find(|(theirs, _)| is_reward_model && *theirs == stored);
        let planned = |name: &str| Some(PlannedTensor { name: name.to_owned(), shape: shape.clone() });
        if let Some((_, ours)) = head {
            steps.push(Step { stored: stored.to_owned(), base: None, write: planned(ours) });
            continue;
        }
        let name = match stored.strip_prefix(BACKBONE) {
            Some(name) => name,
            None if is_reward_model => {
                return Err(unfit(&format!("the difference's tensor `{stored}` is no part of a reward model")));
            }
            None => stored,
        };
        if base.is_constant(name) {
            steps.push(Step { stored: stored.to_owned(), base: Some(name.to_owned()), write: None });
            continue;
        }
        let own = base.shape(name).ok_or_else(|| unfit(&format!("the base has no tensor `{name}`, which the difference has")))?;
        let is_whole = own != shape && base.is_embedding(name) && own.get(1) == shape.get(1);
        if own != shape && !is_whole {
            return Err(unfit(&format!("tensor `{name}` has shape {own:?} in the base and {shape:?} in the difference")));
        }
        // A reward model has no output head, but the published sum has it in.
        let write = if is_reward_model && name == config.architecture().head() { None } else { planned(name) };
        steps.push(Step { stored: stored.to_owned(), base: (!is_whole).then(|| name.to_owned()), write });
    }
    let missing = config.parameters(!is_reward_model).into_iter().find(|spec| {
        let planned = |step: &Step| step.write.as_ref().is_some_and(|tensor| tensor.name == spec.name);
        !steps.iter().any(planned)
    });
    match missing {
        Some(spec) => Err(unfit(&format!("the difference lacks tensor `{}`, which the base has", spec.name))),
        None => Ok(steps),
    }
}

fn unfit(what: &str) -> Error {
    Error::invalid_data(format!("base and difference are of different models: {what}"))
        .with_hint("AlpacaFarm's differences are taken from LLaMA-7B, converted for transformers 4.29.2 or newer")
}

fn restored(step: &Step, base: &mut Base<'_>, difference: &mut StoredTensors) -> Result<Tensor> {
    let mut tensor = difference.read(&step.stored)?;
    if let Some(name) = &step.base {
        tensor += base.read(name)?;
    }
    Ok(tensor)
}

fn total(tensor: &Tensor) -> f64 {
    tensor.sum(Kind::Double).double_value(&[])
}

/// As numpy's `isclose` has it by default.
fn is_close(expected: f64, found: f64) -> bool {
    (expected - found).abs() <= 1e-8 + 1e-5 * found.abs()
}

/// The sum the result should have.
fn expected_sum(recovery: &Recovery<'_>) -> Result<Option<f64>> {
    match recovery.check {
        SumCheck::Published => {}
        SumCheck::Expect(sum) => return Ok(Some(sum)),
        SumCheck::Skip => return Ok(None),
    }
    let path = recovery.difference.join(SUM_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(sum) => Ok(Some(sum)),
            Err(_) => Err(Error::invalid_data(format!("`{}` holds no number", path.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("`{}` holds no {SUM_FILE} to check the result with", recovery.difference.display());
            Err(Error::missing_input(message)
                .with_hint("give the published sum with `--expected-sum`, or go without by `--unchecked`"))
        }
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

fn wrong_sum(found: f64, expected: f64, recovery: &Recovery<'_>, config: &ModelConfig) -> Error {
    let message = format!(
        "the restored weights add up to {found}, and to {expected} where they were published: `{}` is not the base that `{}` was taken from",
        recovery.base.display(),
        recovery.difference.display()
    );
    let version = config.json().get("transformers_version").and_then(Value::as_str);
    let converted = version.map(|version| format!("; this base was converted with {version}")).unwrap_or_default();
    Error::invalid_data(message)
        .with_hint(format!("AlpacaFarm's differences need LLaMA-7B converted for transformers 4.29.2 or newer{converted}"))
}
