//! `farmhand estimate`: what fits into how much memory, from a model's configuration alone.

use farmhand_core::{Device, Result};
use farmhand_models::{Storage, memory_in_use, tch_device};
use serde_json::json;

use super::args::{Cli, EstimateArgs, StorageArg};
use crate::pipeline::{EstimateOptions, EstimatedTraining, estimate_sampling, estimate_training, read_model_config};

/// Prints a line for every way to train, and one for sampling.
pub(super) fn estimate(args: &EstimateArgs, cli: &Cli) -> Result<()> {
    let config = read_model_config(&args.model)?;
    let options = EstimateOptions {
        memory: (args.memory_gb * 1e9) as u64,
        // What libtorch takes here stands for what it takes there.
        program: memory_in_use(tch_device(Device::Cpu)?).unwrap_or(300_000_000),
        storage: match args.storage {
            StorageArg::F32 => Storage::F32,
            StorageArg::Mixed => Storage::Mixed,
            StorageArg::Bf16 => Storage::Bf16,
        },
        rank: args.rank,
        tokens: args.tokens,
        rows: args.rows,
        length: args.length,
        reward_model: !args.no_reward_model,
    };
    let (rows, sampling) = (estimate_training(&config, &options), estimate_sampling(&config, &options));
    if cli.json {
        return super::print_json(&json!({
            "n_parameters": config.n_parameters(),
            "memory_bytes": options.memory,
            "training": rows,
            "sampling": { "parts": sampling.parts(), "total_bytes": sampling.total() },
        }));
    }
    let billions = config.n_parameters() as f64 / 1e9;
    let mut text = format!(
        "{billions:.2} billion parameters, {} tokens in a forward pass, {} GB, {:?}\n\n",
        args.tokens, args.memory_gb, options.storage
    );
    text += "method           trains    checkpoints     total   fits   most tokens\n";
    for row in &rows {
        text += &line(row, args.rank);
    }
    let cache = sampling.cache as f64 / 1e9;
    text += &format!(
        "\nsampling {} sequences of {} tokens: {:.1} GB, {cache:.1} of them for the cache\n",
        args.rows,
        args.length,
        sampling.total() as f64 / 1e9
    );
    super::print(&text)
}

fn line(row: &EstimatedTraining, rank: usize) -> String {
    let trains = if row.adapters { format!("rank {rank}") } else { "all".to_owned() };
    let checkpoints = if row.checkpointing { "every block" } else { "none" };
    let total = format!("{:.1} GB", row.total_bytes as f64 / 1e9);
    let fits = if row.fits { "yes" } else { "no" };
    let most = if row.most_tokens == 0 { "-".to_owned() } else { row.most_tokens.to_string() };
    let parts: Vec<String> = row.parts.iter().map(|(name, bytes)| format!("{name} {:.1}", *bytes as f64 / 1e9)).collect();
    format!("{:16} {trains:9} {checkpoints:11} {total:>9}   {fits:4} {most:>12}   {}\n", row.method, parts.join(", "))
}
