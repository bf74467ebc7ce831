//! Plugins as shared libraries: built outside of the workspace, loaded like built-ins, and refused or survived where they are wrong.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::Parser as _;
use farmhand::cli::{self, args::Cli};

use crate::command::{command, farmhand, files_below, fixture};

/// A crate of the repository, copied out of it and built by `farmhand plugin build`.
struct Built {
    /// The crate's folder.
    dir: PathBuf,
    /// The shared library.
    library: PathBuf,
}

/// Copies a crate beside what cargo builds, with absolute paths to farmhand's crates, and builds it. Files that are there already
/// keep their times, so that a second run of the tests compiles nothing.
fn build(from: &str, name: &str, change: impl Fn(&str) -> String) -> Built {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins").join(name);
    for file in ["Cargo.toml", "src/lib.rs"] {
        let text = std::fs::read_to_string(root.join(from).join(file)).expect("a file of the crate");
        let text = change(&text).replace("\"../../../core\"", &format!("{:?}", root.join("core")));
        let text = text.replace("\"../../", &format!("\"{}/", root.display()));
        if std::fs::read_to_string(dir.join(file)).ok().as_deref() != Some(&text) {
            std::fs::create_dir_all(dir.join(file).parent().expect("a folder")).expect("created");
            std::fs::write(dir.join(file), text).expect("written");
        }
    }
    // Versions that an older farmhand used are of no use.
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let lock = dir.join("Cargo.lock");
    let stale = changed(&lock).is_some_and(|time| changed(&root.join("Cargo.lock")).is_some_and(|newest| newest > time));
    let done = farmhand(&dir, if stale { &["plugin", "build", "--update"] } else { &["plugin", "build"] }).expect_success();
    let library = dir.join(done.stdout.trim()).canonicalize().expect("the command says where the plugin is");
    Built { dir, library }
}

fn r_dpo() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| build("examples/external_plugin", "r-dpo", str::to_owned))
}

fn every_kind() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| build("tests/plugins/every_kind", "every-kind", str::to_owned))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The tiny experiment with `before` in front and `after` behind, without `[methods.ppo]` and `[methods.best_of_4]`.
fn experiment(dir: &Path, before: &str, after: &str) -> String {
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let mut kept = String::new();
    for table in
        tiny.split_inclusive("\n\n").filter(|table| !table.contains("[methods.ppo") && !table.contains("[methods.best_of"))
    {
        kept += table;
    }
    let path = dir.join("experiment.toml");
    std::fs::write(&path, format!("{before}\n{kept}\n{after}\n")).expect("written");
    path.to_string_lossy().into_owned()
}

const R_DPO: &str = "[methods.r_dpo.learner.r_dpo]\nepochs = 4\nbatch_size = 8\nsave_every = 1\noptim = { lr = 1e-3 }";

/// What the stages of one method made.
fn made(run: &Path, method: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for stage in ["learn", "generate", "evaluate"] {
        let folder = run.join(format!("{stage}-{method}"));
        files.extend(files_below(&folder).into_iter().map(|(name, bytes)| (Path::new(stage).join(name), bytes)));
    }
    files
}

#[test]
fn a_learner_from_outside_makes_the_bytes_of_the_same_file_compiled_in_also_after_a_kill() {
    let (outside, inside) = (folder(), folder());
    let plugin = format!("plugins = [{:?}]", r_dpo().dir);
    let config = experiment(outside.path(), &plugin, R_DPO);

    // Killed as soon as it has learned something, and started again.
    let mut child = command(outside.path(), &["run", &config, "--quiet"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("farmhand starts");
    let state = outside.path().join("runs/tiny/learn-r_dpo/state");
    let started = Instant::now();
    while !std::fs::read_dir(&state).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok())) {
        assert!(started.elapsed() < Duration::from_secs(300), "the learner never saved its state");
        assert!(child.try_wait().expect("waited").is_none(), "the run ended before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("waited");
    let done = farmhand(outside.path(), &["run", &config]).expect_success();
    assert!(done.stdout.contains("r_dpo") && done.stdout.contains(" dpo "), "beside DPO:\n{}", done.stdout);
    let run = outside.path().join("runs/tiny");
    let manifest = std::fs::read_to_string(run.join("manifest.json")).expect("readable");
    assert!(manifest.contains("\"r-dpo\": \""), "the run says which plugin it used:\n{manifest}");

    // This test is linked with the same file (`external_method.rs`).
    let config = experiment(inside.path(), "", R_DPO);
    let runs = inside.path().join("runs").to_string_lossy().into_owned();
    let line = Cli::try_parse_from(["farmhand", "run", &config, "--runs-dir", &runs, "--quiet"]).expect("a command line");
    cli::main(&line);
    let (expected, found) = (made(&inside.path().join("runs/tiny"), "r_dpo"), made(&run, "r_dpo"));
    assert!(expected.iter().any(|(name, _)| name.ends_with("checkpoint/model.safetensors")), "{expected:?}");
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found));
    for ((name, left), (_, right)) in expected.iter().zip(&found) {
        assert!(left == right, "`{}` differs", name.display());
    }

    // Without the plugin its learner is unknown, and the report needs none.
    farmhand(outside.path(), &["run", &config]).expect_error(&["unknown learner `r_dpo`"], Some("names the plugin"));
    farmhand(outside.path(), &["report", "runs/tiny"]).expect_success();
}

#[test]
fn every_kind_of_component_works_from_a_plugin_as_built_in() {
    let dir = folder();
    let path = every_kind().library.to_string_lossy().into_owned();
    let listed = farmhand(dir.path(), &["--plugin", &path, "list"]).expect_success().stdout;
    for name in ["echo", "doubled", "shorter", "stumbling", "words"] {
        assert!(listed.contains(&format!("  {name} ")), "no `{name}` in:\n{listed}");
    }
    let described = farmhand(dir.path(), &["describe", "echo", "--plugin", &path]).expect_success().stdout;
    assert!(described.contains("Put in front of every answer."), "{described}");
    farmhand(dir.path(), &["init", "mine.toml", "--methods", "stumbling", "--plugin", &path]).expect_success();
    farmhand(dir.path(), &["run", "mine.toml", "--dry-run"]).expect_success();

    // A folder stands for the plugins in it; components of the plugin and of farmhand hold each other.
    let tables = "
[methods.echo.policy.echo]
prefix = \"You said: \"

[methods.best.policy.best_of_n]
n = 2
reward_model = { doubled = { inner = { doubled = { inner = { length = { scale = -1.0 } } } } } }

[methods.copy.learner.stumbling]
";
    let plugins = format!("plugins = [{:?}]", every_kind().dir);
    let config = experiment(dir.path(), &plugins, tables);
    let text = std::fs::read_to_string(&config).expect("readable");
    let judged = text.replace(
        "annotator = { order_swap = { inner = { pool = {} } } }",
        "annotator = { order_swap = { inner = { shorter = {} } } }\nevaluators = [{ win_rate = {} }, { words = {} }]",
    );
    std::fs::write(&config, judged).expect("written");
    let done = farmhand(dir.path(), &["run", &config]).expect_success();
    for row in ["echo", "best", "copy"] {
        assert!(done.stdout.contains(row), "no `{row}` in:\n{}", done.stdout);
    }
    let answers = std::fs::read_to_string(dir.path().join("runs/tiny/generate-echo/completions.jsonl")).expect("readable");
    assert!(answers.lines().all(|line| line.contains("\"output\":\"You said: ")), "{answers}");
    let measured: String = ["echo", "copy"]
        .iter()
        .map(|name| std::fs::read_to_string(dir.path().join(format!("runs/tiny/evaluate-{name}/report.json"))).expect("readable"))
        .collect();
    assert_eq!(measured.matches("\"words\"").count(), 4, "a name and a unit each:\n{measured}");
    let resolved = std::fs::read_to_string(dir.path().join("runs/tiny/run.toml")).expect("readable");
    assert!(
        resolved.contains("doubled") && resolved.contains("how = \"not_at_all\""),
        "every default is written out:\n{resolved}"
    );

    // Mistakes in a plugin's options are located like any other.
    let wrong = text.replace("prefix = ", "prefixx = ");
    std::fs::write(&config, wrong).expect("written");
    farmhand(dir.path(), &["run", &config])
        .expect_error(&["`methods.echo.policy.echo.prefixx`: unknown option"], Some("did you mean `prefix`?"));
}

#[test]
fn a_plugin_that_panics_or_ends_the_process_leaves_a_run_that_goes_on() {
    let dir = folder();
    let plugins = format!("plugins = [{:?}]", every_kind().dir);
    let config = experiment(dir.path(), &plugins, "[methods.wrong.learner.stumbling]\nhow = \"not_at_all\"");
    let how = |how: &str| {
        let set = format!("methods.wrong.learner.stumbling.how=\"{how}\"");
        farmhand(dir.path(), &["run", &config, "--set", &set])
    };
    how("panic_in_problems").expect_error(&["`methods.wrong", "plugin `every-kind` panicked in checking options: no idea"], None);
    how("panic_in_build").expect_error(
        &["learner `stumbling`: plugin `every-kind` panicked in `build`: nothing to build (src/lib.rs:"],
        Some("the plugin"),
    );
    how("panic_in_learn")
        .expect_error(&["panicked in `learn`: pair ", "is too much (src/lib.rs:"], Some("what was finished before is kept"));
    let aborted = how("abort");
    assert_eq!(aborted.code, None, "ended by a signal:\n{}", aborted.stderr);
    let mended = how("not_at_all").expect_success();
    assert!(mended.stdout.contains("wrong"), "{}", mended.stdout);

    let path = every_kind().library.to_string_lossy();
    let said = "plugin `every-kind` panicked in describing options: no words for it (src/lib.rs:";
    farmhand(dir.path(), &["describe", "speechless", "--plugin", &path]).expect_error(&[said], Some("a mistake in the plugin"));
    farmhand(dir.path(), &["run", &config, "--set", "evaluate.evaluators=[{ speechless = {} }]"])
        .expect_error(&["speechless", said], None);

    // A judge that panics fails the comparisons it was asked about, as any judge that fails; equal answers are ties without it.
    let set = "evaluate.annotator={ shorter = { panics = true } }";
    let judged = farmhand(dir.path(), &["run", &config, "--redo", "--set", set]).expect_success();
    let said = "comparisons have no verdict; the first: plugin `every-kind` panicked in `annotate`: no opinion (src/lib.rs:";
    assert!(judged.stderr.contains(said), "{}", judged.stderr);
}

#[test]
fn what_plugin_new_writes_compiles_and_is_found_whatever_its_kind() {
    let dir = folder();
    let mut paths = Vec::new();
    for kind in ["learner", "policy", "reward-model", "annotator", "evaluator"] {
        let name = format!("my_{}", kind.replace('-', "_"));
        let written = farmhand(dir.path(), &["plugin", "new", &name, "--kind", kind]).expect_success().stdout;
        assert!(written.contains(&format!("farmhand plugin build {name}")), "{written}");
        let from = dir.path().join(&name);
        paths.push(build(&from.to_string_lossy(), &name, str::to_owned).library.to_string_lossy().into_owned());
    }
    let mut args: Vec<&str> = paths.iter().flat_map(|path| ["--plugin", path.as_str()]).collect();
    args.extend(["list", "--json"]);
    let listed = farmhand(dir.path(), &args).expect_success().stdout;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    for kind in ["learner", "policy", "reward_model", "annotator", "evaluator"] {
        let found = listed.iter().find(|entry| entry["name"] == format!("my_{kind}")).expect("listed");
        assert_eq!((&found["kind"], &found["package"]), (&kind.into(), &format!("my_{kind}").replace('_', "-").into()));
    }
    farmhand(dir.path(), &["plugin", "new", "my_policy"])
        .expect_error(&["`my_policy` exists and is left alone"], Some("--dir DIR"));
    farmhand(dir.path(), &["plugin", "new", "My-Method"]).expect_error(&["`My-Method` is no name"], Some("lower-case words"));
    farmhand(dir.path(), &["plugin", "build"]).expect_error(&["holds no crate: there is no Cargo.toml"], Some("plugin new NAME"));
}

/// A copy of a plugin with other bytes in one place, of the same length.
fn patched(plugin: &Path, dir: &Path, old: &str, new: &str) -> String {
    assert_eq!(old.len(), new.len());
    let mut bytes = std::fs::read(plugin).expect("readable");
    let at: Vec<usize> = (0..bytes.len() - old.len()).filter(|&i| bytes[i..].starts_with(old.as_bytes())).collect();
    assert!(!at.is_empty(), "no `{old}` in the plugin");
    at.into_iter().for_each(|i| bytes[i..i + new.len()].copy_from_slice(new.as_bytes()));
    let path = dir.join("patched.so");
    std::fs::write(&path, bytes).expect("written");
    path.to_string_lossy().into_owned()
}

#[test]
fn wrong_plugins_are_refused_before_anything_of_them_runs() {
    let dir = folder();
    let list = |path: &str| farmhand(dir.path(), &["--plugin", path, "list"]);
    let again = Some("build it again with this farmhand: `farmhand plugin build DIR`");
    let (plain, tensors) = (&every_kind().library, &r_dpo().library);

    list("nowhere.so").expect_error(&["cannot open the plugin `nowhere.so`"], Some("farmhand plugin build"));
    list(&dir.path().to_string_lossy()).expect_error(&["holds no plugin"], Some("files that end in `.so`"));
    std::fs::write(dir.path().join("notes.so"), "not a library\n").expect("written");
    list("notes.so").expect_error(&["is not a plugin: it is no shared library"], Some("farmhand plugin new"));
    list(env!("CARGO_BIN_EXE_farmhand")).expect_error(&["is not a plugin: it has no section `.farmhand.stamp`"], None);

    let cases = [
        (plain, "loader=1", "loader=0", "loader version: the plugin has `0`, this farmhand `1`"),
        (plain, "rustc=rustc 1", "rustc=rustc 0", "compiler: the plugin has `rustc 0"),
        (plain, "\npanic=unwind", "\npanic=absent", "panic strategy: the plugin has `absent`, this farmhand `unwind`"),
        (plain, "\ncore=0.1.0", "\ncore=0.0.9", "farmhand-core (version, hash of its source): the plugin has `0.0.9 "),
        (
            plain,
            "name = \"typetag\"\nversion = \"0.2",
            "name = \"typetag\"\nversion = \"0.1",
            "package typetag: the plugin has `0.1",
        ),
        (tensors, "\nlibtorch=2", "\nlibtorch=1", "libtorch: the plugin has `1."),
    ];
    for (plugin, old, new, expected) in cases {
        let path = patched(plugin, dir.path(), old, new);
        list(&path).expect_error(&["was built for another farmhand:", expected], again);
        let checked =
            farmhand(dir.path(), &["plugin", "check", &path]).expect_error(&["1 of 1 plugins was built for another"], None);
        assert!(checked.stdout.contains("this farmhand: "), "{}", checked.stdout);
    }
    let path = patched(plain, dir.path(), "package=every-kind", "package=other-kind");
    list(&path).expect_error(&["cannot be opened", "farmhand_plugin_other-kind"], Some("build it again"));

    // The same plugin from two places, and a name that a built-in has.
    std::fs::copy(plain, dir.path().join("copy.so")).expect("copied");
    let plain = plain.to_string_lossy().into_owned();
    farmhand(dir.path(), &["--plugin", &plain, "--plugin", "copy.so", "list"])
        .expect_error(&["plugin `every-kind` is there twice", "copy.so", &plain], Some("name one of the two"));
    let clashing = build("tests/plugins/every_kind", "clashing", |text| {
        text.replace("name = \"every-kind\"", "name = \"clashing\"")
            .replace("clashing = []", "clashing = []\ndefault = [\"clashing\"]")
    });
    list(&clashing.library.to_string_lossy()).expect_error(
        &["evaluator `win_rate` is taken twice: by `farmhand-evaluators`, and by the plugin `clashing`", "clashing.so"],
        Some("rename"),
    );
    let checked = farmhand(dir.path(), &["plugin", "check", &plain, "--json"]).expect_success().stdout;
    let checked: serde_json::Value = serde_json::from_str(&checked).expect("JSON");
    assert_eq!((&checked[0]["fits"], &checked[0]["package"]), (&true.into(), &"every-kind".into()));
}
