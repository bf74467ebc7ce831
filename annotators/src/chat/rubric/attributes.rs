//! What a rubric grades.

use farmhand_core::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One attribute of a rubric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// What is graded, for the judge to read.
    pub description: String,
    /// Its share in the weighted mean, relative to the others; below 0 for what is unwelcome.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// The attributes of HelpSteer (Wang et al., 2023, <https://arxiv.org/abs/2311.09528>, section 3). Complexity and verbosity say
/// what kind of answer it is, not how good, and weigh nothing.
pub(super) fn help_steer() -> Vec<Attribute> {
    let attribute = |(name, description, weight): (&str, &str, f64)| {
        let (name, description) = (name.to_owned(), description.to_owned());
        Attribute { name, description, weight }
    };
    let attributes = [
        ("helpfulness", "how useful the answer is for what was asked, all in all", 1.0),
        ("correctness", "whether everything it says is true and nothing that matters is missing", 1.0),
        ("coherence", "whether it is clear, consistent and well put", 1.0),
        ("complexity", "how much expertise one needs to write such an answer", 0.0),
        ("verbosity", "how much detail it has for what was asked", 0.0),
    ];
    attributes.map(attribute).to_vec()
}

pub(super) fn problems(attributes: &[Attribute]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, attribute) in attributes.iter().enumerate() {
        let path = |key: &str| format!("attributes[{i}].{key}");
        let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if !is_name(&attribute.name) {
            problems.push(Problem::new(path("name"), "expected letters, digits, `-` and `_`"));
        } else if attributes[..i].iter().any(|other| other.name == attribute.name) {
            problems.push(Problem::new(path("name"), format!("two attributes are named `{}`", attribute.name)));
        }
        if attribute.description.is_empty() {
            problems.push(Problem::new(path("description"), "expected what is graded, got an empty text"));
        }
        if !attribute.weight.is_finite() {
            problems.push(Problem::new(path("weight"), format!("expected a number, got {}", attribute.weight)));
        }
    }
    if attributes.iter().all(|attribute| attribute.weight == 0.0) {
        problems.push(Problem::new("attributes", "expected at least one attribute with a weight other than 0"));
    }
    problems
}
