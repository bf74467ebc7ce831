//! `farmhand checkpoint show`: what a model is, from its configuration, its tokenizer and the headers of its files.

use std::path::{Path, PathBuf};

use farmhand_core::{ADAPTER_CONFIG, Checkpoint, CheckpointKind, Device, FindModel, Result};
use farmhand_models::{
    Activity, HeldModel, ModelConfig, PassSize, Storage, StoredWeights, TextCodec, default_pass_tokens, estimate_memory,
    stored_weights, tch_device,
};
use serde::Serialize;

use crate::cli::args::{Cli, ShowArgs};
use crate::cli::{Terminal, print, print_json};
use crate::hub::Want;
use crate::pipeline::Session;

/// Sequences that the memory figures assume when answering, and their length at most.
const ANSWERS: (usize, usize) = (64, 512);

/// What is shown.
#[derive(Debug, Serialize)]
struct Description {
    name: String,
    path: PathBuf,
    kind: CheckpointKind,
    made_by: Option<String>,
    /// The model that an adapter changes.
    adapter_of: Option<String>,
    architecture: String,
    n_parameters: usize,
    n_layers: usize,
    hidden_size: usize,
    n_kv_heads: usize,
    head_dim: usize,
    max_positions: usize,
    vocab_size: usize,
    tied_head: bool,
    /// Absent when the weights are not on this machine.
    weights: Option<StoredWeights>,
    tokens: Result<Tokens, String>,
    memory: Memory,
}

#[derive(Debug, Serialize)]
struct Tokens {
    n: usize,
    begin: Option<String>,
    end: Vec<String>,
    pad: Option<String>,
    chat_template: bool,
    /// How instructions become text.
    prompt: String,
}

/// Bytes, estimated.
#[derive(Debug, Serialize)]
struct Memory {
    weights_f32: u64,
    scoring: u64,
    generation: u64,
    training: u64,
}

/// Describes a model and prints it.
pub(super) fn show(args: &ShowArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let session = Session::new(Device::Cpu, terminal)?;
    let checkpoint = session.models(Want::Model).find_description(&args.model, Path::new(""))?;
    let description = describe(&checkpoint)?;
    if cli.json { print_json(&description) } else { print(&text(&description)) }
}

fn describe(checkpoint: &Checkpoint) -> Result<Description> {
    let config = ModelConfig::load(checkpoint.path())?;
    let manifest = checkpoint.manifest()?;
    let shape = config.shape();
    // As many tokens in a forward pass as learners take by default.
    let tokens = default_pass_tokens(tch_device(Device::Cpu)?);
    let pass = PassSize { tokens, predicted: tokens };
    let frozen = HeldModel::frozen("model", &config, true, Storage::F32);
    let total = |model: HeldModel, activity| estimate_memory(&[model], &[activity], 0).total();
    let length = shape.max_positions.min(ANSWERS.1);
    Ok(Description {
        name: checkpoint.name(),
        path: checkpoint.path().to_owned(),
        kind: checkpoint.kind()?,
        made_by: manifest.map(|manifest| manifest.made_by),
        adapter_of: adapter_base(checkpoint.path()),
        architecture: config.model_type().to_owned(),
        n_parameters: config.n_parameters(),
        n_layers: shape.n_layers,
        hidden_size: shape.hidden_size,
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
        max_positions: shape.max_positions,
        vocab_size: shape.vocab_size,
        tied_head: config.is_tied(),
        weights: stored_weights(checkpoint.path())?,
        tokens: self::tokens(checkpoint).map_err(|error| error.to_string()),
        memory: Memory {
            weights_f32: 4 * config.n_parameters() as u64,
            scoring: total(frozen.clone(), Activity::Score { model: 0, pass }),
            generation: total(frozen.clone(), Activity::Generate { model: 0, rows: ANSWERS.0, length }),
            training: total(frozen.trained(), Activity::Train { model: 0, pass, checkpoint_every: 0 }),
        },
    })
}

/// The model that an adapter changes, as its folder names it; `None` for a model with whole weights.
fn adapter_base(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(ADAPTER_CONFIG)).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(json["base_model_name_or_path"].as_str().unwrap_or("a model that it does not name").to_owned())
}

fn tokens(checkpoint: &Checkpoint) -> Result<Tokens> {
    let codec = TextCodec::load(checkpoint, None)?;
    let tokenizer = &codec.tokenizer;
    let spelled = |id: u32| tokenizer.token(id).unwrap_or_else(|| id.to_string());
    Ok(Tokens {
        n: tokenizer.vocab_size(),
        begin: tokenizer.bos_id().map(spelled),
        end: codec.stop_ids().into_iter().map(spelled).collect(),
        pad: Some(spelled(tokenizer.pad_id())),
        chat_template: tokenizer.chat_template_source().is_some(),
        prompt: codec.format.name().to_owned(),
    })
}

/// The description for people.
fn text(shown: &Description) -> String {
    let mut out = format!("{}\n", shown.name);
    let mut line = |key: &str, value: &str| out.push_str(&format!("  {key:13} {value}\n"));
    line("folder", &shown.path.display().to_string());
    let kind = if shown.kind == CheckpointKind::RewardModel { "reward model" } else { "causal language model" };
    line("kind", &shown.made_by.as_ref().map_or_else(|| kind.to_owned(), |maker| format!("{kind}, made by `{maker}`")));
    if let Some(base) = &shown.adapter_of {
        line("adapter of", base);
    }
    let head = if shown.tied_head { "tied head" } else { "head of its own" };
    let Description { architecture, n_layers, hidden_size, n_kv_heads, head_dim, .. } = shown;
    line(
        "architecture",
        &format!("{architecture}: {n_layers} blocks, width {hidden_size}, {n_kv_heads} key-value heads of {head_dim}, {head}"),
    );
    line("length", &format!("up to {} tokens", shown.max_positions));
    line("parameters", &count(shown.n_parameters));
    line(
        "weights",
        &match &shown.weights {
            None => "not on this machine".to_owned(),
            Some(stored) => {
                let types: Vec<&str> = stored.elements.keys().map(String::as_str).collect();
                let files = if stored.files.len() == 1 { "1 file".to_owned() } else { format!("{} files", stored.files.len()) };
                format!("{files}, {}, {}", size(stored.bytes), types.join(" and "))
            }
        },
    );
    match &shown.tokens {
        Err(problem) => line("tokens", &format!("{}; {problem}", shown.vocab_size)),
        Ok(tokens) => {
            let quoted = |tokens: &[String]| tokens.iter().map(|token| format!("`{token}`")).collect::<Vec<_>>().join(", ");
            let begin = tokens.begin.as_ref().map(|token| format!("begin `{token}`, ")).unwrap_or_default();
            let pad = tokens.pad.as_ref().map(|token| format!(", pad `{token}`")).unwrap_or_default();
            line("tokens", &format!("{} of {}, {begin}end {}{pad}", tokens.n, shown.vocab_size, quoted(&tokens.end)));
            let template = if tokens.chat_template { "there is a chat template" } else { "no chat template" };
            line("prompt", &format!("{}; {template}", tokens.prompt));
        }
    }
    let Memory { weights_f32, scoring, generation, training } = shown.memory;
    line("memory", &format!("{} a copy in f32; estimated in all:", size(weights_f32)));
    line("", &format!("{} to score, {} to train, with the tokens that a pass has by default", size(scoring), size(training)));
    line(
        "",
        &format!("{} to answer {} at a time, {} tokens each", size(generation), ANSWERS.0, ANSWERS.1.min(shown.max_positions)),
    );
    out
}

/// Parameters for people.
fn count(n: usize) -> String {
    if n < 100_000 { n.to_string() } else { format!("{:.2} M", n as f64 / 1e6) }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!([2_920, 269_060_552, 26_953_670_656].map(size), ["2.9 kB", "269.1 MB", "26.95 GB"]);
    }
}
