//! Intervals of all models' win rates by drawing instructions anew, once for all of them.

use std::collections::HashMap;

use farmhand_core::Seed;
use farmhand_evaluators::statistics::bootstrap::ClusterSums;
use farmhand_evaluators::statistics::joint_bootstrap::{JointBootstrap, JointReplicates};

use super::chosen::{Chosen, Judged};
use crate::judgement_table::JudgementTable;

/// Numbers that the sums by model and instruction may take at a time. Models beyond follow, with the same draws.
const N_SUMS_AT_ONCE: usize = 1 << 24;

/// Win rates of every model in every replicate.
pub(super) struct Draws {
    replicates: Vec<JointReplicates>,
    models_at_once: usize,
    /// The part of the draw that each data set is; none where data sets are not asked for.
    part_of_dataset: HashMap<u32, usize>,
}

impl Draws {
    /// Draws the instructions of a leaderboard. `datasets`: whether intervals of single data sets will be asked for.
    pub(super) fn of(table: &JudgementTable, chosen: &Chosen, datasets: bool, n_replicates: usize, seed: Seed) -> Self {
        let (clusters, instructions) = clusters(table, chosen);
        let mut part_of_dataset = HashMap::new();
        let part_of = instructions.iter().map(|instruction| {
            // Instructions without a data set are the part with number 0, as are all where nobody asks.
            let Some(dataset) = table.dataset_of(*instruction).filter(|_| datasets) else { return 0 };
            let next = part_of_dataset.len() + 1;
            *part_of_dataset.entry(dataset).or_insert(next) as u32
        });
        let part_of: Vec<u32> = part_of.collect();
        let n_parts = part_of_dataset.len() + 1;
        let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let models_at_once = (N_SUMS_AT_ONCE / part_of.len().max(1)).max(1);
        let replicates = chosen.judged.chunks(models_at_once).map(|models| {
            let series: Vec<ClusterSums> = models.iter().map(|one| sums(table, one, &clusters, part_of.len())).collect();
            JointBootstrap { series: &series, part_of: &part_of, n_parts, n_replicates, seed, n_threads }.run()
        });
        Self { replicates: replicates.collect(), models_at_once, part_of_dataset }
    }

    /// The 95 % interval of a model's win rate in percent, over everything or over one data set; `None` where it has verdicts on
    /// fewer than two instructions, or nothing was drawn.
    pub(super) fn interval(&self, model: usize, dataset: Option<u32>) -> Option<[f64; 2]> {
        let part = dataset.map(|dataset| self.part_of_dataset.get(&dataset).copied());
        let part = match part {
            Some(None) => return None,
            Some(Some(part)) => Some(part),
            None => None,
        };
        let drawn = &self.replicates[model / self.models_at_once];
        drawn.interval(model % self.models_at_once, part).map(|ends| ends.map(|end| 100.0 * end))
    }
}

/// The number of each instruction that any row of the leaderboard is on, without gaps, and the instructions by that number.
fn clusters(table: &JudgementTable, chosen: &Chosen) -> (Vec<u32>, Vec<u32>) {
    let mut used = vec![false; table.instructions.len()];
    for one in &chosen.judged {
        one.rows.iter().for_each(|row| used[table.instruction[*row] as usize] = true);
    }
    let instructions: Vec<u32> = (0..).zip(&used).filter(|(_, used)| **used).map(|(instruction, _)| instruction).collect();
    let mut clusters = vec![0; used.len()];
    (0..).zip(&instructions).for_each(|(cluster, instruction)| clusters[*instruction as usize] = cluster);
    (clusters, instructions)
}

/// The probabilities of a win of one model, summed by instruction.
fn sums(table: &JudgementTable, one: &Judged, clusters: &[u32], n_clusters: usize) -> ClusterSums {
    let mut sums = ClusterSums { sums: vec![0.0; n_clusters], counts: vec![0.0; n_clusters] };
    for row in &one.rows {
        let preference = table.preference[*row];
        if !preference.is_nan() {
            let cluster = clusters[table.instruction[*row] as usize] as usize;
            sums.sums[cluster] += preference - 1.0;
            sums.counts[cluster] += 1.0;
        }
    }
    sums
}
