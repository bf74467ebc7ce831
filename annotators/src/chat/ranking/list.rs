//! The ranking judge as a reward model: all answers to an instruction on one sheet.

use std::collections::HashMap;

use farmhand_core::types::{Instruction, Response};
use farmhand_core::{BuildContext, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RankOptions, Ranker, read_ranks};
use crate::chat::ask::Said;
use crate::chat::parsers::Reply;
use crate::chat::prompt::asked;
use crate::chat::reading::{read_or_fail, spend};

register! {
    kind: RewardModel, name: "ranking", config: ListRankingConfig,
    summary: "a language model behind a server that ranks all answers to an instruction at once",
    paper: "https://arxiv.org/abs/2304.05302",
}

/// Options of `[reward_model.ranking]`. A score is the share of the other answers that an answer is ranked above, an equal rank
/// counting half: it says how an answer compares with those it was scored with, and nothing beyond them. For ranked lists, with at
/// most `most_answers` answers to an instruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ListRankingConfig {
    /// Answers on a sheet at most, ≥ 2; the answers to an instruction beyond it go on further sheets.
    pub most_answers: usize,
    /// How it ranks.
    #[serde(flatten)]
    pub rank: RankOptions,
}

impl Default for ListRankingConfig {
    fn default() -> Self {
        Self { most_answers: 8, rank: RankOptions::default() }
    }
}

#[typetag::serde(name = "ranking")]
impl RewardModelConfig for ListRankingConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        Ok(Box::new(ListRanking { most_answers: self.most_answers.max(2), ranker: Ranker::build(&self.rank, ctx)? }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.rank.problems();
        if self.most_answers < 2 {
            problems.push(Problem::new("most_answers", format!("expected at least 2, got {}", self.most_answers)));
        }
        problems
    }
}

struct ListRanking {
    most_answers: usize,
    ranker: Ranker,
}

/// The different answers to one instruction that stand on one sheet, each with the items it is.
struct AnswerSheet<'a> {
    instruction: &'a Instruction,
    answers: Vec<(&'a str, Vec<usize>)>,
}

impl RewardModel for ListRanking {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let mut scores = vec![0.5; items.len()];
        // A sheet with one answer has nobody to be above, and nobody is asked.
        let sheets: Vec<AnswerSheet<'_>> =
            sheets(items, self.most_answers).into_iter().filter(|sheet| sheet.answers.len() > 1).collect();
        let write = |i: usize| {
            let outputs: Vec<&str> = sheets[i].answers.iter().map(|(output, _)| *output).collect();
            self.ranker.question(&asked(sheets[i].instruction), &outputs, ctx)
        };
        let read = |i: usize, said: Result<Said>| {
            let spent = said.as_ref().ok().map(Said::spent);
            (read_or_fail(said, |answer| read_ranks(Reply::of(answer).text, sheets[i].answers.len())), spent)
        };
        let replies = ctx.block_on(self.ranker.asker.ask(sheets.len(), write, read, ctx));
        spend(replies.iter().filter_map(|(_, spent)| *spent), ctx);
        for (sheet, (ranks, _)) in sheets.iter().zip(replies) {
            let shares = shares_above(&ranks?);
            for ((_, members), share) in sheet.answers.iter().zip(shares) {
                members.iter().for_each(|item| scores[*item] = share);
            }
        }
        Ok(scores)
    }
}

/// Groups items by instruction, equal answers together, cut into sheets.
fn sheets<'a>(items: &[Response<'a>], most_answers: usize) -> Vec<AnswerSheet<'a>> {
    let mut by_instruction: Vec<AnswerSheet<'a>> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let group = *index.entry(&item.instruction.id).or_insert_with(|| {
            by_instruction.push(AnswerSheet { instruction: item.instruction, answers: Vec::new() });
            by_instruction.len() - 1
        });
        let answers = &mut by_instruction[group].answers;
        match answers.iter_mut().find(|(output, _)| *output == item.output) {
            Some((_, members)) => members.push(i),
            None => answers.push((item.output, vec![i])),
        }
    }
    let cut = |group: AnswerSheet<'a>| {
        let n_sheets = group.answers.len().div_ceil(most_answers).max(1);
        let size = group.answers.len().div_ceil(n_sheets).max(1);
        let sheet = |answers: &[(&'a str, Vec<usize>)]| AnswerSheet { instruction: group.instruction, answers: answers.to_vec() };
        group.answers.chunks(size).map(sheet).collect::<Vec<_>>()
    };
    by_instruction.into_iter().flat_map(cut).collect()
}

/// For each rank the share of the others that is behind it, equal ones counting half.
fn shares_above(ranks: &[f64]) -> Vec<f64> {
    let others = (ranks.len() - 1).max(1) as f64;
    let share = |rank: &f64| {
        let worse = ranks.iter().filter(|other| *other > rank).count() as f64;
        let equal = ranks.iter().filter(|other| *other == rank).count() as f64 - 1.0;
        (worse + equal / 2.0) / others
    };
    ranks.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_the_share_of_answers_behind() {
        assert_eq!(shares_above(&[1.0, 2.0, 3.0]), [1.0, 0.5, 0.0]);
        assert_eq!(shares_above(&[1.0, 1.0, 2.0]), [0.75, 0.75, 0.0]);
        assert_eq!(shares_above(&[1.0]), [0.0]);
    }

    #[test]
    fn answers_to_one_instruction_share_a_sheet_and_equal_ones_a_place() {
        let (one, two) = (Instruction::new("one", None), Instruction::new("two", None));
        let item = |instruction, output| Response { instruction, output };
        let items = [item(&one, "a"), item(&two, "x"), item(&one, "b"), item(&one, "a"), item(&one, "c")];
        let all = sheets(&items, 8);
        let shape = |sheet: &AnswerSheet<'_>| sheet.answers.iter().map(|(_, members)| members.clone()).collect::<Vec<_>>();
        assert_eq!(all.iter().map(shape).collect::<Vec<_>>(), [vec![vec![0, 3], vec![2], vec![4]], vec![vec![1]]]);
        assert_eq!(sheets(&items, 2).iter().map(|sheet| sheet.answers.len()).collect::<Vec<_>>(), [2, 1, 1]);
    }
}
