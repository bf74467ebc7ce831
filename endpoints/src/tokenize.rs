//! How a server tokenises: vLLM tells, OpenAI does not.

use std::future::Future;

use farmhand_core::types::Message;
use serde_json::{Value, json};

use crate::answer::token_ids;
use crate::client::{Client, Request, Route};
use crate::failure::Failure;
use crate::served_models::is_absent;

impl Client {
    /// The ids of a text, nothing added, spellings of special tokens read as those tokens; `None` when the server does not
    /// tell.
    pub fn tokenize_text(
        &self,
        model: &str,
        text: &str,
    ) -> impl Future<Output = Result<Option<Vec<u32>>, Failure>> + Send + 'static {
        self.tokenize(json!({ "model": model, "prompt": text, "add_special_tokens": false }))
    }

    /// The ids of a conversation as the server's chat template renders it, up to where the answer begins; `None` when the
    /// server does not tell.
    pub fn tokenize_messages(
        &self,
        model: &str,
        messages: &[Message],
    ) -> impl Future<Output = Result<Option<Vec<u32>>, Failure>> + Send + 'static {
        self.tokenize(json!({ "model": model, "messages": messages, "add_generation_prompt": true }))
    }

    fn tokenize(&self, body: Value) -> impl Future<Output = Result<Option<Vec<u32>>, Failure>> + Send + 'static {
        let answer = self.send(Request::post(Route::Root("tokenize"), 0, move || body.clone()), |json| {
            token_ids(&json["tokens"]).ok_or_else(|| "no `tokens`".to_owned())
        });
        async move {
            match answer.await {
                Ok(ids) => Ok(Some(ids)),
                Err(failure) if is_absent(&failure) => Ok(None),
                Err(failure) => Err(failure),
            }
        }
    }
}
