//! Anthropic's dialect of a chat: `/v1/messages`. The system prompt stands apart, turns alternate, functions are `tool_use`
//! blocks, and there are no log-probabilities.

use farmhand_core::types::Role;
use serde_json::{Map, Value, json};

use super::{AnswerFormat, ChatRequest, Tool, ToolCall, ToolChoice};
use crate::answer::{Answer, Finish};
use crate::usage::Usage;

/// What is posted, or what this interface has not.
pub(super) fn body(request: &ChatRequest) -> Result<Value, String> {
    let decoding = &request.decoding;
    let absent = [
        ("log-probabilities", decoding.log_probs.is_some()),
        ("logit biases", !decoding.logit_bias.is_empty()),
        ("vLLM's options", decoding.vllm.is_some()),
        ("JSON mode; offer a tool that the model must call", request.format != AnswerFormat::Text),
    ];
    if let Some((what, _)) = absent.iter().find(|(_, is_asked)| *is_asked) {
        return Err(format!("Anthropic's interface has no {what}"));
    }
    let mut body = Map::new();
    let mut set = |key: &str, value: Value| body.insert(key.to_owned(), value);
    let n_system = request.messages.iter().take_while(|message| message.role == Role::System).count();
    let (system, turns) = request.messages.split_at(n_system);
    if !system.is_empty() {
        let texts: Vec<&str> = system.iter().map(|message| message.content.as_str()).collect();
        set("system", json!(texts.join("\n\n")));
    }
    for (i, turn) in turns.iter().enumerate() {
        let expected = if i % 2 == 0 { Role::User } else { Role::Assistant };
        if turn.role != expected {
            let (number, got) = (n_system + i + 1, turn.role.name());
            let expected = expected.name();
            return Err(format!(
                "message {number} is of `{got}`, Anthropic's interface wants one of `{expected}` there: turns alternate"
            ));
        }
        if turn.content.trim().is_empty() {
            return Err(format!("message {} is empty, which Anthropic's interface refuses", n_system + i + 1));
        }
    }
    if turns.is_empty() {
        return Err("there is no message of `user`".to_owned());
    }
    set("model", json!(request.model));
    set("messages", json!(turns));
    set("max_tokens", json!(decoding.max_tokens));
    set("temperature", json!(decoding.temperature));
    // Newer models refuse both at once; 1 is what a missing one means.
    if decoding.top_p != 1.0 {
        set("top_p", json!(decoding.top_p));
    }
    if !decoding.stop.is_empty() {
        set("stop_sequences", json!(decoding.stop));
    }
    if !request.tools.is_empty() {
        set("tools", request.tools.iter().map(tool).collect());
        set("tool_choice", tool_choice(&request.tool_choice));
    }
    Ok(Value::Object(body))
}

fn tool(tool: &Tool) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        entry.insert("description".to_owned(), json!(description));
    }
    entry.insert("input_schema".to_owned(), tool.parameters.clone());
    Value::Object(entry)
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({ "type": "auto" }),
        ToolChoice::None => json!({ "type": "none" }),
        ToolChoice::Required => json!({ "type": "any" }),
        ToolChoice::Named(name) => json!({ "type": "tool", "name": name }),
    }
}

/// Reads an answer, or says what is missing.
pub(super) fn read(json: &Value) -> Result<Answer, String> {
    let blocks = json["content"].as_array().ok_or("no `content`")?;
    let (mut text, mut tool_calls) = (String::new(), Vec::new());
    for block in blocks {
        match block["type"].as_str().ok_or("a block of content without `type`")? {
            "text" => text += block["text"].as_str().ok_or("a block of text without `text`")?,
            "tool_use" => {
                let name = block["name"].as_str().ok_or("a tool call without `name`")?.to_owned();
                tool_calls.push(ToolCall { name, arguments: block["input"].to_string() });
            }
            // Thoughts and whatever else comes along are no part of the answer.
            _ => {}
        }
    }
    let finish = match json["stop_reason"].as_str().ok_or("no `stop_reason`")? {
        "end_turn" => Finish::EndOfSequence,
        "stop_sequence" => Finish::StopText,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::ToolCalls,
        "refusal" => Finish::Filtered,
        other => Finish::Other(other.to_owned()),
    };
    let count = |key: &str| json["usage"][key].as_u64();
    // What is written to and read from the cache stands beside the count of the rest.
    let cached = count("cache_read_input_tokens").unwrap_or(0);
    let beside = cached + count("cache_creation_input_tokens").unwrap_or(0);
    let (prompt, completion) = (count("input_tokens").map(|n| n + beside), count("output_tokens"));
    let narrow = |n: Option<u64>| n.and_then(|n| u32::try_from(n).ok());
    Ok(Answer {
        text,
        finish,
        tool_calls,
        log_probs: None,
        token_ids: None,
        prompt_token_ids: None,
        n_prompt_tokens: narrow(prompt),
        n_completion_tokens: narrow(completion),
        model: json["model"].as_str().map(str::to_owned),
        usage: Usage {
            n_requests: 1,
            prompt_tokens: prompt.unwrap_or(0),
            cached_prompt_tokens: cached,
            completion_tokens: completion.unwrap_or(0),
            ..Usage::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Message;

    use super::*;

    fn request(turns: &[(Role, &str)]) -> ChatRequest {
        let message = |(role, content): &(Role, &str)| Message { role: *role, content: (*content).to_owned() };
        ChatRequest::new("claude", turns.iter().map(message).collect())
    }

    #[test]
    fn the_system_prompt_stands_apart_and_only_what_the_interface_has_is_sent() {
        let mut asked = request(&[(Role::System, "be fair"), (Role::System, "be brief"), (Role::User, "a or b?")]);
        asked.decoding.seed = Some(7);
        let expected = json!({
            "model": "claude", "max_tokens": 256, "temperature": 1.0, "system": "be fair\n\nbe brief",
            "messages": [{ "role": "user", "content": "a or b?" }],
        });
        assert_eq!(body(&asked), Ok(expected));
        asked.decoding.top_p = 0.5;
        asked.decoding.stop = vec!["\n".to_owned()];
        asked.tools = vec![Tool { name: "rank".to_owned(), description: Some("ranks".to_owned()), parameters: json!({}) }];
        asked.tool_choice = ToolChoice::Named("rank".to_owned());
        let sent = body(&asked).expect("taken");
        assert_eq!((&sent["top_p"], &sent["stop_sequences"]), (&json!(0.5), &json!(["\n"])));
        assert_eq!(sent["tools"], json!([{ "name": "rank", "description": "ranks", "input_schema": {} }]));
        assert_eq!(sent["tool_choice"], json!({ "type": "tool", "name": "rank" }));
        for (choice, word) in [(ToolChoice::Auto, "auto"), (ToolChoice::None, "none"), (ToolChoice::Required, "any")] {
            assert_eq!(tool_choice(&choice)["type"], word);
        }
    }

    #[test]
    fn what_the_interface_has_not_is_said_before_anything_is_sent() {
        use Role::{Assistant, System, User};
        for (turns, part) in [
            (&[(System, "s")][..], "no message of `user`"),
            (&[(Assistant, "a")], "message 1 is of `assistant`"),
            (&[(System, "s"), (User, "a"), (User, "b")], "message 3 is of `user`"),
            (&[(User, "a"), (System, "s")], "message 2 is of `system`"),
            (&[(User, " ")], "message 1 is empty"),
        ] {
            let message = body(&request(turns)).expect_err("refused");
            assert!(message.contains(part), "{message}");
        }
        let plain = request(&[(User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "the answer is")]);
        assert!(body(&plain).is_ok());
        let mut asked = plain.clone();
        asked.decoding.log_probs = Some(5);
        assert!(body(&asked).expect_err("absent").contains("log-probabilities"));
        asked = plain.clone();
        asked.decoding.logit_bias = [(1, 1.0)].into();
        assert!(body(&asked).expect_err("absent").contains("logit"));
        asked = ChatRequest { format: AnswerFormat::Json, ..plain };
        assert!(body(&asked).expect_err("absent").contains("JSON"));
    }

    #[test]
    fn an_answer_is_read_with_its_calls_its_reason_and_what_the_cache_gave() {
        let json = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-20260101",
            "content": [
                { "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "I " }, { "type": "text", "text": "see" },
                { "type": "tool_use", "id": "t", "name": "rank", "input": { "best": 1 } },
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": { "input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 85, "output_tokens": 7 },
        });
        let answer = read(&json).expect("read");
        assert_eq!((answer.text.as_str(), &answer.finish), ("I see", &Finish::ToolCalls));
        assert_eq!(answer.tool_calls, [ToolCall { name: "rank".to_owned(), arguments: r#"{"best":1}"#.to_owned() }]);
        let usage = answer.usage;
        assert_eq!((usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens), (100, 85, 7));
        assert_eq!((answer.n_prompt_tokens, answer.model.as_deref()), (Some(100), Some("claude-x-20260101")));
        let ended = |reason: &str| read(&json!({ "content": [], "stop_reason": reason })).expect("read").finish;
        assert_eq!(ended("end_turn"), Finish::EndOfSequence);
        assert_eq!(ended("stop_sequence"), Finish::StopText);
        assert_eq!(ended("max_tokens"), Finish::Length);
        assert_eq!(ended("refusal"), Finish::Filtered);
        assert_eq!(ended("pause_turn"), Finish::Other("pause_turn".to_owned()));
        for broken in [json!({}), json!({ "content": [{}], "stop_reason": "end_turn" }), json!({ "content": [] })] {
            assert!(read(&broken).is_err(), "{broken}");
        }
    }
}
