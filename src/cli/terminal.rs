//! Progress and messages on the terminal, on stderr: bars with throughput and time left on a terminal, plain lines elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farmhand_core::{Event, EventSink};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

/// Shows events to a person.
pub struct Terminal {
    quiet: bool,
    interactive: bool,
    bars: MultiProgress,
    running: Mutex<HashMap<String, Phase>>,
}

struct Phase {
    bar: ProgressBar,
    unit: String,
    /// How fast its tensor work was, in words.
    speed: String,
}

impl Terminal {
    /// A terminal; a quiet one shows warnings only.
    pub fn new(quiet: bool) -> Self {
        let interactive = std::io::stderr().is_terminal();
        Self { quiet, interactive, bars: MultiProgress::new(), running: Mutex::new(HashMap::new()) }
    }

    /// Whether a person may be watching bars: a terminal that is not quiet.
    pub fn is_interactive(&self) -> bool {
        self.interactive && !self.quiet
    }

    /// Prints a line above the bars.
    pub fn line(&self, text: &str) {
        if self.interactive {
            self.bars.suspend(|| print_line(text));
        } else {
            print_line(text);
        }
    }

    /// Prints a line unless quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    fn start(&self, phase: String, total: Option<u64>, unit: String) {
        let bar = match (self.interactive, total) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(total)) => self.bars.add(ProgressBar::new(total)),
            (true, None) => self.bars.add(ProgressBar::new_spinner()),
        };
        let template = match total {
            Some(_) => format!("  {{prefix:28}} {{bar:30}} {{pos}}/{{len}} {unit}  {{rate}}  {{eta}} left  {{msg}}"),
            None => format!("  {{prefix:28}} {{spinner}} {{pos}} {unit}  {{rate}}  {{msg}}"),
        };
        bar.set_style(
            ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    let _ = write!(out, "{:.1}/s", state.per_sec());
                })
                .progress_chars("━╸ "),
        );
        bar.set_prefix(phase.clone());
        if self.interactive {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(phase, Phase { bar, unit, speed: String::new() });
    }

    fn finish(&self, phase: &str, done: u64, secs: f64) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Phase { bar, unit, speed }) = running.remove(phase) else { return };
        let inside_another = !running.is_empty();
        drop(running);
        bar.finish_and_clear();
        if !self.quiet && !inside_another && secs >= 0.5 {
            self.line(&format!("  {phase}: {done} {unit} in {} ({:.1}/s){speed}", duration(secs), done as f64 / secs));
        }
    }

    /// The latest loss or reward beside the running bar.
    fn note_scalar(&self, name: &str, value: f64) {
        let short = name.rsplit('/').next().unwrap_or(name);
        if ["loss", "reward", "accuracy"].contains(&short) {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            for phase in running.values() {
                phase.bar.set_message(format!("{short} {value:.4}"));
            }
        }
    }
}

/// Prints a line on stderr. A reader that went away (`2>&1 | head`) is no reason to stop working.
pub(super) fn print_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The figures of a phase that a person wants first: `, 812 tokens/s, 61 % of the machine's matrix rate, 1.2 GB`.
fn speed(figures: &BTreeMap<String, f64>) -> String {
    let figure = |name: &str| figures.get(name).copied();
    let parts = [
        figure("tokens_per_sec").filter(|rate| *rate > 0.0).map(|rate| format!(", {rate:.0} tokens/s")),
        figure("mfu_needed").map(|share| format!(", {:.0} % of the machine's matrix rate", 100.0 * share)),
        figure("peak_bytes").map(|bytes| format!(", {:.1} GB", bytes / 1e9)),
    ];
    parts.into_iter().flatten().collect()
}

/// Seconds for people: `0.8 s`, `12 s`, `3 min 20 s`.
pub(super) fn duration(secs: f64) -> String {
    match secs {
        secs if secs < 10.0 => format!("{secs:.1} s"),
        secs if secs < 60.0 => format!("{secs:.0} s"),
        secs => format!("{} min {:02} s", (secs / 60.0) as u64, (secs % 60.0) as u64),
    }
}

impl EventSink for Terminal {
    fn emit(&self, event: Event) {
        match event {
            Event::Message { level, text } if level == "warning" => self.line(&format!("warning: {text}")),
            _ if self.quiet => {}
            Event::Message { text, .. } => self.line(&text),
            Event::PhaseStarted { phase, total, unit } => self.start(phase, total, unit),
            Event::PhaseAdvanced { phase, done } => {
                if let Some(phase) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&phase) {
                    phase.bar.set_position(done);
                }
            }
            Event::PhaseMeasured { phase, figures } => {
                if let Some(phase) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&phase) {
                    phase.speed = speed(&figures);
                }
            }
            Event::PhaseFinished { phase, done, secs } => self.finish(&phase, done, secs),
            Event::Scalar { name, value, .. } => self.note_scalar(&name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{duration, speed};

    #[test]
    fn durations_read_well() {
        assert_eq!([0.84, 12.4, 200.2].map(duration), ["0.8 s", "12 s", "3 min 20 s"]);
    }

    #[test]
    fn speeds_show_what_is_known() {
        assert_eq!(speed(&BTreeMap::new()), "");
        let figures = [("tokens_per_sec", 811.6), ("mfu_needed", 0.612), ("peak_bytes", 1.24e9), ("secs", 3.0)];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(speed(&figures), ", 812 tokens/s, 61 % of the machine's matrix rate, 1.2 GB");
    }
}
