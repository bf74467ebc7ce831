//! How long models' own answers are, from files of answers: a mean length counts every answer, judged or not.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::data::Location;
use farmhand_core::{Error, Result};

use super::line::{Cell, Item};
use super::origin::stem;
use super::records::{Flow, Take, read_each};

/// Sums of the lengths of answers, by model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputLengths {
    /// Characters (Unicode code points) and answers.
    sums: BTreeMap<String, (u64, usize)>,
}

impl OutputLengths {
    /// Reads files of answers: records with `output` and `generator`, or with the model as the file's name.
    ///
    /// # Errors
    /// When a file cannot be read or a record has no text under `output`.
    pub fn read<P: AsRef<Path>>(files: &[P]) -> Result<Self> {
        let mut lengths = Self::default();
        for file in files {
            let path = file.as_ref();
            read_each(path, &mut Sums { lengths: &mut lengths, path, stem: stem(path) })?;
        }
        Ok(lengths)
    }

    /// The characters and the number of a model's answers.
    pub fn of(&self, model: &str) -> Option<(u64, usize)> {
        self.sums.get(model).copied()
    }

    /// The models.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.sums.keys().map(String::as_str)
    }
}

struct Sums<'a> {
    lengths: &'a mut OutputLengths,
    path: &'a Path,
    /// The file's name, for answers that name no model.
    stem: String,
}

impl Take for Sums<'_> {
    fn take(&mut self, location: Location, item: Item<'_>) -> Result<Flow> {
        let refused = |expected: &str, kind: &str| {
            let message = format!("`{}`, {location}: expected {expected}, got {kind}", self.path.display());
            Err(Error::invalid_data(message)
                .with_hint("a file of answers has `output` and, unless the file's name says it, `generator`"))
        };
        let line = match item {
            Item::Line(line) => line,
            Item::Other(kind) => return refused("an object", kind),
        };
        let model = match (&line.generator, &line.model) {
            (Cell::Text(name), _) | (Cell::Absent | Cell::Null, Cell::Text(name)) => name.as_ref(),
            (Cell::Absent | Cell::Null, _) => &self.stem,
            (other, _) => return refused("a text under `generator`", other.kind()),
        };
        let Cell::Text(output) = &line.output else { return refused("a text under `output`", line.output.kind()) };
        let (total, n) = self.lengths.sums.entry(model.to_owned()).or_default();
        *total += output.chars().count() as u64;
        *n += 1;
        Ok(Flow::GoOn)
    }

    fn bad(&mut self, location: Location, message: String) -> Result<()> {
        Err(Error::invalid_data(format!("`{}`, {location}: {message}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_all_answers_by_model() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let named = write("outputs.json", r#"[{"output": "äöü", "generator": "m"}, {"output": "x", "generator": "n"}]"#);
        let by_file = write("m.jsonl", "{\"index\": 0, \"output\": \"12345\"}\n{\"index\": 1, \"output\": \"\"}\n");
        let lengths = OutputLengths::read(&[&named, &by_file]).expect("read");
        assert_eq!((lengths.of("m"), lengths.of("n"), lengths.of("o")), (Some((8, 3)), Some((1, 1)), None));
        assert_eq!(lengths.models().collect::<Vec<_>>(), ["m", "n"]);
        let broken = write("b.jsonl", "{\"output\": \"a\"}\n{\"output\": 7}\n");
        let error = OutputLengths::read(&[broken]).expect_err("refused");
        assert!(error.to_string().contains("b.jsonl`, line 2: expected a text under `output`, got a number"), "{error}");
    }
}
