//! Judging the judges, from files of judgements: reading, tables, charts. The numbers are [`farmhand_evaluators::judges`]'s.

mod figures;
mod ranking;
mod read;
mod tables;

pub use figures::judge_charts;
pub use ranking::read_ranking;
pub use read::{JudgeFiles, Order, PEOPLE, ReadJudges, read_judges};
pub use tables::{judges_csv, judges_markdown, judges_terminal};
