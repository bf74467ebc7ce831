//! How varied answers are: distinct n-grams (Li et al., 2016, <https://arxiv.org/abs/1510.03055>) and self-BLEU (Zhu et al., 2018,
//! <https://arxiv.org/abs/1802.01886>). Words are what white space separates, in lower case, so both work for any language that
//! writes spaces, and need no tokenizer.

use std::collections::{HashMap, HashSet};

use farmhand_core::types::EvalReport;
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::plain_metric;

register! {
    kind: Evaluator, name: "diversity", config: DiversityConfig,
    summary: "how varied the answers are: distinct n-grams and self-BLEU",
    paper: "https://arxiv.org/abs/1510.03055",
}

/// Options of `[evaluator.diversity]`: none.
///
/// Metrics over all answers together: `distinct_1` and `distinct_2`, the share in (0, 1] of words and of pairs of words that are
/// different ones, and `self_bleu`, the mean BLEU-4 in [0, 1] of each answer with the others as references. Less is more varied in
/// the last, more in the first two. Longer and more answers repeat more words, so compare models on the same instructions and look
/// at the lengths. What the answers have too few words for is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiversityConfig {}

#[typetag::serde(name = "diversity")]
impl EvaluatorConfig for DiversityConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(Diversity))
    }
}

struct Diversity;

impl Evaluator for Diversity {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let texts: Vec<&str> = inputs.completions.iter().map(|completion| completion.output.as_str()).collect();
        if texts.is_empty() {
            return Err(Error::missing_input(format!("no answers of `{}` to measure", inputs.model)));
        }
        let found =
            [("distinct_1", distinct_n(&texts, 1)), ("distinct_2", distinct_n(&texts, 2)), ("self_bleu", self_bleu(&texts))];
        let metric = |(name, value): (&str, Option<f64>)| Some(plain_metric(name, value?, texts.len(), "", None));
        let metrics = found.into_iter().filter_map(metric).collect();
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics })
    }
}

/// The share of n-grams that are different ones, in (0, 1], over all texts together; `None` when no text has n words.
pub fn distinct_n(texts: &[&str], n: usize) -> Option<f64> {
    let words = words(texts);
    let grams = || words.iter().flat_map(|words| words.windows(n.max(1)));
    let (total, distinct) = (grams().count(), grams().collect::<HashSet<_>>().len());
    (total > 0).then(|| distinct as f64 / total as f64)
}

/// The mean BLEU-4 of each text with all others as references, in [0, 1]: 1 when all say the same. Precisions of n-grams that a
/// text has none of count as absent (shorter texts are judged by shorter n-grams); a text without any shared word scores 0.
/// `None` for fewer than two texts with words.
///
/// The work grows with the number of texts and not with its square: the largest count of an n-gram in another text follows from
/// its two largest counts.
pub fn self_bleu(texts: &[&str]) -> Option<f64> {
    let texts: Vec<Vec<u32>> = words(texts).into_iter().filter(|words| !words.is_empty()).collect();
    if texts.len() < 2 {
        return None;
    }
    let counts: Vec<[HashMap<&[u32], usize>; 4]> = texts.iter().map(|words| [1, 2, 3, 4].map(|n| n_grams(words, n))).collect();
    // Of each n-gram: its largest count, in which text, and its largest count in any other text.
    let mut largest: HashMap<&[u32], (usize, usize, usize)> = HashMap::new();
    for (i, counts) in counts.iter().enumerate() {
        for (gram, count) in counts.iter().flatten() {
            let entry = largest.entry(gram).or_insert((0, i, 0));
            if *count > entry.0 {
                *entry = (*count, i, entry.0);
            } else if *count > entry.2 {
                entry.2 = *count;
            }
        }
    }
    let mut lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    lengths.sort_unstable();
    let score = |(i, counts): (usize, &[HashMap<&[u32], usize>; 4])| {
        let elsewhere = |gram: &[u32]| match largest.get(gram) {
            Some((_, at, other)) if *at == i => *other,
            Some((most, ..)) => *most,
            None => 0,
        };
        let precisions: Vec<f64> = counts
            .iter()
            .filter(|counts| !counts.is_empty())
            .map(|counts| {
                let total: usize = counts.values().sum();
                counts.iter().map(|(gram, count)| (*count).min(elsewhere(gram))).sum::<usize>() as f64 / total as f64
            })
            .collect();
        let mean_log = precisions.iter().map(|p| p.ln()).sum::<f64>() / precisions.len() as f64;
        mean_log.exp() * brevity(texts[i].len(), &lengths)
    };
    Some(counts.iter().enumerate().map(score).sum::<f64>() / texts.len() as f64)
}

/// BLEU's penalty of a text shorter than the closest other one, in (0, 1]; the shorter of two equally close ones counts.
fn brevity(length: usize, sorted_lengths: &[usize]) -> f64 {
    let at = sorted_lengths.partition_point(|l| *l < length);
    // Its own length stands at `at`.
    let (below, above) = (at.checked_sub(1).map(|i| sorted_lengths[i]), sorted_lengths.get(at + 1).copied());
    let closest = match (below, above) {
        (Some(below), Some(above)) => {
            if length - below <= above - length {
                below
            } else {
                above
            }
        }
        (one, other) => one.or(other).unwrap_or(length),
    };
    if length >= closest { 1.0 } else { (1.0 - closest as f64 / length as f64).exp() }
}

/// The words of each text, equal ones with equal numbers.
fn words(texts: &[&str]) -> Vec<Vec<u32>> {
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut number = |word: &str| {
        let next = numbers.len() as u32;
        *numbers.entry(word.to_lowercase()).or_insert(next)
    };
    texts.iter().map(|text| text.split_whitespace().map(&mut number).collect()).collect()
}

fn n_grams(words: &[u32], n: usize) -> HashMap<&[u32], usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_insert(0) += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_grams_by_hand() {
        let texts = ["the cat sat", "The cat ran", ""];
        assert_eq!(distinct_n(&texts, 1), Some(4.0 / 6.0));
        assert_eq!(distinct_n(&texts, 2), Some(3.0 / 4.0));
        assert_eq!(distinct_n(&texts, 4), None);
    }

    #[test]
    fn copies_are_one_and_strangers_nothing() {
        let close = |texts: &[&str], expected: f64| {
            let got = self_bleu(texts).expect("defined");
            assert!((got - expected).abs() < 1e-12, "{got}");
        };
        close(&["a b c d e", "a b c d e", "a b c d e"], 1.0);
        close(&["a b c d", "e f g h"], 0.0);
        // "a b" against "a c": one of two words, none of one pair of words: no shared pair, so 0. One word each: 1 or 0.
        close(&["a b", "a c"], 0.0);
        close(&["a", "a", "b"], 2.0 / 3.0);
        // "a b" in "a b c": all grams are shared, but it is shorter: exp(1 − 3/2). "a b c": 2/3 and 1/2 and 0 of one: 0.
        close(&["a b", "a b c"], (-0.5_f64).exp() / 2.0);
        assert_eq!(self_bleu(&["a", ""]), None);
    }

    #[test]
    fn a_report_has_what_the_answers_are_long_enough_for() {
        use farmhand_core::types::{Completion, FinishReason, Instruction};
        let answer = |output: &str| Completion {
            instruction: Instruction::new("Write.", None),
            output: output.into(),
            model: "sft".into(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 1,
            log_prob: None,
        };
        let evaluate = |completions: &[Completion]| {
            Diversity.evaluate(&EvaluationInputs { model: "sft", completions, judgements: &[], rewards: &[] })
        };
        let report = evaluate(&[answer("a b"), answer("a b")]).expect("evaluated");
        let value = |name: &str| report.metric(name).expect(name).value;
        assert_eq!((value("distinct_1"), value("distinct_2"), value("self_bleu")), (0.5, 0.5, 1.0));
        let short = evaluate(&[answer("a")]).expect("evaluated");
        assert_eq!(short.metrics.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>(), ["distinct_1"]);
        assert_eq!(evaluate(&[]).expect_err("refused").kind(), farmhand_core::ErrorKind::MissingInput);
    }

    #[test]
    fn counts_are_clipped_by_the_largest_of_the_others() {
        // "a" against "a a": the word is shared, but it is half as long: exp(1 - 2); "a a" has a pair that is not shared: 0.
        assert_eq!(self_bleu(&["a a", "a"]), Some((-1.0_f64).exp() / 2.0));
    }
}
