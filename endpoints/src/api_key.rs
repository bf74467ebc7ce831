//! The secret that opens a server, kept out of everything that is written or shown.

use std::path::Path;

use farmhand_core::{Error, ErrorKind, Result};
use reqwest::header::HeaderValue;

/// A server's API key. It goes into the request's header and nowhere else: not into messages, logs, files or `Debug`.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
}

impl ApiKey {
    /// The key that an environment variable holds.
    ///
    /// # Errors
    /// When the variable is not set, or its value cannot be one key.
    pub fn from_env(variable: &str) -> Result<Self> {
        let keys = Self::all_from_env(variable)?;
        let one: [Self; 1] = keys.try_into().map_err(|keys: Vec<Self>| {
            Error::invalid_config(format!("environment variable `{variable}`: expected one API key, got {}", keys.len()))
        })?;
        let [key] = one;
        Ok(key)
    }

    /// The keys that an environment variable holds, separated by commas.
    ///
    /// # Errors
    /// When the variable is not set, or part of its value cannot be a key.
    pub fn all_from_env(variable: &str) -> Result<Vec<Self>> {
        let missing = |what: &str| {
            Error::new(ErrorKind::MissingInput, format!("the environment variable `{variable}` {what}"))
                .with_hint(format!("`export {variable}=…` with the server's API key"))
        };
        let text = std::env::var(variable).map_err(|_| missing("is not set"))?;
        if text.trim().is_empty() {
            return Err(missing("is empty"));
        }
        let keys: Result<_> = text.split(',').map(Self::new).collect();
        keys.map_err(|error| error.context(format_args!("environment variable `{variable}`")))
    }

    /// The keys that a file holds, one a line; empty lines and lines that begin with `#` are left out.
    ///
    /// # Errors
    /// When the file cannot be read, everyone on the machine may read it, or it holds no keys.
    pub fn all_from_file(path: &Path) -> Result<Vec<Self>> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = std::fs::metadata(path).map_err(|error| Error::io("read the API key in", path, error))?;
            if metadata.permissions().mode() & 0o007 != 0 {
                let shown = path.display();
                return Err(Error::invalid_config(format!("everyone on this machine may open the API key in `{shown}`"))
                    .with_hint(format!("`chmod 600 {shown}`")));
            }
        }
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read the API key in", path, error))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(Self::new).collect::<Result<Vec<_>>>();
        let keys = keys.map_err(|error| error.context(format_args!("file `{}`", path.display())))?;
        if keys.is_empty() {
            return Err(Error::new(ErrorKind::MissingInput, format!("`{}` holds no API key", path.display())));
        }
        Ok(keys)
    }

    /// A key that came some other way. Space around it is dropped.
    ///
    /// # Errors
    /// When it is empty or has characters that no header can hold.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(Error::invalid_config("the API key is empty or has characters a key cannot have"));
        }
        Ok(Self { text: text.to_owned() })
    }

    /// The key as the value of an `authorization` header, or of a header of its own.
    pub(crate) fn header(&self, is_bearer: bool) -> HeaderValue {
        let text = if is_bearer { format!("Bearer {}", self.text) } else { self.text.clone() };
        let mut header = HeaderValue::from_str(&text).expect("a key is printable");
        header.set_sensitive(true);
        header
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
        assert_eq!(format!("{key:?} {:?}", key.header(true)), "ApiKey(…) Sensitive");
        assert_eq!(
            (key.header(true).as_bytes(), key.header(false).as_bytes()),
            (&b"Bearer sk-proj-0123456789"[..], &b"sk-proj-0123456789"[..])
        );
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

    #[cfg(unix)]
    #[test]
    fn a_file_holds_keys_line_by_line_and_is_nobody_elses_business() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        let keys_with = |text: &str, mode: u32| {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("allowed");
            ApiKey::all_from_file(&path)
        };
        let keys = keys_with("# two accounts\nsk-one\n\n  sk-two  \n", 0o600).expect("read");
        assert_eq!(keys.iter().map(|key| key.text.as_str()).collect::<Vec<_>>(), ["sk-one", "sk-two"]);
        let error = keys_with("sk-one", 0o644).expect_err("open to everyone");
        assert!(error.hint().is_some_and(|hint| hint.contains("chmod 600")) && !error.to_string().contains("sk-one"), "{error}");
        assert_eq!(keys_with("# none\n", 0o600).expect_err("empty").kind(), ErrorKind::MissingInput);
        assert!(!keys_with("sk-käse", 0o600).expect_err("no key").to_string().contains("käse"));
        assert_eq!(ApiKey::all_from_file(&dir.path().join("none")).expect_err("absent").kind(), ErrorKind::MissingInput);
    }
}
