//! Which batch holds which requests, written down so that a killed process finds it again.

use std::path::Path;

use farmhand_core::Result;
use farmhand_core::run::{News, SharedJournal};
use serde::{Deserialize, Serialize};

/// One line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    /// The name of the requests, which follows from their content.
    requests: String,
    /// The batch; none while it is not known whether the server has it.
    batch: Option<String>,
}

/// The file, read so far.
pub(super) struct Notes {
    journal: SharedJournal,
    known: Vec<Note>,
}

impl Notes {
    pub(super) fn open(path: &Path) -> Self {
        Self { journal: SharedJournal::new(path), known: Vec::new() }
    }

    /// What is noted about these requests last: nothing, that they were about to be sent, or their batch.
    pub(super) fn of(&mut self, requests: &str) -> Result<Option<Option<String>>> {
        self.exchange(None)?;
        Ok(self.known.iter().rev().find(|note| note.requests == requests).map(|note| note.batch.clone()))
    }

    /// Notes down, on the disk when this returns.
    pub(super) fn keep(&mut self, requests: &str, batch: Option<&str>) -> Result<()> {
        if self.of(requests)?.as_ref().is_some_and(|known| known.as_deref() == batch) {
            return Ok(());
        }
        self.exchange(Some(Note { requests: requests.to_owned(), batch: batch.map(str::to_owned) }))
    }

    fn exchange(&mut self, new: Option<Note>) -> Result<()> {
        let Self { journal, known } = self;
        journal.exchange(|news: News<Note>| {
            known.extend(news.records);
            known.extend(new.clone());
            new.into_iter().collect::<Vec<_>>()
        })
    }
}
