//! How far a method's policy has moved from its reference, as the method recorded it (`…/kl`, in nats).

use std::collections::BTreeMap;

use farmhand_core::types::{EvalReport, Metric};

use crate::repetitions::{Repetitions, split_seed};
use crate::run_files::RunFiles;

/// The numbers that the repetitions of a method's learning recorded, by name.
pub(crate) fn recorded<'a>(
    run: &'a RunFiles,
    method: &str,
) -> impl Iterator<Item = &'a BTreeMap<String, BTreeMap<u64, f64>>> + use<'a> {
    let stage = format!("learn-{method}");
    run.scalars.iter().filter(move |(name, _)| split_seed(name).0 == stage).map(|(_, scalars)| scalars)
}

/// The divergence after so many steps of a method's learning, or at its end: the mean over its repetitions. What is recorded at
/// step s is about the policy after s steps. `None` when a repetition recorded none.
pub(crate) fn divergence(run: &RunFiles, method: &str, steps: Option<u64>) -> Option<f64> {
    let of = |scalars: &BTreeMap<String, BTreeMap<u64, f64>>| {
        let kl = scalars.iter().find(|(name, _)| name.rsplit('/').next() == Some("kl"))?.1;
        match steps {
            Some(steps) => kl.range(..=steps).next_back().map(|(_, value)| *value),
            None => kl.values().next_back().copied(),
        }
    };
    let all: Vec<f64> = recorded(run, method).map(of).collect::<Option<_>>()?;
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// The divergence at the end of a method's learning as a report's metric `kl` (nats), the mean over its repetitions; nothing where a
/// repetition recorded none.
pub(crate) fn report(run: &RunFiles, method: &Repetitions<'_>) -> Option<EvalReport> {
    let folder = split_seed(&method.models[0].method).0;
    // A model kept on the way is a method of its own, recorded under the name of the whole.
    let (name, steps) = match folder.rsplit_once('.').map(|(name, steps)| (name, steps.parse::<u64>())) {
        Some((name, Ok(steps))) => (name, Some(steps)),
        _ => (folder, None),
    };
    let value = divergence(run, name, steps)?;
    let metric = Metric {
        name: "kl".to_owned(),
        value,
        std_error: None,
        interval: None,
        n: method.models.len(),
        unit: "nats".to_owned(),
        higher_is_better: None,
    };
    Some(EvalReport { model: method.name.to_owned(), reference: None, annotator: None, metrics: vec![metric] })
}

#[cfg(test)]
mod tests {
    use crate::Leaderboard;
    use crate::fixture;

    #[test]
    fn a_method_that_recorded_it_has_it_on_the_leaderboards_files() {
        let dir = fixture::run();
        let board = Leaderboard::load(&[dir.path()]).expect("loaded");
        let row = |name: &str| (0..board.len()).find(|row| board.text("model", *row) == Some(name)).expect("there");
        // The last step is 39: 0.002 · 39².
        assert!((board.number("kl", row("ppo")).expect("recorded") - 3.042).abs() < 1e-9);
        assert_eq!(board.number("kl", row("dpo")), None);
        let header = board.csv().expect("written").lines().next().map(str::to_owned).expect("a header");
        assert!(!board.terminal().contains("kl") && header.contains(",kl"), "{header}");
    }
}
