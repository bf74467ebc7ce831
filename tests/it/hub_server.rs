//! A Hugging Face hub on this machine for tests: one model or several, small files sent by the hub itself, large ones from a second
//! host that a redirect leads to, as on the real one; and every way in which it can fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farmhand::core::Seed;
use farmhand_models::{LanguageModel, LlamaOptions, ModelConfig, PromptFormat, TextCodec, train_bpe, write_checkpoint};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::command::{Finished, command, files_below};

/// The model's name on the server.
pub(crate) const REPO: &str = "farm/tiny";
/// The commit its branch `main` is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The token that commands are given.
pub(crate) const SECRET: &str = "hf_topsecret";

/// What the server does wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Answers to the next requests at the hub: status, `X-Error-Code`.
    pub(crate) hub_answers: Vec<(u16, &'static str)>,
    /// As `hub_answers`, but only for files.
    pub(crate) file_answers: Vec<(u16, &'static str)>,
    /// The second host closes after so many bytes of the body, once for each entry.
    pub(crate) break_after: Vec<usize>,
    /// The second host sends other bytes than promised.
    pub(crate) damage: bool,
    /// The second host ignores ranges.
    pub(crate) no_ranges: bool,
    /// The server accepts connections and says nothing.
    pub(crate) silent: bool,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `hub` or `store`.
    pub(crate) host: &'static str,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

struct State {
    /// Files of each model.
    models: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    commit: String,
    token: Option<String>,
    faults: Faults,
    requests: Vec<Request>,
    store: SocketAddr,
}

/// A running hub; it ends with the test's process.
pub(crate) struct HubServer {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl HubServer {
    /// Serves these files as [`REPO`] at [`COMMIT`]. Weights are large files, the rest small ones.
    pub(crate) fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self::start_all([(REPO.to_owned(), files)])
    }

    /// Serves several models under their names, each at [`COMMIT`].
    pub(crate) fn start_all(models: impl IntoIterator<Item = (String, impl IntoIterator<Item = (String, Vec<u8>)>)>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, store) = (bind(), bind());
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let state = State {
            models: models.into_iter().map(|(repo, files)| (repo, files.into_iter().collect())).collect(),
            commit: COMMIT.to_owned(),
            token: None,
            faults: Faults::default(),
            requests: Vec::new(),
            store: address(&store),
        };
        let endpoint = format!("http://{}", address(&hub));
        let state = Arc::new(Mutex::new(state));
        for (listener, host) in [(hub, "hub"), (store, "store")] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || serve(&stream, host, &state));
                }
            });
        }
        Self { endpoint, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Only who shows this token gets an answer.
    pub(crate) fn require(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// Moves `main` to another commit, with a file changed.
    pub(crate) fn push(&self, commit: &str, file: &str, contents: &[u8]) {
        let mut state = self.state();
        state.commit = commit.to_owned();
        state.models.entry(REPO.to_owned()).or_default().insert(file.to_owned(), contents.to_vec());
    }

    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().models.get(REPO).cloned().unwrap_or_default()
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }
}

/// Whether a file is kept in the second host.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

fn hexadecimal(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file's blob.
pub(crate) fn etag(name: &str, contents: &[u8]) -> String {
    if is_large(name) {
        return hexadecimal(Sha256::digest(contents));
    }
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", contents.len()));
    hash.update(contents);
    hexadecimal(hash.finalize())
}

fn serve(stream: &TcpStream, host: &'static str, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let request = Request { host, path, authorization: header("authorization"), range: header("range") };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests.push(request.clone());
    if state.faults.silent {
        drop(state);
        std::thread::sleep(Duration::from_secs(5));
        return;
    }
    let (head, body, keep) = if host == "hub" { hub_answer(&mut state, &request) } else { store_answer(&mut state, &request) };
    drop(state);
    let mut out = stream;
    // A reader that went away is part of some tests.
    let _ = out.write_all(format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()).as_bytes());
    let _ = out.write_all(&body[..keep.min(body.len())]);
}

/// Head, body, and how many bytes of the body are sent before the connection closes.
type Reply = (String, Vec<u8>, usize);

fn whole(status: u16, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    (format!("HTTP/1.1 {status} Because\r\n{lines}"), body, length)
}

fn hub_answer(state: &mut State, request: &Request) -> Reply {
    if let Some((status, code)) = (!state.faults.hub_answers.is_empty()).then(|| state.faults.hub_answers.remove(0)) {
        return whole(status, &[("X-Error-Code", code), ("Retry-After", "0")], Vec::new());
    }
    let shown = request.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
    if state.token.is_some() && shown != state.token.as_deref() {
        return whole(401, &[], Vec::new());
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let Some(repo) = state.models.keys().find(|repo| path.contains(&format!("/{repo}/"))).cloned() else {
        return whole(404, &[("X-Error-Code", "RepoNotFound")], Vec::new());
    };
    let known = [format!("/api/models/{repo}/revision/main"), format!("/api/models/{repo}/revision/{}", state.commit)];
    if known.iter().any(|known| known == path) {
        let file = |(name, contents): (&String, &Vec<u8>)| serde_json::json!({ "rfilename": name, "size": contents.len() });
        let files: Vec<_> = state.models[&repo].iter().map(file).collect();
        let listing = serde_json::json!({ "sha": state.commit, "siblings": files });
        return whole(200, &[("Content-Type", "application/json")], listing.to_string().into_bytes());
    }
    if path.starts_with("/api/models/") {
        return whole(404, &[("X-Error-Code", "RevisionNotFound")], Vec::new());
    }
    let resolve = format!("/{repo}/resolve/{}/", state.commit);
    let cached = format!("/api/resolve-cache/models/{repo}/{}/", state.commit);
    if let Some((status, code)) = (!state.faults.file_answers.is_empty()).then(|| state.faults.file_answers.remove(0)) {
        return whole(status, &[("X-Error-Code", code)], Vec::new());
    }
    if let Some((name, contents)) = path.strip_prefix(&cached).and_then(|name| state.models[&repo].get_key_value(name)) {
        return whole(200, &[("ETag", &format!("\"{}\"", etag(name, contents)))], contents.clone());
    }
    match path.strip_prefix(&resolve).and_then(|name| state.models[&repo].get_key_value(name)) {
        Some((name, contents)) if is_large(name) => {
            let location = format!("http://{}/{repo}/{name}?Signature=signed-secret", state.store);
            let (hash, size) = (format!("\"{}\"", etag(name, contents)), contents.len().to_string());
            let headers =
                [("Location", location.as_str()), ("X-Linked-ETag", &hash), ("X-Linked-Size", &size), ("ETag", "\"pointer\"")];
            whole(302, &headers, Vec::new())
        }
        Some((name, _)) => whole(307, &[("Location", &format!("{cached}{name}"))], Vec::new()),
        None => whole(404, &[("X-Error-Code", "EntryNotFound")], Vec::new()),
    }
}

fn store_answer(state: &mut State, request: &Request) -> Reply {
    let name = request.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let found = state.models.iter().find_map(|(repo, files)| files.get(name.strip_prefix(repo.as_str())?.strip_prefix('/')?));
    let Some(mut contents) = found.cloned() else { return whole(404, &[], Vec::new()) };
    if state.faults.damage {
        contents[0] ^= 1;
    }
    let range = request.range.as_deref().filter(|_| !state.faults.no_ranges);
    let from: Option<usize> = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let size = contents.len();
    let (head, body, all) = match from {
        Some(from) if from >= size => whole(416, &[("Content-Range", &format!("bytes */{size}"))], Vec::new()),
        Some(from) => whole(206, &[("Content-Range", &format!("bytes {from}-{}/{size}", size - 1))], contents.split_off(from)),
        None => whole(200, &[], contents),
    };
    let keep = if state.faults.break_after.is_empty() { all } else { state.faults.break_after.remove(0) };
    (head, body, keep)
}

/// A model that works, as the files of a server.
pub(crate) fn working_model(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let tokenizer = train_bpe((0..50).map(|i| format!("an alpaca eats {i} carrots")), 300).expect("trained");
    let codec = TextCodec::new(tokenizer, PromptFormat::Alpaca).expect("a codec");
    let sizes = LlamaOptions { vocab_size: 300, hidden_size: 16, intermediate_size: 24, n_layers: 1, ..LlamaOptions::default() };
    let model = LanguageModel::random(ModelConfig::tiny_llama(sizes), Seed::root(1), tch::Device::Cpu).expect("made");
    write_checkpoint(dir, &model, &codec, "test").expect("written");
    files_below(dir).into_iter().map(|(name, contents)| (name.to_string_lossy().into_owned(), contents)).collect()
}

/// Runs the command with this hub's variables and no others of its kind.
pub(crate) fn with_hub(dir: &Path, server: &HubServer, args: &[&str], more: &[(&str, &str)]) -> Finished {
    let _ = env!("CARGO_BIN_EXE_farmhand-engine");
    let mut command = command(dir, args);
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", dir.join("hf")).env("HF_ENDPOINT", &server.endpoint).env("HF_TOKEN", SECRET);
    command.envs(more.iter().copied());
    let finished: Finished = command.output().expect("farmhand starts").into();
    assert!(!finished.stdout.contains(SECRET) && !finished.stderr.contains(SECRET), "{}{}", finished.stdout, finished.stderr);
    finished
}
