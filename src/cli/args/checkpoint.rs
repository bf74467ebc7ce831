//! `farmhand checkpoint` on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `farmhand checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CheckpointCommand,
}

/// The subcommands of `farmhand checkpoint`.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Describe a model: architecture, sizes, weights, tokens, memory.
    Show(ShowArgs),
    /// Fetch models from the Hugging Face hub into the cache.
    Fetch(FetchArgs),
    /// Merge a low-rank adapter, made by farmhand or PEFT, with the model it changes.
    Merge(MergeArgs),
    /// Restore a model from its base and a published weight difference, as AlpacaFarm released its models.
    Recover(RecoverArgs),
}

/// `farmhand checkpoint show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand checkpoint show my-sft
  farmhand checkpoint show HuggingFaceTB/SmolLM2-135M-Instruct     fetches everything but the weights
  farmhand checkpoint show my-sft --json")]
pub struct ShowArgs {
    /// The model: a Hugging Face folder or a hub id.
    pub model: PathBuf,
}

/// `farmhand checkpoint fetch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand checkpoint fetch HuggingFaceTB/SmolLM2-135M-Instruct
  farmhand checkpoint fetch meta-llama/Llama-3.2-1B@main           with HF_TOKEN, where a model asks for one

The folder is printed. It lies in the cache that Python's tools share (HF_HOME); every file is checked against its hash, and
an interrupted download goes on where it stopped. HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT are
honoured too.")]
pub struct FetchArgs {
    /// The models: `owner/name`, `owner/name@revision` or `hf:owner/name`.
    #[arg(required = true, value_name = "ID")]
    pub models: Vec<PathBuf>,
}

/// `farmhand checkpoint merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand checkpoint merge --adapter my-dpo/checkpoint --out merged
  farmhand checkpoint merge --adapter peft-adapter --base HuggingFaceTB/SmolLM2-135M-Instruct --out merged

What is made is a whole Hugging Face folder. Merging is needed for programs that take no adapters: every farmhand command reads
an adapter's folder as it is, as long as the base model is where the adapter says.")]
pub struct MergeArgs {
    /// The adapter: a folder with adapter_config.json and adapter_model.safetensors.
    #[arg(long)]
    pub adapter: PathBuf,
    /// The model that it changes: a Hugging Face folder or a hub id; unset: the one that it names.
    #[arg(long)]
    pub base: Option<PathBuf>,
    /// The folder to make.
    #[arg(long)]
    pub out: PathBuf,
    /// CPU threads; 0 takes `OMP_NUM_THREADS`, or one per core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub threads: u16,
}

/// `farmhand checkpoint recover`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand checkpoint recover --base llama-7b-hf --diff tatsu-lab/alpaca-farm-ppo-sim-wdiff --out ppo-sim
  farmhand checkpoint recover --base llama-7b-hf --diff reward-model-human-wdiff --out rm-human --dtype bf16

The sum over all tensors is compared with the one in the difference's model_sum.txt; a wrong base is an error. Weights are
read as safetensors or as torch's .bin files, of which no code is run, one tensor at a time.")]
pub struct RecoverArgs {
    /// The model that the difference was taken from: a Hugging Face folder or a hub id.
    #[arg(long)]
    pub base: PathBuf,
    /// The published difference: a folder or a hub id.
    #[arg(long)]
    pub diff: PathBuf,
    /// The folder to make.
    #[arg(long)]
    pub out: PathBuf,
    /// The type of the weights written; the sum is taken before rounding.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub dtype: DtypeArg,
    /// The sum over all tensors, where the difference has no model_sum.txt.
    #[arg(long, value_name = "SUM", allow_negative_numbers = true)]
    pub expected_sum: Option<f64>,
    /// Compare the sum with nothing; then nothing says whether the base is the right one.
    #[arg(long, conflicts_with = "expected_sum")]
    pub unchecked: bool,
    /// CPU threads; 0 takes `OMP_NUM_THREADS`, or one per core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub threads: u16,
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeArg {
    /// 4 bytes a parameter, as computed.
    F32,
    /// 2 bytes a parameter, rounded.
    Bf16,
    /// 2 bytes a parameter, rounded.
    F16,
}
