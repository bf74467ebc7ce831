//! Servers of every form, and servers that misbehave.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use farmhand_core::ErrorKind;
use farmhand_core::types::{Instruction, Message, Role};
use farmhand_endpoints::loopback::{Fault, FaultPlan, FaultServer, Loopback, Received, Reply, nobody};
use farmhand_endpoints::{Account, Backoff};
use serde_json::json;

use super::*;
use crate::testing::Desk;

const OUTPUTS: [&str; 5] = ["a", "bb", "", "dddd", "é"];

/// The configuration for a server, with waits of milliseconds.
fn config(base_url: String, form: Form) -> HttpRewardModelConfig {
    let turns =
        form.has_turns().then(|| Turns { user: "U:{text}\n".to_owned(), assistant: "A:{text}\n".to_owned(), ..Turns::default() });
    let server = EndpointOptions { base_url, timeout_secs: 5.0, retries: 2, max_concurrent: 2, ..EndpointOptions::default() };
    HttpRewardModelConfig { server, form, turns, batch_size: 2, ..HttpRewardModelConfig::default() }
}

/// The reward model of a configuration, which tries again at once.
fn scorer(desk: &Desk, config: &HttpRewardModelConfig) -> Scorer {
    assert_eq!(config.problems(), []);
    let client = Client::from_options(&config.server, &desk.building()).expect("a client");
    config.scorer(client.with_backoff(Backoff { first: Duration::from_millis(2), longest: Duration::from_millis(50) }))
}

fn scores_of(desk: &Desk, model: &mut Scorer, instruction: &Instruction) -> Result<Vec<f64>> {
    let items: Vec<_> = OUTPUTS.iter().map(|&output| Response { instruction, output }).collect();
    desk.with(|ctx| model.score(&items, ctx))
}

fn scored(desk: &Desk, config: &HttpRewardModelConfig, instruction: &Instruction) -> Result<Vec<f64>> {
    scores_of(desk, &mut scorer(desk, config), instruction)
}

/// What a server that answers every request with `reply` makes of five answers.
fn error_of(form: Form, reply: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> (Error, usize) {
    let server = Loopback::start(reply);
    let desk = Desk::new();
    let config = HttpRewardModelConfig { batch_size: 5, ..config(server.base_url(), form) };
    let error = scored(&desk, &config, &Instruction::new("i", None)).expect_err("no scores");
    (error, server.received().len())
}

fn n_chars(text: &Value) -> f64 {
    text.as_str().map_or(f64::NAN, |text| text.chars().count() as f64)
}

#[test]
fn every_form_is_asked_in_its_way_and_scores_come_back_in_order() {
    let answer = |request: &Received| {
        let body = &request.body;
        let list = |key: &str| body[key].as_array().cloned().unwrap_or_default();
        let indexed = |key: &str, texts: Vec<Value>, wrap: fn(f64) -> Value| {
            // In any order: the index counts.
            let entries = texts.iter().enumerate().rev().map(|(i, text)| json!({ "index": i, key: wrap(n_chars(text)) }));
            json!({ "object": "list", "data": entries.collect::<Vec<_>>() })
        };
        Reply::json(
            200,
            &match request.path.as_str() {
                "/score" if body.get("items").is_some() => {
                    json!({ "results": list("items").iter().map(|item| n_chars(&item["output"])).collect::<Vec<_>>() })
                }
                "/score" => indexed("score", list("text_2"), |n| json!(n)),
                "/get_reward" => json!({ "rewards": list("query").iter().map(n_chars).collect::<Vec<_>>() }),
                "/classify" => indexed("probs", list("input"), |n| json!([n])),
                "/pooling" if body.get("messages").is_some() => {
                    json!({ "data": [{ "index": 0, "data": [[0.5], [n_chars(&body["messages"][2]["content"])]] }] })
                }
                _ => json!({ "error": { "message": "no such route", "code": 404 } }),
            },
        )
    };
    let history = vec![Message { role: Role::System, content: "S".to_owned() }];
    let instruction = Instruction::with_history("ii", None, history);
    let whole = "U:S\nU:ii\nA:\n".len() as f64;
    for (form, offset) in [
        (Form::Plain, 0.0),
        (Form::Openrlhf, whole),
        (Form::VllmScore, 0.0),
        (Form::VllmClassify, whole),
        (Form::VllmPooling, 0.0),
    ] {
        let server = Loopback::start(answer);
        let mut config = HttpRewardModelConfig { model: Some("rm".to_owned()), ..config(server.base_url(), form) };
        if form == Form::VllmPooling {
            config.turns = None;
        }
        let scores = scored(&Desk::new(), &config, &instruction).unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert_eq!(scores, [1.0, 2.0, 0.0, 4.0, 1.0].map(|n| n + offset), "{form:?}");
        let requests = server.received();
        assert_eq!(requests.len(), if form == Form::VllmPooling { 5 } else { 3 }, "{form:?}");
        let first = requests.iter().find(|request| request.text.contains("bb")).expect("asked");
        assert_eq!(first.body["model"], "rm");
        match form {
            Form::Plain => {
                assert_eq!(first.body["items"][1], json!({ "instruction": "ii", "output": "bb", "history": instruction.history }))
            }
            Form::Openrlhf => {
                assert_eq!(first.body["query"], json!(["U:S\nU:ii\nA:a\n", "U:S\nU:ii\nA:bb\n"]));
                assert_eq!(first.body["prompts"], json!(["U:S\nU:ii\nA:", "U:S\nU:ii\nA:"]));
            }
            Form::VllmScore => assert_eq!(first.body["text_1"], json!(["S\n\nii", "S\n\nii"])),
            Form::VllmClassify => assert_eq!(first.body["input"][1], "U:S\nU:ii\nA:bb\n"),
            Form::VllmPooling => assert_eq!(first.body["messages"][2], json!({ "role": "assistant", "content": "bb" })),
        }
        let activation = first.body.get("use_activation");
        assert_eq!(activation, matches!(form, Form::VllmScore | Form::VllmClassify | Form::VllmPooling).then_some(&json!(false)));
    }
}

#[test]
fn what_breaks_the_form_is_named_at_once_and_not_asked_again() {
    let pooled = |entries: Value| json!({ "data": entries });
    let five = |entry: Value| pooled(json!(vec![entry; 5]));
    for (form, answer, words) in [
        (Form::Plain, json!({ "results": [1.0, 2.0] }), "gave 2 scores for 5 answers"),
        (Form::Plain, json!({ "scores": [1.0, 2.0, 3.0, 4.0, 5.0] }), "answered without a list `results`"),
        (Form::Plain, json!([1.0, 2.0]), "answered without a list `results`"),
        (Form::Openrlhf, json!({ "rewards": [1.0, 2.0, "x", 4.0, 5.0] }), "scored an answer with `\"x\"`"),
        (Form::Openrlhf, json!({ "rewards": [1.0, 2.0, null, 4.0, 5.0] }), "scored an answer with `null`"),
        (Form::Openrlhf, json!({ "rewards": [[1.0], [2.0], [3.0], [4.0], [5.0]] }), "scored an answer with `[1.0]`"),
        (Form::VllmScore, pooled(json!([])), "gave 0 scores for 5 answers"),
        (Form::VllmScore, five(json!({ "index": 0, "score": 1.0 })), "two scores with the index 0"),
        (Form::VllmClassify, five(json!({ "probs": [0.2, 0.8] })), "gave 2 numbers for an answer, and `class`"),
        (Form::VllmPooling, five(json!({ "data": "AAAA" })), "where a list of numbers was expected"),
    ] {
        let (error, n_asked) = error_of(form, move |_| Reply::json(200, &answer));
        assert_eq!((error.kind(), n_asked), (ErrorKind::BrokenContract, 1), "{words}: {error}");
        assert!(error.message().contains(words) && error.message().contains(form.route()), "{words}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains(form.name())), "{words}");
    }
}

#[test]
fn one_of_several_numbers_is_picked_by_its_class() {
    let server = Loopback::start(|request| {
        let n = request.body["input"].as_array().map_or(0, Vec::len);
        Reply::json(200, &json!({ "data": vec![json!({ "probs": [0.25, 0.75] }); n] }))
    });
    let config = HttpRewardModelConfig { class: Some(1), ..config(server.base_url(), Form::VllmClassify) };
    assert_eq!(scored(&Desk::new(), &config, &Instruction::new("i", None)).expect("scored"), [0.75; 5]);
    let none = HttpRewardModelConfig { class: Some(2), ..config };
    let error = scored(&Desk::new(), &none, &Instruction::new("i", None)).expect_err("no such class");
    assert!(error.message().contains("gave 2 numbers for an answer, none is 2"), "{error}");
}

#[test]
fn what_may_pass_is_tried_again_and_what_does_not_pass_is_an_error_that_says_what_to_do() {
    let busy = |status: u16| move |_: &Received| Reply::text(status, "not now");
    for (status, kind, n) in [(500, "answered 500 3 times", 3), (429, "answered 429 3 times", 3), (400, "answered 400", 1)] {
        let (error, n_asked) = error_of(Form::Plain, busy(status));
        assert!(error.to_string().contains(kind) && error.to_string().contains("not now") && n_asked == n, "{n_asked}: {error}");
    }
    let (error, n_asked) = error_of(Form::Openrlhf, |_| Reply::text(404, "{\"detail\":\"Not Found\"}"));
    assert!(n_asked == 1 && error.hint().is_some_and(|hint| hint.contains("/get_reward")), "{error}");
    let (error, n_asked) = error_of(Form::Plain, |_| Reply::text(200, "{\"results\": [NaN]}"));
    assert!(n_asked == 3 && error.hint().is_some_and(|hint| hint.contains("NaN is no JSON")), "{error}");
    // A server that has never answered is not waited for.
    let (error, n_asked) = error_of(Form::Plain, |_| Reply::HangUp);
    assert!(n_asked == 1 && error.to_string().contains("cannot be reached"), "{n_asked}: {error}");
    let refused = config(nobody(), Form::Plain);
    let error = scored(&Desk::new(), &refused, &Instruction::new("i", None)).expect_err("nobody there");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`server.base_url`")));

    // Scores do not depend on how often the server had to be asked.
    let faults =
        [Fault::RateLimitedWithWait, Fault::RateLimited, Fault::ServerError, Fault::Reset, Fault::CutOff, Fault::TruncatedJson];
    let plan = FaultPlan { faults: faults.map(|fault| (fault, 0.1)).to_vec(), latency: Duration::ZERO, seed: 3 };
    let server = FaultServer::start(plan, |request| {
        let items = request["items"].as_array().cloned().unwrap_or_default();
        json!({ "results": items.iter().map(|item| n_chars(&item["output"])).collect::<Vec<_>>() })
    });
    let mut config = HttpRewardModelConfig { batch_size: 1, ..config(server.base_url(), Form::Plain) };
    config.server.retries = 40;
    let desk = Desk::new();
    let mut model = scorer(&desk, &config);
    // A connection that is reset before the server ever answered is an error at once.
    while scores_of(&desk, &mut model, &Instruction::new("first", None)).is_err() {}
    let before = server.tally();
    for round in 0..20 {
        let instruction = Instruction::new(format!("round {round}"), None);
        assert_eq!(scores_of(&desk, &mut model, &instruction).expect("scored"), [1.0, 2.0, 0.0, 4.0, 1.0]);
    }
    let (tally, n_questions) = (server.tally(), 20 * OUTPUTS.len() as u64);
    assert_eq!(tally.n_answered() - before.n_answered(), n_questions, "each was answered once");
    assert!(tally.n_asked() - before.n_asked() > n_questions, "some had to be asked again");
}

#[test]
fn a_server_that_hangs_is_given_up_after_its_time_and_a_wish_to_stop_ends_the_wait() {
    let hanging = || FaultServer::start(FaultPlan { faults: vec![(Fault::Hang, 1.0)], ..FaultPlan::none() }, |_| json!({}));
    let server = hanging();
    let mut slow = config(server.base_url(), Form::Plain);
    slow.server.timeout_secs = 0.2;
    let started = Instant::now();
    let error = scored(&Desk::new(), &slow, &Instruction::new("i", None)).expect_err("nothing came");
    assert!(error.to_string().contains("took too long 2 times") && started.elapsed() < Duration::from_secs(10), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`server.timeout_secs`")));

    let server = hanging();
    let mut slow = config(server.base_url(), Form::Plain);
    slow.server.timeout_secs = 60.0;
    slow.server.grace_secs = 0.0;
    let desk = Desk::new();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while server.tally().n_asked() == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            desk.cancel.cancel();
        });
        assert!(scored(&desk, &slow, &Instruction::new("i", None)).expect_err("stopped").is_cancelled());
    });
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_key_goes_into_the_header_and_nowhere_else() {
    let seen = std::sync::Arc::new(Mutex::new(String::new()));
    let heard = seen.clone();
    let server = Loopback::start(move |request| {
        *heard.lock().expect("not poisoned") = request.headers.get("authorization").cloned().unwrap_or_default();
        Reply::text(500, &format!("you said {}", request.headers["authorization"]))
    });
    let desk = Desk::new();
    let key = "rm-0123456789abcdef";
    let path = desk.folder().join("key");
    std::fs::write(&path, key).expect("written");
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("allowed");
    let mut config = config(server.base_url(), Form::Plain);
    config.server.account = Account { api_key_file: Some("key".into()), ..Account::default() };
    let error = scored(&desk, &config, &Instruction::new("i", None)).expect_err("500");
    assert_eq!(*seen.lock().expect("not poisoned"), format!("Bearer {key}"));
    let said = format!("{error} {error:?} {config:?} {}", desk.messages());
    assert!(!said.contains(key), "{said}");
}

#[test]
fn options_that_cannot_work_are_found_before_anything_is_asked() {
    let paths =
        |config: HttpRewardModelConfig| -> Vec<String> { config.problems().into_iter().map(|problem| problem.path).collect() };
    let wrong = HttpRewardModelConfig {
        server: EndpointOptions { base_url: "localhost".to_owned(), ..EndpointOptions::default() },
        route: Some("/score".to_owned()),
        turns: Some(Turns::default()),
        class: Some(0),
        batch_size: 0,
        ..HttpRewardModelConfig::default()
    };
    assert_eq!(paths(wrong), ["server.base_url", "batch_size", "route", "turns", "class"]);
    let openrlhf = HttpRewardModelConfig { form: Form::Openrlhf, ..HttpRewardModelConfig::default() };
    assert_eq!(paths(openrlhf.clone()), ["turns"]);
    assert_eq!(paths(HttpRewardModelConfig { turns: Some(Turns::default()), ..openrlhf }), ["turns.user", "turns.assistant"]);
}
