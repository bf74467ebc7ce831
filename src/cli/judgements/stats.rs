//! `farmhand judgements stats`.

use farmhand_annotators::store::{AnnotatorStats, Store, StoreStats};
use farmhand_core::Result;
use farmhand_core::types::HumanJudgement;

use crate::cli::args::{Cli, StoreArgs};
use crate::cli::{print, print_json};

/// Prints a line for each annotator, and one for each model that was asked.
pub(super) fn stats(args: &StoreArgs, cli: &Cli) -> Result<()> {
    let stats = Store::open_existing(&args.store)?.stats()?;
    if cli.json { print_json(&stats) } else { print(&table(&stats)) }
}

/// The counts as a table.
pub(super) fn table(stats: &StoreStats) -> String {
    let width = stats.annotators.iter().map(|row| row.annotator.chars().count()).max().unwrap_or(0).max(9);
    let mut text =
        format!("{:width$}  verdicts  ties %  failed  first shown %      cost $  $/1000  vs human  s/1000\n", "annotator");
    for row in &stats.annotators {
        text += &line(row, width);
    }
    for row in stats.annotators.iter().filter(|row| !row.failures.is_empty()) {
        let kinds: Vec<String> = row.failures.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        text += &format!("failures of {}: {}\n", row.annotator, kinds.join(", "));
    }
    for model in &stats.models {
        text += &format!(
            "model {}: {} answers, {} failures, {} prompt tokens, {} answer tokens, {:.4} dollars\n",
            model.model, model.n_answers, model.n_failures, model.prompt_tokens, model.completion_tokens, model.cost_usd
        );
    }
    text
}

fn line(row: &AnnotatorStats, width: usize) -> String {
    let optional =
        |value: Option<f64>, decimals: usize| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.decimals$}"));
    let ties = (row.n_verdicts > 0).then(|| 100.0 * row.n_ties as f64 / row.n_verdicts as f64);
    let cheaper = row.usd_per_1000().filter(|price| *price > 0.0).map(HumanJudgement::times_cheaper);
    format!(
        "{:width$}  {:>8}  {:>6}  {:>6}  {:>13}  {:>10}  {:>6}  {:>8}  {:>6}\n",
        row.annotator,
        row.n_verdicts,
        optional(ties, 1),
        row.failures.values().sum::<u64>(),
        optional(row.first_place_share().map(|share| 100.0 * share), 1),
        if row.n_priced > 0 { format!("{:.4}", row.cost_usd) } else { "?".to_owned() },
        optional(row.usd_per_1000(), 2),
        cheaper.map_or_else(|| "?".to_owned(), |times| format!("1/{times:.0}")),
        optional(row.secs_per_1000(), 0),
    )
}
