//! The server that was found: what it is, what it takes, how prompts reach it.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;

use farmhand_core::types::SamplingParams;
use farmhand_core::{ADAPTER_CONFIG, CancelFlag, Error, ErrorKind, Result, RunContext, Seed};
use farmhand_endpoints::{
    Answer, ChatRequest, Client, CompletionRequest, Decoding, Failure, FailureKind, Prompt, ServedModel, VllmDecoding, wait,
};
use farmhand_models::TextCodec;

use super::agreement::{self, Agreement};
use super::answers::{Asked, LogProbs};
use super::{Api, Dialect, OpenAiServer, weights};

/// Tokens of the answer that shows which log-probabilities a server reports.
const PROBE_TOKENS: u32 = 16;

/// A request under way.
type Answering = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// A server that was asked what it is.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// The model's name at the server.
    model: String,
    /// Whether it takes vLLM's extensions.
    is_vllm: bool,
    /// Tokens that fit into its context, prompt and answer together.
    max_model_len: Option<u32>,
    sending: Sending,
    /// Whether log-probabilities are of the distribution that is sampled from; `None` before it was found out.
    reports_processed: Option<bool>,
}

/// How a prompt reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// As the checkpoint's token ids.
    Tokens,
    /// As text, which the server tokenises.
    Text,
    /// As a conversation, which the server renders.
    Messages,
}

impl OpenAiServer {
    /// Asks the server what it is, and compares its tokenizer and template with the checkpoint's.
    pub(super) fn connect(&self, first: &Asked, ctx: &RunContext<'_>) -> Result<Connection> {
        let cancel = ctx.cancel;
        let served = self.served_model(cancel)?;
        self.warn_of_another_folder(&served, ctx);
        let is_vllm = match self.config.dialect {
            Dialect::Vllm => true,
            Dialect::Openai => false,
            Dialect::Auto => {
                served.owned_by.as_deref() == Some("vllm") || {
                    wait(self.client.unless_cancelled(self.client.vllm_version(), cancel))?.is_some()
                }
            }
        };
        let model = &served.id;
        let sending = match (self.config.api, &self.codec) {
            (Api::Chat, None) => Sending::Messages,
            (Api::Completions, None) => Sending::Text,
            (Api::Chat, Some(codec)) => match agreement::templates(&self.client, model, codec, cancel)? {
                Agreement::Same => Sending::Messages,
                Agreement::Untold => {
                    let message = "the server does not show how its chat template renders (it has no `/tokenize`), so nobody can say \
                                   whether it renders as the checkpoint does";
                    let hint = "use `api = \"completions\"`, which sends the checkpoint's rendering; or accept the server's own \
                                template with `template = \"server\"`";
                    return Err(Error::invalid_config(message).with_hint(hint));
                }
            },
            (Api::Completions, Some(codec)) => match agreement::tokenizers(&self.client, model, codec, &first.text, cancel)? {
                Agreement::Same => Sending::Tokens,
                Agreement::Untold => {
                    ctx.events.info(
                        "  the server does not show its tokenizer: prompts go as text, and their token counts are compared",
                    );
                    Sending::Text
                }
            },
        };
        let connection =
            Connection { model: served.id, is_vllm, max_model_len: served.max_model_len, sending, reports_processed: None };
        if let (Some(limit), Some(codec), Some(folder), Some(prompt)) =
            (self.config.max_log_prob_gap, &self.codec, &self.folder, &first.ids)
        {
            let sampling = SamplingParams { max_new_tokens: weights::ANSWER_TOKENS, ..SamplingParams::default() };
            let seed = ctx.seed.child("weights probe", 0);
            let asking = connection.request(&self.client, first, &sampling, LogProbs::Server, Some(codec), seed);
            let answer = wait(self.client.unless_cancelled(asking, cancel))?;
            connection.check_prompt(&answer, first, Some(codec))?;
            weights::same_weights(folder, codec, prompt, &answer, limit, (ctx.device, cancel, ctx.events))?;
        }
        Ok(connection)
    }

    /// Warns when the server names a folder of this machine that is not the checkpoint's.
    fn warn_of_another_folder(&self, served: &ServedModel, ctx: &RunContext<'_>) {
        let (Some(root), Some(folder)) = (&served.root, &self.folder) else { return };
        if let (Ok(theirs), Ok(ours)) = (std::fs::canonicalize(root), std::fs::canonicalize(folder))
            && theirs != ours
        {
            ctx.events.warn(&format!(
                "the server says that it serves `{}`; its answers are taken for those of `{}` (`max_log_prob_gap` compares weights)",
                theirs.display(),
                ours.display()
            ));
        }
    }

    /// The model to ask for.
    fn served_model(&self, cancel: &CancelFlag) -> Result<ServedModel> {
        let unlisted = |id: &str| ServedModel { id: id.to_owned(), owned_by: None, root: None, max_model_len: None };
        let models = match wait(self.client.unless_cancelled(self.client.served_models(), cancel)) {
            Ok(models) => models,
            Err(failure) if failure.kind == FailureKind::NotFound => {
                let named = self.config.model.as_deref().map(unlisted);
                return named.ok_or_else(|| {
                    Error::invalid_config("the server lists no models")
                        .with_hint("set `model` to the name it serves")
                        .with_source(failure)
                });
            }
            Err(failure) if failure.kind == FailureKind::Unreachable => {
                let command = serve_command(self.folder.as_deref(), self.config.model.as_deref());
                let hint =
                    format!("start it, for example `{command}`, and run the same command again: it goes on where it stopped");
                return Err(Error::from(failure).with_hint(hint));
            }
            Err(failure) => return Err(failure.into()),
        };
        let listed = || models.iter().map(|model| format!("`{}`", model.id)).collect::<Vec<_>>().join(", ");
        match (&self.config.model, models.as_slice()) {
            (Some(name), _) => models.iter().find(|model| model.id == *name).cloned().ok_or_else(|| {
                Error::invalid_config(format!("the server at `{}` serves no model `{name}`", self.config.server.base_url))
                    .with_hint(if models.is_empty() { "it serves none".to_owned() } else { format!("it serves {}", listed()) })
            }),
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(Error::invalid_config(format!("the server at `{}` serves no model", self.config.server.base_url))),
            (None, _) => {
                Err(Error::invalid_config(format!("the server at `{}` serves several models", self.config.server.base_url))
                    .with_hint(format!("set `model` to one of {}", listed())))
            }
        }
    }

    /// Where the log-probabilities of answers sampled like this come from.
    pub(super) fn log_probs(
        &self,
        connection: &mut Connection,
        first: &Asked,
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<LogProbs> {
        connection.check_sampling(sampling)?;
        if !sampling.log_probs {
            return Ok(LogProbs::Unasked);
        }
        if sampling.is_greedy() {
            return Ok(LogProbs::Certain);
        }
        let is_the_models_own = sampling.temperature == 1.0
            && sampling.top_p == 1.0
            && sampling.top_k == 0
            && sampling.min_p == 0.0
            && sampling.repetition_penalty == 1.0;
        if is_the_models_own {
            return Ok(LogProbs::Server);
        }
        let reports_processed = match connection.reports_processed {
            Some(known) => known,
            None if connection.is_vllm => connection.reports_processed(&self.client, first, self.codec.as_ref(), ctx)?,
            None => false,
        };
        connection.reports_processed = Some(reports_processed);
        if reports_processed {
            return Ok(LogProbs::Server);
        }
        Err(Error::invalid_config(
            "the server reports log-probabilities of the model's own distribution, not of the one that temperature, truncation and penalty \
             leave to sample from",
        )
        .with_hint(
            "start vLLM with `--logprobs-mode processed_logprobs`, sample at temperature 1 without truncation, or leave `log_probs` out",
        ))
    }
}

impl Connection {
    /// That the server can sample like this.
    fn check_sampling(&self, sampling: &SamplingParams) -> Result<()> {
        let neutral = [
            ("top_k", sampling.top_k == 0),
            ("min_p", sampling.min_p == 0.0),
            ("repetition_penalty", sampling.repetition_penalty == 1.0),
        ];
        match neutral.into_iter().find(|(_, is_neutral)| !is_neutral).filter(|_| !self.is_vllm) {
            Some((key, _)) => Err(Error::invalid_config(format!("`{key}` is set, which OpenAI's interface does not have"))
                .with_hint("leave it out, or set `dialect = \"vllm\"` when the server takes vLLM's parameters")),
            None => Ok(()),
        }
    }

    /// That every prompt leaves room for one token of its answer.
    pub(super) fn check_lengths(&self, asked: &[Asked]) -> Result<()> {
        let Some(limit) = self.max_model_len.map(|length| length.saturating_sub(1) as usize) else { return Ok(()) };
        let too_long =
            asked.iter().find_map(|asked| Some((asked, asked.ids.as_ref()?.len())).filter(|(_, length)| *length > limit));
        let Some((asked, length)) = too_long else { return Ok(()) };
        let message =
            format!("the prompt of instruction `{}` has {length} tokens, what the server's context allows is {limit}", asked.id);
        Err(Error::invalid_data(message)
            .with_hint("shorten or remove the instruction, or start the server with a longer context (vLLM: `--max-model-len`)"))
    }

    /// The request for one answer.
    pub(super) fn request(
        &self,
        client: &Client,
        asked: &Asked,
        sampling: &SamplingParams,
        log_probs: LogProbs,
        codec: Option<&TextCodec>,
        seed: Seed,
    ) -> Answering {
        let room = match (self.max_model_len, &asked.ids) {
            (Some(length), Some(ids)) => length.saturating_sub(ids.len() as u32).max(1),
            _ => u32::MAX,
        };
        let vllm = || VllmDecoding {
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            stop_token_ids: codec.map(TextCodec::stop_ids).unwrap_or_default(),
        };
        let decoding = Decoding {
            max_tokens: sampling.max_new_tokens.min(room),
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            // The lowest 31 bits: every server takes those.
            seed: Some(seed.to_i64() as u64 & 0x7fff_ffff),
            stop: sampling.stop.clone(),
            logit_bias: BTreeMap::new(),
            // vLLM gives the sampled token's alone for 0; others take 0 for none.
            log_probs: (log_probs == LogProbs::Server).then_some(u32::from(!self.is_vllm)),
            vllm: self.is_vllm.then(vllm),
        };
        let model = self.model.clone();
        let prompt = match (self.sending, &asked.ids) {
            (Sending::Messages, _) => {
                let messages = asked.messages.clone();
                return Box::pin(client.chat(ChatRequest { decoding, ..ChatRequest::new(model, messages) }));
            }
            (Sending::Tokens, Some(ids)) => Prompt::Tokens(ids.clone()),
            _ => Prompt::Text(asked.text.clone()),
        };
        Box::pin(client.complete(CompletionRequest { model, prompt, decoding }))
    }

    /// Whether log-probabilities are of the distribution that is sampled from. With one token left to choose from, such
    /// log-probabilities are all 0; the model's own are not.
    fn reports_processed(&self, client: &Client, first: &Asked, codec: Option<&TextCodec>, ctx: &RunContext<'_>) -> Result<bool> {
        let sampling = SamplingParams { top_k: 1, max_new_tokens: PROBE_TOKENS, ..SamplingParams::default() };
        let seed = ctx.seed.child("log-probability probe", 0);
        let asking = self.request(client, first, &sampling, LogProbs::Server, codec, seed);
        let answer = wait(client.unless_cancelled(asking, ctx.cancel))?;
        let tokens = answer.log_probs.filter(|tokens| !tokens.is_empty()).ok_or_else(no_log_probs)?;
        Ok(tokens.iter().all(|token| token.log_prob.abs() < 1e-6))
    }

    /// That the server saw the prompt that training sees.
    pub(super) fn check_prompt(&self, answer: &Answer, asked: &Asked, codec: Option<&TextCodec>) -> Result<()> {
        let (Some(ours), Some(codec)) = (&asked.ids, codec) else { return Ok(()) };
        match (&answer.prompt_token_ids, answer.n_prompt_tokens) {
            (Some(theirs), _) => agreement::same_rendering(codec, ours, theirs, &format!("instruction `{}`", asked.id)),
            (None, Some(n)) if n as usize == ours.len() => Ok(()),
            (None, Some(n)) => Err(Error::invalid_config(format!(
                "the server counts {n} tokens in the prompt of instruction `{}`, the checkpoint has {}",
                asked.id,
                ours.len()
            ))
            .with_hint(
                "it adds a beginning-of-sequence token, cuts prompts, reads special tokens in the text, or has another tokenizer",
            )),
            (None, None) if self.sending == Sending::Text => Err(Error::invalid_config(
                "the server neither shows its tokenizer nor counts tokens, so nobody can say what it reads",
            )
            .with_hint("accept that with `template = \"server\"`")),
            (None, None) => Ok(()),
        }
    }
}

/// How vLLM is started over a checkpoint; a low-rank adapter is served beside the model it changes.
fn serve_command(folder: Option<&Path>, name: Option<&str>) -> String {
    let shown = folder.map_or_else(|| "MODEL".to_owned(), |folder| folder.display().to_string());
    if folder.is_some_and(|folder| folder.join(ADAPTER_CONFIG).is_file()) {
        let name = name.unwrap_or("adapter");
        return format!("vllm serve BASE_MODEL --enable-lora --lora-modules {name}={shown}");
    }
    let name = name.map(|name| format!(" --served-model-name {name}")).unwrap_or_default();
    format!("vllm serve {shown}{name}")
}

/// A failure after sampling began.
pub(super) fn lost(failure: Failure) -> Error {
    let may_pass = failure.may_pass();
    let error = Error::from(failure);
    match error.hint().filter(|_| may_pass) {
        Some(hint) => {
            let hint = format!("{hint}; what was finished is kept, and the same command goes on from there");
            error.with_hint(hint)
        }
        None => error,
    }
}

/// A server that leaves out what was asked for.
pub(super) fn no_log_probs() -> Error {
    Error::new(ErrorKind::RemoteService, "the server gave no log-probabilities, which `log_probs` asks for")
        .with_hint("leave `log_probs` out, or use a server that gives them, such as vLLM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_starts_a_server_fits_what_the_folder_holds() {
        let dir = tempfile::tempdir().expect("a folder");
        let shown = dir.path().display();
        assert_eq!(serve_command(None, Some("m")), "vllm serve MODEL --served-model-name m");
        assert_eq!(serve_command(Some(dir.path()), None), format!("vllm serve {shown}"));
        std::fs::write(dir.path().join(ADAPTER_CONFIG), "{}").expect("written");
        let adapter = format!("vllm serve BASE_MODEL --enable-lora --lora-modules dpo={shown}");
        assert_eq!(serve_command(Some(dir.path()), Some("dpo")), adapter);
    }
}
