//! `events.jsonl`: what a run told, one JSON object a line, append-only.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::events::{Event, EventSink};

/// Appends events to `events.jsonl`, each with its stage and the time in seconds since 1970. Every step of a progress
/// bar would bury the rest, so [`Event::PhaseAdvanced`] is left out.
#[derive(Debug)]
pub struct EventLog {
    file: Mutex<File>,
    stage: Mutex<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    stage: &'a str,
    time: f64,
    #[serde(flatten)]
    event: &'a Event,
}

impl EventLog {
    /// Opens or makes the log; a line cut short by a crash is removed.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(path).map_err(|error| Error::io("open", path, error))?;
        let whole = bytes_of_whole_lines(&mut file).map_err(|error| Error::io("read", path, error))?;
        file.set_len(whole).map_err(|error| Error::io("truncate", path, error))?;
        Ok(Self { file: Mutex::new(file), stage: Mutex::new(String::new()) })
    }

    /// Names the stage that the next events belong to.
    pub fn enter_stage(&self, stage: &str) {
        stage.clone_into(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn bytes_of_whole_lines(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut buffer = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let n = (end - start) as usize;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buffer[..n])?;
        if let Some(last) = buffer[..n].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl EventSink for EventLog {
    fn emit(&self, event: Event) {
        if matches!(event, Event::PhaseAdvanced { .. }) {
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(mut line) = serde_json::to_vec(&Line { stage: &stage, time: (time * 1000.0).round() / 1000.0, event: &event })
        else {
            return;
        };
        line.push(b'\n');
        // A run does not die of its log: on a full disk the next real output reports it.
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_carry_their_stage_and_torn_lines_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("events.jsonl");
        let log = EventLog::open(&path).expect("opened");
        log.enter_stage("sft");
        log.scalar("sft/loss", 3, 0.5);
        log.emit(Event::PhaseAdvanced { phase: "x".into(), done: 1 });
        drop(log);
        OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"{\"torn")).expect("torn");
        EventLog::open(&path).expect("opened").info("hello");
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0]["stage"].as_str(), lines[0]["step"].as_u64()), (Some("sft"), Some(3)));
        assert_eq!(lines[1]["text"], "hello");
    }
}
