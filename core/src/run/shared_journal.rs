//! An append-only file of JSON lines that several processes read and extend at the same time, such as a cache.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The reader's place in a shared file. Every exchange holds an exclusive lock on `FILE.lock`, which the operating system
/// gives back when a process dies, so nobody ever sees half a line that is still being written.
#[derive(Debug)]
pub struct SharedJournal {
    path: PathBuf,
    read_to: u64,
}

/// What others (or earlier runs) appended since the last exchange.
#[derive(Debug)]
pub struct News<T> {
    /// The records, in the order of the file.
    pub records: Vec<T>,
    /// Whole lines that are not a record, left out: a crash of the machine, an edit by hand.
    pub n_unreadable: usize,
}

impl SharedJournal {
    /// A place at the beginning of the file, which need not exist. Touches nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_to: 0 }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is new, hands it to `answer` and appends what that gives back, all under the lock; what was appended is
    /// on the disk when the call returns. A last line cut short by a crash is ignored, and removed before appending.
    /// When the file was removed or cut meanwhile, all of it is new again.
    ///
    /// # Errors
    /// When the folder, the lock or the file cannot be made, read or written.
    pub fn exchange<T, A>(&mut self, answer: impl FnOnce(News<T>) -> Vec<A>) -> Result<()>
    where
        T: DeserializeOwned,
        A: Serialize,
    {
        let _lock = self.lock()?;
        let news = self.read_new()?;
        let records = answer(news);
        if records.is_empty() { Ok(()) } else { self.append(&records) }
    }

    fn lock(&self) -> Result<File> {
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io("make folder", parent, error))?;
        }
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        file.lock().map_err(|error| Error::io("lock", &path, error))?;
        Ok(file)
    }

    fn read_new<T: DeserializeOwned>(&mut self) -> Result<News<T>> {
        let mut news = News { records: Vec::new(), n_unreadable: 0 };
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.read_to = 0;
                return Ok(news);
            }
            Err(error) => return Err(Error::io("read", &self.path, error)),
        };
        let failed = |error| Error::io("read", &self.path, error);
        if file.metadata().map_err(failed)?.len() < self.read_to {
            self.read_to = 0;
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.read_to)).map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        let n_whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in bytes[..n_whole].split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match serde_json::from_slice(line) {
                Ok(record) => news.records.push(record),
                Err(_) => news.n_unreadable += 1,
            }
        }
        self.read_to += n_whole as u64;
        Ok(news)
    }

    fn append<A: Serialize>(&mut self, records: &[A]) -> Result<()> {
        let mut text = Vec::new();
        for record in records {
            serde_json::to_writer(&mut text, record).map_err(|error| Error::other("a record is not JSON").with_source(error))?;
            text.push(b'\n');
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(|error| Error::io("open", &self.path, error))?;
        file.set_len(self.read_to).map_err(|error| Error::io("truncate", &self.path, error))?;
        file.write_all(&text).map_err(|error| Error::io("append to", &self.path, error))?;
        file.sync_data().map_err(|error| Error::io("sync", &self.path, error))?;
        self.read_to += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(journal: &mut SharedJournal) -> (Vec<u32>, usize) {
        let mut seen = (Vec::new(), 0);
        let nothing = |news: News<u32>| {
            seen = (news.records, news.n_unreadable);
            Vec::<u32>::new()
        };
        journal.exchange(nothing).expect("read");
        seen
    }

    fn append(journal: &mut SharedJournal, records: &[u32]) {
        journal.exchange(|_: News<u32>| records.to_vec()).expect("appended");
    }

    #[test]
    fn two_readers_see_what_the_other_wrote_and_nothing_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a/cache.jsonl");
        let (mut one, mut two) = (SharedJournal::new(&path), SharedJournal::new(&path));
        assert_eq!(read(&mut one), (vec![], 0));
        assert!(!path.exists());
        append(&mut one, &[1, 2]);
        assert_eq!(read(&mut two), (vec![1, 2], 0));
        append(&mut two, &[3]);
        assert_eq!(read(&mut one), (vec![3], 0));
        assert_eq!((read(&mut one), read(&mut two)), ((vec![], 0), (vec![], 0)));
    }

    #[test]
    fn a_line_cut_short_goes_and_a_broken_line_is_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("cache.jsonl");
        std::fs::write(&path, "1\n{\0\n2\n3").expect("written");
        let mut journal = SharedJournal::new(&path);
        assert_eq!(read(&mut journal), (vec![1, 2], 1));
        append(&mut journal, &[4]);
        assert_eq!(std::fs::read(&path).expect("readable"), b"1\n{\0\n2\n4\n");
        std::fs::write(&path, "9\n").expect("written");
        assert_eq!(read(&mut journal), (vec![9], 0));
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("cache.jsonl");
        std::thread::scope(|scope| {
            for writer in 0..4_u32 {
                let path = &path;
                scope.spawn(move || {
                    let mut journal = SharedJournal::new(path);
                    (0..10).for_each(|i| append(&mut journal, &[100 * writer + i]));
                });
            }
        });
        let (mut records, n_unreadable) = read(&mut SharedJournal::new(&path));
        records.sort_unstable();
        assert_eq!(n_unreadable, 0);
        assert_eq!(records, (0..4).flat_map(|writer| (0..10).map(move |i| 100 * writer + i)).collect::<Vec<_>>());
    }
}
