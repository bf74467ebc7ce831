//! Prefers the answer that takes up more words of the instruction. Put your judge in its place.
//!
//! Say here how it judges, and cite the paper. A verdict depends on its comparison and `ctx.seed`, never on its place in the list; a
//! comparison that cannot be judged is an `Err` in its place, and the others go on.

use std::collections::BTreeSet;

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "template_annotator", config: TemplateAnnotatorConfig,
    summary: "prefers the answer that takes up more words of the instruction",
    // paper: "https://arxiv.org/abs/…",
}

/// Options of `[annotator.template_annotator]`. These comments are the user's documentation: say unit and range.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TemplateAnnotatorConfig {
    /// The name its annotations carry.
    pub name: String,
    /// Words that an answer may take up more than the other and still tie.
    pub tolerance: usize,
}

impl Default for TemplateAnnotatorConfig {
    fn default() -> Self {
        Self { name: "template_annotator".to_owned(), tolerance: 0 }
    }
}

#[typetag::serde(name = "template_annotator")]
impl AnnotatorConfig for TemplateAnnotatorConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(TieIfIdentical::around(TemplateAnnotator(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let no_name = self.name.is_empty().then(|| Problem::new("name", "expected a name, got an empty text"));
        no_name.into_iter().collect()
    }
}

struct TemplateAnnotator(TemplateAnnotatorConfig);

#[async_trait]
impl Annotator for TemplateAnnotator {
    fn id(&self) -> &str {
        &self.0.name
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let judge = |comparison: &Comparison| {
            let instruction = comparison.instruction.text();
            let shared = [&comparison.output_1, &comparison.output_2].map(|output| n_shared(&instruction, output));
            let preference = preference(shared, self.0.tolerance);
            Ok(Annotation { scores: Some(shared.map(|n| n as f64)), ..Annotation::new(self.0.name.clone(), preference) })
        };
        comparisons.iter().map(judge).collect()
    }
}

fn preference([first, second]: [usize; 2], tolerance: usize) -> Preference {
    if first.abs_diff(second) <= tolerance {
        Preference::Tie
    } else if first > second {
        Preference::First
    } else {
        Preference::Second
    }
}

/// Distinct words that two texts share.
fn n_shared(a: &str, b: &str) -> usize {
    let words = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<BTreeSet<String>>();
    words(a).intersection(&words(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_that_shares_more_words_wins() {
        assert_eq!(n_shared("Name a red fruit", "A fruit that is RED: a cherry"), 2);
        assert_eq!(preference([2, 1], 0), Preference::First);
        assert_eq!(preference([1, 2], 0), Preference::Second);
        assert_eq!(preference([1, 2], 1), Preference::Tie);
    }

    #[test]
    fn a_judge_needs_a_name() {
        assert_eq!(TemplateAnnotatorConfig::default().problems(), []);
        let unnamed = TemplateAnnotatorConfig { name: String::new(), ..TemplateAnnotatorConfig::default() };
        assert_eq!(unnamed.problems()[0].path, "name");
    }
}
