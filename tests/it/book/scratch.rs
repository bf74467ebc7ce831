//! The folder in which a chapter's commands are run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::chapter::Block;
use super::output::{Comparison, Step, steps};
use crate::command::Finished;
use crate::own_program::own_program;

/// An empty folder with the repository's `examples` and `tests` in it, as if it were the root of a copy.
#[derive(Debug)]
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["examples", "tests"] {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            std::os::unix::fs::symlink(target, dir.path().join(folder)).expect("linked");
        }
        Self(dir)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder"))
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| format!("`{name}`: {error}"))
    }

    /// Runs the commands of a block, one after the other.
    pub(super) fn try_commands(&self, block: &Block) -> Result<(), String> {
        let steps = steps(&block.text);
        if steps.is_empty() {
            return Err("a command begins with `$ `".to_owned());
        }
        if block.has("no-run") {
            return Ok(());
        }
        let comparison = Comparison { numbers_vary: block.has("numbers-vary"), any_order: block.has("any-order") };
        for step in steps {
            let printed = match block.has("serves") {
                true => self.serve(&step)?,
                false => self.run(&step.command, block)?,
            };
            if !step.shown.trim().is_empty() && !comparison.same(&step.shown, &printed) {
                return Err(format!("`{}` is shown with\n{}\nand prints\n{printed}", step.command, step.shown));
            }
        }
        Ok(())
    }

    /// What a command prints on stdout, or, when it must fail or notes are shown, on both.
    fn run(&self, command: &str, block: &Block) -> Result<String, String> {
        let fails = block.has("fails");
        let command = if block.has("with-notes") { &format!("exec 2>&1; {command}") } else { command };
        let finished: Finished = self.shell(command).output().expect("sh starts").into();
        if (finished.code == Some(0)) == fails {
            let Finished { stdout, stderr, code } = finished;
            return Err(format!("`{command}` ended with {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}"));
        }
        Ok(if fails { finished.stdout + &finished.stderr } else { finished.stdout })
    }

    /// The first lines of a server, as many as are shown; then it is stopped as by Ctrl-C. It gets a free port.
    fn serve(&self, step: &Step) -> Result<String, String> {
        let mut child = self
            .shell(&format!("exec {} --port 0", step.command))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let printed: Vec<String> = lines.take(step.shown.lines().count()).map_while(Result::ok).collect();
        let stopped = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
        let ended = child.wait().expect("waited");
        if !stopped.success() || !matches!(ended.code(), Some(0 | 130)) {
            return Err(format!("`{}` ended with {ended}", step.command));
        }
        Ok(printed.join("\n"))
    }

    fn shell(&self, command: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(programs().to_owned()).chain(std::env::split_paths(&path));
        let mut shell = Command::new("sh");
        shell
            .args(["-eu", "-c", command])
            .current_dir(self.path())
            .env("PATH", std::env::join_paths(folders).expect("a path"))
            .env("OMP_NUM_THREADS", "1")
            .env("FARMHAND_CACHE", self.path().join("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null());
        shell
    }
}

/// A folder with links to the programs, made once.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs-of-the-book");
        std::fs::create_dir_all(&folder).expect("made");
        // Named so that cargo builds it: `farmhand` starts it from its own folder.
        let _ = env!("CARGO_BIN_EXE_farmhand-engine");
        let farmhand = Path::new(env!("CARGO_BIN_EXE_farmhand"));
        for (name, program) in [("farmhand", farmhand.to_owned()), ("my-farmhand", own_program().to_owned())] {
            let link = folder.join(name);
            if std::fs::read_link(&link).is_ok_and(|target| target == program) {
                continue;
            }
            drop(std::fs::remove_file(&link));
            std::os::unix::fs::symlink(program, link).expect("linked");
        }
        folder
    })
}
