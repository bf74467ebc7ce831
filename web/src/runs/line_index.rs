//! Where the lines of a large file begin, and which instruction each is about: so that a page of it is one small read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use farmhand_core::{Error, Result};
use serde::Deserialize;

/// Files whose lines are remembered.
const MAX_FILES: usize = 64;

/// What a judgement came to, for choosing some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The first answer.
    First,
    /// The second answer.
    Second,
    /// Neither.
    Tie,
    /// No verdict.
    Failed,
    /// No judgement at all.
    Other,
}

/// The lines of one file, as far as they are whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineIndex {
    inode: u64,
    /// Where each line begins; the last one is where the next will.
    starts: Vec<u64>,
    kinds: Vec<Kind>,
    by_instruction: HashMap<String, Vec<u32>>,
}

#[derive(Deserialize)]
struct Line {
    instruction: Option<WithId>,
    comparison: Option<Compared>,
    annotation: Option<Verdict>,
    failure: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct WithId {
    id: String,
}

#[derive(Deserialize)]
struct Compared {
    instruction: WithId,
}

#[derive(Deserialize)]
struct Verdict {
    preference: f64,
}

impl Line {
    fn kind(&self) -> Kind {
        match (&self.annotation, &self.failure) {
            (Some(verdict), _) if verdict.preference == 1.5 || verdict.preference == 0.0 => Kind::Tie,
            (Some(verdict), _) if verdict.preference < 1.5 => Kind::First,
            (Some(_), _) => Kind::Second,
            (None, Some(_)) => Kind::Failed,
            (None, None) => Kind::Other,
        }
    }
}

impl LineIndex {
    /// The number of whole lines.
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The lines of a kind; all of them for `None`.
    pub(crate) fn of_kind(&self, wanted: Option<Kind>) -> Vec<usize> {
        let fits = |(line, kind): (usize, &Kind)| wanted.is_none_or(|wanted| wanted == *kind).then_some(line);
        self.kinds.iter().enumerate().filter_map(fits).collect()
    }

    /// The lines about an instruction.
    pub(crate) fn about(&self, instruction: &str) -> &[u32] {
        self.by_instruction.get(instruction).map_or(&[], Vec::as_slice)
    }

    /// The texts of some lines; none when the file was removed meanwhile.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn read(&self, path: &Path, lines: &[usize]) -> Result<Vec<String>> {
        let failed = |error| Error::io("read", path, error);
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let read = |line: &usize| {
            let (from, to) = (self.starts[*line], self.starts[*line + 1]);
            let mut bytes = vec![0; (to - from) as usize];
            file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        lines.iter().filter(|line| **line + 1 < self.starts.len()).map(read).collect()
    }

    /// Reads on from where the index ends. A file that was replaced or cut is read anew.
    fn update(&mut self, path: &Path) -> Result<()> {
        let failed = |error| Error::io("read", path, error);
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                *self = Self::default();
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let data = file.metadata().map_err(failed)?;
        let mut at = self.starts.last().copied().unwrap_or(0);
        if data.ino() != self.inode || data.len() < at {
            *self = Self { inode: data.ino(), ..Self::default() };
            at = 0;
        }
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        if data.len() == at {
            return Ok(());
        }
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if n == 0 || line.last() != Some(&b'\n') {
                return Ok(());
            }
            at += n as u64;
            let number = self.kinds.len() as u32;
            self.starts.push(at);
            let read = serde_json::from_slice::<Line>(&line).ok();
            self.kinds.push(read.as_ref().map_or(Kind::Other, Line::kind));
            if let Some(id) = read.and_then(|line| line.instruction.or(line.comparison.map(|compared| compared.instruction))) {
                self.by_instruction.entry(id.id).or_default().push(number);
            }
        }
    }
}

/// The indices of the files that were looked into lately.
#[derive(Debug, Default)]
pub(crate) struct LineIndices(Mutex<Vec<(PathBuf, Arc<LineIndex>)>>);

impl LineIndices {
    /// The index of a file as it is now. A file that is not there has no lines.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn of(&self, path: &Path) -> Result<Arc<LineIndex>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.iter().position(|(other, _)| other == path);
        let mut index = at.map(|at| known.remove(at).1).unwrap_or_default();
        Arc::make_mut(&mut index).update(path)?;
        known.push((path.to_owned(), index.clone()));
        if known.len() > MAX_FILES {
            known.remove(0);
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_found_by_number_kind_and_instruction_while_the_file_grows() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("judgements.jsonl");
        let indices = LineIndices::default();
        assert_eq!(indices.of(&path).expect("no file").len(), 0);
        let line = |id: &str, outcome: &str| format!("{{\"comparison\":{{\"instruction\":{{\"id\":\"{id}\"}}}},{outcome}}}");
        let mut file = File::create(&path).expect("made");
        let lines = [
            line("a", "\"annotation\":{\"preference\":1}"),
            line("b", "\"failure\":{\"kind\":\"io\"}"),
            line("a", "\"annotation\":{\"preference\":1.5}"),
        ];
        write!(file, "{}\n{}\n{}", lines[0], lines[1], &lines[2][..10]).expect("written");
        let index = indices.of(&path).expect("read");
        assert_eq!((index.len(), index.about("a"), index.of_kind(Some(Kind::Failed))), (2, &[0][..], vec![1]));
        writeln!(file, "{}\nnot JSON", &lines[2][10..]).expect("written");
        let index = indices.of(&path).expect("read");
        assert_eq!((index.len(), index.about("a"), index.of_kind(Some(Kind::Tie))), (4, &[0, 2][..], vec![2]));
        assert_eq!(index.read(&path, &[2, 3]).expect("read"), [lines[2].clone(), "not JSON".to_owned()]);
        assert_eq!(index.of_kind(None), [0, 1, 2, 3]);
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, format!("{}\n", lines[1])).expect("replaced");
        assert_eq!(indices.of(&path).expect("read").of_kind(Some(Kind::Failed)), [0]);
    }
}
