//! AlpacaFarm's pool of thirteen with label noise, against a server that answers in each member's own format: who judges, in which
//! order, with which noise and what verdict is as `golden/make_alpaca_farm_pool.py` says, which shares no code with this crate.
//!
//! Once with prompts and settings written here, and once with AlpacaFarm's own where `../shared/data/judge_prompts` lies beside the
//! repository.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farmhand_annotators::chat::alpaca_eval::read_settings;
use farmhand_annotators::chat::prompt::{Example, Prompt};
use farmhand_core::run::StageDir;
use farmhand_core::types::{Annotation, Comparison, Instruction, ShownOrder};
use farmhand_core::{AnnotatorSpec, BuildContext, CancelFlag, Device, ErrorKind, NoEvents, PollingExecutor, RunContext, Seed};
use farmhand_endpoints::loopback::{Loopback, Received, Reply};
use serde::Deserialize;
use serde_json::{Value, json};

/// Name, settings' model, batch size, way of answering; in the order of AlpacaFarm's file.
const MEMBERS: [(&str, &str, usize, Style); 13] = [
    ("gpt4_1", "gpt-4-0314", 4, Style::Json),
    ("gpt4_2", "gpt-4-0314", 5, Style::Lines),
    ("gpt4_3", "gpt-4-0314", 5, Style::Lines),
    ("gpt4_4", "gpt-4-0314", 1, Style::Lines),
    ("gpt4_5", "gpt-4-0314", 5, Style::Lines),
    ("chatgpt_1", "gpt-3.5-turbo-0301", 1, Style::Lines),
    ("chatgpt_2", "gpt-3.5-turbo-0301", 1, Style::Json),
    ("chatgpt_3", "gpt-3.5-turbo-0301", 1, Style::Words),
    ("chatgpt_4", "gpt-3.5-turbo-0301", 1, Style::Words),
    ("davinci003_1", "text-davinci-003", 4, Style::Letters),
    ("davinci003_2", "text-davinci-003", 1, Style::NewLines),
    ("davinci003_3", "text-davinci-003", 5, Style::NewLines),
    ("davinci003_4", "text-davinci-003", 1, Style::Spaces),
];

/// How a member answers, and with which patterns that is read.
#[derive(Debug, Clone, Copy)]
enum Style {
    Json,
    Lines,
    Words,
    Letters,
    NewLines,
    Spaces,
}

impl Style {
    fn pattern(self, letter: char) -> String {
        match self {
            Self::Json => format!(": {}", letter == 'a'),
            Self::Lines => format!(r"(?:^|\n) ?Output \({letter}\)"),
            Self::Words => format!(r"Output \({letter}\)"),
            Self::Letters => format!(r"\({letter}\)"),
            Self::NewLines => format!(r"\n\({letter}\)"),
            Self::Spaces => format!(r" \({letter}\)"),
        }
    }

    fn say(self, letter: char) -> String {
        match self {
            Self::Json => format!("{{\"explanation\": \"Both were read.\", \"(a) better than (b)\": {}}},\n", letter == 'a'),
            Self::Lines => format!("Output ({letter})\n"),
            Self::Words => format!("I would say Output ({letter}) then."),
            Self::Letters => format!("({letter}), "),
            Self::NewLines => format!("\n({letter})"),
            Self::Spaces => format!(" ({letter})"),
        }
    }
}

/// A line of the golden file.
#[derive(Debug, Deserialize)]
struct Expected {
    instruction: String,
    input: String,
    output_1: String,
    output_2: String,
    member: String,
    swapped: bool,
    how: String,
    preference: f64,
}

fn expected() -> Vec<Expected> {
    let lines = include_str!("golden/alpaca_farm_pool.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("a golden line")).collect()
}

fn comparison(row: &Expected) -> Comparison {
    Comparison::new(Instruction::new(row.instruction.as_str(), Some(&row.input)), row.output_1.as_str(), row.output_2.as_str())
}

/// Settings and prompts of thirteen such members, in a folder of AlpacaFarm's making.
fn write_pool(folder: &Path) {
    std::fs::create_dir_all(folder).expect("made");
    let mut settings = String::new();
    for (name, model, batch_size, style) in MEMBERS {
        let is_chat = !model.starts_with("text");
        for (which, material) in [("with_inputs", "Material: {input}\n"), ("without_inputs", "")] {
            let example = format!("Task: {{instruction}}\n{material}Output (a): {{output_1}}\nOutput (b): {{output_2}}\n");
            let asked = format!("You are judge {name} and are shown {batch_size}.\n{}", example.repeat(batch_size));
            let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}\n<|im_end|>\n");
            let prompt = if is_chat { turn("system", "You judge.") + &turn("user", &asked) } else { asked };
            std::fs::write(folder.join(format!("{name}_{which}.txt")), prompt).expect("written");
        }
        let _ = write!(
            settings,
            "{name}:\n  prompt_template:\n    with_inputs: \"pool/{name}_with_inputs.txt\"\n    without_inputs: \
             \"pool/{name}_without_inputs.txt\"\n  fn_completions: \"openai_completions\"\n  completions_kwargs:\n    model_name: \
             \"{model}\"\n    max_tokens: 250\n    temperature: 1.0\n  completion_parser_kwargs:\n    outputs_to_match:\n      1: \
             '{}'\n      2: '{}'\n  batch_size: {batch_size}\n",
            style.pattern('a'),
            style.pattern('b'),
        );
    }
    std::fs::write(folder.join("configs.yaml"), settings).expect("written");
}

/// What is asked under which name here.
fn models() -> BTreeMap<String, String> {
    let pairs = [("gpt-4-0314", "four"), ("gpt-3.5-turbo-0301", "three"), ("text-davinci-003", "text")];
    pairs.map(|(theirs, ours)| (theirs.to_owned(), ours.to_owned())).into()
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// The text before the first example of each member's prompts, with the model it asks: by this the server knows who asks.
fn openings(folder: &Path) -> Vec<(String, String, usize)> {
    let mut openings = Vec::new();
    for (i, settings) in read_settings(folder).expect("settings").into_iter().enumerate() {
        assert_eq!(settings.name, MEMBERS[i].0);
        let model = models()[&settings.completions.model].clone();
        for template in settings.prompts.with_inputs.iter().chain([&settings.prompts.without_inputs]) {
            assert_eq!(template.batch_size(), MEMBERS[i].2, "{}", settings.name);
            let field = || "\u{1}".to_owned();
            let example = Example { instruction: field(), input: field(), output_1: field(), output_2: field() };
            let text = match template.fill(&vec![example; MEMBERS[i].2]).expect("filled").remove(0) {
                Prompt::Chat(messages) => messages.into_iter().map(|message| message.content).collect::<String>(),
                Prompt::Plain(text) => text,
            };
            let opening = text.split('\u{1}').next().map(without_spaces).expect("a text");
            openings.push((model.clone(), opening, i));
        }
    }
    openings
}

/// Everything a request shows.
fn shown(request: &Received) -> String {
    let turns = request.body["messages"].as_array();
    let turns = turns.map(|turns| turns.iter().filter_map(|turn| turn["content"].as_str()).collect::<String>());
    turns.unwrap_or_else(|| request.body["prompt"].as_str().unwrap_or_default().to_owned())
}

/// The worths `<<17>>` of the answers in a text, in order.
fn worths(text: &str) -> Vec<u32> {
    text.split("<<").skip(1).filter_map(|rest| rest.split_once(">>")?.0.parse().ok()).collect()
}

/// Which member asks: the one with the longest fitting opening.
fn asking(openings: &[(String, String, usize)], request: &Received) -> usize {
    let (model, text) = (request.body["model"].as_str().unwrap_or_default(), without_spaces(&shown(request)));
    let fits = openings.iter().filter(|(whose, opening, _)| whose == model && text.starts_with(opening.as_str()));
    fits.max_by_key(|(_, opening, _)| opening.len()).map(|(.., i)| *i).expect("a member asks")
}

/// One verdict for each place of the prompt, in the member's format; padding gets the first.
fn reply(openings: &[(String, String, usize)], request: &Received) -> Reply {
    let i = asking(openings, request);
    let (name, _, batch_size, style) = MEMBERS[i];
    let worths = worths(&shown(request));
    let is_first = |pair: &[u32]| name == "chatgpt_4" || (pair[0] > pair[1]) == i.is_multiple_of(2);
    let mut letters: Vec<char> = worths.chunks(2).map(|pair| if is_first(pair) { 'a' } else { 'b' }).collect();
    letters.resize(batch_size, 'a');
    let text: String = letters.into_iter().map(|letter| style.say(letter)).collect();
    let message = json!({ "role": "assistant", "content": text });
    let choice = json!({ "index": 0, "finish_reason": "stop", "message": message, "text": text });
    let usage = json!({ "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110 });
    Reply::json(200, &json!({ "model": request.body["model"], "choices": [choice], "usage": usage }))
}

/// The tokens of a text: one for each word, and `Sorry` is two.
fn tokenized(request: &Received) -> Reply {
    let id = |word: &str| word.bytes().map(u32::from).sum::<u32>();
    let text = request.body["prompt"].as_str().unwrap_or_default();
    let mut ids: Vec<u32> = text.split(' ').filter(|word| !word.is_empty()).map(id).collect();
    if text == "Sorry" {
        ids.push(1);
    }
    Reply::json(200, &json!({ "tokens": ids }))
}

fn annotate(options: &Value, comparisons: &[Comparison], seed: u64) -> Vec<Annotation> {
    results(options, comparisons, seed).into_iter().map(|result| result.expect("a verdict")).collect()
}

fn results(options: &Value, comparisons: &[Comparison], seed: u64) -> Vec<farmhand_core::Result<Annotation>> {
    let dir = tempfile::tempdir().expect("a folder");
    let stage = StageDir::create(dir.path()).expect("made");
    let (cancel, executor, events, device) = (CancelFlag::new(), PollingExecutor, NoEvents, Device::Cpu);
    let ctx = RunContext { stage: &stage, seed: Seed::root(seed), device, events: &events, cancel: &cancel, executor: &executor };
    let annotator = AnnotatorSpec::from_json("label_noise", &options.to_string()).expect("options");
    let annotator = annotator.build(&BuildContext::new(device, dir.path())).expect("built");
    ctx.block_on(annotator.annotate(comparisons, &ctx))
}

/// The pool in `folder` with label noise, asked at `base_url`.
fn noisy_pool(folder: &Path, base_url: &str, store: Option<&Path>) -> Value {
    let mut pool = json!({
        "preset": "alpaca_farm_pool",
        "config": folder,
        "models": models(),
        "server": { "base_url": base_url, "retries": 0, "max_concurrent": 8 },
    });
    if let Some(store) = store {
        pool["store"] = json!(store);
    }
    json!({ "p": 0.1, "seeding": "alpaca_farm_0_1", "inner": { "alpaca_eval": pool } })
}

/// Judges all pairs with the pool in `folder`; gives back what the server was asked.
fn check(folder: &Path) -> Vec<(usize, Received)> {
    let known = openings(folder);
    let of_server = known.clone();
    let server =
        Loopback::start(
            move |request| {
                if request.path.ends_with("/tokenize") { tokenized(request) } else { reply(&of_server, request) }
            },
        );
    let options = noisy_pool(folder, &server.base_url(), None);
    let rows = expected();
    let comparisons: Vec<Comparison> = rows.iter().map(comparison).collect();
    let judged = annotate(&options, &comparisons, 0);
    let asked: Vec<(usize, Received)> = server
        .received()
        .into_iter()
        .filter(|request| !request.path.ends_with("/tokenize"))
        .map(|request| (asking(&known, &request), request))
        .collect();
    for (row, annotation) in rows.iter().zip(&judged) {
        assert_eq!(annotation.preference.code(), row.preference, "{row:?}");
        assert_eq!(annotation.noised, row.how == "noise", "{row:?}");
        if row.how == "judged" {
            assert_eq!(
                (annotation.annotator.as_str(), annotation.shown == ShownOrder::Swapped),
                (row.member.as_str(), row.swapped)
            );
        }
    }
    // Neither the place in the file, nor the batch, nor the run's seed changes anything.
    let backwards: Vec<Comparison> = comparisons.iter().rev().cloned().collect();
    let again = backwards.chunks(50).flat_map(|chunk| annotate(&options, chunk, 99));
    let told = |annotation: &Annotation| (annotation.preference.code(), annotation.annotator.clone(), annotation.shown);
    assert_eq!(again.map(|a| told(&a)).collect::<Vec<_>>(), judged.iter().rev().map(told).collect::<Vec<_>>());
    sheets_are_in_order(&rows, &asked);
    asked
}

/// Each judged pair was shown once, to its member; no prompt mixes examples with and without input; noise was not sent.
fn sheets_are_in_order(rows: &[Expected], asked: &[(usize, Received)]) {
    let mut by_worths: BTreeMap<Vec<u32>, &Expected> = BTreeMap::new();
    for row in rows {
        let mut both = worths(&format!("{}{}", row.output_1, row.output_2));
        both.sort_unstable();
        by_worths.insert(both, row);
    }
    let mut n_shown = 0;
    for (i, request) in asked {
        let pairs: Vec<Vec<u32>> = worths(&shown(request)).chunks(2).map(<[u32]>::to_vec).collect();
        assert!((1..=MEMBERS[*i].2).contains(&pairs.len()), "{} examples for {}", pairs.len(), MEMBERS[*i].0);
        let of = |mut pair: Vec<u32>| {
            let first = pair[0];
            pair.sort_unstable();
            let row = by_worths[&pair];
            assert_eq!((row.how.as_str(), row.member.as_str()), ("judged", MEMBERS[*i].0));
            assert_eq!(worths(&row.output_1)[0] != first, row.swapped, "{row:?}");
            row.input.is_empty()
        };
        let without_input: Vec<bool> = pairs.into_iter().map(of).collect();
        n_shown += without_input.len();
        assert!(
            without_input.iter().all(|without| *without == without_input[0]),
            "a prompt mixes examples with and without input"
        );
    }
    assert_eq!(n_shown, rows.iter().filter(|row| row.how == "judged").count());
}

#[test]
fn the_thirteen_judge_as_alpaca_farms() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("pool");
    write_pool(&folder);
    let asked = check(&folder);
    let members: std::collections::BTreeSet<usize> = asked.iter().map(|(i, _)| *i).collect();
    assert_eq!(members.len(), 13);
    for (i, request) in &asked {
        let route = if MEMBERS[*i].1.starts_with("text") { "/completions" } else { "/chat/completions" };
        assert!(request.path.ends_with(route), "{} asks {}", MEMBERS[*i].0, request.path);
    }
}

/// AlpacaEval keeps a failure as the verdict −1 and never asks again.
#[test]
fn what_failed_is_typed_and_asked_again_and_nothing_else_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("pool");
    write_pool(&folder);
    let (of_server, is_busy) = (openings(&folder), Arc::new(AtomicBool::new(true)));
    let busy = is_busy.clone();
    let server = Loopback::start(move |request| {
        let is_chatgpt = request.body["model"] == "three";
        if is_chatgpt && busy.load(Ordering::SeqCst) {
            return Reply::json(503, &json!({ "error": { "message": "overloaded" } }));
        }
        reply(&of_server, request)
    });
    let options = noisy_pool(&folder, &server.base_url(), Some(&dir.path().join("replies.sqlite")));
    let rows = expected();
    let comparisons: Vec<Comparison> = rows.iter().map(comparison).collect();
    let first = results(&options, &comparisons, 0);
    let mut n_failed = 0;
    for (row, result) in rows.iter().zip(&first) {
        let fails = row.how == "judged" && row.member.starts_with("chatgpt");
        n_failed += usize::from(fails);
        match result {
            Ok(annotation) => assert!(!fails && annotation.preference.code() == row.preference, "{row:?}"),
            Err(error) => {
                assert!(fails && error.kind() == ErrorKind::RemoteService, "{row:?}: {error}");
                assert_eq!(error.judging().and_then(|judging| judging.annotator.as_deref()), Some(row.member.as_str()));
            }
        }
    }
    assert!(n_failed > 40, "{n_failed} failed");
    is_busy.store(false, Ordering::SeqCst);
    let n_asked = server.received().len();
    let second = annotate(&options, &comparisons, 0);
    assert_eq!(server.received().len(), n_asked + n_failed);
    assert!(second.iter().zip(&rows).all(|(annotation, row)| annotation.preference.code() == row.preference));
    annotate(&options, &comparisons, 0);
    assert_eq!(server.received().len(), n_asked + n_failed, "nothing is paid twice");
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn the_thirteen_judge_with_their_own_prompts() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/judge_prompts/alpaca_farm/annotator_pool_v0");
    if !folder.is_dir() {
        eprintln!("skipped: there is no {}", folder.display());
        return;
    }
    for (i, request) in check(&folder) {
        let bias = &request.body["logit_bias"];
        let is_biased = ["gpt4_4", "chatgpt_1", "chatgpt_2", "chatgpt_3", "chatgpt_4", "davinci003_1"].contains(&MEMBERS[i].0);
        assert_eq!(bias.as_object().is_some_and(|bias| !bias.is_empty()), is_biased, "{}: {bias}", MEMBERS[i].0);
        let id = |word: &str| word.bytes().map(u32::from).sum::<u32>().to_string();
        if MEMBERS[i].0 == "chatgpt_1" {
            assert_eq!(
                (bias[id("Both")].as_f64(), bias[id("Output")].as_f64(), bias[id("(b)")].as_f64()),
                (Some(-100.0), Some(7.0), Some(7.0))
            );
            assert_eq!(bias[id("Sorry")].as_f64(), None, "several tokens are not avoided");
        }
    }
}
