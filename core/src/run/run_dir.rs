//! One run's folder: locked by one process, with a record of every finished stage.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file_hash::KnownHashes;
use super::{Manifest, SPENDING, StageDir, StageRecord, write_atomic};
use crate::error::{Error, Result};

/// What lies beside outputs and is none: a stage's saved state and, where the run directory itself is the stage's folder
/// (stage name `.`), the run's own files.
const BOOKKEEPING: [&str; 5] = ["state", ".lock", "manifest.json", "events.jsonl", SPENDING];

/// A run directory that this process holds alone.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    manifest: Manifest,
    hashes: KnownHashes,
    _lock: File,
}

/// What a stage is made from: enough to know whether it has to run.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Its name and folder, for example `learn-dpo`; `.` when the run directory itself is the folder of its one stage.
    pub name: String,
    /// The options that shape its output, the seed included.
    pub options: Value,
    /// Files and folders it reads; relative ones are inside the run directory.
    pub inputs: Vec<PathBuf>,
}

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageStatus {
    /// Its outputs are there, made from the same options and inputs.
    Done,
    /// It never ran.
    New,
    /// It was interrupted and goes on from its last saved state.
    Interrupted,
    /// It ran with other options or inputs, or its outputs were changed; `redo` makes it again.
    Stale,
}

impl RunDir {
    /// Opens or makes a run directory and locks it.
    ///
    /// # Errors
    /// When another process works in it, or it cannot be written or read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        std::fs::create_dir_all(&path).map_err(|error| Error::io("make the run directory", &path, error))?;
        let lock = lock(&path)?;
        let manifest = Manifest::read(&path.join("manifest.json"))?;
        Ok(Self { path, manifest, hashes: KnownHashes::default(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a stage, whether it exists or not.
    pub fn stage_path(&self, stage: &str) -> PathBuf {
        self.path.join(stage)
    }

    /// Writes a file at the top of the run directory, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        write_atomic(&path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::io("write", &path, error)))
    }

    /// The commit of every model this run took from the hub, by the name it was asked for.
    pub fn models(&self) -> &BTreeMap<String, String> {
        &self.manifest.models
    }

    /// Records the commits of models taken from the hub, beside those recorded before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn record_models(&mut self, models: &BTreeMap<String, String>) -> Result<()> {
        if models.iter().all(|(name, commit)| self.manifest.models.get(name) == Some(commit)) {
            return Ok(());
        }
        self.manifest.models.extend(models.iter().map(|(name, commit)| (name.clone(), commit.clone())));
        self.manifest.write(&self.path.join("manifest.json"))
    }

    /// Notes the plugins that are loaded, SHA-256 by package. Gives back those that were another file when the run was here before:
    /// what is finished was made by the earlier one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn record_plugins(&mut self, plugins: &BTreeMap<String, String>) -> Result<Vec<String>> {
        let old = &self.manifest.plugins;
        let changed = plugins.iter().filter(|(name, hash)| old.get(*name).is_some_and(|old| old != *hash));
        let changed = changed.map(|(name, _)| name.clone()).collect();
        if old != plugins {
            self.manifest.plugins = plugins.clone();
            self.manifest.write(&self.path.join("manifest.json"))?;
        }
        Ok(changed)
    }

    /// Where a stage stands.
    ///
    /// # Errors
    /// When an input or output cannot be read; and, unless `redo`, when the stage ran with other options or inputs or its
    /// outputs were changed: nothing a run made is thrown away unasked.
    pub fn status(&self, plan: &StagePlan, redo: bool) -> Result<StageStatus> {
        if let Some(record) = self.manifest.stages.get(&plan.name) {
            let Some(difference) = self.difference(plan, record)? else { return Ok(StageStatus::Done) };
            return if redo { Ok(StageStatus::Stale) } else { Err(stale(&plan.name, &difference)) };
        }
        match self.begun(plan)? {
            None if redo || !self.holds_work(plan)? => Ok(StageStatus::New),
            None => Err(stale(&plan.name, "its folder holds files, but the manifest has no record of it")),
            Some(begun) => match first_difference(&begun, &plan.options, "") {
                None => Ok(StageStatus::Interrupted),
                Some(_) if redo => Ok(StageStatus::Stale),
                Some(_) if !self.holds_work(plan)? => Ok(StageStatus::New),
                Some(key) => Err(stale(&plan.name, &format!("option {key} changed since it began"))),
            },
        }
    }

    /// Begins a stage, or goes on with an interrupted one. A stale one loses its state and its outputs.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(&mut self, plan: &StagePlan, status: StageStatus) -> Result<StageDir> {
        let path = self.stage_path(&plan.name);
        let stage = StageDir::create(&path)?;
        if status == StageStatus::Stale {
            if let Some(record) = self.manifest.stages.remove(&plan.name) {
                self.manifest.write(&self.path.join("manifest.json"))?;
                remove_files(&path, record.outputs.keys())?;
            }
            stage.clear_state()?;
        }
        remove_leftovers(&path)?;
        stage.write("state/begun.json", |out| {
            out.write_all(plan.options.to_string().as_bytes()).map_err(|error| Error::io("write", &path, error))
        })?;
        Ok(stage)
    }

    /// Records a finished stage: hashes its inputs and outputs and removes its saved state.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn finish(&mut self, plan: &StagePlan, stage: &StageDir) -> Result<()> {
        let mut outputs = BTreeMap::new();
        hash_files(stage.path(), "", &self.hashes, &mut outputs)?;
        let record = StageRecord { options: plan.options.clone(), inputs: self.hash_inputs(plan)?, outputs };
        self.manifest.stages.insert(plan.name.clone(), record);
        self.manifest.write(&self.path.join("manifest.json"))?;
        stage.clear_state()
    }

    fn hash_inputs(&self, plan: &StagePlan) -> Result<BTreeMap<String, String>> {
        plan.inputs.iter().map(|input| Ok((input.display().to_string(), self.hashes.path(&self.path.join(input))?))).collect()
    }

    /// The options an unfinished stage began with.
    fn begun(&self, plan: &StagePlan) -> Result<Option<Value>> {
        let path = self.stage_path(&plan.name).join("state/begun.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(serde_json::from_str(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Whether an unfinished stage kept anything worth keeping: an output, or saved state. A journal without a line is none.
    fn holds_work(&self, plan: &StagePlan) -> Result<bool> {
        let path = self.stage_path(&plan.name);
        let state = path.join("state");
        let beside = |dir: &Path, ignored: &[&str]| match std::fs::read_dir(dir) {
            Ok(entries) => Ok(entries.flatten().any(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let is_empty = *dir == state && entry.metadata().is_ok_and(|data| data.is_file() && data.len() == 0);
                !is_empty && !is_leftover(&name) && !ignored.contains(&name.as_str())
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("list", dir, error)),
        };
        Ok(beside(&state, &["begun.json"])? || beside(&path, &BOOKKEEPING)?)
    }

    /// Why a finished stage does not fit the plan; `None` when it does.
    fn difference(&self, plan: &StagePlan, record: &StageRecord) -> Result<Option<String>> {
        if let Some(key) = first_difference(&record.options, &plan.options, "") {
            return Ok(Some(format!("option {key} changed since it ran")));
        }
        for (input, hash) in self.hash_inputs(plan)? {
            if record.inputs.get(&input) != Some(&hash) {
                return Ok(Some(format!("its input `{input}` changed since it ran")));
            }
        }
        for (output, hash) in &record.outputs {
            let path = self.stage_path(&plan.name).join(output);
            if !path.exists() {
                return Ok(Some(format!("its output `{}` is gone", path.display())));
            }
            if self.hashes.file(&path)? != *hash {
                return Ok(Some(format!("its output `{}` was changed after it was made", path.display())));
            }
        }
        Ok(None)
    }
}

fn stale(stage: &str, difference: &str) -> Error {
    let what = if stage == "." { "what this folder holds".to_owned() } else { format!("stage `{stage}`") };
    Error::invalid_data(format!("{what} does not fit any more: {difference}")).with_hint(
        "undo the change, write to a new place (another `name` or `--out`), or run with `--redo` to make this stage and what depends on it again",
    )
}

/// The path of the first value that differs, for example `learner.dpo.beta (0.1 → 0.2)`.
fn first_difference(old: &Value, new: &Value, path: &str) -> Option<String> {
    if old == new {
        return None;
    }
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        return keys.into_iter().find_map(|key| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            first_difference(old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null), &path)
        });
    }
    let short = |value: &Value| match value.to_string() {
        text if text.chars().count() > 40 => "…".to_owned(),
        text if text == "null" => "unset".to_owned(),
        text => text,
    };
    Some(format!("`{path}` ({} → {})", short(old), short(new)))
}

fn lock(path: &Path) -> Result<File> {
    let lock_path = path.join(".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|error| Error::io("open", &lock_path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            let owner = owner.trim();
            let who = if owner.is_empty() { "another process".to_owned() } else { format!("process {owner}") };
            return Err(Error::invalid_config(format!("the run directory `{}` is in use by {who}", path.display()))
                .with_hint("wait until it ends, stop it with Ctrl-C, or choose another `name`"));
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path, error)),
    }
    let _ = file.set_len(0);
    let _ = file.seek(SeekFrom::Start(0));
    let _ = write!(file, "{}", std::process::id());
    Ok(file)
}

/// Removes files inside a folder; one that is gone already is no error.
fn remove_files<'a>(dir: &Path, names: impl Iterator<Item = &'a String>) -> Result<()> {
    for path in names.map(|name| dir.join(name)) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a file is what a killed write left behind.
fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Removes what a killed write left behind.
fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))?.flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if is_leftover(&name) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|error| Error::io("remove", &path, error))?;
        } else if path.is_dir() {
            remove_leftovers(&path)?;
        }
    }
    Ok(())
}

fn hash_files(dir: &Path, prefix: &str, known: &KnownHashes, hashes: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))? {
        let entry = entry.map_err(|error| Error::io("list", dir, error))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if BOOKKEEPING.contains(&name.as_str()) {
            continue;
        }
        if entry.path().is_dir() {
            hash_files(&entry.path(), &format!("{name}/"), known, hashes)?;
        } else {
            hashes.insert(name, known.file(&entry.path())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: Value) -> StagePlan {
        StagePlan { name: "sft".to_owned(), options, inputs: vec!["data/sft.jsonl".into()] }
    }

    fn finished(dir: &Path) -> RunDir {
        let mut run = RunDir::open(dir).expect("opened");
        run.write("data/sft.jsonl", "1\n").expect("written");
        let plan = plan(serde_json::json!({"learner": {"sft": {"lr": 0.1}}}));
        assert_eq!(run.status(&plan, false).expect("known"), StageStatus::New);
        let stage = run.begin(&plan, StageStatus::New).expect("begun");
        assert_eq!(run.status(&plan, false).expect("known"), StageStatus::Interrupted);
        stage.write_jsonl("out.jsonl", &[1, 2]).expect("written");
        run.finish(&plan, &stage).expect("finished");
        assert_eq!(run.status(&plan, false).expect("known"), StageStatus::Done);
        run
    }

    #[test]
    fn a_finished_stage_is_done_until_something_changes() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut run = finished(dir.path());
        let changed = plan(serde_json::json!({"learner": {"sft": {"lr": 0.2}}}));
        let error = run.status(&changed, false).expect_err("refused");
        assert!(error.to_string().contains("`learner.sft.lr` (0.1 → 0.2)"), "{error}");
        assert_eq!(run.status(&changed, true).expect("known"), StageStatus::Stale);
        let same = plan(serde_json::json!({"learner": {"sft": {"lr": 0.1}}}));
        std::fs::write(dir.path().join("sft/out.jsonl"), "7\n").expect("edited");
        let error = run.status(&same, false).expect_err("refused");
        assert!(error.to_string().contains("sft/out.jsonl` was changed"), "{error}");
        let stage = run.begin(&same, StageStatus::Stale).expect("begun");
        assert!(!stage.path().join("out.jsonl").exists());
        stage.write_jsonl("out.jsonl", &[1, 2]).expect("written");
        run.finish(&same, &stage).expect("finished");
        std::fs::write(dir.path().join("data/sft.jsonl"), "2\n").expect("edited");
        let error = run.status(&same, false).expect_err("refused");
        assert!(error.to_string().contains("input `data/sft.jsonl` changed"), "{error}");
    }

    #[test]
    fn commits_of_models_are_kept_with_the_run() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut run = finished(dir.path());
        run.record_models(&BTreeMap::from([("o/a".to_owned(), "1".to_owned())])).expect("recorded");
        run.record_models(&BTreeMap::from([("o/b".to_owned(), "2".to_owned())])).expect("recorded");
        drop(run);
        let run = RunDir::open(dir.path()).expect("opened");
        assert_eq!(run.models().keys().collect::<Vec<_>>(), ["o/a", "o/b"]);
        assert!(run.manifest.stages.contains_key("sft"));
    }

    #[test]
    fn a_plugin_that_is_another_file_than_before_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let with = |hash: &str| BTreeMap::from([("mine".to_owned(), hash.to_owned())]);
        let mut run = finished(dir.path());
        assert!(run.record_plugins(&with("1")).expect("recorded").is_empty());
        assert!(run.record_plugins(&with("1")).expect("recorded").is_empty());
        drop(run);
        let mut run = RunDir::open(dir.path()).expect("opened");
        assert_eq!(run.record_plugins(&with("2")).expect("recorded"), ["mine"]);
        assert!(run.manifest.stages.contains_key("sft"));
    }

    #[test]
    fn outputs_without_a_record_are_not_written_over() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(finished(dir.path()));
        std::fs::remove_file(dir.path().join("manifest.json")).expect("removed");
        let run = RunDir::open(dir.path()).expect("opened");
        let same = plan(serde_json::json!({"learner": {"sft": {"lr": 0.1}}}));
        let error = run.status(&same, false).expect_err("refused");
        assert!(error.to_string().contains("no record of it"), "{error}");
        assert_eq!(run.status(&same, true).expect("known"), StageStatus::New);
        // What a write leaves that was killed before the stage had begun is no output.
        let other = StagePlan { name: "dpo".to_owned(), ..same };
        let state = dir.path().join("dpo/state");
        std::fs::create_dir_all(&state).and_then(|()| std::fs::write(state.join(".begun.json.tmp"), "{")).expect("written");
        assert_eq!(run.status(&other, false).expect("known"), StageStatus::New);
    }

    #[test]
    fn an_unfinished_stage_takes_other_options_until_its_journal_has_a_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut run = RunDir::open(dir.path()).expect("opened");
        let (one, other) = (plan(serde_json::json!({ "port": 1 })), plan(serde_json::json!({ "port": 2 })));
        let stage = run.begin(&one, StageStatus::New).expect("begun");
        let (mut journal, _) = stage.journal::<u32>("answers.jsonl").expect("opened");
        assert_eq!(run.status(&other, false).expect("known"), StageStatus::New);
        journal.append(&[1_u32]).expect("appended");
        let error = run.status(&other, false).expect_err("refused");
        assert!(error.to_string().contains("`port` (1 → 2)"), "{error}");
    }

    #[test]
    fn only_one_process_works_in_a_run_directory() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = finished(dir.path());
        let error = RunDir::open(dir.path()).expect_err("locked");
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(run);
        assert!(RunDir::open(dir.path()).is_ok());
    }
}
