//! How far raters agree: pure functions over what several of them said of the same comparisons, one measure a file.
//!
//! * [`ratings`]: judgements as a table, one row a comparison, one column a rater, missing values allowed.
//! * [`raw`]: how often two raters say the same.
//! * [`cohen`]: Cohen's κ of two raters, plain and weighted.
//! * [`fleiss`]: Fleiss' κ of any number of raters.
//! * [`krippendorff`]: Krippendorff's α, nominal, ordinal and interval.
//! * [`gwet`]: Gwet's AC1, which does not collapse when nearly everyone says the same.
//! * [`alpaca_eval`]: agreement, bias and variance as AlpacaEval defines them.
//! * [`by_comparison`]: the same with every comparison counted once.
//! * [`label_noise`]: what becomes of verdicts when some are turned around.
//! * [`bootstrap`]: intervals by resampling comparisons.
//! * [`report`]: all of it at once.

pub mod alpaca_eval;
pub mod bootstrap;
pub mod by_comparison;
pub mod cohen;
pub mod fleiss;
pub mod gwet;
pub mod krippendorff;
pub mod label_noise;
pub mod ratings;
pub mod raw;
pub mod report;

pub use ratings::Ratings;
pub use report::AgreementReport;
