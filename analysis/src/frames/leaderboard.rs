//! The table `leaderboard`: one row a model, as `farmhand report` shows it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use farmhand_core::Result;
use polars::prelude::*;

use super::run_table::RunFolder;
use super::source::{Source, select};
use crate::leaderboard::Leaderboard;

/// The leaderboard of some runs, made when it is asked for; its columns follow from what was measured.
pub(super) struct LeaderboardTable {
    runs: Arc<[RunFolder]>,
    made: OnceLock<DataFrame>,
}

impl LeaderboardTable {
    /// The leaderboard of these runs.
    pub(super) fn new(runs: Arc<[RunFolder]>) -> Self {
        Self { runs, made: OnceLock::new() }
    }

    fn frame(&self) -> Result<&DataFrame> {
        if self.made.get().is_none() {
            let folders: Vec<&PathBuf> = self.runs.iter().map(|run| &run.path).collect();
            let frame = Leaderboard::load(&folders)?.frame().clone();
            return Ok(self.made.get_or_init(|| frame));
        }
        Ok(self.made.get().expect("it was made above"))
    }
}

impl Source for LeaderboardTable {
    fn schema(&self) -> Result<SchemaRef> {
        Ok(self.frame()?.schema().clone())
    }

    fn read(&self, columns: Option<&[PlSmallStr]>) -> Result<DataFrame> {
        select(self.frame()?, columns)
    }
}
