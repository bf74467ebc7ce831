//! The policy against a server that behaves, and against servers that differ in silence.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farmhand_core::types::{Completion, FinishReason, Instruction, Message, Role, SamplingParams};
use farmhand_core::{
    BuildContext, Checkpoint, Device, Error, ErrorKind, Event, NoEvents, Policy, PolicyConfig, RecordedEvents, Result, checked,
};
use farmhand_endpoints::loopback::{Loopback, Received, Reply, nobody};
use farmhand_endpoints::{Backoff, Client, EndpointOptions};
use farmhand_models::{LanguageModel, PromptFormat, TextCodec};
use serde_json::json;

use super::fake_vllm::{Behaviour, start, start_with};
use super::{Api, Dialect, OpenAiServer, OpenAiServerConfig, Template};
use crate::testing::{Stage, instructions, tiny_checkpoint, tokenizer};

fn codec(format: PromptFormat) -> TextCodec {
    TextCodec::new(tokenizer(), format).expect("a codec")
}

fn config(server: &Loopback) -> OpenAiServerConfig {
    OpenAiServerConfig {
        server: EndpointOptions {
            base_url: server.base_url(),
            timeout_secs: 20.0,
            retries: 1,
            max_concurrent: 8,
            ..OpenAiServerConfig::default().server
        },
        ..OpenAiServerConfig::default()
    }
}

fn chat(server: &Loopback) -> OpenAiServerConfig {
    OpenAiServerConfig { api: Api::Chat, prompt: Some(PromptFormat::Chat), ..config(server) }
}

/// The policy over a tiny checkpoint, with short waits between tries.
fn policy(config: &OpenAiServerConfig, checkpoint: &Checkpoint) -> Box<dyn Policy> {
    let mut build = BuildContext::new(Device::Cpu, Path::new("."));
    build.policy = Some(checkpoint);
    assert_eq!(config.problems(), []);
    let codec = config.codec(&build).expect("a codec");
    let client = Client::new(&config.server, None).expect("a client");
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(20) };
    Box::new(OpenAiServer::new(config.clone(), client.with_backoff(backoff), codec))
}

fn sampling(n: u32) -> SamplingParams {
    SamplingParams { n, max_new_tokens: 10, log_probs: true, ..SamplingParams::default() }
}

fn ask_with(config: &OpenAiServerConfig, instructions: &[Instruction], sampling: &SamplingParams) -> Result<Vec<Completion>> {
    let stage = Stage::new();
    let mut policy = policy(config, &tiny_checkpoint(&stage));
    checked::generate(policy.as_mut(), instructions, sampling, &stage.context(&NoEvents))
}

fn ask(config: &OpenAiServerConfig) -> Result<Vec<Completion>> {
    ask_with(config, &instructions(2), &sampling(2))
}

fn refusal(config: &OpenAiServerConfig) -> Error {
    ask(config).expect_err("refused")
}

fn asked_for_answers(server: &Loopback) -> Vec<Received> {
    server.received().into_iter().filter(|request| request.path.ends_with("completions")).collect()
}

#[test]
fn answers_follow_from_instruction_sample_and_seed_whichever_comes_first() {
    let server = start(codec(PromptFormat::None), Behaviour::default());
    let stage = Stage::new();
    let ctx = stage.context(&NoEvents);
    let checkpoint = tiny_checkpoint(&stage);
    let items = instructions(6);
    let all = checked::generate(policy(&config(&server), &checkpoint).as_mut(), &items, &sampling(4), &ctx).expect("answered");
    assert_eq!(all[0].model, "base");
    assert!(
        all.iter().any(|answer| answer.finish == FinishReason::Stop)
            && all.iter().any(|answer| answer.finish == FinishReason::Length)
    );
    for answer in &all {
        assert_eq!(answer.log_prob, Some(-0.25 * f64::from(answer.n_tokens)));
        let n_letters = answer.n_tokens as usize - usize::from(answer.finish == FinishReason::Stop);
        assert_eq!(answer.output.chars().count(), n_letters);
    }
    let mut alone = config(&server);
    alone.server.max_concurrent = 1;
    let fewer = checked::generate(policy(&alone, &checkpoint).as_mut(), &items[3..4], &sampling(2), &ctx).expect("answered");
    assert_eq!(fewer[..2], all[12..14]);
    let other = ctx.with_seed(ctx.seed.child("other", 0));
    let again = checked::generate(policy(&alone, &checkpoint).as_mut(), &items[3..4], &sampling(2), &other).expect("answered");
    assert_ne!(again[..2], all[12..14]);

    let sent = &asked_for_answers(&server)[0].body;
    let ids = codec(PromptFormat::None).prompt(&items[0]).expect("encoded");
    assert!(asked_for_answers(&server).iter().any(|request| request.body["prompt"] == json!(ids)));
    for (key, value) in
        [("top_k", json!(0)), ("min_p", json!(0.0)), ("repetition_penalty", json!(1.0)), ("temperature", json!(1.0))]
    {
        assert_eq!(sent[key], value, "{key} must not be left to the server");
    }
    assert_eq!(sent["stop_token_ids"], json!(codec(PromptFormat::None).stop_ids()));
}

#[test]
fn a_stop_text_ends_an_answer_and_greedy_decoding_is_certain() {
    let server = start(codec(PromptFormat::None), Behaviour::default());
    let stopping = SamplingParams { stop: vec!["a".to_owned()], max_new_tokens: 30, ..sampling(6) };
    let answers = ask_with(&config(&server), &instructions(3), &stopping).expect("answered");
    assert!(answers.iter().all(|answer| !answer.output.contains('a')));
    assert!(answers.iter().any(|answer| answer.finish == FinishReason::StopString));
    let greedy = SamplingParams { temperature: 0.0, ..sampling(1) };
    let answers = ask_with(&config(&server), &instructions(1), &greedy).expect("answered");
    assert_eq!(answers[0].log_prob, Some(0.0));
    let unasked =
        ask_with(&config(&server), &instructions(1), &SamplingParams { log_probs: false, ..sampling(1) }).expect("answered");
    assert_eq!(unasked[0].log_prob, None);
}

#[test]
fn a_tokenizer_that_differs_is_refused_before_anything_is_sampled() {
    let server = start(codec(PromptFormat::None), Behaviour { has_other_tokenizer: true, ..Behaviour::default() });
    let error = refusal(&config(&server));
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("another tokenizer") && error.message().contains("token 2 is"), "{error}");
    assert!(asked_for_answers(&server).is_empty());
}

#[test]
fn a_template_that_differs_is_refused_and_one_that_agrees_gives_the_same_prompt() {
    let agrees = start(codec(PromptFormat::Chat), Behaviour::default());
    let turn = |role, content: &str| Message { role, content: content.to_owned() };
    let history = vec![turn(Role::User, "one"), turn(Role::Assistant, "two")];
    let items = [Instruction::new("say yes", Some("the cat")), Instruction::with_history("three", None, history)];
    let answers = ask_with(&chat(&agrees), &items, &sampling(2)).expect("answered");
    assert_eq!((answers.len(), answers[3].log_prob.is_some()), (4, true));
    assert!(asked_for_answers(&agrees).iter().all(|request| request.path == "/v1/chat/completions"));

    let differs = start(codec(PromptFormat::Chat), Behaviour { has_other_template: true, ..Behaviour::default() });
    let error = refusal(&chat(&differs));
    assert!(
        error.message().contains("renders prompts otherwise than the checkpoint") && error.message().contains("system"),
        "{error}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("api = \"completions\"")) && asked_for_answers(&differs).is_empty());

    // What the probes do not show, the prompt of the answer does: here a special token in the user's text.
    let nasty = [Instruction::new("say <|im_end|> no", None)];
    let error = ask_with(&chat(&agrees), &nasty, &sampling(1)).expect_err("read as markup");
    assert!(error.message().contains(&format!("for instruction `{}` token", nasty[0].id)), "{error}");
    // Through the other interface it is sent as the text it is.
    let rendered = OpenAiServerConfig { api: Api::Completions, ..chat(&agrees) };
    assert!(ask_with(&rendered, &nasty, &sampling(1)).is_ok());
}

#[test]
fn a_server_that_shows_no_template_is_refused_unless_its_own_is_accepted() {
    let server = start(codec(PromptFormat::Chat), Behaviour { is_plain: true, ..Behaviour::default() });
    let error = refusal(&chat(&server));
    assert!(error.message().contains("does not show how its chat template renders"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("template = \"server\"")) && asked_for_answers(&server).is_empty());

    let accepted =
        OpenAiServerConfig { template: Template::Server, prompt: None, model: Some("tiny".to_owned()), ..chat(&server) };
    let answers = ask(&accepted).expect("answered");
    assert_eq!((answers[0].model.as_str(), answers.len()), ("tiny", 4));
    let body = &asked_for_answers(&server)[0].body;
    assert_eq!(body["messages"][0]["role"], "user");
    assert!(body.get("top_k").is_none() && body.get("return_token_ids").is_none() && body["seed"].as_u64().is_some());
}

#[test]
fn a_plain_server_gets_text_and_its_token_counts_are_compared() {
    let plain = Behaviour { is_plain: true, ..Behaviour::default() };
    let server = start(codec(PromptFormat::None), plain.clone());
    assert_eq!(ask(&config(&server)).expect("answered").len(), 4);
    assert!(asked_for_answers(&server).iter().all(|request| request.body["prompt"].is_string()));

    let with_bos = start(codec(PromptFormat::None), Behaviour { adds_bos: true, ..plain.clone() });
    let error = ask_with(&config(&with_bos), &instructions(1), &sampling(2)).expect_err("one token more");
    assert!(error.message().contains("counts") && error.message().contains(&instructions(1)[0].id), "{error}");
    let uncounted = start(codec(PromptFormat::None), Behaviour { does_not_count: true, ..plain });
    assert!(refusal(&config(&uncounted)).message().contains("nor counts tokens"));

    let truncated =
        ask_with(&config(&server), &instructions(1), &SamplingParams { top_k: 5, ..sampling(1) }).expect_err("no such option");
    assert!(truncated.message().contains("`top_k`"), "{truncated}");
    let stopped = ask_with(
        &config(&server),
        &instructions(3),
        &SamplingParams { stop: vec!["zz".to_owned()], max_new_tokens: 30, ..sampling(2) },
    );
    assert!(stopped.expect_err("ambiguous").message().contains("does not say whether"));
    let cooled =
        ask_with(&config(&server), &instructions(1), &SamplingParams { temperature: 0.5, ..sampling(1) }).expect_err("unknown");
    assert!(cooled.hint().is_some_and(|hint| hint.contains("processed_logprobs")));
}

#[test]
fn log_probabilities_must_be_of_the_distribution_that_was_sampled() {
    let cooled = SamplingParams { temperature: 0.5, top_k: 3, ..sampling(1) };
    let raw = start(codec(PromptFormat::None), Behaviour::default());
    let error = ask_with(&config(&raw), &instructions(1), &cooled).expect_err("the model's own");
    assert!(
        error.message().contains("the model's own distribution") && error.hint().is_some_and(|hint| hint.contains("processed")),
        "{error}"
    );
    let processed = start(codec(PromptFormat::None), Behaviour { reports_processed: true, ..Behaviour::default() });
    assert!(ask_with(&config(&processed), &instructions(1), &cooled).expect("answered")[0].log_prob.is_some());
    let without = SamplingParams { log_probs: false, ..cooled };
    assert!(ask_with(&config(&raw), &instructions(1), &without).is_ok());

    let silent = start(codec(PromptFormat::None), Behaviour { is_silent: true, ..Behaviour::default() });
    let error = refusal(&config(&silent));
    assert!(error.message().contains("gave no log-probabilities") && error.kind() == ErrorKind::RemoteService, "{error}");
}

#[test]
fn weights_that_differ_are_refused_when_they_are_compared() {
    let stage = Stage::new();
    let model = LanguageModel::load(tiny_checkpoint(&stage).path(), tch::Device::Cpu).expect("loaded");
    let served = Behaviour { weights: Some(Arc::new(Mutex::new(model))), ..Behaviour::default() };
    let same = start(codec(PromptFormat::None), served);
    let close = |server: &Loopback| OpenAiServerConfig { max_log_prob_gap: Some(1e-3), ..config(server) };
    assert_eq!(ask(&close(&same)).expect("answered").len(), 4);
    let other = start(codec(PromptFormat::None), Behaviour::default());
    let error = refusal(&close(&other));
    assert!(error.message().contains("nats a token from those of") && error.kind() == ErrorKind::InvalidConfig, "{error}");
    assert_eq!(asked_for_answers(&other).len(), 1, "one answer is compared, and no more is sampled");
    let plain = start(codec(PromptFormat::None), Behaviour { is_plain: true, ..Behaviour::default() });
    assert!(refusal(&close(&plain)).message().contains("cannot be compared"));
}

#[test]
fn a_server_that_names_another_folder_is_warned_of() {
    let stage = Stage::new();
    let checkpoint = tiny_checkpoint(&stage);
    let warnings = |root: &Path| {
        let root = root.display().to_string();
        let server = start(codec(PromptFormat::None), Behaviour { root, ..Behaviour::default() });
        let events = RecordedEvents::default();
        let answers = policy(&config(&server), &checkpoint).generate(&instructions(1), &sampling(1), &stage.context(&events));
        assert_eq!(answers.expect("answered").len(), 1);
        events.take().iter().filter(|event| matches!(event, Event::Message { level, .. } if level == "warning")).count()
    };
    assert_eq!(warnings(checkpoint.path()), 0);
    assert_eq!(warnings(Path::new("no/such/folder")), 0);
    assert_eq!(warnings(stage.path()), 1);
}

#[test]
fn the_model_is_found_by_name_or_because_it_is_the_only_one() {
    let several = start(codec(PromptFormat::None), Behaviour { models: vec!["base", "tuned"], ..Behaviour::default() });
    let error = refusal(&config(&several));
    assert!(
        error.message().contains("several models") && error.hint().is_some_and(|hint| hint.contains("`base`, `tuned`")),
        "{error}"
    );
    let wrong = OpenAiServerConfig { model: Some("tinned".to_owned()), ..config(&several) };
    let error = refusal(&wrong);
    assert!(
        error.message().contains("serves no model `tinned`") && error.hint().is_some_and(|hint| hint.contains("`tuned`")),
        "{error}"
    );
    let named = OpenAiServerConfig { model: Some("tuned".to_owned()), ..config(&several) };
    assert!(ask(&named).is_ok());
    assert!(asked_for_answers(&several).iter().all(|request| request.body["model"] == "tuned"));
}

#[test]
fn a_prompt_beyond_the_servers_context_is_named_and_a_long_answer_gets_what_room_there_is() {
    let short = start(codec(PromptFormat::None), Behaviour { max_model_len: 24, ..Behaviour::default() });
    let mut items = instructions(2);
    let wanting = SamplingParams { max_new_tokens: 200, ..sampling(1) };
    assert!(ask_with(&config(&short), &items, &wanting).is_ok());
    items.push(Instruction::new("count one two three four five six ".repeat(4), None));
    let error = ask_with(&config(&short), &items, &sampling(1)).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.message().contains(&items[2].id) && error.message().contains("is 23"), "{error}");
    // A plain server does not tell its context; it refuses, and its words name the instruction.
    let plain = start(codec(PromptFormat::None), Behaviour { max_model_len: 24, is_plain: true, ..Behaviour::default() });
    let error = ask_with(&config(&plain), &items[2..], &sampling(1)).expect_err("too long");
    assert!(error.message().contains(&items[2].id) && error.message().contains("maximum context length is 24"), "{error}");
}

#[test]
fn servers_that_fail_are_told_apart_and_what_passes_passes() {
    let mut absent = OpenAiServerConfig::default();
    absent.server.base_url = nobody();
    let error = refusal(&absent);
    assert!(
        error.is_retryable() && error.hint().is_some_and(|hint| hint.contains("vllm serve") && hint.contains("base")),
        "{error}"
    );

    let answer = |status: u16, code: &'static str| {
        move |request: &Received| {
            let body = json!({ "error": { "message": "no", "code": code } });
            request.path.ends_with("completions").then(|| Reply::json(status, &body))
        }
    };
    let behaves = || (codec(PromptFormat::None), Behaviour::default());
    for (status, code, part) in [
        (401, "invalid_api_key", "401"),
        (404, "model_not_found", "404"),
        (429, "rate_limit", "429 2 times"),
        (500, "x", "500 2 times"),
    ] {
        let (codec, behaviour) = behaves();
        let server = start_with(codec, behaviour, answer(status, code));
        let error = refusal(&config(&server));
        assert!(error.kind() == ErrorKind::RemoteService && error.message().contains(part), "{error}");
        assert!(error.message().contains("instruction `"), "{error}");
        assert_eq!(error.hint().is_some_and(|hint| hint.contains("goes on from there")), error.is_retryable());
    }
    let (codec_, behaviour) = behaves();
    let garbage =
        start_with(codec_, behaviour, |request| request.path.ends_with("completions").then(|| Reply::text(200, "<html>")));
    assert!(refusal(&config(&garbage)).message().contains("cannot be read"));

    let (codec_, behaviour) = behaves();
    let (busy, count) = (json!({ "error": { "message": "busy" } }), AtomicUsize::new(0));
    let recovers = start_with(codec_, behaviour, move |request| {
        let is_first = request.path.ends_with("completions") && count.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| Reply::json_with(429, ("retry-after", "0.05"), &busy))
    });
    assert_eq!(ask(&config(&recovers)).expect("answered").len(), 4);

    let foreign = Loopback::start(|_| Reply::text(200, "<html>welcome</html>"));
    assert!(refusal(&config(&foreign)).hint().is_some_and(|hint| hint.contains("`base_url`")));
}

#[test]
fn a_wish_to_stop_is_heeded_at_once_and_what_was_used_is_recorded() {
    let stage = Stage::new();
    let server = start(codec(PromptFormat::None), Behaviour::default());
    let mut model = policy(&config(&server), &tiny_checkpoint(&stage));
    let events = RecordedEvents::default();
    let answers = model.generate(&instructions(3), &sampling(2), &stage.context(&events)).expect("answered");
    let n_tokens: u32 = answers.iter().map(|answer| answer.n_tokens).sum();
    assert_eq!(events.scalars("openai_server/completion_tokens"), [(0, f64::from(n_tokens))]);
    assert!(events.scalars("openai_server/prompt_tokens")[0].1 > 0.0 && events.scalars("openai_server/retries")[0].1 == 0.0);
    assert!(format!("{:?}", events.take()).contains("PhaseFinished { phase: \"sampling\", done: 6"));

    let stuck = start_with(codec(PromptFormat::None), Behaviour::default(), |request| {
        request.path.ends_with("completions").then(|| {
            std::thread::sleep(Duration::from_secs(4));
            Reply::HangUp
        })
    });
    let mut model = policy(&config(&stuck), &tiny_checkpoint(&stage));
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            stage.cancel.cancel();
        });
        let error = model.generate(&instructions(3), &sampling(2), &stage.context(&NoEvents)).expect_err("stopped");
        assert!(error.is_cancelled(), "{error}");
    });
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn options_that_cannot_work_are_found_before_anything_is_loaded() {
    let paths = |config: OpenAiServerConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
    let (default, anthropic) = (OpenAiServerConfig::default, farmhand_endpoints::Api::Anthropic);
    assert_eq!(paths(default()), [""; 0]);
    assert_eq!(
        paths(OpenAiServerConfig {
            server: EndpointOptions {
                base_url: "localhost".to_owned(),
                max_concurrent: 0,
                api: anthropic,
                ..EndpointOptions::default()
            },
            ..default()
        }),
        ["server.base_url", "server.max_concurrent", "server.api"]
    );
    let server = |api, prompt| OpenAiServerConfig { template: Template::Server, api, prompt, ..default() };
    assert_eq!(paths(server(Api::Completions, Some(PromptFormat::Chat))), ["prompt"]);
    assert_eq!(paths(server(Api::Completions, Some(PromptFormat::None))), [""; 0]);
    assert_eq!(paths(server(Api::Chat, Some(PromptFormat::Chat))), ["prompt"]);
    assert_eq!(paths(OpenAiServerConfig { checkpoint: Some("x".into()), ..server(Api::Chat, None) }), ["checkpoint"]);
    assert_eq!(paths(OpenAiServerConfig { api: Api::Chat, prompt: Some(PromptFormat::Alpaca), ..default() }), ["prompt"]);

    let build =
        |config: OpenAiServerConfig| config.build(&BuildContext::new(Device::Cpu, Path::new("."))).err().expect("refused");
    assert!(build(default()).hint().is_some_and(|hint| hint.contains("`checkpoint`")));
    let mut keyed = server(Api::Chat, None);
    keyed.server.account.api_key_env = Some("FARMHAND_NO_SUCH_KEY".to_owned());
    assert!(build(keyed).message().contains("`FARMHAND_NO_SUCH_KEY` is not set"));
    let stage = Stage::new();
    let checkpoint = tiny_checkpoint(&stage);
    let mut context = BuildContext::new(Device::Cpu, Path::new("."));
    context.policy = Some(&checkpoint);
    let error =
        OpenAiServerConfig { api: Api::Chat, ..default() }.build(&context).err().expect("the checkpoint is asked plainly");
    assert!(error.message().contains("prompt format `none`"), "{error}");
    assert!(
        OpenAiServerConfig { dialect: Dialect::Openai, ..default() }.build(&context).is_ok(),
        "nothing is asked of a server yet"
    );
}
