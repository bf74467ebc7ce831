//! The peak of a curve of models, and whether the curve rises to it and falls after it.
//!
//! The peak is picked because it is the highest of several points, so its difference to the first and to the last one is too large
//! on average. The intervals are therefore simultaneous: each is wide enough that those of all points hold together (Bonferroni).
//! A fall is told only where that interval lies above 0.

use std::collections::BTreeMap;

use crate::crossed::CrossedMean;
use crate::paired::paired_mean;
use crate::repetitions::Repetitions;
use crate::run_files::ModelFiles;

/// Where a curve is highest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Peak {
    /// The place of the highest point.
    pub(crate) at: usize,
    /// Its value minus the first point's, paired; `None` when it is the first point.
    pub(crate) rise: Option<CrossedMean>,
    /// Its value minus the last point's, paired; `None` when it is the last point.
    pub(crate) fall: Option<CrossedMean>,
}

impl Peak {
    /// Whether the curve rises to its peak, more than chance explains.
    pub(crate) fn rises(&self) -> bool {
        is_above_zero(self.rise.as_ref())
    }

    /// Whether the curve falls after its peak, more than chance explains.
    pub(crate) fn falls(&self) -> bool {
        is_above_zero(self.fall.as_ref())
    }
}

fn is_above_zero(difference: Option<&CrossedMean>) -> bool {
    difference.and_then(|difference| difference.interval).is_some_and(|[low, _]| low > 0.0)
}

/// The peak of a curve of models, by the mean of a number that `values` gives for each instruction; `None` with fewer than three
/// points or where a point has no number. Of equal points the first one is the peak.
pub(crate) fn peak<'a>(
    points: &[&Repetitions<'a>],
    values: impl Fn(&'a ModelFiles) -> BTreeMap<&'a str, f64> + Copy,
) -> Option<Peak> {
    let ([first, .., last], true) = (points, points.len() >= 3) else { return None };
    let heights: Vec<f64> = points.iter().map(|point| mean(point, values)).collect::<Option<_>>()?;
    let higher = |best: usize, at: usize| if heights[at] > heights[best] { at } else { best };
    let at = (0..points.len()).fold(0, higher);
    let n_intervals = points.len() - 1;
    let minus = |other: &Repetitions<'a>| paired_mean(points[at], other, values, n_intervals).map(|found| found.mean);
    let rise = if at == 0 { None } else { Some(minus(first)?) };
    let fall = if at == points.len() - 1 { None } else { Some(minus(last)?) };
    Some(Peak { at, rise, fall })
}

/// The mean over a model's repetitions of its mean over the instructions; `None` without a number.
pub(crate) fn mean<'a>(model: &Repetitions<'a>, values: impl Fn(&'a ModelFiles) -> BTreeMap<&'a str, f64>) -> Option<f64> {
    let of = |model: &&'a ModelFiles| {
        let numbers = values(model);
        (!numbers.is_empty()).then(|| numbers.values().sum::<f64>() / numbers.len() as f64)
    };
    let means: Vec<f64> = model.models.iter().map(of).collect::<Option<_>>()?;
    (!means.is_empty()).then(|| means.iter().sum::<f64>() / means.len() as f64)
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Annotation, Comparison, Instruction, Judgement, Preference};

    use super::*;
    use crate::repetitions::p_wins;
    use crate::run_files::RunFiles;

    /// A curve made up: at each point so many of `n` instructions are won, which ones looks random and is not.
    fn curve(won: &[usize], n: usize, seeds: u64) -> RunFiles {
        let judgement = |place: usize, seed: u64, index: usize| {
            let comparison = Comparison::new(Instruction::new(format!("Question {index}"), None), "a", "b");
            // 7919 is prime to n, so that every place wins exactly as many instructions as it should.
            let turn = (index * 7919 + place * 31 + seed as usize * 17) % n;
            let preference = if turn < won[place] { Preference::Second } else { Preference::First };
            Judgement::new(comparison, Ok(Annotation::new("judge", preference)))
        };
        let model = |place: usize, seed: u64| ModelFiles {
            method: format!("p{place:02}@{seed}"),
            judgements: (0..n).map(|index| judgement(place, seed, index)).collect(),
            ..ModelFiles::default()
        };
        let models = (0..won.len()).flat_map(|place| (0..seeds).map(move |seed| model(place, seed))).collect();
        RunFiles { models, ..RunFiles::default() }
    }

    fn peak_of(run: &RunFiles) -> Peak {
        let methods = run.by_method();
        peak(&methods.iter().collect::<Vec<_>>(), p_wins).expect("a curve")
    }

    #[test]
    fn a_curve_that_rises_and_falls_has_its_peak_in_the_middle_and_falls_significantly() {
        for seeds in [1, 3] {
            let found = peak_of(&curve(&[500, 580, 660, 600, 450], 1000, seeds));
            assert_eq!((found.at, found.rises(), found.falls()), (2, true, true), "{found:?}");
            let (rise, fall) = (found.rise.expect("not the first"), found.fall.expect("not the last"));
            assert!((rise.mean - 0.16).abs() < 1e-12 && (fall.mean - 0.21).abs() < 1e-12);
        }
    }

    #[test]
    fn a_curve_that_only_rises_ends_at_its_peak() {
        let found = peak_of(&curve(&[500, 550, 600, 650], 1000, 1));
        assert_eq!((found.at, found.rises(), found.falls(), found.fall), (3, true, false, None));
        let found = peak_of(&curve(&[500, 450, 400], 1000, 1));
        assert_eq!((found.at, found.rises(), found.falls(), found.rise), (0, false, true, None));
    }

    #[test]
    fn the_highest_of_many_points_must_fall_further_than_one_picked_beforehand() {
        // 5.5 points of 1000 instructions: outside one 95 % interval, inside the intervals of ten points together.
        let won = [520, 560, 530, 520, 525, 530, 520, 515, 520, 525, 505];
        let run = curve(&won, 1000, 1);
        let found = peak_of(&run);
        assert_eq!((found.at, found.falls()), (1, false), "{found:?}");
        let points = run.by_method();
        let alone = paired_mean(&points[1], &points[10], p_wins, 1).expect("verdicts").mean;
        assert!(is_above_zero(Some(&alone)), "{alone:?}");
    }

    #[test]
    fn two_points_and_points_without_verdicts_are_no_curve() {
        let two = curve(&[500, 600], 1000, 1);
        assert_eq!(peak(&two.by_method().iter().collect::<Vec<_>>(), p_wins), None);
        let mut run = curve(&[500, 600, 500], 1000, 1);
        run.models[1].judgements.clear();
        assert_eq!(peak(&run.by_method().iter().collect::<Vec<_>>(), p_wins), None);
    }
}
