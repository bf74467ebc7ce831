//! A judge behind a server that misbehaves in every way, in a process that is killed: every comparison ends with a verdict or a
//! typed failure, nothing is asked twice after its answer was received, and a budget holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use farmhand_annotators as _;
use farmhand_core::run::StageDir;
use farmhand_core::types::{Annotation, Comparison, Instruction};
use farmhand_core::{
    AnnotatorSpec, Budget, BuildContext, CancelFlag, Device, ErrorKind, NoEvents, PollingExecutor, Result, RunContext, Seed,
};
use farmhand_endpoints::loopback::{FaultPlan, FaultServer, chat_answer};
use serde_json::{Value, json};

/// Where a child process works, and whom it asks.
const CHILD_DIR: &str = "FARMHAND_TEST_CHILD_DIR";
const CHILD_SERVER: &str = "FARMHAND_TEST_CHILD_SERVER";

const MAX_CONCURRENT: usize = 32;

/// Comparisons that a child process judges.
const N_OF_CHILD: usize = 400;

/// Ranks the answers as they are listed, in the form that the prompt's last line shows.
fn ranking(request: &Value) -> Value {
    let turns = request["messages"].as_array().expect("messages");
    let asked = turns.last().and_then(|turn| turn["content"].as_str()).expect("a question");
    let form = asked.trim().lines().last().expect("a form");
    chat_answer(request, &form.replacen('…', "1", 1).replacen('…', "2", 1))
}

fn comparisons(n: usize) -> Vec<Comparison> {
    let pair = |i: usize| Comparison::new(Instruction::new(format!("count to {i}"), None), "one, two, …", "no");
    (0..n).map(pair).collect()
}

/// Judges in a folder that holds the store.
fn judge(dir: &Path, base_url: &str, budget: Option<&Budget>, comparisons: &[Comparison]) -> Vec<Result<Annotation>> {
    let options = json!({
        "model": "judge", "store": "replies.sqlite", "prices": { "prompt": 1.0, "completion": 10.0 }, "max_tokens": 100,
        "server": { "base_url": base_url, "max_concurrent": MAX_CONCURRENT, "timeout_secs": 0.5, "retries": 3 },
    });
    let stage = StageDir::create(dir.join("stage")).expect("made");
    let (cancel, executor, events, device) = (CancelFlag::new(), PollingExecutor, NoEvents, Device::Cpu);
    let ctx = RunContext { stage: &stage, seed: Seed::root(0), device, events: &events, cancel: &cancel, executor: &executor };
    let building = BuildContext { budget, ..BuildContext::new(device, dir) };
    let judge = AnnotatorSpec::from_json("ranking", &options.to_string()).expect("registered").build(&building).expect("built");
    ctx.block_on(judge.annotate(comparisons, &ctx))
}

/// How many ended in which way.
fn ends(results: &[Result<Annotation>]) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for result in results {
        let end = match result {
            Ok(annotation) if annotation.cached => "cached",
            Ok(_) => "new",
            Err(error) => error.kind().label(),
        };
        *ends.entry(end.to_owned()).or_insert(0) += 1;
    }
    ends
}

fn n_labelled(ends: &BTreeMap<String, usize>) -> usize {
    ["cached", "new"].iter().filter_map(|end| ends.get(*end)).sum()
}

#[test]
fn every_comparison_ends_by_type_and_what_was_answered_is_not_asked_again() {
    let (dir, all) = (tempfile::tempdir().expect("a folder"), comparisons(600));
    let server = FaultServer::start(FaultPlan::every(0.4, 1), ranking);
    let first = ends(&judge(dir.path(), &server.base_url(), None, &all));
    assert_eq!(first.values().sum::<usize>(), all.len());
    let typed = ["cached", "new", "remote_service", "unparsable_answer", "refused_answer"];
    assert!(first.keys().all(|end| typed.contains(&end.as_str())), "{first:?}");
    let tally = server.tally();
    assert!(n_labelled(&first) > 450 && tally.faults.len() == 15, "{first:?} {:?}", tally.faults);
    assert_eq!(tally.n_answered_again(), 0);

    // What failed in a way that may pass is asked again, and nothing else; what cannot be read is read again for nothing.
    let second = ends(&judge(dir.path(), &server.base_url(), None, &all));
    assert_eq!(second["cached"], n_labelled(&first), "{first:?} {second:?}");
    assert_eq!(server.tally().n_answered_again(), 0);
}

#[test]
fn a_budget_is_not_exceeded_by_more_than_what_is_under_way() {
    let (dir, all) = (tempfile::tempdir().expect("a folder"), comparisons(400));
    let server = FaultServer::start(FaultPlan::every(0.1, 2), ranking);
    // Without bounds first, on another store, to know what an answer costs.
    let free = judge(&dir.path().join("free"), &server.base_url(), None, &all[..40]);
    let costs: Vec<f64> = free.iter().flatten().filter_map(|annotation| annotation.cost_usd).collect();
    let dearest = costs.iter().copied().fold(0.0, f64::max);
    assert!(costs.len() > 20 && dearest > 0.0);
    let n_before = server.tally().n_answered();
    let budget = Budget::new(100.0 * dearest);
    let results = judge(dir.path(), &server.base_url(), Some(&budget), &all);
    let n_answered = server.tally().n_answered() - n_before;
    let counted = ends(&results);
    assert!(counted.contains_key(ErrorKind::BudgetSpent.label()), "{counted:?}");
    let most = budget.limit_usd() + MAX_CONCURRENT as f64 * dearest;
    assert!(budget.spent_usd() <= most, "{} spent of {}", budget.spent_usd(), budget.limit_usd());
    assert!(n_answered as f64 * dearest <= most && n_answered > 30, "{n_answered} answers, {counted:?}");
}

/// The work of a process that may be killed at any moment; on its own, with a server of its own, it must end by itself.
#[test]
fn the_work_of_a_child() {
    let all = comparisons(N_OF_CHILD);
    if let (Some(dir), Ok(base_url)) = (std::env::var_os(CHILD_DIR), std::env::var(CHILD_SERVER)) {
        let counted = ends(&judge(Path::new(&dir), &base_url, None, &all));
        std::fs::write(Path::new(&dir).join("ends.json"), json!(counted).to_string()).expect("written");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let server = FaultServer::start(FaultPlan::none(), ranking);
    let counted = ends(&judge(dir.path(), &server.base_url(), None, &all));
    assert_eq!((counted["new"], server.tally().n_asked()), (N_OF_CHILD, N_OF_CHILD as u64));
}

fn start_child(dir: &Path, base_url: &str) -> Child {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", "the_work_of_a_child", "--test-threads", "1"]).env(CHILD_DIR, dir).env(CHILD_SERVER, base_url);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

#[test]
fn a_process_that_is_killed_at_any_moment_loses_only_what_was_under_way() {
    let dir = tempfile::tempdir().expect("a folder");
    let plan = FaultPlan { latency: Duration::from_millis(20), ..FaultPlan::every(0.1, 3) };
    let server = FaultServer::start(plan, ranking);
    let mut rng = Seed::root(4).child("kill", 0).rng();
    let mut n_killed = 0;
    while n_killed < 6 {
        let n_before = server.tally().n_asked();
        let mut child = start_child(dir.path(), &server.base_url());
        // From its first question on, so that starting up does not eat the time.
        while server.tally().n_asked() == n_before && child.try_wait().expect("asked").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(rng.below(60) as u64));
        if child.try_wait().expect("asked").is_some() {
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        n_killed += 1;
    }
    assert!(n_killed >= 3, "the work was done after {n_killed} kills");
    let status = start_child(dir.path(), &server.base_url()).wait().expect("ended");
    assert!(status.success());
    let text = std::fs::read_to_string(dir.path().join("ends.json")).expect("written at the end");
    let counted: BTreeMap<String, usize> = serde_json::from_str(&text).expect("counts");
    assert_eq!(counted.values().sum::<usize>(), N_OF_CHILD, "{counted:?}");
    assert!(counted.get("cached").is_some_and(|n| *n > 0), "the last process found what the others had paid for: {counted:?}");
    let tally = server.tally();
    let n_lost = tally.n_answered_again();
    assert!(n_lost <= (n_killed * MAX_CONCURRENT) as u64, "{n_lost} answers lost to {n_killed} kills");
}
