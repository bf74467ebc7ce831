//! Several keys and places: who is asked, who is set aside, what happens when one or all are down.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::FurtherEndpoint;

fn elsewhere(server: &Loopback) -> FurtherEndpoint {
    FurtherEndpoint { base_url: Some(server.base_url()), ..FurtherEndpoint::default() }
}

fn ask_many(client: &Client, n: usize) -> Vec<Result<Answer, Failure>> {
    let requests = (0..n).map(|i| client.complete(request(&i.to_string()))).collect();
    let results = wait(client.in_parallel(requests, &CancelFlag::new(), |_, _| ControlFlow::Continue(())));
    results.into_iter().map(|result| result.expect("done")).collect()
}

fn refusing(status: u16, code: &'static str) -> Loopback {
    Loopback::start(move |_| Reply::json(status, &json!({ "error": { "message": "no", "code": code } })))
}

fn well() -> Loopback {
    Loopback::start(|_| Reply::json(200, &completion("a")))
}

#[test]
fn a_key_that_is_refused_or_spent_is_set_aside_with_a_warning_and_the_others_go_on() {
    for (status, code) in [(401, "invalid_api_key"), (429, "insufficient_quota"), (402, "billing")] {
        let (spent, good) = (refusing(status, code), well());
        let client = client_of(spent.base_url(), Some("sk-secret-0123"), |options| {
            options.endpoints = vec![elsewhere(&good)];
            options.max_concurrent = 1;
        });
        assert!(ask_many(&client, 20).iter().all(Result::is_ok));
        assert_eq!((spent.received().len(), good.received().len()), (1, 20), "{status}");
        let warnings = client.take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("not asked any more"), "{warnings:?}");
        assert!(!warnings[0].contains("secret"));
        assert!(good.received().iter().all(|request| !request.headers.contains_key("authorization")), "a key of another place");
    }
}

#[test]
fn when_the_only_key_is_refused_the_server_is_asked_once_and_everything_fails_the_same_way() {
    let server = refusing(401, "invalid_api_key");
    let client = client_of(server.base_url(), None, |options| options.max_concurrent = 1);
    let results = ask_many(&client, 20);
    assert!(results.iter().all(|result| result.as_ref().is_err_and(|failure| failure.kind == FailureKind::Unauthorised)));
    assert_eq!(server.received().len(), 1);
}

#[test]
fn a_place_that_fails_is_left_for_another_and_both_share_the_work() {
    let (first, second) = (well(), well());
    let client = client_of(first.base_url(), None, |options| options.endpoints = vec![elsewhere(&second)]);
    assert!(ask_many(&client, 40).iter().all(Result::is_ok));
    let (n_first, n_second) = (first.received().len(), second.received().len());
    assert!(n_first + n_second == 40 && n_first.abs_diff(n_second) <= 2, "{n_first} and {n_second}");

    let (ill, good) = (refusing(500, "x"), well());
    let client = client_of(ill.base_url(), None, |options| options.endpoints = vec![elsewhere(&good)]);
    assert!(ask_many(&client, 60).iter().all(Result::is_ok));
    assert!(ill.received().len() < 40, "{} requests to a server that fails", ill.received().len());
    let absent = client_of(nobody(), None, |options| options.endpoints = vec![elsewhere(&good)]);
    assert!(ask_many(&absent, 10).iter().all(Result::is_ok));
    let lacking = refusing(404, "model_not_found");
    let client = client_of(lacking.base_url(), None, |options| options.endpoints = vec![elsewhere(&good)]);
    assert!(ask_many(&client, 10).iter().all(Result::is_ok));
}

#[test]
fn organisation_and_project_go_along() {
    let server = well();
    let client = client_of(server.base_url(), None, |options| {
        (options.account.organization, options.account.project) = (Some("org-7".to_owned()), Some("proj-8".to_owned()));
    });
    assert!(ask_many(&client, 1)[0].is_ok());
    let headers = &server.received()[0].headers;
    assert_eq!((headers["openai-organization"].as_str(), headers["openai-project"].as_str()), ("org-7", "proj-8"));
}

#[test]
fn a_server_that_is_down_is_not_hammered_and_all_requests_get_one_clear_error() {
    let server = counting(|n, _| if n == 0 { Reply::json(200, &completion("a")) } else { Reply::text(503, "down for repair") });
    let client = client_of(server.base_url(), None, |options| {
        options.max_concurrent = 8;
        options.circuit_failures = 4;
        options.retries = 2;
    });
    assert!(ask_many(&client, 1)[0].is_ok());
    let results = ask_many(&client, 400);
    let mut kinds = BTreeMap::new();
    for failure in results.into_iter().map(|result| result.expect_err("down")) {
        assert!(failure.message.contains("down for repair") && failure.may_pass(), "{failure}");
        *kinds.entry(failure.kind).or_insert(0) += 1;
    }
    assert!(kinds.keys().all(|kind| matches!(kind, FailureKind::ServerError | FailureKind::CircuitOpen)), "{kinds:?}");
    let n = server.received().len();
    assert!(n < 60, "{n} requests to a server that is down; {kinds:?}");
}

#[test]
fn a_server_that_comes_back_loses_nobody() {
    let down_until = Mutex::new(None::<Instant>);
    let server = counting(move |n, _| {
        let mut until = down_until.lock().expect("not poisoned");
        if n == 10 {
            *until = Some(Instant::now() + Duration::from_millis(100));
        }
        match *until {
            Some(until) if Instant::now() < until => Reply::text(500, "restarting"),
            _ => Reply::json(200, &completion("a")),
        }
    });
    let client = client_of(server.base_url(), None, |options| {
        options.max_concurrent = 8;
        options.circuit_failures = 5;
        options.retries = 8;
    });
    assert!(ask_many(&client, 100).iter().all(Result::is_ok));
    assert!(server.received().len() < 160, "{} requests", server.received().len());
}

#[test]
fn requests_keep_to_their_rate() {
    let server = well();
    let client = client_of(server.base_url(), None, |options| options.requests_per_minute = Some(600));
    let started = Instant::now();
    // 60 at once, then nine a second.
    assert!(ask_many(&client, 65).iter().all(Result::is_ok));
    let secs = started.elapsed().as_secs_f64();
    assert!((0.4..3.0).contains(&secs), "{secs} s");

    // A request is taken for 5600 tokens, so the second would wait for minutes; the server says that it was 5.
    let client = client_of(server.base_url(), None, |options| {
        options.tokens_per_minute = Some(60_000);
        options.max_concurrent = 1;
    });
    let started = Instant::now();
    let long = || CompletionRequest { decoding: Decoding { max_tokens: 5600, ..Decoding::default() }, ..request("a") };
    for _ in 0..5 {
        assert!(wait(client.complete(long())).is_ok());
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn all_tries_together_have_their_time() {
    let server = Loopback::start(|_| Reply::text(500, "busy"));
    let client = client_of(server.base_url(), None, |options| {
        options.total_timeout_secs = Some(0.2);
        (options.retries, options.circuit_failures) = (1000, 0);
    });
    let started = Instant::now();
    let failure = wait(client.complete(request("a"))).expect_err("never well");
    assert!(failure.kind == FailureKind::TimedOut && failure.attempts > 2, "{failure}");
    assert!(failure.message.contains("`total_timeout_secs` = 0.2") && failure.message.contains("busy"), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(3));
}
