//! What is known of judges, as tables: for people in three small ones, for programs in one with every number.

use farmhand_core::types::Metric;
use farmhand_evaluators::judges::JudgeReport;

use crate::csv_rows;
use crate::number::{fixed, significant};
use crate::table::{Align, Table};

/// A number of a table: name, header, decimals.
type Number = (&'static str, &'static str, usize);

/// The numbers of each table for people, under its title.
const TABLES: [(&str, &[Number]); 3] = [
    (
        "Agreement with people",
        &[
            ("agreement", "Agreement (%)", 1),
            ("agreement_zero_one", "zero-one (%)", 1),
            ("agreement_squared", "squared (%)", 1),
            ("kappa", "κ", 3),
            ("alpha", "α", 3),
            ("bias", "Bias (%)", 1),
            ("variance", "Variance (%)", 1),
        ],
    ),
    (
        "What verdicts lean to",
        &[
            ("prefers_first", "Shown first (%)", 1),
            ("swap_consistency", "Same in both orders (%)", 1),
            ("prefers_longer", "Longer (%)", 1),
            ("longer_by", "Longer by (%)", 0),
            ("prefers_list", "List (%)", 1),
            ("prefers_own", "Own (%)", 1),
            ("own_excess", "Own, more than people (points)", 1),
        ],
    ),
    (
        "Verdicts, price, rankings",
        &[
            ("failed", "Failed (%)", 2),
            ("tie", "Ties (%)", 1),
            ("price_per_1000", "$ / 1,000", 2),
            ("time_per_1000", "s / 1,000", 0),
            ("spearman", "Spearman", 3),
            ("pearson", "Pearson", 3),
            ("ranking_spearman", "Spearman, ranking", 3),
            ("ranking_pearson", "Pearson, ranking", 3),
        ],
    ),
];

/// What label noise leaves alone.
const NOT_NOISY: [&str; 3] = ["failed", "price_per_1000", "time_per_1000"];

/// Plain text for a terminal.
pub fn judges_terminal(reports: &[JudgeReport]) -> String {
    let tables = tables(reports).into_iter().map(|(title, table)| format!("{title}\n{}", table.terminal()));
    tables.collect::<Vec<_>>().join("\n")
}

/// Markdown: a table under each heading.
pub fn judges_markdown(reports: &[JudgeReport]) -> String {
    let tables = tables(reports).into_iter().map(|(title, table)| format!("### {title}\n\n{}", table.markdown()));
    tables.collect::<Vec<_>>().join("\n")
}

fn tables(reports: &[JudgeReport]) -> Vec<(&'static str, Table)> {
    let is_noisy = reports.iter().any(|report| report.noise > 0.0);
    let of = |(index, (title, numbers)): (usize, &(&'static str, &[Number]))| {
        let has_any = reports.iter().any(|report| numbers.iter().any(|(name, _, _)| report.metric(name).is_some()));
        if !has_any {
            return None;
        }
        let mut columns = vec![("Judge".to_owned(), Align::Left)];
        columns.extend(is_noisy.then(|| ("Noise".to_owned(), Align::Right)));
        columns.extend((index == 2).then(|| ("Verdicts".to_owned(), Align::Right)));
        columns.extend(numbers.iter().map(|(_, header, _)| ((*header).to_owned(), Align::Right)));
        let row = |report: &JudgeReport| {
            let mut row = vec![report.judge.clone()];
            row.extend(is_noisy.then(|| significant_noise(report.noise)));
            row.extend((index == 2).then(|| report.n_verdicts.to_string()));
            row.extend(numbers.iter().map(|(name, _, decimals)| match report.metric(name) {
                Some(_) if report.noise > 0.0 && NOT_NOISY.contains(name) => String::new(),
                Some(metric) => cell(metric, *decimals),
                None => String::new(),
            }));
            row
        };
        Some((*title, Table::new(columns, reports.iter().map(row).collect())))
    };
    TABLES.iter().enumerate().filter_map(of).collect()
}

fn significant_noise(noise: f64) -> String {
    if noise == 0.0 { "0".to_owned() } else { significant(noise).trim_end_matches('0').to_owned() }
}

fn cell(metric: &Metric, decimals: usize) -> String {
    let value = fixed(metric.value, decimals);
    match metric.interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
        Some([low, high]) => format!("{value} [{}, {}]", fixed(low, decimals), fixed(high, decimals)),
        None => value,
    }
}

/// CSV: a row for each judge and noise; of every number the value, its interval's ends, and the standard error of agreement over
/// comparisons. What is not defined is empty; numbers have all their digits.
pub fn judges_csv(reports: &[JudgeReport]) -> String {
    let names: Vec<&str> = TABLES.iter().flat_map(|(_, numbers)| numbers.iter().map(|(name, _, _)| *name)).collect();
    let has_error = |name: &str| name.starts_with("agreement") || ["bias", "variance"].contains(&name);
    let mut text = "judge,noise,n_pairs,n_instructions,n_verdicts,n_failed".to_owned();
    for name in &names {
        text += &format!(",{name},{name}_low,{name}_high");
        text += &if has_error(name) { format!(",{name}_standard_error") } else { String::new() };
    }
    text.push('\n');
    let number = |value: Option<f64>| value.filter(|value| value.is_finite()).map(|value| value.to_string()).unwrap_or_default();
    for report in reports {
        let JudgeReport { judge, noise, n_pairs, n_instructions, n_verdicts, n_failed, .. } = report;
        text += &format!("{},{noise},{n_pairs},{n_instructions},{n_verdicts},{n_failed}", csv_rows::cell(judge));
        for name in &names {
            let metric = report.metric(name);
            let [low, high] = metric.and_then(|metric| metric.interval).map_or([None; 2], |ends| ends.map(Some)).map(number);
            text += &format!(",{},{low},{high}", number(metric.map(|metric| metric.value)));
            if has_error(name) {
                text += &format!(",{}", number(metric.and_then(|metric| metric.std_error)));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(judge: &str, noise: f64, metrics: &[(&str, f64, Option<[f64; 2]>)]) -> JudgeReport {
        let metric = |(name, value, interval): &(&str, f64, Option<[f64; 2]>)| Metric {
            name: (*name).into(),
            value: *value,
            std_error: None,
            interval: *interval,
            n: 10,
            unit: String::new(),
            higher_is_better: None,
        };
        let metrics = metrics.iter().map(metric).collect();
        JudgeReport {
            judge: judge.into(),
            noise,
            n_pairs: 10,
            n_instructions: 10,
            n_verdicts: 9,
            n_failed: 1,
            models: Vec::new(),
            metrics,
        }
    }

    #[test]
    fn people_see_small_tables_and_programs_one_with_everything() {
        let one = report("a,b", 0.0, &[("agreement", 66.04, Some([60.0, 72.0])), ("failed", 10.0, None)]);
        let noisy = report("a,b", 0.25, &[("agreement", 58.0, None), ("failed", 10.0, None)]);
        let text = judges_terminal(&[one.clone(), noisy.clone()]);
        assert_eq!(
            text,
            "\
Agreement with people
Judge  Noise      Agreement (%)
─────  ─────  ─────────────────
a,b        0  66.0 [60.0, 72.0]
a,b     0.25               58.0

Verdicts, price, rankings
Judge  Noise  Verdicts  Failed (%)
─────  ─────  ────────  ──────────
a,b        0         9       10.00
a,b     0.25         9
"
        );
        assert!(judges_markdown(std::slice::from_ref(&one)).starts_with("### Agreement with people\n\n| Judge |"));
        let csv = judges_csv(&[one, noisy]);
        let widths: Vec<usize> = csv.lines().map(|line| line.matches(',').count()).collect();
        assert_eq!((widths[1], csv.lines().count()), (widths[0] + 1, 3));
        assert!(csv.contains("\"a,b\",0,10,10,9,1,66.04,60,72,,"), "{csv}");
    }
}
