//! farmhand
