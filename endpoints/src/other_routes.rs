//! Routes that are of no standard interface: reward servers, vLLM's pooling models.

use std::future::Future;

use serde_json::Value;

use crate::client::{Client, Request, Route};
use crate::failure::Failure;

impl Client {
    /// Posts JSON to a route at the server's root (`get_reward` of `http://h:5000` or `http://h:5000/v1` is
    /// `http://h:5000/get_reward`), again where that may help, and gives back the JSON that comes.
    pub fn post_json(&self, route: &str, body: Value) -> impl Future<Output = Result<Value, Failure>> + Send + 'static {
        self.send(Request::post(Route::Beside(route.to_owned()), 0, move || body.clone()), |json| Ok(json.clone()))
    }
}
