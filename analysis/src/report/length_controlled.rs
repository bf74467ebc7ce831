//! The length-controlled win rates of a run's models: what a reader of raw ones should see beside them.

use std::collections::BTreeMap;

use farmhand_evaluators::length_controlled::{Instance, fit};
use farmhand_evaluators::statistics::normal;

use super::figures::colour_of_model;
use crate::charts::{ControlledRate, LengthControlled};
use crate::leaderboard::Leaderboard;
use crate::repetitions::Repetitions;
use crate::run_files::RunFiles;

/// Verdicts that a regression needs at least.
const MIN_VERDICTS: usize = 30;

/// Raw and length-controlled rates side by side. Those of the leaderboard where it has them; otherwise the regression without
/// difficulties over all verdicts of the method's repetitions, its interval clustered by instruction.
pub(super) fn chart(run: &RunFiles, board: &Leaderboard) -> LengthControlled {
    let methods = run.by_method();
    let row = |place: usize| {
        let model = board.text("model", place)?.to_owned();
        let raw = board.number("win_rate", place)?;
        let known = board.number("length_controlled_winrate", place);
        let (controlled, error) = match known {
            Some(rate) => (rate, board.number("lc_standard_error", place)),
            None => controlled(methods.iter().find(|method| method.name == model)?)?,
        };
        let half = error.map(|error| normal::quantile(0.975) * error);
        let interval = half.map(|half| [(controlled - half).max(0.0), (controlled + half).min(100.0)]);
        Some(ControlledRate { colour: colour_of_model(run, &model), model, raw, controlled, interval })
    };
    LengthControlled::new((0..board.len()).filter_map(row))
}

/// The length-controlled win rate of a method and its standard error, both in %. `None` where there are few verdicts, or all
/// answers are as long as the reference's.
fn controlled(method: &Repetitions<'_>) -> Option<(f64, Option<f64>)> {
    let judgements = method.models.iter().flat_map(|model| &model.judgements);
    let characters = |text: &str| text.chars().count() as f64;
    let (ids, instances): (Vec<&str>, Vec<Instance>) = judgements
        .filter_map(|judgement| {
            let comparison = &judgement.comparison;
            let delta_len = characters(&comparison.output_1) - characters(&comparison.output_2);
            let p_win = Some(judgement.preference()?.p_second());
            let instance = Instance { delta_len, difficulty: None, covariates: Vec::new(), p_win };
            Some((comparison.instruction.id.as_str(), instance))
        })
        .unzip();
    if instances.len() < MIN_VERDICTS || instances.iter().all(|instance| instance.delta_len == 0.0) {
        return None;
    }
    // Numbers of a run are finite, so that the regression finds its optimum.
    let found = fit(&instances, &[], None).ok()?;
    let mut of_instruction: BTreeMap<&str, f64> = BTreeMap::new();
    let clustered = found.influences.map(|influences| {
        ids.iter().zip(&influences).for_each(|(id, influence)| *of_instruction.entry(id).or_default() += influence);
        let n = of_instruction.len() as f64;
        100.0 * (of_instruction.values().map(|sum| sum * sum).sum::<f64>() * n / (n - 1.0)).sqrt()
    });
    Some((100.0 * found.win_rate, clustered.filter(|error| error.is_finite())))
}
