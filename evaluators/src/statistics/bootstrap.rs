//! Intervals of any statistic by drawing its clusters anew (Efron, 1979, <https://doi.org/10.1214/aos/1176344552>).
//!
//! What hangs together is drawn together: all verdicts on an instruction, all models' answers to it. So a difference of two
//! models on the same instructions has the narrow interval it deserves, and several verdicts on one instruction do not count as
//! independent ones.

use farmhand_core::Seed;

/// The percentile 95 % interval of `statistic` over `n_replicates` resamples of `n_clusters` clusters, the same for the same seed.
///
/// `statistic` is given the numbers of the drawn clusters, `[n_clusters]` with repetitions. `None` when it is not defined on all
/// clusters once each, on fewer than half of the resamples, or for fewer than two clusters.
pub fn interval(
    n_clusters: usize,
    n_replicates: usize,
    seed: Seed,
    mut statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<[f64; 2]> {
    let as_it_is: Vec<usize> = (0..n_clusters).collect();
    if n_clusters < 2 || n_replicates == 0 {
        return None;
    }
    statistic(&as_it_is)?;
    let mut values = replicates(n_clusters, n_replicates, seed, statistic);
    values.retain(|value| value.is_finite());
    if 2 * values.len() < n_replicates {
        return None;
    }
    values.sort_by(f64::total_cmp);
    Some([quantile(&values, 0.025), quantile(&values, 0.975)])
}

/// The statistic of every resample in which it is defined.
pub fn replicates(
    n_clusters: usize,
    n_replicates: usize,
    seed: Seed,
    mut statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Vec<f64> {
    let mut drawn = vec![0; n_clusters];
    let mut replicate = |i: usize| {
        let mut rng = seed.child("replicate", i as u64).rng();
        drawn.iter_mut().for_each(|cluster| *cluster = rng.below(n_clusters));
        statistic(&drawn)
    };
    (0..n_replicates).filter_map(&mut replicate).collect()
}

/// A quantile of sorted numbers, linear between neighbours.
///
/// # Panics
/// When there are none.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Numbers whose mean is asked for, summed by cluster: what [`mean_interval`] draws.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterSums {
    /// The sum of each cluster's numbers: `[clusters]`.
    pub sums: Vec<f64>,
    /// How many numbers each cluster has: `[clusters]`.
    pub counts: Vec<f64>,
}

impl ClusterSums {
    /// Sums `values` by the number of their cluster.
    pub fn of(values: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let mut sums = Self::default();
        for (cluster, value) in values {
            if cluster >= sums.sums.len() {
                sums.sums.resize(cluster + 1, 0.0);
                sums.counts.resize(cluster + 1, 0.0);
            }
            sums.sums[cluster] += value;
            sums.counts[cluster] += 1.0;
        }
        sums
    }

    /// The mean of all numbers; `None` without one.
    pub fn mean(&self) -> Option<f64> {
        let count: f64 = self.counts.iter().sum();
        (count > 0.0).then(|| self.sums.iter().sum::<f64>() / count)
    }

    /// The 95 % interval of the mean.
    pub fn mean_interval(&self, n_replicates: usize, seed: Seed) -> Option<[f64; 2]> {
        interval(self.sums.len(), n_replicates, seed, |drawn| {
            let (sum, count) = drawn.iter().fold((0.0, 0.0), |(s, n), i| (s + self.sums[*i], n + self.counts[*i]));
            (count > 0.0).then(|| sum / count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_a_win_rate_cover_the_truth_19_times_in_20() {
        // Verdicts of a judge with ties and grades, three on each instruction that hang together.
        let (n_worlds, n) = (600, 120);
        let mut n_covered = 0;
        for world in 0..n_worlds {
            let seed = Seed::root(world);
            let mut rng = seed.child("world", 0).rng();
            let mut values = Vec::new();
            for i in 0..n {
                let easy = rng.uniform();
                values
                    .extend((0..3).map(|_| (i, if rng.bernoulli(0.8) { f64::from(u8::from(rng.bernoulli(easy))) } else { 0.5 })));
            }
            let [low, high] = ClusterSums::of(values).mean_interval(400, seed).expect("defined");
            n_covered += u64::from(low <= 0.5 && 0.5 <= high);
        }
        let coverage = n_covered as f64 / n_worlds as f64;
        assert!((0.93..=0.97).contains(&coverage), "{coverage}");
    }

    #[test]
    fn verdicts_that_hang_together_do_not_count_as_independent() {
        let clustered = ClusterSums::of((0..900).map(|i| (i / 9, f64::from(u8::from((i / 9) % 2 == 0)))));
        let apart = ClusterSums::of((0..900).map(|i| (i, f64::from(u8::from((i / 9) % 2 == 0)))));
        let width = |sums: &ClusterSums| sums.mean_interval(500, Seed::root(1)).map(|[low, high]| high - low).expect("defined");
        let ratio = width(&clustered) / width(&apart);
        assert!((ratio - 3.0).abs() < 0.4, "{ratio}");
    }

    #[test]
    fn the_seed_fixes_it_and_what_is_not_defined_has_none() {
        let sums = ClusterSums::of([(0, 1.0), (1, 0.0), (2, 1.0), (3, 0.5)]);
        let of = |seed| sums.mean_interval(100, Seed::root(seed));
        assert_eq!((of(3), sums.mean()), (of(3), Some(0.625)));
        assert_eq!(ClusterSums::of([(0, 1.0)]).mean_interval(100, Seed::root(0)), None);
        assert_eq!(ClusterSums::default().mean(), None);
        assert_eq!(interval(10, 100, Seed::root(0), |_| None), None);
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 4.0], 0.5), 1.5);
    }
}
