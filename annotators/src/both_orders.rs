//! Both orders: a judge is asked twice, each answer once in the first place, and must say the same both times.
//!
//! Judges lean towards a place (Zheng et al., 2023, section 3.2): a verdict that turns with the order says nothing about the
//! answers, and is a tie here. What it costs, twice the questions, buys two numbers: how often the judge agrees with itself, and
//! how often it takes the answer that is shown first.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Judging, Preference, ShownOrder};
use farmhand_core::{
    Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, Error, Forecast, Problem, Result, RunContext, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::default_pool::default_annotator;
use crate::order_swap::turn_back;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "both_orders", config: BothOrdersConfig,
    summary: "asks another annotator in both orders; verdicts that do not agree are a tie",
    paper: "https://arxiv.org/abs/2306.05685",
}

/// Options of `[annotator.both_orders]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BothOrdersConfig {
    /// What becomes of two verdicts that do not agree: `tie`, the default, or `mean`.
    pub on_disagreement: OnDisagreement,
    /// Who judges; by default the embedded pool.
    pub inner: AnnotatorSpec,
}

/// What becomes of two verdicts on one comparison that do not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDisagreement {
    /// A tie.
    #[default]
    Tie,
    /// The mean of the two probabilities, as for judges that give them; two plain verdicts make a tie.
    Mean,
}

impl Default for BothOrdersConfig {
    fn default() -> Self {
        Self { on_disagreement: OnDisagreement::Tie, inner: default_annotator() }
    }
}

#[typetag::serde(name = "both_orders")]
impl AnnotatorConfig for BothOrdersConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let inner = TieIfIdentical::build(&self.inner, ctx)?;
        let counts = Mutex::new(PositionBias::default());
        Ok(TieIfIdentical::around(BothOrders { inner, on_disagreement: self.on_disagreement, counts }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.inner.problems().into_iter().map(|problem| problem.under("inner")).collect();
        if matches!(self.inner.name(), "order_swap" | "both_orders") {
            let message = format!("`{}` chooses the order itself, so both orders would be the same two", self.inner.name());
            problems.push(Problem::new("inner", message).with_hint("use `both_orders` alone"));
        }
        problems
    }
}

/// How a judge that was asked in both orders leaned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionBias {
    /// Comparisons with a verdict in either order.
    pub n_pairs: usize,
    /// Comparisons on which the two verdicts name the same answer, or both a tie.
    pub n_consistent: usize,
    /// Single verdicts for the answer shown first.
    pub n_first_place: usize,
    /// Single verdicts for the answer shown second.
    pub n_second_place: usize,
}

impl PositionBias {
    /// Counts the verdict on a comparison and the one on the comparison in the other order.
    fn add(&mut self, as_given: &Annotation, swapped: &Annotation) {
        self.n_pairs += 1;
        self.n_consistent += usize::from(side(as_given.preference) == side(swapped.preference.swapped()));
        for verdict in [as_given, swapped] {
            // The judge may choose the order itself: what counts is what it saw first.
            let is_turned = verdict.shown == ShownOrder::Swapped;
            let as_shown = if is_turned { verdict.preference.swapped() } else { verdict.preference };
            match side(as_shown) {
                Side::First => self.n_first_place += 1,
                Side::Second => self.n_second_place += 1,
                Side::Neither => {}
            }
        }
    }

    /// The share of verdicts, ties left out, for the answer shown first, in [0, 1]; ½ without a bias. `None` without a verdict.
    pub fn first_place_share(&self) -> Option<f64> {
        let n = self.n_first_place + self.n_second_place;
        (n > 0).then(|| self.n_first_place as f64 / n as f64)
    }

    /// The share of comparisons judged the same in both orders, in [0, 1]. `None` without a comparison.
    pub fn consistency(&self) -> Option<f64> {
        (self.n_pairs > 0).then(|| self.n_consistent as f64 / self.n_pairs as f64)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Second,
    Neither,
}

fn side(preference: Preference) -> Side {
    match preference.p_second() {
        p if p < 0.5 => Side::First,
        p if p > 0.5 => Side::Second,
        _ => Side::Neither,
    }
}

struct BothOrders {
    inner: Box<dyn Annotator>,
    on_disagreement: OnDisagreement,
    counts: Mutex<PositionBias>,
}

#[async_trait]
impl Annotator for BothOrders {
    fn id(&self) -> &str {
        self.inner.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        // One call, so that both orders share the judge's window of requests.
        let shown: Vec<Comparison> = comparisons.iter().cloned().chain(comparisons.iter().map(Comparison::swapped)).collect();
        let mut as_given = self.inner.annotate(&shown, ctx).await;
        let swapped = as_given.split_off(comparisons.len());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let results: Vec<_> =
            as_given.into_iter().zip(swapped).map(|(one, other)| join(one, other, self.on_disagreement, &mut counts)).collect();
        if let (Some(first), Some(consistency)) = (counts.first_place_share(), counts.consistency()) {
            let step = counts.n_pairs as u64;
            ctx.events.scalar("position_bias/first_place_share", step, first);
            ctx.events.scalar("position_bias/consistency", step, consistency);
        }
        results
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.inner.comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let shown: Vec<Comparison> = comparisons.iter().cloned().chain(comparisons.iter().map(Comparison::swapped)).collect();
        let both = self.inner.forecast(&shown, ctx)?;
        // A comparison is known when both of its orders are.
        let (n_cached, n_settled) = (both.n_cached / 2, both.n_settled / 2);
        let n_asked = comparisons.len().saturating_sub(n_cached + n_settled);
        Ok(Forecast { n_comparisons: comparisons.len(), n_cached, n_settled, n_asked, ..both })
    }
}

/// One result of the two. A failure in either order is the comparison's, and what the other cost is not forgotten.
fn join(
    as_given: Result<Annotation>,
    swapped: Result<Annotation>,
    on_disagreement: OnDisagreement,
    counts: &mut PositionBias,
) -> Result<Annotation> {
    let (given, other) = match (as_given, swapped) {
        (Ok(given), Ok(other)) => (given, other),
        (Err(error), Ok(other)) => return Err(also_spent(error, &other)),
        (Ok(given), Err(error)) => return Err(also_spent(error, &given)),
        (Err(one), Err(two)) => {
            let spent = two.judging().map(|known| (known.cost_usd, known.time_secs)).unwrap_or_default();
            return Err(spent_more(one, spent));
        }
    };
    counts.add(&given, &other);
    let other = turn_back(other);
    let agree = side(given.preference) == side(other.preference);
    let mean = (given.preference.p_second() + other.preference.p_second()) / 2.0;
    let preference =
        if agree || on_disagreement == OnDisagreement::Mean { Preference::from_p_second(mean)? } else { Preference::Tie };
    let mean_scores = |one: [f64; 2], two: [f64; 2]| [(one[0] + two[0]) / 2.0, (one[1] + two[1]) / 2.0];
    let mut notes = given.notes.clone();
    notes.insert("as_given".to_owned(), json!(given.preference));
    notes.insert("swapped".to_owned(), json!(other.preference));
    Ok(Annotation {
        preference,
        raw: both(given.raw.as_deref(), other.raw.as_deref()),
        scores: given.scores.zip(other.scores).map(|(one, two)| mean_scores(one, two)),
        notes,
        cost_usd: sum(given.cost_usd, other.cost_usd),
        time_secs: sum(given.time_secs, other.time_secs),
        cached: given.cached && other.cached,
        shown: ShownOrder::AsGiven,
        ..given
    })
}

/// What the judge said in the two orders, as JSON.
fn both(as_given: Option<&str>, swapped: Option<&str>) -> Option<String> {
    (as_given.is_some() || swapped.is_some()).then(|| json!({ "as_given": as_given, "swapped": swapped }).to_string())
}

fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0.0) + other.unwrap_or(0.0)),
    }
}

fn also_spent(error: Error, other: &Annotation) -> Error {
    spent_more(error, (other.cost_usd, other.time_secs))
}

fn spent_more(error: Error, (cost_usd, time_secs): (Option<f64>, Option<f64>)) -> Error {
    if error.is_cancelled() {
        return error;
    }
    error.map_judging(|known| Judging {
        cost_usd: sum(known.cost_usd, cost_usd),
        time_secs: sum(known.time_secs, time_secs),
        ..known
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, Desk, FirstShown, Picky, comparison, varied};

    fn asked_in_both(inner: impl Annotator + 'static, on_disagreement: OnDisagreement) -> Box<dyn Annotator> {
        let (inner, counts) = (TieIfIdentical::around(inner), Mutex::default());
        TieIfIdentical::around(BothOrders { inner, on_disagreement, counts })
    }

    #[test]
    fn a_judge_without_a_bias_says_the_same_and_costs_twice() {
        let (desk, pairs) = (Desk::new(), varied(50));
        let (longer, asked) = Counting::new();
        let annotations = desk.annotations(&*asked_in_both(longer, OnDisagreement::Tie), &pairs);
        let plain = desk.preferences(&Counting::new().0, &pairs);
        assert_eq!(annotations.iter().map(|annotation| annotation.preference).collect::<Vec<_>>(), plain);
        assert_eq!((asked.count(), annotations[0].cost_usd, annotations[0].time_secs), (100, Some(0.5), Some(2.0)));
        assert_eq!(desk.events.scalars("position_bias/consistency"), [(50, 1.0)]);
        assert_eq!(desk.events.scalars("position_bias/first_place_share"), [(50, 0.5)]);
    }

    #[test]
    fn a_judge_that_takes_whatever_comes_first_says_nothing_and_is_counted() {
        let desk = Desk::new();
        let pairs: Vec<_> = (0..20).map(|i| comparison(i, "a", "b")).collect();
        let annotations = desk.annotations(&*asked_in_both(FirstShown, OnDisagreement::Tie), &pairs);
        assert!(annotations.iter().all(|annotation| annotation.preference == Preference::Tie));
        assert_eq!((annotations[0].scores, &annotations[0].notes["swapped"]), (Some([0.5, 0.5]), &json!(2)));
        assert_eq!(desk.events.scalars("position_bias/first_place_share"), [(20, 1.0)]);
        assert_eq!(desk.events.scalars("position_bias/consistency"), [(20, 0.0)]);
    }

    #[test]
    fn probabilities_are_averaged_and_disagreement_is_a_tie_or_their_mean() {
        let annotation = |p: f64| Ok(Annotation::new("j", Preference::from_p_second(p).expect("a probability")));
        let joined = |given: f64, swapped: f64, how| {
            join(annotation(given), annotation(swapped), how, &mut PositionBias::default())
                .expect("a verdict")
                .preference
                .p_second()
        };
        // The second verdict is about the answers in the other order.
        assert!((joined(0.9, 0.3, OnDisagreement::Tie) - 0.8).abs() < 1e-12);
        assert_eq!(joined(0.9, 0.9, OnDisagreement::Tie), 0.5);
        assert!((joined(0.9, 0.6, OnDisagreement::Mean) - 0.65).abs() < 1e-12);
    }

    #[test]
    fn a_failure_in_one_order_is_the_comparisons_and_keeps_what_was_spent() {
        let desk = Desk::new();
        let results =
            desk.annotate(&*asked_in_both(Picky, OnDisagreement::Tie), &[comparison(0, "fail", "b"), comparison(1, "a", "bb")]);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        let half = join(
            Err(Error::other("no").with_judging(Judging { cost_usd: Some(0.5), ..Judging::default() })),
            Ok(Annotation { cost_usd: Some(0.25), ..Annotation::new("j", Preference::First) }),
            OnDisagreement::Tie,
            &mut PositionBias::default(),
        );
        assert_eq!(half.expect_err("failed").judging().and_then(|known| known.cost_usd), Some(0.75));
    }

    #[test]
    fn a_wrapper_that_chooses_the_order_is_refused_inside() {
        let inner = AnnotatorSpec::from_json("order_swap", "{}").expect("known");
        let problems = BothOrdersConfig { inner, ..BothOrdersConfig::default() }.problems();
        assert_eq!(problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), ["inner"]);
    }
}
