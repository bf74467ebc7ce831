//! Whether a ranking of methods under one annotator holds under another, from runs and files: reading, tables, a chart. The numbers
//! are [`farmhand_evaluators::transfer`]'s.

mod figures;
mod read;
mod tables;

pub use figures::transfer_charts;
pub use read::{add_judged, read_rates};
pub use tables::{transfer_csv, transfer_markdown, transfer_terminal};
