//! An adapter and the model it changes as one whole model.

use std::path::Path;

use farmhand_core::{ADAPTER_CONFIG, Checkpoint, CheckpointKind, Error, Result};
use tch::Device;

use crate::checkpoint_folder::{write_checkpoint, write_scalar_checkpoint};
use crate::encoding::TextCodec;
use crate::heads::ScalarModel;
use crate::language_model::LanguageModel;
use crate::model_folders::ModelFolders;

/// Writes an adapter, made by farmhand or PEFT, merged with its base model as a Hugging Face folder; an existing one is
/// replaced. The base is the one the adapter names, or `base`. Settings beside the adapter (such as where a reward model reads
/// its reward) are copied.
///
/// # Errors
/// When the folder is no adapter's, its base is not there or another one, or the disk refuses.
pub fn merge_adapter(adapter: &Path, base: Option<&Path>, out: &Path) -> Result<Checkpoint> {
    let adapter = Checkpoint::open(adapter)?;
    let dir = adapter.path();
    if !dir.join(ADAPTER_CONFIG).is_file() {
        return Err(Error::missing_input(format!("`{}` is a whole model, not an adapter", dir.display()))
            .with_hint(format!("an adapter is a folder with {ADAPTER_CONFIG}")));
    }
    let folders = match base {
        Some(base) => ModelFolders::with_base(dir, Checkpoint::open(base)?.path())?,
        None => ModelFolders::of(dir)?,
    };
    if folders.contains(out) {
        return Err(Error::invalid_config(format!("`{}` is what is to be merged; write elsewhere", out.display())));
    }
    let codec = TextCodec::load_from(&folders, None)?;
    let manifest = folders.manifest()?;
    let made_by = manifest.as_ref().map_or("merge", |manifest| manifest.made_by.as_str());
    let checkpoint = match adapter.kind()? {
        CheckpointKind::CausalLm => write_checkpoint(out, &LanguageModel::load_from(&folders, Device::Cpu)?, &codec, made_by)?,
        CheckpointKind::RewardModel => {
            write_scalar_checkpoint(out, &ScalarModel::load_from(&folders, Device::Cpu)?, &codec, made_by)?
        }
    };
    copy_settings(dir, out)?;
    Ok(checkpoint)
}

/// Copies JSON files that are not the adapter's own and that the merged model does not have.
fn copy_settings(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).map_err(|error| Error::io("read", from, error))? {
        let path = entry.map_err(|error| Error::io("read", from, error))?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.extension().is_some_and(|extension| extension == "json") && name != ADAPTER_CONFIG && !target.exists() {
            std::fs::copy(&path, &target).map_err(|error| Error::io("copy to", &target, error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;
    use farmhand_core::run::hash_path;
    use tch::{Tensor, no_grad};

    use super::*;
    use crate::{Adapter, AdapterOutput, LlamaOptions, LoraConfig, ModelConfig, PromptFormat, ScalarHead, train_bpe};

    /// A base model's folder, and the model itself with a random adapter switched on.
    fn base_with_adapter(dir: &Path, output: AdapterOutput) -> (LanguageModel, TextCodec) {
        let tokenizer = train_bpe((0..100).map(|i| format!("an alpaca eats {i} carrots")), 300).expect("trained");
        let codec = TextCodec::new(tokenizer, PromptFormat::Alpaca).expect("a codec");
        let config = ModelConfig::tiny_llama(LlamaOptions { vocab_size: 300, ..LlamaOptions::default() });
        let model = LanguageModel::random(config, Seed::root(1), Device::Cpu).expect("made");
        let base = write_checkpoint(&dir.join("base"), &model, &codec, "test").expect("written");
        let lora = LoraConfig { rank: 2, output, ..LoraConfig::default() };
        let adapter = Adapter::new(model.config(), &lora, base.path(), Seed::root(2), Device::Cpu).expect("made");
        for (_, tensor) in adapter.parameters() {
            no_grad(|| drop(tensor.shallow_clone().g_add_scalar_(0.03)));
        }
        (model.with_adapter(adapter).expect("it fits"), codec)
    }

    fn logits(model: &LanguageModel) -> Tensor {
        no_grad(|| model.logits(&model.hidden_of(&[5, 9, 200, 7])))
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_checkpoint_is_whole_with_its_adapter_inside_or_the_adapter_alone_and_all_are_the_same_model() {
        let dir = tempfile::tempdir().expect("a folder");
        let (model, codec) = base_with_adapter(dir.path(), AdapterOutput::Merged);
        let whole = write_checkpoint(&dir.path().join("whole"), &model, &codec, "dpo").expect("written");
        let (other, _) = base_with_adapter(dir.path(), AdapterOutput::Adapter);
        let small = write_checkpoint(&dir.path().join("small"), &other, &codec, "dpo").expect("written");
        assert!(!small.path().join("config.json").exists() && !small.path().join("model.safetensors").exists());
        let merged = merge_adapter(small.path(), None, &dir.path().join("merged")).expect("merged");
        let inner = merge_adapter(&whole.path().join("adapter"), None, &dir.path().join("inner")).expect("merged");
        let expected = logits(&model);
        for folder in [whole.path(), &whole.path().join("adapter"), small.path(), merged.path(), inner.path()] {
            let loaded = LanguageModel::load(folder, Device::Cpu).expect("loaded");
            assert!(distance(&logits(&loaded), &expected) < 1e-5 && loaded.adapter().is_none(), "{}", folder.display());
            let checkpoint = Checkpoint::open(folder).expect("a model");
            let read = TextCodec::load(&checkpoint, None).expect("a codec");
            assert_eq!((read.format, read.stop_ids()), (codec.format, codec.stop_ids()));
            assert_eq!(checkpoint.manifest().expect("read").expect("there").made_by, "dpo");
        }
        assert_eq!(hash_path(merged.path()).expect("hashed"), hash_path(inner.path()).expect("hashed"));
        assert!(!merged.path().join(ADAPTER_CONFIG).exists());
        assert!(merge_adapter(whole.path(), None, &dir.path().join("x")).expect_err("whole").message().contains("whole model"));
        assert!(merge_adapter(small.path(), None, small.path()).is_err());
    }

    #[test]
    fn a_reward_model_keeps_its_head_and_settings() {
        let dir = tempfile::tempdir().expect("a folder");
        let (body, codec) = base_with_adapter(dir.path(), AdapterOutput::Adapter);
        let head = ScalarHead::random(body.config().hidden_size(), Seed::root(3), Device::Cpu);
        no_grad(|| drop(head.bias().shallow_clone().g_add_scalar_(0.25)));
        let scalar = ScalarModel::from_language_model(body, head);
        let small = write_scalar_checkpoint(&dir.path().join("rm"), &scalar, &codec, "reward_modeling").expect("written");
        std::fs::write(small.path().join("reward_model.json"), "{}").expect("written");
        let merged = merge_adapter(small.path(), None, &dir.path().join("merged")).expect("merged");
        assert!(merged.path().join("reward_model.json").is_file());
        for folder in [small.path(), merged.path()] {
            let loaded = ScalarModel::load(folder, Device::Cpu).expect("loaded");
            let score = |model: &ScalarModel| no_grad(|| model.head.forward(&model.body.hidden_of(&[5, 9, 200, 7])));
            assert!(distance(&score(&loaded), &score(&scalar)) < 1e-5);
            assert_eq!(Checkpoint::open(folder).and_then(|folder| folder.kind()).expect("read"), CheckpointKind::RewardModel);
        }
    }

    #[test]
    fn folders_that_were_moved_together_still_belong_together_and_another_base_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let old = dir.path().join("old");
        let (model, codec) = base_with_adapter(&old, AdapterOutput::Adapter);
        write_checkpoint(&old.join("runs/one"), &model, &codec, "dpo").expect("written");
        let new = dir.path().join("new");
        std::fs::rename(&old, &new).expect("moved");
        let moved = new.join("runs/one");
        let loaded = LanguageModel::load(&moved, Device::Cpu).expect("found beside it");
        assert!(distance(&logits(&loaded), &logits(&model)) < 1e-5);

        std::fs::rename(new.join("base"), new.join("elsewhere")).expect("moved");
        assert!(LanguageModel::load(&moved, Device::Cpu).is_err());
        let out = new.join("out");
        let merged = merge_adapter(&moved, Some(&new.join("elsewhere")), &out).expect("merged");
        assert!(distance(&logits(&LanguageModel::load(merged.path(), Device::Cpu).expect("loaded")), &logits(&model)) < 1e-5);
        // The merged model has other weights than the base.
        let error = merge_adapter(&moved, Some(&out), &new.join("twice")).expect_err("another base");
        assert!(error.message().contains("other weights"), "{error}");
    }
}
