//! The command line: every subcommand with its options and examples. Depends on clap and serde_json alone, for both binaries share it:
//! `farmhand` answers help and mistakes within milliseconds, `farmhand-engine` does what may need a model.

mod agreement;
mod annotate;
mod checkpoint;
mod compare;
mod evaluate;
mod evaluate_annotators;
mod evaluate_transfer;
mod inspect;
mod judgements;
mod leaderboard;
mod pages;
mod parse;
mod plugin;
mod query;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use agreement::*;
pub use annotate::*;
pub use checkpoint::*;
pub use compare::*;
pub use evaluate::*;
pub use evaluate_annotators::*;
pub use evaluate_transfer::*;
pub use inspect::*;
pub use judgements::*;
pub use leaderboard::*;
pub use pages::*;
pub use parse::parse;
pub use plugin::*;
pub use query::*;

/// Learn from feedback on a language model's answers, evaluate, and draw the comparison.
#[derive(Debug, Parser)]
#[command(name = "farmhand", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Print the result as JSON on stdout, for scripts.
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress bars and no notes; errors still appear.
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// Load a plugin, or every `.so` in a folder. May be repeated.
    #[arg(long = "plugin", value_name = "PATH", global = true)]
    pub plugins: Vec<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  farmhand run examples/configs/quickstart.toml        the whole job, to a leaderboard and a report
  farmhand run my.toml --set methods.dpo.learner.dpo.beta=0.2 --set name=beta-02
  farmhand list learner                                what there is
  farmhand describe dpo                                its options, defaults and paper
  farmhand sft --model DIR --data demos.jsonl --out my-sft
  farmhand learn dpo --model my-sft --data pairs.jsonl --out my-dpo
  farmhand score --model my-dpo --data records.jsonl   log-probabilities, one JSON line a record

Data goes to stdout, everything else to stderr. Ctrl-C stops after the current step; the same command goes on.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole experiment: data, SFT, sampling, annotation, reward model, methods, evaluation, report.
    Run(RunArgs),
    /// Fine-tune a model on demonstrations.
    Sft(LearnArgs),
    /// Sample several answers per instruction and pair them for annotation.
    Sample(SampleArgs),
    /// Judge pairs of answers.
    Annotate(AnnotateArgs),
    /// Have people judge pairs of answers in a browser.
    Label(LabelArgs),
    /// Train a reward model on preference pairs.
    RewardModel(LearnArgs),
    /// Learn from feedback with any method.
    Learn(LearnMethodArgs),
    /// Answer instructions, one answer each.
    Generate(GenerateArgs),
    /// Compare answers with a reference's, or measure finished judgements.
    Evaluate(Box<EvaluateArgs>),
    /// How far raters agree, and how reliable each is: κ, α, intervals.
    Agreement(AgreementArgs),
    /// Say whether the difference between two models is real: interval, p value, and how many instructions it takes.
    Compare(CompareArgs),
    /// Write the leaderboard, charts, tables and HTML report of run directories.
    Report(ReportArgs),
    /// Ask run directories and files of judgements anything, in SQL; export to Parquet.
    Query(QueryArgs),
    /// Show runs in a browser, live and read-only.
    Serve(ServeArgs),
    /// Log-probabilities of given responses, one JSON line a record; how well a reward model orders given pairs.
    Score(ScoreArgs),
    /// Look at model folders, fetch models from the hub, restore published weight differences.
    Checkpoint(CheckpointArgs),
    /// Judgement stores: import, export, list, count, check.
    Judgements(JudgementsArgs),
    /// List the components there are.
    List(ListArgs),
    /// Describe a component: options, defaults, units, paper.
    Describe(DescribeArgs),
    /// Write a commented configuration to start from.
    Init(InitArgs),
    /// Components of your own as shared libraries: write, compile, check.
    Plugin(PluginArgs),
    /// Measure tokens/s, utilisation and memory of every phase on this machine.
    Bench(BenchArgs),
    /// Estimate what fits into how much memory, from a model's config.json alone.
    Estimate(EstimateArgs),
}

/// `farmhand run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand run quickstart.toml
  farmhand run quickstart.toml --set seed=1 --set name=quickstart-1
  farmhand run quickstart.toml --dry-run

A run directory `runs/<name>` is made. Finished stages are skipped and an interrupted one goes on, so the same command
resumes a stopped run.")]
pub struct RunArgs {
    /// The experiment, a TOML file.
    pub config: PathBuf,
    /// Override one value by path, for example `methods.dpo.learner.dpo.beta=0.2`. May be repeated.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Folder for run directories.
    #[arg(long, default_value = "runs")]
    pub runs_dir: PathBuf,
    /// Print the plan, the sizes, the memory estimate and what judging by servers may cost; do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// What paid requests may cost, in US dollars, over all stages and resumptions; in place of the experiment's `budget_usd`.
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub budget: Option<f64>,
    /// Make stages again whose options, inputs or outputs changed; what they made before is replaced.
    #[arg(long)]
    pub redo: bool,
}

/// What every subcommand that loads a model takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Root of the seed tree.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where tensors live.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// CPU threads; 0 takes `OMP_NUM_THREADS`, or one per core.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub threads: u16,
    /// Override one option of the component by path, for example `optim.lr=1e-5`. May be repeated.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// How instructions become text; unset: what the model says.
    #[arg(long, value_enum)]
    pub template: Option<TemplateArg>,
    /// Count and list bad records instead of stopping at the first.
    #[arg(long)]
    pub skip_bad_records: bool,
    /// Do it again when options, inputs or outputs changed; what was made before is replaced.
    #[arg(long)]
    pub redo: bool,
}

/// `--device`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DeviceArg {
    /// A CUDA GPU when there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA GPU.
    Cuda,
}

/// `--template`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum TemplateArg {
    /// The plain text.
    None,
    /// The Alpaca prompt.
    Alpaca,
    /// The model's chat template.
    Chat,
}

impl TemplateArg {
    /// The name in checkpoints and configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Alpaca => "alpaca",
            Self::Chat => "chat",
        }
    }
}

/// `farmhand sft` and `farmhand reward-model`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand sft --model SmolLM2-135M --data alpaca.jsonl.gz --out my-sft --set epochs=2 --set optim.lr=2e-5
  farmhand reward-model --model my-sft --data preferences.json --out my-rm

The model lands in OUT/checkpoint; OUT itself also works wherever a model is asked for. Run the same command again to go
on after an interruption.")]
pub struct LearnArgs {
    /// The model to start from: a Hugging Face folder or a hub id.
    #[arg(long)]
    pub model: PathBuf,
    /// What to learn from: JSON, JSONL (.gz, .zst) or Parquet, in any of the field's formats.
    #[arg(long)]
    pub data: PathBuf,
    /// Held-out records for validation.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// The folder to write to.
    #[arg(long)]
    pub out: PathBuf,
    /// Keep the policy after every so many steps in OUT/checkpoints, beside the last one.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: Option<u64>,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}

/// `farmhand learn`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand learn dpo --model my-sft --data pairs.jsonl --out my-dpo --set beta=0.05
  farmhand learn ppo --model my-sft --data prompts.jsonl --reward-model my-rm --out my-ppo")]
pub struct LearnMethodArgs {
    /// The learner's name; `farmhand list learner` shows them.
    pub method: String,
    /// The reward model's folder or hub id, for methods that ask one.
    #[arg(long)]
    pub reward_model: Option<PathBuf>,
    /// The reference policy's folder or hub id; unset: the start model.
    #[arg(long)]
    pub reference: Option<PathBuf>,
    /// The rest.
    #[command(flatten)]
    pub learn: LearnArgs,
}

/// How answers are sampled.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Softmax temperature; 0 is greedy.
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Keep only the k most likely tokens; 0 keeps all.
    #[arg(long)]
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with this probability.
    #[arg(long, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Drop tokens less likely than this fraction of the most likely one.
    #[arg(long, allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Penalty on tokens that already occurred; 1 does nothing.
    #[arg(long, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f64>,
    /// Tokens per answer at most.
    #[arg(long)]
    pub max_new_tokens: Option<u32>,
    /// A text that ends an answer. May be repeated.
    #[arg(long)]
    pub stop: Vec<String>,
    /// Record each answer's log-probability.
    #[arg(long)]
    pub log_probs: bool,
}

/// `farmhand sample`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand sample --model my-sft --data instructions.jsonl --out samples -n 4
  farmhand annotate --data samples/comparisons.jsonl --out annotated --model my-sft")]
pub struct SampleArgs {
    /// The model: a Hugging Face folder or a hub id.
    #[arg(long)]
    pub model: PathBuf,
    /// Instructions, in any of the field's formats.
    #[arg(long)]
    pub data: PathBuf,
    /// The folder to write `completions.jsonl` and `comparisons.jsonl` to.
    #[arg(long)]
    pub out: PathBuf,
    /// Answers per instruction.
    #[arg(short, default_value_t = 2)]
    pub n: u32,
    /// Pair every two different answers instead of one pair an instruction.
    #[arg(long)]
    pub all_pairs: bool,
    /// The policy's name; `farmhand list policy` shows them.
    #[arg(long, default_value = "causal_lm")]
    pub policy: String,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}

/// Who judges, and the models that judges may use.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// What paid requests may cost, in US dollars, over all runs with the same output folder; unset: without limit.
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub budget: Option<f64>,
    /// The annotator's name; `farmhand list annotator` shows them.
    #[arg(long, default_value = "pool")]
    pub annotator: String,
    /// The language model that annotators with a taste for likely answers use.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// The reward model for the mean reward, where it is measured, and for annotators that name none.
    #[arg(long)]
    pub reward_model: Option<PathBuf>,
}

/// `farmhand generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand generate --model my-dpo --data eval.jsonl --out answers --temperature 0.7
  farmhand generate --model my-sft --reward-model my-rm --policy best_of_n --set n=16 --data eval.jsonl --out bo16")]
pub struct GenerateArgs {
    /// The model: a Hugging Face folder or a hub id.
    #[arg(long)]
    pub model: PathBuf,
    /// Instructions, in any of the field's formats.
    #[arg(long)]
    pub data: PathBuf,
    /// The folder to write `completions.jsonl` and `outputs.json` (AlpacaEval's format) to.
    #[arg(long)]
    pub out: PathBuf,
    /// The policy's name; `farmhand list policy` shows them.
    #[arg(long, default_value = "causal_lm")]
    pub policy: String,
    /// The reward model for policies that ask one.
    #[arg(long)]
    pub reward_model: Option<PathBuf>,
    /// The name the answers carry; unset: the model folder's.
    #[arg(long)]
    pub name: Option<String>,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}

/// `farmhand report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand report runs/quickstart
  farmhand report runs/quickstart runs/beta-02 --out comparison

Written are `index.html` (one page that needs nothing else), `report.md`, `leaderboard.{md,csv,json,tex}`,
`paired_differences.{csv,tex}`, `by_dataset.{csv,tex}` and `charts/*.{svg,png}`, each where there is data for it. The tables of the
page can be sorted; without scripts it shows the same.")]
pub struct ReportArgs {
    /// The run directories.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Where the report goes; with one run, its `report` folder by default.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `farmhand score`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand score --model SmolLM2-135M --data records.jsonl
  farmhand score --model SmolLM2-135M --data pairs.jsonl --template none
  farmhand score --model my-rm --data held-out-pairs.jsonl

Records are `{prompt, completion}` or Alpaca's `{instruction, input, output}`. Each gives one line with `sum_log_prob`
(nats) and `n_tokens` of the response. With `--template none` the text is the plain concatenation of prompt and response,
and no token is added; otherwise the response ends with one end-of-sequence token, which counts. Where a tokenizer would merge
the end of the prompt with the start of the response into one token, the two are tokenised apart, as in generation.

With a reward model the records are preference pairs, and one JSON object says how it orders them: `accuracy` with its interval,
`brier` and `calibration_error` of its probabilities, and the accuracy on pairs whose chosen answer is the longer or the shorter
one, and on pairs of small and of large margin. Where the pairs name several data sets, `accuracy/NAME` and `n_pairs/NAME` for each, and
`accuracy_over_datasets`, the plain mean of their accuracies, as RewardBench counts.")]
pub struct ScoreArgs {
    /// The model: a Hugging Face folder or a hub id.
    #[arg(long)]
    pub model: PathBuf,
    /// The records.
    #[arg(long)]
    pub data: PathBuf,
    /// Tokens in one forward pass at most; by default 1024 on the CPU and 8192 on a GPU.
    #[arg(long)]
    pub max_batch_tokens: Option<usize>,
    /// Append progress and figures (tokens/s, memory) to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}

/// A number of dollars, 0 included.
fn dollars(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number ≥ 0".to_owned()),
    }
}
