//! The ranking judge as an annotator: two answers.

use farmhand_core::types::{Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RankOptions, Ranker, read_ranks};
use crate::chat::ask::{Asker, Question};
use crate::chat::judging::{Interview, Sheet, Verdicts};
use crate::chat::one_by_one::{OneByOne, Singly};
use crate::chat::parsers::Reply;
use crate::chat::prompt::asked;
use crate::tie_if_identical::TieIfIdentical;

register! {
    kind: Annotator, name: "ranking", config: RankingConfig,
    summary: "a language model behind a server that ranks the two answers",
    paper: "https://arxiv.org/abs/2305.14387",
}

/// Options of `[annotator.ranking]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RankingConfig {
    /// The name its annotations carry.
    pub name: String,
    /// How it ranks.
    #[serde(flatten)]
    pub rank: RankOptions,
}

impl Default for RankingConfig {
    fn default() -> Self {
        Self { name: "ranking".to_owned(), rank: RankOptions::default() }
    }
}

#[typetag::serde(name = "ranking")]
impl AnnotatorConfig for RankingConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(TieIfIdentical::around(OneByOne(Ranking { name: self.name.clone(), ranker: Ranker::build(&self.rank, ctx)? })))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.rank.problems();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        problems
    }
}

struct Ranking {
    name: String,
    ranker: Ranker,
}

impl Interview for Ranking {
    fn id(&self) -> &str {
        &self.name
    }

    fn write(&self, shown: &[Comparison], _: &Sheet, ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let Comparison { instruction, output_1, output_2, .. } = &shown[0];
        self.ranker.question(&asked(instruction), &[output_1, output_2], ctx)
    }

    fn read(&self, reply: Reply<'_>, _: &Sheet) -> Verdicts {
        let ranks = read_ranks(reply.text, 2)?;
        let preference = match ranks[0].total_cmp(&ranks[1]) {
            std::cmp::Ordering::Less => Preference::First,
            std::cmp::Ordering::Greater => Preference::Second,
            std::cmp::Ordering::Equal => Preference::Tie,
        };
        Ok(vec![Ok(preference.into())])
    }
}

impl Singly for Ranking {
    fn asker(&self) -> &Asker {
        &self.ranker.asker
    }
}
