//! What browsers may ask of a labelling.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use farmhand_core::types::ShownOrder;
use farmhand_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::{Desk, Next};
use super::export::{self, FILES};
use super::journal::{Choice, Label, Verdict};
use super::rater::{MAX_NAME, rater_name};
use super::status;
use crate::asset::{ELEMENTS, STYLE, asset};
use crate::markdown;
use crate::refusal::Refusal;

/// Characters of a comment at most.
const MAX_COMMENT: usize = 4000;

/// The longest time on one item that is believed, in seconds.
const MAX_SECS: f64 = 86_400.0;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) desk: Mutex<Desk>,
    pub(crate) out: PathBuf,
    pub(crate) rater_path: String,
}

type Reply = Result<Json<Value>, Refusal>;

/// The pages of raters and operator, each below its secret.
pub(crate) fn routes(shared: &Arc<Shared>, raters: &str, operator: &str) -> Router {
    let rater_pages = Router::new()
        .route("/", asset("label.html", include_str!("page/label.html")))
        .route("/label.js", asset("label.js", include_str!("page/label.js")))
        .route("/style.css", asset("style.css", STYLE))
        .route("/elements.js", asset("elements.js", ELEMENTS))
        .route("/api/setup", get(setup))
        .route("/api/next", post(next))
        .route("/api/label", post(label))
        .route("/api/undo", post(undo))
        .route("/api/hold", post(hold));
    let operator_pages = Router::new()
        .route("/", asset("status.html", include_str!("page/status.html")))
        .route("/status.js", asset("status.js", include_str!("page/status.js")))
        .route("/style.css", asset("style.css", STYLE))
        .route("/elements.js", asset("elements.js", ELEMENTS))
        .route("/api/status", get(live_status))
        .route("/files/{name}", get(file));
    let with_slash = |secret: &str| {
        let path = format!("/{secret}/");
        get(move || async move { Redirect::permanent(&path) })
    };
    Router::new()
        .route(&format!("/{raters}"), with_slash(raters))
        .route(&format!("/{operator}"), with_slash(operator))
        .nest(&format!("/{raters}/"), rater_pages)
        .nest(&format!("/{operator}/"), operator_pages)
        .with_state(shared.clone())
}

/// Works on the desk, apart from the threads that answer others: it waits for the disk.
async fn at_desk<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&mut Desk, &Shared) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let shared = shared.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut desk = shared.desk.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut desk, &shared)
    });
    done.await.map_err(|error| Refusal::from(Error::other("a request failed").with_source(error)))?
}

fn seconds_now() -> f64 {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    (secs * 1000.0).round() / 1000.0
}

async fn setup(State(shared): State<Arc<Shared>>) -> Reply {
    at_desk(&shared, |desk, _| {
        let rubric = &desk.options.rubric;
        Ok(Json(json!({
            "guidance": rubric.guidance.as_deref().map(markdown::read),
            "question": rubric.question,
            "attributes": rubric.attributes,
            "max_name": MAX_NAME,
            "max_comment": MAX_COMMENT,
        })))
    })
    .await
}

#[derive(Deserialize)]
struct Asked {
    rater: String,
}

async fn next(State(shared): State<Arc<Shared>>, Json(asked): Json<Asked>) -> Reply {
    let rater = rater_name(&asked.rater)?;
    at_desk(&shared, move |desk, _| Ok(Json(what_next(desk, &rater)))).await
}

/// What the page shows next.
fn what_next(desk: &mut Desk, rater: &str) -> Value {
    let found = desk.next(rater, Instant::now());
    let progress = desk.progress(rater);
    let mut value = json!({
        "rater": rater,
        "done": progress.done,
        "left": progress.left,
        "can_undo": !desk.book.of_rater(rater).is_empty(),
    });
    match found {
        Next::Item { place, was } => {
            value["state"] = json!("item");
            value["item"] = shown_item(desk, rater, place, was);
        }
        Next::Wait => value["state"] = json!("wait"),
        Next::Done => value["state"] = json!("done"),
    }
    value
}

/// An item as a browser gets it: the two answers left and right, without a word of who gave them.
fn shown_item(desk: &Desk, rater: &str, place: usize, was: Option<usize>) -> Value {
    let item = desk.items.at(place);
    let comparison = &item.comparison;
    let instruction = &comparison.instruction;
    let shown = desk.shown(rater, item);
    let [left, right] = match shown {
        ShownOrder::AsGiven => [&comparison.output_1, &comparison.output_2],
        ShownOrder::Swapped => [&comparison.output_2, &comparison.output_1],
    };
    let turn = |message: &farmhand_core::types::Message| json!({ "role": message.role.name(), "text": markdown::read(&message.content) });
    json!({
        "item": item.handle,
        "history": instruction.history.iter().map(turn).collect::<Vec<_>>(),
        "instruction": markdown::read(&instruction.instruction),
        "input": instruction.input.as_deref().map(markdown::read),
        "left": markdown::read(left),
        "right": markdown::read(right),
        "was": was.map(|index| earlier_answer(desk.book.label(index))),
    })
}

fn earlier_answer(label: &Label) -> Value {
    let [first, second] = &label.ratings;
    let (left, right) = if label.shown == ShownOrder::Swapped { (second, first) } else { (first, second) };
    json!({
        "choice": Choice::of(label.verdict, label.shown),
        "comment": label.comment,
        "ratings": { "left": left, "right": right },
    })
}

/// A click on an answer.
#[derive(Deserialize)]
struct Clicked {
    click: String,
    rater: String,
    item: String,
    choice: Choice,
    #[serde(default)]
    ratings: SideRatings,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    secs: f64,
}

#[derive(Default, Deserialize)]
struct SideRatings {
    #[serde(default)]
    left: BTreeMap<String, f64>,
    #[serde(default)]
    right: BTreeMap<String, f64>,
}

/// The id of a click, as the page makes it.
fn click_id(click: String) -> Result<String, Refusal> {
    let is_id = (16..=64).contains(&click.len()) && click.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_id { Ok(click) } else { Err(Refusal::bad("a click has an id of 16 to 64 letters and digits")) }
}

async fn label(State(shared): State<Arc<Shared>>, Json(clicked): Json<Clicked>) -> Reply {
    let rater = rater_name(&clicked.rater)?;
    let click = click_id(clicked.click)?;
    let comment = clicked.comment.trim().to_owned();
    if comment.chars().count() > MAX_COMMENT {
        return Err(Refusal::bad(format!("a comment has at most {MAX_COMMENT} characters")));
    }
    at_desk(&shared, move |desk, _| {
        let place = desk.items.with_handle(&clicked.item);
        let item = place
            .map(|place| desk.items.at(place))
            .ok_or_else(|| Refusal::missing("this question is not in the data any more; reload the page"))?;
        let shown = desk.shown(&rater, item);
        let SideRatings { left, right } = clicked.ratings;
        let verdict = clicked.choice.verdict(shown);
        for (given, side) in [(&left, "answer 1"), (&right, "answer 2")] {
            desk.options.rubric.check(given, side, verdict != Verdict::Skipped).map_err(Refusal::bad)?;
        }
        let label = Label {
            click,
            rater: rater.clone(),
            item: item.comparison.id.clone(),
            shown,
            verdict,
            ratings: if shown == ShownOrder::Swapped { [right, left] } else { [left, right] },
            comment: (!comment.is_empty()).then_some(comment),
            time_secs: if clicked.secs.is_finite() { clicked.secs.clamp(0.0, MAX_SECS) } else { 0.0 },
            time: seconds_now(),
        };
        desk.label(label)?;
        Ok(Json(what_next(desk, &rater)))
    })
    .await
}

#[derive(Deserialize)]
struct Undo {
    click: String,
    rater: String,
}

async fn undo(State(shared): State<Arc<Shared>>, Json(undo): Json<Undo>) -> Reply {
    let (rater, click) = (rater_name(&undo.rater)?, click_id(undo.click)?);
    at_desk(&shared, move |desk, _| {
        desk.undo(click, &rater, seconds_now(), Instant::now())?;
        Ok(Json(what_next(desk, &rater)))
    })
    .await
}

async fn hold(State(shared): State<Arc<Shared>>, Json(asked): Json<Asked>) -> Reply {
    let rater = rater_name(&asked.rater)?;
    at_desk(&shared, move |desk, _| {
        desk.hold(&rater, Instant::now());
        Ok(Json(json!({})))
    })
    .await
}

async fn live_status(State(shared): State<Arc<Shared>>) -> Reply {
    at_desk(&shared, |desk, shared| {
        let mut value = status::live(desk, seconds_now());
        value["rater_path"] = json!(shared.rater_path);
        value["files"] = FILES.iter().map(|(name, what)| json!({ "name": name, "what": what })).collect();
        Ok(Json(value))
    })
    .await
}

/// One of the files, made anew.
async fn file(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let Some((known, _)) = FILES.into_iter().find(|(known, _)| *known == name) else {
        return Err(Refusal::missing(format!("there is no file `{name}`")));
    };
    let bytes = at_desk(&shared, move |desk, shared| {
        let path = shared.out.join(known);
        if !export::write_all(desk, &shared.out)?.contains(&path) {
            return Err(Refusal::missing(format!("the labels so far give no `{known}`")));
        }
        std::fs::read(&path).map_err(|error| Error::io("read", &path, error).into())
    })
    .await?;
    let kind = if known.ends_with(".csv") { "text/csv; charset=utf-8" } else { "application/json" };
    let name = format!("attachment; filename=\"{known}\"");
    Ok(([(CONTENT_TYPE, kind.to_owned()), (CONTENT_DISPOSITION, name)], bytes).into_response())
}
