//! The integration tests: one binary, for each one more links libtorch and polars again.

mod cli;
mod command;
mod contract;
mod learners;
mod pipeline;
mod server;
mod tidy;
