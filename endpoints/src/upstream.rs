//! One place that serves the model, with one key: where requests go, what opens the door.

use farmhand_core::{BuildContext, Result};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::api_key::ApiKey;
use crate::options::{Account, Api, EndpointOptions, FurtherEndpoint};
use crate::server_url::ServerUrl;

/// Anthropic's version of its interface that is spoken here.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// A place and a key.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) url: ServerUrl,
    pub(crate) key: Option<ApiKey>,
    /// Headers of every request, the key's among them.
    pub(crate) headers: HeaderMap,
    /// Its share of the requests.
    pub(crate) weight: f64,
    /// What tells it from the others in messages.
    pub(crate) name: String,
}

/// The keys that a place has: given, or in the variable or file that the options name.
pub(crate) enum Keys<'a> {
    /// One that came some other way, or none, for the first endpoint; further endpoints read theirs from the environment.
    Given(Option<ApiKey>),
    /// As the options say, files relative to the configuration.
    Named(&'a BuildContext<'a>),
}

/// Every place with every key that the options name.
pub(crate) fn upstreams(options: &EndpointOptions, keys: &Keys<'_>) -> Result<Vec<Upstream>> {
    let named = |account: &Account| -> Result<Vec<Option<ApiKey>>> {
        Ok(match (&account.api_key_env, &account.api_key_file, keys) {
            (Some(variable), ..) => ApiKey::all_from_env(variable)?.into_iter().map(Some).collect(),
            (None, Some(file), Keys::Named(ctx)) => ApiKey::all_from_file(&ctx.resolve(file))?.into_iter().map(Some).collect(),
            (None, Some(file), Keys::Given(_)) => ApiKey::all_from_file(file)?.into_iter().map(Some).collect(),
            (None, None, _) => vec![None],
        })
    };
    let of_first = match keys {
        Keys::Given(key) => vec![key.clone()],
        Keys::Named(_) => named(&options.account)?,
    };
    let mut all = Vec::new();
    for key in of_first.clone() {
        all.push(upstream(options.api, &options.base_url, key, &options.account, 1.0)?);
    }
    for FurtherEndpoint { base_url, account, weight } in &options.endpoints {
        // Another organisation with the same key is another account; another address never sees a key that is not its own.
        let own = if account.has_key() || base_url.is_some() { named(account)? } else { of_first.clone() };
        for key in own {
            all.push(upstream(options.api, base_url.as_ref().unwrap_or(&options.base_url), key, account, *weight)?);
        }
    }
    let n_all = all.len();
    for (i, upstream) in all.iter_mut().enumerate().filter(|_| n_all > 1) {
        upstream.name = format!("{} (key {} of {n_all})", upstream.name, i + 1);
    }
    Ok(all)
}

fn upstream(api: Api, base_url: &str, key: Option<ApiKey>, account: &Account, weight: f64) -> Result<Upstream> {
    let url = ServerUrl::parse(base_url).map_err(farmhand_core::Error::invalid_config)?;
    let mut headers = HeaderMap::new();
    if let Some(key) = &key {
        match api {
            Api::Openai => headers.insert(AUTHORIZATION, key.header(true)),
            Api::Anthropic => headers.insert(HeaderName::from_static("x-api-key"), key.header(false)),
        };
    }
    if api == Api::Anthropic {
        headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static(ANTHROPIC_VERSION));
    }
    for (name, text) in [("openai-organization", &account.organization), ("openai-project", &account.project)] {
        if let Some(value) = text.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let name = url.api("").trim_end_matches('/').to_owned();
    Ok(Upstream { url, key, headers, weight, name })
}

#[cfg(test)]
mod tests {
    use farmhand_core::Device;

    use super::*;

    #[cfg(unix)]
    #[test]
    fn every_key_of_every_place_is_a_way_and_no_place_sees_anothers_key() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        std::fs::write(&path, "sk-aaaaaaaa\nsk-bbbbbbbb\n").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("allowed");
        let options = EndpointOptions {
            account: Account { api_key_file: Some("keys".into()), organization: Some("org-1".to_owned()), ..Account::default() },
            endpoints: vec![
                FurtherEndpoint { base_url: Some("http://127.0.0.2:9/v1".to_owned()), weight: 3.0, ..FurtherEndpoint::default() },
                FurtherEndpoint {
                    account: Account { organization: Some("org-2".to_owned()), ..Account::default() },
                    ..FurtherEndpoint::default()
                },
            ],
            ..EndpointOptions::default()
        };
        assert_eq!(options.problems(), []);
        let ctx = BuildContext::new(Device::Cpu, dir.path());
        let all = upstreams(&options, &Keys::Named(&ctx)).expect("read");
        let header = |i: usize, name: &str| all[i].headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        let keys: Vec<_> = (0..5).map(|i| header(i, "authorization").unwrap_or_default()).collect();
        assert_eq!(keys, ["Bearer sk-aaaaaaaa", "Bearer sk-bbbbbbbb", "", "Bearer sk-aaaaaaaa", "Bearer sk-bbbbbbbb"]);
        let organizations: Vec<_> = (0..5).map(|i| header(i, "openai-organization").unwrap_or_default()).collect();
        assert_eq!(organizations, ["org-1", "org-1", "", "org-2", "org-2"]);
        assert_eq!((all[2].weight, all[2].name.as_str()), (3.0, "http://127.0.0.2:9/v1 (key 3 of 5)"));
        assert!(!format!("{all:?}").contains("aaaa"));
    }

    #[test]
    fn anthropic_has_its_own_headers() {
        let options = EndpointOptions { api: Api::Anthropic, ..EndpointOptions::default() };
        let key = ApiKey::new("sk-ant-0123").expect("a key");
        let all = upstreams(&options, &Keys::Given(Some(key))).expect("made");
        assert_eq!(
            (&all[0].headers["x-api-key"], &all[0].headers["anthropic-version"]),
            (&"sk-ant-0123".parse().expect("a value"), &"2023-06-01".parse().expect("a value"))
        );
        assert!(!all[0].headers.contains_key("authorization"));
    }
}
