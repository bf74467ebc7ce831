//! Recorded verdicts, replayed: of people, of an earlier run, of AlpacaEval's published annotations.
//!
//! A comparison is looked up by its content: what was asked (instruction and input joined, as AlpacaEval stores them) and both
//! answers, in either order; a verdict recorded in the other order is turned. A pair that is not in the file is a failure,
//! never a tie.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use async_trait::async_trait;
use farmhand_core::data::{ReadOptions, read_judgements};
use farmhand_core::types::{Annotation, Comparison, Failure, Judgement, Outcome, Preference, UnorderedPair};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Error, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregation::votes;
use crate::order_swap::turn_back;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "from_file", config: FromFileConfig,
    summary: "replays recorded verdicts: people's, an earlier run's, AlpacaEval's",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.from_file]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FromFileConfig {
    /// The file of judgements: farmhand's own or AlpacaEval's annotations, as JSON or JSON Lines, also compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Use only this annotator's verdicts; unset: everyone's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotator: Option<String>,
    /// What to make of several verdicts on one pair that do not agree.
    pub repeats: Repeats,
}

/// What to make of several verdicts on one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// Refuse the file when they do not agree.
    #[default]
    Refuse,
    /// Take the first in the file.
    First,
    /// Take the side that more of them are on; as many on each is a tie.
    Majority,
    /// Take the mean probability that the second answer is better.
    Mean,
}

#[typetag::serde(name = "from_file")]
impl AnnotatorConfig for FromFileConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let path = self.path.as_ref().ok_or_else(|| Error::invalid_config("`path`: a file of recorded verdicts is needed"))?;
        let path = ctx.resolve(path);
        let (judgements, _) = read_judgements(&path, &ReadOptions::default())?;
        let named = |error: Error| error.context(format_args!("`{}`", path.display()));
        let verdicts = index(judgements, self.annotator.as_deref(), self.repeats).map_err(named)?;
        if verdicts.is_empty() {
            let by = self.annotator.as_deref().map(|name| format!(" by `{name}`")).unwrap_or_default();
            return Err(Error::missing_input(format!("`{}` holds no verdict{by}", path.display())));
        }
        let stem = || path.file_stem().map_or_else(|| "from_file".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let id = self.annotator.clone().unwrap_or_else(stem);
        Ok(TieIfIdentical::around(FromFile { id, path, verdicts }))
    }

    fn problems(&self) -> Vec<Problem> {
        let missing = self.path.is_none().then(|| Problem::new("path", "a file of recorded verdicts is needed"));
        missing.into_iter().collect()
    }
}

/// What the file says of a pair, with its answers in sorted order.
type Recorded = Result<Annotation, Failure>;

struct FromFile {
    id: String,
    path: PathBuf,
    verdicts: HashMap<String, Recorded>,
}

#[async_trait]
impl Annotator for FromFile {
    fn id(&self) -> &str {
        &self.id
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        comparisons.iter().map(|comparison| self.look_up(comparison)).collect()
    }
}

impl FromFile {
    /// The recorded verdict, flagged `cached`: it keeps what it once cost, but nothing is paid again.
    fn look_up(&self, comparison: &Comparison) -> Result<Annotation> {
        let pair = UnorderedPair::as_asked(comparison);
        match self.verdicts.get(&pair.id) {
            None => Err(Error::missing_input(format!("`{}` has no verdict on this pair of answers", self.path.display()))),
            Some(Err(failure)) => Err(Error::new(failure.kind, failure.message.clone())),
            Some(Ok(annotation)) => {
                let annotation = Annotation { cached: true, ..annotation.clone() };
                Ok(if pair.is_turned { turn_back(annotation) } else { annotation })
            }
        }
    }
}

/// The verdicts by pair. A verdict of anyone outweighs a failure on the same pair.
fn index(judgements: Vec<Judgement>, annotator: Option<&str>, repeats: Repeats) -> Result<HashMap<String, Recorded>> {
    let mut by_pair: HashMap<String, (Vec<Annotation>, Option<Failure>)> = HashMap::new();
    for Judgement { comparison, outcome } in judgements {
        let pair = UnorderedPair::as_asked(&comparison);
        let (verdicts, failed) = by_pair.entry(pair.id).or_default();
        match outcome {
            Outcome::Annotation(annotation) if annotator.is_some_and(|name| name != annotation.annotator) => {}
            Outcome::Annotation(annotation) => {
                verdicts.push(if pair.is_turned { turn_back(annotation) } else { annotation });
                let agree = verdicts.iter().all(|verdict| verdict.preference == verdicts[0].preference);
                if repeats == Repeats::Refuse && !agree {
                    return Err(disagreement(&comparison, verdicts));
                }
            }
            Outcome::Failure(failure) => *failed = Some(failure),
        }
    }
    let settle = |(pair, (verdicts, failure)): (String, (Vec<Annotation>, Option<Failure>))| {
        let recorded = match (verdicts.is_empty(), failure) {
            (false, _) => Ok(settled(verdicts, repeats)?),
            (true, Some(failure)) => Err(failure),
            (true, None) => return Ok(None), // someone else's verdict
        };
        Ok(Some((pair, recorded)))
    };
    by_pair.into_iter().filter_map(|entry| settle(entry).transpose()).collect()
}

/// One verdict of several.
fn settled(mut verdicts: Vec<Annotation>, repeats: Repeats) -> Result<Annotation> {
    let preferences: Vec<Preference> = verdicts.iter().map(|verdict| verdict.preference).collect();
    let preference = match repeats {
        Repeats::Refuse | Repeats::First => return Ok(verdicts.swap_remove(0)),
        _ if verdicts.len() == 1 => return Ok(verdicts.swap_remove(0)),
        Repeats::Majority => votes::majority(&preferences),
        Repeats::Mean => votes::mean(&preferences)?,
    };
    let names: BTreeSet<&str> = verdicts.iter().map(|verdict| verdict.annotator.as_str()).collect();
    let name = names.into_iter().collect::<Vec<_>>().join("+");
    let sum = |of: fn(&Annotation) -> Option<f64>| verdicts.iter().filter_map(of).reduce(|a, b| a + b);
    Ok(Annotation { cost_usd: sum(|v| v.cost_usd), time_secs: sum(|v| v.time_secs), ..Annotation::new(name, preference) })
}

fn disagreement(comparison: &Comparison, verdicts: &[Annotation]) -> Error {
    let asked: String = comparison.instruction.text().chars().take(60).collect();
    let says = |verdict: &Annotation| format!("`{}` {}", verdict.annotator, verdict.preference.code());
    let all = verdicts.iter().map(says).collect::<Vec<_>>().join(", ");
    Error::invalid_data(format!("verdicts on one pair of answers to `{asked}` do not agree: {all}"))
        .with_hint("set `repeats` to `first`, `majority` or `mean`, or name one `annotator`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Desk, comparison};
    use farmhand_core::types::{Instruction, ShownOrder};
    use farmhand_core::{Device, ErrorKind};

    fn replay(desk: &Desk, text: &str, options: FromFileConfig) -> Result<Box<dyn Annotator>> {
        std::fs::write(desk.dir.path().join("verdicts.json"), text).expect("written");
        let config = FromFileConfig { path: Some("verdicts.json".into()), ..options };
        config.build(&BuildContext::new(Device::Cpu, desk.dir.path()))
    }

    fn record(annotator: &str, output_1: &str, output_2: &str, preference: &str) -> String {
        format!(
            r#"{{"instruction": "Add.\n\n1 2", "output_1": "{output_1}", "output_2": "{output_2}", "preference": {preference},
            "annotator": "{annotator}", "price_per_example": 0.5, "time_per_example": 2}}"#
        )
    }

    fn asked(output_1: &str, output_2: &str) -> Comparison {
        Comparison::new(Instruction::new("Add.", Some("1 2")), output_1, output_2)
    }

    #[test]
    fn alpaca_evals_verdicts_are_found_in_both_orders_and_whatever_holds_the_input() {
        let desk = Desk::new();
        let text = format!("[{}, {}]", record("gpt4", "b", "a", "1.25"), record("gpt4", "c", "d", "null"));
        let judge = replay(&desk, &text, FromFileConfig::default()).expect("built");
        let merged = Comparison::new(Instruction::new("Add.\n\n1 2", None), "b", "a");
        let results = desk.annotate(&*judge, &[asked("b", "a"), asked("a", "b"), merged, asked("c", "d"), asked("a", "c")]);
        let verdict = |i: usize| results[i].as_ref().expect("a verdict");
        assert_eq!((verdict(0).preference, verdict(0).shown), (Preference::Graded(0.25), ShownOrder::AsGiven));
        assert_eq!((verdict(1).preference, verdict(1).shown), (Preference::Graded(0.75), ShownOrder::Swapped));
        assert_eq!(verdict(2), verdict(0));
        assert_eq!((verdict(0).annotator.as_str(), verdict(0).cost_usd, verdict(0).cached), ("gpt4", Some(0.5), true));
        assert_eq!(results[3].as_ref().expect_err("recorded as failed").kind(), ErrorKind::UnparsableAnswer);
        assert_eq!(results[4].as_ref().expect_err("not recorded").kind(), ErrorKind::MissingInput);
    }

    #[test]
    fn our_own_judgements_come_back_as_they_were() {
        let desk = Desk::new();
        let pairs = [comparison(0, "a", "b"), comparison(1, "d", "c"), comparison(2, "e", "f")];
        let annotation =
            |p| Annotation { scores: Some([1.0, 2.0]), raw: Some("Output (b)".into()), ..Annotation::new("judge", p) };
        let outcomes = [Ok(annotation(Preference::Second)), Ok(annotation(Preference::Tie)), Err(Error::non_finite("no score"))];
        let judgements = pairs.iter().cloned().zip(outcomes).map(|(pair, outcome)| Judgement::new(pair, outcome));
        let lines: Vec<String> = judgements.map(|judgement| serde_json::to_string(&judgement).expect("serialises")).collect();
        let judge = replay(&desk, &lines.join("\n"), FromFileConfig::default()).expect("built");
        let results = desk.annotate(&*judge, &pairs);
        let expected = |p| Annotation { cached: true, ..annotation(p) };
        assert_eq!(results[0].as_ref().expect("a verdict"), &expected(Preference::Second));
        assert_eq!(results[1].as_ref().expect("a verdict"), &expected(Preference::Tie));
        assert_eq!(results[2].as_ref().expect_err("failed then").kind(), ErrorKind::NonFinite);
    }

    #[test]
    fn several_verdicts_on_a_pair_are_settled_as_told() {
        let desk = Desk::new();
        let text = [record("ann", "a", "b", "1"), record("bob", "b", "a", "1"), record("cem", "a", "b", "2")].join(",");
        let text = format!("[{text}]");
        let error = replay(&desk, &text, FromFileConfig::default()).err().expect("they do not agree");
        assert!(error.hint().is_some() && error.message().contains("`ann` 1, `bob` 2"), "{error}");
        let settle = |repeats, annotator: Option<&str>| {
            let options = FromFileConfig { repeats, annotator: annotator.map(str::to_owned), ..FromFileConfig::default() };
            desk.annotations(&*replay(&desk, &text, options).expect("built"), &[asked("a", "b")]).remove(0)
        };
        assert_eq!(settle(Repeats::First, None).preference, Preference::First);
        assert_eq!(settle(Repeats::Majority, None).preference, Preference::Second);
        let mean = settle(Repeats::Mean, None);
        assert_eq!((mean.preference, mean.annotator.as_str()), (Preference::Graded(2.0 / 3.0), "ann+bob+cem"));
        assert_eq!(settle(Repeats::Refuse, Some("cem")).preference, Preference::Second);
        assert!(replay(&desk, &text, FromFileConfig { annotator: Some("dee".into()), ..FromFileConfig::default() }).is_err());
    }
}
