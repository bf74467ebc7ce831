//! Requests to the hub: who is asked with which secret, what an answer means, and how often to try again.
//!
//! Redirects are followed by hand. The token goes to the hub's own address and nowhere else: large files lie on other hosts,
//! behind links that carry their own permission. Those links are secrets too, so messages never show them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use farmhand_core::{CancelFlag, Error, ErrorKind, Executor, PollingExecutor, Result};
use reqwest::{StatusCode, header};
use tokio::runtime::{Builder, Runtime};

use super::cache_folder::{is_commit, is_plain_path};
use super::model_name::HubId;
use super::settings::HubSettings;

/// Attempts at a request that a busy or silent server did not answer.
pub(super) const ATTEMPTS: u32 = 5;
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Hops from the hub to a file.
const REDIRECTS: usize = 10;
/// The longest list of files that is believed.
const LISTING_BYTES: usize = 32 << 20;

/// A failed request.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Asking again will not help.
    Final(Error),
    /// Asking again may help, after a wait if the server named one.
    Passing(Error, Option<Duration>),
}

impl Trouble {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Final(error) => error,
            Self::Passing(error, _) => error.retryable(),
        }
    }
}

/// An answer whose body has not been read.
pub(super) struct Answer(reqwest::Response);

impl Answer {
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.0.headers().get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn number(&self, name: impl header::AsHeaderName) -> Option<u64> {
        self.header(name).and_then(|value| value.trim().parse().ok())
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status()
    }
}

/// Where the bytes of a file are.
pub(super) struct Located {
    /// The name of its blob: the SHA-256 of a large file, git's hash of a small one.
    pub(super) etag: String,
    /// Its length, if known.
    pub(super) size: Option<u64>,
    /// The address to ask.
    pub(super) url: String,
    /// The answer at hand when the hub sends the file itself.
    pub(super) answer: Option<Answer>,
}

/// A model's commit and files.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    /// Names and, where the hub tells, lengths.
    pub(super) files: BTreeMap<String, Option<u64>>,
}

impl Listing {
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.files.keys().cloned().collect()
    }
}

/// The hub.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Waits for the network on a thread of its own, so that callers may stand inside another runtime.
    network: Runtime,
    settings: HubSettings,
}

impl Client {
    /// A client that has asked nothing yet.
    ///
    /// # Errors
    /// When the machine has no certificates or refuses a thread.
    pub(super) fn new(settings: HubSettings) -> Result<Self> {
        // Another part of the program may have chosen the same library before; that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .connect_timeout(settings.silence)
            .read_timeout(settings.silence)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("farmhand/", env!("CARGO_PKG_VERSION")));
        if is_this_machine(&settings.endpoint) {
            http = http.no_proxy();
        }
        if settings.endpoint.starts_with("http://") {
            // Certificates are not needed, and some machines have none.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|error| {
            let hint = "are the system's CA certificates installed?";
            Error::other("cannot set up the connection to the hub").with_source(error).with_hint(hint)
        })?;
        let network = Builder::new_multi_thread().worker_threads(1).thread_name("farmhand-hub").enable_all().build();
        let network = network.map_err(|error| Error::other("cannot start a thread for the network").with_source(error))?;
        Ok(Self { http, network, settings })
    }

    /// Waits for the network, or until the user asks to stop.
    fn wait_for<T: Send>(&self, cancel: &CancelFlag, work: impl Future<Output = T> + Send) -> Result<T> {
        let _inside = self.network.enter();
        let mut output = None;
        PollingExecutor.block_on(Box::pin(async {
            let stopped = async {
                while !cancel.is_cancelled() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::select! {
                done = work => output = Some(done),
                () = stopped => {}
            }
        }));
        output.ok_or_else(Error::cancelled)
    }

    /// One request; `from` asks for the bytes from there on.
    pub(super) fn ask(&self, url: &str, from: Option<u64>, cancel: &CancelFlag) -> Result<Answer, Trouble> {
        let mut request = self.http.get(url);
        if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.wait_for(cancel, async { request.send().await }).map_err(Trouble::Final)?;
        answer.map(Answer).map_err(|error| unreachable(&origin(url), error))
    }

    /// The next piece of an answer's body; `what` names it in errors.
    pub(super) fn read(
        &self,
        answer: &mut Answer,
        what: &str,
        cancel: &CancelFlag,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>, Trouble> {
        let piece = self.wait_for(cancel, async { answer.0.chunk().await }).map_err(Trouble::Final)?;
        piece.map_err(|error| broken_off(what, &cause(error)))
    }

    /// The commit a revision is at, and the model's files there.
    pub(super) fn listing(&self, id: &HubId, cancel: &CancelFlag) -> Result<Listing> {
        let revision = id.revision().unwrap_or_default().replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.settings.endpoint, id.repo());
        self.patiently(cancel, || {
            let mut answer = self.follow(&url, id, cancel)?;
            if answer.status() != StatusCode::OK {
                return Err(self.refusal(&answer, id, None));
            }
            let mut text = Vec::new();
            while let Some(piece) = self.read(&mut answer, &format!("the list of files of `{id}`"), cancel)? {
                text.extend_from_slice(piece.as_ref());
                if text.len() > LISTING_BYTES {
                    break;
                }
            }
            listing(&text).ok_or_else(|| {
                Trouble::Final(
                    Error::new(ErrorKind::RemoteService, format!("`{}` does not answer like a hub", self.settings.endpoint))
                        .with_hint("`HF_ENDPOINT` should name the Hugging Face hub or a mirror of it"),
                )
            })
        })
    }

    /// Follows redirects that stay on the hub, such as that of a renamed model.
    fn follow(&self, url: &str, id: &HubId, cancel: &CancelFlag) -> Result<Answer, Trouble> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let answer = self.ask(&url, None, cancel)?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            url = self.next(&url, &answer, id)?;
            if !self.is_hub(&url) {
                return Err(Trouble::Final(Error::new(
                    ErrorKind::RemoteService,
                    format!("`{}` sends requests about `{id}` to another host, `{}`", self.settings.endpoint, origin(&url)),
                )));
            }
        }
        Err(in_circles(id))
    }

    /// Finds the bytes of a file of a commit.
    pub(super) fn locate(&self, id: &HubId, commit: &str, file: &str, cancel: &CancelFlag) -> Result<Located, Trouble> {
        let mut url = format!("{}/{}/resolve/{commit}/{}", self.settings.endpoint, id.repo(), percent_encoded(file));
        let (mut etag, mut size) = (None, None);
        for _ in 0..REDIRECTS {
            let answer = self.ask(&url, None, cancel)?;
            let redirected = answer.status().is_redirection();
            if !redirected && answer.status() != StatusCode::OK {
                return Err(self.refusal(&answer, id, Some(file)));
            }
            // The hash of the file itself; the plain `ETag` of a redirect may be that of a pointer to it.
            etag = etag.or_else(|| answer.header("x-linked-etag").and_then(blob_name));
            size = size.or_else(|| answer.number("x-linked-size"));
            if !redirected {
                etag = etag.or_else(|| answer.header(header::ETAG).and_then(blob_name));
                size = size.or_else(|| answer.number(header::CONTENT_LENGTH));
                let etag = etag.ok_or_else(|| self.without_hash(id, file))?;
                return Ok(Located { etag, size, url, answer: Some(answer) });
            }
            url = self.next(&url, &answer, id)?;
            if !self.is_hub(&url) {
                let etag = etag.ok_or_else(|| self.without_hash(id, file))?;
                return Ok(Located { etag, size, url, answer: None });
            }
        }
        Err(in_circles(id))
    }

    /// Tries until it works, the trouble is final, or patience ends.
    pub(super) fn patiently<T>(&self, cancel: &CancelFlag, mut work: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
        let mut attempt = 1;
        loop {
            cancel.check()?;
            match work() {
                Ok(done) => return Ok(done),
                Err(Trouble::Passing(_, wait)) if attempt < ATTEMPTS => self.wait(attempt, wait, cancel)?,
                Err(trouble) => return Err(trouble.into_error()),
            }
            attempt += 1;
        }
    }

    /// Waits before the next attempt: as long as the server asked, or twice as long each time.
    pub(super) fn wait(&self, attempt: u32, asked: Option<Duration>, cancel: &CancelFlag) -> Result<()> {
        let wait = asked.unwrap_or(self.settings.first_wait * 2u32.pow(attempt.min(10) - 1)).min(LONGEST_WAIT);
        let started = Instant::now();
        while let Some(left) = wait.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            cancel.check()?;
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    /// Whether an address is the hub's own, to which the token may go.
    fn is_hub(&self, url: &str) -> bool {
        origin(url) == origin(&self.settings.endpoint)
    }

    /// Where a redirect leads.
    fn next(&self, url: &str, answer: &Answer, id: &HubId) -> Result<String, Trouble> {
        let location = answer.header(header::LOCATION).unwrap_or_default();
        let next = if location.starts_with("https://") || location.starts_with("http://") {
            location.to_owned()
        } else if location.starts_with('/') && !location.starts_with("//") {
            format!("{}{location}", origin(url))
        } else {
            let message = format!("`{}` sends requests about `{id}` to no address", origin(url));
            return Err(Trouble::Final(Error::new(ErrorKind::RemoteService, message)));
        };
        if url.starts_with("https://") && next.starts_with("http://") {
            let message = format!("`{}` leads from an encrypted to an open connection", origin(url));
            return Err(Trouble::Final(Error::new(ErrorKind::RemoteService, message)));
        }
        Ok(next)
    }

    fn without_hash(&self, id: &HubId, file: &str) -> Trouble {
        let message = format!("`{}` gives no hash for `{file}` of `{id}`", self.settings.endpoint);
        Trouble::Final(
            Error::new(ErrorKind::RemoteService, message)
                .with_hint("`HF_ENDPOINT` should name the Hugging Face hub or a mirror of it"),
        )
    }

    /// What an answer that is no success means.
    pub(super) fn refusal(&self, answer: &Answer, id: &HubId, file: Option<&str>) -> Trouble {
        let code = answer.header("x-error-code").unwrap_or_default();
        let failed = |message: String| Error::new(ErrorKind::RemoteService, message);
        let missing = |message: String| Error::missing_input(message);
        // The other reading of a name that could have meant a folder.
        let or_folder = if id.is_explicit() { "" } else { "; nor is there a folder of that name" };
        let page = format!("{}/{}", self.settings.endpoint, id.repo());
        let has_token = self.settings.token.is_some();
        let error = match (answer.status().as_u16(), code) {
            (401 | 403, "GatedRepo") => {
                failed(format!("`{}` is gated: the hub gives it to those who accepted its terms", id.repo())).with_hint(format!(
                    "accept them on {page} and set `HF_TOKEN` to a token of that account (or run `hf auth login`)"
                ))
            }
            (401 | 403, _) if has_token => {
                failed(format!("the hub gives `{}` not to this token, or has no such model{or_folder}", id.repo()))
                    .with_hint(format!("check the spelling, that the token is valid, and that its account may read {page}"))
            }
            (401 | 403, _) => missing(format!("the hub has no public model `{}`{or_folder}", id.repo()))
                .with_hint("check the spelling; a private or gated model needs a token in `HF_TOKEN` (or run `hf auth login`)"),
            (404, "RevisionNotFound") => {
                missing(format!("`{}` has no revision `{}`", id.repo(), id.revision().unwrap_or_default()))
                    .with_hint(format!("a revision is a branch, a tag or a whole commit hash; see {page}/commits"))
            }
            (404, _) if file.is_some() => {
                missing(format!("`{id}` lists `{}`, but the hub does not have it", file.unwrap_or_default()))
            }
            (404, _) => missing(format!("the hub has no model `{}`{or_folder}", id.repo()))
                .with_hint(format!("looked for at {page}; a folder is found from where relative paths start")),
            (status @ (408 | 425 | 429 | 500..=599), _) => {
                let what =
                    if status == 429 { "asks for fewer requests".to_owned() } else { format!("is out of order ({status})") };
                let wait = answer.number(header::RETRY_AFTER).map(Duration::from_secs);
                let error = failed(format!("`{}` {what}", origin(&self.settings.endpoint)))
                    .with_hint("it was asked several times; try again later. What has arrived is kept");
                return Trouble::Passing(error, wait);
            }
            (status, _) => failed(format!("`{}` answers {status} about `{id}`", self.settings.endpoint)),
        };
        Trouble::Final(error)
    }
}

/// A connection that broke while `what` was read.
pub(super) fn broken_off(what: &str, cause: &str) -> Trouble {
    let error = Error::new(ErrorKind::RemoteService, format!("the connection broke while {what} was read: {cause}"));
    Trouble::Passing(error.with_hint("what has arrived is kept; run the same command again to go on"), None)
}

/// What lies at the bottom of a failure. The address is left out: it may be a signed link.
fn cause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer".to_owned();
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn in_circles(id: &HubId) -> Trouble {
    Trouble::Final(Error::new(ErrorKind::RemoteService, format!("requests about `{id}` are sent in circles")))
}

/// A server that could not be asked. A line that breaks may be mended; a closed door or a wrong name stays.
fn unreachable(origin: &str, error: reqwest::Error) -> Trouble {
    let closed = error.is_connect() && !error.is_timeout();
    let error = Error::new(ErrorKind::RemoteService, format!("cannot reach `{origin}`: {}", cause(error))).with_hint(
        "check the network and the proxy (`HTTPS_PROXY`); `HF_ENDPOINT` names a mirror, `HF_HUB_OFFLINE=1` uses what is cached",
    );
    // Retryable marks that nobody answered, which a cached copy can make up for.
    if closed { Trouble::Final(error.retryable()) } else { Trouble::Passing(error, None) }
}

/// The hub's description of a model.
fn listing(text: &[u8]) -> Option<Listing> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    let commit = json["sha"].as_str().filter(|commit| is_commit(commit))?.to_owned();
    let file = |entry: &serde_json::Value| {
        let name = entry["rfilename"].as_str().filter(|name| is_plain_path(name))?;
        Some((name.to_owned(), entry["size"].as_u64().or_else(|| entry["lfs"]["size"].as_u64())))
    };
    Some(Listing { commit, files: json["siblings"].as_array()?.iter().filter_map(file).collect() })
}

/// The name of a blob: an entity tag without its quotes, if it can be a file's name.
fn blob_name(etag: &str) -> Option<String> {
    let name = etag.trim().trim_start_matches("W/").trim_matches('"');
    let plain =
        !name.is_empty() && name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    plain.then(|| name.to_owned())
}

/// Scheme, host and port of an address; the part that messages may show.
pub(super) fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}").to_lowercase()
}

fn is_this_machine(url: &str) -> bool {
    let origin = origin(url);
    let host = origin.split("://").nth(1).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address: Option<std::net::IpAddr> = name.trim_matches(['[', ']']).parse().ok();
    name == "localhost" || address.is_some_and(|address| address.is_loopback())
}

fn percent_encoded(path: &str) -> String {
    let encode = |byte: u8| match byte {
        b'/' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    path.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_more_of_an_address_than_its_host() {
        assert_eq!(origin("https://CDN.example:8443/a/b?Signature=secret"), "https://cdn.example:8443");
        assert_eq!(origin("http://user:secret@host/x"), "http://host");
        for here in ["http://127.0.0.1:80/x", "http://localhost", "http://[::1]:8080"] {
            assert!(is_this_machine(here), "{here}");
        }
        assert!(!is_this_machine("https://127.example.org") && !is_this_machine("https://huggingface.co"));
    }

    #[test]
    fn listings_are_believed_as_far_as_they_are_plain() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let text = format!(
            r#"{{"sha": "{commit}", "siblings": [{{"rfilename": "a.json", "size": 3}}, {{"rfilename": "../b"}}, {{"rfilename": "c", "lfs": {{"size": 5}}}}]}}"#
        );
        let listing = listing(text.as_bytes()).expect("a listing");
        assert_eq!(listing.commit, commit);
        assert_eq!(listing.files.into_iter().collect::<Vec<_>>(), [("a.json".to_owned(), Some(3)), ("c".to_owned(), Some(5))]);
        for bad in ["", "{}", r#"{"sha": "../..", "siblings": []}"#] {
            assert!(super::listing(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn entity_tags_become_file_names_only_when_plain() {
        assert_eq!(blob_name("W/\"abc-1\"").as_deref(), Some("abc-1"));
        assert_eq!(blob_name("\"../x\""), None);
        assert_eq!(percent_encoded("a b/ü.json"), "a%20b/%C3%BC.json");
    }
}
