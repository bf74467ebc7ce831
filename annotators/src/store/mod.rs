//! The judgement store: one SQLite file in which every paid answer and every verdict is kept, shared by any number of processes.
//!
//! What was answered is found again by what was asked ([`QuestionKey`]), so a run that is repeated asks only what is missing.
//! Rows are added and never changed or removed: the first answer to a question stands, whoever came second takes it over.
//! Failures have a table of their own; [`StoredReply::settles`] says which are asked again.
//!
//! **What can be lost.** [`Store::keep`] is done when its transaction is committed: whatever happens to the process then, also
//! `kill -9`, the reply is there. The file is in SQLite's write-ahead mode with `synchronous=NORMAL`: a power cut or a crash of the
//! operating system can take the commits of the last moments with it (those since SQLite's last checkpoint, at most the last
//! thousand pages, about 4 MB), but never damages what came before, and never leaves half a transaction. When the disk is full or
//! refuses, answers are held in memory, found there, and written as soon as it works again; [`Store::warning`] tells once.
//!
//! A store holds no key and no address of a server. It does hold the answers, word for word.

mod alpaca_eval;
mod database;
mod exchange;
mod question_key;
mod reply;
mod reply_rows;
mod stats;
mod verdict;
mod verdict_rows;
mod writer;

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use farmhand_core::{Error, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

pub use alpaca_eval::AlpacaEvalLayout;
pub use exchange::{ExportFilter, ExportForm, ImportReport};
pub use farmhand_endpoints::Date;
pub use question_key::{QuestionKey, canonical_json};
pub use reply::{ReplyFailure, ReplyOutcome, StoredReply};
pub use stats::{AnnotatorStats, ModelStats, StoreStats, StoredSet};
pub use verdict::{Judge, StoredOutcome, StoredVerdict, VerdictKey};

use database::Missing;
use reply_rows::Broken;
use writer::{Held, Order, Record};

/// A handle on a judgement store; clones share it, and so does everyone in this process who opens the same file.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// Connections that nobody reads with at the moment.
    readers: Mutex<Vec<Connection>>,
    held: Arc<Held>,
    /// Both are there until the last handle is dropped.
    orders: Option<Sender<Order>>,
    writer: Option<JoinHandle<()>>,
}

/// The stores that are open in this process, by device and inode of their file.
type OpenStores = Mutex<HashMap<(u64, u64), Weak<Shared>>>;

fn open_stores() -> &'static OpenStores {
    static OPEN: OnceLock<OpenStores> = OnceLock::new();
    OPEN.get_or_init(OpenStores::default)
}

impl Store {
    /// Opens a store, or makes it with the folders above it when it is not there.
    ///
    /// # Errors
    /// When the file is a folder, no store, damaged, of a newer version, or cannot be written.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_or(path.as_ref(), Missing::Make)
    }

    /// Opens a store that is there.
    ///
    /// # Errors
    /// As [`Store::open`], and when there is no such file.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_or(path.as_ref(), Missing::Refuse)
    }

    fn open_or(path: &Path, missing: Missing) -> Result<Self> {
        let mut open = open_stores().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = file_id(path).and_then(|id| open.get(&id)).and_then(Weak::upgrade) {
            return Ok(Self { shared });
        }
        let connection = database::open(path, missing)?;
        let shared = Arc::new(Shared::start(path.to_owned(), connection)?);
        open.retain(|_, shared| shared.strong_count() > 0);
        if let Some(id) = file_id(path) {
            open.insert(id, Arc::downgrade(&shared));
        }
        Ok(Self { shared })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What is known of each question, in the order of the keys: its answer, else its latest failure, else nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn replies(&self, keys: &[QuestionKey]) -> Result<Vec<Option<StoredReply>>> {
        let mut replies = self.read(|connection| {
            // One transaction: one look at the file, and all replies from the same moment.
            let transaction = connection.transaction()?;
            let replies = keys.iter().map(|key| reply_rows::find(&transaction, key)).collect::<Result<Vec<_>, Broken>>()?;
            transaction.commit()?;
            Ok(replies)
        })?;
        let held = self.shared.held.lock();
        if !held.replies.is_empty() {
            for (reply, key) in replies.iter_mut().zip(keys) {
                if reply.as_ref().is_none_or(|reply| reply.answer().is_none())
                    && let Some(held) = held.replies.get(key)
                {
                    *reply = Some(held.clone());
                }
            }
        }
        Ok(replies)
    }

    /// Keeps a reply: on its way when this returns, committed when the future is done, also when that is dropped. Where an
    /// answer to the question is there already, that one stands.
    ///
    /// # Errors
    /// When it could not be written; it is held in memory then, see [`Store::warning`].
    pub fn keep(&self, key: QuestionKey, reply: StoredReply) -> impl Future<Output = Result<()>> + Send + 'static {
        let kept = self.send(Record::Reply(key, Box::new(reply)));
        async move { kept.await.map(|_| ()) }
    }

    /// Keeps an answer as [`Store::keep`] does, and gives back the one that stands: another's, if that one was faster.
    ///
    /// # Errors
    /// When it could not be written, or the other's not read.
    pub fn keep_or_take(
        &self,
        key: QuestionKey,
        reply: StoredReply,
    ) -> impl Future<Output = Result<StoredReply>> + Send + 'static {
        let store = self.clone();
        let kept = self.send(Record::Reply(key, Box::new(reply.clone())));
        async move {
            if kept.await? {
                return Ok(reply);
            }
            Ok(store.replies(&[key])?.pop().flatten().unwrap_or(reply))
        }
    }

    /// What is known of each comparison, in the order of the keys: the verdict, else the latest failure, else nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn verdicts(&self, keys: &[VerdictKey]) -> Result<Vec<Option<StoredOutcome>>> {
        let mut verdicts = self.read(|connection| {
            let transaction = connection.transaction()?;
            let verdicts = keys.iter().map(|key| verdict_rows::find(&transaction, key)).collect::<Result<Vec<_>, Broken>>()?;
            transaction.commit()?;
            Ok(verdicts)
        })?;
        let held = self.shared.held.lock();
        if !held.verdicts.is_empty() {
            for (verdict, key) in verdicts.iter_mut().zip(keys) {
                if !matches!(verdict, Some(StoredOutcome::Verdict(_)))
                    && let Some(held) = held.verdicts.get(key)
                {
                    *verdict = Some(held.clone());
                }
            }
        }
        Ok(verdicts)
    }

    /// Keeps verdicts and failures as [`Store::keep`] keeps replies. Tells of each whether it stands: a verdict does unless
    /// another was faster.
    ///
    /// # Errors
    /// When they could not be written; they are held in memory then, see [`Store::warning`].
    pub fn keep_verdicts(&self, verdicts: Vec<StoredVerdict>) -> impl Future<Output = Result<Vec<bool>>> + Send + 'static {
        let send = |verdict: StoredVerdict| self.send(Record::Verdict(verdict.key(), Box::new(verdict)));
        let kept: Vec<_> = verdicts.into_iter().map(send).collect();
        async move {
            let mut stand = Vec::with_capacity(kept.len());
            for kept in kept {
                stand.push(kept.await?);
            }
            Ok(stand)
        }
    }

    /// Gives `take` every verdict in the order in which they came, one at a time, then the latest failure of each comparison
    /// that has none; only those of one annotator where it is named.
    ///
    /// # Errors
    /// When the file cannot be read, and what `take` reports.
    pub fn visit_verdicts(&self, annotator: Option<&str>, take: impl FnMut(StoredVerdict) -> Result<()>) -> Result<()> {
        let mut take = take;
        self.read(|connection| verdict_rows::visit(connection, annotator, |verdict| take(verdict).map_err(Broken::Foreign)))
    }

    /// What the user should know about writing that failed; each trouble is told once.
    pub fn warning(&self) -> Option<String> {
        self.shared.held.lock().warning.take()
    }

    fn send(&self, record: Record) -> impl Future<Output = Result<bool>> + Send + 'static {
        let (done, kept) = oneshot::channel();
        let sent = self.shared.orders.as_ref().is_some_and(|orders| orders.send(Order { record, done }).is_ok());
        let ended = || Error::other("the thread that writes to the judgement store has ended");
        async move { if sent { kept.await.unwrap_or_else(|_| Err(ended())) } else { Err(ended()) } }
    }

    /// Reads with a connection of its own.
    fn read<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Broken>) -> Result<T> {
        let Shared { path, readers, .. } = &*self.shared;
        let idle = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = idle.map_or_else(|| database::open(path, Missing::Refuse), Ok)?;
        let result = work(&mut connection).map_err(|broken| broken.explain(path));
        readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.shared.path).finish()
    }
}

impl Shared {
    fn start(path: PathBuf, connection: Connection) -> Result<Self> {
        let (orders, incoming) = channel();
        let held = Arc::new(Held::default());
        let (its_path, its_held) = (path.clone(), held.clone());
        let work = move || writer::run(connection, &its_path, &incoming, &its_held);
        let writer = std::thread::Builder::new()
            .name("farmhand-store".to_owned())
            .spawn(work)
            .map_err(|error| Error::other("cannot start the thread that writes to the judgement store").with_source(error))?;
        Ok(Self { path, readers: Mutex::default(), held, orders: Some(orders), writer: Some(writer) })
    }
}

impl Drop for Shared {
    /// Waits until everything is written.
    fn drop(&mut self) {
        self.orders = None;
        // Readers close first, so that the writer is the last one and folds the write-ahead file into the database.
        self.readers.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

/// What tells one file from another, however its path is written.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
