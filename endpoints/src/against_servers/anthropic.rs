//! Anthropic's dialect over the wire.

use super::*;
use crate::Api;

fn anthropic(server: &Loopback) -> Client {
    client_of(server.base_url(), Some("sk-ant-0123456789"), |options| options.api = Api::Anthropic)
}

fn message(text: &str) -> Value {
    json!({
        "type": "message", "model": "claude-x", "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn",
        "usage": { "input_tokens": 9, "output_tokens": 2 },
    })
}

#[test]
fn a_chat_goes_to_messages_with_its_own_headers_and_is_counted() {
    let server = Loopback::start(|_| Reply::json(200, &message("m")));
    let client = anthropic(&server);
    let answer = wait(client.chat(question())).expect("answered");
    assert_eq!((answer.text.as_str(), answer.finish), ("m", crate::Finish::EndOfSequence));
    assert_eq!((client.usage().prompt_tokens, client.usage().completion_tokens), (9, 2));
    let received = &server.received()[0];
    assert_eq!((received.path.as_str(), received.body["max_tokens"].as_u64()), ("/v1/messages", Some(256)));
    let header = |name: &str| received.headers.get(name).map(String::as_str);
    assert_eq!((header("x-api-key"), header("anthropic-version")), (Some("sk-ant-0123456789"), Some("2023-06-01")));
    assert_eq!(header("authorization"), None);
}

#[test]
fn an_overloaded_server_is_asked_again_and_what_it_cannot_do_is_never_sent() {
    let server = counting(|n, _| {
        let overloaded = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
        if n == 0 { Reply::json(529, &overloaded) } else { Reply::json(200, &message("M")) }
    });
    let client = anthropic(&server);
    assert_eq!(wait(client.chat(question())).expect("answered").text, "M");
    assert_eq!(client.usage().n_retries, 1);
    let mut asked = question();
    asked.decoding.log_probs = Some(5);
    let failure = wait(client.chat(asked)).expect_err("no log-probabilities there");
    assert_eq!((failure.kind, failure.attempts), (FailureKind::Refused, 0));
    assert_eq!(wait(client.complete(request("a"))).expect_err("no completions there").kind, FailureKind::Refused);
    assert_eq!(server.received().len(), 2);
}
