//! A server on the loopback interface that answers chats, misbehaves as often and in such ways as it is told, and keeps
//! account of what it answered to which question; for tests and measurements of whatever asks servers.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farmhand_core::Seed;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Bytes of an answer that is far too long.
const HUGE: usize = 1 << 20;

/// A way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// 429 with `retry-after-ms: 20`.
    RateLimitedWithWait,
    /// 429 without a word on how long.
    RateLimited,
    /// 500.
    ServerError,
    /// 529, as Anthropic says that it is overloaded.
    Overloaded,
    /// Says nothing and keeps the connection.
    Hang,
    /// Sends the answer byte by byte, more slowly than anybody waits.
    SlowDrip,
    /// Resets the connection.
    Reset,
    /// Closes the connection in the middle of the answer.
    CutOff,
    /// Half of the JSON, as if it were all of it.
    TruncatedJson,
    /// An answer without choices.
    EmptyChoices,
    /// JSON of another kind.
    WrongSchema,
    /// 400: the content filter refuses the question.
    FilteredQuestion,
    /// The content filter cut the answer off before its first word.
    FilteredAnswer,
    /// The text of the answer twice, so that there are too many verdicts.
    WrongCount,
    /// An answer of 1 MB in which nothing is to be found.
    Huge,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::RateLimitedWithWait,
        Self::RateLimited,
        Self::ServerError,
        Self::Overloaded,
        Self::Hang,
        Self::SlowDrip,
        Self::Reset,
        Self::CutOff,
        Self::TruncatedJson,
        Self::EmptyChoices,
        Self::WrongSchema,
        Self::FilteredQuestion,
        Self::FilteredAnswer,
        Self::WrongCount,
        Self::Huge,
    ];

    /// Whether a whole answer arrives, if not a good one, so that asking again would mean paying again.
    pub fn is_an_answer(self) -> bool {
        matches!(self, Self::FilteredAnswer | Self::WrongCount | Self::Huge)
    }
}

/// How a server misbehaves.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultPlan {
    /// Ways to misbehave, each with the probability that a request meets it. Drawn from the question and how often it came, so
    /// that neither order nor time matters.
    pub faults: Vec<(Fault, f64)>,
    /// How long an answer takes.
    pub latency: Duration,
    /// Seed of the draws.
    pub seed: u64,
}

impl FaultPlan {
    /// A server without fault that answers at once.
    pub fn none() -> Self {
        Self { faults: Vec::new(), latency: Duration::ZERO, seed: 0 }
    }

    /// Every way to misbehave, `share` of all requests in all.
    pub fn every(share: f64, seed: u64) -> Self {
        let each = share / Fault::ALL.len() as f64;
        Self { faults: Fault::ALL.into_iter().map(|fault| (fault, each)).collect(), latency: Duration::ZERO, seed }
    }

    fn draw(&self, question: u64, n_asked: u32) -> Option<Fault> {
        let mut left = Seed::root(self.seed).child("fault", question).child("asked", u64::from(n_asked)).rng().uniform();
        self.faults.iter().find_map(|(fault, p)| {
            left -= p;
            (left < 0.0).then_some(*fault)
        })
    }
}

/// What came of one question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuestionTally {
    /// How often it was asked.
    pub n_asked: u32,
    /// How often a whole answer went out, a good one or one of [`Fault::is_an_answer`].
    pub n_answered: u32,
}

/// What a server did so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By the hash of a question's body.
    pub questions: HashMap<u64, QuestionTally>,
    /// How often it misbehaved in each way.
    pub faults: BTreeMap<Fault, u64>,
    /// Requests under way at a time, at most.
    pub most_at_a_time: usize,
    n_now: usize,
}

impl Tally {
    /// Requests so far.
    pub fn n_asked(&self) -> u64 {
        self.questions.values().map(|question| u64::from(question.n_asked)).sum()
    }

    /// Whole answers so far.
    pub fn n_answered(&self) -> u64 {
        self.questions.values().map(|question| u64::from(question.n_answered)).sum()
    }

    /// Whole answers to questions that had one before.
    pub fn n_answered_again(&self) -> u64 {
        self.questions.values().map(|question| u64::from(question.n_answered.saturating_sub(1))).sum()
    }
}

/// A running server. It stops when dropped.
pub struct FaultServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

type Answering = dyn Fn(&Value) -> Value + Send + Sync;

struct Shared {
    plan: FaultPlan,
    answer: Box<Answering>,
    tally: Mutex<Tally>,
}

impl FaultServer {
    /// Starts a server on a free port. `answer` makes the body of a good answer from that of the request; see
    /// [`chat_answer`].
    ///
    /// # Panics
    /// When the operating system gives no port or no thread.
    pub fn start(plan: FaultPlan, answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { plan, answer: Box::new(answer), tally: Mutex::default() });
        let serving = shared.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = serving.clone();
                // A connection that breaks is the client's business.
                tokio::spawn(async move { drop(shared.serve(stream).await) });
            }
        });
        Self { address, shared, runtime: Some(runtime) }
    }

    /// The address to ask, with `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it did so far.
    pub fn tally(&self) -> Tally {
        self.shared.lock().clone()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The body of a chat's answer with this text, and counts of tokens that follow from the request's length.
pub fn chat_answer(request: &Value, text: &str) -> Value {
    let n_prompt = request["messages"].to_string().len() / 4;
    let message = json!({ "role": "assistant", "content": text });
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": request["model"],
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": n_prompt, "completion_tokens": text.len() / 4 + 1 },
    })
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection until it ends.
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut bytes = Vec::with_capacity(8192);
        while let Some((head, length)) = read_head(&mut stream, &mut bytes).await? {
            while bytes.len() < head + length {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            }
            let body: Vec<u8> = bytes.drain(..head + length).skip(head).collect();
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            let question = hasher.finish();
            let fault = self.begin(question);
            let result = self.reply(&mut stream, &body, fault).await;
            self.end(question, fault, result.is_ok());
            result?;
            if fault.is_some_and(|fault| matches!(fault, Fault::Hang | Fault::SlowDrip | Fault::Reset | Fault::CutOff)) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn begin(&self, question: u64) -> Option<Fault> {
        let mut tally = self.lock();
        tally.n_now += 1;
        tally.most_at_a_time = tally.most_at_a_time.max(tally.n_now);
        let counts = tally.questions.entry(question).or_default();
        counts.n_asked += 1;
        let fault = self.plan.draw(question, counts.n_asked);
        // Counted before its last byte leaves: whoever has read the answer finds it in the tally.
        counts.n_answered += u32::from(fault.is_none_or(Fault::is_an_answer));
        if let Some(fault) = fault {
            *tally.faults.entry(fault).or_default() += 1;
        }
        fault
    }

    /// Takes an answer that could not be sent out of the tally again.
    fn end(&self, question: u64, fault: Option<Fault>, is_sent: bool) {
        let mut tally = self.lock();
        tally.n_now -= 1;
        if !is_sent && fault.is_none_or(Fault::is_an_answer) {
            tally.questions.entry(question).or_default().n_answered -= 1;
        }
    }

    /// Does what the request meets.
    async fn reply(&self, stream: &mut TcpStream, body: &[u8], fault: Option<Fault>) -> std::io::Result<()> {
        if !self.plan.latency.is_zero() {
            tokio::time::sleep(self.plan.latency).await;
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut answer = (self.answer)(&request);
        let (mut status, mut header) = (200, "");
        let error = |code: &str| json!({ "error": { "message": format!("{code}, as planned"), "code": code } });
        match fault {
            Some(Fault::RateLimitedWithWait) => {
                (status, header, answer) = (429, "retry-after-ms: 20\r\n", error("rate_limit_exceeded"));
            }
            Some(Fault::RateLimited) => (status, answer) = (429, error("rate_limit_exceeded")),
            Some(Fault::ServerError) => (status, answer) = (500, error("server_error")),
            Some(Fault::Overloaded) => (status, answer) = (529, error("overloaded_error")),
            Some(Fault::FilteredQuestion) => (status, answer) = (400, error("content_filter")),
            Some(Fault::EmptyChoices) => answer["choices"] = json!([]),
            Some(Fault::WrongSchema) => answer = json!({ "choices": [{ "message": "hello" }] }),
            Some(Fault::FilteredAnswer) => {
                answer["choices"][0]["message"]["content"] = Value::Null;
                answer["choices"][0]["finish_reason"] = json!("content_filter");
            }
            Some(Fault::WrongCount) => {
                let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
                answer["choices"][0]["message"]["content"] = json!(format!("{text}\n{text}"));
            }
            Some(Fault::Huge) => answer["choices"][0]["message"]["content"] = json!("z".repeat(HUGE)),
            _ => {}
        }
        let mut text = answer.to_string();
        if fault == Some(Fault::TruncatedJson) {
            text.truncate(text.len() / 2);
        }
        let reply = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n{header}\r\n{text}", text.len());
        match fault {
            Some(Fault::Hang) => {
                // Until the client gives up.
                let mut one = [0];
                let _ = stream.read(&mut one).await?;
            }
            Some(Fault::SlowDrip) => {
                for byte in reply.as_bytes() {
                    stream.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
            Some(Fault::Reset) => stream.set_zero_linger()?,
            Some(Fault::CutOff) => stream.write_all(&reply.as_bytes()[..reply.len() - text.len() / 2]).await?,
            _ => stream.write_all(reply.as_bytes()).await?,
        }
        Ok(())
    }
}

/// Reads up to the end of a request's head; gives back its length and that of the body, or nothing at the connection's end.
async fn read_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<Option<(usize, usize)>> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]);
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            return Ok(Some((end + 4, length.unwrap_or(0))));
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Message, Role};

    use super::*;
    use crate::{Backoff, ChatRequest, Client, EndpointOptions, FailureKind, wait};

    fn ask(server: &FaultServer, text: &str) -> Result<crate::Answer, crate::Failure> {
        let options =
            EndpointOptions { base_url: server.base_url(), timeout_secs: 0.2, retries: 0, ..EndpointOptions::default() };
        let client = Client::new(&options, None)
            .expect("a client")
            .with_backoff(Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(50) });
        wait(client.chat(ChatRequest::new("m", vec![Message { role: Role::User, content: text.to_owned() }])))
    }

    #[test]
    fn each_fault_arrives_as_what_it_is() {
        use FailureKind as K;
        for fault in Fault::ALL {
            let plan = FaultPlan { faults: vec![(fault, 1.0)], ..FaultPlan::none() };
            let server = FaultServer::start(plan, |request| chat_answer(request, "m"));
            let result = ask(&server, "a");
            let kind = result.as_ref().err().map(|failure| failure.kind);
            let expected = match fault {
                Fault::RateLimitedWithWait | Fault::RateLimited => Some(K::RateLimited),
                Fault::ServerError | Fault::Overloaded => Some(K::ServerError),
                Fault::Hang | Fault::SlowDrip => Some(K::TimedOut),
                Fault::Reset | Fault::CutOff => Some(K::Unreachable),
                Fault::TruncatedJson | Fault::EmptyChoices | Fault::WrongSchema => Some(K::Garbage),
                Fault::FilteredQuestion => Some(K::Filtered),
                Fault::FilteredAnswer | Fault::WrongCount | Fault::Huge => None,
            };
            assert_eq!(kind, expected, "{fault:?}: {result:?}");
            let tally = server.tally();
            assert_eq!((tally.n_asked(), tally.n_answered()), (1, u64::from(fault.is_an_answer())), "{fault:?}");
            assert_eq!(tally.faults[&fault], 1);
            match (fault, result) {
                (Fault::WrongCount, Ok(answer)) => assert_eq!(answer.text, "m\nm"),
                (Fault::Huge, Ok(answer)) => assert_eq!(answer.text.len(), HUGE),
                (Fault::FilteredAnswer, Ok(answer)) => assert_eq!(answer.finish, crate::Finish::Filtered),
                _ => {}
            }
        }
    }

    #[test]
    fn draws_follow_from_the_question_and_how_often_it_came() {
        let plan = FaultPlan::every(0.5, 7);
        let draws = |plan: &FaultPlan| (0..2000).map(|i| plan.draw(i / 2, i as u32 % 2)).collect::<Vec<_>>();
        assert_eq!(draws(&plan), draws(&plan));
        assert_ne!(draws(&plan), draws(&FaultPlan::every(0.5, 8)));
        let n_faults = draws(&plan).iter().flatten().count();
        assert!((900..1100).contains(&n_faults), "{n_faults} of 2000");
        let server = FaultServer::start(FaultPlan::none(), |request| chat_answer(request, "m"));
        for text in ["a", "b", "a"] {
            assert!(ask(&server, text).is_ok());
        }
        let tally = server.tally();
        assert_eq!((tally.n_asked(), tally.questions.len(), tally.n_answered_again()), (3, 2, 1));
    }
}
