//! A server that behaves as vLLM does over a checkpoint, or, as told, as another server or in a wrong way.

use std::sync::{Arc, Mutex};

use farmhand_core::Seed;
use farmhand_core::types::{Instruction, Message, Role};
use farmhand_endpoints::loopback::{Loopback, Received, Reply};
use farmhand_models::{BatchLayout, LanguageModel, PromptFormat, TextCodec, TokenBatch, selected_log_probs_no_grad};
use serde_json::{Value, json};

/// How a server behaves.
#[derive(Clone)]
pub(super) struct Behaviour {
    /// Names it serves, the first over `max_model_len` tokens.
    pub(super) models: Vec<&'static str>,
    pub(super) max_model_len: usize,
    /// Knows OpenAI's interface and nothing else.
    pub(super) is_plain: bool,
    /// Its tokenizer splits every token it can into one more.
    pub(super) has_other_tokenizer: bool,
    /// Puts an instruction of its own into conversations.
    pub(super) has_other_template: bool,
    /// Reports log-probabilities of the distribution it samples from.
    pub(super) reports_processed: bool,
    /// Leaves log-probabilities out.
    pub(super) is_silent: bool,
    /// Adds a token to every prompt that comes as text.
    pub(super) adds_bos: bool,
    /// Leaves counts of tokens out.
    pub(super) does_not_count: bool,
    /// The folder it says it serves.
    pub(super) root: String,
    /// Where its log-probabilities come from; without, every token's is −0.25.
    pub(super) weights: Option<Arc<Mutex<LanguageModel>>>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            models: vec!["tiny"],
            max_model_len: 96,
            is_plain: false,
            has_other_tokenizer: false,
            has_other_template: false,
            reports_processed: false,
            is_silent: false,
            adds_bos: false,
            does_not_count: false,
            root: "no/such/folder".to_owned(),
            weights: None,
        }
    }
}

/// Starts a server over a checkpoint's tokenizer. Answers follow from prompt and seed, and later ones may come first.
pub(super) fn start(codec: TextCodec, behaviour: Behaviour) -> Loopback {
    start_with(codec, behaviour, |_| None)
}

/// The same, where some requests are answered otherwise.
pub(super) fn start_with(
    codec: TextCodec,
    behaviour: Behaviour,
    otherwise: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
) -> Loopback {
    let server = Arc::new(FakeVllm { codec, behaviour });
    Loopback::start(move |request| otherwise(request).unwrap_or_else(|| server.answer(request)))
}

struct FakeVllm {
    codec: TextCodec,
    behaviour: Behaviour,
}

impl FakeVllm {
    fn answer(&self, request: &Received) -> Reply {
        let body = &request.body;
        let model = body["model"].as_str().unwrap_or_default();
        let is_known = self.behaviour.models.contains(&model) || request.method == "GET";
        match request.path.as_str() {
            "/v1/models" => self.models(),
            "/version" if !self.behaviour.is_plain => Reply::json(200, &json!({ "version": "0.32.0" })),
            _ if !is_known => error(404, &format!("The model `{model}` does not exist.")),
            "/tokenize" if !self.behaviour.is_plain => {
                Reply::json(200, &json!({ "tokens": self.prompt(body), "max_model_len": 96 }))
            }
            "/v1/completions" => self.completion(body),
            "/v1/chat/completions" => self.completion(body),
            _ => Reply::json(404, &json!({ "detail": "Not Found" })),
        }
    }

    fn models(&self) -> Reply {
        let model = |name: &&str| match self.behaviour.is_plain {
            true => json!({ "id": name, "object": "model", "owned_by": "system" }),
            false => {
                json!({ "id": name, "owned_by": "vllm", "root": self.behaviour.root, "max_model_len": self.behaviour.max_model_len })
            }
        };
        Reply::json(200, &json!({ "object": "list", "data": self.behaviour.models.iter().map(model).collect::<Vec<_>>() }))
    }

    /// The prompt's ids: given, of a text, or of a rendered conversation.
    fn prompt(&self, body: &Value) -> Vec<u32> {
        if let Some(ids) = body["prompt"].as_array() {
            return ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect();
        }
        let text = match body["prompt"].as_str() {
            Some(text) => text.to_owned(),
            None => self.rendered(serde_json::from_value(body["messages"].clone()).expect("messages")),
        };
        let mut ids = self.codec.tokenizer.encode_markup(&text).expect("tokenised");
        if self.behaviour.has_other_tokenizer {
            ids = ids.iter().flat_map(|id| if *id == ids[0] { vec![*id, *id] } else { vec![*id] }).collect();
        }
        if self.behaviour.adds_bos && body["prompt"].is_string() && body["add_special_tokens"] != false {
            ids.insert(0, 0);
        }
        ids
    }

    fn rendered(&self, mut messages: Vec<Message>) -> String {
        if self.behaviour.has_other_template {
            messages.insert(0, Message { role: Role::System, content: "You are helpful.".to_owned() });
        }
        let question = messages.pop().expect("a question").content;
        let codec = TextCodec::new(self.codec.tokenizer.clone(), PromptFormat::Chat).expect("a template");
        codec.prompt_text(&Instruction::with_history(question, None, messages)).expect("rendered")
    }

    fn completion(&self, body: &Value) -> Reply {
        let prompt = self.prompt(body);
        let max_tokens = body["max_tokens"].as_u64().expect("a limit") as usize;
        if prompt.len() + max_tokens > self.behaviour.max_model_len {
            let message = format!("This model's maximum context length is {} tokens.", self.behaviour.max_model_len);
            return error(400, &message);
        }
        if self.behaviour.is_plain && ["top_k", "return_token_ids"].iter().any(|key| body.get(key).is_some()) {
            return error(400, "Unrecognized request argument");
        }
        let mut seed = Seed::root(body["seed"].as_u64().expect("a seed"));
        for id in &prompt {
            seed = seed.child("prompt", u64::from(*id));
        }
        let mut rng = seed.rng();
        std::thread::sleep(std::time::Duration::from_millis(rng.below(6) as u64));
        let letters: Vec<u32> =
            "abcdefg ".chars().map(|c| self.codec.tokenizer.encode(&c.to_string()).expect("tokenised")[0]).collect();
        let n_wanted = 1 + rng.below(14);
        let mut ids: Vec<u32> = (0..n_wanted.min(max_tokens)).map(|_| *rng.choose(&letters).expect("letters")).collect();
        let (mut finish, mut stop_reason) = ("length", Value::Null);
        if n_wanted < max_tokens {
            ids.push(self.codec.end_id());
            finish = "stop";
        }
        let mut text = self.codec.tokenizer.decode(&ids);
        for stop in body["stop"].as_array().into_iter().flatten() {
            let stop = stop.as_str().expect("a text");
            if let Some(at) = text.find(stop) {
                // The tokens up to and with the one that completes the stop text.
                let n = (1..=ids.len()).find(|n| self.codec.tokenizer.decode(&ids[..*n]).contains(stop)).expect("there");
                ids.truncate(n);
                text.truncate(at);
                (finish, stop_reason) = ("stop", json!(stop));
            }
        }
        self.reply(body, &prompt, &ids, &text, finish, &stop_reason)
    }

    fn log_probs(&self, model: &LanguageModel, prompt: &[u32], ids: &[u32]) -> Vec<f64> {
        let text = self.codec.encode_tokens(prompt, ids);
        let batch = TokenBatch::new(&[&text], BatchLayout::Packed, model.device()).expect("a batch");
        Vec::try_from(selected_log_probs_no_grad(model, &batch).0.to_kind(tch::Kind::Double)).expect("numbers")
    }

    fn reply(&self, body: &Value, prompt: &[u32], ids: &[u32], text: &str, finish: &str, stop_reason: &Value) -> Reply {
        let is_certain = body["top_k"] == 1 && self.behaviour.reports_processed;
        let log_prob = if is_certain { 0.0 } else { -0.25 };
        let log_probs = match &self.behaviour.weights {
            Some(model) => self.log_probs(&model.lock().expect("nobody panicked"), prompt, ids),
            None => vec![log_prob; ids.len()],
        };
        let wants = body.get("logprobs").is_some() && !self.behaviour.is_silent;
        let is_chat = body["messages"].is_array();
        let mut choice = json!({ "index": 0, "finish_reason": finish });
        if is_chat {
            choice["message"] = json!({ "role": "assistant", "content": text });
            let tokens: Vec<Value> = ids
                .iter()
                .zip(&log_probs)
                .map(|(id, log_prob)| json!({ "token": id.to_string(), "logprob": log_prob }))
                .collect();
            choice["logprobs"] = if wants { json!({ "content": tokens }) } else { Value::Null };
        } else {
            choice["text"] = json!(text);
            choice["logprobs"] =
                if wants { json!({ "token_logprobs": log_probs, "tokens": vec!["t"; ids.len()] }) } else { Value::Null };
        }
        let mut answer = json!({ "object": "x", "model": body["model"] });
        if !self.behaviour.is_plain {
            choice["stop_reason"] = stop_reason.clone();
            if body["return_token_ids"] == true {
                choice["token_ids"] = json!(ids);
                if is_chat {
                    answer["prompt_token_ids"] = json!(prompt);
                } else {
                    choice["prompt_token_ids"] = json!(prompt);
                }
            }
        }
        answer["choices"] = json!([choice]);
        if !self.behaviour.does_not_count {
            answer["usage"] = json!({ "prompt_tokens": prompt.len(), "completion_tokens": ids.len() });
        }
        Reply::json(200, &answer)
    }
}

fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({ "error": { "message": message, "type": "BadRequestError", "code": status } }))
}
