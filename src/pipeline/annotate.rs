//! Judgements: comparisons and an annotator to `judgements.jsonl`, and the preference pairs they stand for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farmhand_core::run::chunked_side_by_side;
use farmhand_core::types::{AnnotatorId, Comparison, Judgement, JudgingCost, Outcome, Preference, PreferencePair};
use farmhand_core::{Annotator, Error, Forecast, Range, Result, RunContext, checked};
use serde::{Deserialize, Serialize};

/// Comparisons judged between two writes of the journal.
const CHUNK: usize = 128;

/// Chunks under way at a time: as many comparisons as the most patient server takes requests, and one that is slow to answer
/// holds up its own chunk alone.
const AT_A_TIME: usize = 16;
/// How often the counts so far are told.
const TELL_EVERY: Duration = Duration::from_secs(10);

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
    /// Verdicts that were judged now: neither from a cache nor of a repeated comparison.
    #[serde(default)]
    pub n_new: usize,
    /// What the verdicts and failures cost, in US dollars.
    pub cost_usd: f64,
    /// What each annotator's judgements took.
    #[serde(default)]
    pub by_annotator: BTreeMap<AnnotatorId, JudgingCost>,
}

impl AnnotationSummary {
    /// Counts what came of `judgements`.
    pub fn of(judgements: &[Judgement]) -> Self {
        let by_annotator = JudgingCost::by_annotator(judgements);
        let mut summary = Self { n_comparisons: judgements.len(), by_annotator, ..Self::default() };
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
            summary.n_new += usize::from(!annotation.cached && !is_repeated);
            summary.n_noised += usize::from(annotation.noised);
            summary.cost_usd += annotation.cost_usd.unwrap_or(0.0);
        }
        summary
    }
}

impl AnnotationSummary {
    /// What became of the comparisons, in one line.
    fn line(&self) -> String {
        let Self { n_cached, n_new, n_failed, cost_usd, .. } = self;
        let mut line = format!("  cached {n_cached}, new {n_new}, failed {n_failed}, {cost_usd:.4} dollars");
        let priced = self.by_annotator.values().fold(JudgingCost::default(), |sum, cost| JudgingCost {
            n_priced: sum.n_priced + cost.n_priced,
            cost_usd: sum.cost_usd + cost.cost_usd,
            ..sum
        });
        if let (Some(price), Some(times)) = (priced.usd_per_1000(), priced.times_cheaper_than_people()) {
            line += &format!(" ({price:.2} per 1,000, {times:.0} times cheaper than people)");
        }
        line
    }

    /// Adds the counts that a line shows.
    fn add(&mut self, other: &Self) {
        self.n_cached += other.n_cached;
        self.n_new += other.n_new;
        self.n_failed += other.n_failed;
        self.cost_usd += other.cost_usd;
    }
}

/// What judging these comparisons would take; one that occurs several times is judged once.
///
/// # Errors
/// When what is known of earlier judgements cannot be read.
pub fn forecast(annotator: &dyn Annotator, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
    let (distinct, _) = distinct(comparisons);
    Ok(annotator.forecast(&distinct, ctx)?.with_settled(comparisons.len() - distinct.len()))
}

/// A forecast in words.
pub fn describe_forecast(forecast: &Forecast) -> String {
    let Forecast { n_comparisons, n_cached, n_settled, n_asked, n_requests, .. } = forecast;
    let mut text =
        format!("{n_comparisons} comparisons: {n_cached} cached, {n_settled} need no judge, {n_asked} would be judged\n");
    if *n_requests == 0 {
        return text + "no requests to servers\n";
    }
    let tokens = |range: &Range| format!("{:.0} ({:.0} to {:.0})", range.expected, range.low, range.high);
    text += &format!(
        "{n_requests} requests, by a guess of 4 characters a token: {} prompt tokens, {} answer tokens\n",
        tokens(&forecast.prompt_tokens),
        tokens(&forecast.completion_tokens)
    );
    let Range { low, expected, high } = forecast.cost_usd;
    if forecast.n_unpriced < *n_requests {
        text += &format!("about {expected:.4} dollars ({low:.4} to {high:.4})\n");
    }
    if forecast.n_unpriced > 0 {
        text += &format!("{} requests to models whose price is not known\n", forecast.n_unpriced);
    }
    text
}

/// Judges every comparison, one that occurs several times once, and writes `judgements.jsonl` and `summary.json`.
///
/// # Errors
/// When every comparison failed, on cancellation, or when the disk refuses; verdicts so far are kept.
pub fn annotate(annotator: &dyn Annotator, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Vec<Judgement>> {
    let (distinct, places) = distinct(comparisons);
    let progress = ctx.progress("annotating", Some(distinct.len() as u64), "comparisons");
    let so_far = Mutex::new((progress, AnnotationSummary::default(), Instant::now()));
    let shared = &so_far;
    let judge = |chunk| async move {
        let judged = checked::annotate(annotator, chunk, ctx).await?;
        let (progress, so_far, told) = &mut *shared.lock().unwrap_or_else(PoisonError::into_inner);
        progress.advance(chunk.len() as u64);
        so_far.add(&AnnotationSummary::of(&judged));
        if told.elapsed() > TELL_EVERY {
            *told = Instant::now();
            ctx.events.info(&so_far.line());
        }
        Ok(judged)
    };
    let chunk = annotator.comparisons_at_once().unwrap_or(CHUNK).max(1);
    let judged = ctx.block_on(chunked_side_by_side(&distinct, (chunk, AT_A_TIME), "judged-chunks.jsonl", ctx, judge))?;
    drop(so_far);
    let judgements = if places.is_empty() { judged } else { repeated(comparisons, &judged, &places) };
    let summary = AnnotationSummary::of(&judgements);
    ctx.events.info(&summary.line());
    if summary.n_failed > 0 {
        let first = judgements.iter().find_map(|judgement| match &judgement.outcome {
            Outcome::Failure(failure) => Some(failure),
            Outcome::Annotation(_) => None,
        });
        let (kind, reason) = first.map_or(("other", ""), |failure| (failure.kind.label(), failure.message.as_str()));
        if summary.n_failed == summary.n_comparisons {
            // Nobody judged anything: whoever mends the cause is to be asked again.
            ctx.stage.clear_state()?;
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
