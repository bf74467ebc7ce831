//! From scored answers to what the inner learner takes: pairs or ranked lists.

use std::collections::BTreeMap;

use farmhand_core::types::{FinishReason, Instruction, PreferencePair, RankedList, ScoredCompletion};
use farmhand_core::{Error, FeedbackKind, Problem, Result, RunContext, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::IterativeConfig;
use crate::rl::selection::{
    Pair, all_equal, all_pairs, best_worst, by_score, descending, first_round, rejection_sample, tournament,
};

/// Which of the answers to an instruction make pairs; the one with the higher score is chosen, equal scores make none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PairSelection {
    /// The best and the worst: one pair, the widest gap.
    #[default]
    BestWorst,
    /// The answers in random order, neighbours against each other: half as many pairs as answers.
    FirstRound,
    /// A knock-out tournament in the order of sampling: a pair a match, one less than answers.
    Tournament,
    /// All pairs of answers.
    AllPairs,
    /// Statistical rejection sampling, then the first round among the accepted (RSO, <https://arxiv.org/abs/2309.06657>).
    Rso {
        /// Temperature β of the target distribution `π · exp(r / β)` in the scorer's unit, ≥ 0; the paper's is 0.5. 0 takes the best.
        beta: f64,
        /// Answers to accept, ≥ 2; the paper has 8 of 64.
        accept: usize,
    },
}

impl PairSelection {
    /// Values out of range; `n` answers are sampled to an instruction. Paths are relative to the selection.
    pub(super) fn problems(self, n: usize) -> Vec<Problem> {
        let Self::Rso { beta, accept } = self else { return Vec::new() };
        let mut problems = Vec::new();
        if !(beta >= 0.0 && beta.is_finite()) {
            problems.push(Problem::new("rso.beta", format!("expected a number ≥ 0, got {beta}")));
        }
        if accept < 2 || accept > n {
            problems.push(Problem::new("rso.accept", format!("expected 2 to the {n} answers that are sampled, got {accept}")));
        }
        problems
    }

    /// The pairs of some answers with their scores.
    fn pairs(self, texts: &[&str], scores: &[f64], seed: Seed) -> Vec<Pair> {
        let all: Vec<usize> = (0..texts.len()).collect();
        let mut matches = seed.child("matches", 0).rng();
        match self {
            Self::BestWorst => best_worst(texts, scores).into_iter().collect(),
            Self::FirstRound => first_round(&all, by_score(scores), &mut matches),
            Self::Tournament => tournament(&all, by_score(scores)),
            Self::AllPairs => all_pairs(scores),
            Self::Rso { beta, accept } => {
                let mut draws = seed.child("rejection", 0).rng();
                let accepted = rejection_sample(texts, scores, beta, accept, || draws.uniform());
                first_round(&accepted, by_score(scores), &mut matches)
            }
        }
    }
}

/// The answers to one instruction that compete with each other, with their scores.
pub(super) struct Group {
    instruction: Instruction,
    texts: Vec<String>,
    scores: Vec<f64>,
    /// Where its selection draws from.
    seed: Seed,
}

/// Groups of scored answers, with the length penalty on each score. With `pooled`, the answers that several rounds gave to an
/// instruction compete with each other. `rounds` are the scored answers of each round.
pub(super) fn groups(rounds: &[(u64, Vec<ScoredCompletion>)], config: &IterativeConfig, pooled: bool, seed: Seed) -> Vec<Group> {
    let mut found: Vec<Group> = Vec::new();
    let mut places: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for (round, answers) in rounds {
        for ScoredCompletion { completion, score } in answers {
            let round = if pooled { 0 } else { *round };
            let id = completion.instruction.id.as_str();
            let place = *places.entry((round, id)).or_insert_with(|| {
                let instruction = completion.instruction.clone();
                let seed = seed.child("selection", round).child_text("instruction", id);
                found.push(Group { instruction, texts: Vec::new(), scores: Vec::new(), seed });
                found.len() - 1
            });
            if config.drop_unfinished && completion.finish == FinishReason::Length {
                continue;
            }
            found[place].texts.push(completion.output.clone());
            found[place].scores.push(score - config.length_penalty * completion.output.chars().count() as f64);
        }
    }
    found
}

/// What the inner learner is given.
pub(super) enum Selected {
    Pairs(Vec<PreferencePair>),
    Lists(Vec<RankedList>),
}

/// Selects from all groups, logs what came of it, and writes it into the stage.
///
/// # Errors
/// When nothing is selected, or the disk refuses.
pub(super) fn select(
    groups: &[Group],
    kind: FeedbackKind,
    selection: PairSelection,
    number: u64,
    ctx: &RunContext<'_>,
) -> Result<Selected> {
    let n = groups.len().max(1) as f64;
    let scalar = |name: &str, value: f64| ctx.scalar(&format!("iterative/{name}"), number, value);
    let tied = groups.iter().filter(|group| all_equal(&group.scores)).count();
    scalar("tied", tied as f64 / n);
    let (selected, n_selected) = match kind {
        FeedbackKind::RankedLists => {
            let lists: Vec<RankedList> = groups.iter().filter_map(ranked).collect();
            ctx.stage.write_jsonl("ranked_lists.jsonl", &lists)?;
            let n_lists = lists.len();
            (Selected::Lists(lists), n_lists)
        }
        _ => {
            let (pairs, n_identical) = paired(groups, selection);
            scalar("identical", n_identical as f64);
            let mean =
                |number: &dyn Fn(&PreferencePair) -> f64| pairs.iter().map(number).sum::<f64>() / pairs.len().max(1) as f64;
            scalar("gap", mean(&|pair| pair.margin.unwrap_or(0.0)));
            scalar("chosen_characters", mean(&|pair| pair.chosen.chars().count() as f64));
            scalar("rejected_characters", mean(&|pair| pair.rejected.chars().count() as f64));
            ctx.stage.write_jsonl("preferences.jsonl", &pairs)?;
            let n_pairs = pairs.len();
            (Selected::Pairs(pairs), n_pairs)
        }
    };
    scalar("selected", n_selected as f64);
    if n_selected == 0 {
        let message = format!(
            "round {number} selected nothing to learn from: the answers to {tied} of {} instructions all score alike, and those \
             to the others make no pair of different texts",
            groups.len()
        );
        return Err(Error::invalid_data(message)
            .with_hint("sample more answers or at a higher temperature, or use a scorer that tells them apart"));
    }
    Ok(selected)
}

/// The selected pairs, and how many were dropped for identical texts.
fn paired(groups: &[Group], selection: PairSelection) -> (Vec<PreferencePair>, usize) {
    let (mut pairs, mut n_identical) = (Vec::new(), 0);
    for Group { instruction, texts, scores, seed } in groups {
        let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
        for pair in selection.pairs(&borrowed, scores, *seed) {
            let (chosen, rejected) = (&texts[pair.better], &texts[pair.worse]);
            if chosen == rejected {
                n_identical += 1;
                continue;
            }
            pairs.push(PreferencePair {
                instruction: instruction.clone(),
                chosen: chosen.clone(),
                rejected: rejected.clone(),
                p_chosen: None,
                margin: Some(pair.gap(scores)),
            });
        }
    }
    (pairs, n_identical)
}

/// All different answers, best first; `None` when they all score alike.
fn ranked(group: &Group) -> Option<RankedList> {
    let mut seen = std::collections::BTreeSet::new();
    let order: Vec<usize> = descending(&group.scores).into_iter().filter(|&i| seen.insert(&group.texts[i])).collect();
    let scores: Vec<f64> = order.iter().map(|&i| group.scores[i]).collect();
    let outputs = order.iter().map(|&i| group.texts[i].clone()).collect();
    (!all_equal(&scores)).then(|| RankedList { instruction: group.instruction.clone(), outputs, scores })
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Completion;

    use super::*;
    use crate::testing::instructions;

    fn scored(which: usize, outputs: &[(&str, f64)]) -> Vec<ScoredCompletion> {
        let instruction = instructions(which + 1).remove(which);
        let answer = |(sample, (output, score)): (u32, &(&str, f64))| ScoredCompletion {
            completion: Completion {
                instruction: instruction.clone(),
                output: (*output).to_owned(),
                model: "test".to_owned(),
                sample,
                finish: FinishReason::Stop,
                n_tokens: 1,
                log_prob: None,
            },
            score: *score,
        };
        (0..).zip(outputs).map(answer).collect()
    }

    fn penalty(length_penalty: f64) -> IterativeConfig {
        IterativeConfig { length_penalty, ..IterativeConfig::default() }
    }

    fn texts(pairs: &[PreferencePair]) -> Vec<(&str, &str)> {
        pairs.iter().map(|pair| (pair.chosen.as_str(), pair.rejected.as_str())).collect()
    }

    #[test]
    fn best_and_worst_with_a_length_penalty_match_the_goldens() {
        let of_length = |n: usize, c: char| std::iter::repeat_n(c, n).collect::<String>();
        let outputs = [of_length(120, 'w'), of_length(400, 'x'), of_length(300, 'y'), of_length(50, 'z')];
        let scores = [0.3, 1.1, 1.1, -0.2];
        let answers: Vec<(&str, f64)> = outputs.iter().map(String::as_str).zip(scores).collect();
        for (rate, chosen, gap) in [(0.0, 1, 1.3), (0.001, 2, 1.05)] {
            let made = groups(&[(0, scored(0, &answers))], &penalty(rate), false, Seed::root(0));
            let (pairs, n_identical) = paired(&made, PairSelection::BestWorst);
            assert_eq!((pairs.len(), n_identical), (1, 0));
            assert_eq!((&pairs[0].chosen, &pairs[0].rejected), (&outputs[chosen], &outputs[3]));
            assert!((pairs[0].margin.expect("a gap") - gap).abs() < 1e-9);
        }
    }

    #[test]
    fn ties_make_no_pair_and_identical_texts_are_counted() {
        let round = [scored(0, &[("a", 1.0), ("b", 1.0)]), scored(1, &[("c", 2.0), ("c", 1.0), ("d", 1.0)])].concat();
        let made = groups(&[(0, round)], &penalty(0.0), false, Seed::root(0));
        let (pairs, n_identical) = paired(&made, PairSelection::AllPairs);
        assert_eq!((texts(&pairs), n_identical), (vec![("c", "d")], 1));
        for selection in [
            PairSelection::BestWorst,
            PairSelection::FirstRound,
            PairSelection::Tournament,
            PairSelection::Rso { beta: 0.5, accept: 2 },
        ] {
            let (pairs, _) = paired(&made[..1], selection);
            assert!(pairs.is_empty(), "{selection:?}");
        }
    }

    #[test]
    fn every_selection_puts_the_better_answer_first_and_draws_by_the_instruction_alone() {
        let answers: Vec<(String, f64)> = (0..8).map(|i| (format!("answer {i}"), f64::from(i * 5 % 8))).collect();
        let answers: Vec<(&str, f64)> = answers.iter().map(|(text, score)| (text.as_str(), *score)).collect();
        for (selection, n) in [
            (PairSelection::BestWorst, 1),
            (PairSelection::FirstRound, 4),
            (PairSelection::Tournament, 7),
            (PairSelection::AllPairs, 28),
            (PairSelection::Rso { beta: 2.0, accept: 4 }, 2),
        ] {
            let together =
                groups(&[(3, [scored(1, &answers), scored(0, &answers)].concat())], &penalty(0.0), false, Seed::root(0));
            let alone = groups(&[(3, scored(0, &answers))], &penalty(0.0), false, Seed::root(0));
            let (pairs, _) = paired(&together[1..], selection);
            assert_eq!(pairs, paired(&alone, selection).0, "{selection:?}");
            assert_eq!(pairs.len(), n, "{selection:?}");
            assert!(pairs.iter().all(|pair| pair.margin.is_some_and(|margin| margin > 0.0)));
        }
    }

    #[test]
    fn rounds_stay_apart_unless_they_are_pooled() {
        let rounds = [(0, scored(0, &[("a", 1.0), ("b", 0.0)])), (1, scored(0, &[("c", 3.0), ("d", 2.0)]))];
        let pairs = |pooled| paired(&groups(&rounds, &penalty(0.0), pooled, Seed::root(0)), PairSelection::BestWorst).0;
        assert_eq!(texts(&pairs(false)), [("a", "b"), ("c", "d")]);
        assert_eq!(texts(&pairs(true)), [("c", "b")]);
    }

    #[test]
    fn unfinished_answers_are_left_out_when_that_is_asked_for() {
        let mut answers = scored(0, &[("a", 2.0), ("b", 1.0), ("c", 0.0)]);
        answers[0].completion.finish = FinishReason::Length;
        let rounds = [(0, answers)];
        let pairs = |drop_unfinished| {
            let config = IterativeConfig { drop_unfinished, ..IterativeConfig::default() };
            paired(&groups(&rounds, &config, false, Seed::root(0)), PairSelection::BestWorst).0
        };
        assert_eq!((texts(&pairs(false)), texts(&pairs(true))), (vec![("a", "c")], vec![("b", "c")]));
    }

    #[test]
    fn lists_are_ranked_without_repeated_texts() {
        let made = groups(&[(0, scored(0, &[("a", 0.0), ("b", 2.0), ("a", 1.0)]))], &penalty(0.0), false, Seed::root(0));
        let list = ranked(&made[0]).expect("they differ");
        assert_eq!((list.outputs, list.scores), (vec!["b".to_owned(), "a".to_owned()], vec![2.0, 1.0]));
        let tied = groups(&[(0, scored(0, &[("a", 1.0), ("b", 1.0)]))], &penalty(0.0), false, Seed::root(0));
        assert!(ranked(&tied[0]).is_none());
    }

    #[test]
    fn rejection_sampling_cannot_accept_more_than_is_sampled() {
        let paths = |selection: PairSelection| selection.problems(8).into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(PairSelection::Rso { beta: -1.0, accept: 9 }), ["rso.beta", "rso.accept"]);
        assert!(paths(PairSelection::Rso { beta: 0.5, accept: 8 }).is_empty() && paths(PairSelection::AllPairs).is_empty());
    }
}
