//! A judge that names the better answer with one token, and is asked how sure it was.
//!
//! The verdict is the probability of the second answer's token among the two: AlpacaEval 2's idea (Dubois et al., 2024,
//! section 2), with a prompt of our own. It costs one token a verdict, and a judge that cannot decide says so with a number near
//! one half in place of a coin toss.

use std::path::PathBuf;

use farmhand_core::types::Comparison;
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Problem, Result, RunContext, register};
use farmhand_endpoints::AnswerFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::tie_if_identical::TieIfIdentical;

use super::ask::{Asker, Question};
use super::ask_options::AskOptions;
use super::judging::{Interview, Sheet, Verdicts};
use super::one_by_one::{OneByOne, Singly};
use super::own_prompt::read_prompt;
use super::own_question::question;
use super::parsers::{LogProbParser, Parser, Place, Reply};
use super::prompt::{PromptFile, Variables, asked};

register! {
    kind: Annotator, name: "weighted", config: WeightedConfig,
    summary: "a language model behind a server, asked how likely it is to name each answer with one token",
    paper: "https://arxiv.org/abs/2404.04475",
}

const EMBEDDED: &str = include_str!("prompts/weighted.toml");
const VARIABLES: Variables = Variables { needed: &["instruction", "output_1", "output_2"], other: &["first", "second"] };

/// Options of `[annotator.weighted]`. The server must give log-probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct WeightedConfig {
    /// The name its annotations carry.
    pub name: String,
    /// The token that stands for the answer shown first; one token of the model's own.
    pub first: String,
    /// The token that stands for the answer shown second.
    pub second: String,
    /// How many of the likeliest tokens the server is asked for, in [2, 20]. Where one of the two is not among them, it counts as
    /// impossible.
    pub alternatives: u32,
    /// Say only which answer is better, not how surely.
    pub binary: bool,
    /// The prompt, in place of the embedded one: a TOML file with `[[messages]]`, which can show `instruction`, `output_1`,
    /// `output_2`, `first` and `second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PathBuf>,
    /// Whom it asks.
    #[serde(flatten)]
    pub ask: AskOptions,
}

impl Default for WeightedConfig {
    fn default() -> Self {
        Self {
            name: "weighted".to_owned(),
            first: "m".to_owned(),
            second: "M".to_owned(),
            alternatives: 5,
            binary: false,
            prompt: None,
            // The likelihoods of the first token do not depend on the temperature; at 1 servers report them unscaled.
            ask: AskOptions { max_tokens: 1, temperature: 1.0, ..AskOptions::default() },
        }
    }
}

#[typetag::serde(name = "weighted")]
impl AnnotatorConfig for WeightedConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        self.ask.model()?;
        let prompt = read_prompt(self.prompt.as_deref(), EMBEDDED, VARIABLES, ctx)?;
        let parser = Parser::LogProb(LogProbParser {
            numerator_token: self.first.clone(),
            denominator_tokens: vec![self.first.clone(), self.second.clone()],
            is_binarize: self.binary,
            place: Place::Index(0),
        });
        Ok(TieIfIdentical::around(OneByOne(Weighted {
            asker: Asker::new(&self.ask.server, &self.ask.keep, ctx)?,
            config: self.clone(),
            prompt,
            parser,
        })))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.ask.problems();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        if !(2..=20).contains(&self.alternatives) {
            problems.push(Problem::new("alternatives", format!("expected a number in [2, 20], got {}", self.alternatives)));
        }
        if self.first.is_empty() || self.first == self.second {
            problems.push(Problem::new("first", "expected two different tokens for the two answers"));
        }
        problems
    }
}

struct Weighted {
    config: WeightedConfig,
    asker: Asker,
    prompt: PromptFile,
    parser: Parser,
}

impl Interview for Weighted {
    fn id(&self) -> &str {
        &self.config.name
    }

    fn write(&self, shown: &[Comparison], _: &Sheet, ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let Comparison { instruction, output_1, output_2, .. } = &shown[0];
        let values = json!({
            "instruction": asked(instruction), "output_1": output_1, "output_2": output_2,
            "first": self.config.first, "second": self.config.second,
        });
        let (mut asked, _) = question(&self.config.ask, self.prompt.fill(&values)?, AnswerFormat::Text, ctx)?;
        if let Question::Chat(request) = &mut asked {
            request.decoding.log_probs = Some(self.config.alternatives);
        }
        // The likelihoods are the same whatever is sampled, so all runs share them.
        Ok((asked, 0))
    }

    fn read(&self, reply: Reply<'_>, sheet: &Sheet) -> Verdicts {
        let verdicts = self.parser.verdicts(reply, sheet.n_places)?;
        Ok(verdicts.into_iter().map(|verdict| verdict.map(Into::into)).collect())
    }
}

impl Singly for Weighted {
    fn asker(&self) -> &Asker {
        &self.asker
    }
}
