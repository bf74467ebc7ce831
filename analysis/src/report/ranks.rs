//! How sure the places on the leaderboard are.

use std::collections::BTreeMap;
use std::fmt::Write;

use farmhand_core::{Rng, Seed};
use farmhand_evaluators::statistics::bootstrap;

use super::figures::colour_of_model;
use crate::charts::{RankInterval, RankIntervals};
use crate::leaderboard::Leaderboard;
use crate::repetitions::{Repetitions, matched, p_wins};
use crate::run_files::RunFiles;

/// Resamples.
const N_REPLICATES: usize = 1_000;

/// The places of models with their 95 % intervals, best first.
pub(super) struct Ranks {
    places: Vec<RankInterval>,
}

impl Ranks {
    /// Draws the instructions that all models have verdicts on anew, the same for all models, and of each method its seeds, and
    /// ranks the means every time ([`mean_of_drawn_seeds`]). None for fewer than two models or two common instructions.
    pub(super) fn of(run: &RunFiles, board: &Leaderboard) -> Self {
        let methods = run.by_method();
        let ranked = |place: usize| methods.iter().find(|method| Some(method.name) == board.text("model", place));
        let judged = |method: &&Repetitions<'_>| method.models.iter().all(|model| !model.judgements.is_empty());
        let methods: Vec<&Repetitions<'_>> = (0..board.len()).filter_map(ranked).filter(judged).collect();
        let maps: Vec<BTreeMap<&str, f64>> =
            methods.iter().flat_map(|method| &method.models).map(|model| p_wins(model)).collect();
        let rows = matched(&maps);
        let n = rows.first().map_or(0, Vec::len);
        if methods.len() < 2 || n < 2 {
            return Self { places: Vec::new() };
        }
        let mut starts = Vec::new();
        let mut at = 0;
        for method in &methods {
            starts.push(at..at + method.models.len());
            at += method.models.len();
        }
        let seed = Seed::root(0).child("ranks", 0);
        let mut ranks: Vec<Vec<f64>> = vec![Vec::with_capacity(N_REPLICATES); methods.len()];
        let mut replicate = 0;
        bootstrap::replicates(n, N_REPLICATES, seed, |drawn| {
            let mut rng = seed.child("seeds", replicate).rng();
            replicate += 1;
            let total = |row: usize| drawn.iter().map(|i| rows[row][*i]).sum::<f64>();
            let totals: Vec<f64> = rows.iter().enumerate().map(|(row, _)| total(row)).collect();
            let means: Vec<f64> = starts.iter().map(|range| mean_of_drawn_seeds(&totals[range.clone()], &mut rng)).collect();
            for (place, mean) in means.iter().enumerate() {
                let better = means.iter().filter(|other| *other > mean).count();
                let level = means.iter().filter(|other| *other == mean).count() - 1;
                ranks[place].push(1.0 + better as f64 + 0.5 * level as f64);
            }
            Some(0.0)
        });
        let place = |(place, mut ranks): (usize, Vec<f64>)| {
            ranks.sort_by(f64::total_cmp);
            let model = methods[place].name.to_owned();
            RankInterval {
                colour: colour_of_model(run, &model),
                model,
                rank: place + 1,
                interval: [bootstrap::quantile(&ranks, 0.025), bootstrap::quantile(&ranks, 0.975)],
            }
        };
        Self { places: ranks.into_iter().enumerate().map(place).collect() }
    }

    /// The chart.
    pub(super) fn chart(&self) -> RankIntervals {
        RankIntervals::new(self.places.iter().cloned())
    }

    /// CSV with a line a model; nothing without ranks.
    pub(super) fn csv(&self) -> Option<String> {
        let mut text = "model,rank,interval_low,interval_high\n".to_owned();
        for place in &self.places {
            let [low, high] = place.interval;
            let _ = writeln!(text, "{},{},{low},{high}", super::csv_text(&place.model), place.rank);
        }
        (!self.places.is_empty()).then_some(text)
    }
}

/// The mean of S − 1 of a method's S seeds, drawn with replacement; of one seed, that one. The mean of S of them would vary by
/// (S − 1) / S of what the mean of S trainings does, which with three seeds makes intervals a fifth too short; S − 1 have the
/// variance s² / S (McCarthy and Snowden, 1985, *The bootstrap and finite population sampling*).
fn mean_of_drawn_seeds(totals: &[f64], rng: &mut Rng) -> f64 {
    let n_drawn = (totals.len() - 1).max(1);
    (0..n_drawn).map(|_| totals[rng.below(totals.len())]).sum::<f64>() / n_drawn as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::leaderboard::entries_of;

    #[test]
    fn every_place_lies_in_its_interval_and_few_instructions_make_wide_ones() {
        let dir = fixture::repeated_run();
        let run = RunFiles::read(dir.path()).expect("read");
        let board = Leaderboard::from_entries(&entries_of(&run)).expect("made");
        let found = Ranks::of(&run, &board);
        assert_eq!(found.places.iter().map(|place| place.rank).collect::<Vec<_>>(), [1, 2, 3]);
        for place in &found.places {
            let [low, high] = place.interval;
            assert!(low <= place.rank as f64 && place.rank as f64 <= high && (1.0..=3.0).contains(&low), "{place:?}");
        }
        assert!(found.places.iter().any(|place| place.interval[1] - place.interval[0] >= 1.0));
        assert_eq!(found.csv(), Ranks::of(&run, &board).csv());
    }

    #[test]
    fn one_model_has_no_rank() {
        let dir = fixture::run();
        let mut run = RunFiles::read(dir.path()).expect("read");
        run.models.truncate(1);
        let board = Leaderboard::from_entries(&entries_of(&run)).expect("made");
        assert!(Ranks::of(&run, &board).csv().is_none());
    }

    #[test]
    fn means_of_drawn_seeds_vary_as_means_of_trainings_do() {
        let mut rng = Seed::root(4).rng();
        for totals in [&[1.0, 4.0][..], &[0.0, 3.0, 9.0], &[2.0, 2.5, 7.0, 1.0, 4.0]] {
            let s = totals.len() as f64;
            let mean = totals.iter().sum::<f64>() / s;
            let expected = totals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (s - 1.0) / s;
            let drawn: Vec<f64> = (0..40_000).map(|_| mean_of_drawn_seeds(totals, &mut rng)).collect();
            let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 40_000.0;
            assert!((variance / expected - 1.0).abs() < 0.05, "{totals:?}: {variance} {expected}");
        }
        assert_eq!(mean_of_drawn_seeds(&[3.5], &mut rng), 3.5);
    }
}
