//! Several processes on one store, and one that is killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Tells the process that started this one.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("somebody listens");
}

/// Set in the processes that the next two tests start: which test's part to play, and where.
const ROLE: &str = "FARMHAND_STORE_TEST_ROLE";

fn start_process(test: &str, role: &str) -> std::process::Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", &format!("store::tests::processes::{test}"), "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

#[test]
fn processes_at_the_same_time_lose_nothing_and_agree_on_who_was_first() {
    const N: usize = 400;
    const PROCESSES: usize = 4;
    if let Ok(role) = std::env::var(ROLE) {
        // One of the processes: two threads that answer the same questions.
        let (path, name) = role.split_once('|').expect("two parts");
        let store = Store::open(path).expect("opened");
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (store, name) = (&store, format!("{name}{thread}"));
                scope.spawn(move || {
                    for i in 0..N {
                        let stands = wait(store.keep_or_take(key(i), answer(&name))).expect("kept");
                        say(&format!("stands {i} {}", stands.answer().expect("an answer")["text"]));
                    }
                });
            }
        });
        return;
    }
    let (_dir, path) = folder();
    let children: Vec<_> = (0..PROCESSES)
        .map(|i| {
            start_process(
                "processes_at_the_same_time_lose_nothing_and_agree_on_who_was_first",
                &format!("{}|{}", path.display(), ["a", "b", "c", "d"][i]),
            )
        })
        .collect();
    let outputs: Vec<String> = children
        .into_iter()
        .map(|child| String::from_utf8(child.wait_with_output().expect("ended").stdout).expect("text"))
        .collect();
    let store = Store::open(&path).expect("opened");
    let kept = store.replies(&(0..N).map(key).collect::<Vec<_>>()).expect("read");
    let words = |i: usize| kept[i].as_ref().and_then(StoredReply::answer).map(|answer| answer["text"].to_string());
    let mut n_seen = 0;
    for line in outputs.iter().flat_map(|output| output.lines()).filter_map(|line| line.split_once("stands ")) {
        let (i, stands) = line.1.split_once(' ').expect("two parts");
        assert_eq!(Some(stands.to_owned()), words(i.parse().expect("a number")));
        n_seen += 1;
    }
    assert_eq!(n_seen, 2 * N * PROCESSES);
    let rows: i64 = Connection::open(&path)
        .and_then(|connection| connection.query_row("SELECT count(*) FROM replies", [], |row| row.get(0)))
        .expect("counted");
    assert_eq!(rows, N as i64);
}

#[test]
fn a_killed_process_loses_nothing_that_was_done() {
    if let Ok(path) = std::env::var(ROLE) {
        let store = Store::open(path).expect("opened");
        for i in 0.. {
            wait(store.keep(key(i), answer("x"))).expect("kept");
            say(&format!("kept {i}"));
        }
    }
    let (_dir, path) = folder();
    let mut child = start_process("a_killed_process_loses_nothing_that_was_done", &path.display().to_string());
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut last = None;
    let number = |line: &str| line.rsplit_once("kept ").and_then(|(_, number)| number.parse::<usize>().ok());
    for line in lines.by_ref().map_while(Result::ok) {
        last = number(&line).or(last);
        if last >= Some(300) {
            child.kill().expect("killed");
            break;
        }
    }
    last = lines.map_while(Result::ok).filter_map(|line| number(&line)).last().or(last);
    child.wait().expect("ended");
    let n = last.expect("something was kept") + 1;
    let store = Store::open(&path).expect("opened");
    let kept = store.replies(&(0..n).map(key).collect::<Vec<_>>()).expect("read");
    assert!(n > 300 && kept.iter().all(Option::is_some));
}
