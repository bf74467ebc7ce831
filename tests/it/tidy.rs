//! The architecture's invariants as tests on the source tree: who may import whom, what may stand where, what never.
//!
//! Each test lists every place that breaks its rule. A rule is a pure function over a path and its code, tried below on
//! code that breaks it, so that no rule passes because it looks at nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A text file of the repository.
struct Source {
    /// Path from the root, with `/`.
    path: String,
    text: String,
    /// The text with comments and the insides of literals blanked out; lines stay lines.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank_comments_and_literals(text) }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The code above the unit tests; none of a file that is a test.
    fn shipped(&self) -> &str {
        let in_folder = self.path.starts_with("tests/") || self.path.contains("/tests/") || self.path.contains("/benches/");
        let test_file = in_folder || self.path.ends_with("/tests.rs");
        if test_file { "" } else { self.code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default() }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file that belongs to the repository, sorted.
fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut paths = Vec::new();
        walk(root(), &mut paths);
        paths.sort();
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).ok()?;
            let name = path.strip_prefix(root()).expect("found below the root").to_string_lossy().replace('\\', "/");
            Some(Source::new(&name, &text))
        };
        paths.into_iter().filter_map(read).collect()
    })
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().expect("a file type");
        let hidden = name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".cargo");
        if hidden || kind.is_symlink() || matches!(name.as_str(), "target" | "runs") {
            continue;
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_text = matches!(extension, "rs" | "toml" | "md" | "py" | "txt" | "sh" | "html" | "css" | "js") || name == "run";
        if kind.is_dir() {
            walk(&path, paths);
        } else if is_text {
            paths.push(path);
        }
    }
}

/// Replaces comments and what stands inside string and character literals by spaces; newlines stay.
fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let blank = |code: &mut String, c: char| code.push(if c == '\n' { '\n' } else { ' ' });
    let mut at = 0;
    while at < chars.len() {
        let end = if starts(at, "//") {
            (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len())
        } else if starts(at, "/*") {
            (at + 2..chars.len()).find(|&i| starts(i, "*/")).map_or(chars.len(), |i| i + 2)
        } else if let Some(hashes) = raw_string_hashes(&chars, at) {
            let close = format!("\"{}", "#".repeat(hashes));
            (at + hashes + 2..chars.len()).find(|&i| starts(i, &close)).map_or(chars.len(), |i| i + close.len())
        } else if chars[at] == '"' {
            end_of_quoted(&chars, at, '"')
        } else if chars[at] == '\'' && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')) {
            end_of_quoted(&chars, at, '\'')
        } else {
            code.push(chars[at]);
            at += 1;
            continue;
        };
        chars[at..end].iter().for_each(|&c| blank(&mut code, c));
        at = end;
    }
    code
}

/// The number of `#` of a raw string that begins here.
fn raw_string_hashes(chars: &[char], at: usize) -> Option<usize> {
    let starts_a_word = at == 0 || !(chars[at - 1].is_alphanumeric() && chars[at - 1] != 'b');
    if chars[at] != 'r' || !starts_a_word {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn end_of_quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// Whether `word` stands in `code` with nothing of a word before it.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The lines of `code` on which one of `words` stands, as `path:line: word`.
fn lines_with(source: &Source, code: &str, words: &[&str]) -> Vec<String> {
    let on_line = |(i, line): (usize, &str)| {
        words.iter().filter(move |word| has_word(line, word)).map(move |word| format!("{}: `{word}`", i + 1)).collect::<Vec<_>>()
    };
    code.lines().enumerate().flat_map(on_line).map(|found| format!("{}:{found}", source.path)).collect()
}

/// Applies `rule` to every file and fails with all the places it gives back.
fn check(why: &str, rule: impl Fn(&Source) -> Vec<String>) {
    let broken: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(broken.is_empty(), "{why}\n{}\n", broken.join("\n"));
}

fn in_folder(source: &Source, folders: &[&str]) -> bool {
    folders.iter().any(|folder| source.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

// ── who may import whom ──────────────────────────────────────────────────────────────────────────────────────────────

/// Each crate, the crates of this workspace it may name, and foreign ones it must not.
const IMPORTS: [(&str, &[&str], &[&str]); 10] = [
    ("core", &[], &["tch", "torch-sys", "tokio", "reqwest", "polars", "plotters", "anyhow", "clap"]),
    ("endpoints", &["core"], &["tch", "torch-sys", "polars", "plotters", "anyhow", "clap"]),
    ("models", &["core"], &["tokio", "reqwest", "polars", "plotters", "anyhow", "clap"]),
    ("plugins", &["core", "models", "endpoints"], &["tokio", "reqwest", "polars", "plotters", "anyhow", "clap"]),
    ("annotators", &["core", "endpoints"], &["tch", "torch-sys", "polars", "plotters", "anyhow", "clap"]),
    ("evaluators", &["core"], &["tch", "torch-sys", "tokio", "reqwest", "polars", "plotters", "anyhow", "clap"]),
    ("analysis", &["core", "evaluators"], &["tch", "torch-sys", "tokio", "reqwest", "anyhow", "clap"]),
    ("web", &["core", "evaluators"], &["tch", "torch-sys", "reqwest", "polars", "plotters", "anyhow", "clap"]),
    ("external", &["core", "endpoints"], &["tch", "torch-sys", "tokio", "reqwest", "polars", "plotters", "anyhow", "clap"]),
    ("xtask", &[], &["tch", "tokio", "polars"]),
];

/// The names in every dependency table of a manifest: normal, for tests, for builds, for targets.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    fn collect(table: &toml::Table, names: &mut BTreeSet<String>) {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) if key.ends_with("dependencies") => names.extend(inner.keys().cloned()),
                toml::Value::Table(inner) if key != "workspace" => collect(inner, names),
                _ => {}
            }
        }
    }
    let mut names = BTreeSet::new();
    collect(&manifest.parse().expect("a manifest is TOML"), &mut names);
    names
}

fn import_violations(krate: &str, manifest: &str) -> Vec<String> {
    let Some((_, ours, foreign)) = IMPORTS.iter().find(|(name, ..)| *name == krate) else {
        return vec![format!("{krate} has no line in the table of imports")];
    };
    let allowed = |name: &str| match name.strip_prefix("farmhand-") {
        Some(ours_name) => ours.contains(&ours_name),
        None => !foreign.contains(&name) && name != "farmhand",
    };
    let names = dependencies(manifest);
    names.iter().filter(|name| !allowed(name)).map(|name| format!("{krate}/Cargo.toml names `{name}`")).collect()
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let workspace: toml::Table = fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest").parse().expect("TOML");
    let members = workspace["workspace"]["members"].as_array().expect("a list of members");
    let broken: Vec<String> = members
        .iter()
        .map(|member| member.as_str().expect("a member is a folder"))
        .flat_map(|member| {
            import_violations(member, &fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a manifest"))
        })
        .collect();
    assert!(
        broken.is_empty(),
        "core <- models, endpoints <- plugins; core <- endpoints <- annotators; core <- evaluators <- analysis, web; core <- endpoints <- external\n{}\n",
        broken.join("\n")
    );
}

#[test]
fn xtask_depends_on_std_alone() {
    let manifest = fs::read_to_string(root().join("xtask/Cargo.toml")).expect("a manifest");
    assert_eq!(dependencies(&manifest), BTreeSet::new(), "xtask builds in a second and before libtorch is there");
}

/// The folders of `plugins/src` in which each file is a component.
const COMPONENT_FOLDERS: [&str; 4] = ["policies", "reward_models", "annotators", "learners"];

/// Imports of one component by another; what several share is a pure function in `rl/`, part of `models`, or a file that
/// registers nothing.
fn component_violations(source: &Source, all: &[Source]) -> Vec<String> {
    let Some((folder, component)) = component_place(&source.path).filter(|(_, component)| *component != "mod") else {
        return Vec::new();
    };
    // `super` of a component's own file is its folder; one level deeper it is the component itself.
    let up_to_folder = "super::".repeat(source.path.matches('/').count() - 2);
    let mut roots: Vec<(String, &str)> = COMPONENT_FOLDERS.iter().map(|other| (format!("crate::{other}::"), *other)).collect();
    roots.push((up_to_folder, folder));
    let mut broken = Vec::new();
    for (i, line) in source.shipped().lines().enumerate() {
        for (prefix, named_folder) in &roots {
            for (at, _) in line.match_indices(prefix.as_str()).filter(|(at, _)| !line[..*at].ends_with("super::")) {
                let rest = line[at + prefix.len()..].trim_start_matches('{');
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let module = module_of(named_folder, &name, all);
                let is_itself = *named_folder == folder && module == component;
                if !is_itself && registers(named_folder, &module, all) {
                    broken.push(format!("{}:{}: `{prefix}{name}`", source.path, i + 1));
                }
            }
        }
    }
    broken
}

/// The folder and the component (or shared part) that a file of `plugins/src` belongs to.
fn component_place(path: &str) -> Option<(&str, &str)> {
    let (folder, file) = path.strip_prefix("plugins/src/")?.split_once('/')?;
    COMPONENT_FOLDERS.contains(&folder).then(|| (folder, file.split(['/', '.']).next().unwrap_or_default()))
}

/// The module a name of a component folder comes from: itself, or what the folder's `mod.rs` re-exports it from.
fn module_of(folder: &str, name: &str, all: &[Source]) -> String {
    let index = all.iter().find(|source| source.path == format!("plugins/src/{folder}/mod.rs"));
    let statements = index.map_or("", |index| &index.code).split(';');
    let mut exports = statements.filter_map(|statement| statement.trim().strip_prefix("pub use ")?.split_once("::"));
    let exporting = |names: &str| names.split(|c: char| !c.is_alphanumeric() && c != '_').any(|other| other == name);
    exports.find(|(_, names)| exporting(names)).map_or(name, |(module, _)| module).to_owned()
}

/// Whether a file of that module registers a component.
fn registers(folder: &str, module: &str, all: &[Source]) -> bool {
    all.iter().any(|source| component_place(&source.path) == Some((folder, module)) && has_word(&source.code, "register! {"))
}

#[test]
fn components_do_not_import_components() {
    check("a method reads top to bottom in its own file; shared mathematics is a function in plugins/src/rl", |source| {
        component_violations(source, sources())
    });
}

#[test]
fn evaluators_do_no_input_or_output() {
    check("an evaluator is a pure function over judgements", |source| {
        let words = ["std::fs", "std::net", "std::process", "std::env", "std::io", "fs::", "File::", "SystemTime", "Instant"];
        if in_folder(source, &["evaluators/src"]) { lines_with(source, source.shipped(), &words) } else { Vec::new() }
    });
}

#[test]
fn tensors_stay_in_models_and_plugins() {
    check("text, ids, scores and checkpoint paths cross the contracts, tensors do not", |source| {
        let without = ["core", "endpoints", "annotators", "evaluators", "analysis", "web", "xtask", "src/cli", "src/pipeline"];
        // A template is written into the folder of its kind.
        let is_template = in_folder(source, &["xtask/templates"]);
        if source.is_rust() && in_folder(source, &without) && !is_template {
            lines_with(source, &source.code, &["tch::", "torch_sys::"])
        } else {
            Vec::new()
        }
    });
}

#[test]
fn learners_and_judges_write_only_through_the_stage_folder() {
    check("core/src/run writes into run directories: atomically, so that a killed run resumes", |source| {
        let words = ["fs::write", "File::create", "OpenOptions", "fs::rename", "fs::remove_file", "fs::remove_dir_all"];
        let folders = ["plugins/src", "annotators/src", "evaluators/src", "endpoints/src"];
        if in_folder(source, &folders) { lines_with(source, source.shipped(), &words) } else { Vec::new() }
    });
}

// ── what may stand where ─────────────────────────────────────────────────────────────────────────────────────────────

fn unsafe_violations(source: &Source) -> Vec<String> {
    let file = source.path.rsplit('/').next().unwrap_or_default();
    let may = source.path == "core/src/dylib.rs" || source.path.starts_with("models/src/native/") || file.contains("ffi");
    if !source.is_rust() || may { Vec::new() } else { lines_with(source, &source.code, &["unsafe "]) }
}

#[test]
fn unsafe_code_stands_in_few_named_files() {
    check("`unsafe` belongs in core/src/dylib.rs, models/src/native or a thin file with `ffi` in its name", unsafe_violations);
}

fn printing_violations(source: &Source) -> Vec<String> {
    let program = in_folder(source, &["src", "xtask", "tests", "examples", "benches"]) || source.path.contains("/examples/");
    let may = program || !source.is_rust() || source.path.ends_with("build.rs");
    let words = ["println!", "eprintln!", "print!", "eprint!", "dbg!", "anyhow::", "anyhow!"];
    if may { Vec::new() } else { lines_with(source, source.shipped(), &words) }
}

#[test]
fn libraries_neither_print_nor_use_anyhow() {
    check("libraries report through `ctx.events` and `farmhand_core::Error`", printing_violations);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    check("a Rust file begins with `//!`: what it is for, in one sentence", |source| {
        let says = source.text.trim_start().starts_with("//!");
        if source.is_rust() && !says { vec![source.path.clone()] } else { Vec::new() }
    });
}

/// Files that may be longer than [`MAX_LINES`], each with the reason.
const LONG_FILES: [(&str, &str); 0] = [];
const MAX_LINES: usize = 700;

#[test]
fn files_are_short() {
    check("past this length a file holds a second thing; a flat list of like things may be allowed, with a reason", |source| {
        let lines = source.text.lines().count();
        let allowed = LONG_FILES.iter().any(|(path, reason)| *path == source.path && !reason.is_empty());
        let long = source.is_rust() && lines > MAX_LINES && !allowed;
        if long { vec![format!("{}: {lines} lines, more than {MAX_LINES}", source.path)] } else { Vec::new() }
    });
}

#[test]
fn file_names_say_something() {
    check("a file is named for the one thing in it", |source| {
        let says_nothing = ["utils", "util", "helpers", "helper", "base", "common", "manager", "misc"];
        let mut parts = source.path.split(['/', '.']);
        if source.is_rust() && parts.any(|part| says_nothing.contains(&part)) { vec![source.path.clone()] } else { Vec::new() }
    });
}

// ── what never ───────────────────────────────────────────────────────────────────────────────────────────────────────

fn unfinished_violations(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut broken = lines_with(source, &source.code, &["todo!", "unimplemented!"]);
    let markers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK"), concat!("for", " now")];
    broken.extend(lines_with(source, &source.text, &markers));
    let ignored = source.code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore"));
    broken.extend(ignored.map(|(i, _)| format!("{}:{}: an ignored test", source.path, i + 1)));
    broken
}

#[test]
fn nothing_is_left_unfinished() {
    check("what is merged is finished: no stub, no promise in a comment, no test that does not run", unfinished_violations);
}

fn machine_path_violations(source: &Source) -> Vec<String> {
    let paths = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let absolute = |line: &str, path: &str| {
        line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._~-}>)*".contains(c)))
    };
    let lines = source.text.lines().enumerate().filter(|(_, line)| paths.iter().any(|path| absolute(line, path)));
    lines.map(|(i, line)| format!("{}:{}: {}", source.path, i + 1, line.trim())).collect()
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    check("the repository works wherever it is cloned", machine_path_violations);
}

// ── the rules themselves ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_whole_tree_is_looked_at() {
    for file in ["Cargo.toml", "README.md", "build.rs", ".ci/run", "core/src/lib.rs", "tests/it/tidy.rs", "xtask/src/main.rs"] {
        assert!(sources().iter().any(|source| source.path == file), "{file} was not found");
    }
    assert!(sources().iter().filter(|source| source.is_rust()).count() > 50);
}

#[test]
fn comments_and_literals_are_blanked() {
    let code = blank_comments_and_literals("a /* unsafe */ 'x' \"un\\\"safe\" // unsafe\nr#\"un\"safe\"# b'\\'' <'a> b");
    assert!(!code.contains("unsafe"), "{code}");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "<'a>", "b"]);
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn every_rule_finds_what_it_forbids() {
    let broken = |rule: fn(&Source) -> Vec<String>, path: &str, text: &str| rule(&Source::new(path, text)).len();
    assert_eq!(broken(unsafe_violations, "models/src/a.rs", "fn f() { unsafe { g() } } // unsafe\n"), 1);
    assert_eq!(broken(unsafe_violations, "models/src/native/linear.rs", "fn f() { unsafe { g() } }\n"), 0);
    assert_eq!(broken(unsafe_violations, "models/src/map_ffi.rs", "fn f() { unsafe { g() } }\n"), 0);
    assert_eq!(broken(printing_violations, "models/src/a.rs", "fn f() { println!() }\n#[cfg(test)]\nmod tests { print!() }"), 1);
    assert_eq!(broken(unfinished_violations, "a.rs", "todo!();\n#[ignore]\n// \"todo!\" in a comment\n"), 2);
    assert_eq!(broken(machine_path_violations, "a.md", concat!("see /ho", "me/x and ~/ho", "me/x\nand src/ho", "me/y\n")), 1);

    let tree = [
        Source::new("plugins/src/learners/mod.rs", "mod dpo;\nmod sft;\npub use dpo::{Dpo, DpoConfig};\npub use sft::Sft;\n"),
        Source::new("plugins/src/learners/dpo.rs", "register! { }\n"),
        Source::new("plugins/src/learners/ppo/mod.rs", "register! { }\n"),
        Source::new("plugins/src/learners/sft.rs", "register! { }\n"),
        Source::new("plugins/src/reward_models/length.rs", "register! { }\n"),
        Source::new("plugins/src/reward_models/reading.rs", "pub struct Reading;\n"),
    ];
    let imports = |path: &str, text: &str| component_violations(&Source::new(path, text), &tree).len();
    let learner = "plugins/src/learners/dpo.rs";
    assert_eq!(imports(learner, "use crate::learners::sft::x;\nuse super::ppo;\nuse crate::learners::Sft;\nuse crate::rl;\n"), 3);
    assert_eq!(imports(learner, "use crate::reward_models::length;\nuse crate::learners::dpo::x;\nuse super::DpoConfig;\n"), 1);
    assert_eq!(imports(learner, "use crate::reward_models::reading::Reading;\n"), 0);
    assert_eq!(imports("plugins/src/learners/ppo/rollout.rs", "use super::Ppo;\nuse super::super::sft;\n"), 1);
    assert_eq!(imports("plugins/src/learners/mod.rs", "mod dpo;\npub use self::dpo::Dpo;\n"), 0);

    let manifest =
        "[dependencies]\nfarmhand-models.workspace = true\nserde = \"1\"\n[target.'cfg(unix)'.dev-dependencies]\ntch = \"0\"\n";
    assert_eq!(import_violations("analysis", manifest).len(), 2);
    assert_eq!(import_violations("plugins", manifest).len(), 0);
    assert_eq!(import_violations("surprise", manifest).len(), 1);
}
