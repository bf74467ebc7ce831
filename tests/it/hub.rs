//! Models by id: fetched from a hub on this machine, in every way that can go wrong, and used by the commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farmhand::core::{CancelFlag, Error, ErrorKind, Event, RecordedEvents};
use farmhand::hub::{Hub, HubId, HubSettings, Snapshot, Token, Want};

use crate::command::files_below;
use crate::hub_server::{COMMIT, Faults, HubServer, REPO, SECRET, etag, with_hub, working_model};

/// A folder for the cache and whatever else a test makes.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("hub")
    }

    fn model(&self) -> PathBuf {
        self.cache().join("models--farm--tiny")
    }

    fn blob(&self, name: &str, contents: &[u8]) -> PathBuf {
        self.model().join("blobs").join(etag(name, contents))
    }

    fn incomplete(&self, name: &str, contents: &[u8]) -> PathBuf {
        self.model().join("blobs").join(format!("{}.incomplete", etag(name, contents)))
    }

    fn settings(&self, server: &HubServer) -> HubSettings {
        HubSettings {
            endpoint: server.endpoint.clone(),
            cache: self.cache(),
            token: Token::new(SECRET),
            offline: false,
            silence: Duration::from_millis(500),
            first_wait: Duration::from_millis(1),
        }
    }
}

fn fetch_with(settings: HubSettings, id: &str, want: Want) -> (Result<Snapshot, Error>, Vec<Event>) {
    let events = RecordedEvents::default();
    let id = HubId::parse(id).expect("an id");
    let result = Hub::new(settings).snapshot(&id, want, &events, &CancelFlag::new());
    (result, events.take())
}

fn fetch(place: &Place, server: &HubServer) -> Result<Snapshot, Error> {
    fetch_with(place.settings(server), REPO, Want::Model).0
}

/// The error of a fetch, which never shows the token or a signed link.
#[track_caller]
fn failure(place: &Place, server: &HubServer) -> Error {
    let error = fetch(place, server).expect_err("a failure");
    let shown = format!("{error:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("signed-secret"), "{shown}");
    error
}

fn weights() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A model whose weights are only bytes.
fn server() -> HubServer {
    let file = |name: &str, contents: &[u8]| (name.to_owned(), contents.to_vec());
    HubServer::start([
        file("config.json", b"{\"model_type\": \"llama\"}"),
        file("tokenizer.json", b"{}"),
        file("README.md", b"# not needed"),
        file("pytorch_model.bin", b"not needed"),
        file("onnx/model.onnx", b"not needed"),
        file("model.safetensors", &weights()),
    ])
}

#[test]
fn only_what_is_read_is_fetched_into_the_layout_python_shares() {
    let (place, server) = (Place::new(), server());
    let (snapshot, events) = fetch_with(place.settings(&server), REPO, Want::Model);
    let snapshot = snapshot.expect("fetched");
    assert_eq!((snapshot.commit.as_str(), snapshot.checkpoint.name().as_str()), (COMMIT, "tiny"));
    let folder = place.model().join("snapshots").join(COMMIT);
    assert_eq!(snapshot.checkpoint.path(), folder);
    let names: Vec<_> = files_below(&folder).into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(snapshot.checkpoint.inputs(), names.iter().map(|name| folder.join(name)).collect::<Vec<_>>());
    for name in &names {
        let contents = &server.files()[name];
        let link = std::fs::read_link(folder.join(name)).expect("a link");
        assert_eq!(link, Path::new("../../blobs").join(etag(name, contents)));
        assert_eq!(&std::fs::read(place.blob(name, contents)).expect("a blob"), contents);
    }
    assert_eq!(std::fs::read_to_string(place.model().join("refs/main")).expect("a reference"), COMMIT);

    // The token is shown to the hub and to nobody else.
    let requests = server.requests();
    let bearer = Some(format!("Bearer {SECRET}"));
    assert!(requests.iter().all(|request| request.authorization == if request.host == "hub" { bearer.clone() } else { None }));
    assert!(requests.iter().any(|request| request.host == "store"));

    // Progress in megabytes, and what the network gave.
    let is_phase = |event: &Event| matches!(event, Event::PhaseStarted { total: Some(3), unit, .. } if unit == "MB");
    assert!(events.iter().any(is_phase), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::PhaseAdvanced { done: 3, .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Message { text, .. } if text.contains("MB/s"))), "{events:?}");

    // The second time only the branch is asked about, and a commit that is pinned stays what it was.
    fetch(&place, &server).expect("cached");
    assert_eq!(server.requests().len(), 1);
    for (name, contents) in files_below(place.0.path()) {
        assert!(!String::from_utf8_lossy(&contents).contains(SECRET), "the token lies in {}", name.display());
    }
}

#[test]
fn a_broken_connection_goes_on_where_it_stopped() {
    let (place, server) = (Place::new(), server());
    server.fail(Faults { break_after: vec![1_000_000, 500_000], ..Faults::default() });
    fetch(&place, &server).expect("fetched");
    let ranges: Vec<_> = server.requests().into_iter().filter(|request| request.host == "store").map(|r| r.range).collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-".to_owned()), Some("bytes=1500000-".to_owned())]);
    assert_eq!(std::fs::read(place.blob("model.safetensors", &weights())).expect("a blob"), weights());
}

#[test]
fn a_later_command_goes_on_where_an_earlier_one_gave_up() {
    let (place, server) = (Place::new(), server());
    server.fail(Faults { break_after: [1_000_000, 0, 0, 0, 0, 0].to_vec(), ..Faults::default() });
    let error = failure(&place, &server);
    assert!(error.message().contains("the connection broke while `model.safetensors` of `farm/tiny` was read"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("again to go on")));
    let incomplete = place.incomplete("model.safetensors", &weights());
    assert_eq!(std::fs::metadata(&incomplete).expect("kept").len(), 1_000_000);
    server.requests();
    server.fail(Faults::default());
    fetch(&place, &server).expect("fetched");
    let store = server.requests().into_iter().find(|request| request.host == "store").expect("asked");
    assert_eq!(store.range.as_deref(), Some("bytes=1000000-"));
    assert!(!incomplete.exists());
}

#[test]
fn a_server_that_knows_no_ranges_starts_again() {
    let (place, server) = (Place::new(), server());
    server.fail(Faults { break_after: vec![1_000_000], no_ranges: true, ..Faults::default() });
    fetch(&place, &server).expect("fetched");
    assert_eq!(std::fs::read(place.blob("model.safetensors", &weights())).expect("a blob"), weights());

    // What lies there is longer than the file: no beginning of it.
    let (place, server) = (Place::new(), self::server());
    let incomplete = place.incomplete("model.safetensors", &weights());
    std::fs::create_dir_all(incomplete.parent().expect("a folder")).expect("made");
    std::fs::write(&incomplete, vec![0; 4_000_000]).expect("written");
    fetch(&place, &server).expect("fetched");
    assert_eq!(std::fs::read(place.blob("model.safetensors", &weights())).expect("a blob"), weights());
}

#[test]
fn damaged_files_are_deleted_and_said() {
    let (place, server) = (Place::new(), server());
    server.fail(Faults { damage: true, ..Faults::default() });
    let error = failure(&place, &server);
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.message().contains("`model.safetensors` of `farm/tiny` arrived damaged"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("run the same command again")));
    assert!(!place.incomplete("model.safetensors", &weights()).exists());
    assert!(!place.blob("model.safetensors", &weights()).exists());
    server.fail(Faults::default());
    fetch(&place, &server).expect("fetched anew");
}

#[test]
fn a_busy_server_is_asked_again() {
    let (place, server) = (Place::new(), server());
    server.fail(Faults {
        hub_answers: vec![(503, ""), (429, ""), (500, "")],
        file_answers: vec![(502, "")],
        ..Faults::default()
    });
    fetch(&place, &server).expect("fetched in the end");

    let place = Place::new();
    server.fail(Faults { hub_answers: vec![(503, ""); 100], ..Faults::default() });
    server.requests();
    let error = failure(&place, &server);
    assert!(error.message().contains("out of order (503)") && error.is_retryable(), "{error}");
    assert_eq!(server.requests().len(), 5);
    server.fail(Faults { hub_answers: vec![(429, ""); 100], ..Faults::default() });
    assert!(failure(&place, &server).message().contains("fewer requests"));
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let (place, server) = (Place::new(), server());
    let refused = |answer: (u16, &'static str), id: &str, token: Option<Token>| {
        server.fail(Faults { hub_answers: vec![answer], ..Faults::default() });
        let (result, _) = fetch_with(HubSettings { token, ..place.settings(&server) }, id, Want::Model);
        let error = result.expect_err("refused");
        assert!(!format!("{error:?}").contains(SECRET));
        (error.message().to_owned(), error.hint().unwrap_or_default().to_owned())
    };
    let token = || Token::new(SECRET);
    let (message, hint) = refused((403, "GatedRepo"), REPO, token());
    assert!(
        message.contains("`farm/tiny` is gated") && hint.contains("accept them on") && hint.contains("HF_TOKEN"),
        "{message}\n{hint}"
    );
    let (message, hint) = refused((401, "RepoNotFound"), REPO, None);
    assert!(
        message.contains("no public model `farm/tiny`; nor is there a folder of that name") && hint.contains("HF_TOKEN"),
        "{message}"
    );
    let (message, hint) = refused((401, ""), REPO, token());
    assert!(message.contains("not to this token") && hint.contains("valid"), "{message}");
    let (message, hint) = refused((404, "RepoNotFound"), "farm/tyni", token());
    assert!(message.contains("no model `farm/tyni`") && hint.contains("/farm/tyni"), "{message}");
    let (message, hint) = refused((404, "RevisionNotFound"), "farm/tiny@v9", token());
    assert!(message.contains("`farm/tiny` has no revision `v9`") && hint.contains("commits"), "{message}");
    let (message, _) = refused((418, ""), REPO, token());
    assert!(message.contains("answers 418"), "{message}");

    server.fail(Faults::default());
    server.require("another");
    assert!(failure(&place, &server).message().contains("not to this token"));
}

#[test]
fn a_dead_or_silent_server_is_an_error_or_the_cache_takes_its_place() {
    let (place, server) = (Place::new(), server());
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    let at = |endpoint: &str, offline| HubSettings { endpoint: endpoint.to_owned(), offline, ..place.settings(&server) };
    let (result, _) = fetch_with(at(&dead, false), REPO, Want::Model);
    let error = result.expect_err("nobody there");
    assert!(error.message().contains(&format!("cannot reach `{dead}`")), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("HF_HUB_OFFLINE")));
    let (result, _) = fetch_with(at(&dead, true), REPO, Want::Model);
    let error = result.expect_err("not cached");
    assert!(error.message().contains("`HF_HUB_OFFLINE` is set: `farm/tiny` is not in the cache"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("farmhand checkpoint fetch")));

    fetch(&place, &server).expect("fetched");
    let (result, events) = fetch_with(at(&dead, false), REPO, Want::Model);
    assert_eq!(result.expect("cached").commit, COMMIT);
    let warned = |event: &Event| matches!(event, Event::Message { level, text } if level == "warning" && text.contains(COMMIT));
    assert!(events.iter().any(warned), "{events:?}");
    server.requests();
    for id in [REPO, &format!("{REPO}@{COMMIT}")] {
        assert_eq!(fetch_with(at(&server.endpoint, true), id, Want::Model).0.expect("cached").commit, COMMIT);
    }
    assert_eq!(server.requests().len(), 0, "offline nobody is asked");

    let other = Place::new();
    server.fail(Faults { silent: true, ..Faults::default() });
    let quick = HubSettings { silence: Duration::from_millis(50), ..other.settings(&server) };
    let error = fetch_with(quick, REPO, Want::Model).0.expect_err("silent");
    assert!(error.message().contains("it does not answer"), "{error}");
}

#[test]
fn a_full_disk_is_said_and_what_arrived_is_kept() {
    let (place, server) = (Place::new(), server());
    let incomplete = place.incomplete("model.safetensors", &weights());
    std::fs::create_dir_all(incomplete.parent().expect("a folder")).expect("made");
    std::os::unix::fs::symlink("/dev/full", &incomplete).expect("linked");
    let error = failure(&place, &server);
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.hint().is_some_and(|hint| hint.contains("the disk is full")), "{error}");
}

#[test]
fn several_files_of_weights_are_fetched_by_their_index() {
    let index = |shards: &str| format!("{{\"weight_map\": {shards}}}").into_bytes();
    let shards = r#"{"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}"#;
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("config.json".to_owned(), b"{}".to_vec()),
        ("model.safetensors.index.json".to_owned(), index(shards)),
        ("model-00001-of-00002.safetensors".to_owned(), b"one".to_vec()),
        ("model-00002-of-00002.safetensors".to_owned(), b"two".to_vec()),
        ("model-00001-of-00001-old.safetensors".to_owned(), b"not listed".to_vec()),
    ];
    let place = Place::new();
    let snapshot = fetch(&place, &HubServer::start(files.clone())).expect("fetched");
    assert_eq!(snapshot.checkpoint.inputs().len(), 4);

    files.remove(3);
    let error = failure(&Place::new(), &HubServer::start(files));
    assert!(error.message().contains("lists `model-00002-of-00002.safetensors`, which the hub does not have"), "{error}");

    let pickled = [("config.json".to_owned(), b"{}".to_vec()), ("pytorch_model.bin".to_owned(), b"pickle".to_vec())];
    let (place, server) = (Place::new(), HubServer::start(pickled));
    let error = failure(&place, &server);
    assert!(error.message().contains("only as `pytorch_model.bin`, a pickle"), "{error}");
    assert!(!server.requests().iter().any(|request| request.host == "store"), "refused before anything large is fetched");
    let any = fetch_with(place.settings(&server), REPO, Want::AnyWeights).0.expect("fetched");
    assert!(any.checkpoint.path().join("pytorch_model.bin").is_file());
}

#[test]
fn commands_take_ids_for_folders_and_stay_with_their_commit() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = HubServer::start(working_model(&dir.path().join("local")));
    let record = r#"{"instruction": "Feed an alpaca.", "output": "It eats 3 carrots."}"#;
    std::fs::write(dir.path().join("data.jsonl"), format!("{record}\n")).expect("written");
    let score = |model: &str, more: &[(&str, &str)]| {
        with_hub(dir.path(), &server, &["score", "--model", model, "--data", "data.jsonl", "-q"], more)
    };
    let local = score("local", &[]).expect_success().stdout;
    assert!(server.requests().is_empty(), "a folder is never looked for elsewhere");
    assert_eq!(score(REPO, &[]).expect_success().stdout, local);
    assert_eq!(score(&format!("hf:{REPO}@{COMMIT}"), &[("HF_HUB_OFFLINE", "1")]).expect_success().stdout, local);

    let generate = |out: &str| {
        let args = ["generate", "--model", REPO, "--data", "data.jsonl", "--out", out, "--max-new-tokens", "2"];
        with_hub(dir.path(), &server, &args, &[])
    };
    generate("answers").expect_success();
    let manifest = std::fs::read_to_string(dir.path().join("answers/manifest.json")).expect("a manifest");
    assert!(manifest.contains(&format!("\"{REPO}\": \"{COMMIT}\"")) && manifest.contains("model.safetensors"), "{manifest}");
    let outputs = std::fs::read_to_string(dir.path().join("answers/outputs.json")).expect("answers");
    assert!(outputs.contains("\"generator\": \"tiny\"") || outputs.contains("\"generator\":\"tiny\""), "{outputs}");

    // `main` moves on; what was made stays with its commit, something new takes the new one.
    let newer = "fedcba9876543210fedcba9876543210fedcba98";
    server.push(newer, "generation_config.json", b"{\"eos_token_id\": 0}");
    assert!(generate("answers").expect_success().stderr.contains("done before"));
    generate("others").expect_success();
    let manifest = std::fs::read_to_string(dir.path().join("others/manifest.json")).expect("a manifest");
    assert!(manifest.contains(newer), "{manifest}");

    for (name, contents) in files_below(dir.path()) {
        assert!(!String::from_utf8_lossy(&contents).contains(SECRET), "the token lies in {}", name.display());
    }
}

#[test]
fn slips_in_a_path_do_not_ask_the_hub() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = HubServer::start(working_model(&dir.path().join("runs/my-sft")));
    std::fs::write(dir.path().join("data.jsonl"), "{}").expect("written");
    let score = |model: &str| with_hub(dir.path(), &server, &["score", "--model", model, "--data", "data.jsonl"], &[]);
    score("runs/my-stf").expect_error(&["there is no model folder", "runs/my-stf"], Some("did you mean `runs/my-sft`?"));
    score("tiny").expect_error(&["there is no model folder"], Some("`hf:tiny`"));
    assert!(server.requests().is_empty());
    score("farm/tyni").expect_error(&["no model `farm/tyni`", "nor is there a folder of that name"], None);
}

#[test]
fn an_experiment_writes_down_the_commit() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = HubServer::start(working_model(&dir.path().join("local")));
    let config = format!(
        "name = \"hubbed\"\nthreads = 1\nmodel.pretrained.path = \"{REPO}\"\n\
         [data]\nsynthetic = 40\nsplit = {{ sft = 8, preference = 8, unlabeled = 4, val = 4, eval = 4 }}\n\
         [sample]\nsampling = {{ n = 2, max_new_tokens = 3 }}\n\
         [annotator.pool]\n\
         [methods.best.policy.best_of_n]\nn = 2\nreward_model = {{ length = {{}} }}\n\
         [methods.inside.learner.iterative]\nrounds = 1\ninstructions_per_round = 4\ntemperatures = []\n\
         sampling = {{ n = 2, max_new_tokens = 3 }}\nscorer.own.length = {{}}\npolicy.causal_lm.model = \"{REPO}\"\n\
         [generate]\nsampling = {{ max_new_tokens = 3 }}\n"
    );
    std::fs::write(dir.path().join("hubbed.toml"), config).expect("written");
    let plan = with_hub(dir.path(), &server, &["run", "hubbed.toml", "--dry-run"], &[]).expect_success().stdout;
    assert!(plan.contains("generate-best"), "{plan}");
    assert!(!server.requests().iter().any(|request| request.host == "store"), "a plan fetches no weights");
    with_hub(dir.path(), &server, &["run", "hubbed.toml"], &[]).expect_success();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("runs/hubbed").join(name)).expect("readable");
    assert!(read("run.toml").contains(&format!("path = \"hf:{REPO}@{COMMIT}\"")), "{}", read("run.toml"));
    assert!(read("manifest.json").contains(&format!("\"{REPO}\": \"{COMMIT}\"")));
    assert!(run_dir_has(&dir.path().join("runs/hubbed/learn-inside"), "model.safetensors"), "a model named inside a learner");
    server.push("fedcba9876543210fedcba9876543210fedcba98", "generation_config.json", b"{}");
    server.requests();
    let again = with_hub(dir.path(), &server, &["run", "hubbed.toml"], &[]).expect_success();
    assert!(again.stderr.contains("report: done before"), "{}", again.stderr);
    assert!(server.requests().is_empty(), "a run that has begun needs no network");
}

fn run_dir_has(dir: &Path, name: &str) -> bool {
    files_below(dir).iter().any(|(path, _)| path.ends_with(name))
}
