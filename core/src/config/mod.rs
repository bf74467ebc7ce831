//! Configuration: TOML as written, checked against the components' options, and resolved.

mod nearest;

pub use nearest::did_you_mean;
