//! What a server serves.

use std::future::Future;

use serde_json::Value;

use crate::client::{Client, Request, Route};
use crate::failure::{Failure, FailureKind};

/// A model that a server lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// The name that requests use.
    pub id: String,
    /// Who made or serves it; `vllm` for vLLM.
    pub owned_by: Option<String>,
    /// The folder or hub name that the weights came from (vLLM).
    pub root: Option<String>,
    /// Tokens that fit into its context, prompt and answer together (vLLM).
    pub max_model_len: Option<u32>,
}

impl Client {
    /// The models that a server lists at `/v1/models`.
    pub fn served_models(&self) -> impl Future<Output = Result<Vec<ServedModel>, Failure>> + Send + 'static {
        self.send(Request::get(Route::api("models")), |json| {
            let models = json["data"].as_array().ok_or("no `data`")?;
            models.iter().map(model).collect::<Option<_>>().ok_or_else(|| "a model without an `id`".to_owned())
        })
    }

    /// vLLM's version; `None` for a server that has no `/version`.
    pub fn vllm_version(&self) -> impl Future<Output = Result<Option<String>, Failure>> + Send + 'static {
        let version = self.send(Request::get(Route::Root("version")), |json| {
            json["version"].as_str().map(str::to_owned).ok_or_else(|| "no `version`".to_owned())
        });
        async move {
            match version.await {
                Ok(version) => Ok(Some(version)),
                Err(failure) if is_absent(&failure) => Ok(None),
                Err(failure) => Err(failure),
            }
        }
    }
}

fn model(entry: &Value) -> Option<ServedModel> {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let max_model_len = entry["max_model_len"].as_u64().and_then(|length| u32::try_from(length).ok());
    Some(ServedModel { id: text("id")?, owned_by: text("owned_by"), root: text("root"), max_model_len })
}

/// Whether a server just does not have what was asked for.
pub(crate) fn is_absent(failure: &Failure) -> bool {
    failure.kind == FailureKind::NotFound || failure.status == Some(501)
}
