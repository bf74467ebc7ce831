//! Where the hub is, where its cache lies and who is asking: the variables that Hugging Face's own tools read.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use farmhand_core::{Error, Result};

/// What is needed to reach the hub.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Scheme and host, and a path where a mirror has one; no slash at the end. `HF_ENDPOINT`.
    pub endpoint: String,
    /// The folder that holds `models--owner--name`. `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// Who is asking. `HF_TOKEN`, or the file that `hf auth login` writes.
    pub token: Option<Token>,
    /// Use the cache alone. `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How long a silent server is waited for. `HF_HUB_DOWNLOAD_TIMEOUT` (seconds).
    pub silence: Duration,
    /// The wait before the second attempt at a busy server; it doubles with each.
    pub first_wait: Duration,
}

/// A secret: it goes into the `Authorization` header and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in a text; `None` when it is blank.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The value of an `Authorization` header.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubSettings {
    /// The settings of this process.
    ///
    /// # Errors
    /// When `HF_ENDPOINT` is no address, or no folder for the cache is known.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// The settings in some variables.
    ///
    /// # Errors
    /// As [`HubSettings::from_environment`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        let home = set("HOME").map(PathBuf::from);
        let path = |name: &str| {
            let value = PathBuf::from(set(name)?);
            match (value.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(value),
            }
        };
        let caches = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| caches.map(|caches| caches.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let Some(cache) = cache.or_else(|| hf_home.as_ref().map(|home| home.join("hub"))) else {
            return Err(Error::missing_input("no folder for models from the hub is known")
                .with_hint("set `HF_HOME` to a folder with space for models"));
        };
        let token_file = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| std::fs::read_to_string(token_file?).ok());
        let is_true =
            |name: &str| text(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
        Ok(Self {
            endpoint: endpoint(text("HF_ENDPOINT").as_deref().unwrap_or("https://huggingface.co"))?,
            cache,
            token: token.as_deref().and_then(Token::new),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            silence: text("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|secs| secs.trim().parse().ok())
                .map_or(Duration::from_secs(20), |secs: u64| Duration::from_secs(secs.clamp(1, 3600))),
            first_wait: Duration::from_secs(1),
        })
    }
}

/// An address without a slash at its end.
fn endpoint(text: &str) -> Result<String> {
    let text = text.trim().trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        // A password in an address would end up in messages.
        Some(host) if !host.is_empty() && !host.contains(['@', '?', '#', ' ']) => Ok(text.to_owned()),
        _ => Err(Error::invalid_config("`HF_ENDPOINT` is not the address of a hub")
            .with_hint("expected `https://HOST`, without user name, password or query")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        HubSettings::from_variables(find)
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).expect("settings").cache;
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert!(settings(&[]).expect_err("nowhere").hint().is_some_and(|hint| hint.contains("HF_HOME")));
    }

    #[test]
    fn tokens_come_from_the_variable_or_the_file_and_are_never_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = dir.path().to_str().expect("UTF-8");
        assert_eq!(settings(&[("HF_HOME", home)]).expect("settings").token, None);
        std::fs::write(dir.path().join("token"), "hf_file\n").expect("written");
        let from_file = settings(&[("HF_HOME", home)]).expect("settings");
        assert_eq!(from_file.token.as_ref().map(Token::bearer).as_deref(), Some("Bearer hf_file"));
        let both = settings(&[("HF_HOME", home), ("HF_TOKEN", " hf_secret ")]).expect("settings");
        assert_eq!(both.token.as_ref().map(Token::bearer).as_deref(), Some("Bearer hf_secret"));
        assert!(!format!("{both:?}").contains("hf_secret"));
    }

    #[test]
    fn the_rest_is_read_as_python_reads_it() {
        let plain = settings(&[("HOME", "/h")]).expect("settings");
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        let set = settings(&[("HOME", "/h"), ("HF_ENDPOINT", "http://mirror:8080/hf/"), ("HF_HUB_OFFLINE", "True")]);
        let set = set.expect("settings");
        assert_eq!((set.endpoint.as_str(), set.offline), ("http://mirror:8080/hf", true));
        for bad in ["huggingface.co", "https://", "https://user:secret@host"] {
            let error = settings(&[("HOME", "/h"), ("HF_ENDPOINT", bad)]).expect_err("no address");
            assert!(error.message().contains("HF_ENDPOINT") && !error.to_string().contains("secret"), "{error}");
        }
    }
}
