//! `fn_completion_parser` and its options: from settings to a parser.

use farmhand_core::Result;
use serde_json::Value;

use super::table::Table;
use super::yaml::Yaml;
use crate::chat::parsers::{LogProbParser, Parser, Place, RegexParser, Replacements};

const KNOWN: [&str; 8] = [
    "regex_parser",
    "lmsys_parser",
    "ranking_parser",
    "json_parser",
    "eval_parser",
    "replace_parser",
    "pipeline_meta_parser",
    "logprob_parser",
];

/// The parser of this name with these options.
///
/// # Errors
/// When the name is unknown or an option is missing, unknown or wrong.
pub(super) fn parser(name: &str, mut options: Table<'_>) -> Result<Parser> {
    let parser = match name {
        "regex_parser" => {
            let mut patterns = Vec::new();
            let Some(Yaml::Table(written)) = options.take("outputs_to_match") else {
                return Err(
                    options.refuse("outputs_to_match", "expected verdicts with their patterns, such as `1: 'Output \\(a\\)'`")
                );
            };
            for (key, pattern) in written {
                let Yaml::Text(pattern) = pattern else {
                    return Err(options.refuse("outputs_to_match", format!("expected a pattern, got {}", pattern.kind())));
                };
                patterns.push((verdict_key(&key), pattern));
            }
            Parser::Regex(RegexParser::new(patterns).map_err(|why| options.refuse("outputs_to_match", why))?)
        }
        "lmsys_parser" => Parser::Lmsys,
        "ranking_parser" => {
            Parser::Ranking { model_1_name: options.text("model_1_name")?.unwrap_or_else(|| "model_1".to_owned()) }
        }
        "json_parser" => Parser::Json { annotation_key: options.text("annotation_key")? },
        "eval_parser" => Parser::Eval,
        "replace_parser" => Parser::Replace(replacements(&mut options)?),
        "pipeline_meta_parser" => {
            let steps = options.table("parsers_to_kwargs")?;
            let place = options.at("parsers_to_kwargs");
            let mut parsers = Vec::new();
            for (step, kwargs) in steps.into_entries() {
                parsers.push(self::parser(&step, options.nested(format!("{place}.{step}"), kwargs)?)?);
            }
            Parser::Pipeline(parsers)
        }
        "logprob_parser" => Parser::LogProb(log_probs(&mut options)?),
        other => {
            let hint = farmhand_core::config::did_you_mean(other, &KNOWN);
            return Err(options.refuse("", format!("unknown completion parser `{other}`")).with_hint(hint));
        }
    };
    options.finish()?;
    Ok(parser)
}

fn replacements(options: &mut Table<'_>) -> Result<Replacements> {
    let Some(Yaml::Table(written)) = options.take("replacer") else {
        return Err(options.refuse("replacer", "expected replies with what they stand for, such as `'True': 1`"));
    };
    let replacer = written.iter().map(|(key, value)| (key.to_json(), value.to_json())).collect();
    let default = options.take("default_replacer").map(|value| value.to_json()).filter(|value| value != "auto");
    Ok(Replacements { replacer, default })
}

fn log_probs(options: &mut Table<'_>) -> Result<LogProbParser> {
    let missing = |options: &Table<'_>, key: &str, what: &str| options.refuse(key, format!("expected {what}"));
    let Some(numerator_token) = options.text("numerator_token")? else {
        return Err(missing(options, "numerator_token", "the token of the answer shown first"));
    };
    let Some(denominator_tokens) = options.texts("denominator_tokens")?.filter(|tokens| !tokens.is_empty()) else {
        return Err(missing(options, "denominator_tokens", "the tokens of the answers"));
    };
    let is_binarize = options.flag("is_binarize")?.unwrap_or(false);
    let place = match options.take("log_prob_index") {
        None => Place::Index(0),
        Some(Yaml::Text(word)) if word == "batch" => Place::Each,
        Some(Yaml::Number(number)) if number.is_i64() => Place::Index(number.as_i64().unwrap_or_default()),
        Some(_) => return Err(missing(options, "log_prob_index", "a whole number or `batch`")),
    };
    Ok(LogProbParser { numerator_token, denominator_tokens, is_binarize, place })
}

/// A key of `outputs_to_match`: a number where it is one.
fn verdict_key(key: &Yaml) -> Value {
    match key {
        Yaml::Text(text) => {
            text.parse::<f64>().ok().filter(|n| n.is_finite()).map_or_else(|| Value::from(text.as_str()), Value::from)
        }
        other => other.to_json(),
    }
}
