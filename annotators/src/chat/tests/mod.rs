//! Judges of this folder against a server on the loopback interface.

mod batches;
mod money;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use farmhand_core::types::{Comparison, Instruction, Preference, Response, ShownOrder};
use farmhand_core::{AnnotatorConfig, CancelFlag, ErrorKind, RewardModelConfig};
use farmhand_endpoints::loopback::Reply;
use farmhand_endpoints::{PriceOptions, Prices};

use super::ask_options::{AskOptions, KeepOptions, ReplyFormat};
use super::chain_of_thought::ChainOfThoughtConfig;
use super::loopback_judge::{LoopbackJudge, building, filtered, likely, question, said};
use super::ranking::{ListRankingConfig, RankOptions, RankingConfig};
use super::rubric::{GradeOptions, RubricConfig, RubricScoreConfig};
use super::weighted::WeightedConfig;
use crate::testing::{Desk, comparison};

/// Keeps replies on the desk.
fn keeping(prices: Option<Prices>) -> KeepOptions {
    let price = PriceOptions { prices, ..PriceOptions::default() };
    KeepOptions { price, store: Some("judgements.sqlite".into()), ..KeepOptions::default() }
}

/// Asks this judge, and keeps its replies on the desk.
fn asking(judge: &LoopbackJudge, base: &AskOptions) -> AskOptions {
    let prices = Some(Prices { prompt: 1.0, cached_prompt: None, completion: 10.0 });
    AskOptions { model: Some("judge".to_owned()), server: judge.options(), keep: keeping(prices), ..base.clone() }
}

fn weighted(judge: &LoopbackJudge) -> WeightedConfig {
    let config = WeightedConfig::default();
    WeightedConfig { ask: asking(judge, &config.ask), ..config }
}

/// 100 tokens of prompt and 10 of an answer.
const COST: f64 = 200e-6;

/// Likes the answer with `good` in it, and is three quarters sure.
fn likes_good() -> LoopbackJudge {
    LoopbackJudge::start(|request| {
        let text = question(request);
        let is_first = text.find("good") < text.find("bad");
        if is_first { likely(&[("m", 0.75), ("M", 0.25)]) } else { likely(&[("M", 0.75), ("m", 0.25)]) }
    })
}

fn pairs(n: usize) -> Vec<Comparison> {
    (0..n).map(|i| if i % 3 == 0 { comparison(i, "bad", "good") } else { comparison(i, "good", "bad") }).collect()
}

#[test]
fn a_likelihood_is_a_verdict_with_its_price_and_is_never_paid_twice() {
    let (desk, server) = (Desk::new(), likes_good());
    let judge = weighted(&server).build(&building(&desk)).expect("built");
    let first = desk.annotations(&*judge, &pairs(12));
    for (i, annotation) in first.iter().enumerate() {
        let expected = if i % 3 == 0 { 0.75 } else { 0.25 };
        assert!((annotation.preference.p_second() - expected).abs() < 1e-12);
        assert!((annotation.cost_usd.expect("known") - COST).abs() < 1e-12 && annotation.time_secs.is_some());
        assert!(!annotation.cached && annotation.shown == ShownOrder::AsGiven);
        assert!(annotation.raw.as_deref().is_some_and(|raw| raw.contains("top_logprobs")));
    }
    assert_eq!(server.n_asked(), 12);
    let body = &server.received()[0].body;
    assert_eq!((&body["max_tokens"], &body["logprobs"], &body["top_logprobs"]), (&1.into(), &true.into(), &5.into()));
    // Another process, another reading of the same replies: nobody is asked.
    let binary = WeightedConfig { binary: true, name: "sure".to_owned(), ..weighted(&server) };
    let again = desk.annotations(&*binary.build(&building(&desk)).expect("built"), &pairs(12));
    assert_eq!(server.n_asked(), 12);
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(again.preference.p_second(), first.preference.p_second().round());
        assert_eq!((again.cached, again.cost_usd, again.time_secs), (true, Some(0.0), Some(0.0)));
    }
}

#[test]
fn what_is_paid_for_is_kept_also_where_nobody_said_where_and_the_user_is_told() {
    let (desk, server) = (Desk::new(), likes_good());
    let unsaid = || {
        let mut config = weighted(&server);
        config.ask.keep.store = None;
        config.build(&building(&desk)).expect("built")
    };
    let first = unsaid();
    desk.annotations(&*first, &pairs(3));
    desk.annotations(&*first, &pairs(4));
    let told = format!("{:?}", desk.events.take());
    assert_eq!(told.matches("judgements.db").count(), 1, "{told}");
    assert!(desk.annotations(&*unsaid(), &pairs(4)).iter().all(|annotation| annotation.cached));
    assert_eq!(server.n_asked(), 4);
    assert!(desk.dir.path().join("judgements.db").is_file());
}

#[test]
fn the_same_question_in_one_call_is_asked_once() {
    let (desk, server) = (Desk::new(), likes_good());
    let judge = weighted(&server).build(&building(&desk)).expect("built");
    let twice: Vec<Comparison> = pairs(3).into_iter().chain(pairs(3)).collect();
    let annotations = desk.annotations(&*judge, &twice);
    assert_eq!(server.n_asked(), 3);
    assert!(annotations.iter().enumerate().all(|(i, annotation)| annotation.cached == (i >= 3)));
    assert!((annotations.iter().filter_map(|annotation| annotation.cost_usd).sum::<f64>() - 3.0 * COST).abs() < 1e-12);
}

#[test]
fn failures_are_told_apart_and_keep_what_was_said_and_paid() {
    let desk = Desk::new();
    let server = LoopbackJudge::start(|request| match question(request) {
        text if text.contains("refuse") => filtered(),
        text if text.contains("ramble") => likely(&[("The", 0.9), ("It", 0.1)]),
        text if text.contains("plain") => said("m"),
        text if text.contains("filter") => {
            Reply::json(400, &serde_json::json!({ "error": { "message": "no", "code": "content_filter" } }))
        }
        text if text.contains("crash") => Reply::text(500, "out of order"),
        text if text.contains("garbage") => Reply::text(200, "{\"choices\": [{"),
        _ => likely(&[("m", 1.0)]),
    });
    let judge = weighted(&server).build(&building(&desk)).expect("built");
    let ask: Vec<Comparison> =
        ["refuse", "ramble", "plain", "crash", "garbage", "fine", "filter"].map(|word| comparison(0, word, "other")).to_vec();
    let results = desk.annotate(&*judge, &ask);
    let kinds: Vec<Option<ErrorKind>> = results.iter().map(|result| result.as_ref().err().map(|error| error.kind())).collect();
    let expected = [
        Some(ErrorKind::RefusedAnswer),
        Some(ErrorKind::UnparsableAnswer),
        Some(ErrorKind::UnparsableAnswer),
        Some(ErrorKind::RemoteService),
        Some(ErrorKind::RemoteService),
        None,
        Some(ErrorKind::RefusedAnswer),
    ];
    assert_eq!(kinds, expected);
    for (i, is_paid) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
        let known = results[i].as_ref().expect_err("a failure").judging().expect("known").clone();
        assert_eq!((known.annotator.as_deref(), known.shown), (Some("weighted"), Some(ShownOrder::AsGiven)), "{i}");
        assert_eq!(known.cost_usd.is_some(), is_paid, "{i}");
        assert!(known.time_secs.is_some());
    }
    let said = results[1].as_ref().expect_err("rambling").judging().and_then(|known| known.raw.clone()).expect("kept");
    assert!(said.contains("The"), "{said}");
    // What may pass is asked again; what was answered, however badly, is not.
    let n = server.n_asked();
    let again = desk.annotate(&*judge, &ask);
    assert_eq!(server.n_asked(), n + 2);
    assert_eq!(
        again[1].as_ref().expect_err("rambling").judging().map(|known| (known.cached, known.cost_usd)),
        Some((true, Some(0.0)))
    );
    assert!(again[5].as_ref().expect("fine").cached);
}

#[test]
fn an_answer_that_cannot_be_read_is_asked_for_again_on_request_and_stays_beside_the_new_one() {
    let desk = Desk::new();
    // Rambles twice, refuses once, then knows.
    let n_asked = Arc::new(AtomicUsize::new(0));
    let counted = n_asked.clone();
    let server = LoopbackJudge::start(move |request| match counted.fetch_add(1, Ordering::SeqCst) {
        _ if question(request).contains("fine") => likely(&[("m", 1.0)]),
        0 => said("Well, both have their charm."),
        1 => said("As I said, it depends."),
        2 => filtered(),
        _ => likely(&[("M", 1.0)]),
    });
    let judged = |retry_failures: bool, text: &str| {
        let mut config = weighted(&server);
        config.ask.keep.retry_failures = retry_failures;
        let judge = config.build(&building(&desk)).expect("built");
        desk.annotate(&*judge, &[comparison(0, text, "other")]).pop().expect("one")
    };
    let failed = |retry_failures: bool| {
        let error = judged(retry_failures, "hard").expect_err("no verdict");
        let known = error.judging().expect("known").clone();
        (error.kind(), known.raw.unwrap_or_default(), known.cached, n_asked.load(Ordering::SeqCst))
    };
    let (first, second, filtered) = ("Well, both have their charm.", "As I said, it depends.", ErrorKind::RefusedAnswer);
    let says = |(kind, raw, cached, n): (ErrorKind, String, bool, usize), text: &str| (kind, raw.contains(text), cached, n);
    let unreadable = ErrorKind::UnparsableAnswer;
    assert_eq!(says(failed(false), first), (unreadable, true, false, 1));
    assert_eq!(says(failed(false), first), (unreadable, true, true, 1), "paid for, and not asked again unasked");
    assert_eq!(says(failed(true), second), (unreadable, true, false, 2), "once more on request");
    assert_eq!(says(failed(false), second), (unreadable, true, true, 2), "of answers that cannot be read the last counts");
    assert_eq!((failed(true).0, failed(false).3), (filtered, 3));
    let annotation = judged(true, "hard").expect("a verdict at last");
    assert_eq!((annotation.preference, annotation.cached, n_asked.load(Ordering::SeqCst)), (Preference::Second, false, 4));
    for retry_failures in [false, true] {
        let annotation = judged(retry_failures, "hard").expect("stands from now on");
        assert_eq!((annotation.preference, annotation.cached), (Preference::Second, true));
    }
    assert_eq!(n_asked.load(Ordering::SeqCst), 4, "whoever asks");
    let fine = [false, true].map(|retry_failures| judged(retry_failures, "fine").expect("read").cached);
    assert_eq!((fine, n_asked.load(Ordering::SeqCst)), ([false, true], 5), "what can be read is never asked again");
    let store = crate::store::Store::open(desk.dir.path().join("judgements.sqlite")).expect("there");
    assert_eq!(store.stats().expect("read").models[0].n_answers, 5, "every answer that was paid for is kept");
}

#[test]
fn a_key_that_is_refused_is_not_tried_on_every_comparison() {
    let (desk, server) = (Desk::new(), LoopbackJudge::start(|_| Reply::text(401, "no")));
    let judge = weighted(&server).build(&building(&desk)).expect("built");
    let results = desk.annotate(&*judge, &pairs(200));
    assert!(results.iter().all(|result| result.as_ref().is_err_and(|error| error.kind() == ErrorKind::RemoteService)));
    assert!(server.n_asked() <= 8, "{}", server.n_asked());
    // Nothing about the questions is settled by that.
    let (other, n) = (likes_good(), pairs(5));
    let judge = weighted(&other).build(&building(&desk)).expect("built");
    assert_eq!(desk.annotations(&*judge, &n).len(), 5);
}

#[test]
fn stopping_keeps_what_was_paid() {
    static FLAG: CancelFlag = CancelFlag::new();
    let desk = Desk::new();
    let n_answered = Arc::new(AtomicUsize::new(0));
    let count = n_answered.clone();
    let server = LoopbackJudge::start(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == 10 {
            FLAG.cancel();
        }
        likely(&[("m", 1.0)])
    });
    let judge = weighted(&server).build(&building(&desk)).expect("built");
    let (asked, ctx) = (pairs(60), desk.context(0));
    let ctx = farmhand_core::RunContext { cancel: &FLAG, ..ctx };
    let results = ctx.block_on(judge.annotate(&asked, &ctx));
    let stopped = results.iter().filter(|result| result.as_ref().is_err_and(farmhand_core::Error::is_cancelled)).count();
    assert!(stopped > 40, "{stopped}");
    let paid = n_answered.load(Ordering::SeqCst);
    assert_eq!(desk.annotations(&*judge, &asked).iter().filter(|annotation| annotation.cached).count(), paid);
    assert_eq!(server.n_asked(), 60);
}

#[test]
fn reasons_come_with_the_verdict() {
    let desk = Desk::new();
    let server = LoopbackJudge::saying(|_| "Let me see. {\"explanation\": \"B is wrong.\", \"better\": \"A\"}".to_owned());
    let config = ChainOfThoughtConfig::default();
    let ask = AskOptions { format: ReplyFormat::JsonSchema, ..asking(&server, &config.ask) };
    let judge = ChainOfThoughtConfig { ask, ..config }.build(&building(&desk)).expect("built");
    let annotation = desk.annotations(&*judge, &[comparison(0, "a", "b")]).remove(0);
    assert_eq!((annotation.preference, annotation.notes["explanation"].as_str()), (Preference::First, Some("B is wrong.")));
    assert_eq!(server.received()[0].body["response_format"]["json_schema"]["name"], "verdict");
}

/// The models of the embedded ranking prompt, the better the longer their answer.
fn ranks_by_length(text: &str) -> String {
    let mut answers: Vec<(usize, &str)> = text
        .split("# Answer of ")
        .skip(1)
        .map(|part| part.split_once("\n\n").expect("a name and an answer"))
        .map(|(name, rest)| (rest.split("\n\n").next().unwrap_or_default().trim().len(), name))
        .collect();
    answers.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    let entry = |(rank, (_, name)): (usize, &(usize, &str))| format!("{{'model': '{name}', 'rank': {}}}", rank + 1);
    format!("[{}]", answers.iter().enumerate().map(entry).collect::<Vec<_>>().join(", "))
}

#[test]
fn two_answers_or_many_are_ranked() {
    let (desk, server) = (Desk::new(), LoopbackJudge::saying(ranks_by_length));
    let rank = RankOptions { ask: asking(&server, &RankOptions::default().ask), ..RankOptions::default() };
    let judge = RankingConfig { rank: rank.clone(), ..RankingConfig::default() }.build(&building(&desk)).expect("built");
    let pairs = [comparison(0, "longer", "short"), comparison(1, "a", "bb")];
    assert_eq!(desk.preferences(&*judge, &pairs), [Preference::First, Preference::Second]);
    let asked = server.n_asked();
    let mut model = ListRankingConfig { rank, ..ListRankingConfig::default() }.build(&building(&desk)).expect("built");
    let (one, two) = (Instruction::new("one", None), Instruction::new("two", None));
    let item = |instruction, output| Response { instruction, output };
    let items = [item(&one, "aa"), item(&two, "alone"), item(&one, "bbbb"), item(&one, "c"), item(&one, "aa")];
    let scores = model.score(&items, &desk.context(0)).expect("scored");
    assert_eq!(scores, [0.5, 0.5, 1.0, 0.0, 0.5]);
    assert_eq!(server.n_asked(), asked + 1);
}

#[test]
fn a_rubric_grades_pairs_and_single_answers_and_asks_once_for_all_attributes() {
    let desk = Desk::new();
    let server = LoopbackJudge::saying(|text| {
        let grades = |helpful| {
            format!("{{\"helpfulness\": {helpful}, \"correctness\": 3, \"coherence\": 3, \"complexity\": 1, \"verbosity\": 2}}")
        };
        if text.contains("# Answer B") { format!("{{\"A\": {}, \"B\": {}}}", grades(1), grades(4)) } else { grades(2) }
    });
    let grade = GradeOptions { ask: asking(&server, &GradeOptions::default().ask), ..GradeOptions::default() };
    let judge = RubricConfig { grade: grade.clone(), ..RubricConfig::default() }.build(&building(&desk)).expect("built");
    let annotation = desk.annotations(&*judge, &[comparison(0, "a", "b")]).remove(0);
    assert_eq!((annotation.preference, annotation.scores), (Preference::Second, Some([7.0 / 3.0, 10.0 / 3.0])));
    assert_eq!(annotation.notes["B"]["helpfulness"], 4.0);
    let instruction = Instruction::new("i", None);
    let items = [Response { instruction: &instruction, output: "x" }];
    let asked = server.n_asked();
    for (attribute, score) in [(Some("helpfulness"), 2.0), (Some("verbosity"), 2.0), (None, 8.0 / 3.0)] {
        let attribute = attribute.map(str::to_owned);
        let config = RubricScoreConfig { attribute, grade: grade.clone() };
        let scores = config.build(&building(&desk)).expect("built").score(&items, &desk.context(0)).expect("scored");
        assert_eq!(scores, [score]);
    }
    assert_eq!(server.n_asked(), asked + 1);
}

#[test]
fn a_reward_model_that_cannot_be_read_says_what_was_said() {
    let (desk, server) = (Desk::new(), LoopbackJudge::saying(|_| "It is fine.".to_owned()));
    let grade = GradeOptions { ask: asking(&server, &GradeOptions::default().ask), ..GradeOptions::default() };
    let mut model = RubricScoreConfig { attribute: None, grade }.build(&building(&desk)).expect("built");
    let instruction = Instruction::new("i", None);
    let error = model.score(&[Response { instruction: &instruction, output: "x" }], &desk.context(0)).expect_err("unreadable");
    assert_eq!(error.kind(), ErrorKind::UnparsableAnswer);
    assert_eq!(error.judging().and_then(|known| known.raw.as_deref()), Some("It is fine."));
}

#[test]
fn a_prompt_of_ones_own_is_used_and_checked() {
    let (desk, server) = (Desk::new(), likes_good());
    let path = desk.dir.path().join("mine.toml");
    std::fs::write(
        &path,
        "[[messages]]\nrole = \"user\"\ncontent = \"{{ instruction }}: {{ output_1 }}, {{ output_2 }}? {{ first }}\"",
    )
    .expect("written");
    let config = WeightedConfig { prompt: Some("mine.toml".into()), ..weighted(&server) };
    desk.annotations(&*config.build(&building(&desk)).expect("built"), &[comparison(7, "good", "bad")]);
    assert_eq!(question(&server.received()[0]), "Describe animal number 7.: good, bad? m");
    std::fs::write(&path, "[[messages]]\nrole = \"user\"\ncontent = \"{{ output_1 }}\"").expect("written");
    let error = config.build(&building(&desk)).err().expect("refused");
    assert!(error.to_string().contains("mine.toml") && error.to_string().contains("instruction"), "{error}");
}

#[test]
fn sampled_replies_follow_the_seed_and_greedy_ones_are_shared() {
    let desk = Desk::new();
    let server = LoopbackJudge::saying(|_| "{\"better\": \"A\"}".to_owned());
    let n_asked = |temperature: f64, seed: u64| {
        let config = ChainOfThoughtConfig::default();
        let ask = AskOptions { temperature, send_seed: true, ..asking(&server, &config.ask) };
        let judge = ChainOfThoughtConfig { ask, ..config }.build(&building(&desk)).expect("built");
        let ctx = desk.context(seed);
        let before = server.n_asked();
        ctx.block_on(judge.annotate(&pairs(2), &ctx));
        server.n_asked() - before
    };
    assert_eq!([n_asked(0.0, 0), n_asked(0.0, 1), n_asked(0.7, 0), n_asked(0.7, 1), n_asked(0.7, 1)], [2, 0, 2, 2, 0]);
    assert!(server.received()[2].body["seed"].is_u64() && server.received()[0].body["seed"].is_null());
}
