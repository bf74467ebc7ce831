//! `fn_completions` and its options: whom a judge asks, and how the reply is decoded.

use std::collections::BTreeMap;

use farmhand_core::Result;
use farmhand_endpoints::{Account, Api, Decoding, EndpointOptions, Tool, ToolChoice};
use serde_json::Value;

use super::table::Table;
use super::yaml::Yaml;

/// Who answers a judge's questions, as the settings say.
#[derive(Debug, Clone, PartialEq)]
pub struct Completions {
    /// The function's name.
    pub decoder: String,
    /// The server; `None` when the function runs a model of its own or speaks a language of its own.
    pub server: Option<EndpointOptions>,
    /// The model.
    pub model: String,
    /// How the reply is decoded.
    pub decoding: Decoding,
    /// Functions that the judge may call.
    pub tools: Vec<Tool>,
    /// Whether it must.
    pub tool_choice: ToolChoice,
    /// Whether the provider knows conversations alone.
    pub is_chat_only: bool,
    /// Dollars a token, if the settings say.
    pub price_per_token: Option<f64>,
    /// Texts whose tokens the settings would ban.
    pub tokens_to_avoid: Vec<String>,
    /// Texts whose tokens the settings would favour.
    pub tokens_to_favor: Vec<String>,
}

/// A provider that AlpacaEval knows: its function, its address, the variable with its key, whether it has only conversations.
struct Provider {
    decoder: &'static str,
    api: Api,
    base_url: &'static str,
    api_key_env: &'static str,
    is_chat_only: bool,
}

const PROVIDERS: [Provider; 6] = [
    Provider {
        decoder: "openai_completions",
        api: Api::Openai,
        base_url: "https://api.openai.com/v1",
        api_key_env: "OPENAI_API_KEY",
        is_chat_only: false,
    },
    Provider {
        decoder: "anthropic_completions",
        api: Api::Anthropic,
        base_url: "https://api.anthropic.com/v1",
        api_key_env: "ANTHROPIC_API_KEY",
        is_chat_only: true,
    },
    Provider {
        // The same models and prompts; Amazon's own interface is not spoken here.
        decoder: "bedrock_anthropic_completions",
        api: Api::Anthropic,
        base_url: "https://api.anthropic.com/v1",
        api_key_env: "ANTHROPIC_API_KEY",
        is_chat_only: true,
    },
    Provider {
        decoder: "google_completions",
        api: Api::Openai,
        base_url: "https://generativelanguage.googleapis.com/v1beta/openai",
        api_key_env: "GOOGLE_API_KEY",
        is_chat_only: true,
    },
    Provider {
        decoder: "cohere_completions",
        api: Api::Openai,
        base_url: "https://api.cohere.ai/compatibility/v1",
        api_key_env: "COHERE_API_KEY",
        is_chat_only: true,
    },
    Provider {
        decoder: "huggingface_api_completions",
        api: Api::Openai,
        base_url: "https://router.huggingface.co/v1",
        api_key_env: "HUGGINGFACEHUB_API_TOKEN",
        is_chat_only: true,
    },
];

/// Functions that run a model themselves or speak a language of their own: someone else has to serve the model.
const WITHOUT_SERVER: [&str; 4] =
    ["huggingface_local_completions", "vllm_local_completions", "replicate_completions", "jina_chat_completions"];

impl Completions {
    /// Reads the function's name and options.
    ///
    /// # Errors
    /// When the function is unknown, or an option is unknown, missing or wrong.
    pub(super) fn read(decoder: &str, mut options: Table<'_>) -> Result<Self> {
        let provider = PROVIDERS.iter().find(|provider| provider.decoder == decoder);
        if provider.is_none() && !WITHOUT_SERVER.contains(&decoder) {
            let known: Vec<&str> = PROVIDERS.iter().map(|provider| provider.decoder).chain(WITHOUT_SERVER).collect();
            let hint = farmhand_core::config::did_you_mean(decoder, &known);
            return Err(options.refuse("", format!("`fn_completions`: `{decoder}` is not supported")).with_hint(hint));
        }
        let mut server = provider.map(|provider| EndpointOptions {
            api: provider.api,
            base_url: provider.base_url.to_owned(),
            account: Account { api_key_env: Some(provider.api_key_env.to_owned()), ..Account::default() },
            ..EndpointOptions::default()
        });
        let mut client = options.table("client_kwargs")?;
        if let (Some(base_url), Some(server)) = (client.text("base_url")?, &mut server) {
            server.base_url = base_url;
        }
        if client.take("api_key").is_some() {
            return Err(client
                .refuse("api_key", "a key must not stand in a file of settings")
                .with_hint("set `server.api_key_env` to the name of the environment variable that holds it"));
        }
        client.finish()?;
        let Some(model) = options.text("model_name")? else {
            return Err(options.refuse("model_name", "expected the name of a model"));
        };
        let decoding = decoding(&mut options, decoder)?;
        let (tools, tool_choice) = (tools(&mut options)?, tool_choice(&mut options)?);
        let completions = Self {
            decoder: decoder.to_owned(),
            server,
            model,
            decoding,
            tools,
            tool_choice,
            is_chat_only: provider.is_some_and(|provider| provider.is_chat_only)
                || options.flag("requires_chatml")?.unwrap_or(false)
                || options.flag("is_chatml_prompt")?.unwrap_or(false),
            price_per_token: options.number("price_per_token")?,
            tokens_to_avoid: options.texts("tokens_to_avoid")?.unwrap_or_default(),
            tokens_to_favor: options.texts("tokens_to_favor")?.unwrap_or_default(),
        };
        // How AlpacaEval would run it: processes, batches, a model's loading. Here the server's options say that.
        for ignored in [
            "num_procs",
            "batch_size",
            "model_kwargs",
            "client_function_name",
            "is_fast_tokenizer",
            "is_strip",
            "requires_chatml",
            "is_chatml_prompt",
            "is_skip_multi_tokens_to_avoid",
            "do_sample",
            "adapters_name",
            "is_only_instruction_tuned",
        ] {
            drop(options.take(ignored));
        }
        options.finish()?;
        Ok(completions)
    }
}

fn decoding(options: &mut Table<'_>, decoder: &str) -> Result<Decoding> {
    let mut max_tokens = None;
    for key in ["max_tokens", "max_new_tokens", "max_tokens_to_sample", "max_completion_tokens"] {
        max_tokens = max_tokens.or(options.count(key)?);
    }
    let log_probs = if options.flag("logprobs")?.unwrap_or(false) { Some(0) } else { None };
    let alternatives = options.count("top_logprobs")?;
    // Hugging Face's functions decode greedily unless they are told otherwise, all others sample.
    let usual_temperature = if decoder.starts_with("huggingface") { 0.0 } else { 1.0 };
    let stop = match options.take("stop") {
        None => Vec::new(),
        Some(Yaml::Text(text)) => vec![text],
        Some(Yaml::List(items)) => items.iter().filter_map(|item| item.to_json().as_str().map(str::to_owned)).collect(),
        Some(_) => return Err(options.refuse("stop", "expected a text or a list of texts")),
    };
    let decoding = Decoding {
        max_tokens: max_tokens.unwrap_or(256),
        temperature: options.number("temperature")?.unwrap_or(usual_temperature),
        top_p: options.number("top_p")?.unwrap_or(1.0),
        seed: options.count("seed")?.map(u64::from),
        stop,
        log_probs: log_probs.map(|none| alternatives.unwrap_or(none)),
        logit_bias: BTreeMap::new(),
        ..Decoding::default()
    };
    if decoding.max_tokens == 0 {
        return Err(options.refuse("max_tokens", "expected at least 1, got 0"));
    }
    if !(0.0..=10.0).contains(&decoding.temperature) {
        return Err(options.refuse("temperature", format!("expected a number in [0, 10], got {}", decoding.temperature)));
    }
    Ok(decoding)
}

fn tools(options: &mut Table<'_>) -> Result<Vec<Tool>> {
    let Some(written) = options.take("tools") else { return Ok(Vec::new()) };
    let written = written.to_json();
    let tool = |tool: &Value| {
        let function = tool.get("function")?;
        Some(Tool {
            name: function.get("name")?.as_str()?.to_owned(),
            description: function.get("description").and_then(Value::as_str).map(str::to_owned),
            parameters: function.get("parameters").filter(|parameters| parameters.is_object())?.clone(),
        })
    };
    let read = written.as_array().and_then(|tools| tools.iter().map(tool).collect());
    read.ok_or_else(|| options.refuse("tools", "expected a list of functions with `name` and `parameters`"))
}

fn tool_choice(options: &mut Table<'_>) -> Result<ToolChoice> {
    let Some(written) = options.take("tool_choice") else { return Ok(ToolChoice::Auto) };
    let written = written.to_json();
    let named = written.pointer("/function/name").and_then(Value::as_str).map(|name| ToolChoice::Named(name.to_owned()));
    let word = match written.as_str() {
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => Some(ToolChoice::None),
        Some("required" | "any") => Some(ToolChoice::Required),
        _ => None,
    };
    let expected = "expected `auto`, `none`, `required` or a function with its `name`";
    named.or(word).ok_or_else(|| options.refuse("tool_choice", expected))
}
