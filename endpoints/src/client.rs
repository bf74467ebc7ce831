//! The client: one request with its tries, and what all requests share.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use farmhand_core::{BuildContext, Error, Result};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::api_key::ApiKey;
use crate::attempt::{Received, read_json};
use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind};
use crate::network_thread::{NetworkTask, network};
use crate::options::{Api, EndpointOptions};
use crate::stop::Stop;
use crate::turns::Turns;
use crate::upstream::{Keys, Upstream, upstreams};
use crate::usage::Usage;

/// Asks a model, wherever it is served. Clones share the limits, the waiting a server asked for, and the counts.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) api: Api,
    http: reqwest::Client,
    upstreams: Vec<Upstream>,
    turns: Turns,
    permits: Semaphore,
    pub(crate) retries: u32,
    total_timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) backoff: Backoff,
    network: Handle,
    counts_tokens: bool,
    /// Whether this server calls the limit of a chat answer `max_completion_tokens`.
    pub(crate) counts_completion_tokens: AtomicBool,
    n_started: AtomicU64,
    usage: Mutex<Usage>,
}

/// What is asked of which route.
pub(crate) struct Request {
    pub(crate) route: Route,
    pub(crate) body: Body,
    /// Bytes of the answer at most.
    pub(crate) largest_answer: usize,
    /// Whether only the first place may be asked.
    pub(crate) only_first: bool,
    /// Whether a failure comes back instead of another try.
    pub(crate) only_once: bool,
}

/// Bytes of an answer at most, where nothing else is said.
const LARGEST_ANSWER: usize = 64 << 20;

/// A route at every server.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// Of the interface, below `/v1`.
    Api(String),
    /// Beside it, where vLLM's own routes are.
    Root(&'static str),
    /// Beside it too, named by the user.
    Beside(String),
}

/// What is sent.
pub(crate) enum Body {
    /// Nothing: the route is read.
    None,
    /// JSON, made when the request's turn comes, and the tokens of the answer at most.
    Json(Box<dyn Fn() -> Value + Send + Sync>, u32),
    /// Bytes of this content type.
    Bytes(String, Vec<u8>),
}

impl Request {
    pub(crate) fn get(route: Route) -> Self {
        Self { route, body: Body::None, largest_answer: LARGEST_ANSWER, only_first: false, only_once: false }
    }

    pub(crate) fn post(route: Route, max_tokens: u32, body: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        Self { body: Body::Json(Box::new(body), max_tokens), ..Self::get(route) }
    }

    /// The same, for the first place alone.
    pub(crate) fn for_first(self) -> Self {
        Self { only_first: true, ..self }
    }

    /// The same, never tried again.
    pub(crate) fn once(self) -> Self {
        Self { only_once: true, ..self }
    }
}

impl Route {
    pub(crate) fn api(route: impl Into<String>) -> Self {
        Self::Api(route.into())
    }

    pub(crate) fn at(&self, upstream: &Upstream) -> String {
        match self {
            Self::Api(route) => upstream.url.api(route),
            Self::Root(route) => upstream.url.root(route),
            Self::Beside(route) => upstream.url.root(route),
        }
    }
}

impl Client {
    /// A client of the servers that the options name, the first one's key given. Nothing is asked yet.
    ///
    /// # Errors
    /// When an option is out of range, a further endpoint's key is missing, or the network cannot be set up.
    pub fn new(options: &EndpointOptions, key: Option<ApiKey>) -> Result<Self> {
        Self::with_keys(options, &Keys::Given(key))
    }

    /// A client of the servers that the options name, with the keys that they name. Nothing is asked yet.
    ///
    /// # Errors
    /// When an option is out of range, a key is missing, or the network cannot be set up.
    pub fn from_options(options: &EndpointOptions, ctx: &BuildContext<'_>) -> Result<Self> {
        Self::with_keys(options, &Keys::Named(ctx))
    }

    fn with_keys(options: &EndpointOptions, keys: &Keys<'_>) -> Result<Self> {
        if let Some(problem) = options.problems().into_iter().next() {
            return Err(Error::invalid_config(format!("`{}`: {}", problem.path, problem.message)));
        }
        let upstreams = upstreams(options, keys)?;
        let shared = Shared {
            api: options.api,
            http: http_client(options, &upstreams)?,
            turns: Turns::new(&upstreams, options),
            upstreams,
            permits: Semaphore::new(options.max_concurrent.min(Semaphore::MAX_PERMITS)),
            retries: options.retries,
            total_timeout: options.total_timeout_secs.map(Duration::from_secs_f64),
            grace: Duration::from_secs_f64(options.grace_secs),
            backoff: Backoff::default(),
            network: network()?,
            counts_tokens: options.tokens_per_minute.is_some(),
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
        let shared = Arc::get_mut(&mut self.shared).expect("set before the client is shared");
        shared.backoff = backoff;
        shared.turns.set_backoff(backoff);
        self
    }

    /// What was used so far, over all clones.
    pub fn usage(&self) -> Usage {
        *self.shared.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the user should know and nobody took yet: a key that is not used any more, a server that is left alone for a
    /// while. For `ctx.events.warn`.
    pub fn take_warnings(&self) -> Vec<String> {
        self.shared.turns.take_notices()
    }

    pub(crate) fn network(&self) -> &Handle {
        &self.shared.network
    }

    /// The first server's address, for messages.
    pub(crate) fn address(&self) -> String {
        self.shared.upstreams[0].url.api("")
    }

    /// A request that is refused before it is sent.
    pub(crate) fn unsent(&self, route: &Route, message: String) -> Failure {
        let url = route.at(&self.shared.upstreams[0]);
        Failure { attempts: 0, ..Failure::new(FailureKind::Refused, &url, message) }
    }

    /// Sends a request, again where that may help, and reads its answer; `read` says what is missing in an answer that is JSON.
    pub(crate) fn send<T: Send + 'static>(
        &self,
        request: Request,
        read: impl Fn(&Value) -> Result<T, String> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<T, Failure>> + Send + 'static {
        self.send_for(request, move |received| read_json(received, &read))
    }

    /// The same for an answer that is not one JSON value.
    pub(crate) fn send_for<T: Send + 'static>(
        &self,
        request: Request,
        read: impl Fn(&Received<'_>) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<T, Failure>> + Send + 'static {
        let shared = self.shared.clone();
        let network = self.shared.network.clone();
        async move {
            let stop = Stop::current();
            NetworkTask::spawn(&network, async move { shared.send(&request, &read, stop).await }).await
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("api", &self.shared.api).field("upstreams", &self.shared.upstreams).finish_non_exhaustive()
    }
}

fn http_client(options: &EndpointOptions, upstreams: &[Upstream]) -> Result<reqwest::Client> {
    static TLS: Once = Once::new();
    // Another part of the program may have chosen the same library before; that is as good.
    TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let mut http = reqwest::Client::builder()
        .timeout(Duration::from_secs_f64(options.timeout_secs))
        .connect_timeout(Duration::from_secs_f64(options.timeout_secs.min(10.0)))
        .tcp_nodelay(true)
        // A key goes to the server that was named and to no other.
        .redirect(reqwest::redirect::Policy::none())
        // Many servers close a connection that was idle for five seconds; a request on its way then would be lost.
        .pool_idle_timeout(Duration::from_secs(4))
        .user_agent(concat!("farmhand/", env!("CARGO_PKG_VERSION")));
    if upstreams.iter().all(|upstream| upstream.url.is_loopback()) {
        http = http.no_proxy();
    }
    if upstreams.iter().all(|upstream| !upstream.url.is_encrypted()) {
        // Certificates are not needed, and some machines have none.
        http = http.tls_certs_only([]);
    }
    http.build().map_err(|error| {
        Error::other("cannot set up the HTTP client").with_source(error).with_hint("are the system's CA certificates installed?")
    })
}

impl Shared {
    async fn send<T>(
        &self,
        request: &Request,
        read: &(impl Fn(&Received<'_>) -> Result<T, Failure> + Sync),
        mut stop: Stop,
    ) -> Result<T, Failure> {
        let cancelled = || Failure { attempts: 0, ..Failure::new(FailureKind::Cancelled, "", "stopped on request") };
        let Some(permit) = stop.or(self.permits.acquire()).await else { return Err(cancelled()) };
        let _permit = permit.expect("never closed");
        let (mut n_attempts, mut last) = (0, None);
        let tries = self.tries(request, read, &mut stop, &mut n_attempts, &mut last);
        let result = match self.total_timeout {
            None => tries.await,
            Some(limit) => match tokio::time::timeout(limit, tries).await {
                Ok(result) => result,
                Err(_) => Err(self.total_timeout_over(request, limit, last)),
            },
        };
        self.count(|usage| match &result {
            Ok(_) => usage.n_requests += 1,
            Err(failure) if failure.kind == FailureKind::Cancelled => {}
            Err(_) => usage.n_failed += 1,
        });
        result.map_err(|failure| Failure { attempts: n_attempts.max(failure.attempts), ..failure })
    }

    /// Tries until an answer comes, or no further try helps.
    async fn tries<T>(
        &self,
        request: &Request,
        read: &(impl Fn(&Received<'_>) -> Result<T, Failure> + Sync),
        stop: &mut Stop,
        n_attempts: &mut u32,
        last: &mut Option<Failure>,
    ) -> Result<T, Failure> {
        let number = self.n_started.fetch_add(1, Ordering::Relaxed);
        let (body, max_tokens) = match &request.body {
            Body::None => (None, 0),
            Body::Json(body, max_tokens) => {
                (Some(("application/json", serde_json::to_vec(&body()).expect("a JSON value is JSON"))), *max_tokens)
            }
            Body::Bytes(content_type, bytes) => (Some((content_type.as_str(), bytes.clone())), 0),
        };
        let is_generation = matches!(request.body, Body::Json(..)) && max_tokens > 0;
        let tokens =
            if is_generation { body.as_ref().map_or(0, |(_, body)| body.len() / 4) as f64 + f64::from(max_tokens) } else { 0.0 };
        let (mut n_failures, mut avoid, mut n_elsewhere) = (0, None, 0);
        let only = request.only_first.then_some(0);
        loop {
            let cancelled = || Failure { attempts: 0, ..Failure::new(FailureKind::Cancelled, "", "stopped on request") };
            let turn = match stop.or(self.turns.next(only, avoid, tokens)).await {
                None => return Err(last.take().unwrap_or_else(cancelled)),
                Some(Ok(turn)) => turn,
                // The failure that this very request met says more than that nobody is left to ask.
                Some(Err(failure)) => return Err(last.take().filter(|last| last.kind == failure.kind).unwrap_or(failure)),
            };
            *n_attempts += 1;
            let upstream = &self.upstreams[turn.upstream];
            let body = body.as_ref().map(|(content_type, bytes)| (*content_type, bytes.as_slice()));
            let outcome = crate::attempt::attempt(&self.http, upstream, request, body).await;
            let outcome = match &outcome {
                Ok(whole) => {
                    let received = Received::new(upstream, &request.route, whole);
                    let used = if self.counts_tokens { received.tokens_used() } else { None };
                    received.accepted().and_then(read).map(|answer| (answer, used))
                }
                Err(failure) => Err(failure.clone()),
            };
            let failure = match outcome {
                Ok((answer, used)) => {
                    turn.answered(used);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let (tried, asked) = (turn.upstream, failure.retry_after.unwrap_or_default());
            let was_reached = turn.failed(&failure);
            if stop.is_asked() {
                return Err(failure);
            }
            let may_go_elsewhere = n_elsewhere + 1 < self.upstreams.len() && self.turns.n_open() > 0;
            if failure.is_of_this_place() && may_go_elsewhere && only.is_none() {
                // Another key or place may have what this one lacks; that is not another try of the same thing.
                n_elsewhere += 1;
            } else {
                n_failures += 1;
                if request.only_once || n_failures > self.further_tries(&failure, was_reached) || self.backoff.is_too_long(asked)
                {
                    return Err(failure);
                }
                let wait = if self.turns.n_open() > 1 && only.is_none() {
                    Duration::ZERO
                } else {
                    self.backoff.wait(number, n_failures)
                };
                if stop.or(tokio::time::sleep(wait)).await.is_none() {
                    return Err(failure);
                }
            }
            self.count(|usage| usage.n_retries += 1);
            (avoid, *last) = (Some(tried), Some(failure));
        }
    }

    /// How often a request that failed like this is sent again.
    fn further_tries(&self, failure: &Failure, was_reached: bool) -> u32 {
        match failure.kind {
            FailureKind::Unreachable if !was_reached && self.upstreams.len() == 1 => 0,
            FailureKind::TimedOut => self.retries.min(1),
            kind if kind.may_pass() => self.retries,
            _ => 0,
        }
    }

    fn total_timeout_over(&self, request: &Request, limit: Duration, last: Option<Failure>) -> Failure {
        let mut message = format!("all its tries took longer than `total_timeout_secs` = {}", limit.as_secs_f64());
        if let Some(last) = &last {
            message = format!("{message}; the last failure: {last}");
        }
        Failure::new(FailureKind::TimedOut, &request.route.at(&self.upstreams[0]), message)
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.usage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
