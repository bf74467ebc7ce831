//! A small HTTP client and servers to talk to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use farmhand_core::data::ReadOptions;
use farmhand_core::{CancelFlag, Result};
use farmhand_web::ListenOptions;
use farmhand_web::label::{LabelOptions, LabelSession, LabelSummary};
use farmhand_web::runs::RunsSession;
use serde_json::Value;

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

/// A page's address, `http://host:port/secret/`.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) url: String,
}

impl Page {
    pub(crate) fn host(&self) -> &str {
        self.url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an address")
    }

    /// The path of something below the page.
    pub(crate) fn path(&self, below: &str) -> String {
        let at = "http://".len() + self.host().len();
        format!("{}{below}", &self.url[at..])
    }

    pub(crate) fn get(&self, below: &str) -> Reply {
        self.request("GET", &self.path(below), &[("Host", self.host())], "")
    }

    pub(crate) fn post(&self, below: &str, body: &Value) -> Reply {
        let headers = [("Host", self.host()), ("Content-Type", "application/json")];
        self.request("POST", &self.path(below), &headers, &body.to_string())
    }

    /// Sends anything.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.try_request(method, path, headers, body).expect("an answer")
    }

    pub(crate) fn try_request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(self.host())?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let Some((headers, body)) = text.split_once("\r\n\r\n") else {
            return Err(std::io::Error::other("half an answer"));
        };
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Reply { status, headers: headers.to_ascii_lowercase(), body: body.to_owned() })
    }
}

/// A labelling that is served until dropped or stopped.
pub(crate) struct Labelling {
    pub(crate) raters: Page,
    pub(crate) operator: Page,
    cancel: &'static CancelFlag,
    thread: Option<JoinHandle<Result<LabelSummary>>>,
}

/// Options for data in a folder: `data.jsonl`, recorded in `out`.
pub(crate) fn options(folder: &Path) -> LabelOptions {
    LabelOptions {
        data: folder.join("data.jsonl"),
        out: folder.join("out"),
        gold: None,
        gold_every: 4,
        overlap: 1,
        rubric: None,
        seed: None,
        reading: ReadOptions::default(),
    }
}

impl Labelling {
    pub(crate) fn start(options: &LabelOptions) -> Self {
        let session = LabelSession::open(options).expect("opened");
        let cancel: &'static CancelFlag = Box::leak(Box::new(CancelFlag::new()));
        let (send, urls) = channel();
        let thread = std::thread::spawn(move || {
            session.serve(ListenOptions::default(), cancel, |urls| {
                send.send(urls.clone()).expect("someone listens");
                Ok(())
            })
        });
        let urls = urls.recv().expect("serving");
        Self { raters: Page { url: urls.raters }, operator: Page { url: urls.operator }, cancel, thread: Some(thread) }
    }

    pub(crate) fn stop(mut self) -> LabelSummary {
        self.cancel.cancel();
        let thread = self.thread.take().expect("running");
        thread.join().expect("no panic").expect("ended well")
    }
}

impl Drop for Labelling {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs that are served until dropped.
pub(crate) struct Watching {
    pub(crate) page: Page,
    cancel: &'static CancelFlag,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watching {
    pub(crate) fn start(root: &Path) -> Self {
        let session = RunsSession::open(root).expect("opened");
        let cancel: &'static CancelFlag = Box::leak(Box::new(CancelFlag::new()));
        let (send, url) = channel();
        let thread = std::thread::spawn(move || {
            session.serve(ListenOptions::default(), cancel, |url| {
                send.send(url.to_owned()).expect("someone listens");
                Ok(())
            })
        });
        let url = url.recv().expect("serving");
        Self { page: Page { url }, cancel, thread: Some(thread) }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
