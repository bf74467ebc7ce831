//! What was measured, as numbers and as a table.

use std::collections::BTreeMap;
use std::fmt;

use farmhand_models::Ceilings;
use serde::Serialize;

use super::material::Material;

/// Everything one call measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// The machine.
    pub machine: MachineReport,
    /// The model's name.
    pub model: String,
    /// All its parameters.
    pub n_parameters: usize,
    /// Those that are multiplied with: without the embedding, with the output head.
    pub n_matmul_parameters: f64,
    /// The phases in order.
    pub phases: Vec<PhaseReport>,
}

/// The machine and what it can do at best.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineReport {
    /// The processor's name, where the system tells.
    pub processor: String,
    /// Its cores.
    pub n_cores: usize,
    /// Operations a second of large matrix products, by the fastest kernel.
    pub matmul_flops_per_sec: f64,
    /// Bytes a second read from memory.
    pub read_bytes_per_sec: f64,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseReport {
    /// Its name, one of [`super::PHASES`].
    pub phase: String,
    /// What was done, in words.
    pub work: String,
    /// Tokens: real ones, prompts included; in generation and PPO, those generated.
    pub tokens: usize,
    /// Seconds they took: without start-up and saving.
    pub secs: f64,
    /// Tokens a second.
    pub tokens_per_sec: f64,
    /// How near that is to what the machine could do: of matrix products in training and scoring, of reading weights and cache
    /// and of computing in generation.
    pub share_of_bound: Option<f64>,
    /// Operations by the usual convention (6 N a token and attention in full) over the machine's rate.
    pub mfu: Option<f64>,
    /// Operations that the result needs (causal attention, the head only where a token is predicted) over the machine's rate.
    pub mfu_needed: Option<f64>,
    /// Share of the time outside of tensor work.
    pub overhead: Option<f64>,
    /// Share of computed tokens that are padding.
    pub padding: Option<f64>,
    /// Share of the rows of generation steps that were in use.
    pub occupancy: Option<f64>,
    /// Bytes the process held at most.
    pub peak_bytes: Option<f64>,
    /// Bytes the learner expected to hold at most.
    pub expected_bytes: Option<f64>,
    /// Seconds from the process's start to its first step.
    pub startup_secs: f64,
    /// Seconds by part of the phase, where it has parts.
    pub parts: BTreeMap<String, f64>,
}

impl MachineReport {
    pub(super) fn new(ceilings: Ceilings) -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name.trim());
        Self {
            processor: name.unwrap_or("unknown processor").to_owned(),
            n_cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            matmul_flops_per_sec: ceilings.matmul_flops,
            read_bytes_per_sec: ceilings.read_bytes,
        }
    }
}

impl BenchReport {
    pub(super) fn new(machine: MachineReport, material: &Material) -> Self {
        Self {
            machine,
            model: material.name.clone(),
            n_parameters: material.config.n_parameters(),
            n_matmul_parameters: material.n_matmul(),
            phases: Vec::new(),
        }
    }
}

impl fmt::Display for MachineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, n_cores, matmul_flops_per_sec: matmul, read_bytes_per_sec: read } = self;
        write!(
            f,
            "{processor}, {n_cores} cores: matrix products {:.0} GFLOP/s, reading memory {:.1} GB/s",
            matmul / 1e9,
            read / 1e9
        )
    }
}

/// The table's head; each phase is a line of it.
pub const HEAD: &str = "phase           tokens/s   of bound     MFU  needed  overhead    memory  expected  first step";

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.0} %", 100.0 * value));
        let bytes = |value: Option<f64>| value.map_or("-".to_owned(), |bytes| format!("{:.0} MB", bytes / 1e6));
        write!(
            f,
            "{:14} {:>9.0} {:>10} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9.1} s   {}",
            self.phase,
            self.tokens_per_sec,
            share(self.share_of_bound),
            share(self.mfu),
            share(self.mfu_needed),
            share(self.overhead),
            bytes(self.peak_bytes),
            bytes(self.expected_bytes),
            self.startup_secs,
            self.work
        )?;
        let parts: Vec<String> = self.parts.iter().map(|(part, secs)| format!("{part} {secs:.1} s")).collect();
        let more = [self.padding.map(|share| ("padding", share)), self.occupancy.map(|share| ("occupancy", share))];
        let more = more.into_iter().flatten().map(|(name, share)| format!("{name} {:.0} %", 100.0 * share));
        let notes: Vec<String> = parts.into_iter().chain(more).collect();
        if notes.is_empty() { Ok(()) } else { write!(f, "; {}", notes.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_is_known_under_the_head() {
        let phase = PhaseReport {
            phase: "ppo".to_owned(),
            work: "1 step".to_owned(),
            tokens: 640,
            secs: 2.0,
            tokens_per_sec: 320.0,
            share_of_bound: None,
            mfu: Some(0.5),
            mfu_needed: Some(0.404),
            overhead: Some(0.02),
            padding: None,
            occupancy: Some(0.9),
            peak_bytes: Some(3.2e8),
            expected_bytes: None,
            startup_secs: 0.62,
            parts: BTreeMap::from([("rollout".to_owned(), 1.25)]),
        };
        let line = phase.to_string();
        assert!(line.contains("320") && line.contains("50 %") && line.contains("40 %") && line.contains("320 MB"), "{line}");
        assert!(line.ends_with("1 step; rollout 1.2 s, occupancy 90 %"), "{line}");
        let column = |name: &str| HEAD.find(name).expect("a column") + name.len();
        assert_eq!(line.find("320").expect("shown") + 3, column("tokens/s"));
        assert_eq!(line.find("0.6 s").expect("shown") + 5, column("first step"));
    }
}
