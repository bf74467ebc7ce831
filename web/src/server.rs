//! A small server on this machine: binds, adds the headers that keep a page to itself, ends when asked to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use farmhand_core::{CancelFlag, Error, Result};

use crate::access;

/// What a page may do: load its own script and style, ask its own server; nothing else, and no text ever becomes markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("cache-control", "no-store"),
];

/// The largest request that is read, in bytes.
const MAX_REQUEST: usize = 1 << 18;

/// How often the wish to stop is looked for, and how long requests under way may then take.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// The address. Anything but a loopback address lets other machines in.
    pub address: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0 }
    }
}

/// A port that is ours, not yet answering.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Takes the port.
    ///
    /// # Errors
    /// When it is taken or may not be used.
    pub(crate) fn open(options: ListenOptions) -> Result<Self> {
        let wanted = SocketAddr::new(options.address, options.port);
        let open = || {
            let listener = TcpListener::bind(wanted)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        open().map_err(|error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another program has this port; `--port 0` takes a free one",
                std::io::ErrorKind::PermissionDenied => "ports below 1024 belong to the system; give a higher one with `--port`",
                std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; `--listen 0.0.0.0` means all it has",
                _ => "give another port with `--port`",
            };
            Error::other(format!("cannot listen on `{wanted}`")).with_source(error).with_hint(hint)
        })
    }

    /// The beginning of every address of this server, for example `http://127.0.0.1:7171`.
    pub(crate) fn url(&self) -> String {
        let host = match self.address.ip() {
            address if address.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(address) => format!("[{address}]"),
            address => address.to_string(),
        };
        format!("http://{host}:{}", self.address.port())
    }

    /// Answers requests until someone asks to stop; requests under way are finished first.
    ///
    /// # Errors
    /// When the operating system refuses threads or sockets.
    pub(crate) fn serve(self, routes: Router, cancel: &'static CancelFlag) -> Result<()> {
        let only_loopback = self.address.ip().is_loopback();
        let routes = routes
            .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page; open the address that farmhand printed\n") })
            .layer(DefaultBodyLimit::max(MAX_REQUEST))
            .layer(middleware::from_fn_with_state(only_loopback, guard));
        let failed = |error: std::io::Error| Error::other("the web server cannot run").with_source(error);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let server = axum::serve(listener, routes).with_graceful_shutdown(cancelled(cancel));
            tokio::select! {
                result = async { server.await } => result,
                () = async { cancelled(cancel).await; tokio::time::sleep(FINISH_WITHIN).await } => Ok(()),
            }
        });
        runtime.shutdown_timeout(FINISH_WITHIN);
        served.map_err(failed)
    }
}

async fn cancelled(cancel: &CancelFlag) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Checks where a request comes from and puts the headers on the answer.
async fn guard(State(only_loopback): State<bool>, request: Request, next: Next) -> Response {
    let mut response = match access::check_origin(request.method(), request.headers(), only_loopback) {
        Ok(()) => next.run(request).await,
        Err((status, words)) => (status, format!("{words}\n")).into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_a_clear_error() {
        let first = Listening::open(ListenOptions::default()).expect("a free port");
        let options = ListenOptions { port: first.address.port(), ..ListenOptions::default() };
        let error = Listening::open(options).expect_err("taken");
        assert!(error.to_string().contains(&format!("cannot listen on `127.0.0.1:{}`", options.port)), "{error}");
        assert!(error.hint().expect("a hint").contains("--port 0"));
        assert_eq!(first.url(), format!("http://127.0.0.1:{}", options.port));
    }
}
