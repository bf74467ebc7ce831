//! Writes data files: our own JSON Lines and the forms that AlpacaFarm, AlpacaEval and TRL read.
//!
//! Every file is there whole or not at all, and is compressed when its name ends in `.gz` or `.zst`.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::run::write_atomic;
use crate::types::{Completion, Instruction, Judgement, Message, Outcome, Preference, PreferencePair, Role};

const ZSTD_LEVEL: i32 = 3;

/// Writes a file atomically, compressed as its name says.
///
/// # Errors
/// When the disk refuses, or `write` does.
pub fn write_compressed(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let io = |error| Error::io("write", path, error);
    write_atomic(path, |out| match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            write(&mut encoder)?;
            encoder.finish().map(|_| ()).map_err(io)
        }
        Some("zst") => {
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(io)?;
            write(&mut encoder)?;
            encoder.finish().map(|_| ()).map_err(io)
        }
        _ => write(out),
    })
}

/// Writes records as JSON Lines. Every type of [`crate::types`] has such a form and is read back the same.
///
/// # Errors
/// When the disk refuses or a record cannot be JSON.
pub fn write_jsonl<T: Serialize>(path: &Path, records: impl IntoIterator<Item = T>) -> Result<()> {
    write_compressed(path, |out| {
        for record in records {
            serde_json::to_writer(&mut *out, &record).map_err(|error| not_written(path, error))?;
            out.write_all(b"\n").map_err(|error| Error::io("write", path, error))?;
        }
        Ok(())
    })
}

/// Writes records as one JSON list, indented by two spaces.
fn write_list<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    write_compressed(path, |out| {
        serde_json::to_writer_pretty(&mut *out, records).map_err(|error| not_written(path, error))?;
        out.write_all(b"\n").map_err(|error| Error::io("write", path, error))
    })
}

fn not_written(path: &Path, error: serde_json::Error) -> Error {
    if error.is_io() {
        Error::io("write", path, error.into())
    } else {
        Error::invalid_data(format!("a record for `{}` cannot be JSON", path.display())).with_source(error)
    }
}

/// AlpacaEval knows single instructions only.
fn single_turn(instruction: &Instruction) -> Result<String> {
    if instruction.history.is_empty() {
        return Ok(instruction.text());
    }
    let words: String = instruction.instruction.chars().take(40).collect();
    Err(Error::invalid_data(format!("instruction `{words}` follows earlier turns, which AlpacaEval's files cannot hold"))
        .with_hint("write JSON Lines instead"))
}

/// Writes model outputs as AlpacaEval takes them: a JSON list of `instruction, output, generator, dataset?`. Instruction and
/// input become one text, as AlpacaEval has it.
///
/// # Errors
/// When an instruction has earlier turns or the disk refuses.
pub fn write_alpaca_eval_outputs(path: &Path, completions: &[Completion]) -> Result<()> {
    #[derive(Serialize)]
    struct Output<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        dataset: Option<&'a str>,
        instruction: String,
        output: &'a str,
        generator: &'a str,
    }
    let output = |completion: &'_ Completion| single_turn(&completion.instruction);
    let texts = completions.iter().map(output).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Output<'_>> = completions
        .iter()
        .zip(texts)
        .map(|(completion, instruction)| Output {
            dataset: completion.instruction.dataset.as_deref(),
            instruction,
            output: &completion.output,
            generator: &completion.model,
        })
        .collect();
    write_list(path, &rows)
}

/// Writes judgements as AlpacaEval's `annotations.json`: a failure has the preference null, a tie 1.5.
///
/// # Errors
/// When an instruction has earlier turns or the disk refuses.
pub fn write_alpaca_eval_annotations(path: &Path, judgements: &[Judgement]) -> Result<()> {
    #[derive(Serialize)]
    struct Row<'a> {
        instruction: String,
        output_1: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        generator_1: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dataset: Option<&'a str>,
        output_2: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        generator_2: Option<&'a str>,
        annotator: Option<&'a str>,
        preference: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        price_per_example: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        time_per_example: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        raw_completion: Option<&'a str>,
    }
    let row = |judgement: &'_ Judgement| single_turn(&judgement.comparison.instruction);
    let texts = judgements.iter().map(row).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Row<'_>> = judgements
        .iter()
        .zip(texts)
        .map(|(judgement, instruction)| {
            let comparison = &judgement.comparison;
            let annotation = judgement.annotation();
            Row {
                instruction,
                output_1: &comparison.output_1,
                generator_1: comparison.generator_1.as_deref(),
                dataset: comparison.instruction.dataset.as_deref(),
                output_2: &comparison.output_2,
                generator_2: comparison.generator_2.as_deref(),
                annotator: annotation.map(|annotation| annotation.annotator.as_str()),
                preference: judgement.preference().map(Preference::code),
                price_per_example: annotation.and_then(|annotation| annotation.cost_usd),
                time_per_example: annotation.and_then(|annotation| annotation.time_secs),
                raw_completion: annotation.and_then(|annotation| annotation.raw.as_deref()),
            }
        })
        .collect();
    write_list(path, &rows)
}

/// Writes judgements as AlpacaFarm's preference file: a JSON list of `instruction, input, output_1, output_2, preference` with
/// preference 1 or 2, the likelier side of a graded one. AlpacaFarm has no place for anything else, so ties and
/// failures are left out; the result says how many of each.
///
/// # Errors
/// When an instruction has earlier turns or the disk refuses.
pub fn write_alpaca_farm_preferences(path: &Path, judgements: &[Judgement]) -> Result<LeftOutOfPreferences> {
    #[derive(Serialize)]
    struct Row<'a> {
        instruction: &'a str,
        input: &'a str,
        output_1: &'a str,
        output_2: &'a str,
        preference: u8,
    }
    let mut left_out = LeftOutOfPreferences::default();
    let mut rows = Vec::new();
    for judgement in judgements {
        let comparison = &judgement.comparison;
        single_turn(&comparison.instruction)?;
        match &judgement.outcome {
            Outcome::Failure(_) => left_out.n_no_verdict += 1,
            Outcome::Annotation(verdict) if verdict.preference == Preference::Tie => left_out.n_ties += 1,
            Outcome::Annotation(verdict) => rows.push(Row {
                instruction: &comparison.instruction.instruction,
                input: comparison.instruction.input.as_deref().unwrap_or_default(),
                output_1: &comparison.output_1,
                output_2: &comparison.output_2,
                preference: if verdict.preference.p_second() > 0.5 { 2 } else { 1 },
            }),
        }
    }
    write_list(path, &rows)?;
    Ok(left_out)
}

/// What AlpacaFarm's preference file has no place for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOutOfPreferences {
    /// Ties.
    pub n_ties: usize,
    /// Comparisons without a verdict.
    pub n_no_verdict: usize,
}

/// Writes preference pairs as TRL reads them: JSON Lines of `prompt, chosen, rejected, margin?`. Texts, or lists of messages
/// when any instruction has earlier turns (TRL wants one shape a file). Instruction and input become one text.
///
/// # Errors
/// When the disk refuses.
pub fn write_trl_preferences(path: &Path, pairs: &[PreferencePair]) -> Result<()> {
    #[derive(Serialize)]
    struct Row<P: Serialize, A: Serialize> {
        prompt: P,
        chosen: A,
        rejected: A,
        #[serde(skip_serializing_if = "Option::is_none")]
        margin: Option<f64>,
    }
    let conversational = pairs.iter().any(|pair| !pair.instruction.history.is_empty());
    if !conversational {
        return write_jsonl(
            path,
            pairs.iter().map(|pair| Row {
                prompt: pair.instruction.text(),
                chosen: &pair.chosen,
                rejected: &pair.rejected,
                margin: pair.margin,
            }),
        );
    }
    let answer = |content: &str| [Message { role: Role::Assistant, content: content.to_owned() }];
    write_jsonl(
        path,
        pairs.iter().map(|pair| {
            let mut prompt = pair.instruction.history.clone();
            prompt.push(Message { role: Role::User, content: pair.instruction.text() });
            Row { prompt, chosen: answer(&pair.chosen), rejected: answer(&pair.rejected), margin: pair.margin }
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ReadOptions, read_completions, read_judgements, read_preference_pairs};
    use crate::types::{Annotation, Comparison, FinishReason};

    fn judgement(result: Result<Annotation>) -> Judgement {
        let instruction = Instruction::new("Add.", Some("1 2")).from_dataset("sums");
        Judgement::new(Comparison::new(instruction, "3", "4").between("base", "mine"), result)
    }

    #[test]
    fn compressed_files_are_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let pair = PreferencePair {
            instruction: Instruction::new("i", None),
            chosen: "a".to_owned(),
            rejected: "b".to_owned(),
            p_chosen: Some(0.75),
            margin: Some(1.5),
        };
        for name in ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst"] {
            let path = dir.path().join(name);
            write_jsonl(&path, [&pair; 3]).expect("written");
            let first = std::fs::read(&path).expect("read");
            assert_eq!(first.starts_with(b"{"), name == "x.jsonl");
            let (pairs, _) = read_preference_pairs(&path, &ReadOptions::default()).expect(name);
            assert_eq!(pairs, vec![pair.clone(); 3]);
            write_jsonl(&path, [&pair; 3]).expect("written");
            assert_eq!(std::fs::read(&path).expect("read"), first, "{name}: the same data gives the same bytes");
        }
    }

    #[test]
    fn alpaca_eval_files_are_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("annotations.json");
        let mut verdict = Annotation::new("judge", Preference::Graded(0.25));
        (verdict.cost_usd, verdict.raw) = (Some(0.5), Some("m".to_owned()));
        let judgements = [judgement(Ok(verdict)), judgement(Err(Error::other("no")))];
        write_alpaca_eval_annotations(&path, &judgements).expect("written");
        let (read, report) = read_judgements(&path, &ReadOptions::default()).expect("read");
        assert_eq!(report.form, "alpaca_eval");
        assert_eq!(read[0].comparison.instruction.instruction, "Add.\n\n1 2");
        assert_eq!(read[0].comparison.generator_2.as_deref(), Some("mine"));
        assert_eq!(read[0].annotation(), judgements[0].annotation());
        assert!(read[1].annotation().is_none());

        let path = dir.path().join("outputs.json");
        let instruction = Instruction::new("Add.", None).from_dataset("sums");
        let completion = Completion {
            instruction,
            output: "3".to_owned(),
            model: "m".to_owned(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 0,
            log_prob: None,
        };
        write_alpaca_eval_outputs(&path, std::slice::from_ref(&completion)).expect("written");
        assert_eq!(read_completions(&path, &ReadOptions::default()).expect("read").0, [completion]);
    }

    #[test]
    fn alpaca_farm_preferences_count_what_has_no_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("preferences.json");
        let judgements = [
            judgement(Ok(Annotation::new("x", Preference::Graded(0.75)))),
            judgement(Ok(Annotation::new("x", Preference::Tie))),
            judgement(Err(Error::other("no"))),
        ];
        let left_out = write_alpaca_farm_preferences(&path, &judgements).expect("written");
        assert_eq!(left_out, LeftOutOfPreferences { n_ties: 1, n_no_verdict: 1 });
        let (pairs, _) = read_preference_pairs(&path, &ReadOptions::default()).expect("read");
        assert_eq!((pairs.len(), pairs[0].chosen.as_str(), pairs[0].instruction.input.as_deref()), (1, "4", Some("1 2")));
    }

    #[test]
    fn trl_pairs_are_texts_unless_a_conversation_needs_messages() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pairs.jsonl");
        let pair = |instruction| PreferencePair {
            instruction,
            chosen: "a".to_owned(),
            rejected: "b".to_owned(),
            p_chosen: None,
            margin: None,
        };
        let mut pairs = vec![pair(Instruction::new("i", None))];
        for expected in ["\"prompt\":\"i\"", "\"prompt\":[{\"role\":\"user\",\"content\":\"i\"}]"] {
            write_trl_preferences(&path, &pairs).expect("written");
            assert!(std::fs::read_to_string(&path).expect("read").contains(expected));
            assert_eq!(read_preference_pairs(&path, &ReadOptions::default()).expect("read").0, pairs);
            let history = vec![
                Message { role: Role::User, content: "h".to_owned() },
                Message { role: Role::Assistant, content: "k".to_owned() },
            ];
            pairs.push(pair(Instruction::with_history("j", None, history)));
        }
    }
}
