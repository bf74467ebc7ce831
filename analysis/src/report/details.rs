//! What the page says beside the leaderboard: every metric, what failed, and what the numbers do not mean.

use std::collections::{BTreeMap, BTreeSet};

use farmhand_core::types::{EvalReport, FinishReason, Metric, Outcome, Preference};

use crate::html::escape;
use crate::leaderboard::interval;
use crate::number::{fixed, significant};
use crate::paired::PairedDifference;
use crate::repetitions::{Repetitions, split_seed};
use crate::run_files::{ModelFiles, RunFiles};
use crate::table::{Align, Table};

/// One sentence: how many models, against whom, judged by whom, on how many comparisons.
pub(super) fn setting(run: &RunFiles) -> String {
    let models = run.by_method().iter().filter(|method| !method.reports().is_empty()).count();
    let references = names(run.models.iter().filter_map(ModelFiles::reference));
    let mut text = format!("{models} {}", if models == 1 { "model" } else { "models" });
    if !references.is_empty() {
        text.push_str(&format!(", each compared with {references}"));
    }
    let annotators = annotators(run);
    if !annotators.is_empty() {
        text.push_str(&format!(", judged by {annotators}"));
    }
    let seeds = seeds(run);
    if !seeds.is_empty() {
        text.push_str(&format!("; methods learned and answered {} times, with the seeds {}", seeds.len(), listed(&seeds)));
    }
    text + ". A win rate of 50 % is as good as the reference; a tie counts as half a win. Intervals cover 95 %."
}

/// The seeds of the methods that were repeated.
pub(super) fn seeds(run: &RunFiles) -> Vec<u64> {
    let seeds: BTreeSet<u64> = run.by_method().iter().flat_map(Repetitions::seeds).collect();
    seeds.into_iter().collect()
}

pub(super) fn listed(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Every metric of every evaluator of a method, over its repetitions.
pub(super) fn metrics(method: &Repetitions<'_>) -> String {
    let folder = split_seed(&method.models[0].method).0;
    let heading = if method.name == folder {
        format!("<h3>{}</h3>\n", escape(folder))
    } else {
        format!("<h3>{} <small>({})</small></h3>\n", escape(method.name), escape(folder))
    };
    let reports = method.reports();
    if reports.is_empty() {
        return heading + "<p>Not evaluated yet.</p>\n";
    }
    let columns = [
        ("Metric", Align::Left),
        ("Value", Align::Right),
        ("Standard error", Align::Right),
        ("95 % interval", Align::Right),
        ("Unit", Align::Left),
        ("n", Align::Right),
        ("Judge", Align::Left),
    ];
    let columns = columns.map(|(header, align)| (header.to_owned(), align)).to_vec();
    // Who judged stands above the leaderboard; here only where models have several judges.
    let show_judge = reports.iter().filter_map(|report| report.annotator.as_deref()).collect::<BTreeSet<_>>().len() > 1;
    let rows = reports.iter().flat_map(|report| report.metrics.iter().map(|metric| metric_row(report, metric, show_judge)));
    heading + &by_seed(method) + &Table::new(columns, rows.collect()).html()
}

/// The win rate with each seed, where there are several.
fn by_seed(method: &Repetitions<'_>) -> String {
    let rate = |model: &&ModelFiles| {
        let rate = model.reports.iter().find_map(|report| report.metric("win_rate"))?;
        Some(format!("{} %", fixed(rate.value, 1)))
    };
    let rates: Vec<String> = method.models.iter().filter_map(rate).collect();
    if method.models.len() < 2 || rates.is_empty() {
        return String::new();
    }
    format!("<p>Win rates with the seeds {}: {}.</p>\n", listed(&method.seeds()), rates.join(", "))
}

/// The difference of each method to the best one, on the same instructions and seeds; nothing with fewer than two methods.
pub(super) fn differences(pairs: &[PairedDifference]) -> Option<String> {
    let note = format!(
        "<p>The win rate of each method minus that of <strong>{}</strong>, first on the leaderboard: differences on the same \
         instruction, with the same judge and seed. Where the interval holds 0, this run does not tell the two apart; {} comparisons \
         at once would need wider intervals. <code>paired_differences.csv</code> has every two methods, <code>farmhand compare</code> \
         tells p values and how many instructions a difference needs.</p>\n",
        escape(&pairs.first()?.method),
        n_differences(pairs)
    );
    Some(note + &differences_table(pairs)?.html())
}

/// How many methods are compared with the best.
pub(super) fn n_differences(pairs: &[PairedDifference]) -> usize {
    pairs.iter().filter(|pair| pair.method == pairs[0].method).count()
}

/// The table of those differences.
pub(super) fn differences_table(pairs: &[PairedDifference]) -> Option<Table> {
    let best = &pairs.first()?.method;
    let columns =
        [("Method", Align::Left), ("Difference (points)", Align::Right), ("SE", Align::Right), ("95 % interval", Align::Right)]
            .into_iter()
            .chain([("Instructions", Align::Right), ("Seeds", Align::Right)])
            .map(|(header, align)| (header.to_owned(), align));
    let rows = pairs.iter().filter(|pair| pair.method == *best).map(|pair| {
        let ends = pair.interval.map(|[low, high]| format!("{} – {}", fixed(-high, 1), fixed(-low, 1)));
        vec![
            pair.other.clone(),
            fixed(-pair.difference, 2),
            pair.std_error.map(|error| fixed(error, 2)).unwrap_or_default(),
            ends.unwrap_or_default(),
            pair.n_instructions.to_string(),
            pair.n_seeds.to_string(),
        ]
    });
    Some(Table::new(columns.collect(), rows.collect()))
}

fn metric_row(report: &EvalReport, metric: &Metric, show_judge: bool) -> Vec<String> {
    let is_count = metric.name.starts_with("n_") || metric.value.fract() == 0.0 && metric.std_error.is_none();
    let write = |value: f64| if is_count { fixed(value, 0) } else { significant(value) };
    vec![
        metric.name.clone(),
        if metric.value.is_finite() { write(metric.value) } else { "not a number".to_owned() },
        metric.std_error.map(significant).unwrap_or_default(),
        interval(metric).map(|[low, high]| format!("{} – {}", significant(low), significant(high))).unwrap_or_default(),
        metric.unit.clone(),
        metric.n.to_string(),
        if show_judge { report.annotator.clone().unwrap_or_default() } else { String::new() },
    ]
}

/// How many judgements each model has, and what became of them; nothing when no one judged.
pub(super) fn failures(run: &RunFiles) -> Option<String> {
    let judged: Vec<&ModelFiles> = run.models.iter().filter(|model| !model.judgements.is_empty()).collect();
    if judged.is_empty() {
        return None;
    }
    let kinds: BTreeSet<&str> = judged.iter().flat_map(|model| failure_kinds(model).into_keys()).collect();
    let fixed_columns = ["Comparisons", "Verdicts", "Ties", "Failures"].map(|header| (header.to_owned(), Align::Right));
    let mut columns = vec![("Model".to_owned(), Align::Left)];
    columns.extend(fixed_columns);
    columns.extend(kinds.iter().map(|kind| (format!("… {}", kind.replace('_', " ")), Align::Right)));
    let rows = judged.iter().map(|model| {
        let verdicts: Vec<Preference> = model.judgements.iter().filter_map(|judgement| judgement.preference()).collect();
        let ties = verdicts.iter().filter(|preference| **preference == Preference::Tie).count();
        let by_kind = failure_kinds(model);
        let counts = [model.judgements.len(), verdicts.len(), ties, model.judgements.len() - verdicts.len()];
        let counts = counts.into_iter().chain(kinds.iter().map(|kind| by_kind.get(kind).copied().unwrap_or(0)));
        std::iter::once(model.model().to_owned()).chain(counts.map(|count| count.to_string())).collect()
    });
    let note = "<p>A tie is a verdict and counts as half a win. A failure is no verdict: it is left out of the win rate, and counted here.</p>\n";
    Some(note.to_owned() + &Table::new(columns, rows.collect()).html())
}

fn failure_kinds(model: &ModelFiles) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for judgement in &model.judgements {
        if let Outcome::Failure(failure) = &judgement.outcome {
            *kinds.entry(failure.kind.label()).or_default() += 1;
        }
    }
    kinds
}

/// What a reader must know before believing the numbers, as list items of HTML; nothing when there are none.
pub(super) fn caveats(run: &RunFiles) -> Option<String> {
    if run.models.iter().all(|model| model.reports.is_empty()) {
        return None;
    }
    let mut items = Vec::new();
    let annotators = annotators(run);
    if !annotators.is_empty() {
        items.push(format!(
            "The verdicts come from {annotators}. Unless this names people, the feedback is simulated: a win rate says what this judge \
             prefers, with its biases (length, position, style), not what people would."
        ));
    }
    let seeds = seeds(run);
    if seeds.is_empty() {
        items.push(
            "Intervals cover the choice of instructions only. They do not cover the randomness of training; repeat the methods with other \
             seeds (`seeds`) for that."
                .to_owned(),
        );
        items.extend(seed(run).map(|seed| format!("This is one run, with seed {seed}.")));
    } else {
        items.push(format!(
            "Intervals cover the choice of instructions and the randomness of learning and answering, from {} seeds. They do not cover the \
             data, the fine-tuned model, the annotations and the reward model, which all methods share.",
            seeds.len()
        ));
    }
    items.extend(cut_off(run));
    items.extend(noised(run));
    Some(format!("<ul>\n{}</ul>\n", items.iter().map(|item| format!("<li>{item}</li>\n")).collect::<String>()))
}

/// The run's seed, as its configuration has it.
pub(super) fn seed(run: &RunFiles) -> Option<i64> {
    let table: toml::Table = toml::from_str(run.config.as_deref()?).ok()?;
    table.get("seed")?.as_integer()
}

fn cut_off(run: &RunFiles) -> Option<String> {
    let share = |model: &ModelFiles| {
        let n = model.completions.len();
        let cut = model.completions.iter().filter(|completion| completion.finish == FinishReason::Length).count();
        (cut > 0).then(|| format!("{} {} of {n} ({} %)", escape(model.model()), cut, fixed(100.0 * cut as f64 / n as f64, 1)))
    };
    let shares: Vec<String> = run.models.iter().filter_map(share).collect();
    (!shares.is_empty()).then(|| format!("Answers cut off by the token limit: {}.", shares.join(", ")))
}

fn noised(run: &RunFiles) -> Option<String> {
    let annotations = || run.models.iter().flat_map(|model| &model.judgements).filter_map(|judgement| judgement.annotation());
    let noised = annotations().filter(|annotation| annotation.noised).count();
    (noised > 0).then(|| format!("{noised} of {} verdicts were replaced by label noise, as configured.", annotations().count()))
}

/// Who judged, as the reports and the verdicts say, escaped.
fn annotators(run: &RunFiles) -> String {
    let reports = run.models.iter().flat_map(|model| &model.reports);
    names(reports.filter_map(|report| report.annotator.as_deref()))
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let distinct: BTreeSet<&str> = all.collect();
    distinct.into_iter().map(|name| format!("<strong>{}</strong>", escape(name))).collect::<Vec<_>>().join(", ")
}
