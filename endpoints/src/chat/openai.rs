//! OpenAI's dialect of a chat: `/v1/chat/completions`.

use serde_json::{Map, Value, json};

use super::{AnswerFormat, ChatRequest, Tool, ToolCall, ToolChoice};
use crate::answer::{Answer, Finish, TokenLogProb, finish, only_choice, token_ids, usage};

/// What is posted; `limit` is the server's name for the limit of tokens.
pub(crate) fn body(request: &ChatRequest, limit: &str) -> Value {
    let mut body = request.decoding.fields();
    body.insert("model".to_owned(), json!(request.model));
    body.insert("messages".to_owned(), json!(request.messages));
    body.insert(limit.to_owned(), json!(request.decoding.max_tokens));
    if let Some(alternatives) = request.decoding.log_probs {
        body.insert("logprobs".to_owned(), json!(true));
        body.insert("top_logprobs".to_owned(), json!(alternatives));
    }
    let format = match &request.format {
        AnswerFormat::Text => None,
        AnswerFormat::Json => Some(json!({ "type": "json_object" })),
        AnswerFormat::JsonSchema { name, schema } => {
            Some(json!({ "type": "json_schema", "json_schema": { "name": name, "schema": schema, "strict": true } }))
        }
    };
    if let Some(format) = format {
        body.insert("response_format".to_owned(), format);
    }
    if !request.tools.is_empty() {
        body.insert("tools".to_owned(), request.tools.iter().map(tool).collect());
        body.insert("tool_choice".to_owned(), tool_choice(&request.tool_choice));
    }
    Value::Object(body)
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), json!(description));
    }
    function.insert("parameters".to_owned(), tool.parameters.clone());
    json!({ "type": "function", "function": function })
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
    }
}

/// Reads an answer, or says what is missing.
pub(crate) fn read(json: &Value, has_stop_texts: bool) -> Result<Answer, String> {
    let choice = only_choice(json)?;
    let message = choice["message"].as_object().ok_or("no `message`")?;
    let text = message.get("content").and_then(Value::as_str);
    let refuses = message.get("refusal").is_some_and(Value::is_string);
    let tool_calls = tool_calls(&choice["message"])?;
    let finish = if refuses { Finish::Filtered } else { finish(choice, has_stop_texts)? };
    // A call that the request asked for by name ends with `stop` at OpenAI; it is a call all the same.
    let is_call = !tool_calls.is_empty() && matches!(finish, Finish::EndOfSequence | Finish::Stop);
    let (n_prompt_tokens, n_completion_tokens, usage) = usage(json);
    Ok(Answer {
        text: text.unwrap_or_default().to_owned(),
        finish: if is_call { Finish::ToolCalls } else { finish },
        tool_calls,
        log_probs: log_probs(&choice["logprobs"]["content"])?,
        token_ids: token_ids(&choice["token_ids"]),
        prompt_token_ids: token_ids(&json["prompt_token_ids"]),
        n_prompt_tokens,
        n_completion_tokens,
        model: json["model"].as_str().map(str::to_owned),
        usage,
    })
}

/// The functions that were called, in today's form or in the older one of a single `function_call`.
fn tool_calls(message: &Value) -> Result<Vec<ToolCall>, String> {
    let calls = message["tool_calls"].as_array().into_iter().flatten().map(|call| &call["function"]);
    let legacy = message.get("function_call").filter(|call| call.is_object());
    let read = |call: &Value| {
        let (name, arguments) = (call["name"].as_str()?, call["arguments"].as_str()?);
        Some(ToolCall { name: name.to_owned(), arguments: arguments.to_owned() })
    };
    let calls: Option<_> = calls.chain(legacy).map(read).collect();
    calls.ok_or_else(|| "a tool call without `name` and `arguments`".to_owned())
}

fn log_probs(value: &Value) -> Result<Option<Vec<TokenLogProb>>, String> {
    let Some(entries) = value.as_array() else { return Ok(None) };
    let token = |entry: &Value| Some((entry["token"].as_str()?.to_owned(), entry["logprob"].as_f64()?));
    let read = |entry: &Value| {
        let (name, log_prob) = token(entry)?;
        let alternatives = entry["top_logprobs"].as_array().into_iter().flatten().filter_map(token).collect();
        Some(TokenLogProb { token: name, log_prob, alternatives })
    };
    entries.iter().map(read).collect::<Option<_>>().map(Some).ok_or_else(|| "a token without a log-probability".to_owned())
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Message, Role};

    use super::*;

    fn request() -> ChatRequest {
        ChatRequest::new("m", vec![Message { role: Role::User, content: "hi".to_owned() }])
    }

    #[test]
    fn messages_format_and_log_probabilities_are_asked_for_in_openais_words() {
        let mut request = request();
        request.decoding.log_probs = Some(5);
        request.format = AnswerFormat::JsonSchema { name: "verdict".to_owned(), schema: json!({ "type": "object" }) };
        let asked = body(&request, "max_tokens");
        assert_eq!(asked["messages"], json!([{ "role": "user", "content": "hi" }]));
        assert_eq!([&asked["logprobs"], &asked["top_logprobs"], &asked["max_tokens"]], [&json!(true), &json!(5), &json!(256)]);
        assert_eq!(asked["response_format"]["json_schema"]["name"], "verdict");
        assert_eq!((asked.get("tools"), asked.get("tool_choice")), (None, None));
        request.format = AnswerFormat::Json;
        assert_eq!(body(&request, "max_completion_tokens")["response_format"], json!({ "type": "json_object" }));
        assert_eq!(body(&request, "max_completion_tokens")["max_completion_tokens"], json!(256));
    }

    #[test]
    fn a_function_is_offered_and_its_call_is_read_in_both_forms() {
        let mut request = request();
        request.tools = vec![Tool { name: "rank".to_owned(), description: None, parameters: json!({ "type": "object" }) }];
        for (choice, words) in [
            (ToolChoice::Auto, json!("auto")),
            (ToolChoice::None, json!("none")),
            (ToolChoice::Required, json!("required")),
            (ToolChoice::Named("rank".to_owned()), json!({ "type": "function", "function": { "name": "rank" } })),
        ] {
            request.tool_choice = choice;
            let asked = body(&request, "max_tokens");
            let function = json!({ "name": "rank", "parameters": { "type": "object" } });
            assert_eq!(asked["tools"], json!([{ "type": "function", "function": function }]));
            assert_eq!(asked["tool_choice"], words);
        }
        let called = json!({ "name": "rank", "arguments": "{\"best\": 1}" });
        let expected = [ToolCall { name: "rank".to_owned(), arguments: "{\"best\": 1}".to_owned() }];
        for (message, reason) in [
            (json!({ "content": null, "tool_calls": [{ "id": "c", "type": "function", "function": called }] }), "tool_calls"),
            (json!({ "content": null, "tool_calls": [{ "function": called }] }), "stop"),
            (json!({ "content": null, "function_call": called, "tool_calls": null }), "function_call"),
        ] {
            let json = json!({ "choices": [{ "finish_reason": reason, "message": message }], "model": "m-2024" });
            let answer = read(&json, false).expect("read");
            assert_eq!((answer.text.as_str(), &answer.finish), ("", &Finish::ToolCalls), "{json}");
            assert_eq!((answer.tool_calls.as_slice(), answer.model.as_deref()), (expected.as_slice(), Some("m-2024")));
        }
        let broken = json!({ "choices": [{ "finish_reason": "stop", "message": { "tool_calls": [{ "function": {} }] } }] });
        assert!(read(&broken, false).expect_err("no name").contains("tool call"));
    }

    #[test]
    fn an_answer_with_alternatives_is_read_and_a_refusal_is_no_answer() {
        let json = json!({
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": "m", "refusal": null },
                "logprobs": { "content": [{ "token": "m", "logprob": -0.1, "bytes": [109], "top_logprobs": [
                    { "token": "m", "logprob": -0.1 }, { "token": "M", "logprob": -2.4 },
                ] }] },
            }],
            "usage": { "prompt_tokens": 20, "completion_tokens": 1 }, "prompt_token_ids": [1, 2],
        });
        let answer = read(&json, false).expect("read");
        assert_eq!((answer.text.as_str(), &answer.finish), ("m", &Finish::EndOfSequence));
        assert_eq!(answer.prompt_token_ids, Some(vec![1, 2]));
        assert_eq!(answer.log_probs.expect("given")[0].alternatives, [("m".to_owned(), -0.1), ("M".to_owned(), -2.4)]);
        let refusal = json!({ "choices": [{ "finish_reason": "stop", "message": { "content": null, "refusal": "I cannot." } }] });
        assert_eq!(read(&refusal, false).expect("read").finish, Finish::Filtered);
        assert!(read(&json!({ "choices": [{ "finish_reason": "stop" }] }), false).is_err());
    }
}
