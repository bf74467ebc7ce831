//! Import and export: annotation files in, annotation files out, one record at a time.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use farmhand_core::data::{RecordError, Records};
use farmhand_core::types::{Judgement, Outcome};
use farmhand_core::{Error, Result};
use farmhand_endpoints::{Date, wait};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Store;
use super::alpaca_eval::{AlpacaEvalLayout, from_record, to_record};
use super::verdict::{Judge, StoredOutcome, StoredVerdict, VerdictKey};

/// Records that go into a store together.
const BATCH: usize = 1024;

/// What an import found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// Records in the files.
    pub n_records: u64,
    /// Verdicts that are new.
    pub n_verdicts: u64,
    /// Records without a verdict that are new: failures.
    pub n_failures: u64,
    /// Records whose comparison and annotator the store knew; what it holds stands.
    pub n_known: u64,
}

/// The form of exported records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportForm {
    /// AlpacaEval's annotations, a JSON list.
    AlpacaEval(AlpacaEvalLayout),
    /// farmhand's judgements, one a line.
    Farmhand,
}

/// Which verdicts are exported.
#[derive(Debug, Clone, Default)]
pub struct ExportFilter {
    /// Only of this annotator.
    pub annotator: Option<String>,
    /// Only comparisons whose second answer this generator gave.
    pub generator_2: Option<String>,
}

impl Store {
    /// Imports an annotations file: AlpacaEval's results or cache, or farmhand's `judgements.jsonl`. `annotator` names the judge
    /// in place of the file. An import that was broken off is finished by importing the file once more.
    ///
    /// # Errors
    /// When the file cannot be read or a record is wrong; it says which. What came before is kept.
    pub fn import(&self, path: &Path, annotator: Option<&str>) -> Result<ImportReport> {
        let mut report = ImportReport::default();
        let mut batch = Vec::with_capacity(BATCH);
        for record in Records::open(path, None)? {
            let record = record.map_err(|error| match error {
                RecordError::Bad(bad) => wrong(path, &bad.location, &bad.message),
                RecordError::Fatal(error) => error,
            })?;
            let verdict = stored_verdict(record.fields, annotator).map_err(|message| wrong(path, &record.location, &message))?;
            report.n_records += 1;
            batch.push(verdict);
            if batch.len() == BATCH {
                self.import_batch(&mut batch, &mut report)?;
            }
        }
        self.import_batch(&mut batch, &mut report)?;
        Ok(report)
    }

    fn import_batch(&self, batch: &mut Vec<StoredVerdict>, report: &mut ImportReport) -> Result<()> {
        let n = batch.len() as u64;
        let keys: Vec<VerdictKey> = batch.iter().map(StoredVerdict::key).collect();
        let known = self.verdicts(&keys)?;
        let mut seen = std::collections::HashSet::new();
        let is_new = |((verdict, known), key): &((StoredVerdict, Option<StoredOutcome>), VerdictKey)| {
            let adds = match (&verdict.outcome, known) {
                (_, None) => true,
                (StoredOutcome::Verdict(_), Some(StoredOutcome::Failure { .. })) => true,
                (_, Some(_)) => false,
            };
            let is_verdict = matches!(verdict.outcome, StoredOutcome::Verdict(_));
            adds && seen.insert((*key, is_verdict))
        };
        let new: Vec<StoredVerdict> =
            batch.drain(..).zip(known).zip(keys).filter(is_new).map(|((verdict, _), _)| verdict).collect();
        let is_verdict: Vec<bool> = new.iter().map(|verdict| matches!(verdict.outcome, StoredOutcome::Verdict(_))).collect();
        let stand = wait(self.keep_verdicts(new))?;
        let n_verdicts = is_verdict.iter().zip(&stand).filter(|(is_verdict, stands)| **is_verdict && **stands).count() as u64;
        let n_failures = is_verdict.iter().filter(|is_verdict| !**is_verdict).count() as u64;
        report.n_verdicts += n_verdicts;
        report.n_failures += n_failures;
        report.n_known += n - n_verdicts - n_failures;
        Ok(())
    }

    /// Writes verdicts, and comparisons without one, in the order in which they came, failures last; tells how many.
    ///
    /// # Errors
    /// When the store cannot be read or `out` not be written.
    pub fn export(&self, form: ExportForm, filter: &ExportFilter, out: &mut dyn Write) -> Result<u64> {
        let failed = |error| Error::io("write", Path::new("the exported judgements"), error);
        let mut n = 0_u64;
        self.visit_verdicts(filter.annotator.as_deref(), |verdict| {
            if filter.generator_2.is_some() && filter.generator_2 != verdict.comparison.generator_2 {
                return Ok(());
            }
            let before = match form {
                ExportForm::Farmhand => "",
                ExportForm::AlpacaEval(_) if n == 0 => "[\n  ",
                ExportForm::AlpacaEval(_) => ",\n  ",
            };
            if matches!(form, ExportForm::AlpacaEval(_)) && !verdict.comparison.instruction.history.is_empty() {
                let words: String = verdict.comparison.instruction.instruction.chars().take(40).collect();
                let message = format!("instruction `{words}` follows earlier turns, which AlpacaEval's files cannot hold");
                return Err(Error::invalid_data(message).with_hint("`--form farmhand` holds them"));
            }
            let text = match form {
                ExportForm::Farmhand => serde_json::to_string(&verdict.into_judgement()).map(|line| line + "\n"),
                ExportForm::AlpacaEval(layout) => {
                    serde_json::to_string_pretty(&to_record(&verdict, layout)).map(|text| text.replace('\n', "\n  "))
                }
            };
            let text = text.map_err(|error| Error::other("a verdict is not JSON").with_source(error))?;
            n += 1;
            out.write_all(before.as_bytes()).and_then(|()| out.write_all(text.as_bytes())).map_err(failed)
        })?;
        let end = match form {
            ExportForm::Farmhand => "",
            ExportForm::AlpacaEval(_) if n == 0 => "[]\n",
            ExportForm::AlpacaEval(_) => "\n]\n",
        };
        out.write_all(end.as_bytes()).map_err(failed)?;
        Ok(n)
    }
}

fn wrong(path: &Path, location: &impl std::fmt::Display, message: &str) -> Error {
    Error::invalid_data(format!("`{}`, {location}: {message}", path.display()))
}

/// A record of either form.
fn stored_verdict(fields: Map<String, Value>, annotator: Option<&str>) -> Result<StoredVerdict, String> {
    if !fields.get("comparison").is_some_and(Value::is_object) {
        return from_record(fields, annotator);
    }
    let judgement: Judgement = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
    let name = match &judgement.outcome {
        Outcome::Annotation(annotation) => Some(&annotation.annotator),
        Outcome::Failure(failure) => failure.judging.annotator.as_ref(),
    };
    let name = annotator.or(name.map(String::as_str)).unwrap_or(farmhand_core::data::UNKNOWN_ANNOTATOR).to_owned();
    let outcome = match judgement.outcome {
        Outcome::Annotation(mut annotation) => {
            annotation.annotator.clone_from(&name);
            StoredOutcome::Verdict(annotation)
        }
        Outcome::Failure(mut failure) => {
            failure.judging.annotator = Some(name.clone());
            StoredOutcome::Failure { failure, may_pass: false }
        }
    };
    Ok(StoredVerdict {
        comparison: judgement.comparison,
        judge: Arc::new(Judge::imported(&name)),
        seed: String::new(),
        outcome,
        date: Date::now(),
        foreign: Map::new(),
    })
}
