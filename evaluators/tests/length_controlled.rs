//! The length-controlled win rate agrees with the exact optimum, and with the `alpaca_eval` package, on AlpacaEval's published
//! judgements.
//!
//! Reads `../shared/data/alpaca_eval` beside the repository; says that it skips when that is not there.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use farmhand_evaluators::length_controlled::l1_logistic::Rows;
use farmhand_evaluators::length_controlled::{
    Fit, Instance, ModelWeights, RegulariserRow, cross_validate, fit, usual_strengths, win_rate_between,
};
use flate2::read::GzDecoder;

#[derive(serde::Deserialize)]
struct Annotation {
    row: usize,
    preference: Option<f64>,
    len_1: f64,
    len_2: f64,
}

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval")
}

fn read_gz(path: &Path) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    GzDecoder::new(file).read_to_string(&mut text).expect("text");
    text
}

fn csv(text: &str) -> Vec<HashMap<String, String>> {
    let mut lines = text.lines();
    let header: Vec<String> = lines.next().expect("a header").split(',').map(str::to_owned).collect();
    lines.map(|line| header.iter().cloned().zip(line.split(',').map(str::to_owned)).collect()).collect()
}

fn number(row: &HashMap<String, String>, name: &str) -> f64 {
    row[name].parse().unwrap_or_else(|_| panic!("{name}: `{}`", row[name]))
}

fn regulariser() -> Vec<RegulariserRow> {
    let row = |row: &HashMap<String, String>| RegulariserRow {
        std_delta_len: number(row, "std_delta_len"),
        difficulty: number(row, "instruction_difficulty"),
        p_win: row["preference"].parse().ok(),
    };
    csv(&read_gz(&data().join("lc/df_gamed_reconstructed.csv.gz"))).iter().map(row).collect()
}

/// The instances in the file's order, the difficulty looked up by the row's place, as the package does.
fn instances(annotator: &str, model: &str, difficulty: &[f64]) -> Vec<Instance> {
    let text = read_gz(&data().join(format!("annotations/{annotator}/{model}.jsonl.gz")));
    let mut rows: Vec<Annotation> = text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    rows.sort_by_key(|row| row.row);
    let instance = |(place, row): (usize, &Annotation)| {
        let code = row.preference.map(|code| if code == 0.0 { 1.5 } else { code }).filter(|code| (1.0..=2.0).contains(code));
        Instance {
            delta_len: row.len_1 - row.len_2,
            difficulty: Some(difficulty[place]),
            covariates: Vec::new(),
            p_win: code.map(|code| code - 1.0),
        }
    };
    rows.iter().enumerate().map(instance).collect()
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn optima_strengths_and_win_rates_are_those_of_the_package() {
    let Ok(expected) = std::fs::read_to_string(data().join("expected_dev.csv")) else {
        eprintln!("skipped: there is no {}", data().display());
        return;
    };
    let difficulty = csv(&std::fs::read_to_string(data().join("lc/instruction_difficulty_reconstructed.csv")).expect("there"));
    let difficulty: Vec<f64> = difficulty.iter().map(|row| number(row, "instruction_difficulty")).collect();
    let gamed = regulariser();
    let path = csv(&std::fs::read_to_string(data().join("expected_lc_path_dev.csv")).expect("there"));
    let mut by_model: BTreeMap<(String, String), Vec<Instance>> = BTreeMap::new();
    let mut n_optima = 0;
    for row in &path {
        let key = (row["annotator"].clone(), row["model"].clone());
        let instances = by_model.entry(key.clone()).or_insert_with(|| instances(&key.0, &key.1, &difficulty));
        let exact = usual_strengths().into_iter().find(|c| (c / number(row, "C") - 1.0).abs() < 1e-9).expect("one of the ten");
        let fitted = fit(instances, &gamed, Some(exact)).expect("fitted");
        let expected = [number(row, "w_length"), number(row, "w_difficulty"), number(row, "w_model")];
        let got = [fitted.weights.length, fitted.weights.difficulty, fitted.weights.model];
        let off = expected.iter().zip(got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-6, "{key:?} C {exact}: {got:?}, expected {expected:?}");
        assert!((100.0 * fitted.win_rate - number(row, "length_controlled_winrate")).abs() < 1e-6, "{key:?} C {exact}");
        assert!((100.0 * fitted.std_error.expect("many") - number(row, "lc_standard_error")).abs() < 1e-6);
        n_optima += 1;
    }
    let (mut n_same, mut n_rows) = (0, 0);
    for row in csv(&expected) {
        let key = (row["annotator"].clone(), row["model"].clone());
        let fitted: Fit = fit(&by_model[&key], &gamed, None).expect("fitted");
        let is_same = (fitted.c / number(&row, "lc_C") - 1.0).abs() < 1e-6;
        let off = (100.0 * fitted.win_rate - number(&row, "length_controlled_winrate")).abs();
        let error_off = (100.0 * fitted.std_error.expect("many") - number(&row, "lc_standard_error")).abs();
        assert!(off < 0.02 && error_off < 0.01, "{key:?}: off by {off} and {error_off}, the same C: {is_same}");
        let with_estimation = fitted.std_error_with_estimation.expect("many");
        assert!(with_estimation > fitted.std_error.expect("many") && with_estimation < 0.05, "{key:?}: {with_estimation}");
        n_same += usize::from(is_same);
        n_rows += 1;
    }
    eprintln!("{n_optima} optima; the package's C in {n_same} of {n_rows}");
    assert!(n_optima == 210 && n_rows == 21 && n_same >= 19);
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn our_objective_is_never_above_that_of_the_expected_weights() {
    let Ok(path) = std::fs::read_to_string(data().join("expected_lc_path_dev.csv")) else {
        eprintln!("skipped: there is no {}", data().display());
        return;
    };
    let difficulty = csv(&std::fs::read_to_string(data().join("lc/instruction_difficulty_reconstructed.csv")).expect("there"));
    let difficulty: Vec<f64> = difficulty.iter().map(|row| number(row, "instruction_difficulty")).collect();
    let model = "gpt-3.5-turbo-1106";
    let annotator = "weighted_alpaca_eval_gpt4_turbo";
    let instances = instances(annotator, model, &difficulty);
    let mut rows = Rows::new(3);
    for row in regulariser() {
        if let Some(p) = row.p_win {
            rows.push(&[row.std_delta_len.tanh(), row.difficulty, 0.0], p, 0.1);
        }
    }
    let mean = instances.iter().map(|i| i.delta_len).sum::<f64>() / instances.len() as f64;
    let squares: f64 = instances.iter().map(|i| (i.delta_len - mean).powi(2)).sum();
    let sd = (squares / (instances.len() - 1) as f64).sqrt();
    for instance in &instances {
        if let Some(p) = instance.p_win {
            rows.push(&[(instance.delta_len / sd).tanh(), instance.difficulty.expect("given"), 1.0], p, 1.0);
        }
    }
    let of_model = |row: &&HashMap<String, String>| row["model"] == model && row["annotator"] == annotator;
    for row in csv(&path).iter().filter(of_model) {
        let c = number(row, "C");
        let expected = [number(row, "w_length"), number(row, "w_difficulty"), number(row, "w_model")];
        let ours = rows.objective(c, &rows.fit(c, &[0.0; 3]));
        assert!(ours <= rows.objective(c, &expected) * (1.0 + 1e-14), "C {c}");
    }
    assert!(usual_strengths().contains(&cross_validate(&rows, &usual_strengths()).c));
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn published_weights_give_published_win_rates_of_any_pair() {
    let Ok(published) = std::fs::read_to_string(data().join("lc/published_weights.csv")) else {
        eprintln!("skipped: there is no {}", data().display());
        return;
    };
    let difficulty = csv(&std::fs::read_to_string(data().join("lc/instruction_difficulty_reconstructed.csv")).expect("there"));
    let difficulty: Vec<f64> = difficulty.iter().map(|row| number(row, "instruction_difficulty")).collect();
    let weights = |row: &HashMap<String, String>| ModelWeights {
        length: number(row, "np.tanh(std_delta_len)"),
        difficulty: number(row, "instruction_difficulty"),
        model: number(row, "not_gamed_baseline.astype(float)"),
    };
    let weights: HashMap<String, ModelWeights> = csv(&published).iter().map(|row| (row[""].clone(), weights(row))).collect();
    let leaderboard = csv(&std::fs::read_to_string(data().join("expected_dev.csv")).expect("there"));
    let mut n = 0;
    for row in leaderboard.iter().filter(|row| row["annotator"] == "weighted_alpaca_eval_gpt4_turbo") {
        let (Some(weights), Ok(published)) =
            (weights.get(&row["model"]), row["published_length_controlled_winrate"].parse::<f64>())
        else {
            continue;
        };
        let rate = 100.0 * win_rate_between(weights, &ModelWeights::default(), &difficulty).expect("some");
        // The difficulties are a reconstruction, good to a quarter of a point.
        assert!((rate - published).abs() < 0.25, "{}: {rate}, published {published}", row["model"]);
        n += 1;
    }
    assert!(n >= 5, "only {n} models compared");
}
