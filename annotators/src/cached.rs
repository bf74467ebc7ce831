//! Verdicts kept in a file: a comparison that was judged before is not judged, and not paid, again.
//!
//! A verdict is found again by its content: the comparison (what was asked and both answers, in this order), the whole
//! configuration of the inner annotator, the seed, and the weights of the models the run offers to annotators whose options
//! name none. A model that the options name by path counts by its path alone: remove the cache after changing its files.
//! Several processes can share a cache. Failures are never kept.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use farmhand_core::run::{News, SharedJournal, hash_path};
use farmhand_core::types::{Annotation, Comparison, content_id};
use farmhand_core::{
    Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, Checkpoint, Error, EventSink, Problem, Result, RunContext, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::default_pool::default_annotator;
use crate::failures;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "cached", config: CachedConfig,
    summary: "keeps another annotator's verdicts in a file and does not ask twice",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.cached]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachedConfig {
    /// The file, one JSON line a verdict; made when it is not there. A lock lies beside it under the same name and `.lock`.
    pub path: PathBuf,
    /// Who judges what is not in the file; by default the embedded pool.
    pub inner: AnnotatorSpec,
}

impl Default for CachedConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("annotation-cache.jsonl"), inner: default_annotator() }
    }
}

#[typetag::serde(name = "cached")]
impl AnnotatorConfig for CachedConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let options =
            serde_json::to_string(&self.inner).map_err(|error| Error::other("options are not JSON").with_source(error))?;
        let models = [ctx.reward_model, ctx.policy].into_iter().flatten().flat_map(Checkpoint::inputs).collect();
        let inner = TieIfIdentical::build(&self.inner, ctx)?;
        Ok(TieIfIdentical::around(Cached::new(ctx.resolve(&self.path), options, models, inner)))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.inner.problems().into_iter().map(|problem| problem.under("inner")).collect();
        if self.path.file_name().is_none() {
            problems.push(Problem::new("path", format!("expected a file, got `{}`", self.path.display())));
        }
        problems
    }
}

/// One line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    key: String,
    annotation: Annotation,
}

struct Cached {
    inner: Box<dyn Annotator>,
    /// The inner annotator's configuration, as JSON.
    options: String,
    models: Vec<PathBuf>,
    /// Id of `options` and the models' files; made when first needed, for hashing models takes a while.
    identity: OnceLock<String>,
    store: Mutex<Store>,
}

struct Store {
    journal: SharedJournal,
    known: HashMap<String, Annotation>,
}

impl Cached {
    fn new(path: PathBuf, options: String, models: Vec<PathBuf>, inner: Box<dyn Annotator>) -> Self {
        let store = Store { journal: SharedJournal::new(path), known: HashMap::new() };
        Self { inner, options, models, identity: OnceLock::new(), store: Mutex::new(store) }
    }

    fn identity(&self) -> Result<&str> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let hashes = self.models.iter().map(|model| hash_path(model)).collect::<Result<Vec<_>>>()?;
        let parts = ["annotation cache v1", &self.options].into_iter().chain(hashes.iter().map(String::as_str));
        Ok(self.identity.get_or_init(|| content_id(parts)))
    }

    fn keys(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Vec<String>> {
        let (identity, seed) = (self.identity()?, format!("{:?}", ctx.seed));
        Ok(comparisons.iter().map(|comparison| content_id([identity, &seed, &comparison.id])).collect())
    }

    /// The verdicts that are known by now, in the order of the keys.
    fn recall(&self, keys: &[String], events: &dyn EventSink) -> Result<Vec<Option<Annotation>>> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.exchange(&[], events)?;
        Ok(keys.iter().map(|key| store.known.get(key).cloned()).collect())
    }

    /// Keeps new verdicts, unless another process was faster: then its verdict stands, so that this run and the next agree.
    fn keep(&self, new: &mut HashMap<String, Result<Annotation>>, events: &dyn EventSink) -> Result<()> {
        let verdicts =
            new.iter().filter_map(|(key, result)| result.as_ref().ok().map(|annotation| (key.clone(), annotation.clone())));
        let mut entries: Vec<Entry> = verdicts.map(|(key, annotation)| Entry { key, annotation }).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.exchange(&entries, events)?;
        for (key, result) in new {
            if let (Ok(annotation), Some(stands)) = (result, store.known.get(key)) {
                let (cost_usd, time_secs) = (annotation.cost_usd, annotation.time_secs);
                *annotation = Annotation { cost_usd, time_secs, ..stands.clone() };
            }
        }
        Ok(())
    }
}

impl Store {
    /// Learns what is new in the file and appends those entries that are not in it.
    fn exchange(&mut self, entries: &[Entry], events: &dyn EventSink) -> Result<()> {
        let Self { journal, known } = self;
        let mut n_unreadable = 0;
        journal.exchange(|news: News<Entry>| {
            n_unreadable = news.n_unreadable;
            for entry in news.records {
                known.entry(entry.key).or_insert(entry.annotation);
            }
            entries.iter().filter(|entry| !known.contains_key(&entry.key)).cloned().collect::<Vec<_>>()
        })?;
        for entry in entries {
            known.entry(entry.key.clone()).or_insert_with(|| entry.annotation.clone());
        }
        if n_unreadable > 0 {
            events.warn(&format!(
                "cache `{}`: lines that cannot be read and are left out: {n_unreadable}",
                journal.path().display()
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Annotator for Cached {
    fn id(&self) -> &str {
        self.inner.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let recalled = self.keys(comparisons, ctx).and_then(|keys| Ok((self.recall(&keys, ctx.events)?, keys)));
        let (recalled, keys) = match recalled {
            Ok(recalled) => recalled,
            Err(error) => return failures::repeat(&error, comparisons.len()),
        };
        let mut open: Vec<usize> = (0..comparisons.len()).filter(|i| recalled[*i].is_none()).collect();
        let mut first_of: HashMap<&str, usize> = HashMap::new();
        open.retain(|i| *first_of.entry(&keys[*i]).or_insert(*i) == *i);
        let asked: Vec<Comparison> = open.iter().map(|i| comparisons[*i].clone()).collect();
        let answers = if asked.is_empty() { Vec::new() } else { self.inner.annotate(&asked, ctx).await };
        let mut new: HashMap<String, Result<Annotation>> = open.iter().map(|i| keys[*i].clone()).zip(answers).collect();
        if new.values().any(Result::is_ok)
            && let Err(error) = self.keep(&mut new, ctx.events)
        {
            // The verdicts are paid for; losing them because they cannot be kept would cost more than asking again.
            ctx.events.warn(&format!("verdicts were not kept in the cache: {error}"));
        }
        let result = |(i, recalled): (usize, Option<Annotation>)| match (recalled, new.get(&keys[i])) {
            (Some(annotation), _) => Ok(hit(annotation)),
            (None, Some(Ok(annotation))) if first_of[keys[i].as_str()] == i => Ok(annotation.clone()),
            (None, Some(Ok(annotation))) => Ok(hit(annotation.clone())),
            (None, Some(Err(error))) => Err(failures::copy(error)),
            (None, None) => unreachable!("every open key was asked"),
        };
        recalled.into_iter().enumerate().map(result).collect()
    }
}

/// A verdict from the cache: free, and at once.
fn hit(annotation: Annotation) -> Annotation {
    let zero = |value: Option<f64>| value.map(|_| 0.0);
    Annotation { cached: true, cost_usd: zero(annotation.cost_usd), time_secs: zero(annotation.time_secs), ..annotation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, Counting, Desk, Picky, comparison, varied};
    use farmhand_core::{Device, ErrorKind};

    fn counting(desk: &Desk, options: &str) -> (Box<dyn Annotator>, Asked) {
        let (inner, asked) = Counting::new();
        (around(desk, options, inner), asked)
    }

    fn around(desk: &Desk, options: &str, inner: impl Annotator + 'static) -> Box<dyn Annotator> {
        let path = desk.dir.path().join("cache.jsonl");
        TieIfIdentical::around(Cached::new(path, options.to_owned(), Vec::new(), TieIfIdentical::around(inner)))
    }

    #[test]
    fn a_second_run_asks_nobody_and_says_the_same_for_nothing() {
        let (desk, pairs) = (Desk::new(), varied(40));
        let (judge, asked) = counting(&desk, "{}");
        let first = desk.annotations(&*judge, &pairs);
        assert_eq!(asked.count(), 40);
        let (another, asked_again) = counting(&desk, "{}");
        for judge in [judge, another] {
            let second = desk.annotations(&*judge, &pairs);
            for (first, second) in first.iter().zip(second) {
                assert_eq!((first.cached, first.cost_usd), (false, Some(0.25)));
                let free = Annotation { cached: true, cost_usd: Some(0.0), time_secs: Some(0.0), ..first.clone() };
                assert_eq!(second, free);
            }
        }
        assert_eq!((asked.count(), asked_again.count()), (40, 0));
    }

    #[test]
    fn other_options_another_seed_and_the_other_order_are_other_verdicts() {
        let desk = Desk::new();
        let pair = [comparison(0, "a", "bb")];
        let (judge, asked) = counting(&desk, "{}");
        desk.annotations(&*judge, &pair);
        desk.annotations(&*judge, &[pair[0].swapped()]);
        assert_eq!(asked.count(), 2);
        let ctx = desk.context(1);
        ctx.block_on(judge.annotate(&pair, &ctx));
        assert_eq!(asked.count(), 3);
        let (other, asked) = counting(&desk, "{\"temperature\":1}");
        desk.annotations(&*other, &pair);
        assert_eq!(asked.count(), 1);
    }

    #[test]
    fn another_model_behind_the_same_options_is_another_judge() {
        let desk = Desk::new();
        let model = desk.dir.path().join("model");
        std::fs::create_dir(&model).expect("made");
        let asked_with_weights = |weights: &str| {
            std::fs::write(model.join("weights"), weights).expect("written");
            let (inner, asked) = Counting::new();
            let path = desk.dir.path().join("cache.jsonl");
            let judge = Cached::new(path, "{}".to_owned(), vec![model.clone()], TieIfIdentical::around(inner));
            desk.annotations(&judge, &[comparison(0, "a", "bb")]);
            asked.count()
        };
        assert_eq!(["one", "one", "two"].map(asked_with_weights), [1, 0, 1]);
    }

    #[test]
    fn the_same_pair_twice_is_asked_once() {
        let desk = Desk::new();
        let (judge, asked) = counting(&desk, "{}");
        let annotations =
            desk.annotations(&*judge, &[comparison(0, "a", "bb"), comparison(0, "a", "bb"), comparison(1, "a", "b")]);
        assert_eq!(asked.count(), 2);
        assert_eq!(annotations.iter().map(|annotation| annotation.cached).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn failures_stay_with_their_pairs_and_are_not_kept() {
        let desk = Desk::new();
        let pairs = [comparison(0, "fail", "b"), comparison(1, "a", "bb"), comparison(0, "fail", "b")];
        let results = desk.annotate(&*around(&desk, "{}", Picky), &pairs);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
        assert!(results[2].as_ref().expect_err("failed").is_retryable());
        let (judge, asked) = counting(&desk, "{}");
        assert!(!desk.annotations(&*judge, &pairs)[0].cached);
        assert_eq!(asked.count(), 1);
    }

    #[test]
    fn broken_lines_are_left_out_with_a_warning() {
        let desk = Desk::new();
        let pairs = varied(3);
        let (judge, _) = counting(&desk, "{}");
        let first = desk.annotations(&*judge, &pairs);
        let path = desk.dir.path().join("cache.jsonl");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, format!("what is this\n{text}{{\"key\": \"torn")).expect("written");
        let (judge, asked) = counting(&desk, "{}");
        let second = desk.annotations(&*judge, &pairs);
        assert_eq!(asked.count(), 0);
        assert!(first.iter().zip(&second).all(|(first, second)| first.preference == second.preference));
        assert!(format!("{:?}", desk.events.take()).contains("left out: 1"));
    }

    #[test]
    fn a_cache_that_cannot_be_opened_is_said_for_every_pair() {
        let desk = Desk::new();
        std::fs::create_dir(desk.dir.path().join("cache.jsonl")).expect("made");
        let results = desk.annotate(&*counting(&desk, "{}").0, &varied(2));
        assert!(results.iter().all(|result| result.as_ref().expect_err("refused").kind() == ErrorKind::Io));
    }

    #[test]
    fn the_default_builds_without_touching_the_disk() {
        let desk = Desk::new();
        let config = CachedConfig::default();
        assert!(config.problems().is_empty());
        let judge = config.build(&BuildContext::new(Device::Cpu, desk.dir.path())).expect("built");
        assert_eq!(judge.id(), "pool");
        assert!(!desk.dir.path().join("annotation-cache.jsonl").exists());
        let pairs = varied(5);
        assert_eq!(desk.preferences(&*judge, &pairs), desk.preferences(&*judge, &pairs));
        assert_eq!(CachedConfig { path: "..".into(), ..config }.problems()[0].path, "path");
    }
}
