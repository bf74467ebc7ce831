//! Leaderboards of simulated judgements: what is told, refused, tested and estimated.

mod alpaca_eval;

use std::path::Path;

use farmhand_evaluators::length_controlled::covariates::Covariate;

use super::*;
use crate::DifficultySource;
use crate::judgement_table::JudgementRow;

/// Judgements of `models` on `n` instructions: model m wins on its share of them, on other ones than its neighbours.
fn simulated(models: &[(&str, f64)], n: usize) -> JudgementTable {
    let mut table = JudgementTable::default();
    table.begin_file(Path::new("a.json"));
    for (m, (model, p)) in models.iter().enumerate() {
        let mut rng = Seed::root(m as u64).rng();
        for i in 0..n {
            let instruction = format!("Say {i}.");
            let longer = rng.below(400) as u32;
            table.push(&JudgementRow {
                model,
                baseline: "base",
                annotator: "judge",
                instruction: &instruction,
                dataset: Some(if i % 2 == 0 { "even" } else { "odd" }),
                preference: Some(if ((37 * i + 29 * m) % 100) as f64 / 100.0 < *p { 2.0 } else { 1.0 }),
                len_1: Some(200),
                len_2: Some(longer),
                price: Some(0.01),
                time: None,
                position: (m * n + i) as u32,
                outputs: Some((
                    if i % 2 == 0 { "plain" } else { "- a list\n- of two" },
                    if i % 3 == 0 { "- one" } else { "plain" },
                )),
                ..JudgementRow::default()
            });
        }
    }
    table
}

fn made(table: &JudgementTable, options: &StandingsOptions) -> Standings {
    Standings::of(table, &OutputLengths::default(), options, &mut |_, _| {}).expect("made")
}

fn refused(table: &JudgementTable, options: &StandingsOptions) -> String {
    Standings::of(table, &OutputLengths::default(), options, &mut |_, _| {}).expect_err("refused").to_string()
}

/// One more row like the table's first, with something changed.
fn with_row<'a>(table: &'a JudgementTable, change: impl FnOnce(&mut JudgementRow<'a>)) -> JudgementTable {
    let mut more = table.clone();
    let mut row = table.row(0);
    row.position = table.len() as u32;
    change(&mut row);
    more.push(&row);
    more
}

#[test]
fn neighbours_that_differ_are_told_from_those_that_do_not() {
    let table = simulated(&[("strong", 0.8), ("weak", 0.3), ("twin", 0.31)], 400);
    let options = StandingsOptions { n_resamples: 200, power_for: Some(5.0), ..StandingsOptions::default() };
    let standings = made(&table, &options);
    let [first, second, third] = [0, 1, 2].map(|row| standings.leaderboard.text("model", row).expect("named").to_owned());
    assert_eq!(first, "strong");
    let p = |model: &str| standings.numbers(model).get("p_above").copied();
    assert_eq!(p(&first), None);
    assert!(p(&second).expect("tested") < 1e-6 && p(&third).expect("tested") > 0.05);
    let strong = standings.numbers("strong");
    assert!(strong["interval_low"] < strong["win_rate"] && strong["win_rate"] < strong["interval_high"]);
    assert!(strong["discrete_win_rate_low"] < 80.0 && strong["discrete_win_rate_high"] < 86.0);
    let power = standings.power.expect("asked for");
    assert!(power.sd > 40.0 && power.sd < 80.0 && power.n_shared == 400, "{power:?}");
    assert!((power.n_instructions as f64 - (2.801_585 * power.sd / 5.0).powi(2)).abs() < 2.0, "{power:?}");
    let table = standings.leaderboard.terminal();
    assert!(table.starts_with("Rank  Model   Win rate (%)    SE  95 % interval  Discrete (%)"), "{table}");
    assert!(table.contains("< 0.001"), "{table}");
}

#[test]
fn elo_cost_and_data_sets_come_when_asked_for() {
    let table = simulated(&[("strong", 0.8), ("weak", 0.3), ("twin", 0.31)], 400);
    let measures = [Measure::Elo, Measure::Cost, Measure::Datasets].into();
    let standings = made(&table, &StandingsOptions { measures, n_resamples: 0, ..StandingsOptions::default() });
    let (strong, weak) = (standings.numbers("strong"), standings.numbers("weak"));
    assert!(strong["elo"] > standings.baseline_elo.expect("there") && weak["elo"] < standings.baseline_elo.expect("there"));
    assert_eq!((strong["rank_low"], strong["rank_high"], weak["rank_low"], weak["rank_high"]), (1.0, 1.0, 2.0, 3.0));
    assert!((strong["price_per_1000"] - 10.0).abs() < 1e-9 && !strong.contains_key("secs_per_1000"));
    let half = (strong["win_rate_even"] + strong["win_rate_odd"]) / 2.0;
    assert!((half - strong["win_rate"]).abs() < 1e-9);
    let text = standings.leaderboard.markdown();
    assert!(text.contains("| Ranks 95 % |") && text.contains("$ per 1,000") && !text.contains("Discrete"), "{text}");
    assert!(!standings.leaderboard.csv().expect("written").contains(",run,"));
}

#[test]
fn mixed_judges_and_baselines_are_refused_or_chosen() {
    let table = simulated(&[("m", 0.5)], 3);
    let two_judges = with_row(&table, |row| (row.annotator, row.instruction) = ("other", "Say more."));
    let message = refused(&two_judges, &StandingsOptions::default());
    assert_eq!(message, "the judgements are by 2 judges: `judge` (3), `other` (1); the second one first in `a.json`, record 4");
    let by = |judge| made(&two_judges, &StandingsOptions { judge, ..StandingsOptions::default() });
    let other = by(Judge::Named("other".into()));
    assert_eq!((other.annotator.as_str(), other.numbers("m")["n_total"], other.decisions[0].count), ("other", 1.0, 3));
    let all = by(Judge::All);
    assert_eq!(
        (all.annotator.as_str(), all.numbers("m")["n_total"], all.decisions[0].kind),
        ("2 annotators", 4.0, "several_judges")
    );
    let nobody = StandingsOptions { judge: Judge::Named("x".into()), ..StandingsOptions::default() };
    assert!(refused(&two_judges, &nobody).contains("no judgement is by `x`"));

    let two_baselines = with_row(&table, |row| (row.baseline, row.instruction) = ("second", "Say more."));
    let message = refused(&two_baselines, &StandingsOptions::default());
    assert!(
        message.contains("against 2 baselines: `base` (3), `second` (1); the second one first in `a.json`, record 4"),
        "{message}"
    );
    let against = |name: &str| StandingsOptions { baseline: Some(name.into()), ..StandingsOptions::default() };
    let chosen = made(&two_baselines, &against("second"));
    assert_eq!((chosen.baseline.as_str(), chosen.numbers("m")["n_total"]), ("second", 1.0));
    assert!(chosen.decisions.iter().any(|decision| decision.kind == "other_baselines" && decision.count == 3));
    assert!(refused(&two_baselines, &against("third")).contains("no judgement is against `third`"));
}

#[test]
fn repeated_verdicts_are_refused_or_counted() {
    let table = simulated(&[("m", 0.0)], 3);
    let twice = with_row(&table, |row| row.preference = Some(2.0));
    let message = refused(&twice, &StandingsOptions::default());
    assert_eq!(message, "`m` is judged twice on `Say 0.`: in `a.json`, record 1 and in `a.json`, record 4");
    for (duplicates, rate, n) in
        [(Duplicates::First, 0.0, 3.0), (Duplicates::Last, 100.0 / 3.0, 3.0), (Duplicates::All, 25.0, 4.0)]
    {
        let standings = made(&twice, &StandingsOptions { duplicates, ..StandingsOptions::default() });
        let m = standings.numbers("m");
        assert!((m["win_rate"] - rate).abs() < 1e-12 && m["n_total"] == n, "{duplicates:?}: {m:?}");
        assert_eq!((standings.decisions[0].kind, standings.decisions[0].count), ("duplicates", 1));
        assert_eq!(m.contains_key("discrete_win_rate_low"), duplicates != Duplicates::All);
    }
}

#[test]
fn different_instructions_and_failures_are_told() {
    let table = simulated(&[("a", 0.5), ("b", 0.5)], 4);
    let mut more = with_row(&table, |row| row.instruction = "Say more.");
    more = with_row(&more.clone(), |row| (row.instruction, row.preference, row.model) = ("Say less.", None, "b"));
    more = with_row(&more.clone(), |row| (row.preference, row.model) = (None, "silent"));
    let standings = made(&more, &StandingsOptions::default());
    let told: Vec<(&str, usize)> = standings.decisions.iter().map(|decision| (decision.kind, decision.count)).collect();
    assert_eq!(told, [("models_without_verdict", 1), ("different_instructions", 2), ("no_verdict", 1)]);
    assert_eq!((standings.numbers("a")["n_total"], standings.numbers("b")["n_failed"]), (5.0, 1.0));
    let common = made(&more, &StandingsOptions { common_instructions: true, ..StandingsOptions::default() });
    assert_eq!((common.numbers("a")["n_total"], common.numbers("b")["n_total"]), (4.0, 4.0));
    assert!(common.decisions.iter().any(|decision| decision.kind == "instructions_left_out" && decision.count == 1));
    let failed = table.filtered(|_| false);
    assert!(refused(&failed, &StandingsOptions::default()).contains("there are no judgements"));
}

#[test]
fn difficulties_come_from_the_judgements_where_there_are_enough_models() {
    let models: Vec<(String, f64)> = (0..5).map(|i| (format!("m{i}"), 0.2 + 0.15 * f64::from(i))).collect();
    let models: Vec<(&str, f64)> = models.iter().map(|(name, p)| (name.as_str(), *p)).collect();
    let control = LengthControl { covariates: vec![Covariate::Lists, Covariate::Markdown], ..LengthControl::default() };
    let options = StandingsOptions { length_control: Some(control), n_resamples: 0, ..StandingsOptions::default() };
    let standings = made(&simulated(&models, 200), &options);
    let controlled = standings.length_control.as_ref().expect("controlled");
    assert_eq!((controlled.source, controlled.estimated.len()), (DifficultySource::Estimated, 200));
    assert!(controlled.how.contains("estimated from these 5 models"), "{}", controlled.how);
    for (model, _) in &models {
        let m = standings.numbers(model);
        assert!((m["length_controlled_winrate"] - m["win_rate"]).abs() < 12.0, "{model}: {m:?}");
        assert!(m["lc_standard_error_with_estimation"] > 1.0);
    }
    // Ranked by what was controlled, and tested on it.
    let rates: Vec<f64> =
        (0..5).map(|row| standings.leaderboard.number("length_controlled_winrate", row).expect("there")).collect();
    assert!(rates.windows(2).all(|two| two[0] >= two[1]), "{rates:?}");
    assert!(standings.leaderboard.number("p_above", 4).is_some());
    let dir = tempfile::tempdir().expect("a folder");
    controlled.write_difficulties(&dir.path().join("instruction_difficulty.csv")).expect("written");
    let published = crate::PublishedLengthControl::read(dir.path()).expect("read");
    let again = LengthControl { published: Some(published), ..options.length_control.clone().expect("set") };
    let same = made(&simulated(&models, 200), &StandingsOptions { length_control: Some(again), ..options.clone() });
    for (model, _) in &models {
        let rate = |standings: &Standings| standings.numbers(model)["length_controlled_winrate"];
        assert!((rate(&standings) - rate(&same)).abs() < 1e-9, "{model}");
    }
    let two = made(&simulated(&models[..2], 200), &options);
    assert_eq!(two.length_control.expect("controlled").source, DifficultySource::None);
    let unpublished = with_row(&simulated(&models, 200), |row| row.instruction = "new").clone();
    let published = crate::PublishedLengthControl::read(dir.path()).expect("read");
    let control = LengthControl { published: Some(published), ..LengthControl::default() };
    // Published vectors that do not fit: estimated from the judgements, which is said, or refused where they are too few.
    let options = StandingsOptions { length_control: Some(control), ..options };
    let found = made(&unpublished, &options).length_control.expect("controlled");
    assert_eq!((found.source, found.n_regulariser, found.estimated.len()), (DifficultySource::Estimated, 0, 201));
    let misfit = found.misfit.expect("told");
    assert!(misfit.contains("1 of 201 instructions have no published difficulty, for example `new`"), "{misfit}");
    let few = with_row(&simulated(&models[..2], 200), |row| row.instruction = "new");
    assert!(refused(&few, &options).contains("1 of 201 instructions have no published difficulty"));
}

#[test]
fn judged_versions_of_the_baseline_tie_the_slopes_down() {
    let models = [("base_verbose", 0.6), ("a", 0.3), ("b", 0.4), ("c", 0.5)];
    let control = LengthControl { gamed: vec!["base_verbose".into()], ..LengthControl::default() };
    let options = StandingsOptions { length_control: Some(control), n_resamples: 0, ..StandingsOptions::default() };
    let standings = made(&simulated(&models, 100), &options);
    assert_eq!(standings.length_control.expect("controlled").n_regulariser, 100);
    // They are found by their names too, and published vectors of another baseline are told to be that.
    let control = LengthControl::default();
    let by_name = made(&simulated(&models, 100), &StandingsOptions { length_control: Some(control), ..options.clone() });
    let found = by_name.length_control.expect("controlled");
    assert_eq!((found.n_regulariser, found.misfit), (100, None));
    assert!(found.how.contains("`base_verbose` in place of gamed baselines"), "{}", found.how);
    let control = LengthControl { gamed: vec!["x".into()], ..LengthControl::default() };
    let message = refused(&simulated(&models, 100), &StandingsOptions { length_control: Some(control), ..options });
    assert!(message.contains("no judgement is on `x`"), "{message}");
}

#[test]
fn length_control_without_lengths_says_which_record_lacks_them() {
    let table = simulated(&[("m", 0.5)], 3);
    let without = with_row(&table, |row| (row.len_1, row.instruction) = (None, "Say more."));
    let options = StandingsOptions { length_control: Some(LengthControl::default()), ..StandingsOptions::default() };
    assert!(refused(&without, &options).contains("`a.json`, record 4: the lengths of the answers are not known"));
}

#[test]
fn names_of_metrics_are_read() {
    for measure in Measure::ALL {
        assert_eq!(measure.name().parse::<Measure>().expect("known"), measure);
    }
    assert!("elo2".parse::<Measure>().expect_err("unknown").to_string().contains("`win_rate`, `length_controlled`"));
    let ranked = StandingsOptions { rank_by: Some("avg_length".into()), ..StandingsOptions::default() };
    let table = simulated(&[("a", 0.5), ("b", 0.5)], 10);
    let standings = made(&table, &ranked);
    assert!(standings.leaderboard.number("avg_length", 0) >= standings.leaderboard.number("avg_length", 1));
    let wrong = StandingsOptions { rank_by: Some("x".into()), ..StandingsOptions::default() };
    assert!(refused(&table, &wrong).contains("no column `x` to rank by"));
}
