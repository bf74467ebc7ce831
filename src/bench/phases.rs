//! The phases: which subcommand runs on how much, and what its figures mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farmhand_core::data::{ReadOptions, read_completions};
use farmhand_core::types::Instruction;
use farmhand_core::{Error, Result};
use farmhand_models::Ceilings;

use super::BenchOptions;
use super::bounds::{Answer, generation_secs};
use super::child::{self, Recorded};
use super::material::Material;
use super::report::PhaseReport;
use crate::cli::Terminal;

/// Everything there is to measure, in the usual order.
pub const PHASES: [&str; 10] =
    ["score", "sft", "dpo", "reward_model", "ppo", "generate_1", "generate_16", "generate_64", "generate_256", "best_of_16"];

/// The share of the machine's rate that sizes are chosen for; only how long a phase takes depends on it.
const EXPECTED_SHARE: f64 = 0.4;

/// Records of an optimiser step.
const BATCH: usize = 16;

/// What all phases of one call share.
struct Bench<'a> {
    material: &'a Material,
    ceilings: &'a Ceilings,
    options: &'a BenchOptions,
    shows: bool,
}

/// Runs one phase.
pub(super) fn measure(
    name: &str,
    material: &Material,
    ceilings: &Ceilings,
    options: &BenchOptions,
    terminal: &Terminal,
) -> Result<PhaseReport> {
    let bench = Bench { material, ceilings, options, shows: terminal.is_interactive() };
    terminal.note(&format!("{name} ..."));
    match name {
        "score" => bench.score(),
        "sft" => bench.sft(),
        "dpo" => bench.dpo(),
        "reward_model" => bench.reward_model(),
        "ppo" => bench.ppo(),
        "best_of_16" => bench.generate(name, 1, 16),
        _ => match name.strip_prefix("generate_").and_then(|n| n.parse().ok()) {
            Some(n) => bench.generate(name, n, 1),
            None => Err(Error::other(format!("phase `{name}` has no measurement"))),
        },
    }
}

impl Bench<'_> {
    /// Records that keep the machine busy for the time asked for, at so many operations a token.
    fn records(&self, flops_per_token: f64) -> usize {
        let tokens = EXPECTED_SHARE * self.options.seconds * self.ceilings.matmul_flops / flops_per_token;
        let records = (tokens / self.material.mean_tokens()) as usize;
        // Whole optimiser steps, two at least.
        records.clamp(2 * BATCH, 4096).next_multiple_of(BATCH)
    }

    /// Arguments that every subcommand takes.
    fn command(&self, words: &[&str], data: &Path, settings: &[String]) -> Vec<String> {
        let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let device = match self.options.device {
            farmhand_core::Device::Auto => "auto",
            farmhand_core::Device::Cpu => "cpu",
            farmhand_core::Device::Cuda => "cuda",
        };
        let paths = [("--model", self.material.checkpoint.path()), ("--data", data)];
        arguments.extend(paths.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()]));
        arguments.extend(["--threads".to_owned(), self.options.threads.to_string(), "--device".to_owned(), device.to_owned()]);
        arguments.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]));
        arguments
    }

    /// Runs a subcommand with an output folder of its own, which is removed.
    fn run(&self, arguments: Vec<String>) -> Result<Recorded> {
        let out = self.material.folder.join("out");
        let recorded = self.run_into(arguments, &out);
        remove(&out)?;
        recorded
    }

    fn run_into(&self, mut arguments: Vec<String>, out: &Path) -> Result<Recorded> {
        remove(out)?;
        arguments.extend(["--out".to_owned(), out.display().to_string()]);
        child::run(&arguments, &out.join("events.jsonl"), self.shows)
    }

    fn score(&self) -> Result<PhaseReport> {
        let n = self.records(2.0 * self.material.n_matmul());
        let (data, tokens) = self.material.write_demonstrations(n)?;
        let log = self.material.folder.join("score.jsonl");
        remove(&log)?;
        let mut arguments = self.command(&["score"], &data, &[]);
        arguments.extend(["--events".to_owned(), log.display().to_string()]);
        let recorded = child::run(&arguments, &log, self.shows)?;
        self.report("score", &["scoring"], &recorded, tokens, format!("{n} texts"))
    }

    fn sft(&self) -> Result<PhaseReport> {
        let n = self.records(6.0 * self.material.n_matmul());
        let (data, tokens) = self.material.write_demonstrations(n)?;
        let settings = ["epochs=1".to_owned(), format!("batch_size={BATCH}")];
        let recorded = self.run(self.command(&["sft"], &data, &settings))?;
        self.report("sft", &["supervised fine-tuning"], &recorded, tokens, format!("{n} texts, {BATCH} a step"))
    }

    fn dpo(&self) -> Result<PhaseReport> {
        let n = self.records(2.0 * 8.0 * self.material.n_matmul());
        let (data, tokens) = self.material.write_pairs(n)?;
        let settings = ["epochs=1".to_owned(), format!("batch_size={BATCH}")];
        let recorded = self.run(self.command(&["learn", "dpo"], &data, &settings))?;
        let phases = ["reference log-probabilities", "preference optimisation"];
        self.report("dpo", &phases, &recorded, tokens, format!("{n} pairs, {BATCH} a step, one epoch with the reference's pass"))
    }

    fn reward_model(&self) -> Result<PhaseReport> {
        let n = self.records(2.0 * 6.0 * self.material.n_matmul());
        let (data, tokens) = self.material.write_pairs(n)?;
        let recorded = self.run_into(self.reward_model_command(&data), &self.judge())?;
        self.report("reward_model", &["reward modelling"], &recorded, tokens, format!("{n} pairs, {BATCH} a step"))
    }

    fn reward_model_command(&self, data: &Path) -> Vec<String> {
        self.command(&["reward-model"], data, &["epochs=1".to_owned(), format!("batch_size={BATCH}")])
    }

    /// Where the reward model lies once there is one.
    fn judge(&self) -> PathBuf {
        self.material.folder.join("judge")
    }

    fn ppo(&self) -> Result<PhaseReport> {
        if !self.judge().join("checkpoint").is_dir() {
            let (data, _) = self.material.write_pairs(BATCH)?;
            self.run_into(self.reward_model_command(&data), &self.judge())?;
        }
        // A token is sampled, passed through four models and twice through two of them with gradients.
        let n = (self.records(34.0 * self.material.n_matmul()) / BATCH * BATCH).clamp(BATCH, 256);
        let new_tokens = 64.min(self.material.config.max_positions() / 4);
        let (data, _) = self.material.write_instructions(n)?;
        let settings = [
            "steps=2".to_owned(),
            format!("rollout_size={n}"),
            format!("batch_size={BATCH}"),
            format!("max_new_tokens={new_tokens}"),
            "inner_epochs=1".to_owned(),
        ];
        let judge = self.judge().display().to_string();
        let recorded = self.run(self.command(&["learn", "ppo", "--reward-model", &judge], &data, &settings))?;
        let lengths = recorded.scalars.get("ppo/response_length").map_or(0.0, |lengths| lengths.iter().sum());
        let work = format!("2 steps of {n} answers of at most {new_tokens} tokens, one pass of updates");
        let phases = ["proximal policy optimisation"];
        let mut report = self.report("ppo", &phases, &recorded, (lengths * n as f64).round() as usize, work)?;
        for part in ["rollout", "score", "update"] {
            if let Some(secs) = recorded.scalars.get(&format!("ppo/{part}_secs")) {
                report.parts.insert(part.to_owned(), secs.iter().sum());
            }
        }
        Ok(report)
    }

    /// Answers to `n` instructions, or several to each.
    fn generate(&self, name: &str, n: usize, samples: usize) -> Result<PhaseReport> {
        let (data, n) = self.material.write_instructions(n)?;
        let new_tokens = self.new_tokens(n * samples);
        let mut arguments = match samples {
            1 => self.command(&["generate"], &data, &[format!("max_batch={}", n.max(1))]),
            _ => self.command(&["sample", "-n", &samples.to_string()], &data, &[]),
        };
        arguments.extend(["--max-new-tokens".to_owned(), new_tokens.to_string()]);
        let out = self.material.folder.join("out");
        let recorded = self.run_into(arguments, &out)?;
        let completions = read_completions(&out.join("completions.jsonl"), &ReadOptions::default())?.0;
        remove(&out)?;
        let prompt = |instruction: &Instruction| self.material.codec.prompt(instruction).map(|ids| ids.len());
        let mut prompts = BTreeMap::new();
        let mut answers = Vec::with_capacity(completions.len());
        for completion in &completions {
            let n_prompt = prompt(&completion.instruction)?;
            prompts.insert(completion.instruction.id.clone(), n_prompt);
            answers.push(Answer { n_prompt, n_tokens: completion.n_tokens as usize });
        }
        let tokens: usize = answers.iter().map(|answer| answer.n_tokens).sum();
        let longest = answers.iter().map(|answer| answer.n_tokens).max().unwrap_or(0);
        let mean = tokens as f64 / answers.len().max(1) as f64;
        let what = if samples > 1 { format!("{samples} answers to {n} prompt") } else { format!("{n} answers") };
        let work = format!("{what}, {mean:.0} tokens on average, {longest} at most");
        let mut report = self.report(name, &["sampling"], &recorded, tokens, work)?;
        let prompts: Vec<usize> = prompts.into_values().collect();
        report.share_of_bound = Some(generation_secs(&self.material.config, self.ceilings, &prompts, &answers) / report.secs);
        report.occupancy = recorded.figures.get("sampling").and_then(|figures| figures.get("occupancy").copied());
        Ok(report)
    }

    /// Tokens of an answer at most, so that the longest takes about the time asked for.
    fn new_tokens(&self, rows: usize) -> usize {
        let n = self.material.n_matmul();
        let step = (4.0 * n / self.ceilings.read_bytes).max(2.0 * n * rows as f64 / self.ceilings.matmul_flops);
        let tokens = (EXPECTED_SHARE * self.options.seconds / step) as usize;
        tokens.clamp(16, 256).min(self.material.config.max_positions() / 2)
    }

    /// The report of a process whose `phases` together are what is measured.
    fn report(&self, name: &str, phases: &[&str], recorded: &Recorded, tokens: usize, work: String) -> Result<PhaseReport> {
        let mut secs = 0.0;
        for phase in phases {
            secs += recorded.secs(phase)?;
        }
        // Rates are per second of their own phase.
        let total = |figure: &str| -> Option<f64> {
            let of = |phase: &&str| recorded.figures.get(*phase)?.get(figure).copied();
            phases.iter().map(of).sum::<Option<f64>>()
        };
        let flops = |figure: &str| -> Option<f64> {
            let of = |phase: &&str| Some(recorded.figures.get(*phase)?.get(figure)? * recorded.figures[*phase].get("secs")?);
            let done = phases.iter().map(of).sum::<Option<f64>>()?;
            Some(done / total("secs")?.max(1e-9) / self.ceilings.matmul_flops)
        };
        let (mfu, mfu_needed) = (flops("conventional_flops_per_sec"), flops("needed_flops_per_sec"));
        let main = phases.last().and_then(|phase| recorded.figures.get(*phase));
        Ok(PhaseReport {
            phase: name.to_owned(),
            work,
            tokens,
            secs,
            tokens_per_sec: tokens as f64 / secs.max(1e-9),
            share_of_bound: mfu_needed,
            mfu,
            mfu_needed,
            overhead: total("tensor_secs").zip(total("secs")).map(|(tensor, secs)| 1.0 - tensor / secs.max(1e-9)),
            padding: main.and_then(|figures| figures.get("padding").copied()).filter(|share| *share > 0.0),
            occupancy: main.and_then(|figures| figures.get("occupancy").copied()),
            peak_bytes: recorded.peak_bytes(),
            expected_bytes: recorded
                .scalars
                .iter()
                .find(|(name, _)| name.ends_with("/expected_bytes"))
                .map(|(_, values)| values[0]),
            startup_secs: recorded.startup_secs,
            parts: BTreeMap::new(),
        })
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
