//! A chat model behind an API as a policy: AlpacaFarm's OpenAI baselines (Dubois et al., 2023, section 4), Anthropic's models, or
//! a vLLM server whose own template counts.
//!
//! Nothing is compared with a checkpoint, and no log-probabilities come back: answers to be learned from by their
//! log-probabilities are those of `openai_server`. What is paid for is kept: every answer is on the disk as soon as it is there,
//! and a stage that was stopped, or that failed on another instruction, does not ask for it again.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use farmhand_core::run::Journal;
use farmhand_core::types::{Completion, FinishReason, Instruction, Message, Role, SamplingParams, content_id};
use farmhand_core::{
    Budget, BuildContext, Error, ErrorKind, Policy, PolicyConfig, Problem, Reservation, Result, RunContext, register,
};
use farmhand_endpoints::{
    Answer, ChatRequest, Client, Decoding, EndpointOptions, Failure, FailureKind, Finish, PriceOptions, Pricing, Usage, wait,
};
use farmhand_models::chat_messages;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

register! {
    kind: Policy, name: "openai_chat", config: OpenAiChatConfig,
    summary: "a chat model behind an API: OpenAI's, Anthropic's, or a server's own template",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// The journal of answers in the stage's folder.
const JOURNAL: &str = "openai_chat.jsonl";

/// Options of `[policy.openai_chat]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct OpenAiChatConfig {
    /// The model's name at the server.
    pub model: String,
    /// The server.
    pub server: EndpointOptions,
    /// What the model is told before the conversation; unset: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What an answer is that a content filter or the model itself refuses: `error`, the default, or `empty`, an answer without
    /// words, as in AlpacaFarm.
    pub refused: Refused,
    /// What tokens cost.
    #[serde(flatten)]
    pub price: PriceOptions,
}

/// What becomes of a refused answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// The stage ends, all other answers kept.
    #[default]
    Error,
    /// An empty answer that the limit of tokens cut off.
    Empty,
}

impl Default for OpenAiChatConfig {
    fn default() -> Self {
        Self {
            model: "gpt-4o-mini".to_owned(),
            server: EndpointOptions { base_url: "https://api.openai.com/v1".to_owned(), ..EndpointOptions::default() },
            system: None,
            refused: Refused::Error,
            price: PriceOptions::default(),
        }
    }
}

#[typetag::serde(name = "openai_chat")]
impl PolicyConfig for OpenAiChatConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let client = Client::from_options(&self.server, ctx)?;
        let pricing = self.price.pricing(ctx)?;
        let budget = ctx.budget.cloned();
        Ok(Box::new(OpenAiChat { config: self.clone(), client, pricing: Arc::new(pricing), budget, kept: None, n_calls: 0 }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.server.problems().into_iter().map(|problem| problem.under("server")).collect();
        if self.model.is_empty() {
            problems.push(Problem::new("model", "expected a name, got an empty text"));
        }
        problems.extend(self.price.problems());
        problems
    }
}

struct OpenAiChat {
    config: OpenAiChatConfig,
    client: Client,
    pricing: Arc<Pricing>,
    budget: Option<Budget>,
    kept: Option<Kept>,
    n_calls: u64,
}

/// The answers of a stage so far.
struct Kept {
    stage: PathBuf,
    journal: Journal,
    answers: HashMap<String, Answer>,
}

/// An answer and what it cost in US dollars, or why it may not be bought.
type Paid = Result<(Answer, Option<f64>)>;

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// What was asked.
    question: String,
    answer: Answer,
}

impl OpenAiChat {
    /// What is asked for one answer, and under which name that is kept.
    fn asked(
        &self,
        instruction: &Instruction,
        sample: u32,
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> (String, ChatRequest) {
        let seed = ctx.seed.child_text("completion", &instruction.id).child("sample", u64::from(sample));
        let system = self.config.system.iter().map(|text| Message { role: Role::System, content: text.clone() });
        let decoding = Decoding {
            max_tokens: sampling.max_new_tokens,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            // The lowest 31 bits: every server takes those.
            seed: Some(seed.to_i64() as u64 & 0x7fff_ffff),
            stop: sampling.stop.clone(),
            ..Decoding::default()
        };
        let messages = system.chain(chat_messages(instruction)).collect();
        let request = ChatRequest { decoding, ..ChatRequest::new(&self.config.model, messages) };
        (content_id([request.question().to_string().as_str()]), request)
    }

    /// The most that an answer may cost, as far as prices are known: four bytes are about a token.
    fn estimate(&self, request: &ChatRequest) -> f64 {
        let n_bytes: usize = request.messages.iter().map(|message| message.content.len() + 16).sum();
        let (prompt_tokens, completion_tokens) = (n_bytes.div_ceil(4) as u64, request.decoding.max_tokens.into());
        let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
        self.pricing.prices(&self.config.model).map_or(0.0, |prices| prices.cost(&usage))
    }

    /// Asks once, within the budget; gives back the answer and what it cost.
    fn asking(&self, request: ChatRequest) -> impl Future<Output = Result<Paid, Failure>> + Send + 'static {
        let (client, pricing, model) = (self.client.clone(), self.pricing.clone(), self.config.model.clone());
        let reserving = self.budget.as_ref().map(|budget| budget.reserve(self.estimate(&request)));
        async move {
            let reserved = match reserving {
                Some(reserving) => match reserving.await {
                    Ok(reserved) => Some(reserved),
                    Err(error) => return Ok(Err(error)),
                },
                None => None,
            };
            let answer = match client.chat(request).await {
                Ok(answer) => answer,
                Err(failure) => {
                    // An answer that came too late or broken is paid for as well.
                    if matches!(failure.kind, FailureKind::TimedOut | FailureKind::Garbage) {
                        reserved.into_iter().for_each(Reservation::settle_in_full);
                    }
                    return Err(failure);
                }
            };
            let cost = pricing.cost(&model, answer.model.as_deref(), &answer.usage);
            match (reserved, cost) {
                (Some(reserved), Some(cost)) => reserved.settle(cost),
                (Some(reserved), None) => reserved.settle_in_full(),
                (None, _) => {}
            }
            Ok(Ok((answer, cost)))
        }
    }

    fn kept(&mut self, ctx: &RunContext<'_>) -> Result<Kept> {
        if let Some(kept) = self.kept.take().filter(|kept| kept.stage == ctx.stage.path()) {
            return Ok(kept);
        }
        let (journal, lines) = ctx.stage.journal::<Line>(JOURNAL)?;
        let answers = lines.into_iter().map(|line| (line.question, line.answer)).collect();
        Ok(Kept { stage: ctx.stage.path().to_owned(), journal, answers })
    }

    fn completion(&self, instruction: &Instruction, sample: u32, answer: &Answer) -> Result<Completion> {
        let remote =
            |message: String| Error::new(ErrorKind::RemoteService, format!("instruction `{}`: {message}", instruction.id));
        let finish = match &answer.finish {
            // With `stop` set, the server does not say which of the two it was.
            Finish::EndOfSequence | Finish::Stop => FinishReason::Stop,
            Finish::StopText => FinishReason::StopString,
            Finish::Length => FinishReason::Length,
            Finish::Filtered if self.config.refused == Refused::Empty => FinishReason::Length,
            Finish::Filtered => {
                return Err(remote("the answer was refused".to_owned())
                    .with_hint("`refused = \"empty\"` takes an empty answer instead, or leave the instruction out"));
            }
            other => return Err(remote(format!("an answer ended with `{other:?}`, expected its end or the limit of tokens"))),
        };
        let output = if answer.finish == Finish::Filtered { String::new() } else { answer.text.clone() };
        let n_tokens =
            answer.n_completion_tokens.ok_or_else(|| remote("the server does not count an answer's tokens".to_owned()))?;
        let (instruction, model) = (instruction.clone(), self.config.model.clone());
        Ok(Completion { instruction, output, model, sample, finish, n_tokens, log_prob: None })
    }
}

/// That OpenAI's interface can sample like this.
fn check_sampling(sampling: &SamplingParams) -> Result<()> {
    let neutral = [
        ("top_k", sampling.top_k == 0),
        ("min_p", sampling.min_p == 0.0),
        ("repetition_penalty", sampling.repetition_penalty == 1.0),
        ("log_probs", !sampling.log_probs),
    ];
    match neutral.into_iter().find(|(_, is_neutral)| !is_neutral) {
        Some((key, _)) => Err(Error::invalid_config(format!("`{key}` is set, which `openai_chat` does not have"))
            .with_hint("leave it out, or use `openai_server` with a vLLM server")),
        None => Ok(()),
    }
}

impl Policy for OpenAiChat {
    fn model(&self) -> &str {
        &self.config.model
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        ctx.cancel.check()?;
        check_sampling(sampling)?;
        let mut kept = self.kept(ctx)?;
        let mut progress = ctx.progress("sampling", Some(instructions.len() as u64 * u64::from(sampling.n)), "completions");
        let each = instructions.iter().flat_map(|instruction| (0..sampling.n).map(move |sample| (instruction, sample)));
        let asked: Vec<_> = each.map(|(it, sample)| (it, sample, self.asked(it, sample, sampling, ctx))).collect();
        let open: Vec<_> = asked.iter().filter(|(_, _, (question, _))| !kept.answers.contains_key(question)).collect();
        progress.advance((asked.len() - open.len()) as u64);
        let requests = open.iter().map(|(_, _, (_, request))| self.asking(request.clone())).collect();
        let (mut cost_usd, mut used, mut failed) = (0.0, Usage::default(), None::<Error>);
        let Kept { journal, answers, .. } = &mut kept;
        // Nothing breaks off: what is under way is paid for, and what fails at once costs nothing.
        let results = wait(self.client.in_parallel(requests, ctx.cancel, |i, result| {
            let (instruction, _, (question, _)) = open[i];
            let outcome = match result {
                Ok(Ok((answer, cost))) => {
                    cost_usd += cost.unwrap_or(0.0);
                    used += answer.usage;
                    answers.insert(question.clone(), answer.clone());
                    journal.append(&[Line { question: question.clone(), answer: answer.clone() }])
                }
                Ok(Err(error)) if error.kind() == ErrorKind::BudgetSpent => Err(Error::new(error.kind(), error.message())),
                Ok(Err(error)) => Err(Error::new(error.kind(), error.to_string())),
                Err(failure) => Err(Error::from(failure.clone()).context(format_args!("instruction `{}`", instruction.id))),
            };
            match outcome {
                Ok(()) => progress.advance(1),
                Err(error) => failed = failed.take().or(Some(error)),
            }
            ControlFlow::Continue(())
        }));
        drop(progress);
        self.kept = Some(kept);
        for (name, value) in [
            ("openai_chat/prompt_tokens", used.prompt_tokens as f64),
            ("openai_chat/completion_tokens", used.completion_tokens as f64),
            ("openai_chat/cost_usd", cost_usd),
        ] {
            ctx.scalar(name, self.n_calls, value);
        }
        self.n_calls += 1;
        self.client.take_warnings().into_iter().chain(self.pricing.warning()).for_each(|warning| ctx.events.warn(&warning));
        if let Some(error) = failed {
            return Err(error);
        }
        if results.iter().any(Option::is_none) {
            return Err(Error::cancelled());
        }
        let answers = &self.kept.as_ref().expect("just put there").answers;
        asked
            .iter()
            .map(|(instruction, sample, (question, _))| self.completion(instruction, *sample, &answers[question]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use farmhand_core::{Device, NoEvents, RecordedEvents, checked};
    use farmhand_endpoints::loopback::{Loopback, Received, Reply};
    use farmhand_endpoints::{Api, Prices};
    use serde_json::json;

    use super::*;
    use crate::testing::{Stage, instructions};

    fn answer(request: &Received, finish: &str) -> Reply {
        let asked = request.body["messages"].as_array().and_then(|turns| turns.last()).expect("a turn")["content"].clone();
        let message = json!({ "content": format!("re {}", asked.as_str().expect("a text")) });
        let choice = json!({ "message": message, "finish_reason": finish });
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 4 });
        Reply::json(200, &json!({ "model": "m-1", "choices": [choice], "usage": usage }))
    }

    fn config(server: &Loopback) -> OpenAiChatConfig {
        let options =
            EndpointOptions { base_url: server.base_url(), retries: 0, max_concurrent: 2, ..EndpointOptions::default() };
        let prices = Some(Prices { prompt: 1.0, cached_prompt: None, completion: 10.0 });
        OpenAiChatConfig {
            model: "m".to_owned(),
            server: options,
            price: PriceOptions { prices, ..PriceOptions::default() },
            ..OpenAiChatConfig::default()
        }
    }

    fn ask(config: &OpenAiChatConfig, stage: &Stage, n: usize) -> Result<Vec<Completion>> {
        ask_within(config, stage, n, None)
    }

    fn ask_within(config: &OpenAiChatConfig, stage: &Stage, n: usize, budget: Option<&Budget>) -> Result<Vec<Completion>> {
        let context = BuildContext { budget, ..BuildContext::new(Device::Cpu, Path::new(".")) };
        let mut policy = config.build(&context)?;
        let sampling = SamplingParams { n: 2, max_new_tokens: 10, ..SamplingParams::default() };
        checked::generate(policy.as_mut(), &instructions(n), &sampling, &stage.context(&NoEvents))
    }

    #[test]
    fn answers_come_with_their_ends_and_costs_and_each_sample_has_its_seed() {
        let server = Loopback::start(|request| answer(request, "length"));
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let config = OpenAiChatConfig { system: Some("be brief".to_owned()), ..config(&server) };
        assert_eq!(config.problems(), []);
        let mut policy = config.build(&BuildContext::new(Device::Cpu, Path::new("."))).expect("built");
        let sampling = SamplingParams { n: 2, max_new_tokens: 10, ..SamplingParams::default() };
        let asked = instructions(3);
        let answers = policy.generate(&asked, &sampling, &stage.context(&events)).expect("answered");
        assert_eq!(answers.len(), 6);
        assert!(
            answers.iter().all(|it| it.output == format!("re {}", it.instruction.text()) && it.finish == FinishReason::Length)
        );
        assert!(answers.iter().all(|it| (it.model.as_str(), it.n_tokens) == ("m", 4)));
        assert!((events.scalars("openai_chat/cost_usd")[0].1 - 6.0 * 50e-6).abs() < 1e-12);
        let received = server.received();
        let seeds: std::collections::HashSet<_> = received.iter().map(|request| request.body["seed"].to_string()).collect();
        assert!(seeds.len() == 6 && received[0].body["messages"][0] == json!({ "role": "system", "content": "be brief" }));
        let wrong = SamplingParams { top_k: 5, ..sampling };
        assert!(policy.generate(&asked, &wrong, &stage.context(&NoEvents)).expect_err("absent").message().contains("`top_k`"));
    }

    #[test]
    fn what_was_answered_is_not_asked_again_when_the_stage_goes_on() {
        let n_asked = AtomicUsize::new(0);
        let server = Loopback::start(move |request| match n_asked.fetch_add(1, Ordering::SeqCst) {
            3 => Reply::text(500, "on fire"),
            _ => answer(request, "stop"),
        });
        let stage = Stage::new();
        let error = ask(&config(&server), &stage, 5).expect_err("one failed");
        assert!(error.message().contains("on fire") && error.message().contains("instruction `"), "{error}");
        let answers = ask(&config(&server), &stage, 5).expect("answered");
        assert!(answers.iter().all(|answer| answer.finish == FinishReason::Stop));
        assert_eq!(server.received().len(), 11, "ten answers and one failure");
        assert!(ask(&config(&server), &stage, 5).is_ok() && server.received().len() == 11);
        assert!(ask(&config(&server), &Stage::new(), 1).is_ok() && server.received().len() == 13, "another stage asks anew");
    }

    #[test]
    fn a_refusal_is_an_error_or_an_empty_answer_and_a_budget_ends_it() {
        let server = Loopback::start(|request| answer(request, "content_filter"));
        let error = ask(&config(&server), &Stage::new(), 1).expect_err("refused");
        assert!(error.hint().is_some_and(|hint| hint.contains("`refused")), "{error}");
        let empty = OpenAiChatConfig { refused: Refused::Empty, ..config(&server) };
        let answers = ask(&empty, &Stage::new(), 1).expect("taken");
        assert_eq!((answers[0].output.as_str(), answers[0].finish), ("", FinishReason::Length));

        let server = Loopback::start(|request| answer(request, "stop"));
        // An answer is taken to cost 100 µ$ and something for the prompt, and costs 50.
        let (stage, budget) = (Stage::new(), Budget::new(300e-6));
        let error = ask_within(&config(&server), &stage, 10, Some(&budget)).expect_err("20 answers cost 1000");
        assert_eq!(error.kind(), ErrorKind::BudgetSpent);
        assert!(budget.spent_usd() <= budget.limit_usd() && server.received().len() >= 2, "{}", budget.spent_usd());
    }

    #[test]
    fn anthropics_models_answer_as_well() {
        let server = Loopback::start(|_| {
            let content = [json!({ "type": "text", "text": "hello" })];
            let usage = json!({ "input_tokens": 3, "output_tokens": 1 });
            Reply::json(200, &json!({ "content": content, "stop_reason": "end_turn", "usage": usage }))
        });
        let mut config = config(&server);
        config.server.api = Api::Anthropic;
        let answers = ask(&config, &Stage::new(), 1).expect("answered");
        assert_eq!((answers[1].output.as_str(), answers[1].finish, answers[1].n_tokens), ("hello", FinishReason::Stop, 1));
        assert_eq!(server.received()[0].path, "/v1/messages");
        config.model = String::new();
        assert_eq!(config.problems()[0].path, "model");
    }
}
