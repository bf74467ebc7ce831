//! One subcommand in a fresh process, and what it recorded.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use farmhand_core::{Error, Event, Result};
use serde::Deserialize;

/// What a process recorded, and what it took.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Seconds of each phase; of one that ran several times, all together.
    pub(super) phases: BTreeMap<String, f64>,
    /// Figures of each phase; of one that ran several times, the last.
    pub(super) figures: BTreeMap<String, BTreeMap<String, f64>>,
    /// Scalars in order.
    pub(super) scalars: BTreeMap<String, Vec<f64>>,
    /// Seconds from its start to its first phase: loading the program, the model and the data.
    pub(super) startup_secs: f64,
}

#[derive(Deserialize)]
struct Line {
    time: f64,
    #[serde(flatten)]
    event: Event,
}

impl Recorded {
    /// Reads an event log; `started` is when the process began, in seconds since 1970.
    fn read(log: &Path, started: f64) -> Result<Self> {
        let text = std::fs::read_to_string(log).map_err(|error| Error::io("read", log, error))?;
        let mut recorded = Self::default();
        let mut first = None;
        for line in text.lines() {
            let Ok(Line { time, event }) = serde_json::from_str(line) else { continue };
            match event {
                Event::PhaseStarted { .. } => first = first.or(Some(time)),
                Event::PhaseFinished { phase, secs, .. } => *recorded.phases.entry(phase).or_default() += secs,
                Event::PhaseMeasured { phase, figures } => {
                    recorded.figures.insert(phase, figures);
                }
                Event::Scalar { name, value, .. } => recorded.scalars.entry(name).or_default().push(value),
                _ => {}
            }
        }
        recorded.startup_secs = first.map_or(0.0, |first| (first - started).max(0.0));
        Ok(recorded)
    }

    /// Seconds of a phase that must have run.
    pub(super) fn secs(&self, phase: &str) -> Result<f64> {
        self.phases.get(phase).copied().filter(|secs| *secs > 0.0).ok_or_else(|| {
            let known: Vec<&str> = self.phases.keys().map(String::as_str).collect();
            Error::other(format!("the process recorded no phase `{phase}`, only {}", known.join(", ")))
        })
    }

    /// The highest memory of all phases, in bytes.
    pub(super) fn peak_bytes(&self) -> Option<f64> {
        self.figures.values().filter_map(|figures| figures.get("peak_bytes").copied()).reduce(f64::max)
    }
}

/// Runs this program with other arguments until it ends; `log` is the event log that it will have written. With `shows` its
/// progress goes to the terminal.
pub(super) fn run(arguments: &[String], log: &Path, shows: bool) -> Result<Recorded> {
    let program = std::env::current_exe().map_err(|error| Error::other("cannot find this program").with_source(error))?;
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    if !shows {
        command.arg("--quiet").stderr(Stdio::piped());
    }
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let output = command.output().map_err(|error| Error::io("start", &program, error))?;
    match output.status.code() {
        Some(0) => Recorded::read(log, started),
        Some(130) => Err(Error::cancelled()),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().strip_prefix("error: ").unwrap_or(said.trim());
            Err(Error::other(if said.is_empty() { "the process failed, see above".to_owned() } else { said.to_owned() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_phases_figures_and_scalars() {
        let path = std::env::temp_dir().join(format!("farmhand-child-{}.jsonl", std::process::id()));
        let log = farmhand_core::run::EventLog::open(&path).expect("opened");
        let emit = |event| farmhand_core::EventSink::emit(&log, event);
        let figures = |bytes: f64| BTreeMap::from([("peak_bytes".to_owned(), bytes)]);
        emit(Event::PhaseStarted { phase: "sampling".into(), total: None, unit: "completions".into() });
        for secs in [1.5, 2.0] {
            emit(Event::PhaseMeasured { phase: "sampling".into(), figures: figures(secs) });
            emit(Event::PhaseFinished { phase: "sampling".into(), done: 3, secs });
        }
        emit(Event::Scalar { name: "sft/loss".into(), step: 0, value: 0.5 });
        let recorded = Recorded::read(&path, 0.0).expect("read");
        assert_eq!(recorded.secs("sampling").expect("it ran"), 3.5);
        assert_eq!(recorded.peak_bytes(), Some(2.0));
        assert_eq!(recorded.scalars["sft/loss"], [0.5]);
        assert!(recorded.startup_secs > 1e9 && recorded.secs("scoring").is_err());
        std::fs::remove_file(path).expect("removed");
    }
}
