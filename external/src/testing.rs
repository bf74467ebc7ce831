//! What the tests of this crate share: a stage to work in, and programs in Python.

use std::path::PathBuf;

use farmhand_core::run::StageDir;
use farmhand_core::{BuildContext, CancelFlag, Device, PollingExecutor, RecordedEvents, RunContext, Seed};

use crate::options::CommandOptions;

/// A stage in a temporary folder.
pub(crate) struct Desk {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cancel: CancelFlag,
    pub(crate) events: RecordedEvents,
    stage: StageDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(dir.path().join("stage")).expect("made");
        Self { dir, cancel: CancelFlag::new(), events: RecordedEvents::default(), stage }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&RunContext<'_>) -> T) -> T {
        let (stage, events, cancel) = (&self.stage, &self.events, &self.cancel);
        work(&RunContext { stage, seed: Seed::root(7), device: Device::Cpu, events, cancel, executor: &PollingExecutor })
    }

    pub(crate) fn building(&self) -> BuildContext<'_> {
        BuildContext::new(Device::Cpu, self.dir.path())
    }

    /// What was said so far, as text.
    pub(crate) fn messages(&self) -> String {
        format!("{:?}", self.events.take())
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

/// A program that greets and then does `body` with each request: `items` are its items, `reply(results)` answers.
pub(crate) fn python(desk: &Desk, body: &str) -> CommandOptions {
    python_from(desk, "print(json.dumps({'farmhand': 1}), flush=True)", body)
}

/// The same with another greeting.
pub(crate) fn python_from(desk: &Desk, greeting: &str, body: &str) -> CommandOptions {
    let text = format!(
        "import json, os, sys, time\n\
         hello = json.loads(sys.stdin.readline())\n\
         {greeting}\n\
         for line in sys.stdin:\n    \
             request = json.loads(line)\n    \
             items = request.get('items', [])\n    \
             reply = lambda results: print(json.dumps({{'id': request['id'], 'results': results}}), flush=True)\n    \
             {body}\n"
    );
    std::fs::write(desk.dir.path().join("program.py"), text).expect("written");
    let command = vec!["python3".to_owned(), "program.py".to_owned()];
    CommandOptions { command, start_timeout_secs: 20.0, timeout_secs: 20.0, ..CommandOptions::default() }
}
