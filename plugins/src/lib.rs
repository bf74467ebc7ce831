//! The built-in policies, reward models and learners, and the mathematics they share.
//!
//! A component is one file: its documentation with the paper and the equation, its registration and options, its
//! visible loop, its tests. Components never import each other; what several need is a pure function in [`rl`], a small
//! part of [`training`], or part of `farmhand_models`. A binary that wants these components in its registry links them
//! with `use farmhand_plugins as _;`.

pub mod learners;
pub mod policies;
pub mod reward_models;
pub mod rl;
pub mod training;

#[cfg(test)]
mod testing;
