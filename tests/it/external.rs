//! Components that are programs in another language, from the command line.

use std::path::Path;

use serde_json::Value;

use crate::command::farmhand;

/// The example, in a folder of its own, with less of everything.
fn example(dir: &Path) -> Vec<&'static str> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for folder in ["configs", "external"] {
        std::fs::create_dir_all(dir.join(folder)).expect("made");
    }
    for name in ["configs/external-programs.toml", "external/annotator.py", "external/reward_model.py", "external/evaluator.py"] {
        std::fs::copy(examples.join(name), dir.join(name)).expect("copied");
    }
    vec![
        "run",
        "configs/external-programs.toml",
        "--set",
        "data.synthetic=400",
        "--set",
        "data.split={ sft = 200, preference = 60, val = 10, eval = 40 }",
        "--set",
        "methods.best_of_8.policy.best_of_n.n=3",
    ]
}

#[test]
fn annotator_reward_model_and_evaluator_in_python_make_a_leaderboard() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = example(dir.path());
    farmhand(dir.path(), &run).expect_success();
    let folder = dir.path().join("runs/external-programs");
    let board: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("report/leaderboard.json")).expect("written")).expect("JSON");
    let rows = board.as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert!(row["ends_with_full_stop"].is_number() && row["cut_off"].is_number(), "{row}");
    }
    let judged = std::fs::read_to_string(folder.join("annotate/judgements.jsonl")).expect("judged");
    assert!(judged.lines().all(|line| line.contains("\"annotator\":\"overlap\"") && line.contains(" words\"")), "{judged}");
}

#[test]
fn a_program_that_fails_stops_the_run_with_its_words_and_the_same_command_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = example(dir.path());
    let annotator = dir.path().join("external/annotator.py");
    let good = std::fs::read_to_string(&annotator).expect("read");
    std::fs::write(&annotator, good.replace("def judge(item):", "def judge(item):\n    raise ValueError('out of ideas')"))
        .expect("broken");
    farmhand(dir.path(), &run).expect_error(&["comparisons failed", "annotator.py", "ValueError: out of ideas"], None);
    std::fs::write(&annotator, good).expect("mended");
    farmhand(dir.path(), &run).expect_success();

    let missing = [&run[..], &["--set", "name=other", "--set", "annotator.command.command=[\"no-such-program\"]"]].concat();
    farmhand(dir.path(), &missing).expect_error(&["cannot start `no-such-program`"], None);
    let nothing = [&run[..], &["--set", "name=none", "--set", "annotator.command.command=[]"]].concat();
    farmhand(dir.path(), &nothing).expect_error(&["annotator.command.command", "expected a program"], Some("python3"));
}
