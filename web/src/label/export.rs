//! What is made of the journal: files in the forms that the readers of this project and others take.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use farmhand_core::data::{write_alpaca_eval_annotations, write_compressed, write_jsonl};
use farmhand_core::types::{Annotation, Completion, FinishReason, Judgement, Judging, Preference, RatedCompletion, ShownOrder};
use farmhand_core::{Error, ErrorKind, Result};

use super::desk::Desk;
use super::journal::{Label, Verdict};
use super::status;

/// The files, each with what it holds.
pub(crate) const FILES: [(&str, &str); 5] = [
    ("judgements.jsonl", "one judgement a rater and pair, with rater, shown order and comment"),
    ("annotations.json", "AlpacaEval's annotation list"),
    ("labels.csv", "everything, gold questions included, for a spreadsheet"),
    ("ratings.jsonl", "rubric values, the mean over raters for each answer"),
    ("summary.json", "progress, agreement and the figures of every rater"),
];

/// Writes every file that the labels give; those that they do not give are removed. Returns the written ones.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn write_all(desk: &Desk, folder: &Path) -> Result<Vec<PathBuf>> {
    let judgements = judgements(desk);
    let ratings = mean_ratings(desk);
    let holds_turns = judgements.iter().any(|judgement| !judgement.comparison.instruction.history.is_empty());
    let mut written = Vec::new();
    for (name, _) in FILES {
        let path = folder.join(name);
        let is_wanted = match name {
            // AlpacaEval's form has no place for earlier turns.
            "annotations.json" => !holds_turns,
            "ratings.jsonl" => !ratings.is_empty(),
            _ => true,
        };
        if !is_wanted {
            remove(&path)?;
            continue;
        }
        match name {
            "judgements.jsonl" => write_jsonl(&path, &judgements)?,
            "annotations.json" => write_alpaca_eval_annotations(&path, &judgements)?,
            "labels.csv" => write_text(&path, &csv(desk))?,
            "ratings.jsonl" => write_jsonl(&path, &ratings)?,
            _ => write_text(&path, &status::summary_json(desk))?,
        }
        written.push(path);
    }
    Ok(written)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_compressed(path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::io("write", path, error)))
}

/// One judgement a label, in the order of the data. Gold questions are left out: their answer is known, and they would
/// count as data. A skip is a judgement without a verdict.
pub(crate) fn judgements(desk: &Desk) -> Vec<Judgement> {
    let regular = desk.items.all().iter().enumerate().filter(|(_, item)| item.gold.is_none());
    let of_item = |(place, item)| {
        let item: &super::items::Item = item;
        desk.book.of_item(place).map(move |label| Judgement::new(item.comparison.clone(), outcome(label)))
    };
    regular.flat_map(of_item).collect()
}

fn outcome(label: &Label) -> Result<Annotation> {
    let Some(preference) = label.verdict.preference() else {
        let judging = Judging {
            annotator: Some(label.rater.clone()),
            shown: Some(label.shown),
            raw: label.comment.clone(),
            time_secs: Some(label.time_secs),
            ..Judging::default()
        };
        return Err(Error::new(ErrorKind::Other, "the rater left it to others").with_judging(judging));
    };
    let mut annotation = Annotation::new(label.rater.as_str(), preference);
    annotation.shown = label.shown;
    annotation.raw.clone_from(&label.comment);
    annotation.scores = match [&label.ratings[0], &label.ratings[1]].map(mean) {
        [Some(first), Some(second)] => Some([first, second]),
        _ => None,
    };
    annotation.time_secs = Some(label.time_secs);
    Ok(annotation)
}

fn mean(values: &BTreeMap<String, f64>) -> Option<f64> {
    (!values.is_empty()).then(|| values.values().sum::<f64>() / values.len() as f64)
}

/// The mean over raters of each attribute, for every answer that was rated.
fn mean_ratings(desk: &Desk) -> Vec<RatedCompletion> {
    let mut rated = Vec::new();
    for (place, item) in desk.items.all().iter().enumerate().filter(|(_, item)| item.gold.is_none()) {
        let comparison = &item.comparison;
        let answers = [(&comparison.output_1, &comparison.generator_1), (&comparison.output_2, &comparison.generator_2)];
        for (side, (output, generator)) in answers.into_iter().enumerate() {
            let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for (name, value) in desk.book.of_item(place).flat_map(|label| &label.ratings[side]) {
                values.entry(name).or_default().push(*value);
            }
            if values.is_empty() {
                continue;
            }
            let completion = Completion {
                instruction: comparison.instruction.clone(),
                output: output.clone(),
                model: generator.clone().unwrap_or_else(|| format!("output_{}", side + 1)),
                sample: 0,
                finish: FinishReason::Stop,
                n_tokens: 0,
                log_prob: None,
            };
            let average = |(name, values): (&str, Vec<f64>)| (name.to_owned(), values.iter().sum::<f64>() / values.len() as f64);
            rated.push(RatedCompletion { completion, ratings: values.into_iter().map(average).collect() });
        }
    }
    rated
}

/// One row a label. Rubric attributes have two columns each, `NAME_1` and `NAME_2`.
fn csv(desk: &Desk) -> String {
    let attributes = &desk.options.rubric.attributes;
    let mut header: Vec<String> = [
        "item",
        "instruction",
        "input",
        "output_1",
        "output_2",
        "generator_1",
        "generator_2",
        "annotator",
        "preference",
        "shown",
        "gold",
        "comment",
        "time_secs",
        "time",
    ]
    .map(str::to_owned)
    .into();
    header.extend(attributes.iter().flat_map(|attribute| [1, 2].map(|side| format!("{}_{side}", attribute.name))));
    let mut text = row(&header);
    for (place, item) in desk.items.all().iter().enumerate() {
        let comparison = &item.comparison;
        for label in desk.book.of_item(place) {
            let code = |preference: Option<Preference>| preference.map_or_else(String::new, |known| known.code().to_string());
            let mut cells: Vec<String> = vec![
                comparison.id.clone(),
                comparison.instruction.instruction.clone(),
                comparison.instruction.input.clone().unwrap_or_default(),
                comparison.output_1.clone(),
                comparison.output_2.clone(),
                comparison.generator_1.clone().unwrap_or_default(),
                comparison.generator_2.clone().unwrap_or_default(),
                label.rater.clone(),
                if label.verdict == Verdict::Skipped { "skipped".to_owned() } else { code(label.verdict.preference()) },
                if label.shown == ShownOrder::Swapped { "swapped" } else { "as_given" }.to_owned(),
                code(item.gold),
                label.comment.clone().unwrap_or_default(),
                format!("{:.1}", label.time_secs),
                format!("{:.0}", label.time),
            ];
            let value = |ratings: &BTreeMap<String, f64>, name| ratings.get(name).map_or_else(String::new, f64::to_string);
            let values = attributes.iter().flat_map(|attribute| label.ratings.each_ref().map(|r| value(r, &attribute.name)));
            cells.extend(values);
            text += &row(&cells);
        }
    }
    text
}

/// A line of CSV (RFC 4180). A text that a spreadsheet would take for a formula gets an apostrophe in front.
fn row(cells: &[String]) -> String {
    let mut line = String::new();
    for (i, cell) in cells.iter().enumerate() {
        let is_number = cell.parse::<f64>().is_ok();
        let guard = if !is_number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(line, "{comma}\"{guard}{}\"", cell.replace('"', "\"\""));
    }
    line + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_formulas_disarmed() {
        let cells = ["a\"b", "=1+1", "-2.5", "- item\nnext", "@x"].map(str::to_owned);
        assert_eq!(row(&cells), "\"a\"\"b\",\"'=1+1\",\"-2.5\",\"'- item\nnext\",\"'@x\"\r\n");
    }
}
