//! A server's address and the addresses of what it offers.

use reqwest::Url;

/// A server's address.
#[derive(Debug, Clone)]
pub(crate) struct ServerUrl {
    /// Up to and with `/v1`, no slash at the end.
    api: String,
    /// The same without `/v1`, where vLLM's own routes are.
    root: String,
    is_loopback: bool,
    is_encrypted: bool,
}

impl ServerUrl {
    /// Reads an address; one without a path means its `/v1`. The error is a lowercase fragment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| format!("`{text}` is not an address"))?;
        let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
            return Err(format!("expected an address that begins with `http://` or `https://`, got `{text}`"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an address must not hold a user name or a password".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("an address must not hold `?` or `#`".to_owned());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let trimmed = url.as_str().trim_end_matches('/');
        let api = if url.path() == "/" { format!("{trimmed}/v1") } else { trimmed.to_owned() };
        let root = api.strip_suffix("/v1").unwrap_or(&api).to_owned();
        Ok(Self { api, root, is_loopback, is_encrypted: url.scheme() == "https" })
    }

    /// The address of a route of OpenAI's interface, such as `completions`.
    pub(crate) fn api(&self, route: &str) -> String {
        format!("{}/{route}", self.api)
    }

    /// The address of a route beside it, such as `tokenize`.
    pub(crate) fn root(&self, route: &str) -> String {
        format!("{}/{route}", self.root)
    }

    /// Whether the server is on this machine, so that no proxy leads to it.
    pub(crate) fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    /// Whether the server's certificate counts.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_follow_the_address_whichever_way_it_is_written() {
        for text in ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/"] {
            let url = ServerUrl::parse(text).expect(text);
            assert_eq!(url.api("models"), "http://127.0.0.1:8000/v1/models");
            assert_eq!(url.root("tokenize"), "http://127.0.0.1:8000/tokenize");
            assert!(url.is_loopback());
        }
        let url = ServerUrl::parse("https://example.org/gateway/v1").expect("an address");
        assert_eq!(url.api("chat/completions"), "https://example.org/gateway/v1/chat/completions");
        assert_eq!(url.root("version"), "https://example.org/gateway/version");
        assert!(!url.is_loopback() && ServerUrl::parse("http://[::1]:1/v1").expect("an address").is_loopback());
    }

    #[test]
    fn addresses_that_would_leak_or_lead_nowhere_are_refused() {
        let refused =
            ["", "localhost:8000", "ftp://h/", "http://key@h/v1", "http://u:p@h/v1", "http://h/v1?key=1", "http://h/v1#a"];
        for text in refused {
            let message = ServerUrl::parse(text).expect_err(text);
            assert!(!message.contains("u:p") && !message.contains("key@"), "{message}");
        }
    }
}
