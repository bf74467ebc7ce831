//! Looking at runs by HTTP and in a browser, while they are being written.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use farmhand_core::types::{
    Annotation, Comparison, Completion, EvalReport, FinishReason, Instruction, Judgement, Metric, Preference,
};
use farmhand_core::{Error, ErrorKind};
use serde::Serialize;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::http::Watching;

const HOSTILE: &str = "<script>window.hacked = 1</script> **bold** <img src=x onerror=window.hacked=2>";

fn write_lines<T: Serialize>(path: &Path, records: &[T]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let line = |record: &T| serde_json::to_string(record).expect("JSON") + "\n";
    std::fs::write(path, records.iter().map(line).collect::<String>()).expect("written");
}

/// What a run leaves of one model that answered `n` instructions.
fn write_model(run: &Path, method: &str, n: usize, win_rate: f64) {
    let mut completions = Vec::new();
    let mut judgements = Vec::new();
    for i in 0..n {
        let instruction = Instruction::new(format!("Instruction {i}"), None);
        let output = if i == 1 { HOSTILE.to_owned() } else { format!("{method} says {i}") };
        let comparison = Comparison::new(instruction.clone(), format!("reference {i}"), output.as_str()).between("sft", method);
        let result = match i % 4 {
            0 => Err(Error::new(ErrorKind::UnparsableAnswer, "no verdict in `<b>`")),
            1 => Ok(Annotation { raw: Some(HOSTILE.to_owned()), ..Annotation::new("judge", Preference::Second) }),
            2 => Ok(Annotation::new("judge", Preference::Tie)),
            _ => Ok(Annotation::new("judge", Preference::First)),
        };
        judgements.push(Judgement::new(comparison, result));
        completions.push(Completion {
            instruction,
            output,
            model: method.to_owned(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 3,
            log_prob: None,
        });
    }
    write_lines(&run.join(format!("generate-{method}/completions.jsonl")), &completions);
    write_lines(&run.join(format!("evaluate-{method}/judgements.jsonl")), &judgements);
    let metric = Metric {
        name: "win_rate".into(),
        value: win_rate,
        std_error: Some(2.0),
        interval: None,
        n,
        unit: "%".into(),
        higher_is_better: Some(true),
    };
    let report = EvalReport {
        model: method.into(),
        reference: Some("sft".into()),
        annotator: Some("judge".into()),
        metrics: vec![metric],
    };
    let text = serde_json::to_string(&[report]).expect("JSON");
    std::fs::write(run.join(format!("evaluate-{method}/report.json")), text).expect("written");
}

fn scalar(stage: &str, step: usize, value: f64) -> String {
    let line = json!({ "stage": stage, "time": 1.79e9 + step as f64, "event": "scalar", "name": "dpo/loss", "step": step, "value": value });
    format!("{line}\n")
}

/// Two runs, `one` and `two`, that differ in one option.
fn runs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, beta, win_rate) in [("one", "0.1", 60.0), ("two", "0.2", 55.0)] {
        let run = dir.path().join(name);
        write_model(&run, "dpo", 25, win_rate);
        write_model(&run, "ppo", 25, 50.0);
        std::fs::write(run.join("run.toml"), format!("name = \"{name}\"\n[methods.dpo.learner.dpo]\nbeta = {beta}\n"))
            .expect("written");
        let log: String = (0..60).map(|step| scalar("learn-dpo", step, 1.0 / (1.0 + step as f64))).collect();
        std::fs::write(run.join("events.jsonl"), log).expect("written");
        std::fs::create_dir_all(run.join("learn-dpo/state")).expect("made");
        std::fs::write(run.join("learn-dpo/state/begun.json"), "{}").expect("written");
    }
    dir
}

#[test]
fn runs_are_listed_read_in_pages_and_compared() {
    let dir = runs();
    let watching = Watching::start(dir.path());
    let page = &watching.page;
    let list = page.get("api/runs").expect(200).json();
    assert_eq!(list["runs"].as_array().expect("a list").len(), 2);
    let run = page.get("api/run?run=one").expect(200).json();
    let stages: Vec<&str> = run["stages"].as_array().expect("stages").iter().filter_map(|stage| stage["name"].as_str()).collect();
    assert_eq!(stages, ["evaluate-dpo", "evaluate-ppo", "generate-dpo", "generate-ppo", "learn-dpo"]);
    assert_eq!((&run["stages"][4]["state"], &run["is_running"]), (&json!("stopped"), &json!(false)));
    assert_eq!(run["leaderboard"][0], json!({ "model": "dpo", "win_rate": 60.0, "standard_error": 2.0 }));
    assert!(page.get("api/config?run=one").json()["config"].as_str().expect("text").contains("beta = 0.1"));

    let samples = page.get("api/samples?run=one&from=20&n=10").expect(200).json();
    assert_eq!((&samples["total"], samples["entries"].as_array().expect("entries").len()), (&json!(25), 5));
    let entry = &samples["entries"][3];
    assert_eq!(entry["answers"][1]["model"], "ppo");
    assert_eq!(entry["answers"][1]["outputs"][0]["shown"]["text"][0]["c"][0], "ppo says 23");
    assert_eq!(entry["answers"][0]["judgements"][0]["preference"], 1.0);

    let failed = page.get("api/judgements?run=one&stage=evaluate-dpo&kind=failed&n=3").expect(200).json();
    assert_eq!((&failed["total"], &failed["entries"][1]["line"]), (&json!(7), &json!(5)));
    assert_eq!(failed["entries"][0]["failure"], "unparsable_answer");
    let second = page.get("api/judgements?run=one&stage=evaluate-dpo&kind=second&n=1").expect(200).json();
    assert_eq!(second["entries"][0]["raw"], json!([{ "t": "pre", "c": [HOSTILE] }]), "letter by letter");

    let compared = page.get("api/compare?a=one&b=two").expect(200).json();
    let config = json!([
        { "key": "methods.dpo.learner.dpo.beta", "a": "0.1", "b": "0.2" },
        { "key": "name", "a": "\"one\"", "b": "\"two\"" },
    ]);
    assert_eq!(compared["config"], config);
    let row = &compared["results"][0];
    assert_eq!((&row["model"], &row["a"]["value"], &row["b"]["value"]), (&json!("dpo"), &json!(60.0), &json!(55.0)));
}

#[test]
fn a_run_that_is_being_written_never_breaks_an_answer() {
    let dir = runs();
    let run = dir.path().join("one");
    let watching = Watching::start(dir.path());
    let page = &watching.page;
    let first = page.get("api/events?run=one").expect(200).json();
    assert_eq!(first["scalars"]["learn-dpo"]["dpo/loss"].as_array().expect("points").len(), 60);
    let next = first["next"].as_u64().expect("a place");
    let append = |name: &str, text: &str| {
        let mut file = OpenOptions::new().append(true).open(run.join(name)).expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    };
    let line = scalar("learn-dpo", 60, 0.5);
    append("events.jsonl", &line[..30]);
    let half = page.get(&format!("api/events?run=one&from={next}")).expect(200).json();
    assert_eq!((&half["next"], &half["scalars"]), (&json!(next), &json!({})));
    append("events.jsonl", &line[30..]);
    let whole = page.get(&format!("api/events?run=one&from={next}")).expect(200).json();
    assert_eq!(whole["scalars"]["learn-dpo"]["dpo/loss"], json!([[60, 0.5]]));

    append("evaluate-dpo/judgements.jsonl", "{\"comparison\": {\"inst");
    append("generate-dpo/completions.jsonl", "no record\n{\"half");
    std::fs::write(run.join("evaluate-dpo/report.json"), "[{\"model\": \"dp").expect("written");
    std::fs::write(run.join("run.toml"), "name = \"on").expect("written");
    std::fs::write(run.join("manifest.json"), "{").expect("written");
    std::fs::remove_dir_all(run.join("evaluate-ppo")).expect("removed");
    let found = page.get("api/run?run=one").expect(200).json();
    assert!(found["problem"].as_str().expect("words").contains("manifest"), "{found}");
    assert_eq!(found["leaderboard"], json!([]));
    assert_eq!(page.get("api/judgements?run=one&stage=evaluate-dpo&n=50").expect(200).json()["total"], 25);
    let samples = page.get("api/samples?run=one&from=24&n=10").expect(200).json();
    assert_eq!((&samples["total"], &samples["entries"][1]["unreadable"]), (&json!(26), &json!("no record")));
    page.get("api/compare?a=one&b=two").expect(200);
    page.get("api/judgements?run=one&stage=evaluate-ppo&n=5").expect(404);
    std::fs::remove_dir_all(&run).expect("removed");
    page.get("api/run?run=one").expect(404);
    assert_eq!(page.get("api/runs").expect(200).json()["runs"].as_array().expect("a list").len(), 1);
}

#[test]
fn nothing_outside_of_the_runs_is_read_and_nothing_is_written() {
    let dir = runs();
    std::fs::write(dir.path().join("judgements.jsonl"), "{}\n").expect("written");
    let before: Vec<String> = names_below(dir.path());
    let watching = Watching::start(dir.path());
    let page = &watching.page;
    for (path, status) in [
        ("api/run?run=..", 404),
        ("api/run?run=one%2F..%2Ftwo", 404),
        ("api/judgements?run=one&stage=..&n=5", 404),
        ("api/judgements?run=one&stage=../two/evaluate-dpo&n=5", 404),
        ("api/judgements?run=one&stage=.&n=5", 404),
        ("api/judgements?run=one&stage=evaluate-dpo&n=-5", 400),
        ("api/samples?run=one&from=99999999999&n=5", 200),
        ("api/events?run=one&from=99999999999", 200),
        ("run.toml", 404),
    ] {
        assert_eq!(page.get(path).status, status, "{path}");
    }
    assert_eq!(page.post("api/runs", &json!({})).status, 405, "only reading");
    assert_eq!(page.request("GET", "/api/runs", &[("Host", page.host())], "").status, 404, "without the secret");
    assert_eq!(page.request("GET", &page.path("api/runs"), &[("Host", "evil.example")], "").status, 421);
    drop(watching);
    assert_eq!(names_below(dir.path()), before);
}

fn names_below(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            names.push(entry.path().display().to_string());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

#[test]
fn the_pages_follow_a_run_and_run_no_script_of_it() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = runs();
    let watching = Watching::start(dir.path());
    let url = watching.page.url.clone();
    let tab = browser.open(&url);
    browser.wait_for(&tab, "document.querySelectorAll('tbody input').length === 2");
    browser.eval(&tab, "document.querySelectorAll('tbody input').forEach((box) => box.click())");
    browser.eval(&tab, "[...document.querySelectorAll('button')].find((b) => b.textContent.startsWith('Compare')).click()");
    browser.wait_for(&tab, "document.body.innerText.includes('methods.dpo.learner.dpo.beta')");
    browser.eval(&tab, "location.hash = '#/run/one/curves'");
    browser.wait_for(&tab, "document.querySelector('svg.curve path')");
    let label = browser.eval(&tab, "document.querySelector('svg.curve').getAttribute('aria-label')");
    assert_eq!(label, "dpo/loss: dpo ends at 0.01667 in step 59");
    // The run goes on; so does the line.
    let mut file = OpenOptions::new().append(true).open(dir.path().join("one/events.jsonl")).expect("opened");
    file.write_all(scalar("learn-dpo", 60, 0.25).as_bytes()).expect("written");
    browser.wait_for(&tab, "document.querySelector('svg.curve').getAttribute('aria-label').includes('0.25 in step 60')");
    for (part, words) in [
        ("overview", "win rate"),
        ("samples", "ppo says 2"),
        ("judgements", "no verdict: unparsable answer"),
        ("leaderboard", "win rate"),
        ("configuration", "beta = 0.1"),
    ] {
        browser.eval(&tab, &format!("location.hash = '#/run/one/{part}'"));
        browser.wait_for(&tab, &format!("document.body.innerText.includes({})", json!(words)));
        browser.eval(&tab, "document.querySelectorAll('details').forEach((d) => { d.open = true })");
    }
    browser.eval(&tab, "location.hash = '#/run/one/samples'");
    browser.wait_for(&tab, "document.body.innerText.includes('window.hacked = 1')");
    browser.eval(&tab, "[...document.querySelectorAll('button')].find((b) => b.textContent.startsWith('On')).click()");
    browser.wait_for(&tab, "document.body.innerText.includes('11–20 of 25')");
    assert_eq!(browser.eval(&tab, "typeof window.hacked"), "undefined");
    assert_eq!(browser.eval(&tab, "document.querySelectorAll('#view script, #view img').length"), 0);
    let complaints: Vec<Value> = browser
        .take_events()
        .into_iter()
        .filter(|event| event["method"] == "Runtime.exceptionThrown" || event["method"] == "Log.entryAdded")
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
