//! Verdicts kept in a judgement store: a comparison that was judged before is not judged, and not paid, again.
//!
//! A verdict is found again by its content: the comparison (what was asked and both answers, in this order), the whole
//! configuration of the inner annotator, the seed, and the weights of the models the run offers to annotators whose options
//! name none. A model that the options name by path counts by its path alone: name another file after changing its files.
//! Several processes can share a store. Failures of the judge are kept apart from verdicts and asked again on request; those that
//! may pass by themselves, such as a busy server, are asked again always.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use farmhand_core::run::hash_path;
use farmhand_core::types::{Annotation, Comparison};
use farmhand_core::{
    Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, Checkpoint, Error, Forecast, Problem, Result, RunContext, register,
};
use farmhand_endpoints::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::default_pool::default_annotator;
use crate::failures;
use crate::store::{Judge, Store, StoredOutcome, StoredVerdict, VerdictKey};
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "cached", config: CachedConfig,
    summary: "keeps another annotator's verdicts in a judgement store and does not ask twice",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.cached]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachedConfig {
    /// The judgement store, an SQLite file; made when it is not there. `farmhand judgements` shows, imports and exports it.
    pub path: PathBuf,
    /// Who judges what is not in the store; by default the embedded pool.
    pub inner: AnnotatorSpec,
    /// Whether comparisons on which the inner annotator failed before are judged again. Failures that may pass by themselves are
    /// retried in any case.
    pub retry_failures: bool,
    /// Annotators of imported files, by the name in the file: their verdicts are taken for the inner annotator's.
    pub imported: Vec<String>,
}

impl Default for CachedConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("judgements.db"), inner: default_annotator(), retry_failures: false, imported: Vec::new() }
    }
}

#[typetag::serde(name = "cached")]
impl AnnotatorConfig for CachedConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let options =
            serde_json::to_string(&self.inner).map_err(|error| Error::other("options are not JSON").with_source(error))?;
        let models = [ctx.reward_model, ctx.policy].into_iter().flatten().flat_map(Checkpoint::inputs).collect();
        let inner = TieIfIdentical::build(&self.inner, ctx)?;
        let cached = Cached::new(ctx.resolve(&self.path), options, models, inner);
        Ok(TieIfIdentical::around(Cached {
            retry_failures: self.retry_failures,
            imported: self.imported.iter().map(|name| Judge::imported(name)).collect(),
            ..cached
        }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.inner.problems().into_iter().map(|problem| problem.under("inner")).collect();
        if self.path.file_name().is_none() {
            problems.push(Problem::new("path", format!("expected a file, got `{}`", self.path.display())));
        }
        problems
    }
}

struct Cached {
    inner: Box<dyn Annotator>,
    /// The inner annotator's configuration, as JSON.
    options: String,
    models: Vec<PathBuf>,
    retry_failures: bool,
    imported: Vec<Judge>,
    /// The inner annotator with the hashes of the models; made when first needed, for hashing models takes a while.
    judge: OnceLock<Arc<Judge>>,
    path: PathBuf,
    /// Opened when first needed, so that building touches no disk.
    store: Mutex<Option<Store>>,
}

/// What is known of comparisons before anyone is asked.
struct Recalled {
    judge: Arc<Judge>,
    seed: String,
    keys: Vec<VerdictKey>,
    store: Store,
    outcomes: Vec<Option<StoredOutcome>>,
}

impl Cached {
    fn new(path: PathBuf, options: String, models: Vec<PathBuf>, inner: Box<dyn Annotator>) -> Self {
        let (judge, store) = (OnceLock::new(), Mutex::new(None));
        Self { inner, options, models, retry_failures: false, imported: Vec::new(), judge, path, store }
    }

    fn judge(&self) -> Result<Arc<Judge>> {
        if let Some(judge) = self.judge.get() {
            return Ok(judge.clone());
        }
        let hashes = self.models.iter().map(|model| hash_path(model)).collect::<Result<Vec<_>>>()?;
        let identity = json!({ "options": self.options, "models": hashes }).to_string();
        let judge = Judge { name: self.inner.id().to_owned(), identity };
        Ok(self.judge.get_or_init(|| Arc::new(judge)).clone())
    }

    fn store(&self) -> Result<Store> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        match &*store {
            Some(store) => Ok(store.clone()),
            None => Ok(store.insert(Store::open(&self.path)?).clone()),
        }
    }

    fn recall(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Recalled> {
        let (judge, store, seed) = (self.judge()?, self.store()?, format!("{:?}", ctx.seed));
        let keys: Vec<VerdictKey> = comparisons.iter().map(|comparison| VerdictKey::of(comparison, &judge, &seed)).collect();
        let mut outcomes = store.verdicts(&keys)?;
        for imported in &self.imported {
            let open: Vec<usize> = (0..keys.len()).filter(|i| outcomes[*i].is_none()).collect();
            let keys: Vec<VerdictKey> = open.iter().map(|i| VerdictKey::of(&comparisons[*i], imported, "")).collect();
            for (i, outcome) in open.into_iter().zip(store.verdicts(&keys)?) {
                outcomes[i] = outcome;
            }
        }
        for outcome in &mut outcomes {
            outcome.take_if(|outcome| !outcome.settles(self.retry_failures));
        }
        Ok(Recalled { judge, seed, keys, store, outcomes })
    }

    /// Keeps what is new, unless another process was faster: then its verdict stands, so that this run and the next agree.
    async fn keep(&self, recalled: &Recalled, asked: &[Comparison], answers: &mut [Result<Annotation>]) -> Result<()> {
        let verdict = |(i, (comparison, answer)): (usize, (&Comparison, &Result<Annotation>))| {
            let verdict = StoredVerdict {
                comparison: comparison.clone(),
                judge: recalled.judge.clone(),
                seed: recalled.seed.clone(),
                outcome: StoredOutcome::of(answer)?,
                date: Date::now(),
                foreign: serde_json::Map::new(),
            };
            Some((i, verdict))
        };
        let (places, verdicts): (Vec<usize>, Vec<StoredVerdict>) =
            asked.iter().zip(answers.iter()).enumerate().filter_map(verdict).unzip();
        let keys: Vec<VerdictKey> = verdicts.iter().map(StoredVerdict::key).collect();
        let stand = recalled.store.keep_verdicts(verdicts).await?;
        let slower = |(i, key): (&usize, &VerdictKey)| (*i, *key);
        let (places, keys): (Vec<usize>, Vec<VerdictKey>) =
            places.iter().zip(&keys).zip(stand).filter(|(_, stands)| !stands).map(|(place, _)| slower(place)).unzip();
        for (i, stands) in places.into_iter().zip(recalled.store.verdicts(&keys)?) {
            if let (Ok(annotation), Some(StoredOutcome::Verdict(stands))) = (&mut answers[i], stands) {
                // What this run paid, it paid.
                let (cost_usd, time_secs) = (annotation.cost_usd, annotation.time_secs);
                *annotation = Annotation { cost_usd, time_secs, ..stands };
            }
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
        let mut recalled = match self.recall(comparisons, ctx) {
            Ok(recalled) => recalled,
            Err(error) => return failures::repeat(&error, comparisons.len()),
        };
        let mut open: Vec<usize> = (0..comparisons.len()).filter(|i| recalled.outcomes[*i].is_none()).collect();
        let mut first_of: HashMap<VerdictKey, usize> = HashMap::new();
        open.retain(|i| *first_of.entry(recalled.keys[*i]).or_insert(*i) == *i);
        let asked: Vec<Comparison> = open.iter().map(|i| comparisons[*i].clone()).collect();
        let mut answers = if asked.is_empty() { Vec::new() } else { self.inner.annotate(&asked, ctx).await };
        if let Err(error) = self.keep(&recalled, &asked, &mut answers).await {
            // The verdicts are paid for; losing them because they cannot be kept would cost more than asking again.
            let warning =
                recalled.store.warning().or_else(|| (error.kind() != farmhand_core::ErrorKind::Io).then(|| error.to_string()));
            warning.iter().for_each(|warning| ctx.events.warn(warning));
        }
        let new: HashMap<VerdictKey, Result<Annotation>> = open.iter().map(|i| recalled.keys[*i]).zip(answers).collect();
        let result = |(i, outcome): (usize, Option<StoredOutcome>)| {
            let key = &recalled.keys[i];
            match (outcome, new.get(key)) {
                (Some(outcome), _) => outcome.into_result(),
                (None, Some(Ok(annotation))) if first_of[key] == i => Ok(annotation.clone()),
                // The same comparison once more in one call.
                (None, Some(Ok(annotation))) => StoredOutcome::Verdict(annotation.clone()).into_result(),
                (None, Some(Err(error))) => Err(error.copy()),
                (None, None) => unreachable!("every open key was asked"),
            }
        };
        let outcomes = std::mem::take(&mut recalled.outcomes);
        outcomes.into_iter().enumerate().map(result).collect()
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.inner.comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        // A look at what is not there would make it.
        let known = if self.path.exists() { self.recall(comparisons, ctx)?.outcomes } else { vec![None; comparisons.len()] };
        let open: Vec<Comparison> = comparisons
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(comparison, _)| comparison.clone())
            .collect();
        Ok(self.inner.forecast(&open, ctx)?.with_cached(comparisons.len() - open.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, Counting, Desk, Picky, comparison, varied};
    use farmhand_core::types::{Judging, Preference};
    use farmhand_core::{Device, ErrorKind};

    /// Mumbles over some comparisons and is busy at others.
    struct Moody(Box<dyn Annotator>);

    impl Moody {
        fn new() -> (Self, Asked) {
            let (inner, asked) = Counting::new();
            (Self(Box::new(inner)), asked)
        }
    }

    #[async_trait]
    impl Annotator for Moody {
        fn id(&self) -> &str {
            "moody"
        }

        async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
            let results = self.0.annotate(comparisons, ctx).await;
            let mood = |(comparison, result): (&Comparison, Result<Annotation>)| match comparison.output_1.as_str() {
                "mumble" => Err(Error::new(ErrorKind::UnparsableAnswer, "no verdict in it").with_judging(Judging {
                    annotator: Some("moody".to_owned()),
                    raw: Some("hm".to_owned()),
                    cost_usd: Some(0.5),
                    ..Judging::default()
                })),
                "busy" => Err(Error::new(ErrorKind::RemoteService, "busy").retryable()),
                _ => result,
            };
            comparisons.iter().zip(results).map(mood).collect()
        }
    }

    fn counting(desk: &Desk, options: &str) -> (Box<dyn Annotator>, Asked) {
        let (inner, asked) = Counting::new();
        (around(desk, options, inner), asked)
    }

    fn around(desk: &Desk, options: &str, inner: impl Annotator + 'static) -> Box<dyn Annotator> {
        let path = desk.dir.path().join("cache.db");
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
            let path = desk.dir.path().join("cache.db");
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
    fn failures_stay_with_their_pairs_and_what_is_not_the_judges_is_not_kept() {
        let desk = Desk::new();
        let pairs = [comparison(0, "fail", "b"), comparison(1, "a", "bb"), comparison(0, "fail", "b")];
        for _ in 0..2 {
            let results = desk.annotate(&*around(&desk, "{}", Picky), &pairs);
            assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
            let error = results[2].as_ref().expect_err("failed");
            assert!(error.is_retryable() && error.judging().is_none_or(|judging| !judging.cached));
        }
        let store = Store::open(desk.dir.path().join("cache.db")).expect("opened");
        let mut kept = Vec::new();
        let take = |verdict: StoredVerdict| {
            kept.push(verdict.outcome);
            Ok(())
        };
        store.visit_verdicts(None, take).expect("read");
        assert!(matches!(kept[..], [StoredOutcome::Verdict(_)]), "{kept:?}");
    }

    #[test]
    fn a_judges_failure_is_kept_apart_and_asked_again_on_request() {
        let desk = Desk::new();
        let pairs = [comparison(0, "mumble", "b"), comparison(1, "busy", "b"), comparison(2, "a", "bb")];
        let judge = |retry_failures: bool| {
            let path = desk.dir.path().join("cache.db");
            let (inner, asked) = Moody::new();
            let cached = Cached::new(path, "{}".to_owned(), Vec::new(), TieIfIdentical::around(inner));
            (TieIfIdentical::around(Cached { retry_failures, ..cached }), asked)
        };
        let (first, asked) = judge(false);
        let results = desk.annotate(&*first, &pairs);
        assert_eq!((results.iter().filter(|result| result.is_err()).count(), asked.count()), (2, 3));
        let (second, asked) = judge(false);
        let results = desk.annotate(&*second, &pairs);
        assert_eq!(asked.count(), 1, "the busy one alone");
        let error = results[0].as_ref().expect_err("kept");
        let judging = error.judging().expect("who was asked");
        assert_eq!((error.kind(), judging.cached, judging.cost_usd), (ErrorKind::UnparsableAnswer, true, Some(0.0)));
        assert_eq!(judging.raw.as_deref(), Some("hm"));
        let (third, asked) = judge(true);
        desk.annotate(&*third, &pairs);
        assert_eq!(asked.count(), 2);
    }

    #[test]
    fn a_forecast_tells_what_is_known_and_asks_and_makes_nothing() {
        let desk = Desk::new();
        let pairs = varied(10);
        let ctx = desk.context(0);
        let forecast = |judge: &dyn Annotator| judge.forecast(&pairs, &ctx).expect("foretold");
        let (judge, asked) = counting(&desk, "{}");
        let before = forecast(&*judge);
        assert_eq!((before.n_comparisons, before.n_cached, before.n_asked, asked.count()), (10, 0, 10, 0));
        assert!(!desk.dir.path().join("cache.db").exists());
        desk.annotations(&*judge, &pairs[..4]);
        let same = [pairs[0].clone(), comparison(3, "x", "x"), pairs[9].clone()];
        let (judge, asked) = counting(&desk, "{}");
        let after = judge.forecast(&same, &ctx).expect("foretold");
        assert_eq!((after.n_comparisons, after.n_cached, after.n_settled, after.n_asked), (3, 1, 1, 1));
        assert_eq!((after.n_requests, asked.count()), (0, 0));
    }

    #[test]
    fn imported_verdicts_count_where_they_are_wanted() {
        let desk = Desk::new();
        let (pair, path) = (comparison(0, "a", "bb"), desk.dir.path().join("cache.db"));
        let imported = StoredVerdict {
            comparison: pair.clone(),
            judge: Arc::new(Judge::imported("gpt4")),
            seed: String::new(),
            outcome: StoredOutcome::Verdict(Annotation::new("gpt4", Preference::First)),
            date: Date::now(),
            foreign: serde_json::Map::new(),
        };
        let ctx = desk.context(0);
        let store = Store::open(&path).expect("made");
        ctx.block_on(store.keep_verdicts(vec![imported])).expect("kept");
        let judge = |names: &[&str]| {
            let cached = Cached::new(path.clone(), "{}".to_owned(), Vec::new(), TieIfIdentical::around(Counting::new().0));
            Cached { imported: names.iter().map(|name| Judge::imported(name)).collect(), ..cached }
        };
        let verdict = |names: &[&str]| desk.annotations(&judge(names), std::slice::from_ref(&pair)).remove(0);
        let taken = verdict(&["other", "gpt4"]);
        assert_eq!((taken.preference, taken.annotator.as_str(), taken.cached), (Preference::First, "gpt4", true));
        assert_eq!(verdict(&[]).preference, Preference::Second);
    }

    #[test]
    fn a_cache_of_an_earlier_version_is_refused_with_a_hint() {
        let desk = Desk::new();
        std::fs::write(desk.dir.path().join("cache.db"), "{\"key\": \"0\", \"annotation\": {}}\n").expect("written");
        let results = desk.annotate(&*counting(&desk, "{}").0, &varied(1));
        let error = results[0].as_ref().expect_err("refused");
        assert!(error.message().contains("holds JSON lines") && error.hint().is_some(), "{error:?}");
    }

    #[test]
    fn a_cache_that_cannot_be_opened_is_said_for_every_pair() {
        let desk = Desk::new();
        std::fs::create_dir(desk.dir.path().join("cache.db")).expect("made");
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
        assert!(!desk.dir.path().join("annotation-cache.db").exists());
        let pairs = varied(5);
        assert_eq!(desk.preferences(&*judge, &pairs), desk.preferences(&*judge, &pairs));
        assert_eq!(CachedConfig { path: "..".into(), ..config }.problems()[0].path, "path");
    }
}
