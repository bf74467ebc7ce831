//! People judge pairs of answers in a browser.
//!
//! The folder that [`LabelOptions::out`] names holds `journal.jsonl`, to which every click is appended and synced before the
//! browser hears of it, `access.json` with the secrets of the two addresses, and what is made of the journal:
//! `judgements.jsonl`, `annotations.json`, `labels.csv`, `ratings.jsonl`, `summary.json`. A server that is killed at any
//! moment loses at most the click that it had not acknowledged, and the page sends that one again.

mod agreement;
mod book;
mod desk;
mod export;
mod items;
mod journal;
mod rater;
mod routes;
mod rubric;
mod session;
mod status;

pub use session::{LabelOptions, LabelSession, LabelSummary, LabelUrls};
