//! Judges behind a server, through the command: one table of the example, and replies that are paid once.

use std::path::Path;

use farmhand_endpoints::loopback::{Loopback, Reply};
use serde_json::{Value, json};

use crate::command::farmhand;

/// A server that is quite sure of the answer shown first.
fn sure() -> Loopback {
    Loopback::start(|_| {
        let token = |name: &str, log_prob: f64| json!({ "token": name, "logprob": log_prob });
        let mut first = token("m", -0.1);
        first["top_logprobs"] = json!([token("m", -0.1), token("M", -2.4)]);
        let message = json!({ "role": "assistant", "content": "m" });
        let choice = json!({ "finish_reason": "stop", "message": message, "logprobs": { "content": [first] } });
        let usage = json!({ "prompt_tokens": 100, "completion_tokens": 1 });
        Reply::json(200, &json!({ "model": "judge", "choices": [choice], "usage": usage }))
    })
}

#[test]
fn the_judge_of_the_example_is_swapped_by_changing_one_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/configs/judges.toml");
    let config = config.to_str().expect("a path");
    for table in [
        "{ pool = {} }",
        "{ weighted = { model = 'judge' } }",
        "{ both_orders = { inner = { weighted = { model = 'judge' } } } }",
        "{ order_swap = { inner = { chain_of_thought = { model = 'judge' } } } }",
        "{ order_swap = { inner = { rubric = { model = 'judge' } } } }",
        "{ ranking = { model = 'judge', server = { base_url = 'http://127.0.0.1:1/v1' } } }",
        "{ alpaca_eval = { config = 'evaluators_configs/gpt4', model = 'judge' } }",
        "{ from_file = { path = 'judgements.jsonl' } }",
    ] {
        let plan = farmhand(dir.path(), &["run", config, "--dry-run", "--set", &format!("annotator={table}")]).expect_success();
        assert!(plan.stdout.contains("leaderboard, charts, page"), "{table}: {}", plan.stdout);
    }
    farmhand(dir.path(), &["run", config, "--dry-run", "--set", "annotator={ weighted = {} }"])
        .expect_error(&["annotator.weighted.model", "needs the name of a model"], None);
    farmhand(dir.path(), &["run", config, "--dry-run", "--set", "annotator={ weighted = { modle = 'judge' } }"])
        .expect_error(&["annotator.weighted.modle"], Some("model"));
}

#[test]
fn what_a_judge_said_is_kept_and_paid_once() {
    let (dir, server) = (tempfile::tempdir().expect("a folder"), sure());
    let pair = |i: usize| json!({ "instruction": format!("Question {i}"), "output_1": "a", "output_2": "b" });
    std::fs::write(dir.path().join("pairs.json"), json!((0..5).map(pair).collect::<Vec<_>>()).to_string()).expect("written");
    let judged = |out: &str| {
        let url = format!("server.base_url={}", server.base_url());
        let prices = "prices={ prompt = 1.0, completion = 1.0 }";
        let args = ["annotate", "--data", "pairs.json", "--out", out, "--annotator", "weighted", "--set", "model=judge"];
        let more = ["--set", &url, "--set", "store=replies.sqlite", "--set", prices];
        farmhand(dir.path(), &[&args[..], &more[..]].concat()).expect_success();
        let text = std::fs::read_to_string(dir.path().join(out).join("judgements.jsonl")).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("a judgement")).collect::<Vec<Value>>()
    };
    let first = judged("first");
    assert_eq!(server.received().len(), 5);
    for judgement in &first {
        let annotation = &judgement["annotation"];
        let preference = annotation["preference"].as_f64().expect("a verdict");
        assert!((preference - 1.0911).abs() < 1e-3, "{preference}");
        assert!(annotation["cost_usd"].as_f64().is_some_and(|cost| (cost - 101e-6).abs() < 1e-12), "{annotation}");
        assert_eq!(annotation["annotator"], "weighted");
    }
    let second = judged("second");
    assert_eq!(server.received().len(), 5);
    assert!(
        second.iter().all(|judgement| judgement["annotation"]["cached"] == true && judgement["annotation"]["cost_usd"] == 0.0)
    );
    assert!(first.iter().zip(&second).all(|(a, b)| a["annotation"]["preference"] == b["annotation"]["preference"]));
}

#[test]
fn a_dry_run_of_an_experiment_tells_what_judging_may_cost() {
    let dir = tempfile::tempdir().expect("a folder");
    farmhand(dir.path(), &["init", "mine.toml", "--methods", "dpo,best_of_n"]).expect_success();
    let plan = |more: &[&str]| farmhand(dir.path(), &[&["run", "mine.toml", "--dry-run"], more].concat()).expect_success().stdout;
    assert!(!plan(&[]).contains("judging"), "nobody is asked who costs something");
    let judge = "evaluate.annotator={ weighted = { model = \"m\", prices = { prompt = 1.0, completion = 1.0 } } }";
    let told = plan(&["--set", judge, "--set", "data.split.eval=100"]);
    // The start is the reference; the two methods are compared with it.
    assert!(told.contains("judging, evaluate, all models: 200 comparisons: 0 cached"), "{told}");
    assert!(told.contains("200 requests") && told.contains(" dollars ("), "{told}");
    let keyed = "annotator={ weighted = { model = \"m\", server = { api_key_env = \"FARMHAND_NO_SUCH_KEY\" } } }";
    assert!(plan(&["--set", keyed]).contains("judging, annotate: not known: "), "a key that is not there is told, not an end");
}
