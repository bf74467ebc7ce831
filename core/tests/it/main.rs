//! Tests of `farmhand-core` through its public API: one binary.

mod round_trips;
mod shared_data;
