//! A server of batches on the loopback interface: it takes files, answers every request in them when a batch is over, loses answers
//! and lets batches expire, as it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Loopback, Received, Reply};

/// Makes status and body of an answer.
pub type Answering = dyn Fn(&Value) -> (u16, Value) + Send;

/// What such a server holds and how it behaves.
pub struct HeldBatches {
    /// Files by id: those that were sent, and those with answers.
    pub files: BTreeMap<String, String>,
    /// Batches, the newest first.
    pub batches: Vec<Value>,
    /// Looks at a batch before it is over.
    pub n_looks_left: usize,
    /// How batches end: `completed`, `expired`, `cancelled` or `failed`.
    pub ending: &'static str,
    /// Answers to the creation of batches that get lost.
    pub n_lost: usize,
    /// Makes status and body of an answer from the body of a request.
    pub answer: Box<Answering>,
}

impl HeldBatches {
    /// Nothing yet; batches complete at the first look, and `answer` makes status and body of an answer from the body of a request.
    pub fn new(answer: impl Fn(&Value) -> (u16, Value) + Send + 'static) -> Self {
        let (files, batches) = (BTreeMap::new(), Vec::new());
        Self { files, batches, n_looks_left: 0, ending: "completed", n_lost: 0, answer: Box::new(answer) }
    }

    /// Starts the server; what it holds can be looked at and changed.
    pub fn start(self) -> (Loopback, Arc<Mutex<Self>>) {
        let held = Arc::new(Mutex::new(self));
        let inner = held.clone();
        (Loopback::start(move |request| inner.lock().unwrap_or_else(PoisonError::into_inner).reply(request)), held)
    }

    fn reply(&mut self, request: &Received) -> Reply {
        let path = request.path.strip_prefix("/v1/").expect("below /v1");
        match (request.method.as_str(), path.split('?').next().expect("a path")) {
            ("POST", "files") => {
                let content_type = &request.headers["content-type"];
                let boundary = content_type.strip_prefix("multipart/form-data; boundary=").expect("a form");
                let form = &request.text;
                let parts: Vec<&str> = form.split(&format!("--{boundary}")).collect();
                assert!(parts.len() == 4 && parts[1].contains("name=\"purpose\"\r\n\r\nbatch\r\n"), "{form}");
                let text = parts[2].split_once("\r\n\r\n").expect("a head").1.to_owned();
                let id = format!("file-{}", self.files.len());
                self.files.insert(id.clone(), text);
                Reply::json(200, &json!({ "id": id, "object": "file" }))
            }
            ("POST", "batches") => {
                let mut batch = request.body.clone();
                assert_eq!((&batch["endpoint"], &batch["completion_window"]), (&json!("/v1/chat/completions"), &json!("24h")));
                batch["id"] = json!(format!("batch-{}", self.batches.len()));
                (batch["status"], batch["object"]) = (json!("in_progress"), json!("batch"));
                self.batches.insert(0, batch.clone());
                if self.n_lost > 0 {
                    self.n_lost -= 1;
                    return Reply::HangUp;
                }
                Reply::json(200, &batch)
            }
            ("GET", "batches") => Reply::json(200, &json!({ "data": self.batches, "has_more": false })),
            ("GET", path) => match path.split('/').collect::<Vec<_>>().as_slice() {
                ["batches", id] => self.look(id),
                ["files", id, "content"] => Reply::text(200, &self.files[*id]),
                _ => Reply::json(404, &json!({ "error": { "message": "no such route" } })),
            },
            _ => Reply::json(404, &json!({ "error": { "message": "no such route" } })),
        }
    }

    fn look(&mut self, id: &str) -> Reply {
        let Some(at) = self.batches.iter().position(|batch| batch["id"] == id) else {
            return Reply::json(404, &json!({ "error": { "message": "no such batch" } }));
        };
        if self.n_looks_left > 0 {
            self.n_looks_left -= 1;
        } else if self.batches[at]["status"] == "in_progress" {
            self.end(at);
        }
        Reply::json(200, &self.batches[at])
    }

    /// Answers every request, later ones first; of a batch that does not complete, the first half only.
    fn end(&mut self, at: usize) {
        self.batches[at]["status"] = json!(self.ending);
        if self.ending == "failed" {
            self.batches[at]["errors"] = json!({ "data": [{ "message": "line 1 is no JSON" }] });
            return;
        }
        let input = self.files[self.batches[at]["input_file_id"].as_str().expect("an id")].clone();
        let lines: Vec<Value> = input.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let n_answered = if self.ending == "completed" { lines.len() } else { lines.len() / 2 };
        let (mut output, mut errors) = (String::new(), String::new());
        for (i, line) in lines.iter().enumerate().rev() {
            let id = &line["custom_id"];
            let (status, body) = (self.answer)(&line["body"]);
            let (into, entry) = if i >= n_answered {
                let late = json!({ "code": "batch_expired", "message": "too late" });
                (&mut errors, json!({ "custom_id": id, "response": null, "error": late }))
            } else {
                let response = json!({ "status_code": status, "body": body });
                let into = if status == 200 { &mut output } else { &mut errors };
                (into, json!({ "custom_id": id, "response": response, "error": null }))
            };
            *into += &format!("{entry}\n");
        }
        for (key, text) in [("output_file_id", output), ("error_file_id", errors)] {
            if !text.is_empty() {
                let id = format!("file-{}", self.files.len());
                self.files.insert(id.clone(), text);
                self.batches[at][key] = json!(id);
            }
        }
    }
}
