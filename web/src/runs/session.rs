//! Runs, served until asked to stop.

use std::path::Path;
use std::sync::Arc;

use farmhand_core::{CancelFlag, Result};

use super::folder::RunsFolder;
use super::line_index::LineIndices;
use super::routes::{self, Shared};
use crate::access::secret;
use crate::server::{ListenOptions, Listening};

/// A folder of runs, or one run, to be looked at.
#[derive(Debug)]
pub struct RunsSession {
    runs: RunsFolder,
}

impl RunsSession {
    /// # Errors
    /// When there is no such folder.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { runs: RunsFolder::open(root)? })
    }

    /// How many runs there are now.
    pub fn n_runs(&self) -> usize {
        self.runs.list().len()
    }

    /// Serves until asked to stop. `ready` hears the address once it answers.
    ///
    /// # Errors
    /// When the port cannot be had or `ready` fails.
    pub fn serve(self, listen: ListenOptions, cancel: &'static CancelFlag, ready: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        let listening = Listening::open(listen)?;
        let secret = secret()?;
        ready(&format!("{}/{secret}/", listening.url()))?;
        let shared = Arc::new(Shared { runs: self.runs, indices: LineIndices::default() });
        listening.serve(routes::routes(&shared, &secret), cancel)
    }
}
