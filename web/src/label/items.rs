//! What there is to judge: the comparisons of the data, and questions whose answer is known.

use std::collections::HashMap;
use std::path::Path;

use farmhand_core::data::{self, ReadOptions};
use farmhand_core::types::{Comparison, Preference, content_id};
use farmhand_core::{Error, Result};

/// A comparison that raters are shown.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// What is compared. Who gave the answers stays on this side.
    pub(crate) comparison: Comparison,
    /// The name by which a browser knows it. It follows from a secret, so that it does not tell which answer is the first.
    pub(crate) handle: String,
    /// The known answer of a gold question.
    pub(crate) gold: Option<Preference>,
}

/// All items, found by id and by handle.
#[derive(Debug, Default)]
pub(crate) struct Items {
    all: Vec<Item>,
    by_id: HashMap<String, usize>,
    by_handle: HashMap<String, usize>,
    /// Comparisons that stood in the data more than once.
    pub(crate) n_repeated: usize,
    /// Comparisons whose two answers are the same, which nobody needs to judge.
    pub(crate) n_identical: usize,
}

impl Items {
    /// Reads the data and the gold questions. A gold question that is also in the data counts as gold.
    ///
    /// # Errors
    /// When a file cannot be read or holds no comparisons, a gold question has no verdict, or nothing is left to judge.
    pub(crate) fn read(data: &Path, gold: Option<&Path>, options: &ReadOptions) -> Result<Self> {
        let mut items = Self::default();
        if let Some(path) = gold {
            for judgement in data::read_judgements(path, options)?.0 {
                let Some(verdict) = judgement.preference() else {
                    let words: String = judgement.comparison.instruction.instruction.chars().take(40).collect();
                    let message = format!("`{}`: the gold question `{words}` has no verdict", path.display());
                    return Err(Error::invalid_data(message).with_hint("give each gold question a `preference` of 1, 2 or 1.5"));
                };
                items.add(judgement.comparison, Some(likelier(verdict)), path)?;
            }
        }
        for comparison in data::read_comparisons(data, options)?.0 {
            items.add(comparison, None, data)?;
        }
        if items.all.iter().all(|item| item.gold.is_some()) {
            return Err(Error::invalid_data(format!("`{}` holds nothing to judge", data.display()))
                .with_hint("every comparison in it is a gold question or has two identical answers"));
        }
        Ok(items)
    }

    fn add(&mut self, comparison: Comparison, gold: Option<Preference>, path: &Path) -> Result<()> {
        if let Some(known) = self.by_id.get(&comparison.id).and_then(|at| self.all.get(*at)) {
            if gold.is_some() && known.gold != gold {
                let words: String = comparison.instruction.instruction.chars().take(40).collect();
                let message =
                    format!("`{}`: the gold question `{words}` stands there with two different answers", path.display());
                return Err(Error::invalid_data(message).with_hint("keep the right one"));
            }
            self.n_repeated += 1;
            return Ok(());
        }
        if comparison.output_1 == comparison.output_2 {
            self.n_identical += 1;
            return Ok(());
        }
        self.by_id.insert(comparison.id.clone(), self.all.len());
        self.all.push(Item { comparison, handle: String::new(), gold });
        Ok(())
    }

    /// The same items with the names by which browsers know them.
    #[must_use]
    pub(crate) fn named_by(mut self, secret: &str) -> Self {
        for (place, item) in self.all.iter_mut().enumerate() {
            item.handle = content_id([secret, &item.comparison.id]);
            self.by_handle.insert(item.handle.clone(), place);
        }
        self
    }

    /// All of them, gold questions first, otherwise in the order of the files.
    pub(crate) fn all(&self) -> &[Item] {
        &self.all
    }

    /// The item at a place.
    pub(crate) fn at(&self, place: usize) -> &Item {
        &self.all[place]
    }

    /// The place of the comparison with this id.
    pub(crate) fn with_id(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The place of the item that a browser knows by this name.
    pub(crate) fn with_handle(&self, handle: &str) -> Option<usize> {
        self.by_handle.get(handle).copied()
    }
}

/// The side that a graded verdict leans to.
fn likelier(verdict: Preference) -> Preference {
    match verdict {
        Preference::Graded(p) if p > 0.5 => Preference::Second,
        Preference::Graded(_) => Preference::First,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str, gold: Option<&str>) -> Result<Items> {
        let dir = tempfile::tempdir().expect("a folder");
        let (data_path, gold_path) = (dir.path().join("data.jsonl"), dir.path().join("gold.jsonl"));
        std::fs::write(&data_path, data).expect("written");
        if let Some(gold) = gold {
            std::fs::write(&gold_path, gold).expect("written");
        }
        Items::read(&data_path, gold.map(|_| gold_path.as_path()), &ReadOptions::default()).map(|items| items.named_by("secret"))
    }

    fn record(instruction: &str, second: &str, more: &str) -> String {
        format!("{{\"instruction\": \"{instruction}\", \"output_1\": \"a\", \"output_2\": \"{second}\"{more}}}\n")
    }

    #[test]
    fn gold_questions_are_told_from_the_rest_and_repetitions_are_counted() {
        let data = [record("i", "b", ""), record("i", "b", ""), record("j", "a", ""), record("k", "b", "")].concat();
        let items = read(&data, Some(&record("k", "b", ", \"preference\": 1.8"))).expect("read");
        let seen: Vec<_> = items.all().iter().map(|item| (item.comparison.instruction.instruction.as_str(), item.gold)).collect();
        assert_eq!(seen, [("k", Some(Preference::Second)), ("i", None)]);
        assert_eq!((items.n_repeated, items.n_identical), (2, 1));
        assert_ne!(items.at(0).handle, items.at(0).comparison.id);
        assert_eq!(items.with_handle(&items.at(1).handle), items.with_id(&items.at(1).comparison.id));
    }

    #[test]
    fn gold_without_an_answer_and_data_without_work_are_errors() {
        let error = read(&record("i", "b", ""), Some(&record("k", "b", ", \"preference\": null"))).expect_err("no verdict");
        assert!(error.to_string().contains("gold question `k` has no verdict"), "{error}");
        let gold = [record("k", "b", ", \"preference\": 1"), record("k", "b", ", \"preference\": 2")].concat();
        assert!(read(&record("i", "b", ""), Some(&gold)).expect_err("two answers").to_string().contains("two different answers"));
        assert!(read(&record("i", "a", ""), None).expect_err("nothing").to_string().contains("nothing to judge"));
    }
}
