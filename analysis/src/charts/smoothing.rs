//! Lines over steps made readable: smoothed, thinned, and several seeds made one line with a band.

use super::canvas::Point;
use crate::crossed::student_quantile;

/// Where the mean of several seeds lies at a step, with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// The step.
    pub step: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// From this many points on, a line is drawn lightly and smoothed over it.
pub(super) const SMOOTH_FROM: usize = 40;

/// The mean over seeds at the steps that all of them recorded, and the 95 % interval of that mean by Student's t over the seeds
/// (of smoothed lines, where lines are long). One seed has no band.
pub(super) fn over_seeds(seeds: &[Vec<(f64, f64)>]) -> (Vec<(f64, f64)>, Vec<Band>) {
    let Some((first, others)) = seeds.split_first() else { return (Vec::new(), Vec::new()) };
    let value = |line: &[(f64, f64)], step: f64| line.iter().find(|point| point.0 == step).map(|point| point.1);
    let shared = |step: &f64| others.iter().all(|line| value(line, *step).is_some_and(f64::is_finite));
    let steps: Vec<f64> = first.iter().filter(|point| point.1.is_finite()).map(|point| point.0).filter(shared).collect();
    let lines: Vec<Vec<(f64, f64)>> =
        seeds.iter().map(|line| steps.iter().filter_map(|step| Some((*step, value(line, *step)?))).collect()).collect();
    let mean_at = |lines: &[Vec<(f64, f64)>], i: usize| lines.iter().map(|line| line[i].1).sum::<f64>() / lines.len() as f64;
    let mean = steps.iter().enumerate().map(|(i, step)| (*step, mean_at(&lines, i))).collect();
    if others.is_empty() {
        return (mean, Vec::new());
    }
    let lines: Vec<Vec<(f64, f64)>> =
        if steps.len() >= SMOOTH_FROM { lines.iter().map(|line| smoothed(line)).collect() } else { lines };
    if lines.iter().any(|line| line.len() != steps.len()) {
        return (mean, Vec::new());
    }
    let s = lines.len() as f64;
    let t = student_quantile(s - 1.0, 0.025);
    let band = |(i, step): (usize, &f64)| {
        let mean = mean_at(&lines, i);
        let variance = lines.iter().map(|line| (line[i].1 - mean).powi(2)).sum::<f64>() / (s - 1.0);
        let half = t * (variance / s).sqrt();
        Band { step: *step, low: mean - half, high: mean + half }
    };
    (mean, steps.iter().enumerate().map(band).collect())
}

/// The line smoothed: at each point, the straight line that fits best the window of about a tenth of all points
/// around it. Unlike a running mean it does not lag at the ends and keeps a slope.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 20).max(3);
    let at = |index: usize| {
        let window = &points[index.saturating_sub(half)..(index + half + 1).min(points.len())];
        let n = window.len() as f64;
        let centre = window.iter().map(|point| point.0 / n).sum::<f64>();
        let mean = window.iter().map(|point| point.1 / n).sum::<f64>();
        let spread = window.iter().map(|point| (point.0 - centre).powi(2)).sum::<f64>();
        let covariance = window.iter().map(|point| (point.0 - centre) * (point.1 - mean)).sum::<f64>();
        let slope = if spread > 0.0 { covariance / spread } else { 0.0 };
        mean + slope * (points[index].0 - centre)
    };
    let smooth = points.iter().enumerate().map(|(index, point)| (point.0, at(index)));
    smooth.filter(|point| point.1.is_finite()).collect()
}

/// The line with at most its lowest and highest point (and its last) at each unit: looks the same, and a long run
/// does not make a large file.
pub(super) fn thinned(points: impl Iterator<Item = Point>) -> Vec<Point> {
    let mut out: Vec<Point> = Vec::new();
    let mut column: Vec<Point> = Vec::new();
    let flush = |column: &mut Vec<Point>, out: &mut Vec<Point>| {
        let ends = [column.iter().map(|point| point.1).min(), column.iter().map(|point| point.1).max()];
        let kept = |index: usize, point: &Point| index == 0 || index + 1 == column.len() || ends.contains(&Some(point.1));
        out.extend(column.iter().enumerate().filter(|(index, point)| kept(*index, point)).map(|(_, point)| *point));
        out.dedup();
        column.clear();
    };
    for point in points {
        if column.last().is_some_and(|last| last.0 != point.0) {
            flush(&mut column, &mut out);
        }
        column.push(point);
    }
    flush(&mut column, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_straight_line_and_flattens_a_zigzag() {
        let line: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        assert!(smoothed(&line).iter().zip(&line).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
        let zigzag: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smoothed(&zigzag)[50].1 > 0.3 && smoothed(&zigzag)[50].1 < 0.7);
    }

    #[test]
    fn a_long_line_keeps_its_extremes() {
        let long = (0..100_000).map(|i| (i / 100, if i == 5050 { 999 } else { i % 7 }));
        let short = thinned(long);
        assert!(short.len() < 40_000, "{}", short.len());
        assert!(short.contains(&(50, 999)));
        assert_eq!(thinned([(1, 2), (1, 2), (3, 4)].into_iter()), [(1, 2), (3, 4)]);
    }

    #[test]
    fn three_seeds_by_hand() {
        let seed = |values: [f64; 2]| values.iter().enumerate().map(|(i, value)| (i as f64, *value)).collect::<Vec<_>>();
        let (mean, band) = over_seeds(&[seed([1.0, 5.0]), seed([2.0, 5.0]), seed([3.0, 5.0])]);
        assert_eq!(mean, [(0.0, 2.0), (1.0, 5.0)]);
        // The standard deviation is 1, its error 1/√3, and t with two degrees of freedom 4.3027.
        assert!((band[0].high - 2.0 - 4.302_652_73 / 3.0_f64.sqrt()).abs() < 1e-6, "{band:?}");
        assert_eq!((band[1].low, band[1].high), (5.0, 5.0));
        let (mean, band) = over_seeds(&[seed([1.0, 5.0]), vec![(1.0, 7.0)]]);
        assert_eq!((mean, band.len()), (vec![(1.0, 6.0)], 1));
        assert_eq!(over_seeds(&[seed([1.0, f64::NAN])]), (vec![(0.0, 1.0)], Vec::new()));
        assert_eq!(over_seeds(&[]), (Vec::new(), Vec::new()));
    }
}
