//! The pinned libtorch: found where the user says, or fetched from PyPI, checked by hash and unpacked.
//!
//! The three wheels hold everything that a CPU build links: torch itself, and two small CUDA libraries that
//! `libtorch_cpu.so` names. The C++ libraries do not depend on the Python version, so it is always the same file.
//! `libtorch_cuda.so` stays packed: a machine with a GPU brings its own complete torch, named by `LIBTORCH`.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::places::Places;

/// The only version that the pinned `tch` compiles against.
pub(crate) const VERSION: &str = "2.11.0";

/// The wheels with their SHA-256; also the text of the marker that says the folder is complete.
const PINS: &str = "\
torch==2.11.0 --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
";

/// The platforms the three wheels are tagged with.
const PLATFORMS: [&str; 4] = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"];

/// Written last, inside the folder; holds [`PINS`].
const MARKER: &str = "complete.txt";

/// What setting up takes: the wheels and what is unpacked from them, and pip's second copy while it downloads.
const DOWNLOAD_MB: u64 = 544;
const UNPACKED_MB: u64 = 520;
const PEAK_MB: u64 = 1200;
/// What a debug build with all tests adds.
const BUILD_MB: u64 = 3500;

/// A libtorch that is ready to build and run with.
#[derive(Debug, Clone)]
pub(crate) struct Libtorch {
    /// The folder with `include/` and `lib/`: the value of `LIBTORCH`.
    pub(crate) dir: PathBuf,
}

impl Libtorch {
    /// The folder with the shared libraries.
    pub(crate) fn lib(&self) -> PathBuf {
        self.dir.join("lib")
    }
}

/// Makes sure that libtorch and a C++ compiler are there, and gives back where libtorch is. Takes milliseconds when it is.
pub(crate) fn set_up(places: &Places) -> Result<Libtorch> {
    check_compiler()?;
    let link = places.root.join(".libtorch");
    let managed = link.join("torch");
    // `.cargo/config.toml` sets LIBTORCH to the managed folder for everything cargo runs, so that value is nobody's wish.
    if let Some(own) =
        std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|dir| *dir != managed && !dir.as_os_str().is_empty())
    {
        return check_own(&std::path::absolute(&own).unwrap_or(own));
    }
    let dest = places.libtorch();
    if fs::read_to_string(dest.join(MARKER)).is_ok_and(|text| text == PINS) {
        point_link(&link, &dest)?;
        return Ok(Libtorch { dir: dest.join("torch") });
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Failure::new("set-up fetches libtorch for Linux on x86-64 only").with_hint(format!(
            "install torch {VERSION} yourself and set LIBTORCH to its folder (the one with `include` and `lib`)"
        )));
    }
    fetch_alone(&dest)?;
    point_link(&link, &dest)?;
    Ok(Libtorch { dir: dest.join("torch") })
}

/// Checks a libtorch that the user named.
fn check_own(dir: &Path) -> Result<Libtorch> {
    let hint = format!(
        "unset LIBTORCH and `cargo xtask setup` fetches torch {VERSION}, or name the folder of a torch {VERSION}, \
         for example `$(python3 -c 'import torch, os; print(os.path.dirname(torch.__file__))')`"
    );
    let wrong = |what: String| Err(Failure::new(format!("LIBTORCH is `{}`, {what}", dir.display())).with_hint(&hint));
    let Some(version) = version_of(dir) else {
        return wrong("which has neither a `version.py` nor a `build-version` of torch".to_owned());
    };
    if version != VERSION {
        return wrong(format!("which is torch {version}, but farmhand needs {VERSION}"));
    }
    for part in ["include/torch/csrc/api/include/torch/torch.h", "lib/libtorch_cpu.so", "lib/libc10.so"] {
        if !dir.join(part).exists() {
            return wrong(format!("but `{part}` is missing there"));
        }
    }
    Ok(Libtorch { dir: dir.to_path_buf() })
}

/// The version of the torch in `dir` without its local part: `2.11.0` for `2.11.0+cu130`.
fn version_of(dir: &Path) -> Option<String> {
    let python = fs::read_to_string(dir.join("version.py")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
        line.split(['\'', '"']).nth(1).map(str::to_owned)
    });
    let full = python.or_else(|| fs::read_to_string(dir.join("build-version")).ok())?;
    full.trim().split('+').next().map(str::to_owned)
}

/// Keeps `.libtorch` in the repository pointing at a libtorch outside of it, for plain `cargo` and editors.
fn point_link(link: &Path, dest: &Path) -> Result<()> {
    if link == dest || fs::read_link(link).is_ok_and(|target| target == dest) {
        return Ok(());
    }
    match fs::symlink_metadata(link) {
        Ok(meta) if !meta.is_symlink() => return Ok(()), // An older copy inside the repository; it does no harm.
        Ok(_) => fs::remove_file(link).map_err(|error| Failure::io("replace", link, &error))?,
        Err(_) => {}
    }
    match std::os::unix::fs::symlink(dest, link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Failure::io("create", link, &error)),
        _ => Ok(()),
    }
}

/// Fetches unless another process does so at this moment; then waits for it.
fn fetch_alone(dest: &Path) -> Result<()> {
    let parent = dest.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| Failure::io("create", parent, &error))?;
    let lock_path = beside(dest, "lock");
    let lock = File::create(&lock_path).map_err(|error| Failure::io("create", &lock_path, &error))?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        eprintln!("waiting for another process that sets up {}", dest.display());
        lock.lock().map_err(|error| Failure::io("lock", &lock_path, &error))?;
    }
    if fs::read_to_string(dest.join(MARKER)).is_ok_and(|text| text == PINS) {
        return Ok(());
    }
    fetch(dest)
}

/// Downloads and unpacks next to `dest`, then renames: `dest` is complete or absent.
fn fetch(dest: &Path) -> Result<()> {
    let started = Instant::now();
    let free_mb = check_python(dest.parent().unwrap_or(Path::new(".")))?;
    eprintln!("libtorch {VERSION} goes to {}", dest.display());
    eprintln!("  to download {DOWNLOAD_MB} MB (PyPI), on disk {UNPACKED_MB} MB, {PEAK_MB} MB while unpacking; free {free_mb} MB");
    if free_mb < PEAK_MB {
        return Err(Failure::new(format!("{free_mb} MB of free disk are too few, set-up needs {PEAK_MB} MB"))
            .with_hint("free some space, or set FARMHAND_CACHE to a folder on a larger disk"));
    }
    if free_mb < UNPACKED_MB + BUILD_MB {
        eprintln!("  warning: the build needs about {BUILD_MB} MB more and may not fit");
    }
    let part = beside(dest, "part");
    remove(&part)?;
    if let Err(failure) = fill(&part) {
        remove(&part)?;
        return Err(failure);
    }
    remove(dest)?;
    fs::rename(&part, dest).map_err(|error| Failure::io("rename", &part, &error))?;
    eprintln!("libtorch {VERSION} is ready ({:.0} s)", started.elapsed().as_secs_f64());
    Ok(())
}

/// Downloads and unpacks into `part` and leaves the marker there, last.
fn fill(part: &Path) -> Result<()> {
    for folder in ["wheels", "tmp"] {
        let folder = part.join(folder);
        fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
    }
    download(part)?;
    eprintln!("unpacking");
    unpack(part)?;
    for folder in ["wheels", "tmp"] {
        remove(&part.join(folder))?;
    }
    let marker = part.join(MARKER);
    fs::write(&marker, PINS).map_err(|error| Failure::io("write", &marker, &error))
}

/// Checks for the compiler that tch's C++ part needs.
fn check_compiler() -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let program = compiler.split_whitespace().next().unwrap_or("c++");
    if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Err(Failure::new(format!("no C++ compiler: `{program}` cannot be run")).with_hint("sudo apt install g++"));
    }
    Ok(())
}

/// Checks for Python and pip, and gives back the free disk space of `dir` in MB.
fn check_python(dir: &Path) -> Result<u64> {
    let script = "import shutil, sys; print(shutil.disk_usage(sys.argv[1]).free // 10**6); import pip";
    let output = match Command::new("python3").args(["-c", script]).arg(dir).output() {
        Ok(output) => output,
        Err(_) => {
            return Err(Failure::new("no `python3`; set-up downloads with pip").with_hint("sudo apt install python3 python3-pip"));
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && stderr.contains("No module named 'pip'") {
        return Err(Failure::new("`python3` has no pip").with_hint("sudo apt install python3-pip"));
    }
    let free = String::from_utf8_lossy(&output.stdout).trim().parse();
    free.map_err(|_| Failure::new(format!("`python3` does not work: {}", stderr.trim())))
}

/// Runs `pip download` for the pinned wheels; pip checks their hashes. It installs nothing, so Pythons that the
/// distribution manages allow it.
fn download(part: &Path) -> Result<()> {
    let requirements = part.join("tmp/requirements.txt");
    fs::write(&requirements, PINS).map_err(|error| Failure::io("write", &requirements, &error))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]);
    pip.args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]);
    pip.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
    pip.arg("--dest").arg(part.join("wheels")).arg("--require-hashes").arg("--requirement").arg(&requirements);
    // pip's own temporary copy stays on the disk that was checked; a user's wish for virtual environments is not about downloads.
    pip.env("TMPDIR", part.join("tmp")).env("PIP_REQUIRE_VIRTUALENV", "0");
    let mut child = pip.stderr(Stdio::piped()).spawn().map_err(|error| Failure::new(format!("cannot run pip: {error}")))?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(|line| line.ok()) {
            eprintln!("{line}");
            said += &line;
        }
    }
    let status = child.wait().map_err(|error| Failure::new(format!("cannot wait for pip: {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(explain_pip(&said))
}

/// What pip's complaint means for the user.
fn explain_pip(said: &str) -> Failure {
    let has = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    if has(&["DO NOT MATCH THE HASHES"]) {
        return Failure::new("a downloaded file is not the pinned one: its hash differs")
            .with_hint("try again; if it stays so, `python3 -m pip config list` shows whether a mirror serves other files");
    }
    if has(&["No space left on device"]) {
        return Failure::new("the disk is full").with_hint("free some space, or set FARMHAND_CACHE to a folder on a larger disk");
    }
    if has(&["Retrying", "Connection", "connection", "name resolution", "Max retries", "timed out", "ProxyError", "SSLError"]) {
        return Failure::new("cannot reach the Python package index").with_hint(
            "check the network; behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL, or set LIBTORCH to a torch that is there",
        );
    }
    Failure::new("pip could not download libtorch, see above").with_hint(format!(
        "a package index that has torch {VERSION} is needed (PIP_INDEX_URL), or a torch {VERSION} named by LIBTORCH"
    ))
}

/// Unpacks what is needed from the wheels and deletes each as soon as it is done.
fn unpack(part: &Path) -> Result<()> {
    let mut python = Command::new("python3");
    python.arg("-").arg(part.join("wheels")).arg(part).stdin(Stdio::piped()).stderr(Stdio::piped());
    let cannot = |error: std::io::Error| Failure::new(format!("cannot run python3: {error}"));
    let mut child = python.spawn().map_err(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(include_bytes!("unpack_libtorch.py")).map_err(cannot)?;
    }
    let output = child.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let failure = Failure::new(said.trim());
    if said.contains("No space left") {
        return Err(failure.with_hint("free some space, or set FARMHAND_CACHE to a folder on a larger disk"));
    }
    Err(failure.with_hint("run the same command again; it starts afresh"))
}

/// `dest` with another ending: `.libtorch` and `part` give `.libtorch.part`.
fn beside(dest: &Path, ending: &str) -> PathBuf {
    let mut path = dest.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}

/// Removes a file, a link or a folder that may not be there.
fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    result.map_err(|error| Failure::io("remove", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_complaints_get_the_right_hint() {
        let explained = |said: &str| explain_pip(said).to_string();
        assert!(explained("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.").contains("hash differs"));
        assert!(explained("OSError: [Errno 28] No space left on device").contains("disk is full"));
        assert!(explained("WARNING: Retrying (Retry(total=0)) after connection broken").contains("check the network"));
        assert!(explained("ERROR: No matching distribution found for torch==2.11.0").contains("PIP_INDEX_URL"));
    }

    #[test]
    fn the_version_is_read_from_either_file_without_its_local_part() {
        let dir = std::env::temp_dir().join(format!("farmhand-xtask-version-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary folder");
        assert_eq!(version_of(&dir), None);
        fs::write(dir.join("build-version"), "2.9.1+cpu\n").expect("write");
        assert_eq!(version_of(&dir).as_deref(), Some("2.9.1"));
        fs::write(dir.join("version.py"), "from typing import Optional\n__version__ = '2.11.0+cu130'\n").expect("write");
        assert_eq!(version_of(&dir).as_deref(), Some("2.11.0"));
        let error = check_own(&dir).expect_err("the folder has no libraries").to_string();
        assert!(error.contains("torch.h` is missing"), "{error}");
        fs::remove_dir_all(&dir).expect("clean up");
    }

    #[test]
    fn there_are_three_pins_of_the_stated_version() {
        let hashes = PINS.lines().filter(|line| line.rsplit_once("--hash=sha256:").is_some_and(|(_, hash)| hash.len() == 64));
        assert_eq!(hashes.count(), 3);
        assert!(PINS.starts_with(&format!("torch=={VERSION} ")));
    }
}
