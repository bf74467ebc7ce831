//! Prefers the answer with fewer words: `[annotator.fewer_words]`.

use async_trait::async_trait;
use farmhand::core::types::{Annotation, Comparison, Preference};
use farmhand::core::{Annotator, AnnotatorConfig, BuildContext, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

register! {
    kind: Annotator, name: "fewer_words", config: FewerWordsConfig,
    summary: "prefers the answer with fewer words",
}

/// Options of `[annotator.fewer_words]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct FewerWordsConfig {
    /// Words that an answer may have more than the other and still tie.
    tolerance: usize,
}

#[typetag::serde(name = "fewer_words")]
impl AnnotatorConfig for FewerWordsConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(Box::new(FewerWords(self.clone())))
    }
}

struct FewerWords(FewerWordsConfig);

#[async_trait]
impl Annotator for FewerWords {
    fn id(&self) -> &str {
        "fewer_words"
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let judge = |comparison: &Comparison| {
            let [first, second] = [&comparison.output_1, &comparison.output_2].map(|output| output.split_whitespace().count());
            let preference = match first.abs_diff(second) {
                difference if difference <= self.0.tolerance => Preference::Tie,
                _ if first < second => Preference::First,
                _ => Preference::Second,
            };
            Ok(Annotation::new(self.id(), preference))
        };
        comparisons.iter().map(judge).collect()
    }
}
