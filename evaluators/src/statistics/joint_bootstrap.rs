//! Many means over the same clusters, drawn anew together: win rates of models on the same instructions.
//!
//! Every replicate draws clusters once and serves all series with them. So intervals of differences and of ranks are paired, and a
//! hundred models cost one set of random numbers. The draws are those of [`super::bootstrap::replicates`] with the same seed.

use farmhand_core::Seed;

use super::bootstrap::{ClusterSums, quantile};

/// Replicates that share one pass over the numbers.
const LANES: usize = 4;

/// What is drawn anew.
#[derive(Debug, Clone, Copy)]
pub struct JointBootstrap<'a> {
    /// Sums and counts by cluster; a series lacks the clusters that it has no numbers on: `[series]`.
    pub series: &'a [ClusterSums],
    /// The part that each cluster belongs to, such as its data set, below `n_parts`: `[clusters]`.
    pub part_of: &'a [u32],
    /// How many parts there are; 1 with all zeros above asks for no breakdown.
    pub n_parts: usize,
    /// How often clusters are drawn.
    pub n_replicates: usize,
    /// Fixes the draws.
    pub seed: Seed,
    /// Threads that share the work; the result does not depend on them.
    pub n_threads: usize,
}

/// The mean of every series in every replicate, over each part and over everything.
#[derive(Debug, Clone, PartialEq)]
pub struct JointReplicates {
    n_parts: usize,
    n_replicates: usize,
    /// Clusters with numbers: `[series, parts + 1]`, everything last.
    n_clusters: Vec<usize>,
    /// NaN where nothing was drawn: `[series, parts + 1, replicates]`, everything last.
    means: Vec<f64>,
}

impl JointBootstrap<'_> {
    /// Draws.
    ///
    /// # Panics
    /// When a series has more clusters than `part_of`, or a part is not below `n_parts`.
    pub fn run(&self) -> JointReplicates {
        let n_clusters = self.part_of.len();
        let width = self.n_parts + 1;
        let mut result = JointReplicates {
            n_parts: self.n_parts,
            n_replicates: self.n_replicates,
            n_clusters: self.series.iter().flat_map(|sums| self.clusters_with_numbers(sums)).collect(),
            means: vec![f64::NAN; self.series.len() * width * self.n_replicates],
        };
        if n_clusters == 0 || self.n_replicates == 0 {
            return result;
        }
        let layout = Layout::new(self);
        let n_blocks = self.n_replicates.div_ceil(LANES);
        let n_threads = self.n_threads.clamp(1, n_blocks);
        let of_thread = |thread: usize| -> Vec<(usize, Vec<[f64; LANES]>)> {
            let mut weights = vec![[0.0; LANES]; n_clusters];
            (thread..n_blocks).step_by(n_threads).map(|block| (block, self.block(block, &layout, &mut weights))).collect()
        };
        let done: Vec<Vec<(usize, Vec<[f64; LANES]>)>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..n_threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
            let own = of_thread(0);
            let others = threads.into_iter().map(|thread| thread.join().expect("sums do not panic"));
            std::iter::once(own).chain(others).collect()
        });
        for (block, means) in done.into_iter().flatten() {
            for (place, lanes) in means.iter().enumerate() {
                for (lane, mean) in lanes.iter().enumerate() {
                    let replicate = block * LANES + lane;
                    if replicate < self.n_replicates {
                        result.means[place * self.n_replicates + replicate] = *mean;
                    }
                }
            }
        }
        result
    }

    /// How many clusters a series has numbers on: `[parts + 1]`.
    fn clusters_with_numbers(&self, sums: &ClusterSums) -> Vec<usize> {
        let mut n = vec![0; self.n_parts + 1];
        for (part, _) in self.part_of.iter().zip(&sums.counts).filter(|(_, count)| **count > 0.0) {
            n[*part as usize] += 1;
            n[self.n_parts] += 1;
        }
        n
    }

    /// The means of [`LANES`] replicates: `[series, parts + 1]`.
    fn block(&self, block: usize, layout: &Layout, weights: &mut [[f64; LANES]]) -> Vec<[f64; LANES]> {
        weights.fill([0.0; LANES]);
        for lane in 0..LANES {
            self.draw(block * LANES + lane, lane, layout, weights);
        }
        let mut means = Vec::with_capacity(layout.series.len() * (self.n_parts + 1));
        for series in &layout.series {
            let (mut all_sums, mut all_counts) = ([0.0; LANES], [0.0; LANES]);
            for part in layout.starts.windows(2) {
                let (sums, counts) = weighted(&series[part[0]..part[1]], &weights[part[0]..part[1]]);
                means.push(quotients(sums, counts));
                for lane in 0..LANES {
                    all_sums[lane] += sums[lane];
                    all_counts[lane] += counts[lane];
                }
            }
            means.push(quotients(all_sums, all_counts));
        }
        means
    }
}

impl JointBootstrap<'_> {
    /// Counts in a lane how often a replicate draws each cluster; nothing where there is no such replicate.
    fn draw(&self, replicate: usize, lane: usize, layout: &Layout, weights: &mut [[f64; LANES]]) {
        if replicate >= self.n_replicates {
            return;
        }
        let n_clusters = weights.len();
        let mut rng = self.seed.child("replicate", replicate as u64).rng();
        for _ in 0..n_clusters {
            weights[layout.place_of[rng.below(n_clusters)] as usize][lane] += 1.0;
        }
    }
}

/// The numbers in the order in which they are read: clusters of one part side by side.
struct Layout {
    /// Where each cluster stands: `[clusters]`.
    place_of: Vec<u32>,
    /// Where each part begins, and the end: `[parts + 1]`.
    starts: Vec<usize>,
    /// Sum and count of each cluster in its place: `[series, clusters]`.
    series: Vec<Vec<[f64; 2]>>,
}

impl Layout {
    fn new(bootstrap: &JointBootstrap<'_>) -> Self {
        let part_of = bootstrap.part_of;
        let mut starts = vec![0; bootstrap.n_parts + 1];
        part_of.iter().for_each(|part| starts[*part as usize + 1] += 1);
        for part in 0..bootstrap.n_parts {
            starts[part + 1] += starts[part];
        }
        let mut next = starts.clone();
        let place = |part: &u32| {
            let place = next[*part as usize];
            next[*part as usize] += 1;
            u32::try_from(place).expect("fewer than 2³² clusters")
        };
        let place_of: Vec<u32> = part_of.iter().map(place).collect();
        let placed = |sums: &ClusterSums| {
            let mut placed = vec![[0.0; 2]; part_of.len()];
            for (cluster, (sum, count)) in sums.sums.iter().zip(&sums.counts).enumerate() {
                placed[place_of[cluster] as usize] = [*sum, *count];
            }
            placed
        };
        let series = bootstrap.series.iter().map(placed).collect();
        Self { place_of, starts, series }
    }
}

/// Weighted sums and counts of a run of clusters, one a lane. Written out, because the loop is the whole cost and the compiler
/// unrolls nothing at the level of daily work.
fn weighted(numbers: &[[f64; 2]], weights: &[[f64; LANES]]) -> ([f64; LANES], [f64; LANES]) {
    let (mut s0, mut s1, mut s2, mut s3) = (0.0, 0.0, 0.0, 0.0);
    let (mut n0, mut n1, mut n2, mut n3) = (0.0, 0.0, 0.0, 0.0);
    for ([sum, count], [w0, w1, w2, w3]) in numbers.iter().zip(weights) {
        s0 += w0 * sum;
        s1 += w1 * sum;
        s2 += w2 * sum;
        s3 += w3 * sum;
        n0 += w0 * count;
        n1 += w1 * count;
        n2 += w2 * count;
        n3 += w3 * count;
    }
    ([s0, s1, s2, s3], [n0, n1, n2, n3])
}

fn quotients(sums: [f64; LANES], counts: [f64; LANES]) -> [f64; LANES] {
    std::array::from_fn(|lane| if counts[lane] > 0.0 { sums[lane] / counts[lane] } else { f64::NAN })
}

impl JointReplicates {
    /// The means of a series in all replicates, over a part or over everything; NaN where nothing was drawn: `[replicates]`.
    pub fn means(&self, series: usize, part: Option<usize>) -> &[f64] {
        let start = (series * (self.n_parts + 1) + part.unwrap_or(self.n_parts)) * self.n_replicates;
        &self.means[start..start + self.n_replicates]
    }

    /// The percentile 95 % interval of a series' mean; `None` for fewer than two clusters with numbers, or where fewer than half of
    /// the replicates drew one.
    pub fn interval(&self, series: usize, part: Option<usize>) -> Option<[f64; 2]> {
        let means = self.means(series, part).iter().copied();
        self.quantiles(means).filter(|_| self.n_clusters(series, part) > 1)
    }

    /// The percentile 95 % interval of how much the mean of `one` exceeds that of `other`, on the same draws.
    pub fn difference_interval(&self, one: usize, other: usize, part: Option<usize>) -> Option<[f64; 2]> {
        let differences = self.means(one, part).iter().zip(self.means(other, part)).map(|(one, other)| one - other);
        self.quantiles(differences).filter(|_| self.n_clusters(one, part).min(self.n_clusters(other, part)) > 1)
    }

    fn n_clusters(&self, series: usize, part: Option<usize>) -> usize {
        self.n_clusters[series * (self.n_parts + 1) + part.unwrap_or(self.n_parts)]
    }

    fn quantiles(&self, values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        if values.is_empty() || 2 * values.len() < self.n_replicates {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some([quantile(&values, 0.025), quantile(&values, 0.975)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two series on 60 clusters in three parts; the second lacks some.
    fn made() -> (Vec<ClusterSums>, Vec<u32>) {
        let mut rng = Seed::root(5).rng();
        let first = ClusterSums::of((0..180).map(|i| (i % 60, rng.uniform())));
        let second = ClusterSums::of((0..50).map(|i| (i, rng.uniform() + f64::from(u8::from(i % 2 == 0)))));
        (vec![first, second], (0..60).map(|cluster| cluster * 7 % 3).collect())
    }

    fn run(series: &[ClusterSums], part_of: &[u32], n_threads: usize) -> JointReplicates {
        JointBootstrap { series, part_of, n_parts: 3, n_replicates: 201, seed: Seed::root(1), n_threads }.run()
    }

    #[test]
    fn a_series_has_the_interval_that_it_has_alone() {
        let (series, part_of) = made();
        let joint = run(&series, &part_of, 1);
        let alone = series[0].mean_interval(201, Seed::root(1)).expect("defined");
        let [low, high] = joint.interval(0, None).expect("defined");
        assert!((low - alone[0]).abs() < 1e-12 && (high - alone[1]).abs() < 1e-12, "{alone:?}");
    }

    #[test]
    fn parts_are_the_clusters_of_the_draw_that_belong_to_them() {
        let (series, part_of) = made();
        let joint = run(&series, &part_of, 1);
        let by_hand = super::super::bootstrap::replicates(60, 201, Seed::root(1), |drawn| {
            let chosen = drawn.iter().filter(|cluster| part_of[**cluster] == 2 && **cluster < 50);
            let (sum, count) = chosen.fold((0.0, 0.0), |(s, n), i| (s + series[1].sums[*i], n + series[1].counts[*i]));
            Some(sum / count)
        });
        for (one, other) in joint.means(1, Some(2)).iter().zip(&by_hand) {
            assert!((one - other).abs() < 1e-12);
        }
    }

    #[test]
    fn threads_change_nothing_and_differences_are_paired() {
        let (series, part_of) = made();
        let joint = run(&series, &part_of, 1);
        assert_eq!(joint, run(&series, &part_of, 3));
        let twice = run(&[series[0].clone(), series[0].clone()], &part_of, 2);
        assert_eq!(twice.difference_interval(0, 1, None), Some([0.0, 0.0]));
        assert_eq!(twice.difference_interval(0, 1, Some(1)), Some([0.0, 0.0]));
    }

    #[test]
    fn what_is_drawn_too_seldom_has_no_interval() {
        let joint = run(&[ClusterSums::default()], &[0, 1, 2], 2);
        assert_eq!(joint.interval(0, None), None);
        let alone = run(&[ClusterSums::of([(1, 0.5), (1, 1.0)])], &[0, 1, 2], 1);
        assert_eq!(alone.interval(0, None), None, "one instruction says nothing of others");
        let empty = JointBootstrap { series: &[], part_of: &[], n_parts: 1, n_replicates: 10, seed: Seed::root(0), n_threads: 2 };
        assert!(empty.run().means.is_empty());
    }
}
