//! Win rates of methods under two annotators and how far their rankings agree, as tables.

use farmhand_evaluators::transfer::{MethodTransfer, Rate, Transfer};

use crate::csv_rows;
use crate::number::fixed;
use crate::table::{Align, Table};

/// The names of the correlations for people.
const NAMES: [(&str, &str); 6] = [
    ("spearman", "Spearman's ρ"),
    ("kendall", "Kendall's τ"),
    ("pearson", "Pearson's r"),
    ("r_squared", "R²"),
    ("length_spearman_a", "Spearman's ρ of length and win rate under A"),
    ("length_spearman_b", "Spearman's ρ of length and win rate under B"),
];

/// Plain text for a terminal.
pub fn transfer_terminal(found: &Transfer) -> String {
    format!("{}\n{}", methods(found).terminal(), correlations(found).terminal())
}

/// Two Markdown tables.
pub fn transfer_markdown(found: &Transfer) -> String {
    format!("{}\n{}", methods(found).markdown(), correlations(found).markdown())
}

fn methods(found: &Transfer) -> Table {
    let headers = ["A: win rate (%)", "A: rank", "B: win rate (%)", "B: rank", "Length (chars)", "Reference's", "Ratio"];
    let mut columns = vec![("Method".to_owned(), Align::Left)];
    columns.extend(headers.map(|header| (header.to_owned(), Align::Right)));
    let rate = |rate: &Rate| match rate.std_error {
        Some(error) => format!("{} ± {}", fixed(rate.win_rate, 1), fixed(error, 1)),
        None => fixed(rate.win_rate, 1),
    };
    let rank = |rank: f64| fixed(rank, usize::from(rank.fract() != 0.0));
    let number = |value: Option<f64>, decimals: usize| value.map(|value| fixed(value, decimals)).unwrap_or_default();
    let row = |method: &MethodTransfer| {
        vec![
            method.method.clone(),
            rate(&method.a),
            rank(method.a.rank),
            rate(&method.b),
            rank(method.b.rank),
            number(method.length, 0),
            number(method.reference_length, 0),
            number(method.length_ratio(), 2),
        ]
    };
    Table::new(columns, found.methods.iter().map(row).collect())
}

fn correlations(found: &Transfer) -> Table {
    let columns = ["Ranking under A against ranking under B", "Value", "95 % interval"];
    let columns =
        columns.iter().enumerate().map(|(i, name)| ((*name).to_owned(), if i == 0 { Align::Left } else { Align::Right }));
    let row = |(name, shown): &(&str, &str)| {
        let metric = found.metric(name)?;
        let interval = metric.interval.map(|[low, high]| format!("{} – {}", fixed(low, 3), fixed(high, 3)));
        Some(vec![(*shown).to_owned(), fixed(metric.value, 4), interval.unwrap_or_default()])
    };
    Table::new(columns.collect(), NAMES.iter().filter_map(row).collect())
}

/// CSV with one line a method; numbers have all their digits. Correlations are in JSON.
pub fn transfer_csv(found: &Transfer) -> String {
    let of = |side: &str| {
        ["win_rate", "standard_error", "interval_low", "interval_high", "n", "rank"].map(|c| format!("{side}_{c}")).join(",")
    };
    let mut text = format!("method,{},{},length,reference_length,length_ratio\n", of("a"), of("b"));
    let number = |value: Option<f64>| value.filter(|value| value.is_finite()).map(|value| value.to_string()).unwrap_or_default();
    let rate = |rate: &Rate| {
        let [low, high] = rate.interval.map_or([None; 2], |ends| ends.map(Some)).map(number);
        format!("{},{},{low},{high},{},{}", rate.win_rate, number(rate.std_error), rate.n, rate.rank)
    };
    for method in &found.methods {
        let lengths = [method.length, method.reference_length, method.length_ratio()].map(number).join(",");
        text += &format!("{},{},{},{lengths}\n", csv_rows::cell(&method.method), rate(&method.a), rate(&method.b));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::Seed;
    use farmhand_evaluators::transfer::{TableRow, transfer_of_table};

    #[test]
    fn a_table_in_and_tables_out() {
        let row = |method: &str, a, b| TableRow { method: method.into(), a, b, a_se: Some(1.0), b_se: None };
        let found = transfer_of_table(&[row("x", 40.0, 30.0), row("y", 60.0, 50.0), row("z", 50.0, 50.0)], 10, Seed::root(0));
        assert_eq!(
            transfer_terminal(&found),
            "\
Method  A: win rate (%)  A: rank  B: win rate (%)  B: rank
──────  ───────────────  ───────  ───────────────  ───────
y            60.0 ± 1.0        1             50.0      1.5
z            50.0 ± 1.0        2             50.0      1.5
x            40.0 ± 1.0        3             30.0        3

Ranking under A against ranking under B   Value
───────────────────────────────────────  ──────
Spearman's ρ                             0.8660
Kendall's τ                              0.8165
Pearson's r                              0.8660
R²                                       0.7500
"
        );
        assert!(transfer_markdown(&found).starts_with("| Method |"));
        let csv = transfer_csv(&found);
        let widths: Vec<usize> = csv.lines().map(|line| line.matches(',').count()).collect();
        assert_eq!(widths, [15; 4]);
    }
}
