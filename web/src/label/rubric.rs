//! A rubric: guidance for raters, and attributes on which each answer gets a value.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use farmhand_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Steps of a scale at most: each is a button.
const MAX_STEPS: i64 = 11;

/// What raters are asked, a TOML file:
///
/// ```toml
/// guidance = "Judge the content first, then the form."   # Markdown, shown above the answers
/// question = "Which answer would help more?"
///
/// [[attributes]]
/// name = "helpfulness"
/// question = "Does it do what was asked?"
/// min = 0
/// max = 4
/// labels = ["not at all", "fully"]                        # what the ends of the scale mean
/// required = true
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rubric {
    /// Markdown, shown when asked for.
    #[serde(default)]
    pub(crate) guidance: Option<String>,
    /// The question about the two answers; unset: which is better.
    #[serde(default)]
    pub(crate) question: Option<String>,
    /// On what each answer gets a value.
    #[serde(default)]
    pub(crate) attributes: Vec<Attribute>,
}

/// One attribute of an answer, on a scale of whole numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attribute {
    /// Its name in the ratings.
    pub(crate) name: String,
    /// What raters are asked; unset: the name.
    #[serde(default)]
    pub(crate) question: Option<String>,
    /// The lowest value.
    #[serde(default)]
    pub(crate) min: i64,
    /// The highest value.
    #[serde(default = "four")]
    pub(crate) max: i64,
    /// What the lowest and the highest value mean.
    #[serde(default)]
    pub(crate) labels: Option<[String; 2]>,
    /// Whether a verdict needs a value for both answers.
    #[serde(default)]
    pub(crate) required: bool,
}

fn four() -> i64 {
    4
}

impl Rubric {
    /// Reads a rubric.
    ///
    /// # Errors
    /// When the file cannot be read, is no rubric, or an attribute has no name of its own or no usable scale.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        let bad = |message: String| Error::invalid_config(format!("`{}`: {message}", path.display()));
        let rubric: Self = toml::from_str(&text).map_err(|error| {
            bad("not a rubric".to_owned())
                .with_source(error)
                .with_hint("a rubric has `guidance`, `question` and `[[attributes]]` with `name`, `question`, `min`, `max`")
        })?;
        let mut names = HashSet::new();
        for (i, attribute) in rubric.attributes.iter().enumerate() {
            let place = format!("attributes[{i}]");
            if attribute.name.trim().is_empty() || !names.insert(attribute.name.as_str()) {
                return Err(bad(format!("`{place}.name`: expected a name of its own, got `{}`", attribute.name)));
            }
            let steps = attribute.max.checked_sub(attribute.min).unwrap_or(i64::MAX).saturating_add(1);
            if !(2..=MAX_STEPS).contains(&steps) {
                let message = format!("`{place}.max`: expected `min` + 1 to `min` + {}, got {}", MAX_STEPS - 1, attribute.max);
                return Err(bad(message).with_hint(format!("a scale has 2 to {MAX_STEPS} steps, a button each")));
            }
        }
        Ok(rubric)
    }

    /// The values a rater gave to one answer, checked. `side` names the answer in the message.
    ///
    /// # Errors
    /// When an attribute is unknown, a value is not on its scale, or, if `complete`, a required one is missing.
    pub(crate) fn check(&self, given: &BTreeMap<String, f64>, side: &str, complete: bool) -> Result<(), String> {
        for (name, value) in given {
            let Some(attribute) = self.attributes.iter().find(|attribute| attribute.name == *name) else {
                return Err(format!("the rubric has no attribute `{name}`"));
            };
            let on_scale = value.fract() == 0.0 && (attribute.min as f64..=attribute.max as f64).contains(value);
            if !on_scale {
                return Err(format!("`{name}` goes from {} to {}, got {value}", attribute.min, attribute.max));
            }
        }
        let missing = self.attributes.iter().find(|attribute| attribute.required && !given.contains_key(&attribute.name));
        match missing {
            Some(attribute) if complete => Err(format!("please rate `{}` of {side} first", attribute.name)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rubric> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("rubric.toml");
        std::fs::write(&path, text).expect("written");
        Rubric::read(&path)
    }

    #[test]
    fn values_must_be_on_the_scale_and_required_ones_there() {
        let rubric =
            read("[[attributes]]\nname = \"clear\"\nrequired = true\n[[attributes]]\nname = \"long\"\nmin = 1\nmax = 3\n")
                .expect("a rubric");
        let given = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        assert!(rubric.check(&given(&[("clear", 4.0), ("long", 1.0)]), "answer 1", true).is_ok());
        assert!(rubric.check(&given(&[("long", 1.0)]), "answer 1", false).is_ok());
        for (pairs, words) in [
            (&[("long", 1.0)][..], "please rate `clear` of answer 1"),
            (&[("clear", 5.0)], "goes from 0 to 4"),
            (&[("clear", 1.5)], "goes from 0 to 4"),
            (&[("clear", f64::NAN)], "goes from 0 to 4"),
            (&[("other", 1.0)], "no attribute `other`"),
        ] {
            let message = rubric.check(&given(pairs), "answer 1", true).expect_err(words);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_file_that_is_no_rubric_says_where() {
        for (text, words) in [
            ("attribute = 1", "not a rubric"),
            ("[[attributes]]\nname = \"a\"\n[[attributes]]\nname = \"a\"", "attributes[1].name"),
            ("[[attributes]]\nname = \"a\"\nmax = 100", "attributes[0].max"),
            ("[[attributes]]\nname = \"a\"\nmin = -9223372036854775808\nmax = 9223372036854775807", "attributes[0].max"),
        ] {
            assert!(read(text).expect_err(words).to_string().contains(words), "{text}");
        }
    }
}
