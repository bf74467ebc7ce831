//! `farmhand label` and `farmhand serve` as commands: killed at any moment, every acknowledged answer is there once; Ctrl-C
//! ends them well.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::command::{command, farmhand};

/// A running server and its addresses.
struct Server {
    child: Child,
    raters: String,
    operator: String,
}

impl Server {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let args = [&["label", "data.jsonl", "--port", "0", "--json", "--quiet"], more].concat();
        let mut child = command(dir, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("farmhand starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        let urls: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let url = |key: &str| urls[key].as_str().expect("an address").to_owned();
        Self { raters: url("raters"), operator: url("operator"), child }
    }

    fn signal(&self, name: &str) {
        signal(&self.child, name);
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([name, &id]).status().expect("kill runs").success());
}

/// Posts and gives back the answer's JSON; `None` when the server went away before it answered.
fn post(url: &str, below: &str, body: &Value) -> Option<Value> {
    serde_json::from_str(&exchange("POST", url, below, &body.to_string())?).ok()
}

/// The body of an answer.
fn exchange(method: &str, url: &str, below: &str, body: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").expect("an address");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).ok()?;
    let head = format!(
        "{method} /{path}{below} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    Some(body.to_owned())
}

fn write_data(dir: &Path, n: usize) {
    let line = |i: usize| format!("{{\"instruction\":\"Say {i}.\",\"output_1\":\"one {i}\",\"output_2\":\"two {i}\"}}\n");
    std::fs::write(dir.join("data.jsonl"), (0..n).map(line).collect::<String>()).expect("written");
}

/// Judges until the server goes away or `n` answers are in; records the clicks that were acknowledged.
fn judge(url: &str, rater: &str, n: usize, acknowledged: &mut BTreeSet<String>) {
    for _ in 0..n {
        let Some(state) = post(url, "api/next", &json!({ "rater": rater })) else { return };
        if state["state"] != "item" {
            return;
        }
        let click = format!("{rater}-{:016}", state["done"].as_u64().expect("a count"));
        let body = json!({ "click": click, "rater": rater, "item": state["item"]["item"], "choice": "left" });
        if post(url, "api/label", &body).is_none() {
            return;
        }
        acknowledged.insert(click);
    }
}

#[test]
fn a_killed_server_has_every_acknowledged_answer_exactly_once() {
    const N_ITEMS: usize = 1000;
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), N_ITEMS);
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let server = Server::start(dir.path(), &["--overlap", "2"]);
        std::thread::scope(|scope| {
            let raters = ["ana", "ben", "cem"].map(|rater| {
                let url = server.raters.as_str();
                scope.spawn(move || {
                    let mut mine = BTreeSet::new();
                    judge(url, rater, N_ITEMS, &mut mine);
                    mine
                })
            });
            std::thread::sleep(std::time::Duration::from_millis(200 + 50 * round));
            server.signal("-KILL");
            for rater in raters {
                acknowledged.extend(rater.join().expect("no panic"));
            }
        });
        let mut child = server.child;
        child.wait().expect("ended");
    }
    assert!(acknowledged.len() > 3, "{}", acknowledged.len());
    farmhand(dir.path(), &["label", "data.jsonl", "--overlap", "2", "--export"]).expect_success();

    let journal = std::fs::read_to_string(dir.path().join("data.labels/journal.jsonl")).expect("readable");
    let entries: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).expect("whole lines alone")).collect();
    let clicks: Vec<&str> = entries.iter().filter_map(|entry| entry["click"].as_str()).collect();
    let recorded: BTreeSet<String> = clicks.iter().map(|click| (*click).to_owned()).collect();
    assert_eq!(recorded.len(), clicks.len(), "none is there twice");
    assert!(acknowledged.is_subset(&recorded), "{:?}", acknowledged.difference(&recorded));
    // One click a rater and kill may have been recorded and not acknowledged.
    assert!(recorded.len() <= acknowledged.len() + 9);
    let judgements = std::fs::read_to_string(dir.path().join("data.labels/judgements.jsonl")).expect("readable");
    assert_eq!(judgements.lines().count(), recorded.len());
}

#[test]
fn ctrl_c_ends_well_and_annotators_read_what_people_said() {
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 5);
    let mut server = Server::start(dir.path(), &["--out", "people"]);
    assert!(server.raters.starts_with("http://127.0.0.1:") && server.operator != server.raters);
    farmhand(dir.path(), &["label", "data.jsonl", "--out", "people"]).expect_error(&["in use by process"], Some("--out"));
    let port = server.raters.split([':', '/']).nth(4).expect("a port");
    farmhand(dir.path(), &["label", "data.jsonl", "--out", "other", "--port", port])
        .expect_error(&["cannot listen on", port], Some("--port 0"));
    let mut acknowledged = BTreeSet::new();
    judge(&server.raters, "ana", 5, &mut acknowledged);
    assert_eq!(acknowledged.len(), 5);
    server.signal("-INT");
    assert_eq!(server.child.wait().expect("ended").code(), Some(0));
    let mut rest = String::new();
    server.child.stdout.take().expect("a pipe").read_to_string(&mut rest).expect("text");
    let summary: Value = serde_json::from_str(&rest).expect("a summary");
    assert_eq!((&summary["n_labels"], &summary["n_raters"]), (&json!(5), &json!(1)));

    let recorded = "path=people/judgements.jsonl";
    farmhand(
        dir.path(),
        &["annotate", "--annotator", "from_file", "--data", "data.jsonl", "--out", "annotated", "--set", recorded],
    )
    .expect_success();
    let annotated = std::fs::read_to_string(dir.path().join("annotated/judgements.jsonl")).expect("readable");
    let preferences = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["annotation"]["preference"].clone()).collect()
    };
    let said = std::fs::read_to_string(dir.path().join("people/judgements.jsonl")).expect("readable");
    assert_eq!(preferences(&annotated), preferences(&said));
    assert!(preferences(&said).contains(&json!(1)) || preferences(&said).contains(&json!(2)));
}

#[test]
fn runs_are_served_until_ctrl_c() {
    let dir = tempfile::tempdir().expect("a folder");
    farmhand(dir.path(), &["serve"]).expect_error(&["there is no folder `runs`"], Some("run directories"));
    std::fs::create_dir_all(dir.path().join("runs/one")).expect("made");
    std::fs::write(dir.path().join("runs/one/run.toml"), "name = \"one\"\n").expect("written");
    let args = ["serve", "--port", "0", "--json", "--quiet"];
    let mut child = command(dir.path(), &args).stdout(Stdio::piped()).spawn().expect("farmhand starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    let urls: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let url = urls["runs"].as_str().expect("an address");
    assert!(exchange("GET", url, "api/runs", "").expect("an answer").contains("\"name\":\"one\""));
    signal(&child, "-INT");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

#[test]
fn bad_data_is_an_error_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    farmhand(dir.path(), &["label", "none.jsonl"]).expect_error(&["none.jsonl"], None);
    std::fs::write(dir.path().join("data.jsonl"), "{\"instruction\": \"x\", \"output_1\": \"a\"}\n").expect("written");
    farmhand(dir.path(), &["label", "data.jsonl"]).expect_error(&["line 1: no known form"], Some("known forms"));
    assert!(!dir.path().join("data.labels").exists());
    farmhand(dir.path(), &["label", "data.jsonl", "--listen", "everyone"]).expect_refused("--listen");
}
