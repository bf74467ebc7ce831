//! From comparisons to annotations: which are shown on which sheet and in which order, and what becomes of the replies.

use std::collections::{BTreeMap, HashSet};

use farmhand_core::types::{Annotation, Comparison, Judging, Preference, ShownOrder};
use farmhand_core::{Error, ErrorKind, Forecast, Result, RunContext};
use serde_json::Value;

use crate::order_swap::turn_back;

use super::ask::{Asker, Question, Reading, Said};
use super::parsers::{Reply, Unreadable};

/// One prompt: which comparisons it shows. Places beyond them hold padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sheet {
    /// The comparisons, by their index.
    pub(crate) members: Vec<usize>,
    /// Verdicts that are asked for, those on padding included.
    pub(crate) n_places: usize,
}

/// What was read for one comparison, about the answers in the order in which they were shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) preference: Preference,
    pub(crate) scores: Option<[f64; 2]>,
    pub(crate) notes: BTreeMap<String, Value>,
}

impl From<Preference> for Verdict {
    fn from(preference: Preference) -> Self {
        Self { preference, scores: None, notes: BTreeMap::new() }
    }
}

/// What is read from a reply: a verdict for each place of its sheet, or why there is none.
pub(crate) type Verdicts = Result<Vec<Result<Verdict, Unreadable>>, Unreadable>;

/// What a judge adds to the loop that asks.
pub(crate) trait Interview: Sync {
    /// The name that its annotations carry.
    fn id(&self) -> &str;
    /// Whether the second answer of this comparison is shown first.
    fn is_switched(&self, _comparison: &Comparison, _ctx: &RunContext<'_>) -> bool {
        false
    }
    /// The question of a sheet, and the seed that tells its sample apart. `shown` are its comparisons, in the order of the
    /// sheet, each with the answers in the order to be shown.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(&self, shown: &[Comparison], sheet: &Sheet, ctx: &RunContext<'_>) -> Result<(Question, u64)>;
    /// What a reply says about the places of its sheet.
    fn read(&self, reply: Reply<'_>, sheet: &Sheet) -> Verdicts;
    /// Changes what came of a comparison once it is known, in the comparison's own order.
    fn finish(&self, annotation: Annotation) -> Annotation {
        annotation
    }
}

/// Judges comparisons, each on one of the sheets.
pub(crate) async fn judge(
    interview: &dyn Interview,
    asker: &Asker,
    comparisons: &[Comparison],
    sheets: &[Sheet],
    ctx: &RunContext<'_>,
) -> Vec<Result<Annotation>> {
    let switched: Vec<bool> = comparisons.iter().map(|comparison| interview.is_switched(comparison, ctx)).collect();
    let show = |i: &usize| if switched[*i] { comparisons[*i].swapped() } else { comparisons[*i].clone() };
    let write = |nth: usize| {
        let shown: Vec<Comparison> = sheets[nth].members.iter().map(show).collect();
        interview.write(&shown, &sheets[nth], ctx)
    };
    let read = |nth: usize, said: Result<Said>| {
        let order = |i: &usize| if switched[*i] { ShownOrder::Swapped } else { ShownOrder::AsGiven };
        let orders: Vec<ShownOrder> = sheets[nth].members.iter().map(order).collect();
        annotations(interview, said, &sheets[nth], &orders)
    };
    let read = asker.ask(sheets.len(), write, read, ctx).await;
    let mut results: Vec<Option<Result<Annotation>>> = comparisons.iter().map(|_| None).collect();
    for (sheet, annotations) in sheets.iter().zip(read) {
        for (i, annotation) in sheet.members.iter().zip(annotations) {
            results[*i] = Some(annotation);
        }
    }
    let unasked = || Err(Error::broken_contract(format!("judge `{}` showed a comparison on no sheet", interview.id())));
    results.into_iter().map(|result| result.unwrap_or_else(unasked)).collect()
}

/// What judging comparisons, each on one of the sheets, would take. A sheet that cannot be written is not asked.
pub(crate) fn forecast(
    interview: &dyn Interview,
    asker: &Asker,
    comparisons: &[Comparison],
    sheets: &[Sheet],
    ctx: &RunContext<'_>,
) -> Result<Forecast> {
    let show = |i: &usize| match interview.is_switched(&comparisons[*i], ctx) {
        true => comparisons[*i].swapped(),
        false => comparisons[*i].clone(),
    };
    let mut forecast = Forecast { n_comparisons: comparisons.len(), ..Forecast::default() };
    let mut seen = HashSet::new();
    for sheet in sheets {
        let shown: Vec<Comparison> = sheet.members.iter().map(show).collect();
        match interview.write(&shown, sheet, ctx) {
            Ok(question) => {
                let orders = vec![ShownOrder::AsGiven; shown.len()];
                let is_unreadable = |said| annotations(interview, said, sheet, &orders).n_unreadable() > 0;
                asker.foretell(&question, shown.len(), is_unreadable, &mut seen, &mut forecast)?;
            }
            Err(_) => forecast.n_settled += shown.len(),
        }
    }
    Ok(forecast)
}

/// One result for each member of a sheet. Cost and time of a reply are shared out evenly.
fn annotations(interview: &dyn Interview, said: Result<Said>, sheet: &Sheet, orders: &[ShownOrder]) -> Vec<Result<Annotation>> {
    let share = |total: Option<f64>| total.map(|total| total / sheet.members.len() as f64);
    let said = match said {
        Ok(said) => said,
        Err(error) => return orders.iter().map(|order| Err(failed(interview.id(), &error, *order, &share))).collect(),
    };
    let reply = Reply::of(&said.answer);
    let raw = raw(&said, reply);
    let known = |order: ShownOrder| Judging {
        annotator: Some(interview.id().to_owned()),
        shown: Some(order),
        raw: Some(raw.clone()),
        cost_usd: share(said.cost_usd),
        time_secs: share(said.time_secs),
        cached: said.cached,
    };
    let unread = |unreadable: Unreadable, order| Error::from(unreadable).with_judging(known(order));
    let verdicts = match interview.read(reply, sheet) {
        Ok(verdicts) => verdicts,
        Err(unreadable) => return orders.iter().map(|order| Err(unread(unreadable.clone(), *order))).collect(),
    };
    let annotation = |(verdict, order): (Result<Verdict, Unreadable>, &ShownOrder)| {
        let Verdict { preference, scores, notes } = verdict.map_err(|unreadable| unread(unreadable, *order))?;
        let annotation = Annotation {
            raw: Some(raw.clone()),
            scores,
            notes,
            cost_usd: share(said.cost_usd),
            time_secs: share(said.time_secs),
            cached: said.cached,
            ..Annotation::new(interview.id(), preference)
        };
        let turned = if *order == ShownOrder::Swapped { turn_back(annotation) } else { annotation };
        Ok(interview.finish(turned))
    };
    verdicts.into_iter().zip(orders).map(annotation).collect()
}

/// A failure as the member of a sheet has it.
fn failed(id: &str, error: &Error, order: ShownOrder, share: &dyn Fn(Option<f64>) -> Option<f64>) -> Error {
    let copy = error.copy();
    if copy.is_cancelled() {
        return copy;
    }
    let was_shown = error.kind() == ErrorKind::RefusedAnswer || error.judging().is_some();
    copy.map_judging(|known| Judging {
        annotator: Some(id.to_owned()),
        shown: was_shown.then_some(order),
        cost_usd: share(known.cost_usd),
        time_secs: share(known.time_secs),
        ..known
    })
}

/// What the judge said, as it is kept with the verdict: the text that was read, or the likelihoods where those were.
fn raw(said: &Said, reply: Reply<'_>) -> String {
    match &said.answer.log_probs {
        Some(tokens) if tokens.len() == 1 => {
            let alternatives = &tokens[0].alternatives;
            serde_json::json!({ "text": reply.text, "top_logprobs": alternatives }).to_string()
        }
        _ => reply.text.to_owned(),
    }
}
