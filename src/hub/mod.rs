//! Models from the Hugging Face hub, by id: fetched once into the cache that Hugging Face's own tools share.
//!
//! Wherever a configuration or an option names a model folder, `owner/name`, `owner/name@revision` or `hf:owner/name` also does
//! ([`ModelName`]). The variables of Hugging Face's tools are honoured ([`HubSettings`]). Every file is checked against the hash
//! the hub gives for it, an interrupted download goes on where it stopped, and a run stays with the commit it began with.

mod cache_folder;
mod client;
mod model_files;
mod model_name;
mod settings;
mod transfer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use farmhand_core::{CancelFlag, Checkpoint, Error, EventSink, FindModel, Result};

pub use model_files::Want;
pub use model_name::{HubId, ModelName};
pub use settings::{HubSettings, Token};

use cache_folder::CacheFolder;
use client::{Client, Listing};
use model_files::Weights;
use transfer::{Meter, Transfer};

/// The branch that is meant when none is named.
const DEFAULT_REVISION: &str = "main";

/// The hub, as one invocation of the program sees it.
#[derive(Debug)]
pub struct Hub {
    settings: Result<HubSettings>,
    client: OnceLock<Client>,
    /// The commit of every model asked for, by id as written.
    commits: Mutex<BTreeMap<String, String>>,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The model as the user named it.
    pub id: HubId,
    /// The commit its files are from.
    pub commit: String,
    /// Where it is.
    pub checkpoint: Checkpoint,
}

impl Hub {
    /// The hub that this process's variables describe. Nothing is asked before a model is.
    pub fn from_environment() -> Self {
        Self::with(HubSettings::from_environment())
    }

    /// The hub of some settings.
    pub fn new(settings: HubSettings) -> Self {
        Self::with(Ok(settings))
    }

    fn with(settings: Result<HubSettings>) -> Self {
        Self { settings, client: OnceLock::new(), commits: Mutex::new(BTreeMap::new()) }
    }

    /// Stays with the commits of an earlier run.
    pub fn stay_with(&self, commits: &BTreeMap<String, String>) {
        self.commits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(commits.iter().map(|(id, commit)| (id.clone(), commit.clone())));
    }

    /// The commit of every model asked for so far, by id as it was written (without `hf:`).
    pub fn commits(&self) -> BTreeMap<String, String> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A model of the hub, fetched unless it is cached.
    ///
    /// # Errors
    /// When there is no such model, it may not be read, a file does not arrive whole, or the disk refuses; offline, when the
    /// cache does not hold it.
    pub fn snapshot(&self, id: &HubId, want: Want, events: &dyn EventSink, cancel: &CancelFlag) -> Result<Snapshot> {
        let settings = self.settings.as_ref().map_err(again)?;
        let cache = CacheFolder::new(&settings.cache, id.repo());
        let known = self.commits.lock().unwrap_or_else(PoisonError::into_inner).get(&id.to_string()).cloned();
        let revision = known.clone().unwrap_or_else(|| id.revision().unwrap_or(DEFAULT_REVISION).to_owned());
        let begun = known.and_then(|_| self.cached(&cache, id, &revision, want).ok());
        let commit = if let Some(commit) = begun {
            // A run that has begun needs no network to go on.
            commit
        } else if settings.offline {
            self.cached(&cache, id, &revision, want).map_err(|error| {
                error.context("the hub is not asked, because `HF_HUB_OFFLINE` is set").with_hint(
                    "run once with the network, for example `farmhand checkpoint fetch`, or put the model into the cache by hand",
                )
            })?
        } else {
            let client = match self.client.get() {
                Some(client) => client,
                None => {
                    let client = Client::new(settings.clone())?;
                    self.client.get_or_init(|| client)
                }
            };
            match client.listing(&id.at(&revision), cancel) {
                Ok(listing) => {
                    fetch(client, &cache, id, &listing, want, events, cancel)?;
                    cache.note_commit(&revision, &listing.commit)?;
                    listing.commit
                }
                // Nobody answered: what is cached will do, when it is whole.
                Err(error) if error.is_retryable() => match self.cached(&cache, id, &revision, want) {
                    Ok(commit) => {
                        events.warn(&format!("{error}; `{id}` is taken from the cache, commit {commit}"));
                        commit
                    }
                    Err(_) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        };
        let files = model_files::in_snapshot(&cache.snapshot(&commit), &id.to_string(), want)?;
        let name = id.repo().rsplit('/').next().unwrap_or_default();
        let checkpoint = Checkpoint::open(cache.snapshot(&commit))?.in_shared_folder(name, files);
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_string(), commit.clone());
        Ok(Snapshot { id: id.clone(), commit, checkpoint })
    }

    /// The commit of a whole cached copy.
    fn cached(&self, cache: &CacheFolder, id: &HubId, revision: &str, want: Want) -> Result<String> {
        let commit = cache.commit_of(revision).filter(|commit| cache.snapshot(commit).is_dir());
        let commit = commit.ok_or_else(|| Error::missing_input(format!("`{id}` is not in the cache")))?;
        model_files::in_snapshot(&cache.snapshot(&commit), &id.to_string(), want)?;
        Ok(commit)
    }
}

/// The same error once more, for one that is kept.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    match error.hint() {
        Some(hint) => copy.with_hint(hint),
        None => copy,
    }
}

/// Brings the files of a commit into the cache.
fn fetch(
    client: &Client,
    cache: &CacheFolder,
    id: &HubId,
    listing: &Listing,
    want: Want,
    events: &dyn EventSink,
    cancel: &CancelFlag,
) -> Result<()> {
    let there = listing.names();
    let small = model_files::description(&there);
    if !small.contains(&"config.json") && !small.contains(&"adapter_config.json") {
        return Err(
            Error::missing_input(format!("`{id}` holds no config.json")).with_hint("it is no language model for transformers")
        );
    }
    let weights = model_files::weights(&there, want);
    if weights.is_none() && want != Want::Description {
        return Err(model_files::no_weights(&id.to_string(), &there, want));
    }
    let folder = cache.snapshot(&listing.commit);
    let transfer = Transfer { client, cache, id, commit: &listing.commit, events, cancel };
    let missing = |files: &[String]| files.iter().any(|file| !folder.join(file).is_file());
    let size = |files: &[String]| files.iter().map(|file| listing.files.get(file).copied().flatten()).sum::<Option<u64>>();
    let bring = |files: &[String], what: &str| -> Result<()> {
        if !missing(files) {
            return Ok(());
        }
        let mut meter = Meter::start(events, format!("fetch {what}"), size(files));
        for file in files {
            transfer.fetch(file, &mut meter)?;
        }
        let (mb, secs) = (meter.received as f64 / 1e6, meter.secs().max(1e-3));
        drop(meter);
        events.info(&format!("  {what}: {mb:.1} MB in {secs:.1} s ({:.1} MB/s), commit {}", mb / secs, listing.commit));
        Ok(())
    };
    // The index comes with the small files, for it says which large ones there are.
    let mut files: Vec<String> = small.into_iter().map(str::to_owned).collect();
    let mut large = Vec::new();
    match weights {
        Some(Weights::Single(file)) => large.push(file.to_owned()),
        Some(Weights::Sharded(index)) => files.push(index.to_owned()),
        None => {}
    }
    bring(&files, &format!("`{id}`"))?;
    if want == Want::Description {
        return Ok(());
    }
    if let Some(Weights::Sharded(index)) = weights {
        large = model_files::shards(&folder.join(index))?;
        if let Some(shard) = large.iter().find(|shard| !there.contains(*shard)) {
            return Err(Error::invalid_data(format!("`{index}` of `{id}` lists `{shard}`, which the hub does not have")));
        }
    }
    bring(&large, &format!("weights of `{id}`"))
}

/// Finds models in folders and on the hub.
#[derive(Clone, Copy)]
pub struct FoldersAndHub<'a> {
    /// The hub.
    pub hub: &'a Hub,
    /// What models are fetched for.
    pub want: Want,
    /// Where progress goes.
    pub events: &'a dyn EventSink,
    /// Whether the user asked to stop.
    pub cancel: &'a CancelFlag,
}

impl std::fmt::Debug for FoldersAndHub<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoldersAndHub").field("hub", self.hub).field("want", &self.want).finish_non_exhaustive()
    }
}

impl FindModel for FoldersAndHub<'_> {
    fn find_model(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint> {
        match ModelName::read(name, base_dir)? {
            ModelName::Folder(path) => Checkpoint::open(path),
            ModelName::Hub(id) => Ok(self.hub.snapshot(&id, self.want, self.events, self.cancel)?.checkpoint),
        }
    }

    fn find_description(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint> {
        Self { want: Want::Description, ..*self }.find_model(name, base_dir)
    }
}
