//! One file from the hub into the cache: resumed where it broke off, checked against its hash, then put in place.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use farmhand_core::run::file_hash;
use farmhand_core::{CancelFlag, Error, ErrorKind, Event, EventSink, Result};
use reqwest::{StatusCode, header};
use sha1::{Digest, Sha1};

use super::cache_folder::{CacheFolder, is_hexadecimal, make_parent};
use super::client::{ATTEMPTS, Answer, Client, Located, Trouble, broken_off};
use super::model_name::HubId;

/// Bytes of a file hashed at a time.
const CHUNK: usize = 1 << 18;

/// What has arrived, told as a phase in megabytes.
pub(super) struct Meter<'a> {
    events: &'a dyn EventSink,
    phase: String,
    started: std::time::Instant,
    /// Bytes of files that are whole.
    whole: u64,
    shown: u64,
    /// Bytes that came over the network.
    pub(super) received: u64,
}

impl<'a> Meter<'a> {
    /// Starts the phase; `total` in bytes, if known.
    pub(super) fn start(events: &'a dyn EventSink, phase: String, total: Option<u64>) -> Self {
        events.emit(Event::PhaseStarted {
            phase: phase.clone(),
            total: total.map(|bytes| bytes / 1_000_000),
            unit: "MB".to_owned(),
        });
        Self { events, phase, started: std::time::Instant::now(), whole: 0, shown: 0, received: 0 }
    }

    /// The file under way has so many bytes.
    fn show(&mut self, bytes: u64) {
        let done = (self.whole + bytes) / 1_000_000;
        if done > self.shown {
            self.shown = done;
            self.events.emit(Event::PhaseAdvanced { phase: self.phase.clone(), done });
        }
    }

    /// A file of so many bytes is there.
    pub(super) fn finish_file(&mut self, bytes: u64) {
        self.whole += bytes;
        self.show(0);
    }

    /// Seconds so far.
    pub(super) fn secs(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        let (phase, done) = (std::mem::take(&mut self.phase), self.whole / 1_000_000);
        self.events.emit(Event::PhaseFinished { phase, done, secs: self.secs() });
    }
}

/// Files of one commit of one model.
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client,
    pub(super) cache: &'a CacheFolder,
    pub(super) id: &'a HubId,
    pub(super) commit: &'a str,
    pub(super) events: &'a dyn EventSink,
    pub(super) cancel: &'a CancelFlag,
}

impl Transfer<'_> {
    /// Brings a file into the snapshot unless it is there.
    ///
    /// # Errors
    /// When it cannot be fetched or does not have its hash, the disk refuses, or the user asked to stop. Except after a wrong
    /// hash, what has arrived is kept for the next time.
    pub(super) fn fetch(&self, file: &str, meter: &mut Meter<'_>) -> Result<()> {
        let path = self.cache.snapshot(self.commit).join(file);
        if let Ok(there) = std::fs::metadata(&path) {
            meter.finish_file(there.len());
            return Ok(());
        }
        let mut attempt = 0;
        loop {
            self.cancel.check()?;
            let received = meter.received;
            match self.attempt(file, meter) {
                Ok(()) => break,
                Err(Trouble::Passing(error, wait)) => {
                    // A server that sends something each time gets there in the end.
                    attempt = if meter.received > received { 1 } else { attempt + 1 };
                    if attempt >= ATTEMPTS {
                        return Err(error.retryable());
                    }
                    self.events.info(&format!("  {error}; trying again"));
                    self.client.wait(attempt, wait, self.cancel)?;
                }
                Err(Trouble::Final(error)) => return Err(error),
            }
        }
        meter.finish_file(std::fs::metadata(&path).map_or(0, |there| there.len()));
        Ok(())
    }

    fn attempt(&self, file: &str, meter: &mut Meter<'_>) -> Result<(), Trouble> {
        let located = self.client.locate(self.id, self.commit, file, self.cancel)?;
        let etag = located.etag.clone();
        let _held = self.cache.lock(&etag, self.events, self.cancel).map_err(Trouble::Final)?;
        let blob = self.cache.blob(&etag);
        if !blob.is_file() {
            let incomplete = self.cache.incomplete(&etag);
            self.receive(file, located, &incomplete, meter)?;
            self.check(file, &etag, &incomplete).map_err(Trouble::Final)?;
            let renamed = std::fs::rename(&incomplete, &blob);
            renamed.map_err(|error| Trouble::Final(Error::io("rename to", &blob, error)))?;
        }
        self.cache.link(self.commit, file, &etag).map_err(Trouble::Final)
    }

    /// Fills the incomplete file to its end.
    fn receive(&self, file: &str, located: Located, incomplete: &Path, meter: &mut Meter<'_>) -> Result<(), Trouble> {
        make_parent(incomplete).map_err(Trouble::Final)?;
        let disk = |action: &'static str| move |error| Trouble::Final(Error::io(action, incomplete, error));
        let opened = OpenOptions::new().create(true).append(true).open(incomplete);
        let mut out = opened.map_err(disk("open"))?;
        let mut length = out.metadata().map_err(disk("read"))?.len();
        let Located { url, answer, mut size, .. } = located;
        if length > 0 && size == Some(length) {
            return Ok(());
        }
        let whole = answer.filter(|_| length == 0);
        let mut answer = match whole {
            Some(answer) => answer,
            None => self.client.ask(&url, (length > 0).then_some(length), self.cancel)?,
        };
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // What is there is no beginning of this file.
            out.set_len(0).map_err(disk("shorten"))?;
            answer = self.client.ask(&url, None, self.cancel)?;
            length = 0;
        }
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer, length) => {}
            StatusCode::OK if length == 0 => {}
            // A server that knows no ranges starts again.
            StatusCode::OK => {
                out.set_len(0).map_err(disk("shorten"))?;
                length = 0;
            }
            // A link to another host runs out; the next attempt asks for a new one.
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::PARTIAL_CONTENT => {
                let message =
                    format!("the host that holds `{file}` of `{}` does not give it ({})", self.id, answer.status().as_u16());
                return Err(Trouble::Passing(Error::new(ErrorKind::RemoteService, message), None));
            }
            _ => return Err(self.client.refusal(&answer, self.id, Some(file))),
        }
        size = size.or_else(|| Some(length + answer.number(header::CONTENT_LENGTH)?));
        let what = format!("`{file}` of `{}`", self.id);
        while let Some(piece) = self.client.read(&mut answer, &what, self.cancel)? {
            let piece = piece.as_ref();
            out.write_all(piece).map_err(disk("write"))?;
            length += piece.len() as u64;
            meter.received += piece.len() as u64;
            meter.show(length);
        }
        if size.is_some_and(|size| length < size) {
            return Err(broken_off(&what, &format!("it ended after {length} of {} bytes", size.unwrap_or_default())));
        }
        out.sync_all().map_err(disk("write"))
    }

    /// Compares a file with the hash in its name: SHA-256 for large files, git's SHA-1 for small ones.
    fn check(&self, file: &str, etag: &str, path: &Path) -> Result<()> {
        let found = match etag.len() {
            64 if is_hexadecimal(etag) => file_hash(path)?,
            40 if is_hexadecimal(etag) => git_hash(path)?,
            _ => {
                self.events.warn(&format!("the server gives no hash for `{file}` of `{}`; only its length was checked", self.id));
                return Ok(());
            }
        };
        if found == etag {
            return Ok(());
        }
        std::fs::remove_file(path).map_err(|error| Error::io("remove", path, error))?;
        Err(Error::invalid_data(format!("`{file}` of `{}` arrived damaged: its hash is {found}, the hub says {etag}", self.id))
            .with_hint(
                "it was deleted; run the same command again. If that does not help, the mirror or the network changes files",
            ))
    }
}

/// Whether a partial answer begins where it was asked to.
fn starts_at(answer: &Answer, from: u64) -> bool {
    let range = answer.header(header::CONTENT_RANGE).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|range| range.split('-').next()).and_then(|start| start.trim().parse().ok())
        == Some(from)
}

/// Git's hash of a file: SHA-1 over `blob LENGTH`, a zero byte and the contents.
fn git_hash(path: &Path) -> Result<String> {
    let failed = |error| Error::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let mut hash = Sha1::new();
    hash.update(format!("blob {length}\0"));
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => break,
            n => hash.update(&chunk[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_have_gits_hash() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x");
        std::fs::write(&path, "hello\n").expect("written");
        // printf 'hello\n' | git hash-object --stdin
        assert_eq!(git_hash(&path).expect("hashed"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
