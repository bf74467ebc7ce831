//! Batches against a server that behaves as OpenAI's does, dies, loses answers and lets batches expire.

use std::time::Duration;

use farmhand_core::CancelFlag;
use farmhand_core::types::{Message, Role};
use serde_json::json;

use super::*;
use crate::loopback::{HeldBatches, Loopback, Reply};
use crate::{Backoff, EndpointOptions, wait};

/// "re" and what was said, except to a few words.
fn held() -> HeldBatches {
    HeldBatches::new(|body| match body["messages"][0]["content"].as_str().expect("a text") {
        "bad" => (400, json!({ "error": { "message": "filtered", "code": "content_filter" } })),
        "new" if body.get("max_tokens").is_some() => {
            (400, json!({ "error": { "message": "use 'max_completion_tokens' instead", "code": "unsupported_parameter" } }))
        }
        "odd" => (200, json!({})),
        text => {
            let choice = json!({ "message": { "content": format!("re {text}") }, "finish_reason": "stop" });
            (200, json!({ "choices": [choice], "usage": { "prompt_tokens": 3, "completion_tokens": 2 } }))
        }
    })
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

#[test]
fn answers_come_back_out_of_order_each_to_its_place_and_failures_by_type() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, held) = HeldBatches { n_looks_left: 4, ..held() }.start();
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
    let (server, held) = HeldBatches { n_looks_left: usize::MAX, ..held() }.start();
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
    let (server, held) = HeldBatches { n_lost: 1, ..held() }.start();
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
        let (server, held) = HeldBatches { ending, ..held() }.start();
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
    let (server, held) = HeldBatches { ending: "failed", ..held() }.start();
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
    let (server, held) = held().start();
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
