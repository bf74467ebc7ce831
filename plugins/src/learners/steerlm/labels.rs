//! Attributes as text: how ratings are written, and which combinations are worth asking for.

use std::collections::{BTreeMap, BTreeSet};

use farmhand_core::types::{Instruction, RatedCompletion};
use farmhand_core::{Error, Result, RunContext};

use super::SteerlmConfig;
use crate::training::{Controls, Imitated};

/// The instructions of some answers, each once, in their order.
pub(super) fn distinct(rated: &[RatedCompletion]) -> Vec<Instruction> {
    let mut seen = BTreeSet::new();
    let instructions = rated.iter().map(|answer| &answer.completion.instruction);
    instructions.filter(|instruction| seen.insert(&instruction.id)).cloned().collect()
}

/// How attributes are written, and which combinations are worth asking for.
pub(super) struct Labels {
    attributes: Vec<String>,
    lowest: f64,
    highest: f64,
    /// The combinations that occur with the highest value of the leading attribute, and how often: the most frequent first, of equal
    /// ones the first by text.
    pub(super) wanted: Vec<(String, usize)>,
}

impl Labels {
    /// # Errors
    /// When no answer has one of the attributes, or all have the same ones.
    pub(super) fn of(rated: &[RatedCompletion], config: &SteerlmConfig) -> Result<Self> {
        let attributes = if config.attributes.is_empty() {
            let names: BTreeSet<&String> = rated.iter().flat_map(|answer| answer.ratings.keys()).collect();
            names.into_iter().cloned().collect()
        } else {
            config.attributes.clone()
        };
        let mut labels = Self { attributes, lowest: config.lowest, highest: config.highest, wanted: Vec::new() };
        let known = |name: &&str| labels.attributes.iter().any(|attribute| attribute == name);
        let leading = match config.leading.as_deref() {
            Some(name) => Some(name),
            None => ["quality", "helpfulness"].into_iter().find(known).or(labels.attributes.first().map(String::as_str)),
        };
        let Some(leading) = leading else {
            return Err(Error::invalid_data("no answer is rated on any attribute").with_hint("check the names in `attributes`"));
        };
        let leading_value = |answer: &RatedCompletion| answer.ratings.get(leading).map(|&value| labels.value(value));
        let values: Vec<i64> = rated.iter().filter_map(leading_value).collect();
        let (Some(&least), Some(&most)) = (values.iter().min(), values.iter().max()) else {
            return Err(Error::invalid_data(format!("no answer is rated on `{leading}`")).with_hint("check `leading`"));
        };
        if least == most {
            let message =
                format!("all {} answers have the value {most} of `{leading}`: there is nothing to steer by", values.len());
            return Err(Error::invalid_data(message).with_hint("choose another `leading` attribute"));
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for answer in rated.iter().filter(|answer| leading_value(answer) == Some(most)) {
            *counts.entry(labels.written(&answer.ratings)).or_default() += 1;
        }
        let mut wanted: Vec<(String, usize)> = counts.into_iter().collect();
        wanted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        labels.wanted = wanted;
        Ok(labels)
    }

    /// A rating as a whole number on the scale: half to even, as the authors round.
    pub(super) fn value(&self, rating: f64) -> i64 {
        rating.clamp(self.lowest, self.highest).round_ties_even() as i64
    }

    pub(super) fn written(&self, ratings: &BTreeMap<String, f64>) -> String {
        let of = |name: &String| ratings.get(name).map(|&rating| format!("{name}:{}", self.value(rating)));
        self.attributes.iter().filter_map(of).collect::<Vec<_>>().join(",")
    }

    /// The answers behind their attributes; those without any stay plain.
    pub(super) fn conditioned(&self, rated: &[RatedCompletion], controls: &Controls) -> Vec<Imitated> {
        let conditioned = |answer: &RatedCompletion| {
            let (label, plain) = (self.written(&answer.ratings), Imitated::sampled(&answer.completion));
            if label.is_empty() {
                return plain;
            }
            Imitated { instruction: controls.apply(&answer.completion.instruction, &label), ..plain }
        };
        rated.iter().map(conditioned).collect()
    }

    /// A combination worth asking for, for each instruction: drawn uniformly.
    pub(super) fn draw(&self, instructions: &[Instruction], ctx: &RunContext<'_>) -> Vec<String> {
        let draw = |instruction: &Instruction| {
            let place = ctx.seed.child_text("attributes", &instruction.id).rng().below(self.wanted.len());
            self.wanted[place].0.clone()
        };
        instructions.iter().map(draw).collect()
    }

    /// The log-likelihood of the attributes in `label` when predictions are normal around the truth with standard deviation `std`,
    /// up to a constant; attributes without a prediction do not count.
    pub(super) fn log_likelihood(label: &str, predicted: &BTreeMap<String, f64>, std: f64) -> f64 {
        let off = |attribute: &str| {
            let (name, value) = attribute.rsplit_once(':')?;
            Some(predicted.get(name)? - value.parse::<f64>().ok()?)
        };
        label.split(',').filter_map(off).map(|off| -(off / std).powi(2) / 2.0).sum()
    }
}
