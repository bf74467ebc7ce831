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
    orders: Vec<Vec<usize>>,
    /// For each step, its epoch and its part of the epoch's order.
    steps: Vec<(usize, Range<usize>)>,
}

impl StepPlan {
    /// A plan for `epochs` passes over `n_items` examples, `batch_size` (at least 1) a step.
    pub fn new(n_items: usize, batch_size: usize, epochs: u64, seed: Seed) -> Self {
        Self::cut(shuffled(n_items, epochs, seed), of_size(batch_size))
    }

    /// The same without a shuffle: every epoch takes the examples as they are given.
    pub fn in_order(n_items: usize, batch_size: usize, epochs: u64) -> Self {
        Self::cut(given(n_items, epochs), of_size(batch_size))
    }

    /// The same with steps of about equal work: a step takes examples in shuffled order until the next one would bring it
    /// over `max_tokens`, but always one. `lengths` are the tokens of each example.
    pub fn by_tokens(lengths: &[usize], max_tokens: usize, epochs: u64, seed: Seed) -> Self {
        Self::cut(shuffled(lengths.len(), epochs, seed), of_tokens(lengths, max_tokens))
    }

    /// As [`StepPlan::by_tokens`] without a shuffle.
    pub fn by_tokens_in_order(lengths: &[usize], max_tokens: usize, epochs: u64) -> Self {
        Self::cut(given(lengths.len(), epochs), of_tokens(lengths, max_tokens))
    }

    /// Cuts each epoch's order into steps; `size` is the number of examples that the next step takes of those that are left,
    /// at least one.
    fn cut(orders: Vec<Vec<usize>>, size: impl Fn(&[usize]) -> usize) -> Self {
        let mut steps = Vec::new();
        for (epoch, order) in orders.iter().enumerate() {
            let mut start = 0;
            while start < order.len() {
                let end = start + size(&order[start..]);
                steps.push((epoch, start..end));
                start = end;
            }
        }
        Self { orders, steps }
    }

    /// Optimiser steps of all epochs.
    pub fn n_steps(&self) -> u64 {
        self.steps.len() as u64
    }

    /// All steps, to iterate; `plan.steps().skip(done)` continues after `done` steps.
    pub fn steps(&self) -> Range<u64> {
        0..self.n_steps()
    }

    /// The epoch (from 0) a step belongs to; none past the last step.
    pub fn epoch(&self, step: u64) -> Option<u64> {
        Some(self.step(step)?.0 as u64)
    }

    /// Whether a step is the last of its epoch.
    pub fn ends_epoch(&self, step: u64) -> bool {
        self.epoch(step).is_some() && self.epoch(step) != self.epoch(step + 1)
    }

    /// The indices of the examples of a step (from 0); none past the last step.
    pub fn items(&self, step: u64) -> &[usize] {
        self.step(step).map_or(&[], |(epoch, range)| &self.orders[*epoch][range.clone()])
    }

    fn step(&self, step: u64) -> Option<&(usize, Range<usize>)> {
        self.steps.get(usize::try_from(step).ok()?)
    }
}

fn shuffled(n_items: usize, epochs: u64, seed: Seed) -> Vec<Vec<usize>> {
    (0..epochs).map(|epoch| epoch_order(n_items, seed, epoch)).collect()
}

fn given(n_items: usize, epochs: u64) -> Vec<Vec<usize>> {
    (0..epochs).map(|_| (0..n_items).collect()).collect()
}

fn of_size(batch_size: usize) -> impl Fn(&[usize]) -> usize {
    move |rest| batch_size.max(1).min(rest.len())
}

fn of_tokens(lengths: &[usize], max_tokens: usize) -> impl Fn(&[usize]) -> usize {
    move |rest| {
        let mut total = 0;
        let fits = |&&index: &&usize| {
            total += lengths[index];
            total <= max_tokens
        };
        rest.iter().take_while(fits).count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of every step.
    fn all(plan: &StepPlan) -> Vec<Vec<usize>> {
        plan.steps().map(|step| plan.items(step).to_vec()).collect()
    }

    #[test]
    fn every_epoch_holds_every_example_once_in_its_own_order() {
        let plan = StepPlan::new(10, 4, 3, Seed::root(1));
        assert_eq!(plan.n_steps(), 9);
        let epoch = |epoch: usize| all(&plan)[epoch * 3..epoch * 3 + 3].concat();
        for number in 0..3 {
            let mut sorted = epoch(number);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            assert_eq!(plan.epoch(number as u64 * 3 + 2), Some(number as u64));
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(plan.items(2).len(), 2);
        assert_eq!(plan.steps().filter(|&step| plan.ends_epoch(step)).collect::<Vec<_>>(), [2, 5, 8]);
        assert!(plan.items(9).is_empty() && plan.epoch(9).is_none());
    }

    #[test]
    fn without_a_shuffle_every_epoch_takes_the_examples_as_they_are_given() {
        let plan = StepPlan::in_order(5, 2, 2);
        assert_eq!(all(&plan), [vec![0, 1], vec![2, 3], vec![4], vec![0, 1], vec![2, 3], vec![4]]);
        let plan = StepPlan::by_tokens_in_order(&[5, 1, 30, 7, 2], 9, 1);
        assert_eq!(all(&plan), [vec![0, 1], vec![2], vec![3, 4]]);
    }

    #[test]
    fn steps_of_equal_work_hold_as_many_examples_of_the_same_order_as_their_tokens_allow() {
        let lengths = [5, 1, 30, 7, 2, 9, 4, 4, 12, 6];
        let plan = StepPlan::by_tokens(&lengths, 16, 2, Seed::root(1));
        let whole = StepPlan::new(lengths.len(), lengths.len(), 2, Seed::root(1));
        assert_eq!(all(&plan).concat(), all(&whole).concat());
        let tokens = |step: u64| plan.items(step).iter().map(|&index| lengths[index]).sum::<usize>();
        for step in plan.steps() {
            assert!(tokens(step) <= 16 || plan.items(step).len() == 1, "step {step}");
            let next = plan.items(step + 1).first().filter(|_| !plan.ends_epoch(step));
            assert!(next.is_none_or(|&next| tokens(step) + lengths[next] > 16), "step {step} has room for more");
        }
        assert_eq!(plan.steps().filter(|&step| plan.ends_epoch(step)).count(), 2);
    }

    #[test]
    fn the_plan_depends_on_the_seed_alone() {
        let plan = |seed| all(&StepPlan::new(7, 2, 2, Seed::root(seed)));
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        assert_eq!(StepPlan::new(0, 2, 2, Seed::root(0)).n_steps(), 0);
        assert_eq!(StepPlan::by_tokens(&[], 2, 2, Seed::root(0)).n_steps(), 0);
    }
}
