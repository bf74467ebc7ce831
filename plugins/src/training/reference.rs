//! The frozen policy that a method stays close to, and its log-probabilities.

use std::path::{Path, PathBuf};

use farmhand_core::run::hash_path;
use farmhand_core::types::content_id;
use farmhand_core::{Checkpoint, Error, Result, RunContext};
use farmhand_models::{
    BatchLayout, EncodedText, LanguageModel, ModelConfig, TokenBatch, engine_numerics, model_content_hash,
    selected_log_probs_no_grad_at, sequence_sums,
};

use super::learner_options::PassOptions;
use super::log_prob_cache::{LogProbCache, pass_key};
use super::micro_batching::MicroBatching;
use super::records::{Record, ids_of};

/// Loads a reference policy for `policy`: it must know the policy's tokens and take texts as long.
///
/// # Errors
/// When it cannot be loaded, or its vocabulary or context does not fit.
pub fn load_reference(checkpoint: &Checkpoint, policy: &LanguageModel) -> Result<LanguageModel> {
    check_fit(checkpoint, policy.config())?;
    LanguageModel::load(checkpoint.path(), policy.device())
}

/// A frozen reference that stays in memory while the policy is trained: `other`, or without one the policy as it is now, before
/// training. With `lora` the latter costs nothing, for an adapter leaves the policy's own weights as they are.
///
/// # Errors
/// When it cannot be loaded, or its vocabulary or context does not fit.
pub fn standing_reference(
    init: &Checkpoint,
    other: Option<&Checkpoint>,
    policy: &LanguageModel,
    options: &PassOptions,
) -> Result<LanguageModel> {
    match other {
        Some(checkpoint) if !is_same_model(checkpoint, init)? => {
            let reference = load_reference(checkpoint, policy)?;
            reference.set_precision(policy.precision());
            Ok(reference)
        }
        _ if options.lora.is_some() => Ok(policy.without_adapter()),
        _ => policy.copy(),
    }
}

/// Refuses a reference of other sizes than the policy, before its weights are read.
fn check_fit(checkpoint: &Checkpoint, wanted: &ModelConfig) -> Result<()> {
    let own = ModelConfig::load(checkpoint.path())?;
    let problem = if own.vocab_size() != wanted.vocab_size() {
        format!("has a vocabulary of {} tokens, the policy one of {}", own.vocab_size(), wanted.vocab_size())
    } else if own.max_positions() < wanted.max_positions() {
        format!("has a context of {} tokens, the policy one of {}", own.max_positions(), wanted.max_positions())
    } else {
        return Ok(());
    };
    Err(Error::invalid_config(format!("the reference `{}` {problem}", checkpoint.path().display()))
        .with_hint("a reference is a model of the same family, usually the one the policy starts from"))
}

/// Whether two checkpoints are the same model, in one folder or in two: then there is no need to load it twice.
///
/// # Errors
/// When a file cannot be read.
pub fn is_same_model(a: &Checkpoint, b: &Checkpoint) -> Result<bool> {
    if a.path() == b.path() || a.path().canonicalize().is_ok_and(|a| b.path().canonicalize().is_ok_and(|b| a == b)) {
        return Ok(true);
    }
    let (a, b) = (model_files(a)?, model_files(b)?);
    let differs = |(a, b): (&(PathBuf, u64), &(PathBuf, u64))| a.0.file_name() != b.0.file_name() || a.1 != b.1;
    if a.len() != b.len() || a.iter().zip(&b).any(differs) {
        return Ok(false);
    }
    for ((a, _), (b, _)) in a.iter().zip(&b) {
        if hash_path(a)? != hash_path(b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files that decide what a model computes, with their lengths, sorted.
fn model_files(checkpoint: &Checkpoint) -> Result<Vec<(PathBuf, u64)>> {
    let dir = checkpoint.path();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| Error::io("read", dir, error))? {
        let path = entry.map_err(|error| Error::io("read", dir, error))?.path();
        let is_model = path.extension().is_some_and(|extension| extension == "safetensors")
            || path.file_name().is_some_and(|name| name == "config.json" || name == farmhand_core::ADAPTER_CONFIG);
        if is_model {
            let length = std::fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?.len();
            files.push((path, length));
        }
    }
    files.sort();
    Ok(files)
}

/// A reference policy that is loaded only if somebody needs it, and gone when this is dropped.
#[derive(Debug)]
pub struct Reference<'a> {
    checkpoint: &'a Checkpoint,
    /// The policy, as long as it has not moved: without another reference it is the reference.
    policy: &'a LanguageModel,
    is_policy: bool,
    loaded: Option<LanguageModel>,
}

impl<'a> Reference<'a> {
    /// The reference `other`, or without one the policy as it starts from `init`; to be used before the policy moves.
    ///
    /// # Errors
    /// When its vocabulary or context does not fit the policy.
    pub fn new(init: &'a Checkpoint, other: Option<&'a Checkpoint>, policy: &'a LanguageModel) -> Result<Self> {
        let checkpoint = other.unwrap_or(init);
        check_fit(checkpoint, policy.config())?;
        Ok(Self { checkpoint, policy, is_policy: is_same_model(checkpoint, init)?, loaded: None })
    }

    /// The model; read from the disk at the first call, unless it is the policy itself.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn model(&mut self) -> Result<&LanguageModel> {
        if self.is_policy {
            return Ok(self.policy);
        }
        if self.loaded.is_none() {
            let model = LanguageModel::load(self.checkpoint.path(), self.policy.device())?;
            model.set_precision(self.policy.precision());
            self.loaded = Some(model);
        }
        Ok(self.loaded.as_ref().expect("it was just loaded"))
    }

    /// Log-probabilities of the responses of all records, summed over their tokens, in nats: one entry a record, one number a
    /// text. Those that an earlier run left in the folder `cache_dir` are not computed again; when all are known, the model is
    /// not even loaded.
    ///
    /// # Errors
    /// When the reference cannot be loaded, one of its numbers is not finite, or on cancellation.
    pub fn sums(
        &mut self,
        records: &[Record],
        temperature: f64,
        layout: BatchLayout,
        cache_dir: Option<&Path>,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut sums = vec![Vec::new(); records.len()];
        if records.is_empty() {
            return Ok(sums);
        }
        let device = self.policy.device();
        let parts = [
            "sequence sums 1",
            &model_content_hash(self.checkpoint.path())?,
            &temperature.to_string(),
            &engine_numerics(self.policy),
        ];
        let mut cache = LogProbCache::open(cache_dir, &content_id(parts), ctx);
        let mut progress = ctx.progress("reference log-probabilities", Some(records.len() as u64), "records");
        for rows in passes(records, MicroBatching::new(layout, None, None, device)) {
            let texts: Vec<&EncodedText> = rows.iter().flat_map(|&row| &records[row].texts).collect();
            let key = pass_key(&texts, layout);
            let known = cache.find(&key, texts.len()).map(<[f32]>::to_vec);
            let values = match known {
                Some(values) => values,
                None => {
                    ctx.cancel.check()?;
                    let batch = TokenBatch::new(&texts, layout, device)?;
                    let (log_probs, _) = selected_log_probs_no_grad_at(self.model()?, &batch, temperature);
                    let values = Vec::<f32>::try_from(sequence_sums(&log_probs, &batch))
                        .map_err(|error| Error::other(error.to_string()))?;
                    if values.iter().any(|value| !value.is_finite()) {
                        let ids = ids_of(records, &rows);
                        return Err(Error::non_finite(format!("a reference log-probability is not finite, in records {ids}"))
                            .with_hint("the reference model is broken"));
                    }
                    cache.keep(key, values.clone());
                    values
                }
            };
            let mut values = values.into_iter();
            for &row in &rows {
                sums[row] = values.by_ref().take(records[row].texts.len()).collect();
            }
            progress.advance(rows.len() as u64);
        }
        Ok(sums)
    }
}

/// Records that go through the reference together. It depends on nothing but the records, not on the learner's options, and
/// records that are appended leave most passes before them as they are, so that other runs meet the same passes.
fn passes(records: &[Record], micro: MicroBatching) -> impl Iterator<Item = Vec<usize>> {
    const STRETCH: usize = 64;
    let all: Vec<usize> = (0..records.len()).collect();
    let stretch = move |picked: &[usize]| micro.groups(records, picked);
    all.chunks(STRETCH).map(stretch).collect::<Vec<_>>().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::PreferencePair;
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::{Ending, TextCodec};

    use super::*;
    use crate::testing::{Stage, pairs, tiny_checkpoint, tiny_checkpoint_with};

    fn load(checkpoint: &Checkpoint) -> LanguageModel {
        LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded")
    }

    fn records(init: &Checkpoint, n: usize) -> Vec<Record> {
        let codec = TextCodec::load(init, None).expect("a codec");
        let encode = |pair: &PreferencePair| {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos).expect("encoded");
            Record::new(&pair.instruction.id, [side(&pair.chosen), side(&pair.rejected)])
        };
        pairs(n).iter().map(encode).collect()
    }

    #[test]
    fn a_reference_that_does_not_fit_the_policy_is_refused_with_both_numbers() {
        let stage = Stage::new();
        let (long, short) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "short", 48));
        assert!(load_reference(&long, &load(&short)).is_ok());
        let policy = load(&long);
        for error in [
            load_reference(&short, &policy).expect_err("its context is shorter"),
            Reference::new(&long, Some(&short), &policy).expect_err("its context is shorter"),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.message().contains("48 tokens, the policy one of 96"), "{error}");
        }
    }

    #[test]
    fn sums_are_those_of_each_text_alone() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let (policy, records) = (load(&init), records(&init, 9));
        let ctx = stage.context(&NoEvents);
        for layout in [BatchLayout::Packed, BatchLayout::Padded] {
            let mut reference = Reference::new(&init, None, &policy).expect("fits");
            let sums = reference.sums(&records, 0.7, layout, None, &ctx).expect("computed");
            for (record, sums) in records.iter().zip(&sums) {
                for (text, sum) in record.texts.iter().zip(sums) {
                    let batch = TokenBatch::new(&[text], BatchLayout::Packed, tch::Device::Cpu).expect("made");
                    let alone = selected_log_probs_no_grad_at(&policy, &batch, 0.7).0.sum(tch::Kind::Float).double_value(&[]);
                    assert!((alone - f64::from(*sum)).abs() < 1e-4 * alone.abs(), "{alone} {sum}");
                }
            }
        }
    }

    #[test]
    fn a_second_run_computes_nothing_and_does_not_load_the_model() {
        let stage = Stage::new();
        let (init, other) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "other", 128));
        let (policy, records) = (load(&init), records(&init, 70));
        let cache = stage.path().join("cache");
        let run = |n: usize, temperature: f64, cache: &Path| {
            let events = RecordedEvents::default();
            let mut reference = Reference::new(&init, Some(&other), &policy).expect("fits");
            let run = Stage::new();
            let ctx = run.context(&events);
            let sums = reference.sums(&records[..n], temperature, BatchLayout::Packed, Some(cache), &ctx).expect("computed");
            (sums, reference.loaded.is_some())
        };
        let (first, was_loaded) = run(70, 1.0, &cache);
        assert!(was_loaded);
        assert_eq!(run(70, 1.0, &cache), (first.clone(), false));
        // What comes later leaves what came before as it was; another temperature is another file.
        assert_eq!(run(64, 1.0, &cache), (first[..64].to_vec(), false));
        assert!(run(70, 0.5, &cache).1);
        // The same without a cache that holds anything.
        assert_eq!(run(70, 1.0, &stage.path().join("empty")), (first, true));

        let file = std::fs::read_dir(cache.join("log-probs")).expect("there").next().expect("a file").expect("a file").path();
        let text = std::fs::read_to_string(file).expect("readable");
        assert!(!text.contains(&*stage.path().to_string_lossy()) && !text.contains(&records[0].id));
    }

    #[test]
    fn the_same_folder_and_a_copy_of_it_are_the_same_model_and_others_are_not() {
        let stage = Stage::new();
        let (one, other) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "short", 48));
        let copy = stage.path().join("copy");
        std::fs::create_dir(&copy).expect("made");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(one.path().join(file), copy.join(file)).expect("copied");
        }
        let copy = Checkpoint::open(copy).expect("a model");
        assert!(is_same_model(&one, &one).expect("read") && is_same_model(&one, &copy).expect("read"));
        assert!(!is_same_model(&one, &other).expect("read"));
        let model = LanguageModel::load(copy.path(), tch::Device::Cpu).expect("loaded");
        let _ = tch::no_grad(|| model.parameters()[0].1.shallow_clone().g_mul_scalar_(2.0));
        model.save(copy.path()).expect("written");
        assert!(!is_same_model(&one, &copy).expect("read"));
    }
}
