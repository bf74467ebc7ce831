//! The one thread of a process that writes to a store: what waits goes into one transaction, so that thousands of replies a
//! second cost a few commits.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farmhand_core::{Error, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::database::explain;
use super::question_key::QuestionKey;
use super::reply::StoredReply;
use super::reply_rows;
use super::verdict::{StoredOutcome, StoredVerdict, VerdictKey};
use super::verdict_rows;

/// Records in one transaction at most: bounds memory and the time that others wait.
const LARGEST_GROUP: usize = 4096;

/// After the disk refused, it is asked again no sooner.
const PAUSE: Duration = Duration::from_secs(1);

/// One thing to keep.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Reply(QuestionKey, Box<StoredReply>),
    Verdict(VerdictKey, Box<StoredVerdict>),
}

/// A record, and who waits for it to be kept; they are told whether it was the first under its key.
pub(super) struct Order {
    pub(super) record: Record,
    pub(super) done: oneshot::Sender<Result<bool>>,
}

/// What was paid for and could not be written: found as if it had been.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HeldRecords>);

#[derive(Debug, Default)]
pub(super) struct HeldRecords {
    pub(super) replies: HashMap<QuestionKey, StoredReply>,
    pub(super) verdicts: HashMap<VerdictKey, StoredOutcome>,
    /// What the user has not been told yet.
    pub(super) warning: Option<String>,
}

impl Held {
    pub(super) fn lock(&self) -> MutexGuard<'_, HeldRecords> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes orders until nobody can give any more.
pub(super) fn run(mut connection: Connection, path: &Path, orders: &Receiver<Order>, held: &Held) {
    let mut backlog: Vec<Record> = Vec::new();
    let mut refused: Option<(Instant, Error)> = None;
    while let Ok(first) = orders.recv() {
        let mut group = vec![first];
        while group.len() < LARGEST_GROUP
            && let Ok(order) = orders.try_recv()
        {
            group.push(order);
        }
        let pausing = refused.as_ref().filter(|(since, _)| since.elapsed() < PAUSE);
        let written = match pausing {
            Some((_, error)) => Err(error.copy()),
            None => {
                let records: Vec<&Record> = backlog.iter().chain(group.iter().map(|order| &order.record)).collect();
                write(&mut connection, &records).map_err(|error| explain("write to", path, error))
            }
        };
        match written {
            Ok(firsts) => {
                let firsts = firsts.into_iter().skip(backlog.len());
                forget(held, &backlog);
                backlog.clear();
                refused = None;
                for (order, is_first) in group.into_iter().zip(firsts) {
                    // Whoever no longer waits does not want to know.
                    let _ = order.done.send(Ok(is_first));
                }
            }
            Err(error) => {
                let is_news = refused.is_none();
                hold(held, group.iter().map(|order| &order.record), is_news.then_some(&error));
                for order in group {
                    backlog.push(order.record);
                    let _ = order.done.send(Err(error.copy()));
                }
                let since = refused.filter(|(since, _)| since.elapsed() < PAUSE).map_or_else(Instant::now, |(since, _)| since);
                refused = Some((since, error));
            }
        }
    }
    if !backlog.is_empty() {
        // The last chance; those who waited were told when it failed first.
        let _ = write(&mut connection, &backlog.iter().collect::<Vec<_>>());
    }
}

/// Writes records in one transaction, all or none; tells of each whether it was the first under its key.
fn write(connection: &mut Connection, records: &[&Record]) -> rusqlite::Result<Vec<bool>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let firsts = records.iter().map(|record| insert(&transaction, record)).collect::<rusqlite::Result<Vec<_>>>()?;
    transaction.commit()?;
    Ok(firsts)
}

fn insert(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<bool> {
    match record {
        Record::Reply(key, reply) => reply_rows::insert(transaction, key, reply),
        Record::Verdict(key, verdict) => verdict_rows::insert(transaction, key, verdict),
    }
}

fn hold<'a>(held: &Held, records: impl Iterator<Item = &'a Record>, news: Option<&Error>) {
    let mut held = held.lock();
    for record in records {
        match record {
            Record::Reply(key, reply) => {
                let stands = held.replies.get(key).is_some_and(|earlier| earlier.answer().is_some());
                if !stands {
                    held.replies.insert(*key, (**reply).clone());
                }
            }
            Record::Verdict(key, verdict) => {
                let stands = matches!(held.verdicts.get(key), Some(StoredOutcome::Verdict(_)));
                if !stands {
                    held.verdicts.insert(*key, verdict.outcome.clone());
                }
            }
        }
    }
    if let Some(error) = news {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        held.warning = Some(format!("{error}{hint}; answers are kept in memory and written as soon as it works again"));
    }
}

fn forget(held: &Held, written: &[Record]) {
    if written.is_empty() {
        return;
    }
    let mut held = held.lock();
    for record in written {
        match record {
            Record::Reply(key, _) => {
                held.replies.remove(key);
            }
            Record::Verdict(key, _) => {
                held.verdicts.remove(key);
            }
        }
    }
}
