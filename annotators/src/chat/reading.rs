//! What a reward model does with replies: one that cannot be read ends the scoring, and what all of them cost is told.

use farmhand_core::types::Judging;
use farmhand_core::{Error, Result, RunContext};
use farmhand_endpoints::Answer;

use super::ask::Said;
use super::parsers::{Reply, Unreadable};

/// What is read from a reply; where nothing can be, an error that says what the judge said.
pub(super) fn read_or_fail<T>(said: Result<Said>, read: impl FnOnce(&Answer) -> Result<T, Unreadable>) -> Result<T> {
    let said = said?;
    read(&said.answer).map_err(|unreadable| {
        let raw = Some(Reply::of(&said.answer).text.to_owned());
        let known =
            Judging { raw, cost_usd: said.cost_usd, time_secs: said.time_secs, cached: said.cached, ..Judging::default() };
        Error::from(unreadable).with_judging(known).with_hint(
            "a model that cannot keep to the form may do with `format = \"json_schema\"`; a temperature above 0 gives it \
             another try with another seed",
        )
    })
}

/// Tells what replies cost, in US dollars, where that is known.
pub(super) fn spend(costs: impl Iterator<Item = f64>, ctx: &RunContext<'_>) {
    let total: f64 = costs.sum();
    if total > 0.0 {
        ctx.events.info(&format!("  the judge's scores cost ${total:.4}"));
    }
}
