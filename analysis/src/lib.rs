//! What a run left on the disk, made readable: leaderboard, charts, one self-contained page.
//!
//! This crate reads files and never live objects, and prints nothing. Everything it writes is a function of what
//! a repeated run leaves byte for byte: no times, durations, dates or paths.
//!
//! * [`RunFiles`]: a run directory, read.
//! * [`Leaderboard`]: one row a method, as Markdown, CSV, JSON or plain text; repetitions with several seeds are one row.
//! * [`paired_differences`]: every two methods on the same instructions and seeds.
//! * [`JudgementTable`]: judgements of any number of files and models as columns.
//! * [`Standings`]: the leaderboard of such a table, with length control and honest uncertainty.
//! * [`Tables`]: run directories and judgement files of any size, and SQL over them.
//! * [`read_judges`], [`judge_charts`]: judges held against people and against each other.
//! * [`add_judged`], [`transfer_charts`]: methods under two annotators.
//! * [`compare`]: whether the difference of two models is real.
//! * [`charts`]: win rates, length against win rate, curves over steps.
//! * [`write_report`], [`write_report_of_runs`]: the page with everything on it, Markdown and tables of one or several runs.
//! * [`read_options`], [`read_parquet_records`], [`write_parquet_records`]: data files in Parquet as JSON records.

pub mod charts;

mod comparison;
mod crossed;
mod csv_rows;
mod divergence;
mod frames;
mod html;
mod judgement_table;
mod judges;
mod latex;
mod leaderboard;
mod length_control;
mod number;
mod paired;
mod parquet;
mod peak;
mod repetitions;
mod report;
mod run_files;
mod standings;
mod table;
mod transfer;

#[cfg(test)]
mod fixture;

pub use comparison::{ComparisonPower, Difference, ModelComparison, Side, compare, sides_of_one, sides_of_two};
pub use frames::{QueryResult, ResultFormat, TableDescription, Tables};
pub use judgement_table::{JudgementRow, JudgementTable, Names, OutputLengths, TableOptions};
pub use judges::{
    JudgeFiles, Order, PEOPLE, ReadJudges, judge_charts, judges_csv, judges_markdown, judges_terminal, read_judges, read_ranking,
};
pub use leaderboard::{Entry, Leaderboard};
pub use length_control::{ControlledLengths, DifficultySource, Join, LengthControl, PublishedLengthControl, WeightTable};
pub use paired::{PairedDifference, paired_differences};
pub use parquet::{Record, read_options, read_parquet_records, write_parquet_records};
pub use repetitions::Repetitions;
pub use report::{ReportSummary, write_report, write_report_of_runs};
pub use run_files::{AnswerScores, MeasuredRewardModel, ModelFiles, RunFiles, Scalars, read_reports};
pub use standings::{Decision, Duplicates, Judge, Measure, Power, Standings, StandingsOptions};
pub use transfer::{add_judged, read_rates, transfer_charts, transfer_csv, transfer_markdown, transfer_terminal};
