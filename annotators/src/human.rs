//! People's recorded verdicts as an annotator: what several raters said of a pair becomes one verdict.
//!
//! A comparison is looked up by its content, in either order, as in [`from_file`](crate::from_file). How the raters' verdicts become one
//! is an option: the majority, their mean, the likeliest truth given how reliable each is (Dawid and Skene), one rater's word, or that
//! of a rater drawn for each pair, which shows a learner the raters as they are, disagreement included (AlpacaFarm has one crowd
//! worker a pair).

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use async_trait::async_trait;
use farmhand_core::data::{ReadOptions, UNKNOWN_ANNOTATOR, VerdictScale, read_judgements};
use farmhand_core::types::{Annotation, Comparison, Failure, Judgement, Outcome, Preference, UnorderedPair};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Error, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregation::dawid_skene::{DawidSkene, Label};
use crate::aggregation::votes;
use crate::order_swap::turn_back;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "human", config: HumanConfig,
    summary: "people's recorded verdicts, several raters made one: majority, mean, Dawid–Skene, or one of them",
    paper: "https://doi.org/10.2307/2346806",
}

/// Options of `[annotator.human]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HumanConfig {
    /// The name that a verdict of several raters carries.
    pub name: String,
    /// The files of verdicts, in any form that farmhand reads as judgements. Where a file does not say who judged, and there are
    /// several files, the rater is the file's name.
    pub paths: Vec<PathBuf>,
    /// The ordinal scale of verdicts that are numbers, such as `1..4` or `-3..3`; unset: 1 the first, 2 the second, 1.5 or 0 a tie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<VerdictScale>,
    /// How several verdicts on one pair become one.
    pub aggregate: Aggregate,
    /// How much better the better answer is, for learners that use a margin.
    pub margin: Margin,
}

impl Default for HumanConfig {
    fn default() -> Self {
        Self {
            name: "people".to_owned(),
            paths: Vec::new(),
            scale: None,
            aggregate: Aggregate::default(),
            margin: Margin::default(),
        }
    }
}

/// How several verdicts on one pair become one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The side that more raters are on; as many on each is a tie.
    #[default]
    Majority,
    /// The mean probability that the second answer is better, a tie counting ½.
    Mean,
    /// The probability of the truth behind the verdicts, given how reliable each rater turns out to be over the whole file; a tie
    /// where that is likeliest.
    DawidSkene(DawidSkene),
    /// The verdict of one rater, drawn for each pair from those who judged it.
    Draw,
    /// The verdict of the rater with this name; a pair that the rater did not judge is a failure.
    Rater(String),
}

/// Where a pair's margin comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// The raters: the mean of their grades on the scale, those of the other side counting against it. None where none are recorded.
    #[default]
    Grades,
    /// The votes: the share for the better answer less the share for the other, in [0, 1].
    Votes,
    /// No margin.
    None,
}

#[typetag::serde(name = "human")]
impl AnnotatorConfig for HumanConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        if self.paths.is_empty() {
            return Err(Error::invalid_config("`paths`: files of people's verdicts are needed"));
        }
        let mut judgements = Vec::new();
        for path in &self.paths {
            let path = ctx.resolve(path);
            let (read, _) = read_judgements(&path, &ReadOptions { scale: self.scale, ..ReadOptions::default() })?;
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            judgements
                .extend(read.into_iter().map(|judgement| if self.paths.len() > 1 { named(judgement, &stem) } else { judgement }));
        }
        Ok(TieIfIdentical::around(Human::new(self.clone(), judgements)?))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        if self.paths.is_empty() {
            problems.push(Problem::new("paths", "files of people's verdicts are needed"));
        }
        match &self.aggregate {
            Aggregate::DawidSkene(model) => problems.extend(
                model
                    .problems()
                    .into_iter()
                    .map(|(option, message)| Problem::new(format!("aggregate.dawid_skene.{option}"), message)),
            ),
            Aggregate::Rater(name) if name.is_empty() => {
                problems.push(Problem::new("aggregate.rater", "expected a name, got an empty text"));
            }
            _ => {}
        }
        problems
    }
}

/// The judgement with the file's name for a rater without one.
fn named(mut judgement: Judgement, stem: &str) -> Judgement {
    if let Outcome::Annotation(annotation) = &mut judgement.outcome
        && annotation.annotator == UNKNOWN_ANNOTATOR
    {
        stem.clone_into(&mut annotation.annotator);
    }
    judgement
}

/// What raters said of one pair, about the answers in the order in which the pair first appears.
#[derive(Debug, Default)]
struct Rated {
    is_turned: bool,
    verdicts: Vec<Annotation>,
    /// Why someone came to no verdict.
    failure: Option<Failure>,
    /// The probabilities of first, tie and second, where a model of raters gives them.
    truth: Option<[f64; 3]>,
}

struct Human {
    config: HumanConfig,
    pairs: HashMap<String, Rated>,
}

impl Human {
    fn new(config: HumanConfig, judgements: Vec<Judgement>) -> Result<Self> {
        let mut pairs: HashMap<String, Rated> = HashMap::new();
        // In the file's order, which Dawid and Skene's sums follow.
        let mut order = Vec::new();
        for Judgement { comparison, outcome } in judgements {
            let pair = UnorderedPair::as_asked(&comparison);
            let rated = pairs.entry(pair.id).or_insert_with_key(|id| {
                order.push(id.clone());
                Rated { is_turned: pair.is_turned, ..Rated::default() }
            });
            match outcome {
                Outcome::Annotation(annotation) => {
                    let turned = pair.is_turned != rated.is_turned;
                    rated.verdicts.push(if turned { turn_back(annotation) } else { annotation });
                }
                Outcome::Failure(failure) => rated.failure = Some(failure),
            }
        }
        let mut raters: Vec<&str> =
            pairs.values().flat_map(|rated| &rated.verdicts).map(|verdict| verdict.annotator.as_str()).collect();
        raters.sort_unstable();
        raters.dedup();
        if raters.is_empty() {
            return Err(Error::missing_input("the files of people's verdicts hold no verdict"));
        }
        if let Aggregate::Rater(name) = &config.aggregate
            && !raters.contains(&name.as_str())
        {
            let hint = farmhand_core::config::did_you_mean(name, &raters);
            return Err(Error::missing_input(format!("no verdict of the rater `{name}`")).with_hint(hint));
        }
        if let Aggregate::DawidSkene(model) = &config.aggregate {
            let truth = likeliest(model, &order, &pairs, &raters)?;
            for (id, probabilities) in order.iter().zip(truth) {
                if let Some(rated) = pairs.get_mut(id) {
                    rated.truth = Some(probabilities);
                }
            }
        }
        Ok(Self { config, pairs })
    }

    fn look_up(&self, comparison: &Comparison, ctx: &RunContext<'_>) -> Result<Annotation> {
        let pair = UnorderedPair::as_asked(comparison);
        let rated = self.pairs.get(&pair.id).ok_or_else(|| Error::missing_input("no rater's verdict on this pair of answers"))?;
        if rated.verdicts.is_empty() {
            let failure =
                rated.failure.clone().unwrap_or_else(|| Failure::new(farmhand_core::ErrorKind::MissingInput, "no verdict"));
            return Err(Error::new(failure.kind, failure.message));
        }
        let annotation = self.one_of(rated, &pair.id, ctx)?;
        let annotation = Annotation { cached: true, ..annotation };
        Ok(if pair.is_turned == rated.is_turned { annotation } else { turn_back(annotation) })
    }

    /// The one verdict.
    fn one_of(&self, rated: &Rated, id: &str, ctx: &RunContext<'_>) -> Result<Annotation> {
        let preferences: Vec<Preference> = rated.verdicts.iter().map(|verdict| verdict.preference).collect();
        let preference = match &self.config.aggregate {
            Aggregate::Majority => votes::majority(&preferences),
            Aggregate::Mean => votes::mean(&preferences)?,
            Aggregate::DawidSkene(_) => {
                let [first, tie, second] = rated.truth.expect("every pair with a verdict was fitted");
                if tie > first.max(second) { Preference::Tie } else { Preference::from_p_second((second + tie / 2.0).min(1.0))? }
            }
            Aggregate::Rater(name) => {
                let own = rated.verdicts.iter().find(|verdict| verdict.annotator == *name);
                let missing = || Error::missing_input(format!("the rater `{name}` did not judge this pair of answers"));
                return Ok(self.single(own.ok_or_else(missing)?));
            }
            Aggregate::Draw => {
                let mut verdicts: Vec<&Annotation> = rated.verdicts.iter().collect();
                verdicts.sort_by(|a, b| a.annotator.cmp(&b.annotator));
                let mut rng = ctx.seed.child_text("rater", id).rng();
                return Ok(self.single(verdicts[rng.below(verdicts.len())]));
            }
        };
        let margins: Vec<(Preference, Option<f64>)> =
            rated.verdicts.iter().map(|verdict| (verdict.preference, verdict.margin)).collect();
        let margin = match self.config.margin {
            Margin::Grades => votes::margin(preference, &margins),
            Margin::Votes => Some(votes::lead(&preferences)),
            Margin::None => None,
        };
        let said = |verdict: &Annotation| format!("{} {}", verdict.annotator, verdict.preference.code());
        let sum = |of: fn(&Annotation) -> Option<f64>| rated.verdicts.iter().filter_map(of).reduce(|a, b| a + b);
        Ok(Annotation {
            margin,
            raw: Some(rated.verdicts.iter().map(said).collect::<Vec<_>>().join(", ")),
            cost_usd: sum(|verdict| verdict.cost_usd),
            time_secs: sum(|verdict| verdict.time_secs),
            ..Annotation::new(self.config.name.clone(), preference)
        })
    }

    /// One rater's verdict as it was recorded.
    fn single(&self, verdict: &Annotation) -> Annotation {
        let margin = match self.config.margin {
            Margin::Grades => verdict.margin,
            Margin::Votes => Some(votes::lead(&[verdict.preference])),
            Margin::None => None,
        };
        Annotation { margin, ..verdict.clone() }
    }
}

#[async_trait]
impl Annotator for Human {
    fn id(&self) -> &str {
        &self.config.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        comparisons.iter().map(|comparison| self.look_up(comparison, ctx)).collect()
    }
}

/// The probabilities of first, tie and second of each pair.
fn likeliest(model: &DawidSkene, order: &[String], pairs: &HashMap<String, Rated>, raters: &[&str]) -> Result<Vec<[f64; 3]>> {
    let number: BTreeMap<&str, usize> = raters.iter().enumerate().map(|(i, rater)| (*rater, i)).collect();
    let is_tie = |verdict: &Annotation| verdict.preference == Preference::Tie;
    // Without a single tie there is no such class to learn.
    let with_ties = pairs.values().flat_map(|rated| &rated.verdicts).any(is_tie);
    let class = |verdict: &Annotation| match verdict.preference.p_second() {
        p if p < 0.5 => 0,
        p if p > 0.5 => 1,
        _ => 2,
    };
    let of_pair = |(item, id): (usize, &String)| -> Vec<Label> {
        let verdicts = pairs.get(id).map_or(&[][..], |rated| &rated.verdicts);
        verdicts.iter().map(|v| Label { item, rater: number[v.annotator.as_str()], class: class(v) }).collect()
    };
    let labels: Vec<Label> = order.iter().enumerate().flat_map(of_pair).collect();
    let fit = model.fit(&labels, order.len(), raters.len(), if with_ties { 3 } else { 2 })?;
    Ok(fit.posteriors.iter().map(|p| [p[0], p.get(2).copied().unwrap_or(0.0), p[1]]).collect())
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Instruction, ShownOrder};
    use farmhand_core::{Device, ErrorKind};

    use super::*;
    use crate::testing::Desk;

    fn vote(i: usize, rater: &str, preference: &str) -> String {
        format!(r#"{{"instruction": "i{i}", "output_1": "a", "output_2": "b", "rater": "{rater}", "preference": {preference}}}"#)
    }

    fn asked(i: usize) -> Comparison {
        Comparison::new(Instruction::new(format!("i{i}"), None), "a", "b")
    }

    fn people(desk: &Desk, lines: &[String], aggregate: Aggregate) -> Result<Box<dyn Annotator>> {
        std::fs::write(desk.dir.path().join("votes.jsonl"), lines.join("\n")).expect("written");
        let scale = Some("-2..2".parse().expect("a scale"));
        let config = HumanConfig { paths: vec!["votes.jsonl".into()], scale, aggregate, ..HumanConfig::default() };
        assert_eq!(config.problems(), []);
        config.build(&BuildContext::new(Device::Cpu, desk.dir.path()))
    }

    #[test]
    fn every_way_to_one_verdict() {
        let desk = Desk::new();
        let lines =
            [vote(0, "ann", "-2"), vote(0, "bob", "-1"), vote(0, "cem", "2"), vote(1, "ann", "0"), vote(2, "ann", "null")];
        let say =
            |aggregate: Aggregate| desk.annotations(&*people(&desk, &lines, aggregate).expect("built"), &[asked(0)]).remove(0);
        let majority = say(Aggregate::Majority);
        assert_eq!((majority.preference, majority.annotator.as_str(), majority.cached), (Preference::First, "people", true));
        assert_eq!(majority.raw.as_deref(), Some("ann 1, bob 1, cem 2"));
        assert!((majority.margin.expect("graded") - 1.0 / 3.0).abs() < 1e-15);
        assert!((say(Aggregate::Mean).preference.p_second() - 1.0 / 3.0).abs() < 1e-15);
        let cem = say(Aggregate::Rater("cem".to_owned()));
        assert_eq!((cem.preference, cem.annotator.as_str(), cem.margin), (Preference::Second, "cem", Some(2.0)));
        assert!(say(Aggregate::DawidSkene(DawidSkene::default())).preference.p_second() < 0.5);
        let error = people(&desk, &lines, Aggregate::Rater("dee".to_owned())).err().expect("nobody");
        assert!(error.message().contains("no verdict of the rater `dee`") && error.hint().is_some(), "{error}");

        let judge = people(&desk, &lines, Aggregate::Majority).expect("built");
        let results = desk.annotate(&*judge, &[asked(0).swapped(), asked(1), asked(2), asked(3)]);
        let turned = results[0].as_ref().expect("a verdict");
        assert_eq!((turned.preference, turned.shown), (Preference::Second, ShownOrder::Swapped));
        assert_eq!(results[1].as_ref().expect("a verdict").preference, Preference::Tie);
        assert_eq!(results[2].as_ref().expect_err("none recorded").kind(), ErrorKind::UnparsableAnswer);
        assert_eq!(results[3].as_ref().expect_err("unknown").kind(), ErrorKind::MissingInput);
    }

    #[test]
    fn the_drawn_rater_follows_the_seed_and_the_pair_and_all_are_drawn() {
        let desk = Desk::new();
        let lines: Vec<String> =
            (0..200).flat_map(|i| [vote(i, "ann", "-1"), vote(i, "bob", "1"), vote(i, "cem", "0")]).collect();
        let mut backwards = lines.clone();
        backwards.reverse();
        let pairs: Vec<Comparison> = (0..200).map(asked).collect();
        let raters = |lines: &[String], seed: u64| -> Vec<String> {
            let judge = people(&desk, lines, Aggregate::Draw).expect("built");
            let ctx = desk.context(seed);
            ctx.block_on(judge.annotate(&pairs, &ctx)).into_iter().map(|result| result.expect("a verdict").annotator).collect()
        };
        let drawn = raters(&lines, 0);
        assert_eq!(drawn, raters(&backwards, 0));
        assert_ne!(drawn, raters(&lines, 1));
        for rater in ["ann", "bob", "cem"] {
            let n = drawn.iter().filter(|name| *name == rater).count();
            assert!((40..95).contains(&n), "{rater}: {n}");
        }
    }

    #[test]
    fn a_rater_who_is_often_wrong_is_outvoted_by_one_who_is_not() {
        // Ann and bob agree on everything; cem and dee say the first whatever they see. On pairs 30 to 39 only ann, cem and dee.
        let desk = Desk::new();
        let truth = |i: usize| if i.is_multiple_of(2) { "-1" } else { "1" };
        let mut lines = Vec::new();
        for i in 0..40 {
            lines.push(vote(i, "ann", truth(i)));
            lines.extend((i < 30).then(|| vote(i, "bob", truth(i))));
            lines.extend([vote(i, "cem", "-1"), vote(i, "dee", "-1")]);
        }
        let odd: Vec<Comparison> = (30..40).filter(|i| i % 2 == 1).map(asked).collect();
        let majority = people(&desk, &lines, Aggregate::Majority).expect("built");
        assert!(desk.preferences(&*majority, &odd).iter().all(|preference| *preference == Preference::First));
        let model = DawidSkene { trust: 2.0, ..DawidSkene::default() };
        let fitted = people(&desk, &lines, Aggregate::DawidSkene(model)).expect("built");
        assert!(desk.preferences(&*fitted, &odd).iter().all(|preference| preference.p_second() > 0.9));
    }

    #[test]
    fn files_name_raters_who_have_none_and_votes_make_margins() {
        let desk = Desk::new();
        for (file, preference) in [("ann.jsonl", "1"), ("bob.jsonl", "1"), ("cem.jsonl", "2")] {
            let line = format!(r#"{{"instruction": "i0", "output_1": "a", "output_2": "b", "preference": {preference}}}"#);
            std::fs::write(desk.dir.path().join(file), line).expect("written");
        }
        let paths = ["ann.jsonl", "bob.jsonl", "cem.jsonl"].map(PathBuf::from).to_vec();
        let config = HumanConfig { paths, margin: Margin::Votes, ..HumanConfig::default() };
        let judge = config.build(&BuildContext::new(Device::Cpu, desk.dir.path())).expect("built");
        let verdict = desk.annotations(&*judge, &[asked(0)]).remove(0);
        assert_eq!(verdict.raw.as_deref(), Some("ann 1, bob 1, cem 2"));
        assert!((verdict.margin.expect("votes") - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(HumanConfig::default().problems().len(), 1);
    }
}
