//! The command line as a user meets it: help, lists, and one clear error for every mistake.

use std::path::Path;
use std::time::Instant;

use clap::{CommandFactory, Parser};
use farmhand::cli::args::Cli;

use crate::command::{command, farmhand, fixture};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn tiny() -> String {
    fixture("tiny.toml").to_string_lossy().into_owned()
}

#[test]
fn help_is_immediate_and_shows_examples() {
    let dir = folder();
    let started = Instant::now();
    let help = farmhand(dir.path(), &["--help"]).expect_success();
    // 50 ms on an idle machine is measured by hand; here only that libtorch is not loaded.
    assert!(started.elapsed().as_millis() < 2000, "took {:?}", started.elapsed());
    assert!(help.stdout.contains("Examples:") && help.stdout.contains("farmhand run examples/configs/quickstart.toml"));
    for command in
        ["run", "sft", "sample", "annotate", "reward-model", "learn", "generate", "evaluate", "report", "score", "checkpoint"]
    {
        assert!(help.stdout.contains(&format!("  {command} ")), "no `{command}` in:\n{}", help.stdout);
        farmhand(dir.path(), &[command, "--help"]).expect_success();
    }
}

/// The lines of every command's help that show the command itself, without what is said beside them.
fn help_examples(command: &clap::Command, found: &mut Vec<String>) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for line in help.lines().map(str::trim_start).filter(|line| line.starts_with("farmhand ")) {
        let shown = line.split("  ").next().expect("the command");
        found.push(shown.split(" > ").next().expect("the command").trim_end().to_owned());
    }
    for inner in command.get_subcommands() {
        help_examples(inner, found);
    }
}

#[test]
fn the_examples_of_every_help_are_command_lines_that_are_understood() {
    let mut examples = Vec::new();
    help_examples(&Cli::command(), &mut examples);
    assert!(examples.len() > 25, "{examples:?}");
    for example in examples {
        if let Err(error) = Cli::try_parse_from(example.split_whitespace()) {
            panic!("`{example}`: {error}");
        }
    }
}

#[test]
fn a_mistake_on_the_command_line_is_json_where_json_is_asked_for() {
    let dir = folder();
    for (args, part) in [
        (&["run", "--jsn", "--json"][..], "unexpected argument '--jsn'"),
        (&["--json", "learn", "dpo"][..], "--model <MODEL>"),
        (&["lern", "--json"][..], "unrecognized subcommand 'lern'"),
        (&["estimate", "--json", "--model", "x", "--memory-gb", "much"][..], "invalid value 'much'"),
    ] {
        let refused = farmhand(dir.path(), args);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{}", refused.stderr);
        let told: serde_json::Value = serde_json::from_str(&refused.stderr).expect("one JSON value");
        assert_eq!(told["error"]["kind"], "invalid_arguments");
        let [message, hint] = ["message", "hint"].map(|key| told["error"][key].as_str().expect("text"));
        assert!(message.contains(part) && !message.starts_with("error") && hint.contains("--help"), "{told}");
    }
    farmhand(dir.path(), &["run", "--jsn"]).expect_refused("unexpected argument '--jsn'");
    assert!(farmhand(dir.path(), &["--json", "--help"]).expect_success().stdout.contains("Examples:"));
}

#[test]
fn list_and_describe_show_components() {
    let dir = folder();
    let list = farmhand(dir.path(), &["list", "learners"]).expect_success().stdout;
    for name in ["sft", "dpo", "ppo", "reward_modeling"] {
        assert!(list.contains(name), "{list}");
    }
    assert!(list.lines().any(|line| line.trim_start().starts_with("dpo ") && line.ends_with("(arXiv:2305.18290)")), "{list}");
    let index = farmhand(dir.path(), &["list", "--markdown"]).expect_success().stdout;
    assert!(index.contains("[arXiv:2305.18290](https://arxiv.org/abs/2305.18290)"), "{index}");
    let json: serde_json::Value =
        serde_json::from_str(&farmhand(dir.path(), &["list", "--json"]).expect_success().stdout).expect("JSON");
    assert!(json.as_array().is_some_and(|all| all.len() > 8));
    let dpo = farmhand(dir.path(), &["describe", "dpo"]).expect_success().stdout;
    assert!(dpo.contains("beta = 0.1") && dpo.contains("https://arxiv.org/abs/2305.18290"), "{dpo}");
    farmhand(dir.path(), &["describe", "dop"]).expect_error(&["there is no component `dop`"], Some("did you mean `dpo`?"));
    farmhand(dir.path(), &["list", "teachers"]).expect_error(&["unknown kind of component `teachers`"], None);
}

#[test]
fn init_writes_a_configuration_that_runs_dry_and_leaves_files_alone() {
    let dir = folder();
    farmhand(dir.path(), &["init", "mine.toml", "--methods", "dpo,ppo,best_of_n"]).expect_success();
    let plan = farmhand(dir.path(), &["run", "mine.toml", "--dry-run"]).expect_success().stdout;
    assert!(plan.contains("learn-ppo") && plan.contains("memory"), "{plan}");
    let text = std::fs::read_to_string(dir.path().join("mine.toml")).expect("written");
    for (line, what) in
        [("# lora.rank = 16", "an adapter"), ("# pretraining.weight = 27.8", "a pre-training mix"), ("beta = 0.1", "β")]
    {
        assert!(text.lines().any(|found| found == line), "{what} is as it is by default:\n{text}");
    }
    assert!(!dir.path().join("runs").exists(), "a dry run makes nothing");
    farmhand(dir.path(), &["init", "mine.toml"]).expect_error(&["`mine.toml` exists and is left alone"], Some("another file"));
    farmhand(dir.path(), &["init", "x.toml", "--methods", "ppp"]).expect_error(&["unknown learner `ppp`"], Some("ppo"));
}

#[test]
fn mistakes_in_a_configuration_are_located_all_at_once() {
    let dir = folder();
    let text = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let broken = text
        .replace("[methods.dpo.learner.dpo]", "[methods.dpo.learner.dop]")
        .replace("rollout_size = 16", "rollout_sizes = 16")
        .replace("epochs = 2", "epochs = \"two\"");
    std::fs::write(dir.path().join("broken.toml"), broken).expect("written");
    farmhand(dir.path(), &["run", "broken.toml"]).expect_error(
        &[
            "3 problems in `broken.toml`",
            "unknown learner `dop`",
            "`methods.ppo.learner.ppo.rollout_sizes`: unknown option",
            "`sft.learner.sft.epochs`: expected a whole number, got the text \"two\"",
        ],
        Some("did you mean `rollout_size`?"),
    );
    farmhand(dir.path(), &["run", &tiny(), "--set", "methods.dpo.learner.dpo.beta=-1"])
        .expect_error(&["methods.dpo.learner.dpo.beta"], None);
    farmhand(dir.path(), &["run", "nowhere.toml"]).expect_error(&["cannot read the configuration `nowhere.toml`"], None);
    std::fs::write(dir.path().join("syntax.toml"), "name = = 1\n").expect("written");
    farmhand(dir.path(), &["run", "syntax.toml"]).expect_error(&["syntax.toml:1:8: not TOML"], None);
    let without = text.replace(
        "[reward_model.learner.reward_modeling]\nepochs = 1\nbatch_size = 8\nsave_every = 2\noptim = { lr = 1e-3 }\n",
        "",
    );
    assert_ne!(without, text);
    std::fs::write(dir.path().join("without.toml"), without).expect("written");
    farmhand(dir.path(), &["run", "without.toml"]).expect_error(&["learner `ppo` needs a reward model"], Some("[reward_model]"));
    farmhand(dir.path(), &["run", &tiny(), "--set", "data.split.sft=1000", "--set", "threads=5000"])
        .expect_error(&["`data.split`: the parts add up to 1120", "`threads`: expected at most 1024, got 5000"], None);
    assert!(!dir.path().join("runs").exists(), "nothing was begun");
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let dir = folder();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = command(dir.path(), &["run", &tiny(), "--set", "data.split.eval=2", "--set", "sft.learner.sft.epochs=1"]);
    let status = command.stdout(writer.try_clone().expect("cloned")).stderr(writer).status().expect("farmhand starts");
    assert_eq!(status.code(), Some(0));
    assert!(dir.path().join("runs/tiny/report/index.html").is_file());
}

/// Makes a tiny model by running the first two stages of the tiny experiment, and gives its folder.
fn tiny_model(dir: &Path) -> String {
    farmhand(dir, &["run", &tiny(), "--set", "data.split.eval=2", "--set", "sft.learner.sft.epochs=1", "--quiet"])
        .expect_success();
    "runs/tiny/sft".to_owned()
}

#[test]
fn stages_work_on_files_and_mistakes_lose_nothing() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let model = tiny_model(dir.path());
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("written");

    // Scores of records in two forms.
    write(
        "records.jsonl",
        "{\"prompt\":\"Say red.\",\"completion\":\" Red.\"}\n{\"prompt\":\"Say blue.\",\"completion\":\" Blue, blue.\"}\n",
    );
    let scores = farmhand(dir.path(), &["score", "--model", &model, "--data", "records.jsonl", "--template", "none", "-q"])
        .expect_success()
        .stdout;
    let lines: Vec<serde_json::Value> = scores.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .all(|line| line["sum_log_prob"].as_f64().is_some_and(|sum| sum < 0.0) && line["n_tokens"].as_u64() > Some(0))
    );

    // Wrong data.
    write("bad.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\",\"completion\":\n");
    farmhand(dir.path(), &["score", "--model", &model, "--data", "bad.jsonl"]).expect_error(&["`bad.jsonl`", "line 2"], None);
    write("empty.jsonl", "");
    farmhand(dir.path(), &["sft", "--model", &model, "--data", "empty.jsonl", "--out", "o1"])
        .expect_error(&["empty.jsonl"], None);
    farmhand(dir.path(), &["sft", "--model", &model, "--data", "none.jsonl", "--out", "o1"]).expect_error(&["none.jsonl"], None);
    let long = format!("{{\"instruction\":\"{}\",\"output\":\"x\"}}\n", "word ".repeat(400));
    write("long.jsonl", &long);
    farmhand(dir.path(), &["generate", "--model", &model, "--data", "long.jsonl", "--out", "o2"])
        .expect_error(&["tokens, what the model's context allows is 159"], None);

    // Wrong models.
    farmhand(dir.path(), &["score", "--model", "nowhere", "--data", "records.jsonl"])
        .expect_error(&["there is no model folder `nowhere`"], None);
    let copy = |name: &str| {
        let (from, to) = (at("runs/tiny/sft/checkpoint"), at(name));
        std::fs::create_dir_all(&to).expect("made");
        for entry in std::fs::read_dir(from).expect("a folder").flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
        to
    };
    let missing = copy("missing");
    std::fs::remove_file(missing.join("model.safetensors")).expect("removed");
    farmhand(dir.path(), &["score", "--model", "missing", "--data", "records.jsonl"]).expect_error(&["model.safetensors"], None);
    let truncated = copy("truncated").join("model.safetensors");
    let bytes = std::fs::read(&truncated).expect("readable");
    std::fs::write(&truncated, &bytes[..bytes.len() / 2]).expect("truncated");
    farmhand(dir.path(), &["score", "--model", "truncated", "--data", "records.jsonl"])
        .expect_error(&["truncated/model.safetensors"], None);
    let unknown = copy("unknown").join("config.json");
    let text = std::fs::read_to_string(&unknown).expect("readable");
    std::fs::write(&unknown, text.replace("llama", "mamba").replace("Llama", "Mamba")).expect("written");
    farmhand(dir.path(), &["score", "--model", "unknown", "--data", "records.jsonl"]).expect_error(&["mamba", "llama"], None);
    let vocabulary = copy("vocabulary").join("config.json");
    std::fs::write(&vocabulary, text.replace("\"vocab_size\": 320", "\"vocab_size\": 300")).expect("written");
    farmhand(dir.path(), &["score", "--model", "vocabulary", "--data", "records.jsonl"]).expect_error(&["300"], None);

    // Wrong names and options.
    write("pairs.jsonl", "{\"prompt\":\"Say red.\",\"chosen\":\" Red.\",\"rejected\":\" Blue.\"}\n");
    farmhand(dir.path(), &["learn", "dop", "--model", &model, "--data", "pairs.jsonl", "--out", "o3"])
        .expect_error(&["unknown learner `dop`"], Some("did you mean `dpo`?"));
    farmhand(dir.path(), &["learn", "dpo", "--model", &model, "--data", "pairs.jsonl", "--out", "o3", "--set", "bета=1"])
        .expect_error(&["unknown option"], None);
    farmhand(dir.path(), &["learn", "dpo", "--model", &model, "--data", "pairs.jsonl", "--out", "o3", "--set", "beta=soft"])
        .expect_error(&["`beta`: expected a number, got the text \"soft\""], None);
    farmhand(dir.path(), &["learn", "dpo", "--model", &model, "--data", "pairs.jsonl", "--out", "o3", "--set", "optim.lr=-1"])
        .expect_error(&["learner `dpo`: `optim.lr`: expected a number ≥ 0, got -1"], None);
    farmhand(dir.path(), &["learn", "ppo", "--model", &model, "--data", "records.jsonl", "--out", "o3"])
        .expect_error(&["needs a reward model"], Some("--reward-model"));

    farmhand(dir.path(), &["score", "--model", &model, "--data", "records.jsonl", "--threads", "100000"])
        .expect_refused("100000 is not in 0..=1024");
    farmhand(dir.path(), &["generate", "--model", &model, "--data", "records.jsonl", "--out", "o3", "--temperature", "-1"])
        .expect_error(&["expected a number ≥ 0, got -1"], None);

    // What failed before it made anything starts afresh with other options.
    let answer = ["generate", "--model", &model, "--data", "records.jsonl", "--out", "o5", "--max-new-tokens", "4"];
    farmhand(dir.path(), &[&answer[..], &["--policy", "best_of_n"]].concat()).expect_error(&["no reward model"], None);
    farmhand(dir.path(), &answer).expect_success();

    // A stage on files: trains, does nothing the second time, refuses other options.
    let dpo = ["learn", "dpo", "--model", &model, "--data", "pairs.jsonl", "--out", "o4", "--set", "epochs=1"];
    let done = farmhand(dir.path(), &dpo).expect_success();
    assert_eq!(done.stdout, "o4/checkpoint\n");
    assert!(farmhand(dir.path(), &dpo).expect_success().stderr.contains("done before"));
    farmhand(dir.path(), &[&dpo[..8], &["--set", "epochs=2"]].concat()).expect_error(&["epochs"], Some("--redo"));
    farmhand(dir.path(), &["score", "--model", "o4", "--data", "records.jsonl", "-q"]).expect_success();

    // A reward model orders pairs.
    farmhand(dir.path(), &["reward-model", "--model", &model, "--data", "pairs.jsonl", "--out", "rm"]).expect_success();
    let report = farmhand(dir.path(), &["score", "--model", "rm", "--data", "pairs.jsonl", "-q"]).expect_success().stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert!(report["n"] == 1 && report["accuracy"].is_number() && report["calibration_error"].is_number(), "{report}");
    farmhand(dir.path(), &["sft", "--model", &model, "--data", "records.jsonl", "--out", "missing"])
        .expect_error(&["holds files that farmhand did not write"], Some("new or empty folder"));

    // Sample, annotate, generate, evaluate on files.
    write("instructions.jsonl", "{\"instruction\":\"List three colours.\"}\n{\"instruction\":\"Say hello.\"}\n");
    farmhand(
        dir.path(),
        &["sample", "--model", &model, "--data", "instructions.jsonl", "--out", "s", "--max-new-tokens", "12", "-n", "4"],
    )
    .expect_success();
    farmhand(dir.path(), &["annotate", "--data", "s/comparisons.jsonl", "--out", "a", "--model", &model]).expect_success();
    for (out, model) in [("g1", model.as_str()), ("g2", "o4")] {
        farmhand(
            dir.path(),
            &["generate", "--model", model, "--data", "instructions.jsonl", "--out", out, "--max-new-tokens", "12"],
        )
        .expect_success();
    }
    let evaluate = [
        "evaluate",
        "--outputs",
        "g2/outputs.json",
        "--reference",
        "g1/completions.jsonl",
        "--out",
        "e",
        "--model",
        &model,
        "--json",
    ];
    let reports: serde_json::Value =
        serde_json::from_str(&farmhand(dir.path(), &evaluate).expect_success().stdout).expect("JSON");
    assert_eq!(reports[0]["metrics"][0]["name"], "win_rate");
}

#[test]
fn bench_measures_what_a_user_gets_and_estimate_needs_no_weights() {
    let dir = folder();
    let report = farmhand(dir.path(), &["bench", "--phases", "sft,generate_16", "--seconds", "0.2", "--threads", "1", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report.expect_success().stdout).expect("JSON");
    assert!(report["machine"]["matmul_flops_per_sec"].as_f64().is_some_and(|rate| rate > 1e8), "{report}");
    let phases = report["phases"].as_array().expect("a list");
    assert_eq!(phases.iter().map(|phase| &phase["phase"]).collect::<Vec<_>>(), ["sft", "generate_16"]);
    for phase in phases {
        assert!(phase["tokens_per_sec"].as_f64().is_some_and(|rate| rate > 0.0), "{phase}");
        assert!(phase["share_of_bound"].as_f64().is_some_and(|share| share > 0.0), "{phase}");
        assert!(phase["peak_bytes"].as_f64().is_some_and(|bytes| bytes > 1e7), "{phase}");
    }
    assert!(phases[0]["expected_bytes"].as_f64().is_some_and(|bytes| bytes > 1e7), "{report}");
    farmhand(dir.path(), &["bench", "--phases", "sfd"]).expect_error(&["no phase `sfd`"], Some("`sft`"));
    farmhand(dir.path(), &["bench", "--seconds", "0"]).expect_refused("a number above 0");

    farmhand(dir.path(), &["bench", "--write-model", "small"]).expect_success();
    std::fs::remove_file(dir.path().join("small/model.safetensors")).expect("removed");
    let estimate = farmhand(dir.path(), &["estimate", "--model", "small", "--memory-gb", "1", "--json"]).expect_success();
    let estimate: serde_json::Value = serde_json::from_str(&estimate.stdout).expect("JSON");
    let rows = estimate["training"].as_array().expect("a list");
    assert_eq!(rows.len(), 20);
    for row in rows {
        let parts = row["parts"].as_array().expect("a list").iter().filter_map(|part| part[1].as_u64()).sum::<u64>();
        assert_eq!(row["total_bytes"].as_u64(), Some(parts), "{row}");
    }
    farmhand(dir.path(), &["estimate", "--model", "nothing.json"]).expect_error(&["nothing.json"], None);
}
