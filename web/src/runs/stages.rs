//! Where the stages of a run stand, from its manifest, its folders and its log.

use std::path::Path;

use farmhand_core::run::Manifest;
use serde::Serialize;

use super::events::read_tail;
use super::folder::{file_name, is_running};

/// How much of a log's end is looked at for the stage at work, in bytes.
const LOOK_BACK: u64 = 64 * 1024;

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StageState {
    /// Its outputs are there.
    Done,
    /// It is being worked on.
    Running,
    /// It began, and nobody works on it.
    Stopped,
}

/// A stage of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) state: StageState,
    /// Whether it left answers, one a line.
    pub(crate) has_completions: bool,
    /// Whether it left judgements, one a line.
    pub(crate) has_judgements: bool,
}

/// The stages that began, by name, and what could not be read.
pub(crate) fn stages(run: &Path) -> (Vec<Stage>, Option<String>) {
    let (manifest, problem) = match Manifest::read(&run.join("manifest.json")) {
        Ok(manifest) => (manifest, None),
        Err(error) => (Manifest::default(), Some(error.to_string())),
    };
    let at_work = is_running(run).then(|| last_stage(run)).flatten();
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| file_name(&entry.path()))
        .filter(|name| !name.starts_with('.') && name != "state")
        .collect();
    names.extend(manifest.stages.keys().cloned());
    names.sort();
    names.dedup();
    let stage = |name: String| {
        let folder = run.join(&name);
        let state = if at_work.as_ref() == Some(&name) {
            StageState::Running
        } else if manifest.stages.contains_key(&name) {
            StageState::Done
        } else if folder.join("state/begun.json").is_file() {
            StageState::Stopped
        } else {
            // A folder that no stage began, such as the report, is there or not.
            StageState::Done
        };
        Stage {
            state,
            has_completions: folder.join("completions.jsonl").is_file(),
            has_judgements: folder.join("judgements.jsonl").is_file(),
            name,
        }
    };
    (names.into_iter().map(stage).collect(), problem)
}

/// The stage that told something last.
fn last_stage(run: &Path) -> Option<String> {
    let path = run.join("events.jsonl");
    let length = std::fs::metadata(&path).ok()?.len();
    let tail = read_tail(&path, length.saturating_sub(LOOK_BACK)).ok()?;
    tail.stages.into_iter().max_by(|a, b| a.2.total_cmp(&b.2)).map(|(name, ..)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_done_running_or_stopped() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["sft/state", "dpo/state", "report"] {
            std::fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        for name in ["sft/state/begun.json", "dpo/state/begun.json", "sft/completions.jsonl"] {
            std::fs::write(dir.path().join(name), "{}").expect("written");
        }
        let record = "{\"options\":{},\"inputs\":{},\"outputs\":{}}";
        let manifest = format!("{{\"format\":1,\"farmhand\":\"0\",\"stages\":{{\"sft\":{record}}}}}");
        std::fs::write(dir.path().join("manifest.json"), manifest).expect("written");
        let event = "{\"stage\":\"dpo\",\"time\":1,\"event\":\"message\",\"level\":\"info\",\"text\":\"x\"}\n";
        std::fs::write(dir.path().join("events.jsonl"), event).expect("written");
        let states = || stages(dir.path()).0.into_iter().map(|stage| (stage.name, stage.state)).collect::<Vec<_>>();
        let expected =
            |dpo| [("dpo", dpo), ("report", StageState::Done), ("sft", StageState::Done)].map(|(n, s)| (n.to_owned(), s));
        assert_eq!(states(), expected(StageState::Stopped));
        std::fs::write(dir.path().join(".lock"), std::process::id().to_string()).expect("written");
        assert_eq!(states(), expected(StageState::Running));
        assert!(stages(dir.path()).0[2].has_completions);
        std::fs::write(dir.path().join("manifest.json"), "half").expect("written");
        assert!(stages(dir.path()).1.expect("a problem").contains("manifest"));
    }
}
