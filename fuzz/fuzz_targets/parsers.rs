//! Replies: no parser panics, and none gives another number of verdicts than was asked for, or one out of range.

#![no_main]

use std::sync::OnceLock;

use farmhand_annotators::chat::parsers::{LogProbParser, Parser, Place, RegexParser, Replacements, Reply};
use farmhand_annotators::chat::ranking::read_ranks;
use farmhand_annotators::chat::rubric::{GradeOptions, read_grades};
use farmhand_endpoints::TokenLogProb;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fn parsers() -> &'static [Parser] {
    static PARSERS: OnceLock<Vec<Parser>> = OnceLock::new();
    PARSERS.get_or_init(|| {
        let patterns = |first: &str, second: &str| {
            let patterns = [(json!(1), first.to_owned()), (json!(2), second.to_owned())];
            Parser::Regex(RegexParser::new(patterns).expect("patterns"))
        };
        let json_key = |key: Option<&str>| Parser::Json { annotation_key: key.map(str::to_owned) };
        let ranking = || Parser::Ranking { model_1_name: "model_1".to_owned() };
        let log_probs = |is_binarize, place| {
            let denominator_tokens = vec!["m".to_owned(), "M".to_owned()];
            Parser::LogProb(LogProbParser { numerator_token: "m".to_owned(), denominator_tokens, is_binarize, place })
        };
        vec![
            patterns(r"(?:^|\n) ?Output \(a\)", r"(?:^|\n) ?Output \(b\)"),
            patterns("[[A]]", "[[B]]"),
            patterns(r"(?i)output \(a\)$", r"(a|b)*\Z"),
            Parser::Lmsys,
            ranking(),
            json_key(Some("a")),
            json_key(None),
            Parser::Eval,
            Parser::Replace(Replacements { replacer: vec![(json!("True"), json!(1))], default: None }),
            Parser::Pipeline(vec![json_key(Some("ordered_models")), ranking()]),
            Parser::Pipeline(vec![Parser::Eval, Parser::Eval, Parser::Lmsys]),
            log_probs(false, Place::Index(-1)),
            log_probs(true, Place::Each),
        ]
    })
}

/// Tokens with alternatives out of lines such as `m -0.1 M -2`.
fn tokens(text: &str) -> Vec<TokenLogProb> {
    let token = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let alternatives = words.chunks(2).filter_map(|pair| Some((pair[0].to_owned(), pair.get(1)?.parse().ok()?))).collect();
        TokenLogProb { token: words[0].to_owned(), log_prob: 0.0, alternatives }
    };
    text.lines().map(token).collect()
}

fuzz_target!(|input: (u8, u8, &str)| {
    let (which, n, text) = input;
    let n = usize::from(n % 6);
    let log_probs = tokens(text);
    let parser = &parsers()[usize::from(which) % parsers().len()];
    if let Ok(verdicts) = parser.verdicts(Reply { text, log_probs: Some(&log_probs) }, n) {
        assert_eq!(verdicts.len(), n);
        for verdict in verdicts.into_iter().flatten() {
            assert!((1.0..=2.0).contains(&verdict.code()), "{verdict:?}");
        }
    }
    if let Ok(ranks) = read_ranks(text, n) {
        assert_eq!(ranks.len(), n);
        assert!(ranks.iter().all(|rank| (1.0..=n as f64).contains(rank)));
    }
    let options = GradeOptions::default();
    if let Ok(grades) = read_grades(text, &["A", "B"], &options) {
        assert!(grades.len() == 2 && grades.iter().all(|grades| grades.len() == options.attributes.len()));
    }
});
