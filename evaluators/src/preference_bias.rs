//! What a judge leans to beside quality: the longer answer, lists, the place an answer has.
//!
//! The first two as AlpacaEval's `analyze` defines them (package `alpaca_eval`, version 0.6.6). A tie counts there for neither in the
//! same way: its second answer is taken as the better *and* the worse one, so it is left out here.

use farmhand_core::types::{Comparison, EvalReport, Judgement};
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::Estimate;

register! {
    kind: Evaluator, name: "preference_bias", config: PreferenceBiasConfig,
    summary: "how often a judge prefers the longer answer, the one with a list, the one in the first place",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[evaluator.preference_bias]`.
///
/// Metrics, in % with standard errors: `prefers_longer` (of comparisons whose answers differ by more than `least_difference`
/// characters), `prefers_list` (of those where exactly one answer has a list) and `prefers_first` (mean probability of the first
/// answer); `longer_by`, the mean of (better − worse) / worse in characters. 50 % is no leaning. A metric without comparisons is left out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceBiasConfig {
    /// Answers are of unequal length when they differ by more than this many characters (Unicode code points).
    pub least_difference: usize,
    /// What counts as a list.
    pub lists: ListRule,
}

impl Default for PreferenceBiasConfig {
    fn default() -> Self {
        Self { least_difference: 30, lists: ListRule::default() }
    }
}

/// What counts as a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListRule {
    /// A line that begins with `*`, `•` or `-`, a number or a letter with `.` or `)`, and goes on with a word.
    #[default]
    LineStart,
    /// The same anywhere in the text, as AlpacaEval has it: "well-known" and "it is. Then" are lists, too.
    Anywhere,
}

#[typetag::serde(name = "preference_bias")]
impl EvaluatorConfig for PreferenceBiasConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(PreferenceBias(self.clone())))
    }
}

struct PreferenceBias(PreferenceBiasConfig);

impl Evaluator for PreferenceBias {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let decided = decided(inputs.judgements);
        let percent = |hits: Vec<bool>| -> Vec<f64> { hits.into_iter().map(|hit| if hit { 100.0 } else { 0.0 }).collect() };
        let first: Vec<f64> =
            inputs.judgements.iter().filter_map(Judgement::preference).map(|p| 100.0 * (1.0 - p.p_second())).collect();
        let metrics = [
            (percent(prefers_longer(&decided, self.0.least_difference)), "prefers_longer", "%"),
            (longer_by(&decided), "longer_by", "of the worse answer"),
            (percent(prefers_list(&decided, self.0.lists)), "prefers_list", "%"),
            (first, "prefers_first", "%"),
        ];
        let metrics: Vec<_> = metrics
            .into_iter()
            .filter_map(|(values, name, unit)| Some(Estimate::of_mean(&values)?.metric(name, unit, None)))
            .collect();
        if metrics.is_empty() {
            return Err(Error::missing_input(format!("no verdict on the answers of `{}`", inputs.model)));
        }
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics })
    }
}

/// The better and the worse answer of each comparison that has them.
pub fn decided(judgements: &[Judgement]) -> Vec<(&str, &str)> {
    judgements.iter().filter_map(better_and_worse).collect()
}

fn better_and_worse(judgement: &Judgement) -> Option<(&str, &str)> {
    let Comparison { output_1, output_2, .. } = &judgement.comparison;
    match judgement.preference()?.p_second() {
        p if p < 0.5 => Some((output_1, output_2)),
        p if p > 0.5 => Some((output_2, output_1)),
        _ => None,
    }
}

/// Of each pair of (better, worse) answers whose lengths differ by more than `least_difference` characters: whether the better one is
/// the longer.
pub fn prefers_longer(decided: &[(&str, &str)], least_difference: usize) -> Vec<bool> {
    let lengths = decided.iter().map(|(better, worse)| (better.chars().count(), worse.chars().count()));
    lengths.filter(|(better, worse)| better.abs_diff(*worse) > least_difference).map(|(better, worse)| better > worse).collect()
}

/// (better − worse) / worse of the lengths of each pair whose worse answer is not empty.
pub fn longer_by(decided: &[(&str, &str)]) -> Vec<f64> {
    let lengths = decided.iter().map(|(better, worse)| (better.chars().count() as f64, worse.chars().count() as f64));
    lengths.filter(|(_, worse)| *worse > 0.0).map(|(better, worse)| (better - worse) / worse).collect()
}

/// Of each pair in which exactly one answer has a list: whether it is the better one.
pub fn prefers_list(decided: &[(&str, &str)], rule: ListRule) -> Vec<bool> {
    let lists = decided.iter().map(|(better, worse)| (has_list(better, rule), has_list(worse, rule)));
    lists.filter(|(better, worse)| better != worse).map(|(better, _)| better).collect()
}

/// Whether a text has a list.
pub fn has_list(text: &str, rule: ListRule) -> bool {
    match rule {
        ListRule::LineStart => text.lines().any(|line| is_item(line.trim_start())),
        ListRule::Anywhere => text.char_indices().any(|(at, _)| is_item(&text[at..])),
    }
}

/// Whether a text begins with the mark of a list item and then a word, blanks allowed between.
pub(crate) fn is_item(text: &str) -> bool {
    let word_follows = |rest: &str| rest.trim_start().starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let after_bullet = text.strip_prefix(['*', '•', '-']);
    let after_number = || {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let rest = if rest.len() < text.len() { rest } else { text.strip_prefix(|c: char| c.is_ascii_alphabetic())? };
        rest.strip_prefix(['.', ')'])
    };
    after_bullet.or_else(after_number).is_some_and(word_follows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::{Annotation, Instruction, Preference};

    fn judgements(rows: &[(&str, &str, f64)]) -> Vec<Judgement> {
        let judged = |(i, (a, b, code)): (usize, &(&str, &str, f64))| {
            let comparison = Comparison::new(Instruction::new(format!("{i}"), None), *a, *b);
            Judgement::new(comparison, Preference::from_code(*code).map(|preference| Annotation::new("judge", preference)))
        };
        rows.iter().enumerate().map(judged).collect()
    }

    fn value(report: &EvalReport, name: &str) -> f64 {
        report.metric(name).expect(name).value
    }

    fn evaluate(judgements: &[Judgement]) -> Result<EvalReport> {
        let inputs = EvaluationInputs { model: "m", completions: &[], judgements, rewards: &[] };
        PreferenceBias(PreferenceBiasConfig::default()).evaluate(&inputs)
    }

    #[test]
    fn alpaca_evals_example_of_lengths() {
        let long = "much longer output".repeat(30);
        let rows = [("long output", "short", 2.0), ("short", "somewhat short", 1.0), (long.as_str(), "shorter output", 1.0)];
        let report = evaluate(&judgements(&rows)).expect("measured");
        assert_eq!(value(&report, "prefers_longer"), 100.0);
        assert!((value(&report, "longer_by") - 12.127_705_627_705_629).abs() < 1e-12);
        assert!((value(&report, "prefers_first") - 200.0 / 3.0).abs() < 1e-12);
        assert!(report.metric("prefers_list").is_none());
    }

    #[test]
    fn alpaca_evals_example_of_lists() {
        let rows = [
            ("apple", "1. apple\n 2. banana", 1.0),
            ("- apple\n - banana", "apple", 1.0),
            ("apple", "a. apple\n b. banana", 2.0),
        ];
        assert!((value(&evaluate(&judgements(&rows)).expect("measured"), "prefers_list") - 200.0 / 3.0).abs() < 1e-12);
        let decided_rows = judgements(&rows);
        let anywhere = prefers_list(&decided(&decided_rows), ListRule::Anywhere);
        assert_eq!(anywhere.iter().filter(|prefers| **prefers).count(), 2);
    }

    #[test]
    fn what_is_a_list() {
        for text in ["* a", "x\n  • b", "12) c", "B. d", "-e"] {
            assert!(has_list(text, ListRule::LineStart), "{text}");
        }
        for text in ["well-known. Then", "3.14 is", "--", "a b. c", "", "1 . x"] {
            assert_eq!(has_list(text, ListRule::LineStart), text.starts_with("3.14"), "{text}");
        }
        assert!(has_list("it is. Then", ListRule::Anywhere) && has_list("well-known", ListRule::Anywhere));
        assert!(!has_list("no list here", ListRule::Anywhere));
    }

    #[test]
    fn ties_and_failures_lean_to_nothing() {
        let mut rows = judgements(&[("a", "b", 1.5)]);
        rows.push(Judgement::new(rows[0].comparison.clone(), Err(Error::other("tired"))));
        let report = evaluate(&rows).expect("measured");
        assert_eq!((report.metrics.len(), value(&report, "prefers_first")), (1, 50.0));
        assert!(evaluate(&rows[1..]).is_err());
    }
}
