//! What is measured on: a model, demonstrations, pairs.
//!
//! Made texts are as unequal in length as real ones: answers of the Alpaca data have a median of 44 tokens and a mean of 58,
//! close to a log-normal distribution.

use std::path::{Path, PathBuf};

use farmhand_core::data::synthetic;
use farmhand_core::data::{ReadOptions, read_demonstrations, write_jsonl};
use farmhand_core::types::{Demonstration, Instruction, PreferencePair};
use farmhand_core::{Checkpoint, Device, Error, Result, Rng, Seed};
use farmhand_models::{
    Ending, LanguageModel, LlamaOptions, ModelConfig, ModelFlops, PromptFormat, TextCodec, tch_device, train_bpe,
    write_checkpoint,
};
use serde_json::json;

use super::{BenchOptions, folder_name};

/// A model, texts that fit it, and their lengths.
pub struct Material {
    /// The model's folder.
    pub checkpoint: Checkpoint,
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub config: ModelConfig,
    /// Where files may be written.
    pub folder: PathBuf,
    pub(super) codec: TextCodec,
    demonstrations: Vec<Demonstration>,
    /// Tokens of prompt and answer of each.
    lengths: Vec<(usize, usize)>,
}

/// Longest text, in tokens, prompt and answer together.
const LONGEST: usize = 512;

/// Demonstrations that are made when none are given.
const N_MADE: usize = 600;

/// The seed of everything that is made here.
fn seed() -> Seed {
    Seed::root(0).child("bench", 0)
}

impl Material {
    /// Reads or makes the model and the texts.
    pub(super) fn prepare(options: &BenchOptions, folder: &Path) -> Result<Self> {
        let demonstrations = match &options.data {
            Some(path) => read_demonstrations(path, &ReadOptions::default())?.0,
            None => made_demonstrations(N_MADE, &mut seed().child("texts", 0).rng()),
        };
        let checkpoint = match &options.model {
            Some(path) => Checkpoint::open(path)?,
            None => builtin_model(&folder.join("model"), &demonstrations, options.device)?,
        };
        let name = options.model.as_deref().map_or_else(|| "built-in".to_owned(), folder_name);
        Self::new(checkpoint, name, demonstrations, folder)
    }

    fn new(checkpoint: Checkpoint, name: String, demonstrations: Vec<Demonstration>, folder: &Path) -> Result<Self> {
        let config = ModelConfig::load(checkpoint.path())?;
        let codec = TextCodec::load(&checkpoint, None)?;
        let longest = LONGEST.min(config.max_positions());
        let mut material =
            Self { checkpoint, name, config, folder: folder.to_owned(), codec, demonstrations: Vec::new(), lengths: Vec::new() };
        for demonstration in demonstrations {
            let text = material.codec.encode(&demonstration.instruction, &demonstration.output, Ending::WithEos)?;
            // Room for an answer of the same length at most.
            if text.ids.len() <= longest && text.response_start > 0 && 2 * text.response_start < longest {
                material.lengths.push((text.response_start, text.response().len()));
                material.demonstrations.push(demonstration);
            }
        }
        if material.demonstrations.len() < 2 {
            return Err(Error::invalid_data(format!("fewer than two demonstrations fit into {longest} tokens"))
                .with_hint("give `--data` with shorter texts, or a model with a longer context"));
        }
        Ok(material)
    }

    /// What it is, in words.
    pub fn summary(&self) -> String {
        format!(
            "{}: {:.1} M parameters, {:.1} M of them in matrix products, {} tokens in the vocabulary, texts of {:.0} tokens on average",
            self.name,
            self.config.n_parameters() as f64 / 1e6,
            self.n_matmul() / 1e6,
            self.config.vocab_size(),
            self.mean_tokens()
        )
    }

    /// N of the conventions: parameters that are multiplied with.
    pub(super) fn n_matmul(&self) -> f64 {
        ModelFlops::of(&self.config).n_parameters() as f64
    }

    /// Mean tokens of a text.
    pub(super) fn mean_tokens(&self) -> f64 {
        let total: usize = self.lengths.iter().map(|(prompt, answer)| prompt + answer).sum();
        total as f64 / self.lengths.len() as f64
    }

    /// How many different texts there are.
    pub(super) fn len(&self) -> usize {
        self.demonstrations.len()
    }

    /// Writes `n` demonstrations, the first ones again where there are fewer; gives the file and all their tokens.
    pub(super) fn write_demonstrations(&self, n: usize) -> Result<(PathBuf, usize)> {
        let path = self.folder.join("demonstrations.jsonl");
        write_jsonl(&path, self.demonstrations.iter().cycle().take(n))?;
        let tokens = self.lengths.iter().cycle().take(n).map(|(prompt, answer)| prompt + answer).sum();
        Ok((path, tokens))
    }

    /// Writes `n` pairs: the answer of a demonstration and that of the next one; gives the file and all their tokens, a pair's
    /// prompt twice.
    pub(super) fn write_pairs(&self, n: usize) -> Result<(PathBuf, usize)> {
        let path = self.folder.join("pairs.jsonl");
        let count = self.len();
        let pair = |i: usize| PreferencePair {
            instruction: self.demonstrations[i % count].instruction.clone(),
            chosen: self.demonstrations[i % count].output.clone(),
            rejected: self.demonstrations[(i + 1) % count].output.clone(),
            p_chosen: None,
            margin: None,
        };
        let pairs = (0..n).map(pair).filter(|pair| pair.chosen != pair.rejected);
        write_jsonl(&path, pairs)?;
        let tokens = |i: usize| 2 * self.lengths[i % count].0 + self.lengths[i % count].1 + self.lengths[(i + 1) % count].1;
        let kept = (0..n).filter(|i| self.demonstrations[i % count].output != self.demonstrations[(i + 1) % count].output);
        Ok((path, kept.map(tokens).sum()))
    }

    /// Writes `n` different instructions, or as many as there are; gives the file and their number.
    pub(super) fn write_instructions(&self, n: usize) -> Result<(PathBuf, usize)> {
        let path = self.folder.join("instructions.jsonl");
        let n = n.min(self.len());
        write_jsonl(&path, self.demonstrations.iter().take(n).map(|shown| &shown.instruction))?;
        Ok((path, n))
    }
}

/// Writes the built-in model to a folder, its tokenizer trained on `data` or on made texts.
///
/// # Errors
/// When the data cannot be read or the disk refuses.
pub fn write_builtin_model(dir: &Path, data: Option<&Path>, device: Device) -> Result<Checkpoint> {
    let demonstrations = match data {
        Some(path) => read_demonstrations(path, &ReadOptions::default())?.0,
        None => made_demonstrations(N_MADE, &mut seed().child("texts", 0).rng()),
    };
    builtin_model(dir, &demonstrations, device)
}

/// A random Llama of about two million parameters that ends its answers, sampled at temperature 1, after 64 tokens on average.
fn builtin_model(dir: &Path, demonstrations: &[Demonstration], device: Device) -> Result<Checkpoint> {
    let texts = demonstrations.iter().map(|shown| format!("{}\n{}", shown.instruction.text(), shown.output));
    let codec = TextCodec::new(train_bpe(texts, 2048)?, PromptFormat::Alpaca)?;
    let vocab_size = codec.tokenizer.vocab_size();
    let config = ModelConfig::tiny_llama(LlamaOptions {
        vocab_size,
        hidden_size: 192,
        intermediate_size: 640,
        n_layers: 4,
        n_heads: 6,
        n_kv_heads: 2,
        max_positions: 1024,
        bos_token_id: codec.tokenizer.bos_id(),
        eos_token_id: Some(codec.tokenizer.eos_id()),
        pad_token_id: Some(codec.tokenizer.pad_id()),
        ..LlamaOptions::default()
    });
    let model = LanguageModel::random(config, seed().child("weights", 0), tch_device(device)?)?;
    let checkpoint = write_checkpoint(dir, &model, &codec, "bench")?;
    // Its next token is nearly any, so one in 64 ends an answer; lengths are as unequal as those of a geometric distribution.
    let mut ends: Vec<u32> = (0..vocab_size as u32).step_by(64).collect();
    if !ends.contains(&codec.tokenizer.eos_id()) {
        ends.push(codec.tokenizer.eos_id());
    }
    let path = dir.join("generation_config.json");
    let text = json!({ "eos_token_id": ends, "pad_token_id": codec.tokenizer.pad_id() }).to_string();
    std::fs::write(&path, text + "\n").map_err(|error| Error::io("write", &path, error))?;
    Ok(checkpoint)
}

/// Instructions with answers of unequal length, put together from sentences of a small world.
fn made_demonstrations(n: usize, rng: &mut Rng) -> Vec<Demonstration> {
    let sentences = synthetic::generate(4 * n, seed().child("sentences", 0));
    let mut next = sentences.iter().cycle();
    let mut text_of = |words: usize| {
        let mut text = String::new();
        while text.split_whitespace().count() < words {
            let Some(shown) = next.next() else { break };
            text += if text.is_empty() { "" } else { " " };
            text += &shown.output;
        }
        text.split_whitespace().take(words).collect::<Vec<_>>().join(" ")
    };
    let make = |i: usize| {
        let asked = &sentences[i % sentences.len()].instruction;
        let instruction = Instruction::new(format!("{} ({i})", asked.instruction), asked.input.as_deref());
        let words = (33.0 * (0.8 * rng.normal()).exp()).clamp(2.0, 220.0) as usize;
        Demonstration { instruction, output: text_of(words) }
    };
    (0..n).map(make).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_model_has_two_million_parameters_and_ends_its_answers() {
        let dir = std::env::temp_dir().join(format!("farmhand-material-{}", std::process::id()));
        let checkpoint = write_builtin_model(&dir.join("model"), None, Device::Cpu).expect("made");
        let config = ModelConfig::load(checkpoint.path()).expect("read");
        assert!((1_500_000..2_700_000).contains(&config.n_parameters()), "{}", config.n_parameters());
        let codec = TextCodec::load(&checkpoint, None).expect("read");
        assert!(codec.stop_ids().len() * 70 > config.vocab_size());
        let demonstrations = made_demonstrations(50, &mut Seed::root(1).rng());
        let material = Material::new(checkpoint, "built-in".to_owned(), demonstrations, &dir).expect("ready");
        let (file, tokens) = material.write_pairs(70).expect("written");
        let lines = std::fs::read_to_string(file).expect("read").lines().count();
        assert!(lines <= 70 && lines > 60 && tokens > 70 * 40);
        let answers: Vec<usize> = material.lengths.iter().map(|(_, answer)| *answer).collect();
        let (shortest, longest) = (answers.iter().min().expect("some"), answers.iter().max().expect("some"));
        assert!(longest > &(3 * shortest), "{answers:?}");
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
