//! AlpacaEval's settings: small ones against a server on the loopback interface, and all real ones.

use std::io::Write;
use std::path::{Path, PathBuf};

use farmhand_core::types::{Comparison, Instruction, Preference, ShownOrder};
use farmhand_core::{Annotator, AnnotatorConfig, ErrorKind};
use farmhand_endpoints::EndpointOptions;
use serde_json::json;

use super::{AlpacaEvalConfig, Route, read_settings};
use crate::chat::ask_options::KeepOptions;
use crate::chat::loopback_judge::{LoopbackJudge, building, called, likely, question};
use crate::testing::{Desk, comparison};

/// Writes settings and prompts, each in a folder of its own as AlpacaEval has them.
fn folder(desk: &Desk, name: &str, settings: &str, prompt: &str) {
    let folder = desk.dir.path().join(name);
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("configs.yaml"), settings).expect("written");
    std::fs::write(folder.join("prompt.txt"), prompt).expect("written");
}

fn config(name: &str, server: EndpointOptions) -> AlpacaEvalConfig {
    AlpacaEvalConfig {
        config: Some(name.into()),
        server: Some(server),
        keep: KeepOptions { store: Some("judgements.sqlite".into()), ..KeepOptions::default() },
        ..AlpacaEvalConfig::default()
    }
}

fn built(desk: &Desk, config: &AlpacaEvalConfig) -> Box<dyn Annotator> {
    config.build(&building(desk)).expect("built")
}

const PATTERNS: &str = "  completion_parser_kwargs:\n    outputs_to_match:\n      1: '(?:^|\\n) ?Output \\(a\\)'\n      2: '(?:^|\\n) ?Output \\(b\\)'\n";

#[test]
fn batches_are_padded_orders_are_alpaca_evals_and_a_wrong_count_fails_all() {
    let desk = Desk::new();
    let settings = format!(
        "pairs:\n  prompt_template: \"pairs/prompt.txt\"\n  fn_completions: openai_completions\n  completions_kwargs:\n    model_name: \"gpt-4\"\n    max_tokens: 250\n    temperature: 0\n{PATTERNS}  batch_size: 2\n"
    );
    let part = "## {instruction}\n(a) {output_1}\n(b) {output_2}\n";
    folder(&desk, "pairs", &settings, &format!("<|im_start|>user\n{part}{part}<|im_end|>"));
    // For each example the answer with `good`, for padding the first; too little where an answer says so.
    let server = LoopbackJudge::saying(|text| {
        let parts = text.split("## ").skip(1);
        let verdict = |part: &str| {
            let better_is_second = part.split("(b)").nth(1).is_some_and(|second| second.contains("good"));
            if better_is_second { "Output (b)\n" } else { "Output (a)\n" }
        };
        if text.contains("lazy") { "Output (a)".to_owned() } else { parts.map(verdict).collect() }
    });
    let judge = built(&desk, &config("pairs", server.options()));
    let pairs: Vec<Comparison> = (0..5).map(|i| comparison(i, "bad", "good")).collect();
    let annotations = desk.annotations(&*judge, &pairs);
    assert_eq!(server.n_asked(), 3);
    assert!(server.received().iter().any(|request| question(request).contains("## 1+1=\n(a) 2\n(b) 3")));
    for (pair, annotation) in pairs.iter().zip(&annotations) {
        let is_switched = crate::seeding::is_switched_in_alpaca_eval(&pair.instruction.instruction, 0);
        assert_eq!((annotation.preference, annotation.shown == ShownOrder::Swapped), (Preference::Second, is_switched));
        assert_eq!(annotation.annotator, "pairs");
    }
    assert!(
        annotations.iter().any(|a| a.shown == ShownOrder::Swapped) && annotations.iter().any(|a| a.shown == ShownOrder::AsGiven)
    );
    let results = desk.annotate(&*judge, &[comparison(8, "lazy", "good"), comparison(9, "bad", "good")]);
    for result in results {
        let error = result.expect_err("one verdict for two");
        assert_eq!(error.kind(), ErrorKind::UnparsableAnswer);
        assert!(error.to_string().contains("expected 2 verdicts"), "{error}");
        assert_eq!(error.judging().and_then(|known| known.raw.as_deref()), Some("Output (a)"));
    }
    let alone = AlpacaEvalConfig { alone: true, ..config("pairs", server.options()) };
    let before = server.n_asked();
    assert_eq!(desk.preferences(&*built(&desk, &alone), &pairs), vec![Preference::Second; 5]);
    assert_eq!(server.n_asked(), before + 4); // one of them was alone before
}

#[test]
fn functions_are_called_and_the_reasons_kept() {
    let desk = Desk::new();
    let settings = r#"
cot:
  prompt_template: "cot/prompt.txt"
  fn_completions: "openai_completions"
  completions_kwargs:
    model_name: "gpt-4-1106-preview"
    max_tokens: 300
    temperature: 0
    tool_choice: {type: function, function: {name: "make_partial_leaderboard"}}
    tools:
      - type: function
        function: {name: "make_partial_leaderboard", description: "Rank.", strict: true, parameters: {type: "object", properties: {}}}
  fn_completion_parser: "pipeline_meta_parser"
  completion_parser_kwargs:
    parsers_to_kwargs:
      json_parser: {annotation_key: "ordered_models"}
      ranking_parser: {model_1_name: "m"}
  batch_size: 1
  is_randomize_output_order: false
  processors_to_kwargs:
    ChainOfThoughtProcessor: {}
"#;
    folder(&desk, "cot", settings, "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>");
    let arguments =
        r#"{"concise_explanation": "M is right.", "ordered_models": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}"#;
    let server = LoopbackJudge::start(move |_| called("make_partial_leaderboard", arguments));
    let renamed = AlpacaEvalConfig {
        models: [("gpt-4-1106-preview".to_owned(), "today".to_owned())].into(),
        ..config("cot", server.options())
    };
    let annotation = desk.annotations(&*built(&desk, &renamed), &[comparison(0, "a", "b")]).remove(0);
    assert_eq!((annotation.preference, annotation.raw.as_deref()), (Preference::Second, Some(arguments)));
    assert_eq!(annotation.notes["concise_explanation"], "M is right.");
    assert_eq!(annotation.notes["referenced_models"], json!({ "M": "output_2", "m": "output_1" }));
    let body = &server.received()[0].body;
    assert_eq!((&body["model"], &body["tools"][0]["function"]["name"]), (&json!("today"), &json!("make_partial_leaderboard")));
    assert_eq!(body["tool_choice"]["function"]["name"], "make_partial_leaderboard");
}

#[test]
fn likelihoods_are_turned_back_with_the_order() {
    let desk = Desk::new();
    let settings = "w:\n  prompt_template: w/prompt.txt\n  completions_kwargs: {model_name: gpt-4, max_tokens: 1, temperature: 1, logprobs: true, top_logprobs: 5}\n  fn_completion_parser: logprob_parser\n  completion_parser_kwargs: {numerator_token: m, denominator_tokens: [m, M]}\n  completion_key: completions_all\n";
    folder(&desk, "w", settings, "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>");
    let server = LoopbackJudge::start(|_| likely(&[("m", 0.8), ("M", 0.2)]));
    let judge = built(&desk, &config("w", server.options()));
    for annotation in desk.annotations(&*judge, &(0..8).map(|i| comparison(i, "a", "b")).collect::<Vec<_>>()) {
        let expected = if annotation.shown == ShownOrder::Swapped { 0.8 } else { 0.2 };
        assert!((annotation.preference.p_second() - expected).abs() < 1e-9);
    }
}

#[test]
fn plain_prompts_go_on_or_become_conversations_and_inputs_have_their_place() {
    let desk = Desk::new();
    let settings = format!(
        "apart:\n  prompt_template:\n    with_inputs: \"{{instruction}} [{{input}}] {{output_1}} {{output_2}} Which?\"\n    without_inputs: \"apart/prompt.txt\"\n  completions_kwargs: {{model_name: text-davinci-003, max_tokens: 50}}\n{PATTERNS}  is_randomize_output_order: false\n"
    );
    folder(&desk, "apart", &settings, "{instruction} {output_1} {output_2} Which?");
    let server = LoopbackJudge::saying(|_| "Output (a)".to_owned());
    let ask = [Comparison::new(Instruction::new("Add.", Some("1 2")), "3", "4"), comparison(0, "a", "b")];
    for (route, path) in [(Route::Auto, "/v1/completions"), (Route::Chat, "/v1/chat/completions")] {
        let before = server.n_asked();
        let judge = built(&desk, &AlpacaEvalConfig { route, ..config("apart", server.options()) });
        assert_eq!(desk.preferences(&*judge, &ask), [Preference::First; 2]);
        let mut texts: Vec<String> = server.received()[before..].iter().map(question).collect();
        texts.sort();
        assert_eq!(texts, ["Add. [1 2] 3 4 Which?", "Describe animal number 0. a b Which?"]);
        assert!(server.received()[before..].iter().all(|request| request.path == path));
    }
    folder(
        &desk,
        "chatml",
        &format!("c:\n  prompt_template: chatml/prompt.txt\n  completions_kwargs: {{model_name: gpt-4}}\n{PATTERNS}"),
        "<|im_start|>user\n{output_1}{output_2}<|im_end|>",
    );
    let refused = AlpacaEvalConfig { route: Route::Completions, ..config("chatml", server.options()) }.build(&building(&desk));
    assert!(refused.err().is_some_and(|error| error.to_string().contains("ChatML")));
}

#[test]
fn several_judges_are_a_pool_and_one_can_be_taken_out() {
    let desk = Desk::new();
    let member = |name: &str| {
        format!("{name}:\n  prompt_template: pool/prompt.txt\n  completions_kwargs: {{model_name: {name}-model}}\n{PATTERNS}")
    };
    folder(&desk, "pool", &["one", "two", "three"].map(member).concat(), "{instruction} {output_1} {output_2}");
    let server = LoopbackJudge::saying(|_| "Output (a)".to_owned());
    let pairs: Vec<Comparison> = (0..30).map(|i| comparison(i, "a", "b")).collect();
    let annotations = desk.annotations(&*built(&desk, &config("pool", server.options())), &pairs);
    for (pair, annotation) in pairs.iter().zip(&annotations) {
        let drawn =
            crate::python_random::PythonRandom::from_text(&format!("annotator{}0", pair.instruction.instruction)).choices(3);
        assert_eq!(annotation.annotator, ["one", "two", "three"][drawn]);
    }
    let two = AlpacaEvalConfig { member: Some("two".to_owned()), ..config("pool", server.options()) };
    assert!(desk.annotations(&*built(&desk, &two), &pairs).iter().all(|annotation| annotation.annotator == "two"));
    let nobody = AlpacaEvalConfig { member: Some("tow".to_owned()), ..two };
    let error = nobody.build(&building(&desk)).err().expect("no such judge");
    assert!(error.hint().is_some_and(|hint| hint.contains("two")), "{error:?}");
}

#[test]
fn mistakes_in_settings_are_named_with_file_and_place() {
    let desk = Desk::new();
    let good = format!("j:\n  prompt_template: j/prompt.txt\n  completions_kwargs: {{model_name: m}}\n{PATTERNS}");
    folder(&desk, "j", &good, "{output_1} {output_2}");
    assert!(read_settings(&desk.dir.path().join("j")).is_ok());
    for (from, to, part) in [
        ("j/prompt.txt", "j/other.txt", "`j.prompt_template`: there is no prompt `j/other.txt`"),
        ("model_name: m", "model_nam: m", "`j.completions_kwargs.model_name`: expected the name of a model"),
        ("model_name: m", "model_name: m, max_token: 5", "`j.completions_kwargs.max_token`: unknown setting"),
        ("model_name: m", "model_name: m, max_tokens: many", "expected a whole number ≥ 0, got a text"),
        ("model_name: m", "model_name: m, client_kwargs: {api_key: secret}", "must not stand in a file"),
        ("j:\n", "j:\n  fn_completions: my_own\n", "`my_own` is not supported"),
        ("j:\n", "j:\n  fn_completion_parser: xml_parser\n", "unknown completion parser `xml_parser`"),
        ("j:\n", "j:\n  batch_size: 2\n", "occurs 1 times"),
        ("j:\n", "j:\n  batch_sise: 2\n", "`j.batch_sise`: unknown setting"),
        ("j:\n", "j:\n  processors_to_kwargs: {MyProcessor: {}}\n", "this processor is not supported"),
        ("1: '", "1: '(", "cannot be used"),
        ("j:\n", "j: [\n", ""),
        ("j:\n", "", ""),
    ] {
        folder(&desk, "j", &good.replacen(from, to, 1), "{output_1} {output_2}");
        let error = read_settings(&desk.dir.path().join("j")).expect_err(to);
        assert!(error.to_string().contains(part) && error.to_string().contains("configs.yaml"), "{to}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    assert!(read_settings(&desk.dir.path().join("nowhere")).is_err());
    assert_eq!(read_settings(desk.dir.path()).expect_err("no settings").kind(), ErrorKind::MissingInput);
}

/// Every folder of AlpacaEval's and AlpacaFarm's judges, if they lie beside the repository.
fn real_settings() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/judge_prompts");
    if !root.is_dir() {
        let _ = writeln!(std::io::stderr(), "skipped: no judges of AlpacaEval in {}", root.display());
        return Vec::new();
    }
    let folders = |path: PathBuf| std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut all: Vec<PathBuf> = ["alpaca_eval", "alpaca_farm"].into_iter().flat_map(|name| folders(root.join(name))).collect();
    all.sort();
    all
}

#[test]
fn every_folder_of_alpaca_eval_and_alpaca_farm_loads_unchanged() {
    let (desk, folders) = (Desk::new(), real_settings());
    let mut without_server = Vec::new();
    for folder in &folders {
        let settings = read_settings(folder).unwrap_or_else(|error| panic!("{}: {error:?}", folder.display()));
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let is_served = settings.iter().all(|judge| judge.completions.server.is_some());
        let served = config(&folder.to_string_lossy(), EndpointOptions::default());
        served.build(&building(&desk)).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        if !is_served {
            let error = AlpacaEvalConfig { server: None, ..served }.build(&building(&desk)).err().expect("nobody serves it");
            assert!(error.hint().is_some_and(|hint| hint.contains("server.base_url")), "{name}: {error:?}");
            without_server.push(name);
        }
    }
    if !folders.is_empty() {
        assert_eq!(folders.len(), 48);
        let local = ["Self-taught-llama3.1-70B-dpo", "alpaca_eval_vllm_llama3_70b_fn", "oasst_pythia_12b"];
        assert_eq!(without_server, local);
    }
}

#[test]
fn the_weighted_judge_of_alpaca_eval_2_is_read_as_it_is_written() {
    let Some(folder) = real_settings().into_iter().find(|folder| folder.ends_with("weighted_alpaca_eval_gpt4_turbo")) else {
        return;
    };
    let judge = read_settings(&folder).expect("read").remove(0);
    let decoding = &judge.completions.decoding;
    assert_eq!((decoding.max_tokens, decoding.temperature, decoding.log_probs), (1, 1.0, Some(5)));
    assert_eq!((judge.completions.model.as_str(), judge.is_randomize_output_order), ("gpt-4-1106-preview", true));
    assert!(judge.prompts.without_inputs.is_chat() && judge.prompts.with_inputs.is_none());
}
