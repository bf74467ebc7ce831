//! The secret that opens a server, kept out of everything that is written or shown.

use farmhand_core::{Error, ErrorKind, Result};
use reqwest::header::HeaderValue;

/// A server's API key. It goes into the request's header and nowhere else: not into messages, logs, files or `Debug`.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
    header: HeaderValue,
}

impl ApiKey {
    /// The key that an environment variable holds.
    ///
    /// # Errors
    /// When the variable is not set, or its value cannot be a key.
    pub fn from_env(variable: &str) -> Result<Self> {
        let missing = |what: &str| {
            Error::new(ErrorKind::MissingInput, format!("the environment variable `{variable}` {what}"))
                .with_hint(format!("`export {variable}=…` with the server's API key"))
        };
        let text = std::env::var(variable).map_err(|_| missing("is not set"))?;
        if text.trim().is_empty() {
            return Err(missing("is empty"));
        }
        Self::new(&text).map_err(|error| error.context(format_args!("environment variable `{variable}`")))
    }

    /// A key that came some other way. Space around it is dropped.
    ///
    /// # Errors
    /// When it is empty or has characters that no header can hold.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        let header = HeaderValue::from_str(&format!("Bearer {text}")).ok().filter(|_| !text.is_empty() && text.is_ascii());
        let mut header =
            header.ok_or_else(|| Error::invalid_config("the API key is empty or has characters a key cannot have"))?;
        header.set_sensitive(true);
        Ok(Self { text: text.to_owned(), header })
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// A server's words without the key, and without words that begin as it does: servers show shortened keys.
    pub(crate) fn redact(&self, text: &str) -> String {
        const SHOWN: &str = "[API key]";
        let text = text.replace(&self.text, SHOWN);
        let Some(start) = self.text.get(..4).filter(|_| self.text.len() >= 8) else { return text };
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find(start) {
            out.push_str(&rest[..at]);
            out.push_str(SHOWN);
            let tail = &rest[at..];
            let end = tail.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';')).unwrap_or(tail.len());
            rest = &tail[end..];
        }
        out.push_str(rest);
        out
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_itself_nowhere() {
        let key = ApiKey::new(" sk-proj-0123456789 \n").expect("a key");
        assert_eq!(format!("{key:?} {:?}", key.header()), "ApiKey(…) Sensitive");
        let shown = key.redact("Incorrect API key provided: sk-proj*****6789. sent 'sk-proj-0123456789', x");
        assert_eq!(shown, "Incorrect API key provided: [API key] sent '[API key]', x");
        assert_eq!(ApiKey::new("abc").expect("short").redact("abc abcd"), "[API key] [API key]d");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_without_showing_it() {
        for text in ["", "  ", "käse-käse", "a\nb"] {
            let error = ApiKey::new(text).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(text.trim().is_empty() || !error.to_string().contains(text.trim()), "{error}");
        }
        let error = ApiKey::from_env("FARMHAND_NO_SUCH_VARIABLE").expect_err("not set");
        assert_eq!(error.kind(), ErrorKind::MissingInput);
        assert!(error.message().contains("`FARMHAND_NO_SUCH_VARIABLE` is not set") && error.hint().is_some());
    }
}
