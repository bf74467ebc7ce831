//! Judging pairs, by HTTP: blind, once each, nothing lost, and read back by the readers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use farmhand_core::data::{ReadOptions, read_judgements, read_rated_completions};
use farmhand_core::types::{Outcome, Preference, ShownOrder};
use farmhand_web::label::LabelSession;
use serde_json::{Value, json};

use crate::http::{Labelling, Page, options};

/// Comparisons of a good answer with a bad one; the good one is the second where the number is odd.
pub(crate) fn write_data(folder: &Path, n: usize) {
    let line = |i: usize| {
        let [first, second] = if i.is_multiple_of(2) { ["GOOD", "poor"] } else { ["poor", "GOOD"] };
        let record = json!({
            "instruction": format!("Question {i}"), "input": if i.is_multiple_of(3) { "Material" } else { "" },
            "output_1": format!("{first} answer **{i}**"), "output_2": format!("{second} answer {i}"),
            "generator_1": "secret-model-one", "generator_2": "secret-model-two",
        });
        format!("{record}\n")
    };
    std::fs::write(folder.join("data.jsonl"), (0..n).map(line).collect::<String>()).expect("written");
}

/// An id of a click that no other has.
fn click() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("click-{:020}-{}", NEXT.fetch_add(1, Ordering::SeqCst), std::process::id())
}

fn next(page: &Page, rater: &str) -> Value {
    page.post("api/next", &json!({ "rater": rater })).expect(200).json()
}

/// The side on which the good answer stands.
fn good_side(item: &Value) -> &'static str {
    if item["left"].to_string().contains("GOOD") { "left" } else { "right" }
}

fn answer(page: &Page, rater: &str, item: &Value, choice: &str) -> Value {
    let body = json!({ "click": click(), "rater": rater, "item": item["item"], "choice": choice, "secs": 1.25 });
    page.post("api/label", &body).expect(200).json()
}

#[test]
fn raters_see_no_names_and_verdicts_are_about_the_data_whatever_was_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 20);
    let server = Labelling::start(&options(dir.path()));
    let mut state = next(&server.raters, "Ana");
    let mut seen = state.to_string();
    while state["state"] == "item" {
        let side = good_side(&state["item"]);
        state = answer(&server.raters, "Ana", &state["item"], side);
        seen += &state.to_string();
    }
    seen += &server.raters.get("api/setup").body;
    seen += &server.raters.get("").body;
    assert!(!seen.contains("secret-model") && !seen.contains("output_1") && !seen.contains("swapped"));
    let summary = server.stop();
    assert_eq!((summary.n_done, summary.n_wanted, summary.n_raters), (20, 20, 1));

    let (judgements, _) = read_judgements(&dir.path().join("out/judgements.jsonl"), &ReadOptions::default()).expect("read");
    let orders: Vec<ShownOrder> = judgements.iter().filter_map(|j| j.annotation()).map(|a| a.shown).collect();
    assert!(orders.contains(&ShownOrder::AsGiven) && orders.contains(&ShownOrder::Swapped));
    for (i, judgement) in judgements.iter().enumerate() {
        assert!(!seen.contains(&judgement.comparison.id), "an id tells which answer is the first");
        let expected = if i % 2 == 0 { Preference::First } else { Preference::Second };
        assert_eq!(judgement.preference(), Some(expected), "{i}");
        let annotation = judgement.annotation().expect("a verdict");
        assert_eq!((annotation.annotator.as_str(), annotation.time_secs), ("Ana", Some(1.25)));
        assert_eq!(judgement.comparison.generator_2.as_deref(), Some("secret-model-two"));
    }
    let (eval, report) = read_judgements(&dir.path().join("out/annotations.json"), &ReadOptions::default()).expect("read");
    assert_eq!((eval.len(), report.form.as_str()), (20, "alpaca_eval"));
    let csv = std::fs::read_to_string(dir.path().join("out/labels.csv")).expect("readable");
    assert_eq!(csv.matches("\r\n").count(), 21);
}

#[test]
fn many_raters_at_once_lose_nothing_and_double_nothing() {
    const RATERS: usize = 8;
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 60);
    let server = Labelling::start(&farmhand_web::label::LabelOptions { overlap: 2, ..options(dir.path()) });
    let acknowledged: usize = std::thread::scope(|scope| {
        let work = |number: usize| {
            let page = server.raters.clone();
            move || {
                let rater = format!("рейтер {number}");
                let (mut n, mut state) = (0, next(&page, &rater));
                loop {
                    if state["state"] == "wait" {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        state = next(&page, &rater);
                        continue;
                    }
                    if state["state"] == "done" {
                        return n;
                    }
                    let body = json!({
                        "click": click(), "rater": rater, "item": state["item"]["item"], "choice": good_side(&state["item"]),
                    });
                    // The first answer is lost on the way; the page sends the click again.
                    page.post("api/label", &body).expect(200);
                    state = page.post("api/label", &body).expect(200).json();
                    n += 1;
                }
            }
        };
        let threads: Vec<_> = (0..RATERS).map(|number| scope.spawn(work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let summary = server.stop();
    assert_eq!((acknowledged, summary.n_labels, summary.n_done), (120, 120, 120));
    let (judgements, _) = read_judgements(&dir.path().join("out/judgements.jsonl"), &ReadOptions::default()).expect("read");
    let mut by_item: HashMap<String, Vec<String>> = HashMap::new();
    for judgement in &judgements {
        let annotator = judgement.annotation().expect("a verdict").annotator.clone();
        by_item.entry(judgement.comparison.id.clone()).or_default().push(annotator);
    }
    assert_eq!((judgements.len(), by_item.len()), (120, 60));
    assert!(by_item.values().all(|raters| raters.len() == 2 && raters[0] != raters[1]));
    let journal = std::fs::read_to_string(dir.path().join("out/journal.jsonl")).expect("readable");
    assert_eq!(journal.lines().count(), 121);
}

#[test]
fn undo_ties_skips_comments_and_ratings_arrive_in_the_files() {
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 4);
    let rubric = dir.path().join("rubric.toml");
    std::fs::write(&rubric, "guidance = \"Be *fair*.\"\n[[attributes]]\nname = \"clear\"\nmin = 1\nmax = 5\nrequired = true\n")
        .expect("written");
    let server = Labelling::start(&farmhand_web::label::LabelOptions { rubric: Some(rubric), ..options(dir.path()) });
    let setup = server.raters.get("api/setup").expect(200).json();
    assert_eq!((&setup["attributes"][0]["name"], &setup["guidance"][0]["t"]), (&json!("clear"), &json!("p")));

    let item = next(&server.raters, "Ana")["item"].clone();
    let mut body = json!({ "click": click(), "rater": " Ana ", "item": item["item"], "choice": "tie", "comment": " both fine " });
    let refused = server.raters.post("api/label", &body).expect(400).json();
    assert!(refused["error"].as_str().expect("words").contains("please rate `clear`"), "{refused}");
    let rating = |side: &str| if good_side(&item) == side { json!({ "clear": 5.0 }) } else { json!({ "clear": 2 }) };
    body["ratings"] = json!({ "left": rating("left"), "right": rating("right") });
    let state = server.raters.post("api/label", &body).expect(200).json();
    assert_eq!((&state["done"], &state["left"]), (&json!(1), &json!(3)));

    let undo = json!({ "click": click(), "rater": "Ana" });
    for _ in 0..2 {
        let state = server.raters.post("api/undo", &undo).expect(200).json();
        assert_eq!((&state["item"]["item"], &state["done"], &state["can_undo"]), (&item["item"], &json!(0), &json!(false)));
        assert_eq!(state["item"]["was"]["choice"], "tie");
        assert_eq!(state["item"]["was"]["comment"], "both fine");
        assert_eq!(state["item"]["was"]["ratings"][good_side(&item)]["clear"], 5.0);
    }
    server.raters.post("api/undo", &json!({ "click": click(), "rater": "Ana" })).expect(409);
    body["click"] = json!(click());
    let state = server.raters.post("api/label", &body).expect(200).json();
    let skipped = answer(&server.raters, "Ana", &state["item"], "skip");
    assert_eq!((&skipped["done"], &skipped["left"]), (&json!(2), &json!(2)), "a skipped one is left to others");
    let csv = server.operator.get("files/labels.csv").expect(200);
    assert!(csv.headers.contains("attachment; filename=\"labels.csv\"") && csv.body.contains("\"both fine\""));
    server.operator.get("files/access.json").expect(404);
    server.operator.get("files/..%2Faccess.json").expect(404);
    server.raters.get("files/labels.csv").expect(404);
    server.raters.get("api/status").expect(404);
    let status = server.operator.get("api/status").expect(200).json();
    assert_eq!((&status["raters"]["Ana"]["n_undone"], &status["raters"]["Ana"]["n_skipped"]), (&json!(1), &json!(1)));
    assert_eq!(status["comments"][0]["comment"], "both fine");
    server.stop();

    let (judgements, _) = read_judgements(&dir.path().join("out/judgements.jsonl"), &ReadOptions::default()).expect("read");
    let tie = judgements.iter().find_map(|judgement| judgement.annotation()).expect("a verdict");
    assert_eq!((tie.preference, tie.raw.as_deref()), (Preference::Tie, Some("both fine")));
    let mut scores = tie.scores.expect("rated");
    scores.sort_by(f64::total_cmp);
    assert_eq!(scores, [2.0, 5.0]);
    let failures: Vec<_> =
        judgements.iter().filter_map(|j| if let Outcome::Failure(failure) = &j.outcome { Some(failure) } else { None }).collect();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].judging.annotator.as_deref(), Some("Ana"));
    let (rated, _) = read_rated_completions(&dir.path().join("out/ratings.jsonl"), &ReadOptions::default()).expect("read");
    let good = rated.iter().find(|rated| rated.completion.output.contains("GOOD")).expect("rated");
    assert_eq!((rated.len(), good.ratings["clear"]), (2, 5.0));
}

#[test]
fn a_restart_goes_on_and_gold_is_for_the_operator_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 12);
    let gold = dir.path().join("gold.jsonl");
    let known =
        |i: usize| json!({ "instruction": format!("Known {i}"), "output_1": "GOOD", "output_2": "poor", "preference": 1 });
    std::fs::write(&gold, (0..3).map(|i| format!("{}\n", known(i))).collect::<String>()).expect("written");
    let with_gold = farmhand_web::label::LabelOptions { gold: Some(gold), ..options(dir.path()) };
    let first = Labelling::start(&with_gold);
    let address = first.raters.path("");
    let mut state = next(&first.raters, "Ana");
    for _ in 0..5 {
        let side = if state["item"]["instruction"].to_string().contains("Known") { "tie" } else { good_side(&state["item"]) };
        state = answer(&first.raters, "Ana", &state["item"], side);
        assert!(!state.to_string().contains("gold"));
    }
    let open = state["item"]["item"].clone();
    first.stop();

    let second = Labelling::start(&with_gold);
    assert_eq!(second.raters.path(""), address, "an open page goes on");
    // The question on the page, from before the restart, is answered now.
    state = next(&second.raters, "Ana");
    assert_eq!((&state["done"], &state["item"]["item"]), (&json!(5), &open));
    while state["state"] == "item" {
        let side = good_side(&state["item"]);
        state = answer(&second.raters, "Ana", &state["item"], side);
    }
    let status = second.operator.get("api/status").expect(200).json();
    let ana = &status["raters"]["Ana"];
    assert_eq!((&status["n_gold"], &status["n_done"], &ana["n_gold"]), (&json!(3), &json!(12), &json!(3)));
    assert!(ana["n_gold_right"].as_u64().expect("a count") < 3, "{ana}");
    second.stop();
    let text = std::fs::read_to_string(dir.path().join("out/judgements.jsonl")).expect("readable");
    assert!(text.lines().count() == 12 && !text.contains("Known"));
    let csv = std::fs::read_to_string(dir.path().join("out/labels.csv")).expect("readable");
    assert_eq!(csv.matches("Known").count(), 3);
}

#[test]
fn other_sites_wrong_secrets_and_odd_requests_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 2);
    let server = Labelling::start(&options(dir.path()));
    let page = &server.raters;
    let (host, path) = (page.host(), page.path("api/next"));
    let body = json!({ "rater": "Ana" }).to_string();
    let json_type = ("Content-Type", "application/json");
    let status = |headers: &[(&str, &str)], path: &str| page.request("POST", path, headers, &body).status;
    assert_eq!(status(&[("Host", host), json_type], &path), 200);
    assert_eq!(status(&[("Host", host), json_type, ("Origin", &format!("http://{host}"))], &path), 200);
    assert_eq!(status(&[("Host", "evil.example"), json_type], &path), 421);
    assert_eq!(status(&[("Host", host), json_type, ("Origin", "http://evil.example")], &path), 403);
    assert_eq!(status(&[("Host", host), json_type, ("Origin", "http://127.0.0.1:1")], &path), 403);
    assert_eq!(status(&[("Host", host), ("Content-Type", "text/plain")], &path), 415);
    assert_eq!(status(&[("Host", host), json_type], "/00000000000000000000000000000000/api/next"), 404);
    assert_eq!(status(&[("Host", host), json_type], "/api/next"), 404);
    assert_eq!(page.post("api/label", &json!({ "rater": "x".repeat(400_000) })).status, 413);
    for (body, expected) in [
        (json!({ "rater": "" }), 400),
        (json!({ "rater": "x".repeat(65) }), 400),
        (json!({ "rater": "a\u{202e}b" }), 400),
        (json!({ "name": "a" }), 422),
    ] {
        assert_eq!(page.post("api/next", &body).status, expected, "{body}");
    }
    let item = next(page, "Ana")["item"]["item"].clone();
    for (click_id, choice, handle, expected) in [
        ("short", "left", item.clone(), 400),
        ("click-0123456789abcdef", "middle", item.clone(), 422),
        ("click-0123456789abcdef", "left", json!("nothing"), 404),
    ] {
        let body = json!({ "click": click_id, "rater": "Ana", "item": handle, "choice": choice });
        assert_eq!(page.post("api/label", &body).status, expected, "{body}");
    }
    for reply in [page.get(""), page.get("label.js"), page.get("nothing"), page.get("api/setup")] {
        let policy = "default-src 'none'; script-src 'self'";
        assert!(reply.headers.contains(policy) && reply.headers.contains("nosniff"), "{}", reply.headers);
        assert!(reply.headers.contains("referrer-policy: no-referrer") && reply.headers.contains("cache-control: no-store"));
    }
    assert_eq!(server.stop().n_labels, 0);
    let access = std::fs::metadata(dir.path().join("out/access.json")).expect("there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&access.permissions()) & 0o777, 0o600);
}

#[test]
fn what_cannot_be_labelled_is_one_clear_error_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = |options: &farmhand_web::label::LabelOptions| LabelSession::open(options).map(|_| ()).expect_err("refused");
    let missing = open(&options(dir.path()));
    assert!(missing.to_string().contains("data.jsonl"), "{missing}");
    std::fs::write(dir.path().join("data.jsonl"), "{\"instruction\": \"x\"}\n").expect("written");
    let error = open(&options(dir.path()));
    assert!(error.to_string().contains("line 1: no known form of comparisons"), "{error}");
    assert!(!dir.path().join("out").exists(), "nothing is left behind");
    write_data(dir.path(), 2);
    let none = open(&farmhand_web::label::LabelOptions { overlap: 0, ..options(dir.path()) });
    assert!(none.to_string().contains("--overlap 0"), "{none}");
    let every = open(&farmhand_web::label::LabelOptions { gold_every: 1, ..options(dir.path()) });
    assert!(every.to_string().contains("--gold-every 1"), "{every}");
    let held = LabelSession::open(&options(dir.path())).expect("opened");
    let error = open(&options(dir.path()));
    assert!(error.to_string().contains("in use by process") && error.hint().expect("a hint").contains("--out"), "{error}");
    assert!(held.found().contains("2 comparisons; 0 of 2 verdicts"), "{}", held.found());
    let summary = held.export().expect("written");
    assert_eq!((summary.n_labels, summary.files.len()), (0, 4));
}
