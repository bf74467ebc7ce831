//! Who may ask: secrets in addresses, and the checks that keep other pages in the same browser out.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use farmhand_core::{Error, Result};

/// 128 bits from the operating system, as 32 hexadecimal digits: long enough that nobody guesses an address.
///
/// # Errors
/// When the operating system gives none.
pub(crate) fn secret() -> Result<String> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 16];
    let read = File::open(source).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Error::io("read", source, error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Refuses requests that a page of another site could have sent. A name that such a site resolves to this machine (DNS
/// rebinding) shows in `Host`, a form or script of it in `Origin`. Ports are not compared with ours, for the page may
/// come through a tunnel.
///
/// # Errors
/// With the status and the words to answer.
pub(crate) fn check_origin(method: &Method, headers: &HeaderMap, only_loopback: bool) -> Result<(), (StatusCode, &'static str)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(HOST) else {
        return Err((StatusCode::BAD_REQUEST, "a request without a Host header is not answered"));
    };
    if !is_own_host(host, only_loopback) {
        return Err((
            StatusCode::MISDIRECTED_REQUEST,
            "open this page by the address that farmhand printed, not by another name",
        ));
    }
    let foreign_origin = headers.contains_key(ORIGIN) && text(ORIGIN) != Some(&format!("http://{host}"));
    let foreign_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if foreign_origin || (foreign_site && method != Method::GET) {
        return Err((StatusCode::FORBIDDEN, "a page of another site may not ask this one"));
    }
    Ok(())
}

/// Whether a `Host` header names this machine in a way that no other site can take for itself.
fn is_own_host(host: &str, only_loopback: bool) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => !only_loopback || address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, headers: &[(&'static str, &'static str)], only_loopback: bool) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header"));
        }
        check_origin(&method, &map, only_loopback).err().map(|(status, _)| status.as_u16())
    }

    #[test]
    fn names_that_resolve_here_are_not_this_machine() {
        for host in ["127.0.0.1:7171", "localhost:9000", "LOCALHOST", "[::1]:7171", "127.0.0.1"] {
            assert_eq!(check(Method::GET, &[("host", host)], true), None, "{host}");
        }
        for host in ["evil.example:7171", "127.0.0.1.evil.example:7171", "192.168.1.5:7171", "", "localhost.evil.example"] {
            assert_eq!(check(Method::GET, &[("host", host)], true), Some(421), "{host}");
        }
        assert_eq!(check(Method::GET, &[("host", "192.168.1.5:7171")], false), None);
        assert_eq!(check(Method::GET, &[("host", "evil.example:7171")], false), Some(421));
        assert_eq!(check(Method::GET, &[], true), Some(400));
    }

    #[test]
    fn other_sites_and_other_ports_may_not_post() {
        let host = ("host", "127.0.0.1:7171");
        assert_eq!(check(Method::POST, &[host, ("origin", "http://127.0.0.1:7171")], true), None);
        for origin in ["http://127.0.0.1:8080", "https://evil.example", "null"] {
            assert_eq!(check(Method::POST, &[host, ("origin", origin)], true), Some(403), "{origin}");
        }
        assert_eq!(check(Method::POST, &[host, ("sec-fetch-site", "cross-site")], true), Some(403));
        assert_eq!(check(Method::GET, &[host, ("sec-fetch-site", "cross-site")], true), None);
    }

    #[test]
    fn secrets_are_long_and_differ() {
        let (a, b) = (secret().expect("random"), secret().expect("random"));
        assert!(a.len() == 32 && a.bytes().all(|byte| byte.is_ascii_hexdigit()) && a != b);
    }
}
