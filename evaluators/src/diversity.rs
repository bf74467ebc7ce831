//! How varied answers are: distinct n-grams (Li et al., 2016, <https://arxiv.org/abs/1510.03055>) and self-BLEU (Zhu et al., 2018,
//! <https://arxiv.org/abs/1802.01886>). Words are what white space separates, in lower case, so both work for any language that
//! writes spaces, and need no tokenizer.

use std::collections::{HashMap, HashSet};

/// The share of n-grams that are different ones, in (0, 1], over all texts together; `None` when no text has n words.
pub fn distinct_n(texts: &[&str], n: usize) -> Option<f64> {
    let words: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect();
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
    let texts: Vec<Vec<String>> = texts.iter().map(|text| words(text)).filter(|words| !words.is_empty()).collect();
    if texts.len() < 2 {
        return None;
    }
    let counts: Vec<[HashMap<&[String], usize>; 4]> = texts.iter().map(|words| [1, 2, 3, 4].map(|n| n_grams(words, n))).collect();
    // Of each n-gram: its largest count, in which text, and its largest count in any other text.
    let mut largest: HashMap<&[String], (usize, usize, usize)> = HashMap::new();
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
    let score = |(i, counts): (usize, &[HashMap<&[String], usize>; 4])| {
        let elsewhere = |gram: &[String]| match largest.get(gram) {
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

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_lowercase).collect()
}

fn n_grams(words: &[String], n: usize) -> HashMap<&[String], usize> {
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
    fn counts_are_clipped_by_the_largest_of_the_others() {
        // "a" against "a a": the word is shared, but it is half as long: exp(1 - 2); "a a" has a pair that is not shared: 0.
        assert_eq!(self_bleu(&["a a", "a"]), Some((-1.0_f64).exp() / 2.0));
    }
}
