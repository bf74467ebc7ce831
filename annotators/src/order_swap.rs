//! Which of the two answers the annotator sees first, drawn for each instruction.
//!
//! Judges, people and language models alike, lean towards one place; a drawn order turns that bias into noise that does not
//! favour either side (Zheng et al., 2023, and AlpacaFarm's scheme). The verdict is turned back, the order is recorded.

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Judging, ShownOrder};
use farmhand_core::{
    Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, Error, Forecast, Problem, Result, RunContext, Seed, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::default_pool::default_annotator;
use crate::seeding::{Draw, Seeding};
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "order_swap", config: OrderSwapConfig,
    summary: "shows another annotator the two answers in an order drawn for each instruction",
    paper: "https://arxiv.org/abs/2306.05685",
}

/// Options of `[annotator.order_swap]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderSwapConfig {
    // A default of the field and not of the table: the embedded pool holds `order_swap` itself, so its default must not
    // be made where `inner` is given.
    /// Who judges; by default the embedded pool.
    #[serde(default = "default_annotator")]
    pub inner: AnnotatorSpec,
    /// How the order is seeded: farmhand's way, or so that it is AlpacaFarm's or AlpacaEval's own.
    #[serde(default)]
    pub seeding: Seeding,
    /// The number in their seed, by default 0 as theirs; farmhand's own seeding follows the run's seed instead.
    #[serde(default)]
    pub seeding_seed: u64,
}

impl OrderSwapConfig {
    /// Around this annotator, everything else as by default.
    pub fn around(inner: AnnotatorSpec) -> Self {
        Self { inner, seeding: Seeding::default(), seeding_seed: 0 }
    }
}

impl Default for OrderSwapConfig {
    fn default() -> Self {
        Self::around(default_annotator())
    }
}

#[typetag::serde(name = "order_swap")]
impl AnnotatorConfig for OrderSwapConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let inner = TieIfIdentical::build(&self.inner, ctx)?;
        Ok(TieIfIdentical::around(OrderSwap { inner, seeding: self.seeding, seeding_seed: self.seeding_seed }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.inner.problems().into_iter().map(|problem| problem.under("inner")).collect();
        if self.inner.name() == "order_swap" {
            problems
                .push(Problem::new("inner", "a swap around a swap shows every pair as given").with_hint("use one `order_swap`"));
        }
        problems
    }
}

struct OrderSwap {
    inner: Box<dyn Annotator>,
    seeding: Seeding,
    seeding_seed: u64,
}

impl OrderSwap {
    /// Whether the second answer is shown first on this instruction.
    fn is_swapped(&self, comparison: &Comparison, seed: Seed) -> bool {
        match self.seeding.python(Draw::Order, &comparison.instruction, self.seeding_seed) {
            Some(mut python) => python.choices(2) == 1,
            None => seed.child_text("order swap", &comparison.instruction.id).rng().bernoulli(0.5),
        }
    }
}

#[async_trait]
impl Annotator for OrderSwap {
    fn id(&self) -> &str {
        self.inner.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let swapped: Vec<bool> = comparisons.iter().map(|comparison| self.is_swapped(comparison, ctx.seed)).collect();
        let show = |(comparison, swapped): (&Comparison, &bool)| if *swapped { comparison.swapped() } else { comparison.clone() };
        let shown: Vec<Comparison> = comparisons.iter().zip(&swapped).map(show).collect();
        let results = self.inner.annotate(&shown, ctx).await;
        let turn = |result: Result<Annotation>| result.map(turn_back).map_err(turn_failure_back);
        results.into_iter().zip(swapped).map(|(result, swapped)| if swapped { turn(result) } else { result }).collect()
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.inner.comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let show = |comparison: &Comparison| match self.is_swapped(comparison, ctx.seed) {
            true => comparison.swapped(),
            false => comparison.clone(),
        };
        self.inner.forecast(&comparisons.iter().map(show).collect::<Vec<_>>(), ctx)
    }
}

/// The verdict on the swapped comparison, as one on the comparison itself.
pub(crate) fn turn_back(annotation: Annotation) -> Annotation {
    let scores = annotation.scores.map(|[first, second]| [second, first]);
    Annotation { preference: annotation.preference.swapped(), shown: annotation.shown.swapped(), scores, ..annotation }
}

/// The failure on the swapped comparison, as one on the comparison itself.
fn turn_failure_back(error: Error) -> Error {
    if error.judging().is_none() {
        return error;
    }
    error.map_judging(|judging| Judging { shown: judging.shown.map(ShownOrder::swapped), ..judging })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, Desk, FirstShown, Picky, comparison, varied};
    use farmhand_core::types::Preference;

    fn swapping(inner: impl Annotator + 'static) -> Box<dyn Annotator> {
        let (seeding, seeding_seed) = (Seeding::default(), 0);
        TieIfIdentical::around(OrderSwap { inner: TieIfIdentical::around(inner), seeding, seeding_seed })
    }

    #[test]
    fn a_judge_that_takes_whatever_comes_first_is_evened_out_and_recorded() {
        let n = 2000;
        let pairs: Vec<_> = (0..n).map(|i| comparison(i, "a", "b")).collect();
        let annotations = Desk::new().annotations(&*swapping(FirstShown), &pairs);
        let n_second = annotations.iter().filter(|annotation| annotation.preference == Preference::Second).count() as f64;
        assert!((n_second - 1000.0).abs() < 4.0 * (2000.0_f64 / 4.0).sqrt(), "{n_second}");
        for annotation in annotations {
            let swapped = annotation.preference == Preference::Second;
            assert_eq!(annotation.shown == ShownOrder::Swapped, swapped);
            assert_eq!(annotation.scores, Some(if swapped { [0.0, 1.0] } else { [1.0, 0.0] }));
        }
    }

    #[test]
    fn a_judge_without_a_bias_says_the_same_as_without_the_swap() {
        let (desk, pairs) = (Desk::new(), varied(100));
        assert_eq!(desk.preferences(&*swapping(Counting::new().0), &pairs), desk.preferences(&Counting::new().0, &pairs));
    }

    #[test]
    fn the_order_follows_the_instruction_and_nothing_else() {
        let desk = Desk::new();
        let orders =
            |pairs: &[Comparison]| desk.annotations(&*swapping(FirstShown), pairs).iter().map(|a| a.shown).collect::<Vec<_>>();
        let one: Vec<_> = (0..50).map(|i| comparison(i, "a", "b")).collect();
        let other: Vec<_> = (0..50).rev().map(|i| comparison(i, "other", "model")).collect();
        let mut backwards = orders(&other);
        backwards.reverse();
        assert_eq!(orders(&one), backwards);
    }

    #[test]
    fn what_is_known_of_a_failure_is_turned_back_like_a_verdict() {
        let failed = |shown| Error::other("unreadable").with_judging(Judging { shown, ..Judging::default() });
        let turned = |error| turn_failure_back(error).judging().cloned();
        let judging = turned(failed(Some(ShownOrder::AsGiven))).expect("kept");
        assert_eq!(judging.shown, Some(ShownOrder::Swapped));
        assert_eq!(turned(failed(None)).expect("kept").shown, None);
        assert_eq!(turned(Error::other("nothing known")), None);
    }

    #[test]
    fn a_failure_of_the_inner_annotator_stays_with_its_pair() {
        let pairs: Vec<_> = (0..10).map(|i| comparison(i, if i == 3 { "fail" } else { "a" }, "bb")).collect();
        let results = Desk::new().annotate(&*swapping(Picky), &pairs);
        assert!(results.iter().enumerate().all(|(i, result)| result.is_err() == (i == 3)));
    }
}
