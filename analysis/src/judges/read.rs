//! Files of judgements by judges and by people, as verdicts on the same pairs.

use std::path::{Path, PathBuf};

use farmhand_core::data::{ReadOptions, UNKNOWN_ANNOTATOR, read_judgements};
use farmhand_core::types::{Judgement, Outcome};
use farmhand_core::{Error, Result};
use farmhand_evaluators::judges::Verdicts;
use farmhand_evaluators::judges::verdicts::{BareVerdict, Shown, Source};

use crate::judgement_table::{JudgementTable, TableOptions, stem};

/// The name under which all people's verdicts stand together.
pub const PEOPLE: &str = "people";

/// The form of files that record in which order answers were shown.
const RECORDED_FORM: &str = "farmhand_judgement";

/// Files of judgements are called so whoever judged.
const USUAL_NAMES: [&str; 3] = ["judgements", "annotations", "votes"];

/// In which order judges saw the answers.
#[derive(Clone, Copy)]
pub enum Order<'a> {
    /// As farmhand's own files say; not known of others.
    Recorded,
    /// The first answer first.
    AsGiven,
    /// By a rule: whether, on what was asked, the second answer was shown first.
    Rule(&'a dyn Fn(&str) -> bool),
}

/// What to read.
#[derive(Clone, Copy)]
pub struct JudgeFiles<'a> {
    /// Judges' files.
    pub judges: &'a [PathBuf],
    /// People's files.
    pub people: &'a [PathBuf],
    /// Whether each file is one judge, and the annotators in it members of its pool.
    pub pools: bool,
    /// In which order judges saw the answers.
    pub order: Order<'a>,
    /// How records are read.
    pub options: ReadOptions,
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct ReadJudges {
    /// Everyone's verdicts; the people, if there are any, are [`PEOPLE`].
    pub verdicts: Verdicts,
    /// Of each pool its name and its members' judgements.
    pub pools: Vec<(String, Vec<Judgement>)>,
    /// What a user should know: records left out.
    pub notes: Vec<String>,
}

/// Reads judges and people. People come first, so that ties of their modes are broken as AlpacaEval would in their files.
///
/// # Errors
/// When a file cannot be read or holds no judgements, or no judge shares a pair with the people.
pub fn read_judges(files: &JudgeFiles<'_>) -> Result<ReadJudges> {
    let mut read = ReadJudges::default();
    for path in files.people {
        read.add(path, files, Some(PEOPLE))?;
    }
    for path in files.judges {
        read.add(path, files, None)?;
    }
    read.check_overlap()?;
    Ok(read)
}

impl ReadJudges {
    /// Reads a file; `judge` is whose verdicts they are, whatever the annotators in it are called.
    fn add(&mut self, path: &Path, files: &JudgeFiles<'_>, judge: Option<&str>) -> Result<()> {
        let name = name_of(path);
        let (judgements, report) = match read_judgements(path, &files.options) {
            Ok(read) => read,
            // The compact form has no texts; the table of judgements knows it.
            Err(error) => return self.add_bare(path, files, judge).map_err(|_| error),
        };
        if !report.left_out().is_empty() {
            self.notes.push(report.to_string());
        }
        let shown = |judgement: &Judgement| match files.order {
            Order::Recorded if report.form == RECORDED_FORM => Shown::Recorded,
            Order::Recorded => Shown::Unknown,
            Order::AsGiven => Shown::AsGiven,
            Order::Rule(swaps) if swaps(&judgement.comparison.instruction.text()) => Shown::Swapped,
            Order::Rule(_) => Shown::AsGiven,
        };
        let named = |judgement: &Judgement| -> Option<String> {
            let annotator = match &judgement.outcome {
                Outcome::Annotation(annotation) => Some(annotation.annotator.as_str()),
                Outcome::Failure(failure) => failure.judging.annotator.as_deref(),
            };
            annotator.filter(|name| *name != UNKNOWN_ANNOTATOR).map(str::to_owned)
        };
        // A failure that does not say whose it is belongs to the file's only annotator.
        let mut names: Vec<String> = judgements.iter().filter_map(named).collect();
        names.sort_unstable();
        names.dedup();
        let only = if let [only] = names.as_slice() { only.clone() } else { name.clone() };
        for judgement in &judgements {
            let member = named(judgement).unwrap_or_else(|| only.clone());
            let judge = judge.unwrap_or(if files.pools { &name } else { &member });
            self.verdicts.add(Source { judge, member: &member }, judgement, shown(judgement));
        }
        if files.pools || judge.is_some() {
            let pool = judge.unwrap_or(&name);
            match self.pools.iter_mut().find(|(name, _)| name == pool) {
                Some((_, known)) => known.extend(judgements),
                None => self.pools.push((pool.to_owned(), judgements)),
            }
        }
        Ok(())
    }

    fn add_bare(&mut self, path: &Path, files: &JudgeFiles<'_>, judge: Option<&str>) -> Result<()> {
        let options = TableOptions { bad_records: files.options.bad_records, texts: false };
        let table = JudgementTable::read(&[path], &options)?;
        let name = name_of(path);
        for row in (0..table.len()).map(|row| table.row(row)) {
            let judge = judge.unwrap_or(if files.pools { &name } else { row.annotator });
            let is_swapped = match files.order {
                Order::Recorded => None,
                Order::AsGiven => Some(false),
                Order::Rule(swaps) => Some(swaps(row.instruction)),
            };
            let bare = BareVerdict {
                instruction: row.instruction,
                generators: [row.baseline, row.model],
                lengths: [row.len_1, row.len_2].map(|length| length.map(|length| length as usize)),
                p_second: row.preference.map(|code| code - 1.0),
                is_swapped,
                price: row.price,
                time: row.time,
            };
            self.verdicts.add_bare(Source { judge, member: row.annotator }, &bare);
        }
        Ok(())
    }

    /// Judges without a pair that people judged are told; it is an error when there is no other.
    fn check_overlap(&mut self) -> Result<()> {
        let Some(people) = self.verdicts.judge(PEOPLE) else { return Ok(()) };
        let judged = self.verdicts.codes(|verdict| verdict.judge == people);
        let shares = |judge: usize| self.verdicts.of_judge(judge).any(|verdict| !judged[verdict.pair].is_empty());
        let judges: Vec<usize> = (0..self.verdicts.judges.len()).filter(|judge| *judge != people).collect();
        let apart: Vec<usize> = judges.iter().copied().filter(|judge| !shares(*judge)).collect();
        if !judges.is_empty() && apart.len() == judges.len() {
            return Err(Error::missing_input("no judge judged a pair of answers that people judged").with_hint(
                "pairs are matched by the texts of what was asked and of both answers, in either order; \
                 files without texts are matched with files of the same kind only",
            ));
        }
        for judge in apart {
            let name = &self.verdicts.judges[judge];
            self.notes.push(format!("`{name}` judged no pair that people judged: its agreement with them is not known"));
        }
        Ok(())
    }
}

/// What a file's verdicts are called where it does not say whose they are, and what its pool is called: its folder, where the file
/// has one of the names that every such file has (`pool/judgements.jsonl`), otherwise its own name without known endings.
fn name_of(path: &Path) -> String {
    let own = stem(path);
    let folder = || std::path::absolute(path).ok()?.parent()?.file_name().map(|name| name.to_string_lossy().into_owned());
    if USUAL_NAMES.contains(&own.as_str()) { folder().unwrap_or(own) } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_evaluators::judges::{JudgeOptions, measure};

    fn write(dir: &Path, name: &str, lines: &[&str]) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, lines.join("\n")).expect("written");
        path
    }

    fn files<'a>(judges: &'a [PathBuf], people: &'a [PathBuf]) -> JudgeFiles<'a> {
        JudgeFiles { judges, people, pools: false, order: Order::Recorded, options: ReadOptions::default() }
    }

    #[test]
    fn votes_and_annotations_meet_on_the_same_pairs() {
        let dir = tempfile::tempdir().expect("a folder");
        let people = write(
            dir.path(),
            "votes.jsonl",
            &[
                r#"{"instruction": "i", "input": "x", "output_1": "a", "output_2": "b", "humans": [1, 1, 2]}"#,
                r#"{"instruction": "j", "output_1": "a", "output_2": "b", "humans": [2, 2, 0]}"#,
            ],
        );
        let judge = write(
            dir.path(),
            "judge.jsonl",
            &[
                r#"{"instruction": "i\n\nx", "output_1": "b", "output_2": "a", "preference": 2.0, "annotator": "gpt", "price_per_example": 0.5}"#,
                r#"{"instruction": "j", "output_1": "a", "output_2": "b", "preference": null}"#,
            ],
        );
        let read = read_judges(&files(&[judge], &[people])).expect("read");
        assert_eq!((read.verdicts.judges.as_slice(), read.verdicts.pairs.len()), (&[PEOPLE, "gpt"].map(String::from)[..], 2));
        let report = measure(&read.verdicts, 1, Some(0), &|_| false, &JudgeOptions { n_resamples: 0, ..JudgeOptions::default() });
        let value = |name: &str| report.metric(name).expect(name).value;
        assert_eq!((value("agreement"), value("failed"), value("price_per_1000")), (100.0, 50.0, 500.0));
        assert_eq!((report.n_failed, report.metric("prefers_first")), (1, None));
    }

    #[test]
    fn judges_and_people_without_a_common_pair_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let people =
            write(dir.path(), "p.jsonl", &[r#"{"instruction": "i", "output_1": "a", "output_2": "b", "humans": [1, 1]}"#]);
        let judge = write(
            dir.path(),
            "j.jsonl",
            &[r#"{"instruction": "i", "output_1": "a", "output_2": "other", "preference": 1, "annotator": "j"}"#],
        );
        let error = read_judges(&files(&[judge], &[people])).expect_err("apart");
        assert!(error.message().contains("no judge judged a pair"), "{error}");
        let broken =
            write(dir.path(), "x.jsonl", &[r#"{"instruction": "i", "output_1": "a", "output_2": "b", "preference": 7}"#]);
        let error = read_judges(&files(&[broken], &[])).expect_err("out of range");
        assert!(error.message().contains("line 1") && error.message().contains('7'), "{error}");
    }

    #[test]
    fn a_pool_is_one_judge_with_members() {
        let dir = tempfile::tempdir().expect("a folder");
        let line = |who: &str, code: u8| {
            format!(r#"{{"instruction": "i", "output_1": "a", "output_2": "b", "preference": {code}, "annotator": "{who}"}}"#)
        };
        let pool = write(dir.path(), "pool.jsonl", &[&line("one", 1), &line("two", 2)]);
        let read = read_judges(&JudgeFiles { pools: true, ..files(std::slice::from_ref(&pool), &[]) }).expect("read");
        assert_eq!((read.verdicts.judges.as_slice(), read.pools[0].1.len()), (&["pool".to_owned()][..], 2));
        let apart = read_judges(&files(&[pool], &[])).expect("read");
        assert_eq!(apart.verdicts.judges, ["one", "two"]);
        // What `farmhand annotate --out crowd` writes is called after its folder.
        std::fs::create_dir(dir.path().join("crowd")).expect("made");
        let pool = write(&dir.path().join("crowd"), "judgements.jsonl", &[&line("one", 1), &line("two", 2)]);
        let read = read_judges(&JudgeFiles { pools: true, ..files(&[pool], &[]) }).expect("read");
        assert_eq!((read.verdicts.judges.as_slice(), read.pools[0].0.as_str()), (&["crowd".to_owned()][..], "crowd"));
    }
}
