//! What a program writes, read on threads of their own, so that neither pipe ever fills up.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes of a reply at most.
const LONGEST: usize = 256 << 20;

/// Lines of stderr that are kept until somebody shows them, and characters of each.
const KEPT: (usize, usize) = (1000, 1000);

/// Lines of stderr that are quoted when the program ends.
const LAST: usize = 12;

/// A line of stdout.
pub(super) enum Line {
    /// Its text.
    Text(String),
    /// It has more bytes than this.
    TooLong(usize),
    /// There is no further one.
    End,
}

/// The lines of a program's stdout.
pub(super) fn lines_of(stdout: impl Read + Send + 'static) -> Receiver<Line> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        loop {
            let mut bytes = Vec::new();
            let line = match reader.by_ref().take(LONGEST as u64 + 1).read_until(b'\n', &mut bytes) {
                Ok(0) | Err(_) => Line::End,
                Ok(n) if n > LONGEST => Line::TooLong(LONGEST),
                Ok(_) if bytes.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(_) => Line::Text(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
            };
            let goes_on = matches!(line, Line::Text(_));
            if send.send(line).is_err() || !goes_on {
                return;
            }
        }
    });
    lines
}

/// What a program said on stderr.
#[derive(Clone, Default)]
pub(super) struct Said(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    new: VecDeque<String>,
    last: VecDeque<String>,
    is_over: bool,
}

/// Listens to a program's stderr.
pub(super) fn listen(stderr: impl Read + Send + 'static) -> Said {
    let said = Said::default();
    let heard = said.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { break };
            let line: String = String::from_utf8_lossy(&line).trim_end().chars().take(KEPT.1).collect();
            let mut lines = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.new.len() == KEPT.0 {
                lines.new.pop_front();
            }
            lines.new.push_back(line.clone());
            if lines.last.len() == LAST {
                lines.last.pop_front();
            }
            lines.last.push_back(line);
        }
        heard.0.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
    });
    said
}

impl Said {
    /// What nobody has seen yet.
    pub(super) fn take_new(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).new.drain(..).collect()
    }

    /// The last lines of a program that ended; its stderr may come to its end a moment later.
    pub(super) fn last_words(&self) -> String {
        for _ in 0..50 {
            if self.0.lock().unwrap_or_else(PoisonError::into_inner).is_over {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
