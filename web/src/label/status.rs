//! What the operator sees: progress, agreement, every rater's figures, comments. Raters see none of it.

use serde_json::{Value, json};

use super::agreement::{agreement, rater_figures};
use super::desk::Desk;

/// Comments shown, latest first.
const N_COMMENTS: usize = 30;

/// The span over which the pace is measured, in seconds.
const PACE_SECS: f64 = 900.0;

/// Everything that does not depend on the hour.
fn summary(desk: &Desk) -> Value {
    let (n_done, n_wanted) = desk.totals();
    let items = desk.items.all();
    let n_gold = items.iter().filter(|item| item.gold.is_some()).count();
    json!({
        "n_items": items.len() - n_gold,
        "n_gold": n_gold,
        "overlap": desk.options.overlap,
        "n_done": n_done,
        "n_wanted": n_wanted,
        "n_labels": desk.book.n_live(),
        "agreement": agreement(&desk.book, items.len()),
        "raters": rater_figures(&desk.book, &desk.items),
    })
}

/// The summary as a file.
pub(crate) fn summary_json(desk: &Desk) -> String {
    format!("{:#}\n", summary(desk))
}

/// The summary with the pace and the latest comments; `now` in seconds since 1970.
pub(crate) fn live(desk: &Desk, now: f64) -> Value {
    let mut value = summary(desk);
    let of_rater = |page: &super::book::RaterPage| {
        page.live.iter().rev().take_while(|index| desk.book.label(**index).time > now - PACE_SECS).count()
    };
    let n_lately: usize = desk.book.raters().values().map(of_rater).sum();
    value["per_hour"] = json!(n_lately as f64 * 3600.0 / PACE_SECS);
    value["now"] = json!(now);
    value["comments"] = comments(desk);
    value
}

fn comments(desk: &Desk) -> Value {
    let live = desk.book.raters().values().flat_map(|page| &page.live);
    let mut indices: Vec<usize> = live.copied().filter(|index| desk.book.label(*index).comment.is_some()).collect();
    indices.sort_unstable_by(|a, b| b.cmp(a));
    let shown = |index: usize| {
        let label = desk.book.label(index);
        let instruction = desk.items.with_id(&label.item).map(|place| &desk.items.at(place).comparison.instruction.instruction);
        let words: String = instruction.map(|text| text.chars().take(80).collect()).unwrap_or_default();
        json!({ "rater": label.rater, "comment": label.comment, "about": words })
    };
    indices.into_iter().take(N_COMMENTS).map(shown).collect()
}
