//! The charts of a transfer.

use farmhand_core::Result;
use farmhand_evaluators::transfer::{MethodTransfer, Rate, Transfer};

use crate::charts::{CorrelationPoint, LengthPoint, LengthWinRate, MethodCorrelation, NamedChart};
use crate::number::fixed;

/// `method_correlation`, and, where lengths are known, `length_win_rate_a` and `length_win_rate_b`. `annotators`: what A and B are
/// called.
///
/// # Errors
/// When a chart cannot be drawn, which no data causes.
pub fn transfer_charts(found: &Transfer, annotators: [&str; 2]) -> Result<Vec<NamedChart>> {
    let point = |(index, method): (usize, &MethodTransfer)| CorrelationPoint {
        method: method.method.clone(),
        win_rates: [method.a.win_rate, method.b.win_rate],
        intervals: [method.a.interval, method.b.interval],
        colour: index,
    };
    let note = |(name, shown): (&str, &str)| {
        let metric = found.metric(name)?;
        let interval = metric.interval.map(|[low, high]| format!(" [{}, {}]", fixed(low, 2), fixed(high, 2)));
        Some(format!("{shown} = {}{}", fixed(metric.value, 2), interval.unwrap_or_default()))
    };
    let chart = MethodCorrelation {
        points: found.methods.iter().enumerate().map(point).collect(),
        annotators: annotators.map(str::to_owned),
        line: found.line,
        note: [("spearman", "Spearman's ρ"), ("r_squared", "R²")].into_iter().filter_map(note).collect(),
    };
    let mut charts = vec![NamedChart::draw("method_correlation", &chart)?];
    for (name, of) in
        [("length_win_rate_a", (|method| &method.a) as fn(&MethodTransfer) -> &Rate), ("length_win_rate_b", |method| &method.b)]
    {
        let point = |(index, method): (usize, &MethodTransfer)| {
            let rate = of(method);
            let (model, win_rate, interval) = (method.method.clone(), rate.win_rate, rate.interval);
            Some(LengthPoint { model, length: method.length?, win_rate, interval, colour: index })
        };
        let chart = LengthWinRate::new(found.methods.iter().enumerate().filter_map(point));
        if !chart.is_empty() {
            charts.push(NamedChart::draw(name, &chart)?);
        }
    }
    Ok(charts)
}
