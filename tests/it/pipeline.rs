//! The whole job on a tiny model: twice the same bytes, killed and resumed the same bytes, stopped with Ctrl-C, refused
//! where something changed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::command::{Finished, command, farmhand, files_below, fixture};

fn run(dir: &Path, more: &[&str]) -> Finished {
    let config = fixture("tiny.toml");
    let mut args = vec!["run", config.to_str().expect("a path")];
    args.extend(more);
    farmhand(dir, &args)
}

/// What must be equal between two runs: the report and everything a stage made; not the log with its times.
fn results(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = files_below(&dir.join("runs/tiny"));
    files.retain(|(name, _)| name != Path::new("events.jsonl") && name != Path::new(".lock"));
    files
}

#[track_caller]
fn assert_same(left: &[(PathBuf, Vec<u8>)], right: &[(PathBuf, Vec<u8>)]) {
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for ((name, left), (_, right)) in left.iter().zip(right) {
        assert!(left == right, "`{}` differs", name.display());
    }
}

#[test]
fn the_whole_job_gives_the_same_bytes_twice_and_killed_and_resumed() {
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let started = Instant::now();
    let done = run(first.path(), &[]).expect_success();
    let duration = started.elapsed();
    for row in ["sft", "dpo", "ppo", "best_of_4"] {
        assert!(done.stdout.contains(row), "no `{row}` in:\n{}", done.stdout);
    }
    assert!(done.stdout.contains("report: runs/tiny/report/index.html"), "{}", done.stdout);
    let expected = results(first.path());
    assert!(expected.iter().any(|(name, _)| name == Path::new("report/index.html")));

    // Killed again and again, a little later each time, until it is through. The moments follow the machine's speed.
    let config = fixture("tiny.toml");
    let mut kills = 0;
    for wait in (0..).map(|i| duration.mul_f64(0.15 + 0.04 * f64::from(i))) {
        let mut child = command(second.path(), &["run", config.to_str().expect("a path"), "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("farmhand starts");
        std::thread::sleep(wait);
        if let Some(status) = child.try_wait().expect("waited") {
            assert!(status.success(), "a resumed run failed: {:?}", run(second.path(), &[]).stderr);
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("waited");
        kills += 1;
        assert!(kills < 60, "the run makes no progress between kills");
    }
    assert!(kills >= 3, "only {kills} kills: the run is too fast for this test");
    assert_same(&expected, &results(second.path()));

    // A second run of a finished job does nothing and shows the same leaderboard.
    let again = run(first.path(), &[]).expect_success();
    assert_eq!(again.stdout, done.stdout);
    assert_same(&expected, &results(first.path()));

    what_changed_is_refused(first.path());
}

/// On a finished run: other options, and outputs edited by hand, are refused and nothing is lost.
fn what_changed_is_refused(dir: &Path) {
    let before = results(dir);
    run(dir, &["--set", "methods.dpo.learner.dpo.beta=0.3"])
        .expect_error(&["stage `learn-dpo` does not fit any more", "beta", "(0.1 → 0.3)"], Some("--redo"));
    let edited = dir.join("runs/tiny/annotate/preferences.jsonl");
    let original = std::fs::read(&edited).expect("readable");
    std::fs::write(&edited, b"{}\n").expect("edited");
    run(dir, &[]).expect_error(&["stage `annotate`", "preferences.jsonl` was changed after it was made"], Some("--redo"));
    std::fs::write(&edited, &original).expect("restored");
    run(dir, &[]).expect_success();
    let after = results(dir);
    // The resolved configuration of the refused run was not written over the one that made the results.
    assert_same(&before, &after);
    run(dir, &["--set", "methods.dpo.learner.dpo.beta=0.3", "--redo"]).expect_success();
    let (name, _) = before.iter().find(|(name, _)| name == Path::new("learn-dpo/checkpoint/model.safetensors")).expect("there");
    let redone = results(dir);
    assert_ne!(before.iter().find(|(n, _)| n == name), redone.iter().find(|(n, _)| n == name));
    assert_eq!(
        before.iter().find(|(n, _)| n.starts_with("learn-ppo/checkpoint") && n.ends_with("model.safetensors")),
        redone.iter().find(|(n, _)| n.starts_with("learn-ppo/checkpoint") && n.ends_with("model.safetensors"))
    );
}

#[test]
fn ctrl_c_leaves_a_resumable_run_and_says_so_and_a_second_process_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = fixture("tiny.toml");
    let child = command(dir.path(), &["run", config.to_str().expect("a path"), "--set", "sft.learner.sft.epochs=400"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("farmhand starts");
    let state = dir.path().join("runs/tiny/sft/state");
    let saved = || {
        std::fs::read_dir(&state).is_ok_and(|mut states| states.any(|entry| entry.is_ok_and(|e| e.file_name() != "begun.json")))
    };
    for _ in 0..600 {
        if saved() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(saved(), "no state was saved within 30 s");
    run(dir.path(), &[]).expect_error(&["the run directory `runs/tiny` is in use by process"], Some("choose another `name`"));
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    let stopped: Finished = child.wait_with_output().expect("waited").into();
    assert_eq!(stopped.code, Some(130), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("hint: run the same command again to go on"), "{}", stopped.stderr);
}
