//! Which examples an optimiser step sees: shuffled epochs, so that the place in the data is just the step number.

use std::ops::Range;

use farmhand_core::Seed;

/// The order of `n` examples in an epoch (from 0): a shuffle that depends on seed, epoch and n only.
pub fn epoch_order(n: usize, seed: Seed, epoch: u64) -> Vec<usize> {
    seed.child("epoch order", epoch).rng().permutation(n)
}

/// The examples of every optimiser step: each epoch is a fresh shuffle of all examples, cut into batches; the last batch of
/// an epoch may be smaller, and no batch spans two epochs.
#[derive(Debug, Clone)]
pub struct StepPlan {
    n_items: usize,
    batch_size: usize,
    orders: Vec<Vec<usize>>,
}

impl StepPlan {
    /// A plan for `epochs` passes over `n_items` examples, `batch_size` (at least 1) a step.
    pub fn new(n_items: usize, batch_size: usize, epochs: u64, seed: Seed) -> Self {
        let orders = (0..epochs).map(|epoch| epoch_order(n_items, seed, epoch)).collect();
        Self { n_items, batch_size: batch_size.max(1), orders }
    }

    /// Optimiser steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.n_items.div_ceil(self.batch_size) as u64
    }

    /// Optimiser steps of all epochs.
    pub fn n_steps(&self) -> u64 {
        self.steps_per_epoch() * self.orders.len() as u64
    }

    /// All steps, to iterate; `plan.steps().skip(done)` continues after `done` steps.
    pub fn steps(&self) -> Range<u64> {
        0..self.n_steps()
    }

    /// The epoch (from 0) a step belongs to.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch().max(1)
    }

    /// The indices of the examples of a step (from 0); none past the last step.
    pub fn items(&self, step: u64) -> &[usize] {
        let Some(order) = usize::try_from(self.epoch(step)).ok().and_then(|epoch| self.orders.get(epoch)) else { return &[] };
        let start = (step % self.steps_per_epoch().max(1)) as usize * self.batch_size;
        &order[start.min(self.n_items)..(start + self.batch_size).min(self.n_items)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_holds_every_example_once_in_its_own_order() {
        let plan = StepPlan::new(10, 4, 3, Seed::root(1));
        assert_eq!((plan.steps_per_epoch(), plan.n_steps()), (3, 9));
        let epoch =
            |epoch: u64| -> Vec<usize> { (epoch * 3..epoch * 3 + 3).flat_map(|step| plan.items(step).to_vec()).collect() };
        for number in 0..3 {
            let mut sorted = epoch(number);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            assert_eq!(plan.epoch(number * 3 + 2), number);
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(plan.items(2).len(), 2);
        assert!(plan.items(9).is_empty());
    }

    #[test]
    fn the_plan_depends_on_the_seed_alone() {
        let plan = |seed| StepPlan::new(7, 2, 2, Seed::root(seed));
        let all = |plan: &StepPlan| plan.steps().map(|step| plan.items(step).to_vec()).collect::<Vec<_>>();
        assert_eq!(all(&plan(1)), all(&plan(1)));
        assert_ne!(all(&plan(1)), all(&plan(2)));
        assert_eq!(StepPlan::new(0, 2, 2, Seed::root(0)).n_steps(), 0);
    }
}
