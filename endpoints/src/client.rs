//! The client: one request with its tries, and what all requests share.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use farmhand_core::{Error, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::api_key::ApiKey;
use crate::backoff::{Backoff, asked_wait};
use crate::failure::{Failure, FailureKind, shorten};
use crate::network_thread::{NetworkTask, network};
use crate::options::EndpointOptions;
use crate::server_url::ServerUrl;
use crate::usage::Usage;

/// The largest answer that is read, in bytes.
const LARGEST_ANSWER: usize = 64 << 20;

/// Asks one server. Clones share the limit of requests under way, the waiting a server asked for, and the counts.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    http: reqwest::Client,
    url: ServerUrl,
    key: Option<ApiKey>,
    retries: u32,
    backoff: Backoff,
    permits: Semaphore,
    network: Handle,
    /// No request is sent before this moment: a server asked to wait.
    not_before: Mutex<Option<Instant>>,
    /// Whether the server was ever there. Until then nobody waits for a server that does not answer.
    was_reached: AtomicBool,
    /// Whether this server calls the limit of a chat answer `max_completion_tokens`.
    pub(crate) counts_completion_tokens: AtomicBool,
    n_started: AtomicU64,
    usage: Mutex<Usage>,
}

/// What is asked of which route.
pub(crate) struct Request {
    pub(crate) url: String,
    /// Makes what is posted as JSON, when the request's turn comes; without one the route is read.
    pub(crate) body: Option<Box<dyn Fn() -> Value + Send + Sync>>,
}

impl Request {
    pub(crate) fn get(url: String) -> Self {
        Self { url, body: None }
    }

    pub(crate) fn post(url: String, body: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        Self { url, body: Some(Box::new(body)) }
    }
}

impl Client {
    /// A client for the server that the options name. Nothing is asked yet.
    ///
    /// # Errors
    /// When an option is out of range or the network cannot be set up.
    pub fn new(options: &EndpointOptions, key: Option<ApiKey>) -> Result<Self> {
        if let Some(problem) = options.problems().into_iter().next() {
            return Err(Error::invalid_config(format!("`{}`: {}", problem.path, problem.message)));
        }
        static TLS: Once = Once::new();
        // Another part of the program may have chosen the same library before; that is as good.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let url = ServerUrl::parse(&options.base_url).map_err(Error::invalid_config)?;
        let mut http = reqwest::Client::builder()
            .timeout(Duration::from_secs_f64(options.timeout_secs))
            .connect_timeout(Duration::from_secs_f64(options.timeout_secs.min(10.0)))
            // A key goes to the server that was named and to no other.
            .redirect(reqwest::redirect::Policy::none())
            // Many servers close a connection that was idle for five seconds; a request on its way then would be lost.
            .pool_idle_timeout(Duration::from_secs(4))
            .user_agent(concat!("farmhand/", env!("CARGO_PKG_VERSION")));
        if url.is_loopback() {
            http = http.no_proxy();
        }
        if options.base_url.starts_with("http://") {
            // Certificates are not needed, and some machines have none.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|error| {
            Error::other("cannot set up the HTTP client")
                .with_source(error)
                .with_hint("are the system's CA certificates installed?")
        })?;
        let shared = Shared {
            http,
            url,
            key,
            retries: options.retries,
            backoff: Backoff::default(),
            permits: Semaphore::new(options.max_concurrent.min(Semaphore::MAX_PERMITS)),
            network: network()?,
            not_before: Mutex::new(None),
            was_reached: AtomicBool::new(false),
            counts_completion_tokens: AtomicBool::new(false),
            n_started: AtomicU64::new(0),
            usage: Mutex::new(Usage::default()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same client with other waits between tries.
    ///
    /// # Panics
    /// When the client was cloned or is in use.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        Arc::get_mut(&mut self.shared).expect("set before the client is shared").backoff = backoff;
        self
    }

    /// What was used so far, over all clones.
    pub fn usage(&self) -> Usage {
        *self.shared.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn network(&self) -> &Handle {
        &self.shared.network
    }

    pub(crate) fn url(&self) -> &ServerUrl {
        &self.shared.url
    }

    /// Sends a request, again where that may help, and reads its answer; `read` says what is missing in an answer that is JSON.
    pub(crate) fn send<T: Send + 'static>(
        &self,
        request: Request,
        read: impl Fn(&Value) -> Result<T, String> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<T, Failure>> + Send + 'static {
        let shared = self.shared.clone();
        let network = self.shared.network.clone();
        async move { NetworkTask::spawn(&network, async move { shared.send(&request, &read).await }).await }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.shared.url).field("key", &self.shared.key).finish_non_exhaustive()
    }
}

impl Shared {
    async fn send<T>(&self, request: &Request, read: &(impl Fn(&Value) -> Result<T, String> + Sync)) -> Result<T, Failure> {
        let number = self.n_started.fetch_add(1, Ordering::Relaxed);
        let _permit = self.permits.acquire().await.expect("never closed");
        let body = request.body.as_ref().map(|body| serde_json::to_vec(&body()).expect("a JSON value is JSON"));
        let mut attempt = 1;
        loop {
            self.wait_as_asked().await;
            let failure = match self.attempt(request, body.as_deref(), read).await {
                Ok(answer) => {
                    self.count(|usage| usage.n_requests += 1);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let asked = failure.retry_after.unwrap_or_default();
            if attempt > self.tries_again(&failure) || self.backoff.is_too_long(asked) {
                self.count(|usage| usage.n_failed += 1);
                return Err(Failure { attempts: attempt, ..failure });
            }
            if !asked.is_zero() {
                // The wish is for everyone, not only for the request that was told.
                let moment = Instant::now() + asked;
                let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
                *not_before = Some(not_before.map_or(moment, |earlier| earlier.max(moment)));
            }
            self.count(|usage| usage.n_retries += 1);
            tokio::time::sleep(self.backoff.wait(number, attempt, failure.retry_after)).await;
            attempt += 1;
        }
    }

    /// How often a request that failed like this is sent again.
    fn tries_again(&self, failure: &Failure) -> u32 {
        match failure.kind {
            FailureKind::Unreachable if !self.was_reached.load(Ordering::Relaxed) => 0,
            FailureKind::TimedOut => self.retries.min(1),
            kind if kind.may_pass() => self.retries,
            _ => 0,
        }
    }

    async fn wait_as_asked(&self) {
        loop {
            let moment = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            match moment.filter(|moment| *moment > Instant::now()) {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => return,
            }
        }
    }

    async fn attempt<T>(
        &self,
        request: &Request,
        body: Option<&[u8]>,
        read: &(impl Fn(&Value) -> Result<T, String> + Sync),
    ) -> Result<T, Failure> {
        let url = &request.url;
        let mut http = match body {
            Some(body) => {
                let json = HeaderValue::from_static("application/json");
                self.http.post(url).header(CONTENT_TYPE, json).body(body.to_vec())
            }
            None => self.http.get(url),
        };
        if let Some(key) = &self.key {
            http = http.header(AUTHORIZATION, key.header());
        }
        let mut response = http.send().await.map_err(|error| transport_failure(url, error))?;
        self.was_reached.store(true, Ordering::Relaxed);
        let (status, retry_after) = (response.status(), asked_wait(response.headers()));
        let mut bytes = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| transport_failure(url, error))? {
            if bytes.len() + part.len() > LARGEST_ANSWER {
                return Err(Failure::new(FailureKind::Garbage, url, format!("more than {LARGEST_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&part);
        }
        let text = String::from_utf8_lossy(&bytes);
        // Only what goes into a message: an answer's own words stay as they are.
        let shown = || self.key.as_ref().map_or_else(|| text.to_string(), |key| key.redact(&text));
        if !status.is_success() {
            return Err(Failure { retry_after, ..Failure::from_answer(status.as_u16(), url, &shown()) });
        }
        let garbage = |what: String| {
            let message = format!("{what} in `{}`", shorten(&shown()));
            Failure { status: Some(status.as_u16()), ..Failure::new(FailureKind::Garbage, url, message) }
        };
        let json: Value = serde_json::from_str(&text).map_err(|error| garbage(error.to_string()))?;
        // Some gateways answer 200 and put the failure inside.
        if json["error"].is_object() {
            let inner = json["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
            return Err(Failure { retry_after, ..Failure::from_answer(inner.unwrap_or(500), url, &shown()) });
        }
        read(&json).map_err(garbage)
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.usage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A failure below HTTP.
fn transport_failure(url: &str, error: reqwest::Error) -> Failure {
    let kind = if error.is_timeout() { FailureKind::TimedOut } else { FailureKind::Unreachable };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Failure::new(kind, url, shorten(&cause.to_string()))
}
