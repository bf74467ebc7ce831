//! A trained model as a Hugging Face folder with farmhand's manifest: transformers and vLLM load it as it is.

use std::path::Path;

use farmhand_core::run::write_dir_atomic;
use farmhand_core::{
    AdapterBase, CHECKPOINT_FORMAT, CHECKPOINT_MANIFEST, Checkpoint, CheckpointKind, CheckpointManifest, Error, Result,
    RunContext,
};
use serde_json::{Value, json};

use crate::adapter_folder::write_adapter;
use crate::encoding::TextCodec;
use crate::heads::{ScalarHead, ScalarModel};
use crate::language_model::LanguageModel;
use crate::lora::AdapterOutput;
use crate::tokenizer::GENERATION_FILE;

/// Writes the stage's result: `config.json`, `model.safetensors`, the tokenizer's files with the chat template,
/// `generation_config.json` and `farmhand.json`, whole or not at all. The same model gives the same bytes. Of a model with an
/// adapter the weights are merged and the adapter lies in the folder `adapter`, or the adapter is all there is, as its options
/// say.
///
/// # Errors
/// When the tokenizer has ids the model does not know, or the disk refuses.
pub fn save_checkpoint(model: &LanguageModel, codec: &TextCodec, made_by: &str, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    write_checkpoint(&ctx.stage.checkpoint_dir(), model, codec, made_by)
}

/// The same for a model with a scalar head.
///
/// # Errors
/// As [`save_checkpoint`].
pub fn save_scalar_checkpoint(model: &ScalarModel, codec: &TextCodec, made_by: &str, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    write_scalar_checkpoint(&ctx.stage.checkpoint_dir(), model, codec, made_by)
}

/// [`save_checkpoint`] into any folder; an existing one is replaced.
///
/// # Errors
/// As [`save_checkpoint`].
pub fn write_checkpoint(dir: &Path, model: &LanguageModel, codec: &TextCodec, made_by: &str) -> Result<Checkpoint> {
    codec.tokenizer.check_vocabulary(model.config().vocab_size())?;
    let save = |dir: &Path| model.save(dir);
    Folder { dir, model, head: None, codec, kind: CheckpointKind::CausalLm, made_by }.write(save)
}

/// [`save_scalar_checkpoint`] into any folder; an existing one is replaced.
///
/// # Errors
/// As [`save_checkpoint`].
pub fn write_scalar_checkpoint(dir: &Path, model: &ScalarModel, codec: &TextCodec, made_by: &str) -> Result<Checkpoint> {
    codec.tokenizer.check_vocabulary(model.body.config().vocab_size())?;
    let save = |dir: &Path| model.save(dir);
    let (body, head) = (&model.body, Some(&model.head));
    Folder { dir, model: body, head, codec, kind: CheckpointKind::RewardModel, made_by }.write(save)
}

/// The folder `adapter` in a checkpoint with merged weights.
const ADAPTER_FOLDER: &str = "adapter";

/// A checkpoint to be written.
struct Folder<'a> {
    dir: &'a Path,
    model: &'a LanguageModel,
    head: Option<&'a ScalarHead>,
    codec: &'a TextCodec,
    kind: CheckpointKind,
    made_by: &'a str,
}

impl Folder<'_> {
    /// Writes the model, whole with `save_whole` or as its adapter, and everything beside it.
    fn write(&self, save_whole: impl FnOnce(&Path) -> Result<()>) -> Result<Checkpoint> {
        let output = self.model.adapter().map(|adapter| adapter.config().output);
        write_dir_atomic(self.dir, |dir| {
            let mut base = None;
            match output {
                Some(AdapterOutput::Adapter) => base = Some(write_adapter(dir, self.dir, self.model, self.head)?),
                Some(AdapterOutput::Merged) => {
                    save_whole(dir)?;
                    let inner = dir.join(ADAPTER_FOLDER);
                    std::fs::create_dir(&inner).map_err(|error| Error::io("make folder", &inner, error))?;
                    let base = write_adapter(&inner, &self.dir.join(ADAPTER_FOLDER), self.model, self.head)?;
                    self.write_manifest(&inner, Some(base))?;
                }
                None => save_whole(dir)?,
            }
            self.codec.tokenizer.save(dir)?;
            write_json(&dir.join(GENERATION_FILE), &generation_config(self.codec))?;
            self.write_manifest(dir, base)
        })?;
        Checkpoint::open(self.dir)
    }

    fn write_manifest(&self, dir: &Path, base: Option<AdapterBase>) -> Result<()> {
        let manifest = CheckpointManifest {
            format: CHECKPOINT_FORMAT,
            kind: self.kind,
            made_by: self.made_by.to_owned(),
            prompt_format: Some(self.codec.format.name().to_owned()),
            base,
        };
        write_json(&dir.join(CHECKPOINT_MANIFEST), &serde_json::to_value(manifest).expect("a manifest is JSON"))
    }
}

/// The tokenizer's generation options, where every token that ends an answer for this codec ends generation.
fn generation_config(codec: &TextCodec) -> Value {
    let mut config = codec.tokenizer.generation_config().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let stops = codec.stop_ids();
    config["eos_token_id"] = if let [only] = stops.as_slice() { json!(only) } else { json!(stops) };
    if config["pad_token_id"].is_null() {
        config["pad_token_id"] = json!(codec.tokenizer.pad_id());
    }
    if let (true, Some(bos)) = (config["bos_token_id"].is_null(), codec.tokenizer.bos_id()) {
        config["bos_token_id"] = json!(bos);
    }
    // Looking a key up by index leaves a null behind where there was none.
    if let Some(fields) = config.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    config
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value is JSON");
    text.push(b'\n');
    std::fs::write(path, text).map_err(|error| Error::io("write", path, error))
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;
    use farmhand_core::run::hash_path;
    use farmhand_core::types::Instruction;

    use super::*;
    use crate::{LlamaOptions, ModelConfig, PromptFormat, ScalarHead, Tokenizer, train_bpe};

    fn tokenizer() -> Tokenizer {
        train_bpe((0..100).map(|i| format!("an alpaca eats {i} carrots")), 300).expect("trained")
    }

    fn model(vocab_size: usize) -> LanguageModel {
        let config = ModelConfig::tiny_llama(LlamaOptions { vocab_size, ..LlamaOptions::default() });
        LanguageModel::random(config, Seed::root(1), tch::Device::Cpu).expect("made")
    }

    #[test]
    fn a_folder_holds_everything_and_the_same_model_gives_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let codec = TextCodec::new(tokenizer(), PromptFormat::Chat).expect("a codec");
        let model = model(300);
        let one = write_checkpoint(&dir.path().join("one"), &model, &codec, "sft").expect("written");
        let two = write_checkpoint(&dir.path().join("two"), &model, &codec, "sft").expect("written");
        assert_eq!(hash_path(one.path()).expect("hashed"), hash_path(two.path()).expect("hashed"));
        assert_eq!(one.kind().expect("readable"), CheckpointKind::CausalLm);

        let again = TextCodec::load(&one, None).expect("loaded");
        let instruction = Instruction::new("Feed an alpaca.", None);
        assert_eq!(again.format, PromptFormat::Chat);
        assert_eq!(again.prompt(&instruction).expect("encoded"), codec.prompt(&instruction).expect("encoded"));
        assert_eq!(again.stop_ids(), [2, 0]);
        assert_eq!(TextCodec::load(&one, Some(PromptFormat::Alpaca)).expect("loaded").format, PromptFormat::Alpaca);
        let loaded = LanguageModel::load(one.path(), tch::Device::Cpu).expect("loaded");
        assert!(loaded.parameters().iter().zip(model.parameters()).all(|(a, b)| a.0 == b.0 && a.1.equal(&b.1)));
    }

    #[test]
    fn a_scalar_model_is_marked_as_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let codec = TextCodec::new(tokenizer(), PromptFormat::Alpaca).expect("a codec");
        let model = model(300);
        let head = ScalarHead::random(model.config().hidden_size(), Seed::root(2), tch::Device::Cpu);
        let scalar = ScalarModel::from_language_model(model, head);
        let checkpoint = write_scalar_checkpoint(&dir.path().join("rm"), &scalar, &codec, "reward_modeling").expect("written");
        assert_eq!(checkpoint.kind().expect("readable"), CheckpointKind::RewardModel);
        let manifest = checkpoint.manifest().expect("readable").expect("there");
        assert_eq!((manifest.made_by.as_str(), manifest.prompt_format.as_deref()), ("reward_modeling", Some("alpaca")));
        assert!(ScalarModel::load(checkpoint.path(), tch::Device::Cpu).is_ok());
    }

    #[test]
    fn a_tokenizer_with_more_ids_than_the_model_is_refused_on_the_way_out_and_in() {
        let dir = tempfile::tempdir().expect("a folder");
        let codec = TextCodec::new(tokenizer(), PromptFormat::Alpaca).expect("a codec");
        let small = model(270);
        let path = dir.path().join("bad");
        let error = write_checkpoint(&path, &small, &codec, "sft").expect_err("does not fit");
        assert!(error.message().contains("270") && !path.exists(), "{error}");

        std::fs::create_dir(&path).expect("made");
        small.save(&path).expect("saved");
        codec.tokenizer.save(&path).expect("saved");
        let error = TextCodec::load(&Checkpoint::open(&path).expect("there"), None).expect_err("does not fit");
        assert!(error.message().contains("270") && error.hint().is_some(), "{error}");
    }
}
