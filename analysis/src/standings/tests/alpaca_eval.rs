//! The leaderboards of AlpacaEval's published judgements are those of the package, column by column.
//!
//! Reads `../shared/data/alpaca_eval` beside the repository; says that it skips when that is not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::csv_rows::CsvRows;
use crate::judgement_table::TableOptions;
use crate::{Join, PublishedLengthControl};

fn data() -> Option<PathBuf> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval");
    data.join("expected_dev.csv").is_file().then_some(data)
}

#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn data_or_skip() -> Option<PathBuf> {
    let data = data();
    if data.is_none() {
        eprintln!("skipped: there is no ../shared/data/alpaca_eval beside the repository");
    }
    data
}

/// The file of each row of the expectations, by judge.
fn by_judge(data: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let csv = CsvRows::read(&data.join("expected_dev.csv")).expect("read");
    let (annotator, model) = (csv.column("annotator").expect("there"), csv.column("model").expect("there"));
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for row in &csv.rows {
        let file = data.join(format!("annotations/{}/{}.jsonl.gz", row[annotator], row[model]));
        files.entry(row[annotator].clone()).or_default().push(file);
    }
    files
}

fn outputs(data: &Path) -> OutputLengths {
    let files = std::fs::read_dir(data.join("outputs")).expect("there").map(|entry| entry.expect("an entry").path());
    OutputLengths::read(&files.collect::<Vec<_>>()).expect("read")
}

fn options(data: &Path) -> StandingsOptions {
    let published = PublishedLengthControl::read(&data.join("lc")).expect("read");
    let control = LengthControl { published: Some(published), join: Join::Row, ..LengthControl::default() };
    StandingsOptions { n_resamples: 20, length_control: Some(control), ..StandingsOptions::default() }
}

fn standings(files: &[PathBuf], outputs: &OutputLengths, options: &StandingsOptions) -> Standings {
    let table = JudgementTable::read(files, &TableOptions::default()).expect("read");
    Standings::of(&table, outputs, options, &mut |_, _| {}).expect("made")
}

#[test]
#[expect(clippy::print_stderr, reason = "how much was compared is said aloud")]
fn every_expected_row_comes_out() {
    let Some(data) = data_or_skip() else { return };
    let (outputs, options) = (outputs(&data), options(&data));
    let boards: BTreeMap<String, Standings> =
        by_judge(&data).into_iter().map(|(judge, files)| (judge, standings(&files, &outputs, &options))).collect();
    let expected = CsvRows::read(&data.join("expected_dev.csv")).expect("read");
    let (mut n_rows, mut n_same_c, mut worst) = (0, 0, 0.0_f64);
    for row in 0..expected.rows.len() {
        let text = |name: &str| expected.rows[row][expected.column(name).expect("there")].as_str();
        let number = |name: &str| expected.needed_number(row, expected.column(name).expect("there")).expect("a number");
        let standings = &boards[text("annotator")];
        assert_eq!((standings.baseline.as_str(), standings.annotator.as_str()), (text("baseline"), text("annotator")));
        let got = standings.numbers(text("model"));
        let exact =
            ["win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "avg_length"];
        for name in exact {
            let off = (got[name] - number(name)).abs();
            assert!(off < 1e-9, "{} by {}: {name} {}", text("model"), text("annotator"), got[name]);
        }
        let is_same_c = (got["lc_c"] / number("lc_C") - 1.0).abs() < 1e-6;
        let off = (got["length_controlled_winrate"] - number("length_controlled_winrate")).abs();
        let error_off = (got["lc_standard_error"] - number("lc_standard_error")).abs();
        assert!(off < 0.02 && error_off < 0.01, "{} by {}: off by {off}, {error_off}", text("model"), text("annotator"));
        (n_rows, n_same_c, worst) = (n_rows + 1, n_same_c + usize::from(is_same_c), worst.max(off));
    }
    eprintln!("{n_rows} rows, the same C in {n_same_c}, length-controlled win rates off by {worst:.4} points at most");
    assert!(n_rows == 21 && n_same_c >= 19);
}

#[test]
fn the_csv_begins_with_alpaca_evals_columns_and_their_digits() {
    let Some(data) = data_or_skip() else { return };
    let files = &by_judge(&data)["alpaca_eval_cot_gpt4_turbo_fn"];
    let csv = standings(files, &outputs(&data), &options(&data)).leaderboard.csv().expect("written");
    let header = "win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,avg_length,\
                  length_controlled_winrate,lc_standard_error,reference,annotator,";
    assert!(csv.starts_with(&format!(",{header}")), "{csv}");
    assert!(csv.lines().nth(2).is_some_and(|row| row.starts_with("alpaca-7b,2.42236024844")), "{csv}");
}

#[test]
fn joined_by_instruction_complete_models_have_the_same_numbers_and_others_move_a_little() {
    let Some(data) = data_or_skip() else { return };
    let judge = "weighted_alpaca_eval_gpt4_turbo";
    let files = by_judge(&data).remove(judge).expect("there");
    let mut options = StandingsOptions { n_resamples: 0, ..options(&data) };
    let by_row = standings(&files, &OutputLengths::default(), &options);
    if let Some(control) = &mut options.length_control {
        control.join = Join::Instruction;
    }
    let by_instruction = standings(&files, &OutputLengths::default(), &options);
    let mut moved = Vec::new();
    for row in 0..by_row.leaderboard.len() {
        let model = by_row.leaderboard.text("model", row).expect("named");
        let rate = |standings: &Standings| standings.numbers(model)["length_controlled_winrate"];
        let off = (rate(&by_row) - rate(&by_instruction)).abs();
        // alpaca-7b_verbose lacks three instructions, so that 436 of its 802 rows have another one's difficulty.
        assert!(off < 2.0, "{model}: {off}");
        if off > 1e-9 {
            moved.push(model.to_owned());
        }
    }
    moved.sort();
    assert_eq!(moved, ["alpaca-7b_concise", "alpaca-7b_verbose"], "models with missing instructions");
    let how = &by_instruction.length_control.as_ref().expect("controlled").how;
    assert!(how.contains("805 published difficulties") && how.contains("ind"), "{how}");
    assert!(by_instruction.decisions.iter().any(|decision| decision.kind == "different_instructions" && decision.count == 2));
}

#[test]
fn weights_that_were_saved_give_the_same_win_rates_again() {
    let Some(data) = data_or_skip() else { return };
    let files = &by_judge(&data)["alpaca_eval_gpt4"];
    let made = standings(files, &OutputLengths::default(), &options(&data));
    let dir = tempfile::tempdir().expect("a folder");
    made.weights.write(&dir.path().join("w.csv")).expect("written");
    let weights = WeightTable::read(&dir.path().join("w.csv")).expect("read");
    let published = PublishedLengthControl::read(&data.join("lc")).expect("read");
    let again = weights.leaderboard("text_davinci_003", &published).expect("made");
    assert_eq!(again.len(), 6);
    for row in 0..again.len() {
        let model = again.text("model", row).expect("named");
        let rate = again.number("length_controlled_winrate", row).expect("there");
        let before = made.numbers(model).get("length_controlled_winrate").copied().unwrap_or(50.0);
        assert!((rate - before).abs() < 1e-9, "{model}: {rate}, before {before}");
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "how much was compared is said aloud")]
fn estimated_difficulties_come_close_to_published_ones() {
    let Some(data) = data_or_skip() else { return };
    let files = by_judge(&data).remove("weighted_alpaca_eval_gpt4_turbo").expect("there");
    let published = StandingsOptions { n_resamples: 0, ..options(&data) };
    let estimated = StandingsOptions { length_control: Some(LengthControl::default()), ..published.clone() };
    let (published, estimated) =
        (standings(&files, &OutputLengths::default(), &published), standings(&files, &OutputLengths::default(), &estimated));
    let rate = |standings: &Standings, model: &str| standings.numbers(model)["length_controlled_winrate"];
    let names = (0..13).map(|row| published.leaderboard.text("model", row).expect("named"));
    let pairs: Vec<(f64, f64)> = names.map(|model| (rate(&published, model), rate(&estimated, model))).collect();
    let spearman = farmhand_evaluators::statistics::correlation::spearman(&pairs).expect("vary");
    let off = pairs.iter().map(|(a, b)| (a - b).abs()).sum::<f64>() / 13.0;
    eprintln!("estimated against published: Spearman {spearman:.3}, {off:.2} points off on average: {pairs:.1?}");
    assert!(spearman > 0.9, "{spearman}");
}
