//! What must pass before a commit, step by step, each named and timed; the first failure ends it.

use std::process::Command;
use std::time::Instant;

use crate::cargo::{Workshop, run};
use crate::failure::Result;

/// Runs every step.
pub(crate) fn check(workshop: &Workshop) -> Result<()> {
    let mut doc = workshop.cargo(["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let commands: [(&str, Command); 4] = [
        ("format", workshop.cargo(["fmt", "--all", "--check"])),
        ("lints", workshop.cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("tests", workshop.cargo_for_tests(["test", "--workspace"])),
        ("documentation", doc),
    ];
    let mut summary = Summary::default();
    for (name, mut command) in commands {
        summary.step(name, || run(name, &mut command))?;
    }
    summary.step("generated pages", || crate::pages::compare(workshop))?;
    summary.step("the book", || crate::book::build(workshop).map(drop))?;
    summary.print();
    Ok(())
}

/// What ran, how long it took, and whether it passed.
#[derive(Default)]
struct Summary(Vec<String>);

impl Summary {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("── {name}");
        let started = Instant::now();
        let result = work();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        self.0.push(format!("{name:<16} {verdict:<7} {:>6.1} s", started.elapsed().as_secs_f64()));
        if result.is_err() {
            self.print();
        }
        result
    }

    fn print(&self) {
        eprintln!("── summary");
        for line in &self.0 {
            eprintln!("{line}");
        }
    }
}
