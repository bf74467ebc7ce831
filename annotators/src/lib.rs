//! annotators
