//! The optimiser steps of a round of sampled responses: the policy's log-probabilities, micro-batch by micro-batch, and a loss that
//! the learner's file makes of them.

use std::time::Instant;

use farmhand_core::{Error, Result};
use farmhand_models::{AdamW, TokenBatch, selected_log_probs_at};
use tch::{Kind, Tensor};

use super::records::{Record, ids_of, record_batch};
use super::rollouts::{Partition, Sampler};
use crate::rl::reduction::StepTotals;

/// Some records of an optimiser step.
pub struct MicroBatch<'a> {
    /// Which records of the round.
    pub rows: &'a [usize],
    /// The first texts of all of them, then the second ones, and so on.
    pub batch: &'a TokenBatch,
    /// Log-probabilities of the response tokens, flat `[tokens]`, in nats; gradients flow from here.
    pub log_probs: &'a Tensor,
    /// Entropies of the distributions that the tokens were predicted from, `[tokens]`, in nats, without gradient.
    pub entropies: &'a Tensor,
    /// Response tokens of each text of the batch.
    pub lengths: Vec<usize>,
    /// The texts of the whole optimiser step.
    pub totals: StepTotals,
    /// Records of the whole optimiser step.
    pub n_records: usize,
}

/// A micro-batch's part of a step's loss.
pub struct MicroLoss {
    /// What is minimised, a scalar; those of a step's micro-batches add up.
    pub loss: Tensor,
    /// Other numbers to tell, scalars that add up the same way.
    pub numbers: Vec<(&'static str, Tensor)>,
}

/// What a round's optimiser steps did: means over the steps.
#[derive(Debug, Default)]
pub struct PolicyUpdate {
    /// The loss.
    pub loss: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// The learner's other numbers.
    pub numbers: Vec<(&'static str, f64)>,
    /// Tokens passed through the policy, prompts included.
    pub n_tokens: usize,
    /// Seconds it took.
    pub secs: f64,
}

impl PolicyUpdate {
    /// Everything, for [`super::OnPolicy::log`].
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        let mut scalars = vec![("loss", self.loss), ("grad_norm", self.grad_norm), ("lr", self.lr)];
        scalars.extend(&self.numbers);
        scalars.push(("update_secs", self.secs));
        scalars.push(("trained_tokens_per_sec", self.n_tokens as f64 / self.secs.max(1e-9)));
        scalars
    }
}

/// Adds the gradient of one micro-batch's loss to the policy; its numbers `[1 + numbers]` with the loss first, and their names.
///
/// # Errors
/// When the batch cannot be made.
pub fn micro_step(
    sampler: &Sampler<'_>,
    records: &[Record],
    rows: &[usize],
    totals: StepTotals,
    n_records: usize,
    loss: &mut dyn FnMut(&MicroBatch<'_>) -> MicroLoss,
) -> Result<(Tensor, Vec<&'static str>)> {
    let batch = record_batch(records, rows, sampler.passes.layout, sampler.policy.device(), None)?;
    let selected = selected_log_probs_at(sampler.policy, &batch, sampler.options.temperature);
    let lengths = batch.response_lengths();
    let (log_probs, entropies) = (&selected.values, &selected.entropies);
    let micro = MicroBatch { rows, batch: &batch, log_probs, entropies, lengths, totals, n_records };
    let MicroLoss { loss, numbers } = loss(&micro);
    let scalar = |value: &Tensor| value.detach().to_kind(Kind::Double).reshape(-1);
    let told: Vec<Tensor> = std::iter::once(&loss).chain(numbers.iter().map(|(_, value)| value)).map(scalar).collect();
    selected.backward(&loss);
    Ok((Tensor::cat(&told, 0), numbers.into_iter().map(|(name, _)| name).collect()))
}

/// All optimiser steps of a round over `records`, cut as `partitions` say: one for each pass over them. `place` names the round in
/// messages.
///
/// # Errors
/// When a loss or a gradient is not finite; the message names the responses' instructions.
pub fn update_policy(
    sampler: &Sampler<'_>,
    records: &[Record],
    partitions: impl IntoIterator<Item = Partition>,
    place: &str,
    optim: &mut AdamW,
    mut loss: impl FnMut(&MicroBatch<'_>) -> MicroLoss,
) -> Result<PolicyUpdate> {
    let started = Instant::now();
    let mut update = PolicyUpdate::default();
    let (mut names, mut sums, mut n_steps) = (Vec::new(), Vec::new(), 0.0);
    for micro_batches in partitions.into_iter().flatten() {
        let rows: Vec<usize> = micro_batches.concat();
        let (totals, n_records) = (step_totals(sampler, records, &rows), rows.len());
        let mut told: Option<Tensor> = None;
        for rows in &micro_batches {
            let (numbers, named) = micro_step(sampler, records, rows, totals, n_records, &mut loss)?;
            told = Some(told.map_or_else(|| numbers.shallow_clone(), |told| told + &numbers));
            names = named;
            update.n_tokens += rows.iter().map(|&row| records[row].n_tokens()).sum::<usize>();
        }
        let Some(told) = told else { continue };
        // Read once: a look at a number makes the host wait for the device.
        let told = Vec::<f64>::try_from(told).map_err(|error| Error::other(error.to_string()))?;
        let place = || format!("{place}, responses to {}", ids_of(records, &rows));
        if !told[0].is_finite() {
            return Err(Error::non_finite(format!("the loss is {} at {}", told[0], place())).with_hint("lower `optim.lr`"));
        }
        let report = optim.step().map_err(|error| error.context(place()))?;
        n_steps += 1.0;
        update.grad_norm += report.grad_norm;
        update.lr = report.lr;
        sums.resize(told.len(), 0.0);
        sums.iter_mut().zip(told).for_each(|(sum, number)| *sum += number);
    }
    if n_steps > 0.0 {
        update.grad_norm /= n_steps;
        sums.iter_mut().for_each(|sum| *sum /= n_steps);
        update.loss = sums[0];
        update.numbers = names.into_iter().zip(sums.into_iter().skip(1)).collect();
    }
    update.secs = started.elapsed().as_secs_f64();
    Ok(update)
}

/// One forward and backward pass over the largest records there can be; the gradient it leaves is the caller's to forget.
///
/// # Errors
/// When the batch cannot be made.
pub(super) fn rehearse(sampler: &Sampler<'_>, largest: &[Record]) -> Result<()> {
    let rows: Vec<usize> = (0..largest.len()).collect();
    let totals = step_totals(sampler, largest, &rows);
    let mut loss = |micro: &MicroBatch<'_>| MicroLoss { loss: micro.log_probs.mean(Kind::Float), numbers: Vec::new() };
    micro_step(sampler, largest, &rows, totals, rows.len(), &mut loss).map(drop)
}

/// The totals of the texts of an optimiser step over `rows`; the width is the longest response allowed.
pub fn step_totals(sampler: &Sampler<'_>, records: &[Record], rows: &[usize]) -> StepTotals {
    let lengths: Vec<usize> = rows.iter().flat_map(|&row| &records[row].texts).map(|text| text.response().len()).collect();
    StepTotals::of(&lengths).with_width(sampler.options.max_new_tokens as usize)
}
