//! Progress, scalars and messages: what a run tells while it works.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A number of a step. When a resumed stage repeats a step, the last line counts (and is equal).
    Scalar {
        /// What it is, for example `ppo/kl`.
        name: String,
        /// The step it belongs to.
        step: u64,
        /// The number.
        value: f64,
    },
    /// A phase began.
    PhaseStarted {
        /// Its name, for example `sampling`.
        phase: String,
        /// How many units there are to do, if known.
        total: Option<u64>,
        /// What is counted, for example `completions`.
        unit: String,
    },
    /// A phase moved on.
    PhaseAdvanced {
        /// Its name.
        phase: String,
        /// Units done so far.
        done: u64,
    },
    /// A phase ended.
    PhaseFinished {
        /// Its name.
        phase: String,
        /// Units done.
        done: u64,
        /// Seconds it took.
        secs: f64,
    },
    /// What a phase did, measured; comes before its end. Phases without tensor work have none.
    PhaseMeasured {
        /// Its name.
        phase: String,
        /// Figures by name, for example `tokens_per_sec`; units stand in the names.
        figures: BTreeMap<String, f64>,
    },
    /// Something the user should read.
    Message {
        /// `info` or `warning`.
        level: String,
        /// The text.
        text: String,
    },
}

/// Takes events: the terminal, `events.jsonl`, a test.
pub trait EventSink: Send + Sync {
    /// Takes one event. Never fails: a run does not die of its log.
    fn emit(&self, event: Event);

    /// Records one number of one step.
    fn scalar(&self, name: &str, step: u64, value: f64) {
        self.emit(Event::Scalar { name: name.to_owned(), step, value });
    }

    /// Tells the user something.
    fn info(&self, text: &str) {
        self.emit(Event::Message { level: "info".to_owned(), text: text.to_owned() });
    }

    /// Warns the user.
    fn warn(&self, text: &str) {
        self.emit(Event::Message { level: "warning".to_owned(), text: text.to_owned() });
    }
}

/// Forgets everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn emit(&self, _: Event) {}
}

/// Keeps everything; for tests.
#[derive(Debug, Default)]
pub struct RecordedEvents(Mutex<Vec<Event>>);

impl RecordedEvents {
    /// The events so far.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The values of one scalar by step, in the order they came.
    pub fn scalars(&self, wanted: &str) -> Vec<(u64, f64)> {
        let events = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let values = events.iter().filter_map(|event| match event {
            Event::Scalar { name, step, value } if name == wanted => Some((*step, *value)),
            _ => None,
        });
        values.collect()
    }
}

impl EventSink for RecordedEvents {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event);
    }
}

/// A running phase; tells its end when dropped.
pub struct Progress<'a> {
    events: &'a dyn EventSink,
    phase: String,
    done: u64,
    started: std::time::Instant,
}

impl<'a> Progress<'a> {
    /// Tells that a phase began.
    pub fn start(events: &'a dyn EventSink, phase: &str, total: Option<u64>, unit: &str) -> Self {
        events.emit(Event::PhaseStarted { phase: phase.to_owned(), total, unit: unit.to_owned() });
        Self { events, phase: phase.to_owned(), done: 0, started: std::time::Instant::now() }
    }

    /// Tells that `n` more units are done.
    pub fn advance(&mut self, n: u64) {
        self.done += n;
        self.events.emit(Event::PhaseAdvanced { phase: self.phase.clone(), done: self.done });
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        let secs = self.started.elapsed().as_secs_f64();
        self.events.emit(Event::PhaseFinished { phase: self.phase.clone(), done: self.done, secs });
    }
}
