//! What a browser may ask about runs. All of it is reading.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};
use farmhand_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::folder::{RunsFolder, is_running};
use super::line_index::{Kind, LineIndices};
use super::samples::PageOf;
use super::{compare, events, leaderboard, samples, stages};
use crate::asset::{ELEMENTS, STYLE, asset};
use crate::refusal::Refusal;

/// Entries of a page at most.
const MAX_ENTRIES: usize = 50;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) runs: RunsFolder,
    pub(crate) indices: LineIndices,
}

type Reply = Result<Json<Value>, Refusal>;

pub(crate) fn routes(shared: &Arc<Shared>, secret: &str) -> Router {
    let pages = Router::new()
        .route("/", asset("runs.html", include_str!("page/runs.html")))
        .route("/runs.js", asset("runs.js", include_str!("page/runs.js")))
        .route("/curves.js", asset("curves.js", include_str!("page/curves.js")))
        .route("/samples.js", asset("samples.js", include_str!("page/samples.js")))
        .route("/style.css", asset("style.css", STYLE))
        .route("/elements.js", asset("elements.js", ELEMENTS))
        .route("/api/runs", get(runs))
        .route("/api/run", get(run))
        .route("/api/config", get(config))
        .route("/api/events", get(tail))
        .route("/api/samples", get(side_by_side))
        .route("/api/judgements", get(judgements))
        .route("/api/compare", get(compared));
    let path = format!("/{secret}/");
    Router::new()
        .route(
            &format!("/{secret}"),
            get({
                let path = path.clone();
                move || async move { Redirect::permanent(&path) }
            }),
        )
        .nest(&path, pages)
        .with_state(shared.clone())
}

/// Reads files, apart from the threads that answer others.
async fn reading(shared: Arc<Shared>, work: impl FnOnce(&Shared) -> Result<Value, Refusal> + Send + 'static) -> Reply {
    let done = tokio::task::spawn_blocking(move || work(&shared));
    done.await.map_err(|error| Refusal::from(Error::other("a request failed").with_source(error)))?.map(Json)
}

async fn runs(State(shared): State<Arc<Shared>>) -> Reply {
    reading(shared, |shared| Ok(json!({ "folder": shared.runs.path(), "runs": shared.runs.list() }))).await
}

#[derive(Deserialize)]
struct OfRun {
    run: String,
}

async fn run(State(shared): State<Arc<Shared>>, Query(asked): Query<OfRun>) -> Reply {
    reading(shared, move |shared| {
        let path = shared.runs.find(&asked.run)?;
        let (stages, problem) = stages::stages(&path);
        Ok(json!({
            "name": asked.run,
            "is_running": is_running(&path),
            "stages": stages,
            "problem": problem,
            "leaderboard": leaderboard::rows(&path),
        }))
    })
    .await
}

async fn config(State(shared): State<Arc<Shared>>, Query(asked): Query<OfRun>) -> Reply {
    reading(shared, move |shared| {
        let path = shared.runs.find(&asked.run)?;
        Ok(json!({ "config": std::fs::read_to_string(path.join("run.toml")).ok() }))
    })
    .await
}

#[derive(Deserialize)]
struct Since {
    run: String,
    #[serde(default)]
    from: u64,
}

async fn tail(State(shared): State<Arc<Shared>>, Query(asked): Query<Since>) -> Reply {
    reading(shared, move |shared| {
        let tail = events::read_tail(&shared.runs.find(&asked.run)?.join("events.jsonl"), asked.from)?;
        Ok(json!(tail))
    })
    .await
}

#[derive(Deserialize)]
struct Paged {
    run: String,
    #[serde(default)]
    stage: String,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    from: usize,
    n: usize,
}

impl Paged {
    fn page(&self) -> PageOf {
        PageOf { from: self.from, n: self.n.min(MAX_ENTRIES) }
    }
}

async fn side_by_side(State(shared): State<Arc<Shared>>, Query(asked): Query<Paged>) -> Reply {
    reading(shared, move |shared| {
        let run = shared.runs.find(&asked.run)?;
        Ok(samples::side_by_side(&run, &shared.indices, asked.page())?)
    })
    .await
}

async fn judgements(State(shared): State<Arc<Shared>>, Query(asked): Query<Paged>) -> Reply {
    reading(shared, move |shared| {
        let run = shared.runs.find(&asked.run)?;
        let file = stage_folder(run, &asked.stage)?.join("judgements.jsonl");
        Ok(samples::judgements(&file, &shared.indices, asked.kind, asked.page())?)
    })
    .await
}

/// The folder of a stage that is there; a name that leads elsewhere is none.
fn stage_folder(run: PathBuf, stage: &str) -> Result<PathBuf, Refusal> {
    let is_there = stages::stages(&run).0.iter().any(|known| known.name == stage);
    if is_there { Ok(run.join(stage)) } else { Err(Refusal::missing(format!("there is no stage `{stage}`"))) }
}

#[derive(Deserialize)]
struct Two {
    a: String,
    b: String,
}

async fn compared(State(shared): State<Arc<Shared>>, Query(asked): Query<Two>) -> Reply {
    reading(shared, move |shared| {
        let (a, b) = (shared.runs.find(&asked.a)?, shared.runs.find(&asked.b)?);
        Ok(compare::compare(&a, &b))
    })
    .await
}
