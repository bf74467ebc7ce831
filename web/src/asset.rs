//! The files of the pages: part of the program, so that nothing is fetched from anywhere.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

/// A route that answers with a file. The kind follows the name's ending.
pub(crate) fn asset<S: Clone + Send + Sync + 'static>(name: &'static str, text: &'static str) -> MethodRouter<S> {
    get(move || async move { page(name, text) })
}

/// A file as an answer.
pub(crate) fn page(name: &str, text: &'static str) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// The style that all pages share.
pub(crate) const STYLE: &str = include_str!("page/style.css");

/// Building elements from checked parts, for all pages.
pub(crate) const ELEMENTS: &str = include_str!("page/elements.js");
