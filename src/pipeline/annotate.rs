//! Judgements: comparisons and an annotator to `judgements.jsonl`, and the preference pairs they stand for.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use farmhand_core::run::chunked_side_by_side;
use farmhand_core::types::{Comparison, Judgement, Outcome, Preference, PreferencePair};
use farmhand_core::{Annotator, Error, Result, RunContext, checked};
use serde::{Deserialize, Serialize};

/// Comparisons judged between two writes of the journal.
const CHUNK: usize = 128;

/// Chunks under way at a time: as many comparisons as the most patient server takes requests, and one that is slow to answer
/// holds up its own chunk alone.
const AT_A_TIME: usize = 16;

/// What came of a set of comparisons. A failure, a tie and a cache hit are three different things.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnnotationSummary {
    /// Comparisons.
    pub n_comparisons: usize,
    /// Verdicts for the first answer.
    pub n_first: usize,
    /// Verdicts for the second answer.
    pub n_second: usize,
    /// Ties.
    pub n_ties: usize,
    /// Comparisons without a verdict.
    pub n_failed: usize,
    /// Verdicts that came from a cache.
    pub n_cached: usize,
    /// Verdicts that label noise replaced.
    pub n_noised: usize,
    /// Comparisons that occurred before among these; they have what came of the first and cost nothing.
    #[serde(default)]
    pub n_repeated: usize,
    /// What the verdicts and failures cost, in US dollars.
    pub cost_usd: f64,
}

impl AnnotationSummary {
    /// Counts what came of `judgements`.
    pub fn of(judgements: &[Judgement]) -> Self {
        let mut summary = Self { n_comparisons: judgements.len(), ..Self::default() };
        let mut seen = HashSet::new();
        for judgement in judgements {
            let is_repeated = !seen.insert(&judgement.comparison.id);
            summary.n_repeated += usize::from(is_repeated);
            let annotation = match &judgement.outcome {
                Outcome::Annotation(annotation) => annotation,
                Outcome::Failure(failure) => {
                    summary.n_failed += 1;
                    summary.cost_usd += failure.judging.cost_usd.unwrap_or(0.0);
                    continue;
                }
            };
            match annotation.preference {
                Preference::Tie => summary.n_ties += 1,
                preference if preference.p_second() > 0.5 => summary.n_second += 1,
                _ => summary.n_first += 1,
            }
            summary.n_cached += usize::from(annotation.cached && !is_repeated);
            summary.n_noised += usize::from(annotation.noised);
            summary.cost_usd += annotation.cost_usd.unwrap_or(0.0);
        }
        summary
    }
}

/// Judges every comparison, one that occurs several times once, and writes `judgements.jsonl` and `summary.json`.
///
/// # Errors
/// When every comparison failed, on cancellation, or when the disk refuses; verdicts so far are kept.
pub fn annotate(annotator: &dyn Annotator, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Vec<Judgement>> {
    let (distinct, places) = distinct(comparisons);
    let progress = Mutex::new(ctx.progress("annotating", Some(distinct.len() as u64), "comparisons"));
    let progress_ = &progress;
    let judge = |chunk| async move {
        let judged = checked::annotate(annotator, chunk, ctx).await?;
        progress_.lock().unwrap_or_else(PoisonError::into_inner).advance(chunk.len() as u64);
        Ok(judged)
    };
    let judged = ctx.block_on(chunked_side_by_side(&distinct, (CHUNK, AT_A_TIME), "judged-chunks.jsonl", ctx, judge))?;
    drop(progress);
    let judgements = if places.is_empty() { judged } else { repeated(comparisons, &judged, &places) };
    let summary = AnnotationSummary::of(&judgements);
    if summary.n_failed > 0 {
        let first = judgements.iter().find_map(|judgement| match &judgement.outcome {
            Outcome::Failure(failure) => Some(failure),
            Outcome::Annotation(_) => None,
        });
        let (kind, reason) = first.map_or(("other", ""), |failure| (failure.kind.label(), failure.message.as_str()));
        if summary.n_failed == summary.n_comparisons {
            return Err(Error::other(format!("all {} comparisons failed; the first: {reason} ({kind})", summary.n_failed)));
        }
        ctx.events.warn(&format!(
            "{} of {} comparisons have no verdict; the first: {reason} ({kind})",
            summary.n_failed, summary.n_comparisons
        ));
    }
    ctx.stage.write_jsonl("judgements.jsonl", &judgements)?;
    ctx.stage.write_jsonl("summary.json", std::slice::from_ref(&summary))?;
    Ok(judgements)
}

/// The comparisons without those that occur a second time, and for each of all its place among them. No places when every
/// comparison is there once.
fn distinct(comparisons: &[Comparison]) -> (Cow<'_, [Comparison]>, Vec<usize>) {
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    let (mut firsts, mut places) = (Vec::new(), Vec::new());
    for (i, comparison) in comparisons.iter().enumerate() {
        let place = *place_of.entry(&comparison.id).or_insert(firsts.len());
        if place == firsts.len() {
            firsts.push(i);
        }
        places.push(place);
    }
    if firsts.len() == comparisons.len() {
        return (Cow::Borrowed(comparisons), Vec::new());
    }
    (Cow::Owned(firsts.into_iter().map(|i| comparisons[i].clone()).collect()), places)
}

/// A judgement of each comparison: what came of the one in its place, free from the second time on.
fn repeated(comparisons: &[Comparison], judged: &[Judgement], places: &[usize]) -> Vec<Judgement> {
    let mut is_paid = vec![false; judged.len()];
    let judgement = |(comparison, place): (&Comparison, &usize)| {
        let mut outcome = judged[*place].outcome.clone();
        if std::mem::replace(&mut is_paid[*place], true) {
            match &mut outcome {
                Outcome::Annotation(annotation) => (annotation.cached, annotation.cost_usd) = (true, None),
                Outcome::Failure(failure) => (failure.judging.cached, failure.judging.cost_usd) = (true, None),
            }
        }
        Judgement { comparison: comparison.clone(), outcome }
    };
    comparisons.iter().zip(places).map(judgement).collect()
}

/// Writes the preference pairs that judgements stand for to `preferences.jsonl`. Ties and failures make none.
///
/// # Errors
/// When no judgement makes a pair, or the disk refuses.
pub fn write_preferences(judgements: &[Judgement], ctx: &RunContext<'_>) -> Result<Vec<PreferencePair>> {
    let pairs: Vec<PreferencePair> = judgements.iter().filter_map(PreferencePair::from_judgement).collect();
    if pairs.is_empty() {
        return Err(Error::invalid_data(format!("none of {} judgements prefers an answer", judgements.len()))
            .with_hint("all are ties or failures; look at judgements.jsonl"));
    }
    ctx.stage.write_jsonl("preferences.jsonl", &pairs)?;
    Ok(pairs)
}
