//! Batches against a server that behaves as OpenAI's does, dies, loses answers and lets batches expire.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farmhand_core::CancelFlag;
use farmhand_core::types::{Message, Role};
use serde_json::{Value, json};

use super::*;
use crate::loopback::{Loopback, Received, Reply};
use crate::{Backoff, EndpointOptions, wait};

/// What a server holds.
#[derive(Default)]
struct Held {
    files: BTreeMap<String, String>,
    batches: Vec<Value>,
    /// Looks at a batch before it is over.
    n_looks_left: usize,
    /// How batches end.
    ending: &'static str,
    /// Answers to the creation of batches that get lost.
    n_lost: usize,
}

fn server(held: Held) -> (Loopback, Arc<Mutex<Held>>) {
    let held = Arc::new(Mutex::new(held));
    let inner = held.clone();
    (Loopback::start(move |request| inner.lock().expect("not poisoned").answer(request)), held)
}

impl Held {
    fn answer(&mut self, request: &Received) -> Reply {
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
            let (id, text) = (&line["custom_id"], line["body"]["messages"][0]["content"].as_str().expect("a text"));
            let choice = json!({ "message": { "content": format!("re {text}") }, "finish_reason": "stop" });
            let body = json!({ "choices": [choice], "usage": { "prompt_tokens": 3, "completion_tokens": 2 } });
            let refusal = json!({ "error": { "message": "filtered", "code": "content_filter" } });
            let (into, entry) = match text {
                "bad" => {
                    (&mut errors, json!({ "custom_id": id, "response": { "status_code": 400, "body": refusal }, "error": null }))
                }
                "new" if line["body"].get("max_tokens").is_some() => {
                    let words =
                        json!({ "error": { "message": "use 'max_completion_tokens' instead", "code": "unsupported_parameter" } });
                    (&mut errors, json!({ "custom_id": id, "response": { "status_code": 400, "body": words }, "error": null }))
                }
                "odd" => (&mut output, json!({ "custom_id": id, "response": { "status_code": 200, "body": {} }, "error": null })),
                _ if i >= n_answered => (
                    &mut errors,
                    json!({ "custom_id": id, "response": null, "error": { "code": "batch_expired", "message": "too late" } }),
                ),
                _ => (&mut output, json!({ "custom_id": id, "response": { "status_code": 200, "body": body }, "error": null })),
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

fn client(server: &Loopback) -> Client {
    let options = EndpointOptions { base_url: server.base_url(), retries: 2, ..EndpointOptions::default() };
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(10) };
    Client::new(&options, None).expect("a client").with_backoff(backoff)
}

fn requests(texts: &[&str]) -> Vec<ChatRequest> {
    let request = |text: &&str| ChatRequest::new("m", vec![Message { role: Role::User, content: (*text).to_owned() }]);
    texts.iter().map(request).collect()
}

fn options(dir: &tempfile::TempDir) -> BatchOptions {
    BatchOptions { poll_secs: 0.005, ..BatchOptions::new(dir.path().join("batches.jsonl")) }
}

type Results = Vec<Option<Result<Answer, Failure>>>;

fn run(server: &Loopback, texts: &[&str], options: &BatchOptions) -> Results {
    wait(client(server).in_batches(&requests(texts), options, &CancelFlag::new(), |_| {})).expect("taken")
}

fn text(result: &Option<Result<Answer, Failure>>) -> Result<&str, FailureKind> {
    result.as_ref().expect("over").as_ref().map(|answer| answer.text.as_str()).map_err(|failure| failure.kind)
}

fn completing() -> Held {
    Held { ending: "completed", ..Held::default() }
}

#[test]
fn answers_come_back_out_of_order_each_to_its_place_and_failures_by_type() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, held) = server(Held { n_looks_left: 4, ..completing() });
    let client = client(&server);
    let mut seen = Vec::new();
    let options = BatchOptions { max_requests: 2, ..options(&dir) };
    let asked = requests(&["a", "bad", "odd", "b", "c"]);
    let results = wait(client.in_batches(&asked, &options, &CancelFlag::new(), |progress| seen.push(progress.n_done)));
    let results = results.expect("taken");
    let texts: Vec<_> = results.iter().map(text).collect();
    assert_eq!(texts, [Ok("re a"), Err(FailureKind::Filtered), Err(FailureKind::Garbage), Ok("re b"), Ok("re c")]);
    assert_eq!(held.lock().expect("not poisoned").batches.len(), 3);
    assert_eq!((client.usage().prompt_tokens, client.usage().completion_tokens, seen.last()), (9, 6, Some(&5)));
}

#[test]
fn a_batch_is_found_again_by_its_id_and_asked_for_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, held) = server(Held { n_looks_left: usize::MAX, ..completing() });
    let cancel = CancelFlag::new();
    let (client, asked, options) = (client(&server), requests(&["a", "b"]), options(&dir));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while held.lock().expect("not poisoned").batches.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.cancel();
        });
        let results = wait(client.in_batches(&asked, &options, &cancel, |_| {})).expect("stopped in order");
        assert!(results.iter().all(Option::is_none));
    });
    held.lock().expect("not poisoned").n_looks_left = 1;
    for _ in 0..2 {
        assert_eq!(run(&server, &["a", "b"], &options).iter().map(text).collect::<Vec<_>>(), [Ok("re a"), Ok("re b")]);
    }
    let held = held.lock().expect("not poisoned");
    assert_eq!((held.batches.len(), held.files.len()), (1, 2), "one input, one output");
    assert!(std::fs::read_to_string(&options.notes).expect("noted").contains("batch-0"));
}

#[test]
fn a_batch_whose_id_was_lost_is_found_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, held) = server(Held { n_lost: 1, ..completing() });
    assert_eq!(text(&run(&server, &["a"], &options(&dir))[0]), Ok("re a"));
    assert_eq!(held.lock().expect("not poisoned").batches.len(), 1, "made once, though the answer was lost");

    // Killed between the request and the note: only the intention is on the disk.
    let notes = std::fs::read_to_string(options(&dir).notes).expect("noted");
    let intention: String = notes.lines().filter(|line| line.contains("null")).map(|line| format!("{line}\n")).collect();
    assert!(!intention.is_empty());
    std::fs::write(options(&dir).notes, intention).expect("cut");
    assert_eq!(text(&run(&server, &["a"], &options(&dir))[0]), Ok("re a"));
    assert_eq!(held.lock().expect("not poisoned").batches.len(), 1);
}

#[test]
fn of_a_batch_that_expires_what_was_answered_counts_and_the_rest_may_be_asked_again() {
    for ending in ["expired", "cancelled"] {
        let dir = tempfile::tempdir().expect("a folder");
        let (server, held) = server(Held { ending, ..Held::default() });
        let results = run(&server, &["a", "b", "c", "d"], &options(&dir));
        let texts: Vec<_> = results.iter().map(text).collect();
        assert_eq!(texts, [Ok("re a"), Ok("re b"), Err(FailureKind::TimedOut), Err(FailureKind::TimedOut)]);
        assert!(results[3].as_ref().is_some_and(|result| result.as_ref().is_err_and(Failure::may_pass)));
        held.lock().expect("not poisoned").ending = "completed";
        assert_eq!(run(&server, &["c", "d"], &options(&dir)).iter().map(text).collect::<Vec<_>>(), [Ok("re c"), Ok("re d")]);
    }
}

#[test]
fn a_batch_without_an_answer_is_not_picked_up_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, held) = server(Held { ending: "failed", ..Held::default() });
    let results = run(&server, &["a"], &options(&dir));
    let failure = results[0].as_ref().expect("over").as_ref().expect_err("refused");
    assert!(failure.kind == FailureKind::Refused && failure.message.contains("line 1 is no JSON"), "{failure}");
    held.lock().expect("not poisoned").ending = "completed";
    assert_eq!(text(&run(&server, &["a"], &options(&dir))[0]), Ok("re a"));
    held.lock().expect("not poisoned").batches.clear();
    assert_eq!(text(&run(&server, &["a"], &options(&dir))[0]), Ok("re a"), "the server forgot it");
    assert!(run(&server, &[], &options(&dir)).is_empty());
}

#[test]
fn a_model_that_has_another_name_for_the_limit_is_asked_once_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, held) = server(completing());
    assert_eq!(run(&server, &["a", "new"], &options(&dir)).iter().map(text).collect::<Vec<_>>(), [Ok("re a"), Ok("re new")]);
    assert_eq!(held.lock().expect("not poisoned").batches.len(), 2);
}

#[test]
fn a_server_without_batches_is_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    let plain = Loopback::start(|_| Reply::json(404, &json!({ "detail": "Not Found" })));
    let asked = requests(&["a"]);
    let error =
        wait(client(&plain).in_batches(&asked, &options(&dir), &CancelFlag::new(), |_| {})).expect_err("no batches there");
    assert!(error.to_string().contains("404"), "{error}");
}
