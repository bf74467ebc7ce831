//! What a simulated rater looks at in an answer: pure functions of texts.
//!
//! Each feature lies in [0, 1] and is 0 for an empty answer (nothing but white space), so that saying nothing never pays.
//! Lengths are in characters (Unicode code points), never bytes. A *word* is a run of at least [`WORD_CHARS`] letters or
//! digits, in lower case; a *window* is a stretch of [`WINDOW_CHARS`] characters, one starting at every character.

use std::collections::{BTreeSet, HashSet};

/// Shorter runs of letters are mostly articles and prepositions, which say nothing about the subject.
pub const WORD_CHARS: usize = 4;

/// Long enough that ordinary prose hardly ever repeats a window, short enough to see a loop in a short answer.
pub const WINDOW_CHARS: usize = 8;

/// How many list lines make a list.
const LIST_LINES: f64 = 3.0;

/// How near the length is to a target: 1 − |ln((1 + n) / (1 + target))| / ln(1 + target), at least 0. It rises from 0 at the
/// empty answer to 1 at `target` characters and falls again, by the same for each doubling. `target` ≥ 1.
pub fn length(output: &str, target: f64) -> f64 {
    let n = output.chars().count() as f64;
    let distance = ((1.0 + n) / (1.0 + target)).ln().abs() / (1.0 + target).ln();
    if is_empty(output) { 0.0 } else { (1.0 - distance).max(0.0) }
}

/// How little the answer repeats itself: distinct windows over all windows (the distinct-n of Li et al., 2016,
/// <https://arxiv.org/abs/1510.03055>, on characters). An answer too short for two windows repeats nothing: 1.
pub fn distinct(output: &str) -> f64 {
    let chars: Vec<char> = output.chars().collect();
    let windows = chars.windows(WINDOW_CHARS);
    match (is_empty(output), windows.len()) {
        (true, _) => 0.0,
        (false, 0) => 1.0,
        (false, n) => windows.collect::<HashSet<_>>().len() as f64 / n as f64,
    }
}

/// How much of the question is taken up: the share of the instruction's distinct words that occur in the answer;
/// 0 when the instruction has no words.
pub fn overlap(instruction: &str, output: &str) -> f64 {
    let (asked, said) = (words(instruction), words(output));
    if asked.is_empty() { 0.0 } else { asked.intersection(&said).count() as f64 / asked.len() as f64 }
}

/// How much the answer parrots: the share of its windows that stand in the instruction. An answer shorter than a window
/// counts as one.
pub fn echo(instruction: &str, output: &str) -> f64 {
    let (asked, said): (Vec<char>, Vec<char>) = (instruction.chars().collect(), output.trim().chars().collect());
    let width = WINDOW_CHARS.min(said.len());
    if width == 0 {
        return 0.0;
    }
    let known: HashSet<&[char]> = asked.windows(width).collect();
    said.windows(width).filter(|window| known.contains(window)).count() as f64 / said.windows(width).len() as f64
}

/// 1 when the answer ends like a sentence: `.`, `!`, `?`, `…` or their full-width forms, closing quotes, brackets and
/// emphasis after it allowed.
pub fn ending(output: &str) -> f64 {
    let bare = output.trim_end().trim_end_matches(['"', '\'', '”', '’', '»', ')', ']', '}', '*', '_', '`', '」', '』']);
    f64::from(bare.ends_with(['.', '!', '?', '…', '。', '！', '？']))
}

/// How much of a list it is: lines that begin with `-`, `*`, `•` or a number and `.` or `)`, over three, at most 1.
pub fn list(output: &str) -> f64 {
    let n = output.lines().filter(|line| is_list_line(line.trim_start())).count();
    (n as f64 / LIST_LINES).min(1.0)
}

/// 1 when the answer says anything.
pub fn not_empty(output: &str) -> f64 {
    f64::from(!is_empty(output))
}

fn is_empty(output: &str) -> bool {
    output.trim().is_empty()
}

fn words(text: &str) -> BTreeSet<String> {
    let runs = text.split(|c: char| !c.is_alphanumeric());
    runs.filter(|run| run.chars().count() >= WORD_CHARS).map(str::to_lowercase).collect()
}

fn is_list_line(line: &str) -> bool {
    let after_number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_numbered = after_number.len() < line.len() && after_number.starts_with(['.', ')']);
    let rest = if is_numbered { &after_number[1..] } else { line.strip_prefix(['-', '*', '•']).unwrap_or_default() };
    rest.starts_with(char::is_whitespace) && !rest.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn length_peaks_at_the_target_and_is_even_in_the_logarithm() {
        assert_eq!(length(&"é".repeat(99), 99.0), 1.0);
        assert!((length(&"é".repeat(9), 99.0) - 0.5).abs() < 1e-12); // ln 10 / ln 100
        assert!((length(&"x".repeat(999), 99.0) - 0.5).abs() < 1e-12);
        assert_eq!(length(&"x".repeat(9_999), 99.0), 0.0);
        assert_eq!(length(&"x".repeat(20_000), 99.0), 0.0);
    }

    #[test]
    fn distinct_falls_with_repetition() {
        assert_eq!(distinct("abcdefghij"), 1.0);
        assert_eq!(distinct(&"a".repeat(17)), 0.1); // 10 windows, all alike
        assert_eq!(distinct("short"), 1.0);
        assert_eq!(distinct(&"abcd".repeat(4)), 4.0 / 9.0);
    }

    #[test]
    fn overlap_counts_the_instructions_words_whatever_their_case() {
        let asked = "Name two RIVERS in Österreich, two rivers."; // name, rivers, österreich
        assert_eq!(overlap(asked, "Rivers of ÖSTERREICH: Donau, Mur."), 2.0 / 3.0);
        assert_eq!(overlap(asked, "riversides"), 0.0);
        assert_eq!(overlap("2 + 2?", "4"), 0.0);
    }

    #[test]
    fn echo_finds_what_was_copied() {
        let asked = "Tell me about the moon.";
        assert_eq!(echo(asked, "Tell me about the moon."), 1.0);
        assert_eq!(echo(asked, "It circles our planet."), 0.0);
        assert_eq!(echo(asked, "abcdefghabout the"), 2.0 / 10.0); // "about th", "bout the"
        assert_eq!(echo(asked, " moon "), 1.0);
    }

    #[test]
    fn endings_of_sentences() {
        for text in ["Yes.", "Sure!\n", "(It is.)", "“Why?”", "はい。", "**Done.**"] {
            assert_eq!(ending(text), 1.0, "{text}");
        }
        for text in ["and then the", "a,", "", "x = {1}"] {
            assert_eq!(ending(text), 0.0, "{text}");
        }
    }

    #[test]
    fn lists_need_three_lines_with_something_on_them() {
        assert_eq!(list("1. one\n2) two\n - three\n* four"), 1.0);
        assert_eq!(list("Here:\n- one\n-two\n-  \n1.5 litres"), 1.0 / 3.0);
    }

    proptest! {
        #[test]
        fn every_feature_lies_in_0_to_1_and_an_empty_answer_has_none(asked in "\\PC{0,60}", output in "(\\PC|\\s){0,80}", target in 1.0..5000.0) {
            let all = |output: &str| {
                [length(output, target), distinct(output), overlap(&asked, output), echo(&asked, output), ending(output), list(output), not_empty(output)]
            };
            prop_assert!(all(&output).iter().all(|value| (0.0..=1.0).contains(value)), "{:?}", all(&output));
            prop_assert!(all(" \n\t").iter().all(|value| *value == 0.0));
            prop_assert!(all("").iter().all(|value| *value == 0.0));
        }
    }
}
