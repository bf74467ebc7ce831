//! The end of a log that is being written: what is new since the last look, in small pieces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use farmhand_core::{Error, Event, Result};
use serde::{Deserialize, Serialize};

/// How much of a log is read at a time, in bytes.
const PIECE: u64 = 512 * 1024;

/// The longest line that is waited for.
const LONGEST_LINE: u64 = 16 * PIECE;

/// What is new in a log.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Tail {
    /// From where to read next time.
    pub(crate) next: u64,
    /// Bytes of the log that are still to be read.
    pub(crate) behind: u64,
    /// The log is shorter than it was: everything is new, and what is known of it is not.
    pub(crate) restarted: bool,
    /// Stage → name → points of step and value, as they came.
    pub(crate) scalars: BTreeMap<String, BTreeMap<String, Vec<(u64, f64)>>>,
    /// Stages in the order of their first line here, with the time of the first and the last, in seconds since 1970.
    pub(crate) stages: Vec<(String, f64, f64)>,
    /// Messages and phases.
    pub(crate) messages: Vec<Told>,
}

/// Something a run told in words.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Told {
    pub(crate) stage: String,
    pub(crate) time: f64,
    /// `info` or `warning`, `began` and `ended` for phases.
    pub(crate) level: String,
    pub(crate) text: String,
    /// How long a phase took.
    pub(crate) secs: Option<f64>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    stage: String,
    #[serde(default)]
    time: f64,
    #[serde(flatten)]
    event: Event,
}

/// Reads a piece of a log from a place that an earlier piece ended at. A line that has no end yet is left for the next look;
/// one that is no event is passed over.
///
/// # Errors
/// When the file is there and cannot be read.
pub(crate) fn read_tail(path: &Path, from: u64) -> Result<Tail> {
    let failed = |error| Error::io("read", path, error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Tail { restarted: from > 0, ..Tail::default() });
        }
        Err(error) => return Err(failed(error)),
    };
    let length = file.metadata().map_err(failed)?.len();
    let restarted = length < from;
    let from = if restarted { 0 } else { from };
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut wanted = PIECE;
    let n_whole = loop {
        let n = file.by_ref().take(wanted).read_to_end(&mut bytes).map_err(failed)? as u64;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            break at + 1;
        }
        if n < wanted {
            break 0;
        }
        if bytes.len() as u64 > LONGEST_LINE {
            // No event is that long; what follows it is read.
            break bytes.len();
        }
        wanted = bytes.len() as u64;
    };
    let mut tail = Tail { next: from + n_whole as u64, restarted, ..Tail::default() };
    tail.behind = length.saturating_sub(tail.next);
    for line in bytes[..n_whole].split(|byte| *byte == b'\n') {
        if let Ok(line) = serde_json::from_slice::<Line>(line) {
            tail.take(line);
        }
    }
    Ok(tail)
}

impl Tail {
    fn take(&mut self, line: Line) {
        let Line { stage, time, event } = line;
        match self.stages.iter_mut().find(|(name, ..)| *name == stage) {
            Some((.., last)) => *last = time,
            None => self.stages.push((stage.clone(), time, time)),
        }
        let (level, text, secs) = match event {
            Event::Scalar { name, step, value } => {
                if value.is_finite() {
                    self.scalars.entry(stage).or_default().entry(name).or_default().push((step, value));
                }
                return;
            }
            Event::Message { level, text } => (level, text, None),
            Event::PhaseStarted { phase, total, unit } => {
                let total = total.map(|total| format!(": {total} {unit}")).unwrap_or_default();
                ("began".to_owned(), format!("{phase}{total}"), None)
            }
            Event::PhaseFinished { phase, done, secs } => {
                ("ended".to_owned(), format!("{phase}: {done} done in {secs:.1} s"), Some(secs))
            }
            Event::PhaseAdvanced { .. } | Event::PhaseMeasured { .. } => return,
        };
        self.messages.push(Told { stage, time, level, text, secs });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn scalar(stage: &str, step: u64, value: &str) -> String {
        format!(
            "{{\"stage\":\"{stage}\",\"time\":{step}.5,\"event\":\"scalar\",\"name\":\"x/loss\",\"step\":{step},\"value\":{value}}}\n"
        )
    }

    #[test]
    fn a_log_is_read_in_whole_lines_while_it_grows() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("events.jsonl");
        assert_eq!(read_tail(&path, 0).expect("nothing yet"), Tail::default());
        let mut file = File::create(&path).expect("made");
        let half = scalar("sft", 2, "0.25");
        write!(file, "{}no event\n{}", scalar("sft", 1, "0.5"), &half[..20]).expect("written");
        let tail = read_tail(&path, 0).expect("read");
        assert_eq!(tail.scalars["sft"]["x/loss"], [(1, 0.5)]);
        assert_eq!(tail.behind, 20);
        write!(file, "{}{}", &half[20..], scalar("dpo", 3, "null")).expect("written");
        let more = read_tail(&path, tail.next).expect("read");
        assert_eq!((more.scalars["sft"]["x/loss"].as_slice(), more.behind, more.restarted), (&[(2, 0.25)][..], 0, false));
        assert_eq!(read_tail(&path, more.next).expect("read").scalars.len(), 0);
        std::fs::write(&path, scalar("sft", 9, "1.0")).expect("written anew");
        let again = read_tail(&path, more.next).expect("read");
        assert!(again.restarted && again.scalars["sft"]["x/loss"] == [(9, 1.0)]);
    }

    #[test]
    fn a_long_log_comes_in_pieces_and_a_line_without_end_does_not_stop_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("events.jsonl");
        let mut text: String = (0..20_000).map(|step| scalar("sft", step, "0.5")).collect();
        text += &"x".repeat(LONGEST_LINE as usize + 10);
        text += &format!("\n{}", scalar("sft", 20_000, "0.5"));
        std::fs::write(&path, &text).expect("written");
        let (mut from, mut n, mut pieces) = (0, 0, 0);
        loop {
            let tail = read_tail(&path, from).expect("read");
            n += tail.scalars.get("sft").map_or(0, |scalars| scalars["x/loss"].len());
            if tail.next == from {
                break;
            }
            from = tail.next;
            pieces += 1;
        }
        assert_eq!((n, from), (20_001, text.len() as u64));
        assert!(pieces > 3, "{pieces}");
    }
}
