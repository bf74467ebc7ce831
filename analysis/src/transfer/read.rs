//! Methods' verdicts out of run directories and files, and their win rates out of a table.

use std::path::{Path, PathBuf};

use farmhand_core::data::BadRecords;
use farmhand_core::types::Judgement;
use farmhand_core::{Error, Result};
use farmhand_evaluators::transfer::{Judged, Side, TableRow, Verdict};

use crate::csv_rows::CsvRows;
use crate::judgement_table::{JudgementTable, TableOptions};
use crate::repetitions::split_seed;
use crate::run_files::RunFiles;

/// Adds what an annotator said of methods: the judgements of run directories (all seeds of a method together) and of files (a method is
/// the generator of the second answer). `annotator` keeps one of several annotators.
///
/// # Errors
/// When a path cannot be read, or `annotator` is none of those who judged.
pub fn add_judged(
    judged: &mut Judged,
    side: Side,
    paths: &[PathBuf],
    annotator: Option<&str>,
    bad_records: BadRecords,
) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    let mut keep = |name: &str| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        annotator.is_none_or(|wanted| wanted == name)
    };
    for path in paths {
        if path.is_dir() {
            add_run(judged, side, path, &mut keep)?;
        } else {
            add_file(judged, side, path, bad_records, &mut keep)?;
        }
    }
    match annotator {
        Some(wanted) if !names.iter().any(|name| name == wanted) => {
            let message = format!("no verdict by annotator `{wanted}`");
            Err(Error::invalid_config(message).with_hint(format!("annotators in these files: `{}`", names.join("`, `"))))
        }
        _ => Ok(()),
    }
}

fn add_run(judged: &mut Judged, side: Side, path: &Path, keep: &mut impl FnMut(&str) -> bool) -> Result<()> {
    let run = RunFiles::read(path)?;
    if run.models.iter().all(|model| model.judgements.is_empty()) {
        return Err(Error::missing_input(format!("the run `{}` has no judgements", path.display()))
            .with_hint("they are in `evaluate-METHOD/judgements.jsonl`; let the run finish its evaluation"));
    }
    for model in &run.models {
        let method = split_seed(&model.method).0;
        for judgement in &model.judgements {
            if keep(annotator_of(judgement)) {
                let comparison = &judgement.comparison;
                let length = |text: &str| text.chars().count() as f64;
                let verdict = Verdict {
                    method,
                    reference: comparison.generator_1.as_deref(),
                    instruction: &comparison.instruction.text(),
                    p_win: judgement.preference().map(|preference| preference.p_second()),
                    lengths: Some([length(&comparison.output_2), length(&comparison.output_1)]),
                };
                judged.add(side, &verdict);
            }
        }
    }
    Ok(())
}

fn annotator_of(judgement: &Judgement) -> &str {
    judgement.annotation().map_or("unknown", |annotation| &annotation.annotator)
}

fn add_file(
    judged: &mut Judged,
    side: Side,
    path: &Path,
    bad_records: BadRecords,
    keep: &mut impl FnMut(&str) -> bool,
) -> Result<()> {
    let table = JudgementTable::read(&[path], &TableOptions { bad_records, texts: false })?;
    for row in (0..table.len()).map(|row| table.row(row)) {
        if keep(row.annotator) {
            let verdict = Verdict {
                method: row.model,
                reference: Some(row.baseline),
                instruction: row.instruction,
                p_win: row.preference.map(|code| code - 1.0),
                lengths: row.len_2.zip(row.len_1).map(|(model, reference)| [f64::from(model), f64::from(reference)]),
            };
            judged.add(side, &verdict);
        }
    }
    Ok(())
}

/// Reads win rates from CSV: columns `method`, `a`, `b` (in %), and `a_se`, `b_se` where standard errors are known. A method that
/// lacks a win rate (an empty cell, or a dash) is left out and named in the second part.
///
/// # Errors
/// When the file cannot be read, a column is missing, a number is none or a standard error is negative, a method is there twice, or
/// fewer than two have both rates.
pub fn read_rates(path: &Path) -> Result<(Vec<TableRow>, Vec<String>)> {
    let csv = CsvRows::read(path)?;
    let hint = "expected `method,a,b` and, where they are known, `a_se,b_se`; win rates in %";
    let needed = |name: &str| csv.column(name).map_err(|error| error.with_hint(hint));
    let (method, a, b) = (needed("method")?, needed("a")?, needed("b")?);
    let number = |row: usize, column: usize| match csv.rows[row][column].trim() {
        "-" | "–" => Ok(None),
        _ => csv.number(row, column),
    };
    let error = |row: usize, name: &str| match csv.find(name).map(|column| number(row, column)).transpose()?.flatten() {
        Some(error) if error < 0.0 => {
            let message = format!("`{}`, row {}: expected `{name}` ≥ 0, got {error}", path.display(), row + 1);
            Err(Error::invalid_data(message))
        }
        error => Ok(error),
    };
    let (mut rows, mut left_out): (Vec<TableRow>, Vec<String>) = (Vec::new(), Vec::new());
    for row in 0..csv.rows.len() {
        let name = csv.rows[row][method].trim().to_owned();
        if rows.iter().any(|row| row.method == name) || left_out.contains(&name) {
            let message = format!("`{}`, row {}: method `{name}` is there twice", path.display(), row + 1);
            return Err(Error::invalid_data(message));
        }
        match (number(row, a)?, number(row, b)?) {
            (Some(a), Some(b)) => {
                rows.push(TableRow { method: name, a, b, a_se: error(row, "a_se")?, b_se: error(row, "b_se")? });
            }
            _ => left_out.push(name),
        }
    }
    if rows.len() < 2 {
        let message =
            format!("`{}`: {} method with both win rates, and a ranking needs at least two", path.display(), rows.len());
        return Err(Error::missing_input(message));
    }
    Ok((rows, left_out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::Seed;
    use farmhand_evaluators::transfer::transfer;

    use crate::fixture;

    #[test]
    fn a_run_is_compared_with_itself() {
        let dir = fixture::repeated_run();
        let mut judged = Judged::default();
        let run = [dir.path().to_owned()];
        for side in [Side::A, Side::B] {
            add_judged(&mut judged, side, &run, Some("pool"), BadRecords::Stop).expect("read");
        }
        let methods = judged.methods(None).expect("two methods beside the reference");
        assert_eq!(methods.methods.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["dpo", "ppo"]);
        let found = transfer(&methods, 0, Seed::root(0));
        assert_eq!(found.methods[0].a.win_rate, found.methods[0].b.win_rate);
        assert!(found.methods[0].length_ratio().is_some());
        let mut judged = Judged::default();
        let error = add_judged(&mut judged, Side::A, &run, Some("nobody"), BadRecords::Stop).expect_err("unknown");
        assert!(error.hint().is_some_and(|hint| hint.contains("`pool`")), "{error}");
    }

    #[test]
    fn tables_say_what_is_wrong_with_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("t.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            read_rates(&path)
        };
        let (rows, left_out) = read("method,a,b,a_se\n\"x, y\",50,40,1.5\nz,60,-,\nw,1,2,\n").expect("read");
        assert_eq!((rows[0].method.as_str(), rows[0].a_se, rows[1].a_se, rows[1].b_se), ("x, y", Some(1.5), None, None));
        assert_eq!(left_out, ["z"]);
        for (text, part) in [
            ("", "is empty"),
            ("method,a\nx,1\n", "no column `b`; it has `method`, `a`"),
            ("method,a,b\nx,1,2\nx,1,2\n", "row 2: method `x` is there twice"),
            ("method,a,b\nx,one,2\n", "row 1: column `a`: expected a number, got `one`"),
            ("method,a,b,b_se\nx,1,2,-1\n", "row 1: expected `b_se` ≥ 0, got -1"),
            ("method,a,b\nx,inf,2\n", "got `inf`"),
            ("method,a,b\nx,1,2\n", "1 method with both win rates"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.message().contains(part), "{error}");
        }
    }
}
