//! A program that is asked by JSON lines.
//!
//! The first line says who asks for what, the program answers that it is ready; then requests and replies alternate:
//!
//! ```text
//! → {"farmhand": 1, "kind": "reward_model", "options": {…}}
//! ← {"farmhand": 1}
//! → {"id": 0, "items": [{"instruction": "…", "output": "…"}, …]}
//! ← {"id": 0, "results": [0.7, …]}
//! ```
//!
//! A reply may be `{"id": 0, "error": "why"}` instead: then the request failed, and the program goes on. When it ends or takes too
//! long it is started again and asked again; when it breaks the protocol (no JSON, another id, too few results) that is an error,
//! for it would do so again. It runs in a process group of its own, so that Ctrl-C in a terminal ends farmhand after the current
//! step and not the program in the middle of one; a program whose stdin ends should end.

mod pipes;

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use farmhand_core::{CancelFlag, Error, ErrorKind, EventSink, Result};
use serde_json::{Value, json};

use self::pipes::{Line, Said, lines_of, listen};
use crate::options::CommandOptions;

/// The version of the protocol.
pub const PROTOCOL_VERSION: u64 = 1;

/// How often a wish to stop is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Characters of a line that are quoted.
const QUOTED: usize = 200;

/// A program, started when it is first asked.
pub struct Process {
    options: CommandOptions,
    folder: PathBuf,
    kind: &'static str,
    running: Option<Running>,
    /// What a program that is gone said on stderr and nobody has seen.
    unseen: Vec<String>,
    n_requests: u64,
    n_failures: u32,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: std::sync::mpsc::Receiver<Line>,
    said: Said,
}

/// Why a request has no reply.
enum Broken {
    /// The program ended or took too long: another try may go better.
    Gone(Error),
    /// Nothing will change by asking again.
    ForGood(Error),
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// A program for components of this kind (`reward_model`, `annotator`, `evaluator`), started in `folder`.
    pub fn new(options: CommandOptions, folder: PathBuf, kind: &'static str) -> Self {
        Self { options, folder, kind, running: None, unseen: Vec::new(), n_requests: 0, n_failures: 0 }
    }

    /// Sends a request, whose `id` is added, and gives back what stands in the reply under `results`. What the program says on stderr
    /// goes to `events`.
    ///
    /// # Errors
    /// When the program cannot be started, ends, takes too long or breaks the protocol; `Cancelled` when the user asks to stop, and
    /// then it is ended.
    pub fn ask(&mut self, mut request: Value, events: &dyn EventSink, cancel: Option<&CancelFlag>) -> Result<Value> {
        request["id"] = json!(self.n_requests);
        self.n_requests += 1;
        let line = format!("{request}\n");
        loop {
            let outcome = self.try_once(&line, cancel);
            self.pass_on(events);
            let error = match outcome {
                Ok(results) => {
                    self.n_failures = 0;
                    return Ok(results);
                }
                Err(Broken::ForGood(error)) => return Err(error),
                Err(Broken::Gone(error)) => error,
            };
            self.stop();
            self.n_failures += 1;
            if self.n_failures > self.options.restarts {
                self.n_failures = 0;
                return Err(error);
            }
            events.warn(&format!("{error}; it is started again ({} of {})", self.n_failures, self.options.restarts));
        }
    }

    /// Asks for `n` items and checks that as many results come back.
    ///
    /// # Errors
    /// As [`Process::ask`], and when there are more or fewer.
    pub fn ask_for(
        &mut self,
        n: usize,
        request: Value,
        events: &dyn EventSink,
        cancel: Option<&CancelFlag>,
    ) -> Result<Vec<Value>> {
        match self.ask(request, events, cancel)? {
            Value::Array(results) if results.len() == n => Ok(results),
            Value::Array(results) => {
                self.stop();
                Err(self.broke(format!("gave {} results for {n} items", results.len())))
            }
            other => {
                self.stop();
                Err(self.broke(format!("gave `results` that are no list: `{}`", quoted(&other.to_string()))))
            }
        }
    }

    fn name(&self) -> String {
        self.options.command.join(" ")
    }

    fn broke(&self, what: impl std::fmt::Display) -> Error {
        Error::broken_contract(format!("`{}` {what}", self.name()))
    }

    fn try_once(&mut self, line: &str, cancel: Option<&CancelFlag>) -> Result<Value, Broken> {
        if self.running.is_none() {
            self.running = Some(self.start(cancel)?);
        }
        let id = self.n_requests - 1;
        let timeout = Duration::from_secs_f64(self.options.timeout_secs);
        let reply = self.exchange(line, timeout, cancel)?;
        if reply["id"].as_u64() != Some(id) {
            self.stop();
            let got = quoted(&reply.to_string());
            return Err(Broken::ForGood(self.broke(format!("answered another request than {id}: `{got}`"))));
        }
        if let Some(error) = reply.get("error").filter(|error| !error.is_null()) {
            let words = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
            return Err(Broken::ForGood(Error::new(ErrorKind::Other, format!("`{}` says: {words}", self.name()))));
        }
        match reply.get("results") {
            Some(results) => Ok(results.clone()),
            None => {
                self.stop();
                let got = quoted(&reply.to_string());
                Err(Broken::ForGood(self.broke(format!("answered without `results`: `{got}`"))))
            }
        }
    }

    /// Starts the program and waits until it is ready.
    fn start(&mut self, cancel: Option<&CancelFlag>) -> Result<Running, Broken> {
        let [program, arguments @ ..] = self.options.command.as_slice() else {
            return Err(Broken::ForGood(Error::invalid_config("`command`: expected a program with its arguments, got none")));
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| {
            let what = format!("cannot start `{}` in `{}`: {error}", self.name(), self.folder.display());
            Broken::ForGood(
                Error::missing_input(what).with_hint("is the program installed, and the path right from that folder?"),
            )
        })?;
        let pipe = || Broken::ForGood(Error::other("a program was started without its pipes"));
        let stdin = child.stdin.take().ok_or_else(pipe)?;
        let lines = lines_of(child.stdout.take().ok_or_else(pipe)?);
        let said = listen(child.stderr.take().ok_or_else(pipe)?);
        self.running = Some(Running { child, stdin, lines, said });
        let hello = json!({ "farmhand": PROTOCOL_VERSION, "kind": self.kind, "options": self.options.options });
        let timeout = Duration::from_secs_f64(self.options.start_timeout_secs);
        let ready = self.exchange(&format!("{hello}\n"), timeout, cancel)?;
        if let Some(error) = ready.get("error").and_then(Value::as_str) {
            return Err(Broken::ForGood(Error::invalid_config(format!("`{}` does not start: {error}", self.name()))));
        }
        match ready["farmhand"].as_u64() {
            Some(PROTOCOL_VERSION) => self.running.take().ok_or_else(pipe),
            Some(other) => Err(Broken::ForGood(
                Error::new(
                    ErrorKind::IncompatiblePlugin,
                    format!("`{}` speaks version {other} of the protocol, farmhand version {PROTOCOL_VERSION}", self.name()),
                )
                .with_hint("use the version of the program that was written for this farmhand"),
            )),
            None => {
                let got = quoted(&ready.to_string());
                let expected = format!("did not begin with `{{\"farmhand\": {PROTOCOL_VERSION}}}`, but with `{got}`");
                Err(Broken::ForGood(self.broke(expected)))
            }
        }
    }

    /// Writes a line and waits for one.
    fn exchange(&mut self, line: &str, timeout: Duration, cancel: Option<&CancelFlag>) -> Result<Value, Broken> {
        let name = self.name();
        let Some(running) = &mut self.running else {
            return Err(Broken::Gone(Error::other(format!("`{name}` is not running"))));
        };
        // A program that ended shows when it is read.
        let _ = std::io::Write::write_all(&mut running.stdin, line.as_bytes());
        let _ = std::io::Write::flush(&mut running.stdin);
        let started = Instant::now();
        let line = loop {
            if let Some(Err(cancelled)) = cancel.map(CancelFlag::check) {
                self.stop();
                return Err(Broken::ForGood(cancelled));
            }
            match running.lines.recv_timeout(LOOK_EVERY.min(timeout)) {
                Ok(line) => break line,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break Line::End,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) if started.elapsed() < timeout => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    let error = Error::other(format!("`{name}` said nothing for {} s", timeout.as_secs_f64()))
                        .with_hint("does it flush stdout after every line? `timeout_secs` may be longer");
                    return Err(Broken::Gone(error));
                }
            }
        };
        match line {
            Line::Text(text) => serde_json::from_str(&text).map_err(|error| {
                let quoted = quoted(&text);
                self.stop();
                let error = Error::broken_contract(format!("`{name}` wrote a line that is no JSON ({error}): `{quoted}`"));
                Broken::ForGood(
                    error.with_hint("only replies go to stdout, one JSON object a line; messages go to stderr; NaN is no JSON"),
                )
            }),
            Line::TooLong(limit) => {
                self.stop();
                Err(Broken::ForGood(Error::broken_contract(format!("`{name}` wrote a line of more than {} MB", limit >> 20))))
            }
            Line::End => {
                let status = running.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                let last = running.said.last_words();
                let words = if last.is_empty() { String::new() } else { format!("; its last words:\n{last}") };
                Err(Broken::Gone(Error::other(format!("`{name}` ended ({status}){words}"))))
            }
        }
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.unseen.extend(running.said.take_new());
        }
    }

    /// Shows what was said on stderr since the last time.
    fn pass_on(&mut self, events: &dyn EventSink) {
        let program = self.options.command.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program));
        let new = self.running.iter().flat_map(|running| running.said.take_new());
        for line in self.unseen.drain(..).chain(new) {
            events.info(&format!("  {program}: {line}"));
        }
    }
}

/// The beginning of a text.
fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests;
