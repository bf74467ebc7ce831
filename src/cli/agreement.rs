//! `farmhand agreement`: how far the raters of files of judgements agree, and how reliable each is.

use farmhand_annotators::aggregation::dawid_skene::{DawidSkene, Fit, Label, RaterModel};
use farmhand_core::data::{ReadOptions, UNKNOWN_ANNOTATOR, VerdictScale, read_judgements};
use farmhand_core::types::{Judgement, Outcome};
use farmhand_core::{Error, EventSink, Result, Seed};
use farmhand_evaluators::agreement::{AgreementReport, Ratings};
use serde_json::{Value, json};

use super::Terminal;
use super::args::{AgreementArgs, Cli};
use crate::pipeline::read_options;

/// The verdicts in the order of the model's classes.
const CLASSES: [(f64, &str); 3] = [(-1.0, "first"), (0.0, "tie"), (1.0, "second")];

/// Prints how the raters agree.
pub(super) fn agreement(args: &AgreementArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let judgements = read(args, terminal)?;
    let verdicts = Ratings::of_verdicts(&judgements);
    if verdicts.n_values() == 0 {
        return Err(Error::missing_input("the files hold no verdict"));
    }
    let report = AgreementReport::of(&judgements, args.resamples, Seed::root(args.seed));
    if report.pairs.is_empty() {
        let n = verdicts.raters.len();
        let message = format!("no two of {n} raters judged the same comparison, so there is no agreement to measure");
        return Err(Error::missing_input(message).with_hint("give files of the same comparisons, or a file with several raters"));
    }
    let raters = if args.one_coin { RaterModel::OneCoin } else { RaterModel::Confusion };
    let (fit, classes) = reliability(&verdicts, &DawidSkene { raters, ..DawidSkene::default() })?;
    if cli.json {
        return super::print_json(&as_json(&report, &fit, &classes));
    }
    super::print(&as_text(&report, &fit))
}

fn read(args: &AgreementArgs, terminal: &Terminal) -> Result<Vec<Judgement>> {
    let scale: Option<VerdictScale> = args.scale.as_deref().map(str::parse).transpose()?;
    let options = ReadOptions { scale, ..read_options(args.skip_bad_records) };
    let mut judgements = Vec::new();
    for file in &args.files {
        let (mut read, report) = read_judgements(file, &options)?;
        if !report.left_out().is_empty() {
            terminal.info(&report.to_string());
        }
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        for judgement in &mut read {
            if let Outcome::Annotation(annotation) = &mut judgement.outcome
                && annotation.annotator == UNKNOWN_ANNOTATOR
                && args.files.len() > 1
            {
                annotation.annotator.clone_from(&name);
            }
        }
        judgements.extend(read);
    }
    Ok(judgements)
}

/// Dawid and Skene's model of the raters, and the names of its classes: those that anyone ever named.
fn reliability(verdicts: &Ratings, model: &DawidSkene) -> Result<(Fit, Vec<&'static str>)> {
    let named = |value: f64| verdicts.values.iter().flatten().flatten().any(|one| *one == value);
    let classes: Vec<(f64, &str)> = CLASSES.into_iter().filter(|(value, _)| named(*value)).collect();
    let class = |value: f64| classes.iter().position(|(one, _)| *one == value).expect("every value was counted");
    let of_row = |(item, row): (usize, &Vec<Option<f64>>)| -> Vec<Label> {
        let labels = row.iter().enumerate().filter_map(|(rater, value)| Some(Label { item, rater, class: class((*value)?) }));
        labels.collect()
    };
    let labels: Vec<Label> = verdicts.values.iter().enumerate().flat_map(of_row).collect();
    let fit = model.fit(&labels, verdicts.values.len(), verdicts.raters.len(), classes.len())?;
    Ok((fit, classes.into_iter().map(|(_, name)| name).collect()))
}

fn as_json(report: &AgreementReport, fit: &Fit, classes: &[&str]) -> Value {
    let mut value = serde_json::to_value(report).expect("a report is JSON");
    let raters: Vec<Value> = (0..report.raters.len())
        .map(|rater| {
            let mut entry = value["raters"][rater].clone();
            entry["reliability"] = json!(fit.accuracy(rater));
            entry["confusion"] = json!(fit.confusion[rater]);
            entry
        })
        .collect();
    value["raters"] = json!(raters);
    value["dawid_skene"] = json!({
        "classes": classes, "shares": fit.prior, "log_likelihood": fit.log_likelihood, "n_rounds": fit.n_rounds,
        "converged": fit.converged,
    });
    value
}

fn as_text(report: &AgreementReport, fit: &Fit) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    let mut text = format!(
        "{} comparisons, {} raters, {} verdicts, {} without a verdict\n\n",
        report.n_comparisons,
        report.raters.len(),
        report.n_verdicts,
        report.n_failed
    );
    let names: Vec<String> = report.pairs.iter().map(|pair| pair.raters.join(" – ")).collect();
    let width = names.iter().map(|name| name.chars().count()).chain([26]).max().unwrap_or(26);
    text += &format!("{:width$}  {:>6}  {:>7}  {:>7}  {:>7}  {:>9}\n", "two raters", "n", "agree", "κ", "linear", "quadratic");
    for (pair, name) in report.pairs.iter().zip(&names) {
        let (kappa, linear, quadratic) = (number(pair.kappa), number(pair.linear_kappa), number(pair.quadratic_kappa));
        let agree = number(Some(pair.agreement));
        text += &format!("{name:width$}  {:>6}  {agree:>7}  {kappa:>7}  {linear:>7}  {quadratic:>9}\n", pair.n);
    }
    text += &format!("\n{:width$}  {:>7}  95 % interval\n", "all raters", "value");
    for measure in &report.overall {
        let interval = measure.interval.map_or_else(|| "–".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}"));
        text += &format!("{:width$}  {:>7}  {interval}\n", measure.name.replace('_', " "), number(measure.value));
    }
    if let Some(left_out) = &report.leave_one_out {
        let error = left_out.sem_samples.map(|error| format!("± {error:.3} over comparisons")).unwrap_or_default();
        text += &format!("{:width$}  {:>7}  {error}\n", "one against the rest", number(Some(left_out.score)));
    }
    text += &format!(
        "\n{:width$}  {:>6}  {:>7}  {:>7}  {:>7}  {:>11}  {:>11}\n",
        "each rater", "n", "first", "tie", "second", "with others", "reliability"
    );
    for (i, rater) in report.raters.iter().enumerate() {
        let [first, tie, second] = [rater.first, rater.tie, rater.second].map(|share| number(Some(share)));
        let (others, reliability) = (number(rater.with_others), number(Some(fit.accuracy(i))));
        text += &format!(
            "{:width$}  {:>6}  {first:>7}  {tie:>7}  {second:>7}  {others:>11}  {reliability:>11}\n",
            rater.name, rater.n
        );
    }
    if !fit.converged {
        text += &format!("\nDawid and Skene's model still changed after {} rounds.\n", fit.n_rounds);
    }
    text
}
