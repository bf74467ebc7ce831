//! What judging took: money and time by stage and annotator, and how much cheaper than people that was.

use farmhand_core::types::{HumanJudgement, JudgingCost};

use crate::number::fixed;
use crate::run_files::RunFiles;
use crate::table::{Align, Table};

/// The table, with what people would have cost; nothing where no price and no time is known.
pub(super) fn costs(run: &RunFiles) -> Option<String> {
    let known = |cost: &JudgingCost| cost.n_priced > 0 || cost.n_timed > 0;
    if !run.judging.iter().flat_map(|(_, costs)| costs.values()).any(known) {
        return None;
    }
    let columns = [
        ("Stage", Align::Left),
        ("Annotator", Align::Left),
        ("Comparisons", Align::Right),
        ("Cached", Align::Right),
        ("Failed", Align::Right),
        ("Dollars", Align::Right),
        ("Dollars per 1,000", Align::Right),
        ("Seconds per 1,000", Align::Right),
        ("Cheaper than people", Align::Right),
    ];
    let columns = columns.map(|(header, align)| (header.to_owned(), align)).to_vec();
    let of_stage = |(stage, costs): &(String, std::collections::BTreeMap<String, JudgingCost>)| {
        costs.iter().map(|(annotator, cost)| row(stage, annotator, cost)).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = run.judging.iter().flat_map(of_stage).collect();
    let total: f64 = run.judging.iter().flat_map(|(_, costs)| costs.values()).map(|cost| cost.cost_usd).sum();
    let note = format!(
        "<p>{} dollars in all. Cached verdicts cost nothing; an empty cell means that a price or a time is not known. People are \
         counted at {} dollars and {} seconds per 1,000 judgements, as in AlpacaEval's leaderboard of evaluators.</p>\n",
        fixed(total, 4),
        fixed(HumanJudgement::USD_PER_1000, 0),
        fixed(HumanJudgement::SECS_PER_1000, 0)
    );
    Some(note + &Table::new(columns, rows).html())
}

fn row(stage: &str, annotator: &str, cost: &JudgingCost) -> Vec<String> {
    let optional = |value: Option<f64>, decimals| value.map(|value| fixed(value, decimals)).unwrap_or_default();
    vec![
        stage.to_owned(),
        annotator.to_owned(),
        cost.n_comparisons.to_string(),
        cost.n_cached.to_string(),
        cost.n_failed.to_string(),
        optional((cost.n_priced > 0).then_some(cost.cost_usd), 4),
        optional(cost.usd_per_1000(), 2),
        optional(cost.secs_per_1000(), 1),
        cost.times_cheaper_than_people().map(|times| format!("{} ×", fixed(times, 0))).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn prices_are_shown_by_stage_and_annotator_and_nothing_where_none_is_known() {
        let judged = |cost: JudgingCost| RunFiles {
            judging: vec![("annotate".to_owned(), BTreeMap::from([("gpt <4>".to_owned(), cost)]))],
            ..RunFiles::default()
        };
        assert_eq!(costs(&judged(JudgingCost { n_comparisons: 5, ..JudgingCost::default() })), None);
        let cost = JudgingCost { n_comparisons: 5, n_cached: 1, n_priced: 4, cost_usd: 0.04, ..JudgingCost::default() };
        let html = costs(&judged(cost)).expect("a table");
        for part in ["0.0400 dollars in all", "gpt &lt;4&gt;", "10.00", "30 ×"] {
            assert!(html.contains(part), "no `{part}` in {html}");
        }
    }
}
