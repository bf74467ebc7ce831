//! The client against servers that behave, and that misbehave in every way it tells apart.

mod anthropic;
mod several_places;
mod stopping;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farmhand_core::types::{Message, Role};
use farmhand_core::{CancelFlag, Error};
use serde_json::{Value, json};

use crate::loopback::{Loopback, Received, Reply, nobody};
use crate::{
    Answer, ApiKey, Backoff, ChatRequest, Client, CompletionRequest, Decoding, EndpointOptions, Failure, FailureKind, Prompt,
    wait,
};

fn client_of(base_url: String, key: Option<&str>, change: impl FnOnce(&mut EndpointOptions)) -> Client {
    let mut options = EndpointOptions { base_url, timeout_secs: 20.0, retries: 2, ..EndpointOptions::default() };
    change(&mut options);
    let client = Client::new(&options, key.map(|key| ApiKey::new(key).expect("a key"))).expect("a client");
    client.with_backoff(Backoff { first: Duration::from_millis(2), longest: Duration::from_millis(50) })
}

fn client(server: &Loopback) -> Client {
    client_of(server.base_url(), None, |_| {})
}

fn request(prompt: &str) -> CompletionRequest {
    CompletionRequest { model: "m".to_owned(), prompt: Prompt::Text(prompt.to_owned()), decoding: Decoding::default() }
}

fn completion(text: &str) -> Value {
    let choice = json!({ "text": text, "finish_reason": "stop" });
    json!({ "choices": [choice], "usage": { "prompt_tokens": 2, "completion_tokens": 3 } })
}

fn question() -> ChatRequest {
    ChatRequest::new("m", vec![Message { role: Role::User, content: "hi".to_owned() }])
}

/// A server whose n-th request (from 0) is answered by `answer`.
fn counting(answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Loopback {
    let count = AtomicUsize::new(0);
    Loopback::start(move |request| answer(count.fetch_add(1, Ordering::SeqCst), request))
}

fn failure_of(reply: Reply) -> (Failure, usize) {
    let server = Loopback::start(move |_| reply.clone());
    let failure = wait(client(&server).complete(request("a"))).expect_err("fails");
    (failure, server.received().len())
}

#[test]
fn an_answer_comes_with_its_counts_and_the_request_is_as_it_should_be() {
    let server = Loopback::start(|request| {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/completions"));
        Reply::json(200, &completion(request.body["prompt"].as_str().expect("a text")))
    });
    let client = client_of(server.base_url(), Some("sk-0123456789"), |_| {});
    assert_eq!(wait(client.complete(request("ask-0, sk-0"))).expect("answered").text, "ask-0, sk-0");
    assert_eq!(wait(client.clone().complete(request("cd"))).expect("answered").text, "cd");
    let usage = client.usage();
    assert_eq!((usage.n_requests, usage.prompt_tokens, usage.completion_tokens, usage.n_retries), (2, 4, 6, 0));
    let headers = &server.received()[0].headers;
    assert_eq!(
        (headers["authorization"].as_str(), headers["content-type"].as_str()),
        ("Bearer sk-0123456789", "application/json")
    );
    assert!(headers["user-agent"].starts_with("farmhand/"));
}

#[test]
fn each_way_to_fail_has_its_own_kind_and_only_what_may_pass_is_tried_again() {
    use FailureKind as K;
    let error = |status: u16, code: &str| Reply::json(status, &json!({ "error": { "message": "no", "code": code } }));
    for (reply, kind, tries) in [
        (error(400, "x"), K::Refused, 1),
        (error(400, "context_length_exceeded"), K::ContextTooLong, 1),
        (error(401, "invalid_api_key"), K::Unauthorised, 1),
        (error(404, "model_not_found"), K::NotFound, 1),
        (error(429, "insufficient_quota"), K::QuotaSpent, 1),
        (error(429, "rate_limit_exceeded"), K::RateLimited, 3),
        (error(500, "x"), K::ServerError, 3),
        (error(503, "x"), K::ServerError, 3),
        (Reply::Answer(307, vec![("location".to_owned(), "http://127.0.0.1:1/".to_owned())], String::new()), K::Refused, 1),
        (Reply::text(200, "<html>welcome</html>"), K::Garbage, 3),
        (Reply::text(200, ""), K::Garbage, 3),
        (Reply::json(200, &json!({ "choices": [] })), K::Garbage, 3),
        (Reply::json(200, &json!({ "error": { "message": "overloaded", "code": 502 } })), K::ServerError, 3),
        (Reply::CutOff("{\"choices\"".to_owned()), K::Unreachable, 3),
    ] {
        let (failure, n_received) = failure_of(reply.clone());
        assert_eq!((failure.kind, failure.attempts, n_received), (kind, tries as u32, tries), "{reply:?}: {failure}");
        assert_eq!(Error::from(failure).is_retryable(), tries > 1);
    }
}

#[test]
fn a_server_that_is_not_there_is_told_at_once_and_one_that_went_away_is_waited_for() {
    let failure = wait(client_of(nobody(), None, |_| {}).complete(request("a"))).expect_err("nobody listens");
    assert_eq!((failure.kind, failure.attempts), (FailureKind::Unreachable, 1));
    assert!(failure.to_string().contains("cannot be reached") && failure.message.contains("refused"), "{failure}");

    let server = counting(|n, _| if n == 1 { Reply::HangUp } else { Reply::json(200, &completion("a")) });
    let client = client(&server);
    assert!(wait(client.complete(request("a"))).is_ok() && wait(client.complete(request("a"))).is_ok());
    assert_eq!(client.usage().n_retries, 1);
}

#[test]
fn a_slow_server_is_asked_once_more() {
    let server = Loopback::start(|_| {
        std::thread::sleep(Duration::from_millis(400));
        Reply::HangUp
    });
    let slow = client_of(server.base_url(), None, |options| options.timeout_secs = 0.1);
    let failure = wait(slow.complete(request("a"))).expect_err("too slow");
    assert_eq!((failure.kind, failure.attempts), (FailureKind::TimedOut, 2), "{failure}");
}

#[test]
fn what_passes_passes_and_a_servers_wish_to_wait_is_heeded_by_every_request() {
    let busy = |wait: &str| Reply::json_with(429, ("retry-after", wait), &json!({ "error": { "message": "slow down" } }));
    let server = counting(move |n, _| if n == 0 { busy("0.3") } else { Reply::json(200, &completion("a")) });
    let client_ = client_of(server.base_url(), None, |options| options.max_concurrent = 1);
    let started = Instant::now();
    let requests: Vec<_> = (0..3).map(|_| client_.complete(request("a"))).collect();
    let results = wait(client_.in_parallel(requests, &CancelFlag::new(), |_, _| ControlFlow::Continue(())));
    assert!(results.iter().all(|result| matches!(result, Some(Ok(_)))));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!((client_.usage().n_retries, client_.usage().n_requests), (1, 3));

    let server = counting(move |_, _| busy("86400"));
    let started = Instant::now();
    let failure = wait(client(&server).complete(request("a"))).expect_err("a day is too long");
    assert!(
        failure.attempts == 1 && failure.to_string().contains("86400 s") && started.elapsed() < Duration::from_secs(10),
        "{failure}"
    );
}

#[test]
fn results_keep_their_places_and_the_limit_holds() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now_, most_) = (now.clone(), most.clone());
    let server = Loopback::start(move |request| {
        most_.fetch_max(now_.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let prompt = request.body["prompt"].as_str().expect("a text").to_owned();
        // The first ones take longest.
        std::thread::sleep(Duration::from_millis(30 - prompt.parse::<u64>().expect("a number")));
        now_.fetch_sub(1, Ordering::SeqCst);
        Reply::json(200, &completion(&prompt))
    });
    let client = client_of(server.base_url(), None, |options| options.max_concurrent = 4);
    let requests: Vec<_> = (0..24).map(|i| client.complete(request(&i.to_string()))).collect();
    let mut seen = Vec::new();
    let results: Vec<Answer> = wait(client.in_parallel(requests, &CancelFlag::new(), |index, _| {
        seen.push(index);
        ControlFlow::Continue(())
    }))
    .into_iter()
    .map(|result| result.expect("done").expect("answered"))
    .collect();
    assert!(results.iter().enumerate().all(|(i, answer)| answer.text == i.to_string()));
    seen.sort_unstable();
    assert_eq!(seen, (0..24).collect::<Vec<_>>());
    assert!((2..=4).contains(&most.load(Ordering::SeqCst)), "{} at a time", most.load(Ordering::SeqCst));
}

#[test]
fn breaking_off_and_the_users_wish_to_stop_drop_what_is_under_way() {
    let server = Loopback::start(|request| {
        if request.body["prompt"] != "0" {
            std::thread::sleep(Duration::from_secs(3));
        }
        Reply::json(200, &completion("a"))
    });
    let client = client_of(server.base_url(), None, |options| options.grace_secs = 0.0);
    let requests = || (0..4).map(|i| client.complete(request(&i.to_string()))).collect::<Vec<_>>();
    let started = Instant::now();
    let results = wait(client.in_parallel(requests(), &CancelFlag::new(), |_, _| ControlFlow::Break(())));
    assert_eq!(results.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, false]);

    let cancel = CancelFlag::new();
    let results = wait(client.in_parallel(requests(), &cancel, |_, _| {
        cancel.cancel();
        ControlFlow::Continue(())
    }));
    assert_eq!(results.iter().filter(|result| result.is_some()).count(), 1);
    let failure = wait(client.unless_cancelled(client.complete(request("1")), &cancel)).expect_err("stopped");
    assert!(failure.kind == FailureKind::Cancelled && Error::from(failure).is_cancelled());
    let none = wait(client.in_parallel(requests(), &cancel, |_, _| ControlFlow::Continue(())));
    assert!(none.iter().all(Option::is_none));
    assert!(started.elapsed() < Duration::from_secs(2), "waited for requests that nobody wants");
}

#[test]
fn a_key_is_sent_and_shown_nowhere() {
    let key = "sk-secret-0123456789";
    let server = Loopback::start(|request| {
        let sent = request.headers["authorization"].clone();
        Reply::json(401, &json!({ "error": { "message": format!("wrong key {sent}, sk-se…6789"), "code": "invalid_api_key" } }))
    });
    let client = client_of(server.base_url(), Some(key), |_| {});
    let failure = wait(client.complete(request("a"))).expect_err("refused");
    let error = Error::from(failure.clone());
    for shown in [failure.to_string(), format!("{failure:?}"), format!("{error:?}"), format!("{client:?}")] {
        assert!(!shown.contains("secret") && !shown.contains("6789"), "{shown}");
    }
    assert!(error.hint().is_some_and(|hint| hint.contains("`api_key_env`")));
}

#[test]
fn a_chat_learns_the_name_that_the_server_has_for_the_limit() {
    let server = Loopback::start(|request| {
        if request.body.get("max_tokens").is_some() {
            let message =
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
            return Reply::json(400, &json!({ "error": { "message": message, "code": "unsupported_parameter" } }));
        }
        assert_eq!(request.body["max_completion_tokens"], 256);
        let choice = json!({ "message": { "content": "hello" }, "finish_reason": "stop" });
        Reply::json(200, &json!({ "choices": [choice] }))
    });
    let client = client(&server);
    assert_eq!(wait(client.chat(question())).expect("answered").text, "hello");
    assert_eq!(wait(client.chat(question())).expect("answered").text, "hello");
    assert_eq!(server.received().len(), 3);
}

#[test]
fn what_a_server_tells_about_itself_is_read_and_what_it_does_not_have_is_none() {
    let vllm = Loopback::start(|request| match request.path.as_str() {
        "/v1/models" => Reply::json(
            200,
            &json!({ "object": "list", "data": [
            { "id": "a", "owned_by": "vllm", "root": "runs/x/checkpoint", "max_model_len": 1024 }, { "id": "b" },
        ] }),
        ),
        "/version" => Reply::json(200, &json!({ "version": "0.32.0" })),
        "/tokenize" if request.body["messages"].is_array() => Reply::json(200, &json!({ "count": 2, "tokens": [1, 2] })),
        "/tokenize" => {
            assert_eq!(request.body["add_special_tokens"], false);
            Reply::json(200, &json!({ "count": 1, "tokens": [7], "max_model_len": 1024 }))
        }
        _ => Reply::json(404, &json!({ "detail": "Not Found" })),
    });
    let client_ = client(&vllm);
    let models = wait(client_.served_models()).expect("listed");
    assert_eq!((models[0].id.as_str(), models[0].max_model_len, models[1].root.as_deref()), ("a", Some(1024), None));
    assert_eq!(wait(client_.vllm_version()), Ok(Some("0.32.0".to_owned())));
    assert_eq!(wait(client_.tokenize_text("a", "x")), Ok(Some(vec![7])));
    assert_eq!(wait(client_.tokenize_messages("a", &question().messages)), Ok(Some(vec![1, 2])));

    let plain = Loopback::start(|_| Reply::json(404, &json!({ "error": { "message": "Unknown request URL" } })));
    let client_ = client(&plain);
    assert_eq!(wait(client_.vllm_version()), Ok(None));
    assert_eq!(wait(client_.tokenize_text("a", "x")), Ok(None));
    assert_eq!(wait(client_.served_models()).expect_err("absent").kind, FailureKind::NotFound);
}
