//! The requests of one batch: its file, its name, its results.

use std::ops::Range;

use farmhand_core::types::content_id;
use farmhand_core::{Error, Result};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::chat::{ChatRequest, openai};
use crate::failure::{Failure, FailureKind};

/// The address that stands in failures of a batch's requests.
const ROUTE: &str = "/v1/chat/completions (batch)";

/// The requests of one batch.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Follows from what is asked, so that the same requests are found again.
    pub(super) name: String,
    /// The first request's place among all.
    first: usize,
    /// For each request, whether its answer may end at a stop text.
    has_stop_texts: Vec<bool>,
    /// The file, a request a line.
    text: String,
}

/// Cuts requests into batches within the server's limits; `limit` is its name for the limit of tokens.
pub(super) fn parts(requests: &[ChatRequest], limit: &str, max_requests: usize, max_bytes: usize) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    let (mut range, mut text): (Range<usize>, String) = (0..0, String::new());
    let part = |range: &Range<usize>, text: String| Part {
        name: content_id(["batch", &text]),
        first: range.start,
        has_stop_texts: requests[range.clone()].iter().map(|request| !request.decoding.stop.is_empty()).collect(),
        text,
    };
    for (i, request) in requests.iter().enumerate() {
        let body = openai::body(request, limit);
        let line_of =
            |at: usize| json!({ "custom_id": at.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body });
        let mut line = line_of(range.len()).to_string();
        if line.len() >= max_bytes {
            return Err(Error::invalid_data(format!("request {} has {} bytes, a batch holds {max_bytes}", i + 1, line.len())));
        }
        if range.len() >= max_requests || text.len() + line.len() >= max_bytes {
            parts.push(part(&range, std::mem::take(&mut text)));
            range = i..i;
            line = line_of(0).to_string();
        }
        text = text + &line + "\n";
        range.end = i + 1;
    }
    if !range.is_empty() {
        parts.push(part(&range, text));
    }
    Ok(parts)
}

impl Part {
    pub(super) fn len(&self) -> usize {
        self.has_stop_texts.len()
    }

    /// The places of its requests among all.
    pub(super) fn indices(&self) -> Range<usize> {
        self.first..self.first + self.len()
    }

    /// The place among all of the request that a result is about.
    pub(super) fn index_of(&self, custom_id: &str) -> Option<usize> {
        custom_id.parse().ok().filter(|at| *at < self.len()).map(|at: usize| self.first + at)
    }

    /// The file as a form that a browser could send (RFC 7578): its content type and its bytes.
    pub(super) fn form(&self) -> (String, Vec<u8>) {
        // The name is a hash of the text, so the text does not hold it.
        let boundary = format!("farmhand-{}", self.name);
        let form = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
             --{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{}.jsonl\"\r\n\
             content-type: application/jsonl\r\n\r\n{}\r\n--{boundary}--\r\n",
            self.name, self.text
        );
        (format!("multipart/form-data; boundary={boundary}"), form.into_bytes())
    }

    /// What a line of the results says about a request.
    pub(super) fn result(&self, index: usize, line: &Value) -> Result<Answer, Failure> {
        let response = &line["response"];
        let Some(status) = response["status_code"].as_u64().and_then(|status| u16::try_from(status).ok()) else {
            let message = line["error"]["message"].as_str().or(line["error"]["code"].as_str()).unwrap_or("it has no answer");
            return Err(Failure::new(FailureKind::TimedOut, ROUTE, message));
        };
        if !(200..300).contains(&status) {
            return Err(Failure::from_answer(status, ROUTE, &response["body"].to_string()));
        }
        let answer = openai::read(&response["body"], self.has_stop_texts[index - self.first]);
        answer.map_err(|what| Failure { status: Some(status), ..Failure::new(FailureKind::Garbage, ROUTE, what) })
    }

    /// What became of a request of which the results say nothing.
    pub(super) fn unanswered(&self, status: &str, refusal: Option<&str>) -> Failure {
        match (status, refusal) {
            ("completed", _) => Failure::new(FailureKind::Garbage, ROUTE, "the results of the batch say nothing about it"),
            ("failed", refusal) => {
                let message = format!("the server refused the whole batch: {}", refusal.unwrap_or("it does not say why"));
                Failure::new(FailureKind::Refused, ROUTE, message)
            }
            (status, _) => Failure::new(FailureKind::TimedOut, ROUTE, format!("the batch was {status} before its turn")),
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Message, Role};

    use super::*;

    fn requests(n: usize) -> Vec<ChatRequest> {
        (0..n).map(|i| ChatRequest::new("m", vec![Message { role: Role::User, content: format!("{i}") }])).collect()
    }

    #[test]
    fn parts_keep_to_the_limits_and_hold_every_request_once() {
        let all = requests(25);
        let length = parts(&all, "max_tokens", 1, 1 << 20).expect("cut")[0].text.len();
        for (max_requests, max_bytes, n) in [(10, 1 << 20, 3), (100, 1 << 20, 1), (100, 4 * length + 10, 7), (1, 1 << 20, 25)] {
            let parts = parts(&all, "max_tokens", max_requests, max_bytes).expect("cut");
            assert_eq!(parts.len(), n, "{max_requests} {max_bytes}");
            assert!(parts.iter().all(|part| part.len() <= max_requests && part.text.len() <= max_bytes));
            assert_eq!(parts.iter().flat_map(Part::indices).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
            for part in &parts {
                for (at, line) in part.text.lines().enumerate() {
                    let line: Value = serde_json::from_str(line).expect("JSON");
                    let index = part.index_of(line["custom_id"].as_str().expect("an id")).expect("known");
                    assert_eq!((index, &line["body"]["messages"][0]["content"]), (part.first + at, &json!(format!("{index}"))));
                }
            }
        }
        assert!(parts(&[], "max_tokens", 10, 100).expect("nothing").is_empty());
        assert!(parts(&all, "max_tokens", 10, 20).expect_err("too small").message().contains("request 1 has"));
    }

    #[test]
    fn a_name_follows_from_what_is_asked() {
        let name = |requests: &[ChatRequest]| parts(requests, "max_tokens", 100, 1 << 20).expect("cut")[0].name.clone();
        assert_eq!(name(&requests(5)), name(&requests(5)));
        assert_ne!(name(&requests(5)), name(&requests(6)));
        let part = &parts(&requests(2), "max_tokens", 100, 1 << 20).expect("cut")[0];
        let (content_type, form) = part.form();
        let boundary = content_type.split("boundary=").nth(1).expect("a boundary");
        assert_eq!(String::from_utf8(form).expect("text").matches(boundary).count(), 3);
        assert!(part.index_of("2").is_none() && part.index_of("x").is_none());
    }
}
