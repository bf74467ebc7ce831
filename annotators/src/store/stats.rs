//! What a store holds, counted: by annotator and by model asked.

use std::collections::BTreeMap;

use farmhand_core::Result;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::Store;
use super::reply_rows::Broken;

/// What one annotator's verdicts come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnnotatorStats {
    /// The annotator.
    pub annotator: String,
    /// Comparisons with a verdict.
    pub n_verdicts: u64,
    /// Verdicts for the first answer.
    pub n_first: u64,
    /// Verdicts for the second answer.
    pub n_second: u64,
    /// Ties.
    pub n_ties: u64,
    /// Verdicts for the answer that was shown in the first place, where the order is known; ties count for neither.
    pub n_shown_first: u64,
    /// Verdicts that label noise replaced.
    pub n_noised: u64,
    /// Failures by kind, those included that a verdict followed.
    pub failures: BTreeMap<String, u64>,
    /// What it all cost, in US dollars, as far as prices are known.
    pub cost_usd: f64,
    /// Judgements whose price is known.
    pub n_priced: u64,
    /// Seconds of judging, as far as they are known.
    pub time_secs: f64,
    /// Judgements whose time is known.
    pub n_timed: u64,
}

impl AnnotatorStats {
    /// Share of the verdicts that prefer the answer shown in the first place, in [0, 1]; ½ where a judge has no bias. `None`
    /// without a verdict that prefers an answer.
    pub fn first_place_share(&self) -> Option<f64> {
        ratio(self.n_shown_first as f64, self.n_first + self.n_second)
    }

    /// US dollars per 1,000 judgements, over those whose price is known.
    pub fn usd_per_1000(&self) -> Option<f64> {
        ratio(1000.0 * self.cost_usd, self.n_priced)
    }

    /// Seconds per 1,000 judgements, over those whose time is known.
    pub fn secs_per_1000(&self) -> Option<f64> {
        ratio(1000.0 * self.time_secs, self.n_timed)
    }
}

/// What one model was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelStats {
    /// The model.
    pub model: String,
    /// Questions with an answer.
    pub n_answers: u64,
    /// Failures, those included that an answer followed.
    pub n_failures: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// What it cost, in US dollars, as far as prices are known.
    pub cost_usd: f64,
}

/// What a whole store holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStats {
    /// By annotator, in the order of their names.
    pub annotators: Vec<AnnotatorStats>,
    /// By model asked, in the order of their names.
    pub models: Vec<ModelStats>,
}

/// Verdicts that belong together: of one judge about one pair of generators.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredSet {
    /// The annotator.
    pub annotator: String,
    /// Who gave the first answers.
    pub generator_1: Option<String>,
    /// Who gave the second answers.
    pub generator_2: Option<String>,
    /// Comparisons with a verdict.
    pub n_verdicts: u64,
}

impl Store {
    /// Counts what the store holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stats(&self) -> Result<StoreStats> {
        self.read(|connection| Ok(StoreStats { annotators: annotators(connection)?, models: models(connection)? }))
    }

    /// Which sets of verdicts there are.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sets(&self) -> Result<Vec<StoredSet>> {
        let sql = "SELECT v.annotator, c.comparison ->> 'generator_1' AS one, c.comparison ->> 'generator_2' AS two, count(*) \
                   FROM verdicts v JOIN comparisons c ON c.id = v.comparison GROUP BY v.annotator, one, two ORDER BY 1, 2, 3";
        let set = |row: &Row<'_>| {
            Ok(StoredSet {
                annotator: row.get(0)?,
                generator_1: row.get(1)?,
                generator_2: row.get(2)?,
                n_verdicts: count(row, 3)?,
            })
        };
        self.read(|connection| Ok(connection.prepare(sql)?.query_map([], set)?.collect::<rusqlite::Result<Vec<_>>>()?))
    }

    /// Looks at every page and reads every verdict and every answer.
    ///
    /// # Errors
    /// What is damaged, the first of it.
    pub fn verify(&self) -> Result<StoreStats> {
        self.read(|connection| {
            let mut statement = connection.prepare("PRAGMA integrity_check(1)")?;
            let verdict: String = statement.query_row([], |row| row.get(0))?;
            if verdict != "ok" {
                return Err(Broken::Row(format!("it is damaged: {verdict}")));
            }
            let mut statement = connection.prepare("SELECT id FROM replies WHERE NOT json_valid(answer) LIMIT 1")?;
            match statement.query([])?.next()? {
                Some(row) => Err(Broken::Row(format!("reply {} is not JSON", row.get::<_, i64>(0)?))),
                None => Ok(()),
            }
        })?;
        self.visit_verdicts(None, |_| Ok(()))?;
        self.stats()
    }
}

fn annotators(connection: &Connection) -> Result<Vec<AnnotatorStats>, Broken> {
    let mut stats: BTreeMap<String, AnnotatorStats> = BTreeMap::new();
    let sql = "SELECT annotator, count(*), sum(preference < 1.5), sum(preference > 1.5), sum(preference = 1.5), \
               sum((preference < 1.5) = (shown = 'as_given') AND preference <> 1.5), sum(noised), total(cost_usd), \
               count(cost_usd), total(time_secs), count(time_secs) FROM verdicts GROUP BY annotator";
    let verdicts = |row: &Row<'_>| {
        Ok(AnnotatorStats {
            annotator: row.get(0)?,
            n_verdicts: count(row, 1)?,
            n_first: count(row, 2)?,
            n_second: count(row, 3)?,
            n_ties: count(row, 4)?,
            n_shown_first: count(row, 5)?,
            n_noised: count(row, 6)?,
            cost_usd: row.get(7)?,
            n_priced: count(row, 8)?,
            time_secs: row.get(9)?,
            n_timed: count(row, 10)?,
            failures: BTreeMap::new(),
        })
    };
    for row in connection.prepare(sql)?.query_map([], verdicts)? {
        let row = row?;
        stats.insert(row.annotator.clone(), row);
    }
    let sql = "SELECT annotator, kind, count(*), total(cost_usd), count(cost_usd), total(time_secs), count(time_secs) \
               FROM verdict_failures GROUP BY annotator, kind";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let annotator: String = row.get(0)?;
        let new = || AnnotatorStats { annotator: annotator.clone(), ..AnnotatorStats::default() };
        let entry = stats.entry(annotator.clone()).or_insert_with(new);
        entry.failures.insert(row.get(1)?, count(row, 2)?);
        entry.cost_usd += row.get::<_, f64>(3)?;
        entry.n_priced += count(row, 4)?;
        entry.time_secs += row.get::<_, f64>(5)?;
        entry.n_timed += count(row, 6)?;
    }
    Ok(stats.into_values().collect())
}

fn models(connection: &Connection) -> Result<Vec<ModelStats>, Broken> {
    let sql = "SELECT model, sum(answered), sum(NOT answered), sum(prompt_tokens), sum(completion_tokens), total(cost_usd) FROM ( \
               SELECT model, 1 AS answered, prompt_tokens, completion_tokens, cost_usd FROM replies UNION ALL \
               SELECT model, 0, prompt_tokens, completion_tokens, cost_usd FROM reply_failures) GROUP BY model ORDER BY model";
    let model = |row: &Row<'_>| {
        Ok(ModelStats {
            model: row.get(0)?,
            n_answers: count(row, 1)?,
            n_failures: count(row, 2)?,
            prompt_tokens: count(row, 3)?,
            completion_tokens: count(row, 4)?,
            cost_usd: row.get(5)?,
        })
    };
    Ok(connection.prepare(sql)?.query_map([], model)?.collect::<rusqlite::Result<Vec<_>>>()?)
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|count| u64::try_from(count).unwrap_or(0))
}

fn ratio(part: f64, n: u64) -> Option<f64> {
    (n > 0).then(|| part / n as f64)
}
