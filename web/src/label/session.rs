//! One labelling: its folder, opened and held alone, then served until asked to stop.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use farmhand_core::data::ReadOptions;
use farmhand_core::run::RunDir;
use farmhand_core::{CancelFlag, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::desk::{Desk, DeskOptions};
use super::export;
use super::items::Items;
use super::routes::{self, Shared};
use super::rubric::Rubric;
use crate::access::secret;
use crate::server::{ListenOptions, Listening};

/// What is to be judged, by how many, and where it is recorded.
#[derive(Debug, Clone)]
pub struct LabelOptions {
    /// Comparisons, in any form that is read.
    pub data: PathBuf,
    /// The folder that holds the journal and the files made of it.
    pub out: PathBuf,
    /// Judgements whose verdict is known, mixed in to see how well raters judge.
    pub gold: Option<PathBuf>,
    /// One question in so many is a gold question, as long as there are some; at least 2.
    pub gold_every: usize,
    /// How many raters judge each comparison; at least 1.
    pub overlap: usize,
    /// A TOML file with guidance and attributes.
    pub rubric: Option<PathBuf>,
    /// Root of the random orders; unset: 0, or what the journal was begun with.
    pub seed: Option<u64>,
    /// How data files are read.
    pub reading: ReadOptions,
}

/// The addresses to open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelUrls {
    /// For raters.
    pub raters: String,
    /// For whoever watches: progress, agreement, files.
    pub operator: String,
}

/// What there is in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelSummary {
    /// Answers that count, skips and gold questions included.
    pub n_labels: usize,
    /// Verdicts that the data has, each comparison's up to the overlap.
    pub n_done: usize,
    /// Verdicts that the data wants.
    pub n_wanted: usize,
    /// Raters who answered.
    pub n_raters: usize,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

/// A labelling that this process holds alone.
#[derive(Debug)]
pub struct LabelSession {
    desk: Desk,
    access: Access,
    out: PathBuf,
    _held: RunDir,
}

/// The secrets of a labelling. They are kept, so that open pages go on after a restart.
#[derive(Debug, Serialize, Deserialize)]
struct Access {
    /// In the raters' address.
    raters: String,
    /// In the operator's address.
    operator: String,
    /// Names items in browsers.
    items: String,
}

impl LabelSession {
    /// Reads everything and holds the folder.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be, another process holds the folder, or the journal is of other
    /// data or another seed.
    pub fn open(options: &LabelOptions) -> Result<Self> {
        if options.overlap == 0 {
            return Err(Error::invalid_config("`--overlap 0`: expected at least 1 rater for each comparison"));
        }
        if options.gold_every < 2 {
            let message = format!("`--gold-every {}`: expected at least 2", options.gold_every);
            return Err(Error::invalid_config(message).with_hint("2 makes every second question a gold question"));
        }
        let rubric = options.rubric.as_deref().map(Rubric::read).transpose()?.unwrap_or_default();
        // Read before the folder is made: a mistyped name leaves nothing behind.
        let items = Items::read(&options.data, options.gold.as_deref(), &options.reading)?;
        let held = RunDir::open(&options.out).map_err(|error| match error.kind() {
            ErrorKind::InvalidConfig => {
                error.with_hint("another `farmhand label` holds it; stop that one, or give another `--out`")
            }
            _ => error,
        })?;
        let access = Access::keep(&options.out.join("access.json"))?;
        let desk_options = DeskOptions { overlap: options.overlap, gold_every: options.gold_every, seed: options.seed, rubric };
        let desk = Desk::open(options.out.join("journal.jsonl"), items.named_by(&access.items), desk_options)?;
        Ok(Self { desk, access, out: options.out.clone(), _held: held })
    }

    /// What was found, in words, for the operator.
    pub fn found(&self) -> String {
        let items = &self.desk.items;
        let n_gold = items.all().iter().filter(|item| item.gold.is_some()).count();
        let (n_done, n_wanted) = self.desk.totals();
        let mut text = format!("{} comparisons", items.all().len() - n_gold);
        for (count, what) in [
            (n_gold, "gold questions"),
            (items.n_repeated, "repeated ones left out"),
            (items.n_identical, "with identical answers left out"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text + &format!("; {n_done} of {n_wanted} verdicts are there")
    }

    /// Serves until asked to stop, then writes the files. `ready` hears the addresses once they answer.
    ///
    /// # Errors
    /// When the port cannot be had, `ready` fails, or the disk refuses.
    pub fn serve(
        self,
        listen: ListenOptions,
        cancel: &'static CancelFlag,
        ready: impl FnOnce(&LabelUrls) -> Result<()>,
    ) -> Result<LabelSummary> {
        let listening = Listening::open(listen)?;
        let url = listening.url();
        let urls =
            LabelUrls { raters: format!("{url}/{}/", self.access.raters), operator: format!("{url}/{}/", self.access.operator) };
        let shared = Arc::new(Shared {
            desk: Mutex::new(self.desk),
            out: self.out.clone(),
            rater_path: format!("/{}/", self.access.raters),
        });
        ready(&urls)?;
        listening.serve(routes::routes(&shared, &self.access.raters, &self.access.operator), cancel)?;
        let desk = shared.desk.lock().unwrap_or_else(PoisonError::into_inner);
        finish(&desk, &self.out)
    }

    /// Writes the files and does not serve.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn export(self) -> Result<LabelSummary> {
        finish(&self.desk, &self.out)
    }
}

fn finish(desk: &Desk, out: &Path) -> Result<LabelSummary> {
    let files = export::write_all(desk, out)?;
    let (n_done, n_wanted) = desk.totals();
    let n_raters = desk.book.raters().values().filter(|page| !page.live.is_empty()).count();
    Ok(LabelSummary { n_labels: desk.book.n_live(), n_done, n_wanted, n_raters, files })
}

impl Access {
    /// The secrets of a folder, made when there are none. Only the owner may read the file.
    fn keep(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                if let Ok(access) = serde_json::from_str(&text) {
                    return Ok(access);
                }
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("read", path, error)),
            Err(_) => {}
        }
        let access = Self { raters: secret()?, operator: secret()?, items: secret()? };
        let text = serde_json::to_string_pretty(&access).map_err(|error| Error::other("no JSON").with_source(error))?;
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Error::io("write", path, error))?;
        Ok(access)
    }
}
