//! A server that speaks OpenAI's interface as a policy: vLLM over an exported checkpoint, or a model behind an API.
//!
//! A checkpoint is a Hugging Face folder, so `vllm serve RUN/sft/checkpoint` serves it as it is. What training scored must be
//! what the server samples from, so nothing is left to the server that could differ in silence:
//!
//! * Instructions are rendered and tokenised here, by the checkpoint's own [`TextCodec`], and sent as token ids. Before the
//!   first of them, probe texts are tokenised on both sides; a difference is an error that shows the first token that differs.
//! * Through the chat interface the server renders. Conversations are then rendered on both sides and compared, and each
//!   answer's prompt once more as far as the server shows it. A server that cannot show how it renders is refused.
//! * Every sampling parameter is sent, neutral ones too: vLLM takes what is missing from the folder's `generation_config.json`.
//! * Log-probabilities are those of the distribution that was sampled from. Where vLLM reports the model's own instead
//!   (without `--logprobs-mode processed_logprobs`) and the two differ, that is an error.
//!
//! Each answer is a request of its own with its own seed, so it depends on its instruction, its sample index and the seed of
//! the run as far as the server's arithmetic allows: kernels of a busy server may round differently from run to run.

mod agreement;
mod answers;
mod connection;
#[cfg(test)]
mod fake_vllm;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::ControlFlow;
use std::path::PathBuf;

use farmhand_core::types::{Completion, Instruction, SamplingParams};
use farmhand_core::{BuildContext, Checkpoint, Error, Policy, PolicyConfig, Problem, Result, RunContext, register};
use farmhand_endpoints::{Client, EndpointOptions, wait};
use farmhand_models::{PromptFormat, TextCodec, alpaca_prompt, chat_messages, plain_prompt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;
use answers::Asked;
use connection::Connection;

register! {
    kind: Policy, name: "openai_server", config: OpenAiServerConfig,
    summary: "a server that speaks OpenAI's interface: vLLM over a checkpoint, or a model behind an API",
}

/// Options of `[policy.openai_server]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OpenAiServerConfig {
    /// The model's name at the server (`--served-model-name`); unset: the only one it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The server, which must speak OpenAI's interface. `max_concurrent` is by default 64, and there is nothing to wait for when the
    /// user asks to stop: `grace_secs` is 0.
    pub server: EndpointOptions,
    /// Whose chat template and tokenizer count: `checkpoint`, the default, or `server`.
    pub template: Template,
    /// The model folder or hub id that the server serves, for its template and tokenizer; by default the policy of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// Also compares weights: those of the checkpoint are loaded once, and when the server's log-probabilities of an answer are
    /// further from theirs than this, in nats a token on average, > 0, nothing is sampled. Unset: weights are not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_log_prob_gap: Option<f64>,
    /// How instructions become text; by default as the checkpoint says, and `alpaca` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// The interface that is asked: `completions`, the default, or `chat`.
    pub api: Api,
    /// What the server takes beyond OpenAI's parameters: `auto`, the default, `vllm` or `openai`.
    pub dialect: Dialect,
}

/// Whose chat template and tokenizer count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// The checkpoint's: the server must tokenise, and for `chat` render, as the checkpoint does; otherwise nothing is sampled.
    #[default]
    Checkpoint,
    /// The server's own: nothing is compared. For models that are no checkpoint of this run, such as one behind an API.
    Server,
}

/// The interface that is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/v1/completions`: the prompt is rendered here.
    #[default]
    Completions,
    /// `/v1/chat/completions`: the server renders the conversation.
    Chat,
}

/// What a server takes beyond OpenAI's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// vLLM's extensions when the server says that it is vLLM.
    #[default]
    Auto,
    /// vLLM's extensions: `top_k`, `min_p`, `repetition_penalty`, stop tokens, token ids in answers.
    Vllm,
    /// OpenAI's parameters and nothing else.
    Openai,
}

impl Default for OpenAiServerConfig {
    fn default() -> Self {
        Self {
            model: None,
            // A call that was stopped gives back nothing.
            server: EndpointOptions { max_concurrent: 64, grace_secs: 0.0, ..EndpointOptions::default() },
            template: Template::Checkpoint,
            checkpoint: None,
            max_log_prob_gap: None,
            prompt: None,
            api: Api::Completions,
            dialect: Dialect::Auto,
        }
    }
}

impl OpenAiServerConfig {
    /// The checkpoint's renderer, where it counts.
    fn codec(&self, ctx: &BuildContext<'_>) -> Result<Option<(Checkpoint, TextCodec)>> {
        if self.template == Template::Server {
            return Ok(None);
        }
        let hint =
            "set `checkpoint` to the model folder that the server serves, or `template = \"server\"` for a model that is none";
        let checkpoint = match (&self.checkpoint, ctx.policy) {
            (Some(name), _) => ctx.models.find_description(name, ctx.base_dir)?,
            (None, Some(checkpoint)) => checkpoint.clone(),
            (None, None) => return Err(Error::missing_input("there is no checkpoint to compare the server with").with_hint(hint)),
        };
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        if self.api == Api::Chat && codec.format != PromptFormat::Chat {
            let message = format!(
                "model `{}` is asked in the prompt format `{}`, which no server's chat template shows",
                checkpoint.path().display(),
                codec.format.name()
            );
            return Err(Error::invalid_config(message).with_hint("use `api = \"completions\"`, which sends the rendered prompt"));
        }
        Ok(Some((checkpoint, codec)))
    }
}

#[typetag::serde(name = "openai_server")]
impl PolicyConfig for OpenAiServerConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let codec = self.codec(ctx)?;
        let client = Client::from_options(&self.server, ctx)?;
        Ok(Box::new(OpenAiServer::new(self.clone(), client, codec)))
    }

    fn problems(&self) -> Vec<Problem> {
        let renders_there = self.template == Template::Server && self.api == Api::Chat;
        let mut ranges = Ranges::new().nested("server", self.server.problems()).require(
            "model",
            self.model.as_ref().is_none_or(|model| !model.is_empty()),
            "a name",
            "an empty text",
        );
        let is_openai = self.server.api == farmhand_endpoints::Api::Openai;
        ranges = ranges.require("server.api", is_openai, "`openai`: prompts go as text and likelihoods come back", "`anthropic`");
        ranges = ranges.positive("max_log_prob_gap", self.max_log_prob_gap.unwrap_or(1.0));
        if self.template == Template::Server {
            let without = "nothing with `template = \"server\"`, which compares with no checkpoint";
            ranges = ranges.require("checkpoint", self.checkpoint.is_none(), without, "a folder");
            ranges = ranges.require("max_log_prob_gap", self.max_log_prob_gap.is_none(), without, "a number");
        }
        let got = self.prompt.map_or("none", PromptFormat::name);
        if renders_there {
            ranges = ranges.require("prompt", self.prompt.is_none(), "nothing: the server renders the conversation", got);
        } else if self.api == Api::Chat {
            ranges = ranges.require(
                "prompt",
                self.prompt.is_none_or(|it| it == PromptFormat::Chat),
                "`chat` with `api = \"chat\"`",
                got,
            );
        } else if self.template == Template::Server {
            let expected = "`none` or `alpaca`: `chat` needs a checkpoint's template";
            ranges = ranges.require("prompt", self.prompt != Some(PromptFormat::Chat), expected, got);
        }
        ranges.problems()
    }
}

struct OpenAiServer {
    config: OpenAiServerConfig,
    client: Client,
    codec: Option<TextCodec>,
    /// Where the checkpoint lies, for messages.
    folder: Option<PathBuf>,
    name: String,
    connection: Option<Connection>,
    n_calls: u64,
}

impl OpenAiServer {
    fn new(config: OpenAiServerConfig, client: Client, codec: Option<(Checkpoint, TextCodec)>) -> Self {
        let (checkpoint, codec) = codec.unzip();
        let own_name = checkpoint.as_ref().map(Checkpoint::name);
        let name = own_name.or_else(|| config.model.clone()).unwrap_or_else(|| "openai_server".to_owned());
        let folder = checkpoint.map(|checkpoint| checkpoint.path().to_owned());
        Self { config, client, codec, folder, name, connection: None, n_calls: 0 }
    }

    /// An instruction in every form that may be sent.
    fn asked(&self, instruction: &Instruction) -> Result<Asked> {
        let ids = self.codec.as_ref().map(|codec| codec.prompt(instruction)).transpose()?;
        let text = match (self.config.api, &self.codec) {
            (Api::Chat, _) => String::new(),
            (Api::Completions, Some(codec)) => codec.prompt_text(instruction)?,
            (Api::Completions, None) if self.config.prompt == Some(PromptFormat::None) => plain_prompt(instruction)?,
            (Api::Completions, None) => alpaca_prompt(instruction),
        };
        let messages = if self.config.api == Api::Chat { chat_messages(instruction) } else { Vec::new() };
        Ok(Asked { id: instruction.id.clone(), ids, text, messages })
    }
}

impl Policy for OpenAiServer {
    fn model(&self) -> &str {
        &self.name
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        ctx.cancel.check()?;
        let asked = instructions.iter().map(|instruction| self.asked(instruction)).collect::<Result<Vec<_>>>()?;
        let Some(first) = asked.first() else { return Ok(Vec::new()) };
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(first, ctx)?,
        };
        let log_probs = self.log_probs(&mut connection, first, sampling, ctx)?;
        let connection = &*self.connection.insert(connection);
        connection.check_lengths(&asked)?;

        let n = sampling.n as usize;
        let mut requests = Vec::with_capacity(asked.len() * n);
        for (instruction, asked) in instructions.iter().zip(&asked) {
            let seed = ctx.seed.child_text("completion", &instruction.id);
            for sample in 0..sampling.n {
                let seed = seed.child("sample", u64::from(sample));
                requests.push(connection.request(&self.client, asked, sampling, log_probs, self.codec.as_ref(), seed));
            }
        }
        let (before, started) = (self.client.usage(), std::time::Instant::now());
        let mut progress = ctx.progress("sampling", Some(requests.len() as u64), "completions");
        let mut completions: Vec<Option<Completion>> = requests.iter().map(|_| None).collect();
        let mut failed = None;
        let codec = self.codec.as_ref();
        wait(self.client.in_parallel(requests, ctx.cancel, |i, result| {
            let (instruction, asked) = (&instructions[i / n], &asked[i / n]);
            let read = match result {
                Ok(answer) => connection
                    .check_prompt(answer, asked, codec)
                    .and_then(|()| answers::read(answer, asked, sampling, log_probs, codec)),
                Err(failure) => Err(connection::lost(failure.clone()).context(format_args!("instruction `{}`", asked.id))),
            };
            match read {
                Ok(read) => {
                    let (model, sample) = (self.name.clone(), (i % n) as u32);
                    let answers::Read { output, finish, n_tokens, log_prob } = read;
                    let instruction = instruction.clone();
                    completions[i] = Some(Completion { instruction, output, model, sample, finish, n_tokens, log_prob });
                    progress.advance(1);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        }));
        drop(progress);
        if let Some(error) = failed {
            return Err(error);
        }
        let completions = completions.into_iter().collect::<Option<Vec<_>>>().ok_or_else(Error::cancelled)?;
        let (after, secs) = (self.client.usage(), started.elapsed().as_secs_f64().max(1e-9));
        let n_tokens = (after.completion_tokens - before.completion_tokens) as f64;
        ctx.scalar("openai_server/prompt_tokens", self.n_calls, (after.prompt_tokens - before.prompt_tokens) as f64);
        ctx.scalar("openai_server/completion_tokens", self.n_calls, n_tokens);
        ctx.scalar("openai_server/tokens_per_sec", self.n_calls, n_tokens / secs);
        ctx.scalar("openai_server/retries", self.n_calls, (after.n_retries - before.n_retries) as f64);
        self.n_calls += 1;
        Ok(completions)
    }
}
