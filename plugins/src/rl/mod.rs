//! The mathematics that methods share, as pure functions over tensors and numbers: no model, no file, no event.
//!
//! Per-token numbers come in two shapes. *Flat* `[tokens]`: the response tokens of a batch row after row, as
//! `farmhand_models` returns log-probabilities. *Padded* `[rollouts, tokens]` with a mask of ones (real) and
//! zeros (padding), where a recursion over time needs columns. Every function works in the kind of its inputs.

pub mod advantage;
pub mod attributes;
pub mod bradley_terry;
pub mod full_distribution;
pub mod implicit_reward;
pub mod kl;
pub mod masked;
pub mod pair_accuracy;
pub mod pairwise;
pub mod policy_gradient;
pub mod ranked_lists;
pub mod reduction;
pub mod reward_shaping;
pub mod rollout;
pub mod selection;
