//! Everything a shell script would do for farmhand: set-up, demo, tests, checks, generated pages, new components.
//!
//! `cargo xtask` runs it; it depends on nothing but std, so it builds in a second and without libtorch.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks to its user")]

mod book;
mod cargo;
mod check;
mod failure;
mod libtorch;
mod new_component;
mod pages;
mod places;

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::cargo::{Workshop, become_command};
use crate::failure::{Failure, Result};
use crate::places::Places;

const HELP: &str = "\
cargo xtask: set-up, demo, tests and checks of farmhand

Usage: cargo xtask <TASK> [ARGS]…

Tasks:
  demo [ARGS]…         set up, build, and run the quickstart experiment to its leaderboard; ARGS go to `farmhand run`
  test [ARGS]…         run every test, documentation tests included; ARGS go to `cargo test`
  setup [--shared]     fetch the pinned libtorch (544 MB to download, 0.5 GB on disk) unless it is there;
                       --shared keeps it and compiled crates in ~/.cache/farmhand, for all clones
  build [--release]    build the program, linked as `./farmhand`; other ARGS go to `cargo build`
  check                format, lints, tests, documentation, generated pages, the book: what must pass before a commit
  docs                 write the generated pages again (docs/reference.md, docs/methods.md)
  book                 build the book of docs/ into target/book and check its links
  new KIND NAME        start a component: one file that compiles, works, is registered and tested;
                       KIND is learner, annotator, evaluator, policy or reward-model
  env                  print the variables these tasks set, for plain cargo: eval \"$(cargo xtask env)\"

Examples:
  cargo xtask demo
  cargo xtask demo --set seed=7
  cargo xtask test -p farmhand-core
  cargo xtask test -- --nocapture leaderboard
  cargo xtask new learner my_method

Environment:
  LIBTORCH             your own torch 2.11.0 (the folder with `include` and `lib`), for example one with CUDA
  FARMHAND_CACHE       where libtorch and compiled crates are kept; without it ~/.cache/farmhand if that folder
                       exists, otherwise `.libtorch` and `target` in the repository
  CARGO_TARGET_DIR     as for cargo
";

fn main() -> ExitCode {
    match dispatch(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(mut args: Vec<OsString>) -> Result<()> {
    if args.is_empty() {
        eprint!("{HELP}");
        return Err(Failure::usage("no task given"));
    }
    let task = args.remove(0);
    let asks_for_help = matches!(args.first().and_then(|arg| arg.to_str()), Some("--help" | "-h"));
    match task.to_str().unwrap_or_default() {
        "help" | "--help" | "-h" => print!("{HELP}"),
        "setup" | "check" | "docs" | "book" | "new" | "env" if asks_for_help => print!("{HELP}"),
        "setup" => set_up(&args)?,
        "demo" => demo(&args)?,
        "test" => test(&args)?,
        "build" => build(&args)?,
        "check" => no_args("check", &args).and_then(|()| check::check(&workshop()?))?,
        "docs" => no_args("docs", &args).and_then(|()| pages::write(&workshop()?))?,
        "book" => no_args("book", &args).and_then(|()| book(&workshop()?))?,
        "new" => new_component::new(&Places::find(false)?.root, &args)?,
        "env" => print_env(&args)?,
        other => return Err(Failure::usage(format!("unknown task `{other}`"))),
    }
    Ok(())
}

fn workshop() -> Result<Workshop> {
    Workshop::open(Places::find(false)?)
}

fn book(workshop: &Workshop) -> Result<()> {
    println!("{}", book::build(workshop)?.join("index.html").display());
    Ok(())
}

fn no_args(task: &str, args: &[OsString]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => Err(Failure::usage(format!("`{task}` takes no argument `{}`", arg.display()))),
    }
}

fn set_up(args: &[OsString]) -> Result<()> {
    let shared = match args {
        [] => false,
        [arg] if arg == "--shared" => true,
        [arg, ..] => return Err(Failure::usage(format!("`setup` takes no argument `{}`", arg.display()))),
    };
    let workshop = Workshop::open(Places::find(shared)?)?;
    for (name, value) in workshop.variables().into_iter().filter(|(name, _)| *name != "LD_LIBRARY_PATH") {
        println!("{name}={}", value.display());
    }
    Ok(())
}

fn demo(args: &[OsString]) -> Result<()> {
    let workshop = workshop()?;
    let started = std::time::Instant::now();
    let program = workshop.build(&[])?;
    eprintln!("farmhand is built ({:.0} s): {}, or ./farmhand", started.elapsed().as_secs_f64(), program.display());
    let mut farmhand = Command::new(program);
    farmhand.current_dir(&workshop.places.root).args(["run", "examples/configs/quickstart.toml"]).args(args);
    Err(become_command("farmhand", &mut farmhand))
}

fn test(args: &[OsString]) -> Result<()> {
    let workshop = workshop()?;
    let names_packages =
        args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    let mut command = workshop.cargo_for_tests(["test"]);
    if !names_packages {
        command.arg("--workspace");
    }
    Err(become_command("cargo test", command.args(args)))
}

fn build(args: &[OsString]) -> Result<()> {
    let program = workshop()?.build(args)?;
    println!("{}", program.display());
    Ok(())
}

fn print_env(args: &[OsString]) -> Result<()> {
    no_args("env", args)?;
    for (name, value) in workshop()?.variables() {
        // What cargo put into our own library path is of no use to others, so the shell appends what it has.
        let rest = if name == "LD_LIBRARY_PATH" { r#""${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}""# } else { "" };
        println!("export {name}='{}'{rest}", value.display().to_string().replace('\'', r"'\''"));
    }
    Ok(())
}
