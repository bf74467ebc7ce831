//! How the rewards of each model's answers are spread.

use farmhand_core::types::Judgement;

use super::figures::colour_of_model;
use crate::charts::{Distribution, Distributions};
use crate::leaderboard::Leaderboard;
use crate::repetitions::Repetitions;
use crate::run_files::{AnswerScores, ModelFiles, RunFiles};

/// The distributions of what the run's reward models gave: one chart a reward model, with its name; empty where nobody scored.
pub(super) fn by_reward_model(run: &RunFiles, board: &Leaderboard) -> Vec<(String, Distributions)> {
    let mut names: Vec<&String> =
        run.models.iter().flat_map(|model| &model.scores).flat_map(|scores| scores.rewards.keys()).collect();
    names.sort_by_key(|name| (*name != AnswerScores::REWARD_MODEL, *name));
    names.dedup();
    let chart = |name: &String| {
        let values = |model: &ModelFiles| model.scores.iter().filter_map(|scores| scores.rewards.get(name).copied()).collect();
        let label = if name == AnswerScores::REWARD_MODEL { "Reward".to_owned() } else { format!("Reward by {name}") };
        (name.clone(), distributions(run, board, &label, values))
    };
    names.into_iter().map(chart).filter(|(_, chart)| !chart.is_empty()).collect()
}

/// The distributions of the judges' scores of the models' answers; empty where judges give none.
pub(super) fn by_judges(run: &RunFiles, board: &Leaderboard) -> Distributions {
    let score = |judgement: &Judgement| judgement.annotation()?.scores.map(|[_, model]| model);
    distributions(run, board, "Judges' score", |model| model.judgements.iter().filter_map(score).collect())
}

fn distributions(run: &RunFiles, board: &Leaderboard, label: &str, values: impl Fn(&ModelFiles) -> Vec<f64>) -> Distributions {
    let methods = run.by_method();
    let row = |place: usize| {
        let name = board.text("model", place)?;
        let method: &Repetitions<'_> = methods.iter().find(|method| method.name == name)?;
        let values = method.models.iter().flat_map(|model| values(model)).collect();
        Some(Distribution { model: name.to_owned(), values, colour: colour_of_model(run, name) })
    };
    Distributions::new(label, (0..board.len()).filter_map(row))
}
