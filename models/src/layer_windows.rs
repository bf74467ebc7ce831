//! Sliding windows: which layers of a model see only the newest tokens, and how many.
//!
//! Child et al., 2019, <https://arxiv.org/abs/1904.10509>; Beltagy et al., 2020, <https://arxiv.org/abs/2004.05150>. A token
//! in a layer with window w sees itself and the w − 1 tokens before it.

use farmhand_core::Result;
use serde_json::Value;

use crate::config_json::ConfigJson;

/// The window of each layer, in tokens; none where a layer sees everything.
pub(crate) type LayerWindows = Vec<Option<usize>>;

/// The size under `sliding_window`: absent means `default` to transformers, and null that there is none.
pub(crate) fn read_window(json: &ConfigJson<'_>, default: Option<usize>) -> Result<Option<usize>> {
    match default {
        _ if json.is_null("sliding_window") => Ok(None),
        Some(default) => json.size_or("sliding_window", default).map(Some),
        None if json.is_set("sliding_window") => json.size("sliding_window").map(Some),
        None => Ok(None),
    }
}

/// The windows that `layer_types` spells out layer by layer; without it, `is_sliding` says which layers have the window.
pub(crate) fn read_layer_windows(
    json: &ConfigJson<'_>,
    n_layers: usize,
    window: Option<usize>,
    is_sliding: impl Fn(usize) -> bool,
) -> Result<LayerWindows> {
    let Some(types) = json.find("layer_types") else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| is_sliding(layer))).collect());
    };
    let types = types.as_array().filter(|types| types.len() == n_layers);
    let types = types.ok_or_else(|| json.wrong("layer_types", &format!("a list of {n_layers} texts, one a layer")))?;
    let read = |kind: &Value| match (kind.as_str(), window) {
        (Some("full_attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
        (Some("sliding_attention"), None) => Err(json
            .wrong("layer_types", "`full_attention` in every layer of a model without a sliding window")
            .with_hint("`sliding_window` is null, or `use_sliding_window` is false")),
        _ => Err(json.unsupported("layer_types", "a list of `full_attention` and `sliding_attention`")),
    };
    types.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn windows(config: Value, default: Option<usize>) -> Result<LayerWindows> {
        let Value::Object(fields) = config else { panic!("an object") };
        let json = ConfigJson::new(&fields, "`config.json`");
        read_layer_windows(&json, 3, read_window(&json, default)?, |layer| layer >= 1)
    }

    #[test]
    fn absent_null_and_given_windows_differ() {
        assert_eq!(windows(json!({}), Some(8)).expect("valid"), [None, Some(8), Some(8)]);
        assert_eq!(windows(json!({}), None).expect("valid"), [None; 3]);
        assert_eq!(windows(json!({ "sliding_window": null }), Some(8)).expect("valid"), [None; 3]);
        assert_eq!(windows(json!({ "sliding_window": 5 }), None).expect("valid"), [None, Some(5), Some(5)]);
        assert!(windows(json!({ "sliding_window": 0 }), None).is_err());
    }

    #[test]
    fn listed_layers_win_and_must_fit_the_model() {
        let (full, sliding) = ("full_attention", "sliding_attention");
        let listed = |types: Value, window: Value| windows(json!({ "layer_types": types, "sliding_window": window }), None);
        assert_eq!(listed(json!([sliding, full, sliding]), json!(4)).expect("valid"), [Some(4), None, Some(4)]);
        let message = |types: Value, window: Value| listed(types, window).expect_err("refused").to_string();
        assert!(message(json!([sliding]), json!(4)).contains("a list of 3 texts"));
        assert!(message(json!([sliding, full, full]), Value::Null).contains("without a sliding window"));
        assert!(message(json!(["chunked_attention", full, full]), json!(4)).contains("not supported"));
    }
}
