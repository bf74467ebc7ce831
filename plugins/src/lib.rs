//! The built-in policies, reward models and learners, and the mathematics they share.
//!
//! A component is one file: its documentation with the paper and the equation, its registration and options, its
//! visible loop, its tests. Components never import each other; what several need is a pure function in [`rl`] or part
//! of `farmhand_models`. A binary that wants these components in its registry links them with
//! `use farmhand_plugins as _;`.

pub mod rl;
