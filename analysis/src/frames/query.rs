//! SQL over tables: what polars' `SQLContext` understands, with errors that name the place or the nearest name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use farmhand_core::config::{did_you_mean, nearest};
use farmhand_core::{Error, Result};
use polars::prelude::*;
use polars::sql::{SQLContext, extract_table_identifiers};

use super::Tables;
use super::query_result::QueryResult;
use super::source::{FirstError, Scan};

impl Tables {
    /// Answers a query. Only the tables that it names are read, and of Parquet files and runs only the columns.
    ///
    /// # Errors
    /// When the query is no SQL, names what there is not, or a table cannot be read.
    pub fn query(&self, sql: &str) -> Result<QueryResult> {
        let named = extract_table_identifiers(sql, false, true).map_err(|error| self.explained(&error, sql, &[]))?;
        let first_error = FirstError::default();
        let mut context = SQLContext::new();
        let shows_tables = sql.trim_start().to_ascii_lowercase().starts_with("show");
        for name in if shows_tables { self.sources.keys().cloned().collect() } else { named.clone() } {
            if let Some(source) = self.sources.get(&name) {
                context.register(&name, Scan::lazy(source, &first_error)?);
            }
        }
        // polars panics where a query needs a part of it that is not built in.
        let answered = catch_unwind(AssertUnwindSafe(|| context.execute(sql).and_then(LazyFrame::collect)));
        if let Some(error) = first_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        match answered {
            Ok(Ok(frame)) => Ok(QueryResult::new(frame)),
            Ok(Err(error)) => Err(self.explained(&error, sql, &named)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                let why = text.and_then(|text| text.lines().next()).unwrap_or("it stopped in the middle");
                Err(Error::invalid_config(format!("the query needs a part of SQL that is not there: {why}"))
                    .with_hint("say it with plainer functions or types, or export the table and go on in another tool"))
            }
        }
    }

    /// What polars says, in terms of the query and the tables.
    fn explained(&self, error: &PolarsError, sql: &str, named: &[String]) -> Error {
        let message = innermost(error);
        if let Some(text) = message.strip_prefix("sql parser error: ") {
            return syntax_error(text, sql);
        }
        if let Some(table) = between(message, "relation '", "' was not found") {
            let known: Vec<&str> = self.sources.keys().map(String::as_str).collect();
            return Error::invalid_config(format!("the query names a table `{table}`, which there is not"))
                .with_hint(did_you_mean(table, &known));
        }
        let column = between(message, "unable to find column \"", "\"").or(between(message, "not found: ", "\n"));
        if let Some(column) = column {
            let schemas = named.iter().filter_map(|name| self.sources.get(name)?.schema().ok());
            let mut known: Vec<String> =
                schemas.flat_map(|schema| schema.iter_names().map(ToString::to_string).collect::<Vec<_>>()).collect();
            known.sort();
            known.dedup();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let hint = match nearest(column, &known) {
                _ if known.is_empty() => "the query names no table that is known here: `select … from judgements`".to_owned(),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{}; a text stands in single quotes", did_you_mean(column, &known)),
            };
            return Error::invalid_config(format!("the query names a column `{column}`, which there is not")).with_hint(hint);
        }
        let first = message.split("\n\n").next().unwrap_or(message);
        Error::invalid_config(format!("the query cannot be answered: {first}"))
    }
}

/// The message of the error that started it.
fn innermost(error: &PolarsError) -> &str {
    match error {
        PolarsError::Context { error, .. } | PolarsError::ExprContext { error, .. } => innermost(error),
        PolarsError::AssertionError(message)
        | PolarsError::ColumnNotFound(message)
        | PolarsError::ComputeError(message)
        | PolarsError::Duplicate(message)
        | PolarsError::InvalidOperation(message)
        | PolarsError::NoData(message)
        | PolarsError::OutOfBounds(message)
        | PolarsError::SchemaFieldNotFound(message)
        | PolarsError::SchemaMismatch(message)
        | PolarsError::ShapeMismatch(message)
        | PolarsError::SQLInterface(message)
        | PolarsError::SQLSyntax(message)
        | PolarsError::StringCacheMismatch(message)
        | PolarsError::StructFieldNotFound(message) => message,
        PolarsError::IO { msg, .. } => msg.as_ref().map_or("a file cannot be read", |message| message),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = text.split_once(before)?.1;
    Some(rest.split_once(after).map_or(rest, |(inside, _)| inside))
}

/// `Expected: …, found: … at Line: 1, Column: 8`, with the query's text from there.
fn syntax_error(text: &str, sql: &str) -> Error {
    let place = between(text, " at Line: ", "\n").and_then(|place| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((line.parse::<usize>().ok()?, column.trim().parse::<usize>().ok()?))
    });
    let what = text.split(" at Line: ").next().unwrap_or(text).replace("Expected: ", "expected ").replace("found: ", "found ");
    if let Some(expected) = what.strip_prefix("expected ").and_then(|what| what.strip_suffix(", found EOF")) {
        return Error::invalid_config(format!("the query ends where {expected} should follow"));
    }
    let Some((line, column)) = place else {
        return Error::invalid_config(format!("the query is not SQL: {what}"));
    };
    let rest: String = sql.lines().nth(line - 1).unwrap_or_default().chars().skip(column.saturating_sub(1)).take(30).collect();
    let found = if rest.is_empty() { String::new() } else { format!(", at `{rest}`") };
    Error::invalid_config(format!("the query, line {line}, column {column}: {what}{found}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::fixture;
    use crate::frames::ResultFormat;

    fn over(inputs: &[PathBuf]) -> Tables {
        Tables::open(inputs, &[]).expect("opened")
    }

    fn csv(tables: &Tables, sql: &str) -> String {
        tables.query(sql).and_then(|result| result.text(ResultFormat::Csv)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    #[test]
    fn a_run_answers_queries_over_all_its_tables() {
        let dir = fixture::run();
        let tables = over(&[dir.path().to_owned()]);
        let told = csv(
            &tables,
            "select method, count(*) as n, count(failure) as failed, avg(p_win) as p from judgements \
             where stage like 'evaluate-%' group by method order by method limit 2",
        );
        assert_eq!(told, "method,n,failed,p\nbest_of_n,8,1,0.4642857142857143\ndpo,8,1,0.4642857142857143\n");
        let joined = csv(
            &tables,
            "select m.method, m.value, l.rank from metrics m join leaderboard l on m.model = l.model \
             where m.metric = 'win_rate' order by l.rank limit 1",
        );
        assert!(joined.starts_with("method,value,rank\nppo,"), "{joined}");
        assert_eq!(csv(&tables, "select count(*) as n from completions where n_chars > 5"), "n\n32\n");
        let last = "select value from scalars where name = 'ppo/reward' and step = 3";
        assert_eq!(csv(&tables, last), "value\n0.25\n", "a step told twice has its last value");
        assert_eq!(csv(&tables, "select run from judgements limit 1"), "run\nquick start\n");
        assert_eq!(csv(&tables, "with j as (select * from judgements) select max(len_2) > 3 as long from j"), "long\ntrue\n");
    }

    #[test]
    fn repetitions_are_told_apart_and_runs_of_one_name_go_by_their_paths() {
        let (one, other) = (fixture::repeated_run(), fixture::repeated_run());
        let tables = over(&[one.path().to_owned(), other.path().to_owned()]);
        let told = csv(&tables, "select count(distinct run) as runs, count(distinct seed) as seeds from judgements");
        assert_eq!(told, "runs,seeds\n2,3\n");
    }

    #[test]
    fn mistakes_are_told_with_their_place_or_the_nearest_name() {
        let dir = fixture::run();
        let tables = over(&[dir.path().to_owned()]);
        for (sql, message, hint) in [
            ("select * form judgements", "the query, line 1, column 10: expected", ""),
            ("select *\nfrom judgements\nwhere p_win >", "the query ends where an expression should follow", ""),
            ("select * from judgments", "a table `judgments`", "did you mean `judgements`?"),
            ("select prefrence from judgements", "a column `prefrence`", "did you mean `preference`?"),
            ("select p_win from judgements where j.x = 1", "the query", ""),
            ("select method from judgements where stage = \"sft\"", "a column `sft`", "single quotes"),
            ("select nosuch(p_win) from judgements", "the query", ""),
            ("select sum(method) from judgements", "the query", ""),
            ("", "the query", ""),
            ("select 1; select 2", "the query", ""),
        ] {
            let error = tables.query(sql).err().unwrap_or_else(|| panic!("{sql}: refused"));
            let text = error.to_string();
            assert!(text.contains(message), "{sql}: {text}");
            assert!(error.hint().unwrap_or_default().contains(hint), "{sql}: {:?}", error.hint());
        }
    }

    #[test]
    fn a_broken_line_is_the_error_and_only_where_its_table_is_asked() {
        let dir = fixture::run();
        std::fs::write(dir.path().join("evaluate-dpo/judgements.jsonl"), "{\n").expect("written");
        let tables = over(&[dir.path().to_owned()]);
        assert_eq!(csv(&tables, "select count(*) as n from metrics where metric = 'win_rate'"), "n\n4\n");
        let error = tables.query("select * from judgements").expect_err("refused");
        assert!(error.to_string().contains("judgements.jsonl`, line 1"), "{error}");
    }

    #[test]
    fn results_go_to_parquet_and_files_come_back_as_tables() {
        let dir = fixture::run();
        let tables = over(&[dir.path().to_owned()]);
        let all = tables.query("select * from judgements order by comparison_id").expect("answered");
        let path = dir.path().join("out.x.parquet");
        all.write(&path).expect("written");
        let again = over(&[path]);
        assert_eq!(csv(&again, "select * from out_x"), all.text(ResultFormat::Csv).expect("text"));
        let described = again.describe().expect("described");
        assert_eq!((described[0].name.as_str(), described[0].n_rows, described[0].columns.len()), ("out_x", 32, 28));
        for name in ["rows.csv", "rows.json", "rows.jsonl"] {
            let path = dir.path().join(name);
            tables
                .query("select method, value, n from metrics where metric = 'n_wins' order by method")
                .expect("answered")
                .write(&path)
                .expect(name);
            let told = csv(&over(&[path]), "select method, value, n from rows where value > 1 order by method limit 1");
            assert_eq!(told, "method,value,n\nbest_of_n,3.0,8\n", "{name}");
        }
        let judged = over(&[dir.path().join("evaluate-dpo/judgements.jsonl")]);
        assert_eq!(
            csv(&judged, "select count(*) as n, sum(p_win) as s from judgements where p_win is not null"),
            "n,s\n7,3.25\n"
        );
        let error = all.write(&dir.path().join("x.xlsx")).expect_err("refused");
        assert!(error.hint().is_some_and(|hint| hint.contains(".parquet")), "{error}");
    }
}
