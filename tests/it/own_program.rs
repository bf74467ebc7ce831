//! A program of one's own: `examples/own_program`, whose `main` is `farmhand::main()`, has every command and every built-in component
//! beside its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::command::{Finished, fixture};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The program, compiled as an example of this package, so that nothing is compiled twice: its dependencies are those of these tests.
/// `cargo test` builds it with the rest, `cargo test --test it` does not.
pub(crate) fn own_program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let engine = Path::new(env!("CARGO_BIN_EXE_farmhand-engine"));
        let (profile, target) =
            (engine.parent().expect("a folder"), engine.parent().and_then(Path::parent).expect("two folders"));
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--offline", "--workspace", "--example", "own_program"])
            .current_dir(ROOT)
            .env("CARGO_TARGET_DIR", target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        Finished::from(cargo.output().expect("cargo starts")).expect_success();
        profile.join("examples/own_program")
    })
}

fn run(dir: &Path, arguments: &[&str]) -> Finished {
    let mut program = Command::new(own_program());
    program.current_dir(dir).args(arguments).env("OMP_NUM_THREADS", "1").env("FARMHAND_CACHE", dir.join("cache"));
    // As a user starts it: nobody has set what `farmhand` sets for its engine, nor where libtorch is.
    for name in ["OMP_WAIT_POLICY", "CUBLAS_WORKSPACE_CONFIG", "LD_LIBRARY_PATH"] {
        program.env_remove(name);
    }
    program.output().expect("the program starts").into()
}

#[test]
fn ten_lines_of_main_have_every_command_and_component_and_ones_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let main = std::fs::read_to_string(Path::new(ROOT).join("examples/own_program/src/main.rs")).expect("there");
    assert!(main.lines().count() <= 10, "ten lines");

    let listed: Value = serde_json::from_str(&run(dir.path(), &["--json", "list"]).expect_success().stdout).expect("JSON");
    let listed: Vec<[&str; 2]> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|info| ["name", "package"].map(|key| info[key].as_str().expect("a text")))
        .collect();
    let own = [["fewer_words", "farmhand"], ["broken_text", "farmhand"], ["r_dpo", "r-dpo"]];
    for component in own.into_iter().chain([["pool", "farmhand-annotators"], ["dpo", "farmhand-plugins"]]) {
        assert!(listed.contains(&component), "no {component:?} in {listed:?}");
    }
    let described = run(dir.path(), &["describe", "fewer_words"]).expect_success();
    assert!(described.stdout.contains("tolerance"), "{}", described.stdout);
    run(dir.path(), &["lern"]).expect_refused("unrecognized subcommand 'lern'");

    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let mut config: toml::Table = tiny.parse().expect("TOML");
    config.insert("annotator".to_owned(), toml::Value::Table("fewer_words = { tolerance = 1 }".parse().expect("TOML")));
    std::fs::write(dir.path().join("own.toml"), toml::to_string(&config).expect("TOML")).expect("written");
    run(dir.path(), &["run", "own.toml"]).expect_success();
    let judged = std::fs::read_to_string(dir.path().join("runs/tiny/annotate/judgements.jsonl")).expect("judged");
    assert!(judged.lines().count() > 0 && judged.lines().all(|line| line.contains("\"annotator\":\"fewer_words\"")), "{judged}");
}

#[test]
fn its_own_manifest_resolves_to_the_versions_of_this_workspace() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = Path::new(ROOT).join("examples/own_program");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("there");
    std::fs::create_dir(dir.path().join("src")).expect("made");
    std::fs::write(
        dir.path().join("Cargo.toml"),
        manifest
            .replace("\"../..\"", &format!("{ROOT:?}"))
            .replace("\"../external_plugin\"", &format!("\"{ROOT}/examples/external_plugin\"")),
    )
    .expect("written");
    for file in ["build.rs", "src/main.rs", "src/broken_text.rs", "src/fewer_words.rs"] {
        std::fs::copy(folder.join(file), dir.path().join(file)).expect(file);
    }
    std::fs::copy(Path::new(ROOT).join("Cargo.lock"), dir.path().join("Cargo.lock")).expect("copied");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--edges", "normal", "--prefix", "none"]).current_dir(dir.path());
    let tree = Finished::from(cargo.output().expect("cargo starts")).expect_success().stdout;
    let lock = std::fs::read_to_string(Path::new(ROOT).join("Cargo.lock")).expect("there");
    for name in ["my-farmhand", "farmhand", "r-dpo", "farmhand-plugins", "tch", "polars"] {
        let found =
            tree.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" v")).unwrap_or_else(|| panic!("no `{name}`"));
        let version = found.split_whitespace().next().expect("a version");
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"");
        assert!(name == "my-farmhand" || lock.contains(&locked), "`{name}` {version} is not the version of the workspace");
    }
    // What is compiled as an example of this package is what the manifest builds: the same crates under the same names.
    let own: toml::Table = manifest.parse().expect("TOML");
    let root: toml::Table = std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).expect("there").parse().expect("TOML");
    for name in own["dependencies"].as_table().expect("a table").keys().filter(|name| *name != "farmhand") {
        let here = ["dependencies", "dev-dependencies"].iter().any(|table| root[*table].get(name).is_some());
        assert!(here, "`{name}` is no dependency of farmhand's own package");
    }
    // It is optimised as farmhand is, so that nothing is slower, and what is compiled for one serves the other.
    let [root, own] = [&root, &own].map(|manifest| &manifest["profile"]["dev"]);
    for key in ["opt-level", "debug", "build-override"] {
        assert_eq!(own[key], root[key], "{key}");
    }
    let (root_packages, own_packages) =
        (root["package"].as_table().expect("a table"), own["package"].as_table().expect("a table"));
    for (name, profile) in root_packages.iter().filter(|(name, _)| *name != "xtask") {
        assert_eq!(own_packages[name]["opt-level"], profile["opt-level"], "{name}");
    }
    for name in
        tree.lines().filter_map(|line| line.split_once(" v")).map(|(name, _)| name).filter(|name| name.starts_with("farmhand"))
    {
        let level = root_packages.get(name).map_or(&root["opt-level"], |profile| &profile["opt-level"]);
        assert_eq!((&own_packages[name]["opt-level"], &own_packages[name]["debug"]), (level, &root["debug"]), "{name}");
    }
}
