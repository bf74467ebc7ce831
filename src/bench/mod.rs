//! `farmhand bench`: how fast this machine does what farmhand does, and how far that is from what the machine can do.
//!
//! Every phase is this program's own subcommand in a fresh process, on a temporary folder, and the figures are those that the
//! process records for everyone: so a figure here is what a user gets, start-up and memory included.

mod bounds;
mod child;
mod material;
mod phases;
mod report;

pub use material::{Material, write_builtin_model};
pub use phases::PHASES;
pub use report::{BenchReport, HEAD, MachineReport, PhaseReport};

use std::path::{Path, PathBuf};

use farmhand_core::config::did_you_mean;
use farmhand_core::{CancelFlag, Device, Error, Result};
use farmhand_models::{measure_ceilings, tch_device};

use crate::cli::Terminal;

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchOptions {
    /// The model's folder; without one a random model of two million parameters is made.
    pub model: Option<PathBuf>,
    /// Demonstrations to work on; without them some are made.
    pub data: Option<PathBuf>,
    /// Names out of [`PHASES`]; all of them when empty.
    pub phases: Vec<String>,
    /// Seconds that a phase should take, about.
    pub seconds: f64,
    /// CPU threads; 0 takes what the environment says.
    pub threads: usize,
    /// Where tensors live.
    pub device: Device,
}

impl BenchOptions {
    /// The phases asked for, in their usual order.
    fn wanted(&self) -> Result<Vec<&'static str>> {
        if let Some(unknown) = self.phases.iter().find(|name| !PHASES.contains(&name.as_str())) {
            return Err(Error::invalid_config(format!("there is no phase `{unknown}` to measure"))
                .with_hint(did_you_mean(unknown, &PHASES)));
        }
        Ok(PHASES.into_iter().filter(|name| self.phases.is_empty() || self.phases.iter().any(|wanted| wanted == name)).collect())
    }
}

/// Measures, phase after phase; `on_phase` hears of every finished one.
///
/// # Errors
/// When the model or the data cannot be read, or a phase fails.
pub fn bench(
    options: &BenchOptions,
    terminal: &Terminal,
    cancel: &CancelFlag,
    on_phase: &mut dyn FnMut(&PhaseReport) -> Result<()>,
) -> Result<BenchReport> {
    let wanted = options.wanted()?;
    let folder = TemporaryFolder::new()?;
    terminal.note("measuring what the machine can do at best");
    let ceilings = measure_ceilings(tch_device(options.device)?);
    let material = Material::prepare(options, &folder.0)?;
    terminal.note(&material.summary());
    let mut report = BenchReport::new(MachineReport::new(ceilings), &material);
    for name in wanted {
        cancel.check()?;
        let phase = phases::measure(name, &material, &ceilings, options, terminal)
            .map_err(|error| error.context(format_args!("phase `{name}`")))?;
        on_phase(&phase)?;
        report.phases.push(phase);
    }
    Ok(report)
}

/// A folder that goes when the measuring is over.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("farmhand-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::io("make folder", &path, error))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's temporary folder, where it is expected.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The name of a folder, for people.
fn folder_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(phases: &[&str]) -> BenchOptions {
        let phases = phases.iter().map(|name| (*name).to_owned()).collect();
        BenchOptions { model: None, data: None, phases, seconds: 1.0, threads: 1, device: Device::Cpu }
    }

    #[test]
    fn phases_come_in_their_usual_order_and_unknown_ones_are_refused_with_the_nearest() {
        assert_eq!(options(&[]).wanted().expect("all"), PHASES);
        assert_eq!(options(&["dpo", "sft"]).wanted().expect("known"), ["sft", "dpo"]);
        let error = options(&["generate_15"]).wanted().expect_err("unknown");
        assert!(error.hint().is_some_and(|hint| hint.contains("generate_1")), "{error:?}");
    }

    #[test]
    fn the_temporary_folder_goes() {
        let folder = TemporaryFolder::new().expect("made");
        let path = folder.0.clone();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
