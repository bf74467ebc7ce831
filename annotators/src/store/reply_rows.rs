//! Replies as rows of their tables.

use farmhand_core::{Error, ErrorKind, Result};
use farmhand_endpoints::{Date, Usage};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::question_key::QuestionKey;
use super::reply::{ReplyFailure, ReplyOutcome, StoredReply};

/// Adds a reply. An answer that another was faster with is left out; the result says whether this one stands.
pub(super) fn insert(connection: &Connection, key: &QuestionKey, reply: &StoredReply) -> rusqlite::Result<bool> {
    let StoredReply { outcome, model, usage, cost_usd, time_secs, date } = reply;
    match outcome {
        ReplyOutcome::Answer(answer) => {
            let sql = "INSERT INTO replies (key, model, answer, n_retries, prompt_tokens, cached_prompt_tokens, completion_tokens, \
                       cost_usd, time_secs, date) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING";
            let n = connection.prepare_cached(sql)?.execute(params![
                key.bytes(),
                model,
                answer.to_string(),
                count(usage.n_retries),
                count(usage.prompt_tokens),
                count(usage.cached_prompt_tokens),
                count(usage.completion_tokens),
                cost_usd,
                time_secs,
                date.unix(),
            ])?;
            Ok(n > 0)
        }
        ReplyOutcome::Failure(failure) => {
            let sql = "INSERT INTO reply_failures (key, model, kind, message, may_pass, n_retries, prompt_tokens, \
                       cached_prompt_tokens, completion_tokens, cost_usd, time_secs, date) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            connection.prepare_cached(sql)?.execute(params![
                key.bytes(),
                model,
                failure.kind.label(),
                failure.message,
                failure.may_pass,
                count(usage.n_retries),
                count(usage.prompt_tokens),
                count(usage.cached_prompt_tokens),
                count(usage.completion_tokens),
                cost_usd,
                time_secs,
                date.unix(),
            ])?;
            Ok(true)
        }
    }
}

/// What is known of a question: its answer, else its latest failure.
pub(super) fn find(connection: &Connection, key: &QuestionKey) -> Result<Option<StoredReply>, Broken> {
    let sql = "SELECT model, n_retries, prompt_tokens, cached_prompt_tokens, completion_tokens, cost_usd, time_secs, date, answer \
               FROM replies WHERE key = ?";
    let answer = |row: &Row<'_>| Ok((rest(row)?, row.get::<_, String>(8)?));
    if let Some((reply, answer)) = connection.prepare_cached(sql)?.query_row([key.bytes()], answer).optional()? {
        let answer =
            serde_json::from_str(&answer).map_err(|error| Broken::Row(format!("the reply `{key}` is not JSON: {error}")))?;
        return Ok(Some(StoredReply { outcome: ReplyOutcome::Answer(answer), ..reply }));
    }
    let sql = "SELECT model, n_retries, prompt_tokens, cached_prompt_tokens, completion_tokens, cost_usd, time_secs, date, kind, \
               message, may_pass FROM reply_failures WHERE key = ? ORDER BY id DESC LIMIT 1";
    let failure = |row: &Row<'_>| {
        let failure = ReplyFailure { kind: kind(&row.get::<_, String>(8)?), message: row.get(9)?, may_pass: row.get(10)? };
        Ok(StoredReply { outcome: ReplyOutcome::Failure(failure), ..rest(row)? })
    };
    Ok(connection.prepare_cached(sql)?.query_row([key.bytes()], failure).optional()?)
}

/// Why a row cannot be had.
#[derive(Debug)]
pub(super) enum Broken {
    Sqlite(rusqlite::Error),
    Row(String),
    /// An error of whoever was given the rows.
    Foreign(Error),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Broken {
    pub(super) fn explain(self, path: &std::path::Path) -> Error {
        match self {
            Self::Foreign(error) => error,
            Self::Sqlite(error) => super::database::explain("read", path, error),
            Self::Row(message) => Error::invalid_data(format!("judgement store `{}`: {message}", path.display())),
        }
    }
}

/// The columns that answers and failures share.
fn rest(row: &Row<'_>) -> rusqlite::Result<StoredReply> {
    let count = |column: usize| row.get::<_, i64>(column).map(|count| u64::try_from(count).unwrap_or(0));
    Ok(StoredReply {
        outcome: ReplyOutcome::Answer(serde_json::Value::Null),
        model: row.get(0)?,
        usage: Usage {
            n_requests: 1,
            n_failed: 0,
            n_retries: count(1)?,
            prompt_tokens: count(2)?,
            cached_prompt_tokens: count(3)?,
            completion_tokens: count(4)?,
        },
        cost_usd: row.get(5)?,
        time_secs: row.get(6)?,
        date: Date::from_unix(row.get(7)?),
    })
}

/// SQLite's integers are signed.
fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The kind under a label; one that a newer version named counts as any other.
pub(super) fn kind(label: &str) -> ErrorKind {
    serde_json::from_value(serde_json::Value::String(label.to_owned())).unwrap_or(ErrorKind::Other)
}
