//! A server on the loopback interface that answers as it is told; for tests of whatever asks servers.

mod batches;
mod faults;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

pub use batches::{Answering, HeldBatches};
pub use faults::{Fault, FaultPlan, FaultServer, QuestionTally, Tally, chat_answer};

/// A request that came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// `GET` or `POST`.
    pub method: String,
    /// The path, for example `/v1/models`.
    pub path: String,
    /// The headers by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as JSON; null when there was none or it is something else.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

/// What the server does with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Answers with a status, further headers and a text.
    Answer(u16, Vec<(String, String)>, String),
    /// Closes the connection without an answer.
    HangUp,
    /// Says it sends more than it does, and closes the connection.
    CutOff(String),
}

impl Reply {
    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::Answer(status, Vec::new(), body.to_string())
    }

    /// A JSON answer with one more header.
    pub fn json_with(status: u16, header: (&str, &str), body: &Value) -> Self {
        Self::Answer(status, vec![(header.0.to_owned(), header.1.to_owned())], body.to_string())
    }

    /// An answer that is only a text.
    pub fn text(status: u16, body: &str) -> Self {
        Self::Answer(status, Vec::new(), body.to_owned())
    }
}

/// A running server. It stops when dropped.
pub struct Loopback {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    stopped: Arc<AtomicBool>,
}

impl Loopback {
    /// Starts a server on a free port; each request is answered on a thread of its connection.
    ///
    /// # Panics
    /// When the loopback interface has no free port.
    pub fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (received, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (answer, log, stop) = (Arc::new(answer), received.clone(), stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (answer, log, stop) = (answer.clone(), log.clone(), stop.clone());
                std::thread::spawn(move || serve(stream, &*answer, &log, &stop));
            }
        });
        Self { address, received, stopped }
    }

    /// The address to ask, with `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far, in the order they came.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then ends and frees the port.
        drop(TcpStream::connect(self.address));
    }
}

/// An address on which nobody listens.
///
/// # Panics
/// When the loopback interface has no free port.
pub fn nobody() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    format!("http://{}/v1", listener.local_addr().expect("an address"))
}

/// Answers the requests of one connection until either side closes it.
fn serve(stream: TcpStream, answer: &(impl Fn(&Received) -> Reply + ?Sized), log: &Mutex<Vec<Received>>, stop: &AtomicBool) {
    // So that a stopped server lets go of connections that are kept open.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let bytes = match answer(&request) {
            Reply::HangUp => return,
            Reply::CutOff(text) => {
                let _ = write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len() + 100);
                return;
            }
            Reply::Answer(status, headers, body) => {
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
            }
        };
        if writer.write_all(bytes.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Received> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let text = String::from_utf8_lossy(&body).into_owned();
    Some(Received { method, path, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null), text })
}
