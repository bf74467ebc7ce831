//! Judges that ask in batches.

use farmhand_core::{Budget, BuildContext};
use farmhand_endpoints::loopback::HeldBatches;
use serde_json::{Value, json};

use super::*;
use crate::chat::ask_options::Batching;
use crate::chat::weighted::WeightedConfig;

/// Finds the answer with "good" in it better, and the word "mute" nothing to answer to.
fn held() -> HeldBatches {
    HeldBatches::new(|body| {
        let asked = body["messages"].as_array().and_then(|turns| turns.last()).expect("a turn")["content"].to_string();
        if asked.contains("mute") {
            return (400, json!({ "error": { "message": "no", "code": "content_filter" } }));
        }
        let first = asked.find("good").unwrap_or(usize::MAX) < asked.find("bad").unwrap_or(usize::MAX);
        let token = |name: &str, p: f64| json!({ "token": name, "logprob": p.ln() });
        let [one, two] = if first { [("m", 0.8), ("M", 0.2)] } else { [("M", 0.8), ("m", 0.2)] };
        let mut said = token(one.0, one.1);
        said["top_logprobs"] = json!([token(one.0, one.1), token(two.0, two.1)]);
        let choice = json!({ "message": { "content": one.0 }, "finish_reason": "stop", "logprobs": { "content": [said] } });
        (200, json!({ "choices": [choice], "usage": { "prompt_tokens": 100, "completion_tokens": 10 } }))
    })
}

fn config(base_url: String, max_requests: usize) -> WeightedConfig {
    let mut config = WeightedConfig::default();
    config.ask.model = Some("judge".to_owned());
    config.ask.server.base_url = base_url;
    config.ask.keep = keeping(Some(Prices { prompt: 1.0, cached_prompt: None, completion: 10.0 }));
    config.ask.keep.batch = Some(Batching { max_requests, poll_secs: 0.005 });
    config
}

fn comparisons(n: usize) -> Vec<Comparison> {
    (0..n).map(|i| if i % 2 == 0 { comparison(i, "good", "bad") } else { comparison(i, "bad", "good") }).collect()
}

#[test]
fn verdicts_come_out_of_batches_and_the_second_time_out_of_the_store() {
    let (server, held) = held().start();
    let desk = Desk::new();
    let mut asked = comparisons(5);
    asked.push(comparison(9, "mute", "bad"));
    let judge = config(server.base_url(), 4).build(&building(&desk)).expect("built");
    assert_eq!(judge.comparisons_at_once(), Some(usize::MAX));
    let first = desk.annotate(&*judge, &asked);
    for (i, result) in first[..5].iter().enumerate() {
        let annotation = result.as_ref().expect("a verdict");
        let expected = if i % 2 == 0 { 0.2 } else { 0.8 };
        assert!((annotation.preference.p_second() - expected).abs() < 1e-9, "{i}: {annotation:?}");
        assert!(!annotation.cached && annotation.cost_usd.is_some_and(|usd| (usd - 200e-6).abs() < 1e-12));
    }
    assert_eq!(first[5].as_ref().expect_err("refused").kind(), ErrorKind::RefusedAnswer);
    let n_batches = |held: &HeldBatches| held.batches.len();
    assert_eq!(n_batches(&held.lock().expect("not poisoned")), 2);

    let again = config(server.base_url(), 4).build(&building(&desk)).expect("built");
    let second = desk.annotate(&*again, &asked);
    assert!(second[..5].iter().all(|result| result.as_ref().is_ok_and(|annotation| annotation.cached)));
    assert_eq!(n_batches(&held.lock().expect("not poisoned")), 2, "nothing is sent twice");
}

#[test]
fn a_stopped_run_waits_for_its_batch_and_sends_no_other() {
    let (server, held) = HeldBatches { n_looks_left: usize::MAX, ..held() }.start();
    let desk = Desk::new();
    let judge = config(server.base_url(), 100).build(&building(&desk)).expect("built");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while held.lock().expect("not poisoned").batches.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            desk.cancel.cancel();
        });
        assert!(desk.annotate(&*judge, &comparisons(3)).iter().all(|result| result.as_ref().is_err_and(|e| e.is_cancelled())));
    });
    held.lock().expect("not poisoned").n_looks_left = 0;
    let later = Desk { cancel: CancelFlag::new(), ..desk };
    let judge = config(server.base_url(), 100).build(&building(&later)).expect("built");
    assert!(later.annotate(&*judge, &comparisons(3)).iter().all(Result::is_ok));
    assert_eq!(held.lock().expect("not poisoned").batches.len(), 1);
}

#[test]
fn answers_that_a_batch_lost_are_asked_for_alone() {
    let (server, held) = HeldBatches { ending: "expired", ..held() }.start();
    let desk = Desk::new();
    let judge = || config(server.base_url(), 100).build(&building(&desk)).expect("built");
    let n_judged = desk.annotate(&*judge(), &comparisons(4)).iter().filter(|result| result.is_ok()).count();
    assert_eq!(n_judged, 2);
    held.lock().expect("not poisoned").ending = "completed";
    assert!(desk.annotate(&*judge(), &comparisons(4)).iter().all(Result::is_ok));
    let held = held.lock().expect("not poisoned");
    let newest = &held.files[held.batches[0]["input_file_id"].as_str().expect("an id")];
    let n_sent = newest.lines().filter(|line| line.starts_with('{')).count();
    assert_eq!((held.batches.len(), n_sent), (2, 2));
}

#[test]
fn a_batch_that_may_cost_more_than_is_left_is_not_sent() {
    let (server, held) = held().start();
    let desk = Desk::new();
    let budget = Budget::new(1e-6);
    let judge = config(server.base_url(), 100).build(&BuildContext { budget: Some(&budget), ..building(&desk) }).expect("built");
    let error = desk.annotate(&*judge, &comparisons(2)).remove(0).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::BudgetSpent);
    assert!(held.lock().expect("not poisoned").batches.is_empty());
    let budget = Budget::new(1.0);
    let judge = config(server.base_url(), 100).build(&BuildContext { budget: Some(&budget), ..building(&desk) }).expect("built");
    assert!(desk.annotate(&*judge, &comparisons(2)).iter().all(Result::is_ok));
    assert!((budget.spent_usd() - 400e-6).abs() < 1e-9, "{budget:?}");
}

#[test]
fn options_that_cannot_work_are_located() {
    let mut wrong = config("http://127.0.0.1:1/v1".to_owned(), 0);
    wrong.ask.server.api = farmhand_endpoints::Api::Anthropic;
    let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["batch.max_requests", "batch"]);
    let written: Value = serde_json::to_value(config("http://127.0.0.1:1/v1".to_owned(), 10)).expect("JSON");
    assert_eq!(written["batch"]["max_requests"], 10);
}
