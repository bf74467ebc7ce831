//! How the records of an optimiser step are split over forward passes.

use farmhand_core::Result;
use farmhand_models::{BatchLayout, EncodedText, StepPlan, computed_tokens, default_pass_tokens, micro_batches};

use super::records::Record;

/// The learner's options for forward passes. They change speed and memory, not the result.
#[derive(Debug, Clone, Copy)]
pub struct MicroBatching {
    /// How texts lie in a forward pass.
    pub layout: BatchLayout,
    /// Computed tokens per forward pass at most, unless a single record has more.
    pub max_tokens: usize,
    /// Records per forward pass at most.
    pub max_records: usize,
}

impl MicroBatching {
    /// The options as a learner has them. Without a number of tokens it is [`default_pass_tokens`]; without a number of records
    /// there is no limit.
    pub fn new(layout: BatchLayout, max_tokens: Option<usize>, max_records: Option<usize>, device: tch::Device) -> Self {
        Self {
            layout,
            max_tokens: max_tokens.unwrap_or_else(|| default_pass_tokens(device)),
            max_records: max_records.unwrap_or(usize::MAX),
        }
    }

    /// Groups the picked records for forward passes, the largest group first; indices into `records`.
    pub fn groups(&self, records: &[Record], picked: &[usize]) -> Vec<Vec<usize>> {
        self.groups_of(picked, |index| &records[index].texts)
    }

    /// The same for texts that lie anywhere.
    pub fn groups_of<'a>(&self, picked: &[usize], texts: impl Fn(usize) -> &'a [EncodedText]) -> Vec<Vec<usize>> {
        let groups = micro_batches(picked.iter().map(|&index| texts(index)), self.layout, self.max_tokens, self.max_records);
        groups.into_iter().map(|group| group.into_iter().map(|place| picked[place]).collect()).collect()
    }

    /// Puts the largest forward and backward pass of the steps from `start` on before the first of them, so that memory runs
    /// out at once or not at all. `run` gets the records of that pass; the gradient it leaves is the caller's to forget. Does
    /// nothing when the first step begins with a pass as large.
    ///
    /// # Errors
    /// Whatever `run` reports.
    pub fn dry_run(
        &self,
        records: &[Record],
        plan: &StepPlan,
        start: u64,
        run: impl FnOnce(&[usize]) -> Result<()>,
    ) -> Result<()> {
        let size =
            |group: &[usize]| group.iter().map(|&index| computed_tokens(&records[index].texts, self.layout)).sum::<usize>();
        let largest = |step: u64| self.groups(records, plan.items(step)).into_iter().next();
        let Some(first) = largest(start) else { return Ok(()) };
        let (mut most, mut found) = (size(&first), None);
        for group in (start + 1..plan.n_steps()).filter_map(largest) {
            if size(&group) > most {
                (most, found) = (size(&group), Some(group));
            }
        }
        found.map_or(Ok(()), |group| run(&group))
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    fn record(prompt: usize, responses: [usize; 2]) -> Record {
        let text = |n: usize| EncodedText { ids: vec![prompt as u32; prompt + n], response_start: prompt };
        Record::new("", responses.map(text))
    }

    #[test]
    fn the_dry_run_takes_the_largest_pass_unless_the_first_step_has_it() {
        let sizes = [(4, [3, 1]), (9, [9, 9]), (2, [1, 1]), (5, [2, 6])];
        let records: Vec<_> = sizes.iter().map(|&(prompt, responses)| record(prompt, responses)).collect();
        let micro = MicroBatching { layout: BatchLayout::Packed, max_tokens: 8, max_records: 4 };
        let plan = StepPlan::new(4, 1, 1, Seed::root(0));
        let place = plan.steps().find(|&step| plan.items(step) == [1]).expect("it is there");
        for start in 0..4 {
            let mut seen = Vec::new();
            let run = |rows: &[usize]| {
                seen = rows.to_vec();
                Ok(())
            };
            micro.dry_run(&records, &plan, start, run).expect("run");
            if start < place {
                assert_eq!(seen, [1], "from step {start}");
            } else if start == place {
                assert_eq!(seen, [0usize; 0]);
            } else {
                assert_ne!(seen, [1]);
            }
        }
        assert_eq!(micro.groups(&records, &[2, 0]), [vec![0], vec![2]]);
    }
}
