//! The book in `docs/`: every chapter is listed, every link leads somewhere, every command is run and its output compared, every
//! configuration is read, and code is part of files that are compiled.
//!
//! What a block is stands in its info string, after the language, with commas between:
//!
//! * `console`: lines that begin with `$ ` are run one after the other in the chapter's own folder, with `farmhand` and
//!   `my-farmhand` (`examples/own_program`) on the path; what stands below is what they print. `…` stands for any text, alone
//!   on a line for any lines. `fails`: the command must fail, and the text is its error. `numbers-vary`: processors round differently, so
//!   only words and layout are compared. `any-order`: nor is the order of lines. `verdict-varies`: nor is the first line,
//!   where the experiment was larger than what a test can run. `with-notes`: what goes to stderr is shown as well. `serves`: runs until it is stopped.
//!   `needs=published data`: run where `../shared/data` lies beside the repository. `hub`: with a hub on this machine in place of the real one.
//!   `port=N`: N stands for a free port. `builds`: cargo compiles in the chapter's folder. `in-a-copy`: run at the root of a copy of
//!   the repository. `no-run=REASON`: not run here, but understood by the real command line. A command that ends in
//!   `# in another terminal` serves the ones after it.
//!   A comment `<!-- given … -->` before the block holds commands for what a reader has by then, such as files of one's own; `$DATA` is
//!   the folder of published data.
//! * `toml`: part of an experiment. `alternatives`: each table alone. `file=NAME`: written to the chapter's folder, as are
//!   `json` and `jsonl` blocks.
//! * `rust`, `python`: nothing but an include of a file that is compiled or run elsewhere in the tests.
//! * `text`: neither code nor output.

mod chapter;
mod command_line;
mod configuration;
mod links;
mod output;
mod scratch;
mod servers;

use std::path::Path;

use self::chapter::{Block, Chapter, book_folder};
use self::scratch::Scratch;

/// Why a block may not be run here.
const REASONS: [&str; 2] = ["builds farmhand", "needs a GPU"];

/// Every block of a chapter, in order, in one folder.
fn try_chapter(name: &str) {
    let chapter = Chapter::read(&book_folder().join(name));
    let scratch = Scratch::new(name, chapter.blocks.iter().any(|block| block.has("builds")));
    for block in &chapter.blocks {
        assert!(
            block.given.is_none() || block.language == "console",
            "docs/{name}:{}: only commands are given something",
            block.line
        );
        let problem = match block.language.as_str() {
            "console" => scratch.try_commands(block),
            "toml" | "json" | "jsonl" => try_data(block, &scratch),
            "rust" | "python" => try_code(block),
            "text" => Ok(()),
            other => Err(format!("a block is `console`, `toml`, `json`, `jsonl`, `rust`, `python` or `text`, not `{other}`")),
        };
        if let Err(problem) = problem {
            panic!("docs/{name}:{}: {problem}", block.line);
        }
    }
}

/// Reads configuration or data, and writes it where a name is given.
fn try_data(block: &Block, scratch: &Scratch) -> Result<(), String> {
    match block.language.as_str() {
        "json" => serde_json::from_str::<serde_json::Value>(&block.text).map(drop).map_err(|error| error.to_string())?,
        "jsonl" => {
            for line in block.text.lines() {
                serde_json::from_str::<serde_json::Value>(line).map_err(|error| format!("`{line}`: {error}"))?;
            }
        }
        _ if block.value("file").is_some() => {
            toml::from_str::<toml::Table>(&block.text).map(drop).map_err(|error| error.to_string())?;
        }
        _ => configuration::try_experiment(&block.text, block.has("alternatives"), scratch.path())?,
    }
    block.value("file").map_or(Ok(()), |name| scratch.write(name, &block.text))
}

/// Code must be shown from a file that is compiled or run by other tests.
fn try_code(block: &Block) -> Result<(), String> {
    let tried = ["examples/own_program/src/", "examples/external_plugin/src/", "examples/external/", "tests/it/"];
    if block.includes.is_empty() {
        return Err("code is shown by `{{#include FILE:ANCHOR}}` alone, so that it is compiled".to_owned());
    }
    match block.includes.iter().find(|path| !tried.iter().any(|folder| path.starts_with(folder))) {
        Some(path) => Err(format!("`{path}` is neither an example nor a test")),
        None => Ok(()),
    }
}

macro_rules! chapters {
    ($($test:ident = $file:literal,)*) => {
        const CHAPTERS: &[&str] = &[$($file),*];
        $(#[test] fn $test() { try_chapter($file); })*
    };
}

chapters! {
    adding_an_evaluator = "adding-an-evaluator.md",
    annotators = "annotators.md",
    comparison = "comparison.md",
    differences = "differences.md",
    engine = "engine.md",
    evaluation = "evaluation.md",
    external_programs = "external-programs.md",
    installation = "installation.md",
    introduction = "introduction.md",
    labelling = "labelling.md",
    methods = "methods.md",
    models = "models.md",
    over_optimisation = "over-optimisation.md",
    own_program = "own-program.md",
    plugins = "plugins.md",
    reference = "reference.md",
    reproducing_alpacafarm = "reproducing-alpacafarm.md",
    run_directory = "run-directory.md",
    tutorial = "tutorial.md",
    watching = "watching.md",
}

#[test]
fn every_chapter_is_in_the_summary_and_tried() {
    let summary = Chapter::read(&book_folder().join("SUMMARY.md"));
    let mut listed: Vec<&str> = summary.links.iter().map(|(_, link)| link.as_str()).collect();
    listed.sort_unstable();
    let mut files: Vec<String> = std::fs::read_dir(book_folder())
        .expect("the book")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md")
        .collect();
    files.sort_unstable();
    assert_eq!(listed, files, "SUMMARY.md and the chapters there are");
    let mut tried = CHAPTERS.to_vec();
    tried.sort_unstable();
    assert_eq!(tried, files, "the chapters that are tried and those there are");
}

#[test]
fn every_link_of_the_book_and_the_readme_leads_somewhere() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let problems: Vec<String> =
        CHAPTERS.iter().map(|name| book_folder().join(name)).chain([readme]).flat_map(|path| links::broken(&path)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn commands_named_in_sentences_exist() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    for path in CHAPTERS.iter().map(|name| book_folder().join(name)).chain([readme]) {
        for (line, span) in Chapter::read(&path).spans {
            let problem = command_line::unknown_subcommand(&span);
            assert!(problem.is_none(), "{}:{line}: {}", path.display(), problem.unwrap_or_default());
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "`--nocapture` shows the list")]
fn blocks_that_are_not_run_say_why_and_are_understood() {
    let mut not_run = Vec::new();
    for name in CHAPTERS {
        let chapter = Chapter::read(&book_folder().join(name));
        for block in chapter.blocks.iter().filter(|block| block.language == "console") {
            let place = format!("docs/{name}:{}", block.line);
            for step in output::steps(&block.text) {
                if let Err(problem) = command_line::understood(&step.command) {
                    panic!("{place}: `{}`: {problem}", step.command);
                }
            }
            if let Some(reason) = block.value("no-run") {
                assert!(REASONS.contains(&reason), "{place}: `{reason}` is none of {REASONS:?}");
                not_run.push(format!("{place}: {reason}"));
            }
        }
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    for block in Chapter::read(&readme).blocks {
        if let Err(problem) = command_line::understood(&block.text) {
            panic!("README.md:{}: {problem}", block.line);
        }
    }
    println!("{} blocks of commands are not run:\n{}", not_run.len(), not_run.join("\n"));
}
