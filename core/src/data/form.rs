//! A form is one way in which files hold one kind of data. The first record decides which form a file has.

use std::path::Path;

use super::fields::{FieldProblem, Fields};
use super::records::{RecordError, Records};
use super::report::{BadRecord, BadRecords, ReadOptions, ReadReport};
use super::verdict_scale::VerdictScale;
use crate::error::{Error, Result};

/// One form of records that hold a `T`.
pub(super) struct Form<T> {
    /// Its name, as reports show it.
    pub(super) name: &'static str,
    /// Its fields, as messages show them.
    pub(super) keys: &'static str,
    /// Whether a record has these fields.
    pub(super) fits: fn(&Fields) -> bool,
    /// Reads a record.
    pub(super) parse: fn(&Fields, &Origin) -> Result<Parsed<T>, FieldProblem>,
}

/// What a parser may know about where a record came from.
pub(super) struct Origin {
    /// The file's name without folders and endings; stands in for a generator that is not named.
    pub(super) stem: String,
    /// The scale of numeric verdicts, where the reader was told one.
    pub(super) scale: Option<VerdictScale>,
}

/// What came of a good record.
pub(super) enum Parsed<T> {
    /// One item.
    One(T),
    /// Several items, such as the samples of one instruction.
    Many(Vec<T>),
    /// Several things of which each may be left out, such as the comparisons between four answers.
    Each(Vec<Parsed<T>>),
    /// Nothing, for a reason that is counted.
    LeftOut(LeftOut),
}

impl<T> Parsed<T> {
    /// The same with every item made into something else.
    pub(super) fn map<U>(self, make: &impl Fn(T) -> U) -> Parsed<U> {
        match self {
            Self::One(item) => Parsed::One(make(item)),
            Self::Many(items) => Parsed::Many(items.into_iter().map(make).collect()),
            Self::Each(items) => Parsed::Each(items.into_iter().map(|item| item.map(make)).collect()),
            Self::LeftOut(why) => Parsed::LeftOut(why),
        }
    }
}

/// Forms of one kind of data made of forms of another: the same fields, and a function over what they give.
macro_rules! derived_forms {
    ($from:expr, $make:expr, [$($index:literal),+ $(,)?]) => {
        &[$(crate::data::form::Form {
            name: $from[$index].name,
            keys: $from[$index].keys,
            fits: $from[$index].fits,
            parse: |fields, origin| ($make)(($from[$index].parse)(fields, origin)?),
        }),+]
    };
}
pub(super) use derived_forms;

/// Why a good record made no item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// A tie makes no preference pair.
    Tie,
    /// Two identical answers make no preference pair.
    Identical,
    /// No verdict was reached.
    NoVerdict,
    /// The two dialogues differ before the last answer.
    Parted,
}

impl ReadReport {
    fn count_left_out(&mut self, why: LeftOut) {
        let count = match why {
            LeftOut::Tie => &mut self.n_ties,
            LeftOut::Identical => &mut self.n_identical,
            LeftOut::NoVerdict => &mut self.n_no_verdict,
            LeftOut::Parted => &mut self.n_parted,
        };
        *count += 1;
    }
}

/// Reads a file whose records have one of the forms; `what` names the data in messages.
///
/// # Errors
/// When the file cannot be read, its first record has no known form, a record is bad and bad records are not
/// skipped, or nothing is left.
pub(super) fn read<T>(path: &Path, options: &ReadOptions, what: &str, forms: &[Form<T>]) -> Result<(Vec<T>, ReadReport)> {
    read_any(path, options, what, &[forms])
}

/// As [`read`] with several lists of forms, the first that fits counts.
pub(super) fn read_any<T>(path: &Path, options: &ReadOptions, what: &str, forms: &[&[Form<T>]]) -> Result<(Vec<T>, ReadReport)> {
    let mut report = ReadReport { path: path.to_owned(), ..ReadReport::default() };
    let origin = Origin { stem: stem(path), scale: options.scale };
    let mut items = Vec::new();
    let mut form: Option<&Form<T>> = None;
    for record in Records::open(path, options.parquet)? {
        report.n_records += 1;
        let parsed = match record {
            Err(RecordError::Fatal(error)) => return Err(error),
            Err(RecordError::Bad(bad)) => Err(Complaint { bad, hint: None }),
            Ok(record) => {
                form = form.or_else(|| forms.iter().copied().flatten().find(|form| (form.fits)(&record.fields)));
                let complain = |message: String, hint| Complaint { bad: BadRecord::new(record.location, message), hint };
                match form {
                    None => Err(complain(unknown_form(&record.fields, what), Some(known_forms(what, forms)))),
                    Some(form) => (form.parse)(&record.fields, &origin).map_err(|problem| {
                        complain(problem.to_string(), Some(format!("records of form `{}` have {}", form.name, form.keys)))
                    }),
                }
            }
        };
        match parsed {
            Ok(parsed) => take(parsed, &mut items, &mut report),
            Err(complaint) if options.bad_records == BadRecords::Stop => return Err(complaint.into_error(path)),
            Err(complaint) => report.count_bad(complaint.bad),
        }
    }
    report.form = form.map(|form| form.name.to_owned()).unwrap_or_default();
    if items.is_empty() {
        return Err(nothing(what, &report));
    }
    Ok((items, report))
}

/// Adds what came of a good record.
fn take<T>(parsed: Parsed<T>, items: &mut Vec<T>, report: &mut ReadReport) {
    match parsed {
        Parsed::One(item) => items.push(item),
        Parsed::Many(several) => items.extend(several),
        Parsed::Each(several) => several.into_iter().for_each(|one| take(one, items, report)),
        Parsed::LeftOut(why) => report.count_left_out(why),
    }
}

struct Complaint {
    bad: BadRecord,
    hint: Option<String>,
}

impl Complaint {
    fn into_error(self, path: &Path) -> Error {
        let error = self.bad.into_error(path);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

fn unknown_form(fields: &Fields, what: &str) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let names = if names.is_empty() { "no fields".to_owned() } else { format!("the fields `{}`", names.join("`, `")) };
    format!("no known form of {what} has {names}")
}

fn known_forms<T>(what: &str, forms: &[&[Form<T>]]) -> String {
    let forms: Vec<String> = forms.iter().copied().flatten().map(|form| format!("{} ({})", form.name, form.keys)).collect();
    format!("known forms of {what}: {}", forms.join("; "))
}

fn nothing(what: &str, report: &ReadReport) -> Error {
    let path = report.path.display();
    if report.n_records == 0 {
        return Error::invalid_data(format!("`{path}` holds no records, expected {what}"));
    }
    let mut message = format!("`{path}` holds no {what}: {} records, left out: {}", report.n_records, report.left_out());
    if let Some(bad) = report.bad.first() {
        message.push_str(&format!("; {}: {}", bad.location, bad.message));
    }
    Error::invalid_data(message)
}

/// A file's name without folders and the endings this crate knows.
fn stem(path: &Path) -> String {
    let mut name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for ending in [".gz", ".zst", ".jsonl", ".ndjson", ".json", ".parquet"] {
        if let Some(shorter) = name.strip_suffix(ending).filter(|shorter| !shorter.is_empty()) {
            name = shorter.to_owned();
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: &[Form<i64>] = &[Form {
        name: "numbers",
        keys: "`n`",
        fits: |fields| fields.contains_key("n"),
        parse: |fields, _| match super::super::fields::number(fields, "n")? {
            0.0 => Ok(Parsed::LeftOut(LeftOut::Tie)),
            n => Ok(Parsed::Many(vec![n as i64; 2])),
        },
    }];

    fn read_text(text: &str, bad_records: BadRecords) -> Result<(Vec<i64>, ReadReport)> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).expect("written");
        read(&path, &ReadOptions { bad_records, ..ReadOptions::default() }, "numbers", FORMS)
    }

    #[test]
    fn a_bad_record_stops_with_its_place_or_is_counted() {
        let text = "{\"n\": 1}\n{\"m\": 2}\n{\"n\": \"x\"}\n{\"n\": 0}\n";
        let error = read_text(text, BadRecords::Stop).expect_err("bad");
        assert!(error.message().ends_with("x.jsonl`, line 2: field `n`: expected a number, got none"), "{error}");
        assert_eq!(error.hint(), Some("records of form `numbers` have `n`"));
        let (items, report) = read_text(text, BadRecords::Skip).expect("read");
        assert_eq!(items, [1, 1]);
        assert_eq!((report.n_records, report.n_bad, report.n_ties, report.bad.len()), (4, 2, 1, 2));
        assert_eq!(report.left_out(), "2 bad, 1 ties");
        assert!(report.to_string().contains("\n  line 3: field `n`: expected a number, got a text"), "{report}");
    }

    #[test]
    fn an_unknown_form_lists_the_known_ones_and_nothing_is_an_error() {
        let error = read_text("{\"a\": 1, \"b\": 2}", BadRecords::Stop).expect_err("unknown");
        assert!(error.message().ends_with("line 1: no known form of numbers has the fields `a`, `b`"), "{error}");
        assert_eq!(error.hint(), Some("known forms of numbers: numbers (`n`)"));
        assert!(read_text("", BadRecords::Stop).expect_err("empty").message().contains("holds no records"));
        assert!(read_text("{\"n\": 0}", BadRecords::Stop).expect_err("ties").message().contains("left out: 1 ties"));
        assert!(read_text("{}\n", BadRecords::Skip).expect_err("bad").message().contains("no fields"));
    }

    #[test]
    fn stems_lose_every_known_ending() {
        assert_eq!(stem(Path::new("a/outputs_sft.jsonl.gz")), "outputs_sft");
        assert_eq!(stem(Path::new("v1.2.json")), "v1.2");
        assert_eq!(stem(Path::new(".json")), ".json");
    }
}
