//! Which program is started, and how long it is waited for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_core::{BuildContext, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which program is started, and how long it is waited for. Part of the options of every `command`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CommandOptions {
    /// The program and its arguments: `["python3", "scorer.py"]`. It is started in the configuration file's folder, once, and asked until
    /// nobody needs it any more; then its stdin ends.
    pub command: Vec<String>,
    /// What the program is told when it starts: any table.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, Value>,
    /// Items of one request at most, ≥ 1.
    pub batch_size: usize,
    /// Seconds the program may take to say that it is ready, > 0.
    pub start_timeout_secs: f64,
    /// Seconds it may take for one request, > 0.
    pub timeout_secs: f64,
    /// How often it is started again, and asked again, when it ends or takes too long; an answer sets the count back.
    pub restarts: u32,
}

impl Default for CommandOptions {
    fn default() -> Self {
        let (command, options) = (Vec::new(), BTreeMap::new());
        Self { command, options, batch_size: 64, start_timeout_secs: 120.0, timeout_secs: 600.0, restarts: 2 }
    }
}

impl CommandOptions {
    /// Everything out of range, paths relative to the table that holds these options.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.command.first().is_none_or(String::is_empty) {
            problems.push(
                Problem::new("command", "expected a program with its arguments, got none")
                    .with_hint("for example `command = [\"python3\", \"scorer.py\"]`"),
            );
        }
        if self.batch_size == 0 {
            problems.push(Problem::new("batch_size", "expected at least 1, got 0"));
        }
        for (path, value) in [("start_timeout_secs", self.start_timeout_secs), ("timeout_secs", self.timeout_secs)] {
            if !(value > 0.0 && value <= 1e6) {
                problems.push(Problem::new(path, format!("expected a number in (0, 1e6], got {value}")));
            }
        }
        problems
    }

    /// The folder in which the program is started.
    pub(crate) fn folder(ctx: &BuildContext<'_>) -> PathBuf {
        if ctx.base_dir.as_os_str().is_empty() { PathBuf::from(".") } else { ctx.base_dir.to_owned() }
    }
}
