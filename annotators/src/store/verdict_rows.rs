//! Verdicts as rows of their tables.

use std::collections::HashMap;
use std::sync::Arc;

use farmhand_core::types::{Annotation, Failure};
use farmhand_endpoints::Date;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::reply_rows::Broken;
use super::verdict::{Judge, StoredOutcome, StoredVerdict, VerdictKey};

/// Adds a verdict. One that another was faster with is left out; the result says whether this one stands.
pub(super) fn insert(connection: &Connection, key: &VerdictKey, verdict: &StoredVerdict) -> rusqlite::Result<bool> {
    let StoredVerdict { comparison, judge, seed, outcome, date, foreign } = verdict;
    if matches!(outcome, StoredOutcome::Verdict(_)) && is_there(connection, key)? {
        return Ok(false);
    }
    let comparison = id_of_text(connection, "comparisons", "comparison", &json(comparison))?;
    let judge = id_of_judge(connection, judge)?;
    let foreign = (!foreign.is_empty()).then(|| json(foreign));
    let (cost_usd, time_secs) = (outcome.cost_usd(), outcome.time_secs());
    match outcome {
        StoredOutcome::Verdict(annotation) => {
            let sql = "INSERT INTO verdicts (key, comparison, judge, seed, annotator, preference, shown, noised, cost_usd, time_secs, \
                       date, annotation, imported) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING";
            let n = connection.prepare_cached(sql)?.execute(params![
                key.bytes(),
                comparison,
                judge,
                seed,
                annotation.annotator,
                annotation.preference.code(),
                label(&annotation.shown),
                annotation.noised,
                cost_usd,
                time_secs,
                date.unix(),
                json(annotation),
                foreign,
            ])?;
            Ok(n > 0)
        }
        StoredOutcome::Failure { failure, may_pass } => {
            let sql = "INSERT INTO verdict_failures (key, comparison, judge, seed, annotator, kind, may_pass, cost_usd, time_secs, \
                       date, failure, imported) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            connection.prepare_cached(sql)?.execute(params![
                key.bytes(),
                comparison,
                judge,
                seed,
                failure.judging.annotator.as_ref().unwrap_or(&verdict.judge.name),
                failure.kind.label(),
                may_pass,
                cost_usd,
                time_secs,
                date.unix(),
                json(failure),
                foreign,
            ])?;
            Ok(true)
        }
    }
}

fn is_there(connection: &Connection, key: &VerdictKey) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM verdicts WHERE key = ?")?.exists([key.bytes()])
}

/// The row of a text that is kept once, by its hash.
fn id_of_text(connection: &Connection, table: &str, column: &str, text: &str) -> rusqlite::Result<i64> {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let find = format!("SELECT id FROM {table} WHERE key = ?");
    if let Some(id) = connection.prepare_cached(&find)?.query_row([&hash], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    connection.prepare_cached(&format!("INSERT INTO {table} (key, {column}) VALUES (?, ?)"))?.execute(params![hash, text])?;
    Ok(connection.last_insert_rowid())
}

fn id_of_judge(connection: &Connection, judge: &Judge) -> rusqlite::Result<i64> {
    let find = "SELECT id FROM judges WHERE name = ? AND identity = ?";
    let known = connection.prepare_cached(find)?.query_row([&judge.name, &judge.identity], |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    connection.prepare_cached("INSERT INTO judges (name, identity) VALUES (?, ?)")?.execute([&judge.name, &judge.identity])?;
    Ok(connection.last_insert_rowid())
}

/// What is known of a comparison: the verdict, else the latest failure.
pub(super) fn find(connection: &Connection, key: &VerdictKey) -> Result<Option<StoredOutcome>, Broken> {
    let text = |row: &Row<'_>| row.get::<_, String>(0);
    let sql = "SELECT annotation FROM verdicts WHERE key = ?";
    if let Some(annotation) = connection.prepare_cached(sql)?.query_row([key.bytes()], text).optional()? {
        return Ok(Some(StoredOutcome::Verdict(parse("a verdict", &annotation)?)));
    }
    let sql = "SELECT failure, may_pass FROM verdict_failures WHERE key = ? ORDER BY id DESC LIMIT 1";
    let failure = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
    match connection.prepare_cached(sql)?.query_row([key.bytes()], failure).optional()? {
        Some((failure, may_pass)) => Ok(Some(StoredOutcome::Failure { failure: parse("a failure", &failure)?, may_pass })),
        None => Ok(None),
    }
}

/// Gives all verdicts in the order in which they came, then what has only failed, each latest failure once.
pub(super) fn visit<E: From<Broken>>(
    connection: &Connection,
    annotator: Option<&str>,
    mut take: impl FnMut(StoredVerdict) -> Result<(), E>,
) -> Result<(), E> {
    let broken = |error: rusqlite::Error| E::from(Broken::Sqlite(error));
    let verdicts = "SELECT c.comparison, j.name, j.identity, v.seed, v.date, v.imported, v.annotation, 0 FROM verdicts v \
                    JOIN comparisons c ON c.id = v.comparison JOIN judges j ON j.id = v.judge \
                    WHERE ?1 IS NULL OR v.annotator = ?1 ORDER BY v.id";
    let failures = "SELECT c.comparison, j.name, j.identity, v.seed, v.date, v.imported, v.failure, v.may_pass \
                    FROM verdict_failures v JOIN comparisons c ON c.id = v.comparison JOIN judges j ON j.id = v.judge \
                    WHERE (?1 IS NULL OR v.annotator = ?1) AND v.id = (SELECT max(id) FROM verdict_failures WHERE key = v.key) \
                    AND NOT EXISTS (SELECT 1 FROM verdicts WHERE key = v.key) ORDER BY v.id";
    let mut judges: HashMap<(String, String), Arc<Judge>> = HashMap::new();
    for (sql, is_failure) in [(verdicts, false), (failures, true)] {
        let mut statement = connection.prepare_cached(sql).map_err(broken)?;
        let mut rows = statement.query([annotator]).map_err(broken)?;
        while let Some(row) = rows.next().map_err(broken)? {
            let raw = RawVerdict::read(row).map_err(broken)?;
            take(raw.parse(is_failure, &mut judges)?)?;
        }
    }
    Ok(())
}

/// The columns of a verdict before they are understood.
struct RawVerdict {
    comparison: String,
    judge: (String, String),
    seed: String,
    date: i64,
    foreign: Option<String>,
    outcome: String,
    may_pass: bool,
}

impl RawVerdict {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            comparison: row.get(0)?,
            judge: (row.get(1)?, row.get(2)?),
            seed: row.get(3)?,
            date: row.get(4)?,
            foreign: row.get(5)?,
            outcome: row.get(6)?,
            may_pass: row.get(7)?,
        })
    }

    fn parse(self, is_failure: bool, judges: &mut HashMap<(String, String), Arc<Judge>>) -> Result<StoredVerdict, Broken> {
        let outcome = match is_failure {
            false => StoredOutcome::Verdict(parse::<Annotation>("a verdict", &self.outcome)?),
            true => StoredOutcome::Failure { failure: parse::<Failure>("a failure", &self.outcome)?, may_pass: self.may_pass },
        };
        let new = || Arc::new(Judge { name: self.judge.0.clone(), identity: self.judge.1.clone() });
        Ok(StoredVerdict {
            comparison: parse("a comparison", &self.comparison)?,
            judge: judges.entry(self.judge.clone()).or_insert_with(new).clone(),
            seed: self.seed,
            outcome,
            date: Date::from_unix(self.date),
            foreign: self.foreign.as_deref().map_or_else(|| Ok(Map::new()), |text| parse("an imported record", text))?,
        })
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("types of the domain are JSON")
}

fn label(value: &impl Serialize) -> String {
    json(value).trim_matches('"').to_owned()
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Broken> {
    serde_json::from_str(text).map_err(|error| Broken::Row(format!("{what} cannot be read: {error}")))
}
