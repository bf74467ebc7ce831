//! What answers may win by beside their quality and their length: lists, Markdown, the language they are written in.
//!
//! A covariate is a number of one answer; the regression is given the baseline's minus the model's, as with lengths.

use std::str::FromStr;

use farmhand_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// A property of an answer whose part in the verdicts is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Covariate {
    /// Items of lists: lines that begin with a bullet, a number or a letter with `.` or `)`.
    Lists,
    /// Marks of Markdown: headings, bold texts, code, rows of tables, links.
    Markdown,
    /// 1 for an answer in the script and, as far as small words tell, the language of the instruction; 0 for one in another.
    Language,
}

impl Covariate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lists, Self::Markdown, Self::Language];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lists => "lists",
            Self::Markdown => "markdown",
            Self::Language => "language",
        }
    }

    /// The property of an answer to an instruction.
    pub fn of(self, instruction: &str, answer: &str) -> f64 {
        match self {
            Self::Lists => answer.lines().filter(|line| crate::preference_bias::is_item(line.trim_start())).count() as f64,
            Self::Markdown => markdown_marks(answer) as f64,
            Self::Language => f64::from(u8::from(Tongue::of(instruction).agrees_with(Tongue::of(answer)))),
        }
    }
}

impl FromStr for Covariate {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|covariate| covariate.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|covariate| covariate.name()).collect();
            Error::invalid_config(format!("no covariate `{name}`; there are `{}`", known.join("`, `")))
        })
    }
}

/// Headings, pairs of `**` or `__`, pieces and blocks of code, rows of tables, links.
fn markdown_marks(text: &str) -> usize {
    let is_heading = |line: &str| {
        let rest = line.trim_start_matches('#');
        (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with(' ')
    };
    let is_row = |line: &str| line.len() > 2 && line.starts_with('|') && line.ends_with('|');
    let lines = text.lines().map(str::trim).filter(|line| is_heading(line) || is_row(line)).count();
    let pairs = |mark: &str| text.matches(mark).count() / 2;
    let blocks = pairs("```");
    let code = text.matches('`').count().saturating_sub(6 * blocks) / 2;
    lines + pairs("**") + pairs("__") + blocks + code + text.matches("](").count()
}

/// What a text is written in, as far as its letters and small words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tongue {
    script: Option<Script>,
    /// The number of a language in [`SMALL_WORDS`].
    language: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Script {
    Latin,
    Greek,
    Cyrillic,
    Hebrew,
    Arabic,
    Devanagari,
    Thai,
    Hangul,
    Kana,
    Han,
}

/// Words that are frequent in one language and rare in the others: English, German, French, Spanish, Italian, Portuguese, Dutch.
const SMALL_WORDS: [&[&str]; 7] = [
    &["the", "and", "is", "of", "to", "that", "with", "for", "are", "this"],
    &["der", "die", "und", "ist", "nicht", "das", "mit", "ein", "eine", "für"],
    &["le", "les", "et", "est", "des", "une", "dans", "pour", "vous", "qui"],
    &["el", "los", "y", "es", "las", "una", "para", "por", "con", "más"],
    &["il", "gli", "è", "che", "di", "una", "per", "con", "sono", "della"],
    &["os", "e", "é", "uma", "para", "não", "com", "mais", "são", "você"],
    &["de", "het", "een", "en", "niet", "van", "is", "dat", "voor", "met"],
];

impl Tongue {
    fn of(text: &str) -> Self {
        let mut counts = [0_usize; 10];
        text.chars().filter_map(script).for_each(|script| counts[script as usize] += 1);
        // Japanese mixes Han with kana.
        if counts[Script::Kana as usize] > 0 {
            counts[Script::Kana as usize] += std::mem::take(&mut counts[Script::Han as usize]);
        }
        let most = (0..counts.len()).rev().max_by_key(|i| counts[*i]).filter(|i| counts[*i] > 0);
        let script = most.map(|i| SCRIPTS[i]);
        let language = if script == Some(Script::Latin) { language(text) } else { None };
        Self { script, language }
    }

    /// Whether nothing says that two texts are in different languages.
    fn agrees_with(self, other: Self) -> bool {
        let agree = |same: bool, known: bool| same || !known;
        agree(self.script == other.script, self.script.is_some() && other.script.is_some())
            && agree(self.language == other.language, self.language.is_some() && other.language.is_some())
    }
}

const SCRIPTS: [Script; 10] = [
    Script::Latin,
    Script::Greek,
    Script::Cyrillic,
    Script::Hebrew,
    Script::Arabic,
    Script::Devanagari,
    Script::Thai,
    Script::Hangul,
    Script::Kana,
    Script::Han,
];

fn script(c: char) -> Option<Script> {
    Some(match c {
        'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' => Script::Latin,
        '\u{370}'..='\u{3ff}' => Script::Greek,
        '\u{400}'..='\u{52f}' => Script::Cyrillic,
        '\u{590}'..='\u{5ff}' => Script::Hebrew,
        '\u{600}'..='\u{6ff}' => Script::Arabic,
        '\u{900}'..='\u{97f}' => Script::Devanagari,
        '\u{e00}'..='\u{e7f}' => Script::Thai,
        '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7af}' => Script::Hangul,
        '\u{3040}'..='\u{30ff}' => Script::Kana,
        '\u{3400}'..='\u{9fff}' => Script::Han,
        _ => return None,
    })
}

/// The language whose small words are clearly the most frequent, of a text of some length.
fn language(text: &str) -> Option<usize> {
    let mut counts = [0_usize; SMALL_WORDS.len()];
    for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        for (count, words) in counts.iter_mut().zip(SMALL_WORDS) {
            *count += usize::from(words.contains(&word.as_str()));
        }
    }
    let best = (0..counts.len()).max_by_key(|i| counts[*i])?;
    let next = (0..counts.len()).filter(|i| *i != best).map(|i| counts[i]).max().unwrap_or_default();
    (counts[best] >= 3 && counts[best] > 2 * next).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_marks_are_counted() {
        let text = "# Title\nSome **bold** and `code`:\n- one\n- two\n1. three\n| a | b |\n```\nx\n```\n[here](there)";
        assert_eq!(Covariate::Lists.of("", text), 3.0);
        assert_eq!(Covariate::Markdown.of("", text), 6.0);
        assert_eq!(Covariate::Markdown.of("", "plain text, 2 * 3 and #5"), 0.0);
    }

    #[test]
    fn an_answer_is_in_the_instructions_language_or_not() {
        let question = "What is the capital of the country, and why is it that city?";
        let german = "Die Hauptstadt ist Berlin, und das ist nicht ohne Grund eine Frage für sich.";
        for (instruction, answer, same) in [
            (question, "The capital is Berlin, and that is the answer to this.", 1.0),
            (question, german, 0.0),
            (question, "Столица: Берлин", 0.0),
            (question, "42", 1.0),
            ("東京はどこですか", "日本の首都です", 1.0),
            ("東京はどこですか", "It is in Japan.", 0.0),
            ("", "x", 1.0),
        ] {
            assert_eq!(Covariate::Language.of(instruction, answer), same, "{answer}");
        }
    }

    #[test]
    fn names_are_read_and_wrong_ones_listed() {
        for covariate in Covariate::ALL {
            assert_eq!(covariate.name().parse::<Covariate>().expect("known"), covariate);
        }
        assert!("emoji".parse::<Covariate>().expect_err("unknown").to_string().contains("`lists`, `markdown`, `language`"));
    }
}
