//! The folder in which a chapter's commands are run.

use std::cell::{OnceCell, RefCell};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use farmhand_endpoints::loopback::Loopback;
use tempfile::TempDir;

use super::chapter::Block;
use super::output::{Comparison, Step, steps};
use super::servers;
use crate::command::Finished;
use crate::hub_server::HubServer;
use crate::own_program::own_program;

/// What a command ends in that serves those after it.
const SERVES: &str = "# in another terminal";

/// An empty folder with the repository's `examples` and `tests` in it, as if it were the root of a copy.
#[derive(Default)]
pub(super) struct Scratch {
    path: PathBuf,
    /// The folder, where it is gone in the end.
    _gone: Option<TempDir>,
    hub: OnceCell<HubServer>,
    /// The commands that go to the chapter's copy of the repository.
    copy: OnceCell<String>,
    /// Commands in other terminals.
    terminals: RefCell<Vec<Terminal>>,
    /// A port as the book has it, and the one that is used.
    ports: RefCell<Vec<(String, String)>>,
}

/// A command that serves; it ends when dropped.
enum Terminal {
    Program(Child),
    Here { _server: Loopback },
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Self::Program(child) = self {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Scratch {
    /// A folder of no name, or, where cargo compiles in it, the same for every run: what it leaves in its build folder is then replaced.
    pub(super) fn new(chapter: &str, builds: bool) -> Self {
        let (path, gone) = if builds {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("book").join(chapter);
            drop(std::fs::remove_dir_all(&path));
            std::fs::create_dir_all(&path).expect("created");
            (path, None)
        } else {
            let dir = tempfile::tempdir().expect("a folder");
            (dir.path().to_owned(), Some(dir))
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy(&root.join("examples"), &path.join("examples"));
        std::os::unix::fs::symlink(root.join("tests"), path.join("tests")).expect("linked");
        Self { path, _gone: gone, ..Self::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder"))
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| format!("`{name}`: {error}"))
    }

    /// Runs the commands of a block, one after the other.
    #[expect(clippy::print_stderr, reason = "it is said what is left out")]
    pub(super) fn try_commands(&self, block: &Block) -> Result<(), String> {
        let steps = steps(&block.text);
        if steps.is_empty() {
            return Err("a command begins with `$ `".to_owned());
        }
        if block.has("no-run") {
            return Ok(());
        }
        match block.value("needs") {
            Some("published data") if published_data().is_none() => {
                eprintln!("skipped: `{}`: ../shared/data is not there", steps[0].command);
                return Ok(());
            }
            None | Some("published data") => {}
            Some(other) => return Err(format!("a block needs `published data`, not `{other}`")),
        }
        if block.has("hub") {
            self.hub.get_or_init(|| servers::hub(self.path()));
        }
        if let Some(given) = &block.given {
            self.run(given, &Block { marks: Vec::new(), ..block.clone() })?;
        }
        let comparison = Comparison {
            numbers_vary: block.has("numbers-vary"),
            any_order: block.has("any-order"),
            verdict_varies: block.has("verdict-varies"),
        };
        for step in steps {
            let printed = match step.command.strip_suffix(SERVES) {
                Some(command) => {
                    self.open_terminal(command.trim(), block)?;
                    continue;
                }
                None if block.has("serves") => self.serve(&step)?,
                None => self.run(&self.with_ports(&step.command), block)?,
            };
            if !step.shown.trim().is_empty() && !comparison.same(&step.shown, &printed) {
                return Err(format!("`{}` is shown with\n{}\nand prints\n{printed}", step.command, step.shown));
            }
        }
        self.terminals.borrow_mut().clear();
        Ok(())
    }

    /// What a command prints on stdout, or, when it must fail or notes are shown, on both.
    fn run(&self, command: &str, block: &Block) -> Result<String, String> {
        let fails = block.has("fails");
        let command = if block.has("with-notes") { &format!("exec 2>&1; {command}") } else { command };
        let command = if block.has("in-a-copy") { &format!("{}; {command}", self.copy.get_or_init(enter_copy)) } else { command };
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

    /// Starts a server on a free port, which from then on is meant by the one in the book. A program says where it listens in its
    /// first line; `vllm` is played.
    fn open_terminal(&self, command: &str, block: &Block) -> Result<(), String> {
        let port = block.value("port").ok_or("`port=N` says where a command in another terminal listens")?;
        let (terminal, address) = if let Some(words) = command.strip_prefix("vllm serve ") {
            let folder = self.path().join(words.split_whitespace().next().unwrap_or_default());
            let server = servers::vllm(&folder)?;
            let address = server.base_url().trim_end_matches("/v1").to_owned();
            (Terminal::Here { _server: server }, address)
        } else {
            let command = format!("exec {}", command.replace(port, "0"));
            let mut child = self.shell(&command).stdout(Stdio::piped()).spawn().expect("sh starts");
            let out = child.stdout.take().expect("piped");
            let (terminal, mut line) = (Terminal::Program(child), String::new());
            BufReader::new(out).read_line(&mut line).map_err(|error| error.to_string())?;
            (terminal, line.trim().to_owned())
        };
        let free = address.rsplit(':').next().unwrap_or_default();
        if free.is_empty() || !free.chars().all(|c| c.is_ascii_digit()) {
            return Err(format!("`{command}` does not say where it listens: `{address}`"));
        }
        let address = |port: &str| format!("127.0.0.1:{port}");
        for file in std::fs::read_dir(self.path().join("examples/configs")).expect("there").flatten() {
            let text = std::fs::read_to_string(file.path()).expect("readable");
            std::fs::write(file.path(), text.replace(&address(port), &address(free))).expect("written");
        }
        self.ports.borrow_mut().push((address(port), address(free)));
        self.terminals.borrow_mut().push(terminal);
        Ok(())
    }

    fn with_ports(&self, command: &str) -> String {
        self.ports.borrow().iter().fold(command.to_owned(), |command, (written, used)| command.replace(written, used))
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
            .env("ROOT", env!("CARGO_MANIFEST_DIR"))
            .env("HF_HOME", self.path().join("hf"))
            .stdin(Stdio::null());
        match self.hub.get() {
            Some(hub) => shell.env("HF_ENDPOINT", &hub.endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE"),
            None => shell.env("HF_HUB_OFFLINE", "1"),
        };
        if let Some(data) = published_data() {
            shell.env("DATA", data);
        }
        shell
    }
}

/// A fresh copy of the repository, without what lies in its root besides, as the shell's commands that go there. Cargo compiles `xtask`
/// alone in it, which needs no other crate.
fn enter_copy() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("book");
    let to = place.join("repository");
    drop(std::fs::remove_dir_all(&to));
    std::fs::create_dir_all(&to).expect("created");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("readable");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let members =
        manifest["workspace"]["members"].as_array().expect("a list").iter().map(|member| member.as_str().expect("a name"));
    for folder in members.chain([".cargo", "benches", "examples", "src", "tests"]) {
        copy(&root.join(folder), &to.join(folder));
    }
    for file in ["build.rs", "Cargo.toml", "Cargo.lock", "rustfmt.toml"] {
        std::fs::copy(root.join(file), to.join(file)).expect("copied");
    }
    format!("cd {to:?}; export CARGO_TARGET_DIR={:?} CARGO_NET_OFFLINE=true", place.join("target-of-the-repository"))
}

/// Copies a folder without what building and running leave in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let name = entry.file_name();
        let is_left = name.to_str().is_none_or(|name| matches!(name, "target" | "runs" | "__pycache__") || name.ends_with(".so"));
        match entry.file_type().expect("a type") {
            _ if is_left => {}
            kind if kind.is_dir() => copy(&entry.path(), &to.join(name)),
            _ => drop(std::fs::copy(entry.path(), to.join(name)).expect("copied")),
        }
    }
}

/// The folder of published data beside the repository, where it is there.
fn published_data() -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").canonicalize().ok()
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
        for (name, program) in [("farmhand", farmhand), ("my-farmhand", own_program())] {
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
