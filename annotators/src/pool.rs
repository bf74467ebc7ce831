//! Several annotators, one chosen for each instruction: the disagreement between people, simulated.
//!
//! Which member judges follows from the seed and the instruction alone (AlpacaFarm's scheme, Dubois et al., 2023, section 3),
//! so every model is judged on an instruction by the same member, whatever else is in the file.

use std::collections::BTreeSet;

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Judging};
use farmhand_core::{
    Annotator, AnnotatorConfig, AnnotatorSpec, BuildContext, Error, Forecast, Problem, Result, RunContext, Seed, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::default_pool::default_members;
use crate::join_all::join_all;
use crate::seeding::{Draw, Seeding};
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "pool", config: PoolConfig,
    summary: "several annotators, one chosen for each instruction; by default eight simulated raters",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.pool]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// The annotators to choose from, at least one. By default the embedded pool of simulated raters, which needs no network.
    pub members: Vec<PoolMember>,
    /// How the choice is seeded: farmhand's way, or so that it is AlpacaFarm's or AlpacaEval's own.
    pub seeding: Seeding,
    /// The number in their seed, by default 0 as theirs; farmhand's own seeding follows the run's seed instead.
    pub seeding_seed: u64,
}

/// One member of a pool.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolMember {
    /// The name its annotations carry; no two members share one.
    pub name: String,
    /// How often it is chosen, relative to the others, ≥ 0.
    #[serde(default = "one")]
    pub weight: f64,
    /// Who judges.
    pub annotator: AnnotatorSpec,
}

fn one() -> f64 {
    1.0
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { members: default_members(), seeding: Seeding::default(), seeding_seed: 0 }
    }
}

#[typetag::serde(name = "pool")]
impl AnnotatorConfig for PoolConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let build = |member: &PoolMember| {
            let annotator = TieIfIdentical::build(&member.annotator, ctx)
                .map_err(|error| error.context(format_args!("pool member `{}`", member.name)))?;
            Ok(Member { name: member.name.clone(), weight: member.weight, annotator })
        };
        let members = self.members.iter().map(build).collect::<Result<_>>()?;
        Ok(Box::new(Pool { members, seeding: self.seeding, seeding_seed: self.seeding_seed }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut names = BTreeSet::new();
        for (i, member) in self.members.iter().enumerate() {
            let path = |key: &str| format!("members[{i}].{key}");
            if member.name.is_empty() {
                problems.push(Problem::new(path("name"), "expected a name, got an empty text"));
            } else if !names.insert(&member.name) {
                problems.push(Problem::new(path("name"), format!("two members are named `{}`", member.name)));
            }
            if !(member.weight >= 0.0 && member.weight.is_finite()) {
                problems.push(Problem::new(path("weight"), format!("expected a number ≥ 0, got {}", member.weight)));
            }
            problems.extend(member.annotator.problems().into_iter().map(|problem| problem.under(&path("annotator"))));
        }
        if self.members.is_empty() {
            problems.push(
                Problem::new("members", "a pool needs at least one member")
                    .with_hint("leave `members` out for the embedded pool"),
            );
        } else if self.members.iter().all(|member| member.weight == 0.0) {
            problems.push(Problem::new("members", "every member has weight 0, so none can be chosen"));
        }
        problems
    }
}

struct Member {
    name: String,
    weight: f64,
    annotator: Box<dyn Annotator>,
}

struct Pool {
    members: Vec<Member>,
    seeding: Seeding,
    seeding_seed: u64,
}

impl Pool {
    /// The member that judges this instruction.
    fn member_for(&self, comparison: &Comparison, seed: Seed) -> usize {
        let weights: Vec<f64> = self.members.iter().map(|member| member.weight).collect();
        if let Some(mut python) = self.seeding.python(Draw::Member, &comparison.instruction, self.seeding_seed) {
            // Equal weights are none, as in the original; the two draws differ by rounding.
            let is_even = weights.iter().all(|weight| *weight == weights[0]);
            return if is_even { python.choices(weights.len()) } else { python.choices_weighted(&weights) };
        }
        let mut rng = seed.child_text("pool member", &comparison.instruction.id).rng();
        rng.weighted(&weights).expect("a pool without a positive weight is refused before it is built")
    }
}

#[async_trait]
impl Annotator for Pool {
    fn id(&self) -> &str {
        "pool"
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let chosen: Vec<usize> = comparisons.iter().map(|comparison| self.member_for(comparison, ctx.seed)).collect();
        let ask = |(i, member)| -> std::pin::Pin<Box<dyn Future<Output = Vec<Result<Annotation>>> + Send + '_>> {
            let theirs: Vec<Comparison> = comparisons
                .iter()
                .zip(&chosen)
                .filter(|(_, member)| **member == i)
                .map(|(comparison, _)| comparison.clone())
                .collect();
            Box::pin(ask_member(member, theirs, *ctx))
        };
        let answers = join_all(self.members.iter().enumerate().map(ask).collect()).await;
        let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
        chosen.iter().map(|member| answers[*member].next().expect("the gate gives one result a comparison")).collect()
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.members.iter().filter_map(|member| member.annotator.comparisons_at_once()).max()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let mut forecast = Forecast::default();
        for (i, member) in self.members.iter().enumerate() {
            let theirs = comparisons.iter().filter(|comparison| self.member_for(comparison, ctx.seed) == i);
            let ctx = member_context(member, ctx);
            forecast += member.annotator.forecast(&theirs.cloned().collect::<Vec<_>>(), &ctx)?;
        }
        Ok(forecast)
    }
}

/// The context in which a member judges.
fn member_context<'a>(member: &Member, ctx: &RunContext<'a>) -> RunContext<'a> {
    ctx.with_seed(ctx.seed.child_text("pool stream", &member.name))
}

/// The member's verdicts under its name. Each member has its own random stream, named by it.
async fn ask_member(member: &Member, comparisons: Vec<Comparison>, ctx: RunContext<'_>) -> Vec<Result<Annotation>> {
    if comparisons.is_empty() {
        return Vec::new();
    }
    let ctx = member_context(member, &ctx);
    let results = member.annotator.annotate(&comparisons, &ctx).await;
    let named = |annotation| Annotation { annotator: member.name.clone(), ..annotation };
    let failed = |error: Error| error.map_judging(|judging| Judging { annotator: Some(member.name.clone()), ..judging });
    results.into_iter().map(|result| result.map(named).map_err(failed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, Desk, FirstShown, Picky, comparison, varied};
    use farmhand_core::Device;
    use std::collections::BTreeMap;

    fn pool(members: Vec<(&str, f64, Box<dyn Annotator>)>) -> Pool {
        let member = |(name, weight, annotator): (&str, f64, _)| Member { name: name.to_owned(), weight, annotator };
        Pool { members: members.into_iter().map(member).collect(), seeding: Seeding::default(), seeding_seed: 0 }
    }

    fn two(weights: [f64; 2]) -> Pool {
        let boxed = TieIfIdentical::around;
        pool(vec![("first", weights[0], boxed(FirstShown)), ("longer", weights[1], TieIfIdentical::around(Counting::new().0))])
    }

    #[test]
    fn the_member_follows_the_instruction_and_nothing_else() {
        let (desk, judges) = (Desk::new(), two([1.0, 1.0]));
        let one_model: Vec<_> = (0..100).map(|i| comparison(i, "reference", "answer of one model")).collect();
        let other_model: Vec<_> = (0..100).rev().map(|i| comparison(i, "reference", "another's")).collect();
        let names = |pairs: &[Comparison]| -> BTreeMap<String, String> {
            let annotations = desk.annotations(&judges, pairs);
            pairs.iter().zip(annotations).map(|(pair, annotation)| (pair.instruction.id.clone(), annotation.annotator)).collect()
        };
        assert_eq!(names(&one_model), names(&other_model));
        assert_eq!(
            names(&one_model[..7]),
            names(&one_model).into_iter().filter(|(id, _)| one_model[..7].iter().any(|c| c.instruction.id == *id)).collect()
        );
    }

    #[test]
    fn members_are_chosen_by_weight() {
        let pairs: Vec<_> = (0..2000).map(|i| comparison(i, "a", "bb")).collect();
        let annotations = Desk::new().annotations(&two([1.0, 3.0]), &pairs);
        let n_first = annotations.iter().filter(|annotation| annotation.annotator == "first").count() as f64;
        assert!((n_first - 500.0).abs() < 4.0 * (2000.0_f64 * 0.25 * 0.75).sqrt(), "{n_first}");
        let never = Desk::new().annotations(&two([0.0, 1.0]), &pairs);
        assert!(never.iter().all(|annotation| annotation.annotator == "longer"));
    }

    #[test]
    fn a_failing_member_fails_for_its_pairs_only() {
        let judges = pool(vec![("picky", 1.0, TieIfIdentical::around(Picky))]);
        let results =
            Desk::new().annotate(&judges, &[comparison(0, "a", "bb"), comparison(1, "fail", "b"), comparison(2, "same", "same")]);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(results[2].as_ref().expect("a tie").annotator, "picky");
        let failed = results[1].as_ref().expect_err("failed").judging().expect("says who was asked");
        assert_eq!(failed.annotator.as_deref(), Some("picky"));
    }

    #[test]
    fn the_default_pool_builds_and_every_member_judges() {
        let desk = Desk::new();
        let config = PoolConfig::default();
        assert!(config.problems().is_empty(), "{:?}", config.problems());
        let judges = config.build(&BuildContext::new(Device::Cpu, desk.dir.path())).expect("built");
        let annotations = desk.annotations(&*judges, &varied(300));
        let names: BTreeSet<_> = annotations.iter().map(|annotation| annotation.annotator.clone()).collect();
        assert_eq!(names, config.members.iter().map(|member| member.name.clone()).collect());
        assert!(annotations.iter().all(|annotation| annotation.cost_usd.is_none() && annotation.time_secs.is_none()));
    }

    #[test]
    fn what_is_wrong_with_a_pool_is_located() {
        let text = r#"{"members": [{"name": "a", "annotator": {"rater": {"temperature": -1.0}}}, {"name": "a", "weight": -1.0, "annotator": {"rater": {}}}]}"#;
        let config: PoolConfig = serde_json::from_str(text).expect("reads");
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["members[0].annotator.rater.temperature", "members[1].name", "members[1].weight"]);
        assert_eq!(PoolConfig { members: Vec::new(), ..PoolConfig::default() }.problems()[0].path, "members");
    }
}
