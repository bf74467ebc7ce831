//! What each kind of server is sent and answers.
//!
//! OpenRLHF's is `openrlhf/cli/serve_rm.py` as `--remote_rm_url` asks it; vLLM's are described with its pooling models,
//! <https://docs.vllm.ai/en/latest/models/pooling_models/>.

use farmhand_core::types::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::HttpRewardModelConfig;
use crate::reward_model::item;

/// What a server is sent and answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `{"items": [{"instruction", "output"}, …]}`, with `history` of earlier turns, is answered by `{"results": [0.7, …]}`: what a
    /// `command` says and hears.
    #[default]
    Plain,
    /// OpenRLHF's reward server: `{"query": [whole conversations], "prompts": [the part before the answer]}` is answered by
    /// `{"rewards": [0.7, …]}`.
    Openrlhf,
    /// vLLM's `/score`: `text_1` are the instructions, `text_2` the answers. It takes no earlier turns; they come before the instruction.
    VllmScore,
    /// vLLM's `/classify`: a model with a head of one class, or of several, of which `class` is the score.
    VllmClassify,
    /// vLLM's `/pooling`: one number for the whole text, or one for each token, of which the last counts.
    VllmPooling,
}

impl Form {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Openrlhf => "openrlhf",
            Self::VllmScore => "vllm_score",
            Self::VllmClassify => "vllm_classify",
            Self::VllmPooling => "vllm_pooling",
        }
    }

    pub(super) fn route(self) -> &'static str {
        match self {
            Self::Plain | Self::VllmScore => "score",
            Self::Openrlhf => "get_reward",
            Self::VllmClassify => "classify",
            Self::VllmPooling => "pooling",
        }
    }

    /// What an answer must be, for hints.
    pub(super) fn answer(self) -> &'static str {
        match self {
            Self::Plain => "`{\"results\": […]}`, a finite number for each item",
            Self::Openrlhf => "`{\"rewards\": […]}`, a finite number for each query",
            Self::VllmScore => "`{\"data\": [{\"index\", \"score\"}, …]}`",
            Self::VllmClassify => "`{\"data\": [{\"index\", \"probs\": […]}, …]}`, of which `class` picks one number",
            Self::VllmPooling => "`{\"data\": [{\"index\", \"data\": […]}, …]}`, of which `class` picks one number",
        }
    }

    pub(super) fn has_turns(self) -> bool {
        matches!(self, Self::Openrlhf | Self::VllmClassify | Self::VllmPooling)
    }

    pub(super) fn has_classes(self) -> bool {
        matches!(self, Self::VllmClassify | Self::VllmPooling)
    }

    /// Items of one request: vLLM renders one conversation at a time.
    pub(super) fn batch_size(self, config: &HttpRewardModelConfig) -> usize {
        if self.has_classes() && config.turns.is_none() { 1 } else { config.batch_size.max(1) }
    }

    /// What is posted.
    pub(super) fn request(self, config: &HttpRewardModelConfig, batch: &[Response<'_>]) -> Value {
        let mut body = Map::new();
        if let Some(model) = &config.model {
            body.insert("model".to_owned(), json!(model));
        }
        if matches!(self, Self::VllmScore | Self::VllmClassify | Self::VllmPooling) {
            body.insert("use_activation".to_owned(), json!(false));
        }
        body.extend(config.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        let rendered = || config.turns.iter().flat_map(|turns| batch.iter().map(|response| turns.render(response))).unzip();
        let fields = match self {
            Self::Plain => vec![("items", batch.iter().map(item).collect())],
            Self::Openrlhf => {
                let (prompts, whole): (Vec<String>, Vec<String>) = rendered();
                vec![("query", json!(whole)), ("prompts", json!(prompts))]
            }
            Self::VllmScore => {
                let asked: Vec<String> = batch.iter().map(conversation).collect();
                let answers: Vec<&str> = batch.iter().map(|response| response.output).collect();
                vec![("text_1", json!(asked)), ("text_2", json!(answers))]
            }
            Self::VllmClassify | Self::VllmPooling => match (&config.turns, batch) {
                (None, [response]) => vec![("messages", messages(response))],
                _ => {
                    let (_, whole): (Vec<String>, Vec<String>) = rendered();
                    vec![("input", json!(whole))]
                }
            },
        };
        body.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Value::Object(body)
    }

    /// The `n` scores of an answer, or what is wrong with it.
    pub(super) fn scores(self, config: &HttpRewardModelConfig, answer: &Value, n: usize) -> Result<Vec<f64>, String> {
        match self {
            Self::Plain => numbers(answer, "results", n),
            Self::Openrlhf => numbers(answer, "rewards", n),
            Self::VllmScore => data(answer, n)?.into_iter().map(|entry| number(&entry["score"])).collect(),
            Self::VllmClassify => data(answer, n)?.into_iter().map(|entry| of_class(&entry["probs"], config.class)).collect(),
            Self::VllmPooling => data(answer, n)?.into_iter().map(|entry| pooled(&entry["data"], config.class)).collect(),
        }
    }
}

/// The earlier turns and the instruction as one text, a blank line between.
fn conversation(response: &Response<'_>) -> String {
    let earlier = response.instruction.history.iter().map(|turn| turn.content.clone());
    earlier.chain([response.instruction.text()]).collect::<Vec<_>>().join("\n\n")
}

fn messages(response: &Response<'_>) -> Value {
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let earlier = response.instruction.history.iter().map(|message| turn(message.role.name(), &message.content));
    earlier.chain([turn("user", &response.instruction.text()), turn("assistant", response.output)]).collect()
}

fn number(value: &Value) -> Result<f64, String> {
    value.as_f64().filter(|score| score.is_finite()).ok_or_else(|| format!("scored an answer with `{value}`"))
}

/// The list of `n` numbers under `key`.
fn numbers(answer: &Value, key: &str, n: usize) -> Result<Vec<f64>, String> {
    let list = answer[key].as_array().ok_or_else(|| format!("answered without a list `{key}`"))?;
    if list.len() != n {
        return Err(format!("gave {} scores for {n} answers", list.len()));
    }
    list.iter().map(number).collect()
}

/// vLLM's entries, in the order of their indices.
fn data(answer: &Value, n: usize) -> Result<Vec<&Value>, String> {
    let list = answer["data"].as_array().ok_or("answered without a list `data`")?;
    if list.len() != n {
        return Err(format!("gave {} scores for {n} answers", list.len()));
    }
    let mut entries = vec![None; n];
    for (place, entry) in list.iter().enumerate() {
        let index = entry["index"].as_u64().map_or(place, |index| usize::try_from(index).unwrap_or(usize::MAX));
        match entries.get_mut(index) {
            Some(free @ None) => *free = Some(entry),
            _ => return Err(format!("gave two scores with the index {index}, or none of {n} answers has it")),
        }
    }
    entries.into_iter().map(|entry| entry.ok_or_else(|| "left an answer out".to_owned())).collect()
}

/// The one number of a list, or that of a class.
fn of_class(list: &Value, class: Option<usize>) -> Result<f64, String> {
    let list = list.as_array().ok_or_else(|| format!("answered with `{list}` where a list of numbers was expected"))?;
    match (class, list.as_slice()) {
        (None, [only]) => number(only),
        (None, several) => Err(format!("gave {} numbers for an answer, and `class` does not say which", several.len())),
        (Some(class), several) => {
            let one =
                several.get(class).ok_or_else(|| format!("gave {} numbers for an answer, none is {class}", several.len()))?;
            number(one)
        }
    }
}

/// The number of a text, or that of its last token.
fn pooled(value: &Value, class: Option<usize>) -> Result<f64, String> {
    match value.as_array().and_then(|list| list.last()) {
        Some(last) if last.is_array() => of_class(last, class),
        _ => of_class(value, class),
    }
}
