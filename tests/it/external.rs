//! Components that are programs in another language, from the command line.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::command::farmhand;

/// Options that make an example small.
const SMALL: [&str; 6] = [
    "--set",
    "data.synthetic=400",
    "--set",
    "data.split={ sft = 200, preference = 60, val = 10, eval = 40 }",
    "--set",
    "methods.best_of_8.policy.best_of_n.n=3",
];

/// The example, in a folder of its own, with less of everything.
fn example(dir: &Path) -> Vec<&'static str> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for folder in ["configs", "external"] {
        std::fs::create_dir_all(dir.join(folder)).expect("made");
    }
    for name in ["configs/external-programs.toml", "external/annotator.py", "external/reward_model.py", "external/evaluator.py"] {
        std::fs::copy(examples.join(name), dir.join(name)).expect("copied");
    }
    [&["run", "configs/external-programs.toml"][..], &SMALL].concat()
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

/// A running Python program that serves, ended when dropped.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    /// Starts `examples/external/reward_server.py` on a free port.
    fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/external/reward_server.py");
        let mut child = Command::new("python3").arg(program).arg("0").stdout(Stdio::piped()).spawn().expect("started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("said where");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, address }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reward_server_in_python_judges_rewards_and_picks_and_when_it_is_gone_the_run_waits_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/configs/reward-server.toml");
    let written = std::fs::read_to_string(config).expect("read");
    let at = |address: &str| {
        std::fs::write(dir.path().join("c.toml"), written.replace("http://127.0.0.1:8300", address)).expect("written")
    };
    // A server that is gone: its port was free a moment ago.
    at(&{
        let gone = Served::start();
        gone.address.clone()
    });
    let small = ["data.split.unlabeled=16", "methods.ppo.learner.ppo.steps=1", "methods.ppo.learner.ppo.rollout_size=16"];
    let small = small.iter().chain(&["methods.ppo.learner.ppo.batch_size=8"]).flat_map(|set| ["--set", set]);
    let run: Vec<&str> = ["run", "c.toml"].into_iter().chain(SMALL).chain(small).collect();
    farmhand(dir.path(), &run).expect_error(&["comparisons failed", "cannot be reached"], None);
    let served = Served::start();
    at(&served.address);
    farmhand(dir.path(), &run).expect_success();
    let board = std::fs::read_to_string(dir.path().join("runs/reward-server/report/leaderboard.json")).expect("written");
    let board: Value = serde_json::from_str(&board).expect("JSON");
    let rate = |model: &str| {
        let rows = board.as_array().expect("rows");
        rows.iter()
            .find(|row| row["model"] == model)
            .and_then(|row| row["win_rate"].as_f64())
            .unwrap_or_else(|| panic!("{board}"))
    };
    assert!(rate("best_of_8") > 55.0, "picked by the server that also judges: {board}");
    let rewarded = board.as_array().expect("rows").iter().filter(|row| row["mean_reward"].is_number()).count();
    assert_eq!(rewarded, 4, "all answers are scored: {board}");
    assert!(!dir.path().join("runs/reward-server/reward-model").exists(), "and nothing was trained to do it");
}

#[test]
fn whatever_a_reward_model_program_does_is_one_clear_error_and_the_same_command_goes_on_from_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = example(dir.path());
    let options = "methods.best_of_8.policy.best_of_n.reward_model.command";
    let quick = [format!("{options}.timeout_secs=1"), format!("{options}.restarts=0")];
    let run = [&run[..], &["--set", &quick[0], "--set", &quick[1]]].concat();
    let program = dir.path().join("external/reward_model.py");
    let good = std::fs::read_to_string(&program).expect("read");
    let broken =
        |body: &str| good.replace("    request = json.loads(line)\n", &format!("    request = json.loads(line)\n    {body}\n"));
    let judged = dir.path().join("runs/external-programs/annotate/judgements.jsonl");
    let mut before = None;
    for (body, words) in [
        ("sys.exit('no memory left')", &["exit status: 1", "no memory left"][..]),
        ("__import__('time').sleep(30)", &["said nothing for 1 s"]),
        ("print('loading …', flush=True)", &["a line that is no JSON", "loading …"]),
        ("print('{\"id\": %d, \"results\": [1.0]}' % request['id'], flush=True); continue", &["gave 1 results for"]),
        (
            "print('{\"id\": %d, \"results\": %s}' % (request['id'], json.dumps([None] * len(request['items']))), flush=True); continue",
            &["scored answer 1 with `null`"],
        ),
    ] {
        std::fs::write(&program, broken(body)).expect("broken");
        farmhand(dir.path(), &run).expect_error(words, None);
        let now = std::fs::read(&judged).expect("what was done stays");
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now, "judged once");
    }
    std::fs::write(&program, good).expect("mended");
    let done = farmhand(dir.path(), &run).expect_success();
    assert!(!done.stderr.contains("annotate:\n"), "done before: {}", done.stderr);
}

#[test]
fn an_annotator_that_dies_on_its_way_is_asked_again_for_what_is_missing_and_for_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = example(dir.path());
    let config = dir.path().join("configs/external-programs.toml");
    let written = std::fs::read_to_string(&config).expect("read");
    let kept = "[annotator.cached]\n[annotator.cached.inner.command]\nbatch_size = 8\nrestarts = 0";
    std::fs::write(&config, written.replace("[annotator.command]", kept)).expect("written");
    let program = dir.path().join("external/annotator.py");
    let good = std::fs::read_to_string(&program).expect("read");
    // Every pair that is answered leaves a line.
    let noting = good.replace(
        "    request = json.loads(line)\n",
        "    request = json.loads(line)\n    if DIES and request['id'] == 2:\n        sys.exit('out of ideas')\n    \
         open('asked', 'a').writelines(json.dumps(item) + '\\n' for item in request['items'])\n",
    );
    assert!(noting.contains("DIES"));
    std::fs::write(&program, noting.replace("DIES", "True")).expect("broken");
    let first = farmhand(dir.path(), &run).expect_success();
    assert!(
        first.stderr.contains("8 of 60 comparisons have no verdict") && first.stderr.contains("out of ideas"),
        "{}",
        first.stderr
    );
    std::fs::write(&program, noting.replace("DIES", "False")).expect("mended");
    let again = [&run[..], &["--redo", "--set", "annotator.cached.retry_failures=true"]].concat();
    let done = farmhand(dir.path(), &again).expect_success();
    assert!(done.stderr.contains("cached 52, new 8, failed 0"), "{}", done.stderr);
    let asked = std::fs::read_to_string(dir.path().join("configs/asked")).expect("asked");
    let mut lines: Vec<&str> = asked.lines().collect();
    lines.sort_unstable();
    let n = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), n, "no pair was asked twice");
}
