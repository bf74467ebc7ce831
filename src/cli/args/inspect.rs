//! The subcommands that show what there is, and what a machine can do, on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::DeviceArg;

/// `farmhand list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this kind: learner, policy, reward_model, annotator or evaluator.
    pub kind: Option<String>,
    /// As the paper index in Markdown: what each follows, and the settings that reproduce it.
    #[arg(long)]
    pub markdown: bool,
}

/// `farmhand describe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand describe ppo
  farmhand describe experiment          the experiment file itself
  farmhand describe --all --markdown    the whole reference")]
pub struct DescribeArgs {
    /// The component's name; `experiment` is the experiment file.
    #[arg(required_unless_present = "all")]
    pub name: Option<String>,
    /// Everything.
    #[arg(long)]
    pub all: bool,
    /// As Markdown.
    #[arg(long)]
    pub markdown: bool,
}

/// `farmhand init`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand init                              writes experiment.toml, the embedded demo
  farmhand init mine.toml --methods dpo,ppo  with these methods, every option and its meaning")]
pub struct InitArgs {
    /// The file to write; an existing one is left alone.
    #[arg(default_value = "experiment.toml")]
    pub path: PathBuf,
    /// The methods to compare, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "dpo,ppo")]
    pub methods: Vec<String>,
}

/// `farmhand bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand bench                                            a built-in model of two million parameters, about a minute
  farmhand bench --model SmolLM2-135M --threads 1 --seconds 20
  farmhand bench --phases sft,dpo,generate_64 --json > bench.json
  farmhand bench --write-model tiny --data alpaca.jsonl     the built-in model as a folder, its tokenizer trained on the data

Phases: score, sft, dpo, reward_model, ppo, generate_1, generate_16, generate_64, generate_256, best_of_16. Each is a
subcommand of its own in a fresh process. Tokens are real ones; \"of bound\" compares with the machine's own rates of matrix
products and of reading memory, which are measured first. \"MFU\" counts operations by the usual convention, \"needed\" what
the result needs. \"overhead\" is time outside of tensor work, \"expected\" the memory that the learner foretold. On a machine
that does other work at the time, the figures are those of what is left.")]
pub struct BenchArgs {
    /// The model: a Hugging Face folder; unset: a random one of two million parameters.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Demonstrations to work on, in any of the field's formats; unset: made ones.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// What to measure, separated by commas; unset: everything.
    #[arg(long, value_delimiter = ',')]
    pub phases: Vec<String>,
    /// Seconds that a phase should take, about.
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub seconds: f64,
    /// CPU threads; 0 takes `OMP_NUM_THREADS`, or one per core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub threads: u16,
    /// Where tensors live.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// Write the built-in model to this folder instead of measuring.
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub write_model: Option<PathBuf>,
}

/// `farmhand estimate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand estimate --model Llama-2-7b --memory-gb 80              every method, whole model and adapters
  farmhand estimate --model config.json --storage f32 --tokens 2048 --json

\"most tokens\" is the largest forward pass that would fit. PPO holds a policy, a value model, a reward model and, unless
adapters are trained, a reference of the policy's size. `grpo` stands for every learner that samples responses of its own and
has no value model: rloo, remax, reinforce_pp, online_dpo, xpo and nash_md hold the same models.")]
pub struct EstimateArgs {
    /// A model folder, or a config.json; no weights are needed.
    #[arg(long)]
    pub model: PathBuf,
    /// Memory of the device, in units of 10⁹ bytes.
    #[arg(long, default_value_t = 80.0, value_parser = positive)]
    pub memory_gb: f64,
    /// How numbers are kept.
    #[arg(long, value_enum, default_value_t = StorageArg::Mixed)]
    pub storage: StorageArg,
    /// Rank of the adapters.
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// Tokens in one forward pass.
    #[arg(long, default_value_t = 8192)]
    pub tokens: usize,
    /// Sequences sampled at a time.
    #[arg(long, default_value_t = 64)]
    pub rows: usize,
    /// Prompt and answer of a sampled sequence together, in tokens.
    #[arg(long, default_value_t = 1024)]
    pub length: usize,
    /// PPO and GRPO hold no reward model: a program, a server or a rule scores, as with `[reward_model.scorer.http]` alone.
    #[arg(long)]
    pub no_reward_model: bool,
}

/// `--storage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StorageArg {
    /// Everything in 4 bytes, as learners do on the CPU.
    F32,
    /// Weights in 4 bytes, activations in 2, as learners do on a GPU.
    Mixed,
    /// Weights in 2 bytes with master copies of what is trained; on paper only, no learner does this yet.
    Bf16,
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}
