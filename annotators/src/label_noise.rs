//! Label noise: a share p of the verdicts comes out wrong, as people's do.
//!
//! With probability 2p a verdict is *replaced* by a fair coin, so that a share p of them is flipped (AlpacaFarm's scheme, Dubois
//! et al., 2023, section 3.2: p = 0.25). Replaced comparisons are not sent to the annotator. Identical answers stay a tie.

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Preference, UnorderedPair};
use farmhand_core::{
    Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, Forecast, Problem, Result, RunContext, Seed, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::default_pool::default_annotator;
use crate::seeding::{Draw, Seeding};
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "label_noise", config: LabelNoiseConfig,
    summary: "a share of another annotator's verdicts flipped at random",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.label_noise]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LabelNoiseConfig {
    /// The share of verdicts that is flipped, in [0, 0.5]; ½ leaves nothing but coin tosses.
    pub p: f64,
    /// What shares a coin.
    pub per: NoiseUnit,
    /// How the coins are seeded: farmhand's way, or so that they are AlpacaFarm's own. Theirs are one an instruction.
    pub seeding: Seeding,
    /// The number in their seed, by default 0 as theirs; farmhand's own seeding follows the run's seed instead.
    pub seeding_seed: u64,
    /// Whose verdicts; by default the embedded pool's.
    pub inner: AnnotatorSpec,
}

/// What shares a coin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseUnit {
    /// All comparisons on one instruction, as in AlpacaFarm: every model is hit on the same instructions, and the coin names
    /// the first or the second place.
    #[default]
    Instruction,
    /// Each pair of answers has its own coin, which names an answer: the same pair in the other order gets the same
    /// verdict, turned. For several pairs an instruction.
    Pair,
}

impl Default for LabelNoiseConfig {
    fn default() -> Self {
        Self { p: 0.25, per: NoiseUnit::default(), seeding: Seeding::default(), seeding_seed: 0, inner: default_annotator() }
    }
}

#[typetag::serde(name = "label_noise")]
impl AnnotatorConfig for LabelNoiseConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let inner = TieIfIdentical::build(&self.inner, ctx)?;
        let Self { p, per, seeding, seeding_seed, .. } = *self;
        Ok(TieIfIdentical::around(LabelNoise { p, per, seeding, seeding_seed, inner }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.inner.problems().into_iter().map(|problem| problem.under("inner")).collect();
        if !(0.0..=0.5).contains(&self.p) {
            problems.push(Problem::new("p", format!("expected a number in [0, 0.5], got {}", self.p)));
        }
        if self.seeding != Seeding::Farmhand && self.per == NoiseUnit::Pair {
            problems.push(
                Problem::new("per", "AlpacaFarm's coins are one for each instruction")
                    .with_hint("leave `per` out, or set `seeding` to `farmhand`"),
            );
        }
        if self.inner.name() == "label_noise" {
            problems.push(
                Problem::new("inner", "label noise around label noise tosses the same coins")
                    .with_hint("use one, with the p you want"),
            );
        }
        problems
    }
}

struct LabelNoise {
    p: f64,
    per: NoiseUnit,
    seeding: Seeding,
    seeding_seed: u64,
    inner: Box<dyn Annotator>,
}

impl LabelNoise {
    /// The verdict the coin names; `None` leaves the comparison to the annotator.
    fn coin(&self, comparison: &Comparison, seed: Seed) -> Option<Preference> {
        if let Some(mut python) = self.seeding.python(Draw::Noise, &comparison.instruction, self.seeding_seed) {
            return [None, Some(Preference::First), Some(Preference::Second)]
                [python.choices_weighted(&[1.0 - 2.0 * self.p, self.p, self.p])];
        }
        let pair = UnorderedPair::of(comparison);
        let (text, is_turned) = match self.per {
            NoiseUnit::Instruction => (&comparison.instruction.id, false),
            NoiseUnit::Pair => (&pair.id, pair.is_turned),
        };
        let named = match seed.child_text("label noise", text).rng().uniform() {
            u if u < self.p => Preference::First,
            u if u < 2.0 * self.p => Preference::Second,
            _ => return None,
        };
        Some(if is_turned { named.swapped() } else { named })
    }
}

#[async_trait]
impl Annotator for LabelNoise {
    fn id(&self) -> &str {
        self.inner.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let coins: Vec<_> = comparisons.iter().map(|comparison| self.coin(comparison, ctx.seed)).collect();
        let open: Vec<Comparison> =
            comparisons.iter().zip(&coins).filter(|(_, coin)| coin.is_none()).map(|(comparison, _)| comparison.clone()).collect();
        let mut answers = self.inner.annotate(&open, ctx).await.into_iter();
        let noised = |preference| Annotation { noised: true, ..Annotation::new(self.inner.id(), preference) };
        let result = |coin: Option<Preference>| match coin {
            Some(preference) => Ok(noised(preference)),
            None => answers.next().expect("the gate gives one result a comparison"),
        };
        coins.into_iter().map(result).collect()
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.inner.comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let open: Vec<Comparison> =
            comparisons.iter().filter(|comparison| self.coin(comparison, ctx.seed).is_none()).cloned().collect();
        Ok(self.inner.forecast(&open, ctx)?.with_settled(comparisons.len() - open.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, Desk, Picky, comparison, varied};

    fn noisy(p: f64, per: NoiseUnit, inner: impl Annotator + 'static) -> Box<dyn Annotator> {
        let (seeding, seeding_seed) = (Seeding::default(), 0);
        TieIfIdentical::around(LabelNoise { p, per, seeding, seeding_seed, inner: TieIfIdentical::around(inner) })
    }

    #[test]
    fn twice_p_is_replaced_and_p_is_flipped() {
        let n = 4000.0_f64;
        let pairs: Vec<_> = (0..4000).map(|i| comparison(i, "longer", "short")).collect();
        for per in [NoiseUnit::Instruction, NoiseUnit::Pair] {
            let (inner, asked) = Counting::new();
            let annotations = Desk::new().annotations(&*noisy(0.25, per, inner), &pairs);
            let within = |count: usize, p: f64| (count as f64 - n * p).abs() < 4.0 * (n * p * (1.0 - p)).sqrt();
            let n_noised = annotations.iter().filter(|annotation| annotation.noised).count();
            let n_flipped = annotations.iter().filter(|annotation| annotation.preference == Preference::Second).count();
            assert!(within(n_noised, 0.5) && within(n_flipped, 0.25), "{n_noised} {n_flipped}");
            assert_eq!(asked.count() + n_noised, 4000);
        }
    }

    #[test]
    fn what_is_not_replaced_is_the_inner_verdict_and_ties_of_identical_answers_stay() {
        let mut pairs = varied(100);
        pairs.push(comparison(7, "same", "same"));
        let desk = Desk::new();
        let (plain, _) = Counting::new();
        let plain = desk.preferences(&plain, &pairs);
        let noised = desk.annotations(&*noisy(0.5, NoiseUnit::Instruction, Counting::new().0), &pairs);
        assert!(noised[..100].iter().all(|annotation| annotation.noised));
        assert!(!noised[100].noised && noised[100].preference == Preference::Tie);
        assert_eq!(plain, desk.preferences(&*noisy(0.0, NoiseUnit::Instruction, Counting::new().0), &pairs));
    }

    /// Prefers the second answer with three quarters.
    struct Unsure;

    #[async_trait]
    impl Annotator for Unsure {
        fn id(&self) -> &str {
            "unsure"
        }

        async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
            comparisons.iter().map(|_| Ok(Annotation::new("unsure", Preference::Graded(0.75)))).collect()
        }
    }

    /// AlpacaEval mixes coins among graded verdicts without a mark; here each one is marked, and the others stay graded.
    #[test]
    fn coins_among_graded_verdicts_can_be_told_apart() {
        let judged = Desk::new().annotations(&*noisy(0.25, NoiseUnit::Instruction, Unsure), &varied(100));
        let (noised, graded): (Vec<_>, Vec<_>) = judged.into_iter().partition(|annotation| annotation.noised);
        assert!(noised.len() > 30 && noised.iter().all(|a| matches!(a.preference, Preference::First | Preference::Second)));
        assert!(graded.len() > 30 && graded.iter().all(|annotation| annotation.preference == Preference::Graded(0.75)));
    }

    #[test]
    fn an_instruction_has_one_coin_and_a_pair_has_its_own() {
        let desk = Desk::new();
        let pairs: Vec<_> = (0..60).flat_map(|i| ["x", "yy", "zzz"].map(|second| comparison(i, "a", second))).collect();
        let noised =
            |per| desk.annotations(&*noisy(0.25, per, Counting::new().0), &pairs).iter().map(|a| a.noised).collect::<Vec<_>>();
        let is_shared = |flags: Vec<bool>| flags.chunks(3).all(|three| three.iter().all(|flag| *flag == three[0]));
        assert!(is_shared(noised(NoiseUnit::Instruction)));
        assert!(!is_shared(noised(NoiseUnit::Pair)));
        let swapped: Vec<_> = pairs.iter().map(Comparison::swapped).collect();
        let judge = noisy(0.5, NoiseUnit::Pair, Counting::new().0);
        let turned: Vec<_> = desk.preferences(&*judge, &swapped).into_iter().map(Preference::swapped).collect();
        assert_eq!(desk.preferences(&*judge, &pairs), turned);
    }

    #[test]
    fn a_failure_of_the_inner_annotator_stays_with_its_pair() {
        let judge = noisy(0.0, NoiseUnit::Instruction, Picky);
        let results = Desk::new().annotate(&*judge, &[comparison(0, "fail", "b"), comparison(1, "a", "bb")]);
        assert!(results[0].is_err() && results[1].is_ok());
    }

    #[test]
    fn options_out_of_range_are_named() {
        let inner = AnnotatorSpec::from_json("label_noise", "{}").expect("known");
        let paths: Vec<String> =
            LabelNoiseConfig { p: 0.6, inner, ..LabelNoiseConfig::default() }.problems().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["p", "inner"]);
        let theirs = LabelNoiseConfig { per: NoiseUnit::Pair, seeding: Seeding::AlpacaFarm, ..LabelNoiseConfig::default() };
        assert_eq!(theirs.problems().into_iter().map(|p| p.path).collect::<Vec<_>>(), ["per"]);
        assert!(LabelNoiseConfig::default().problems().is_empty());
    }
}
