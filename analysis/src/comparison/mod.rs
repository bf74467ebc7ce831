//! Whether the difference between two models is real: paired by instruction and seed, with interval, p value and the number of
//! instructions that a difference needs to be seen.
//!
//! With one repetition, the interval and the p value are those of the paired bootstrap over instructions
//! ([`farmhand_evaluators::statistics::bootstrap`]), with the exact sign test beside it. With several seeds, both count instructions
//! and seeds: a two-way analysis of variance of the differences ([`crate::crossed`]), so that three lucky seeds are no proof.

mod pairing;
mod side;
mod sources;
mod words;

use farmhand_core::{Error, Result, Seed};
use farmhand_evaluators::length_controlled::{self, Instance};
use farmhand_evaluators::statistics::{bootstrap, normal, paired, power};
use serde::Serialize;

use self::pairing::Pairing;
pub use self::side::Side;
pub use self::sources::{sides_of_one, sides_of_two};
use crate::crossed::{crossed_mean, student_quantile};

/// The level of tests and, as 1 − α, of intervals.
const ALPHA: f64 = 0.05;

/// The power that [`Power`] promises.
const POWER: f64 = 0.8;

/// Resamples of the paired bootstrap.
const N_REPLICATES: usize = 10_000;

/// Two models compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelComparison {
    /// The one.
    pub a: String,
    /// The other.
    pub b: String,
    /// In one or two sentences: which is better and by how much, or that no difference is shown and what it would take.
    pub verdict: String,
    /// `a` or `b` when the difference of win rates is significant at 5 %, else nothing.
    pub better: Option<String>,
    /// Instructions on which both have a verdict in every common repetition.
    pub n_instructions: usize,
    /// Repetitions; 1 where nothing was repeated.
    pub n_seeds: usize,
    /// Win rate first, then what else is known of both.
    pub differences: Vec<Difference>,
    /// How many instructions differences of the win rate need; nothing when the verdicts never differ.
    pub power: Option<ComparisonPower>,
    /// What a reader must know before believing the numbers.
    pub notes: Vec<String>,
}

/// The difference of one quantity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// `win_rate`, `length_controlled_winrate`, `mean_reward`, `mean_reward/NAME` or `avg_length`.
    pub name: String,
    /// `%` (the difference is in percentage points), `characters`, or empty for a reward.
    pub unit: String,
    /// The mean of `a`.
    pub a: f64,
    /// The mean of `b`.
    pub b: f64,
    /// `a` − `b`.
    pub difference: f64,
    /// Its standard error; `None` for a single instruction.
    pub standard_error: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// The two-sided p value that there is no difference, by the same reckoning as the interval.
    pub p_value: Option<f64>,
    /// The exact two-sided p value of the sign test over instructions, ties left out; `None` where there are no single differences.
    pub sign_p_value: Option<f64>,
    /// Instructions on which `a`, `b` and neither was ahead.
    pub n_ahead: Option<[usize; 3]>,
}

/// What differences these data can show, at two-sided 5 % with power 80 %.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparisonPower {
    /// The standard deviation of the differences on single instructions, in points (of their means over seeds).
    pub standard_deviation: f64,
    /// The smallest true difference that as many instructions and seeds would find, in points.
    pub detectable: f64,
    /// Instructions that a true difference of 2 points needs; `None` with several seeds, where instructions alone do not suffice.
    pub for_2_points: Option<usize>,
    /// Instructions that a true difference as large as the one seen needs; `None` when that is 0, and with several seeds.
    pub for_this_difference: Option<usize>,
}

/// Compares two models on the instructions and seeds that both were judged on; `seed` fixes the resamples.
///
/// # Errors
/// When they have no instruction with verdicts in common, or a regression cannot be fitted.
pub fn compare(a: &Side, b: &Side, seed: Seed) -> Result<ModelComparison> {
    let pairing = Pairing::of(a, b)?;
    let mut differences = Vec::new();
    let percents = pairing.values(|answer| answer.p_win.map(|p| 100.0 * p));
    let rate = difference_of("win_rate", "%", &percents, seed.child("win_rate", 0))
        .ok_or_else(|| Error::invalid_data("no common verdict to compare"))?;
    let power = power_of(&percents, &rate);
    differences.push(rate);
    differences.extend(length_controlled_difference(&pairing)?);
    for name in pairing.common_rewards() {
        let label =
            if name == crate::AnswerScores::REWARD_MODEL { "mean_reward".to_owned() } else { format!("mean_reward/{name}") };
        let rewards = pairing.values(|answer| answer.rewards.get(&name).copied());
        differences.extend(difference_of(&label, "", &rewards, seed.child("reward", 0)));
    }
    differences.extend(difference_of(
        "avg_length",
        "characters",
        &pairing.values(|answer| answer.length),
        seed.child("length", 0),
    ));
    let (n_instructions, n_seeds) = (pairing.n_instructions(), pairing.n_seeds());
    let rate = &differences[0];
    let is_real = rate.p_value.is_some_and(|p| p < ALPHA);
    let better = is_real.then(|| if rate.difference > 0.0 { a.name.clone() } else { b.name.clone() });
    let verdict = words::verdict(a, b, rate, power.as_ref(), n_instructions, n_seeds);
    let notes = pairing.notes(&differences);
    Ok(ModelComparison {
        a: a.name.clone(),
        b: b.name.clone(),
        verdict,
        better,
        n_instructions,
        n_seeds,
        differences,
        power,
        notes,
    })
}

/// `pairs[seed][instruction]`: both sides' numbers.
type Cells = Vec<Vec<(f64, f64)>>;

/// The mean over seeds of each instruction's numbers.
fn over_seeds(cells: &Cells) -> Vec<(f64, f64)> {
    let n = cells.first().map_or(0, Vec::len);
    let s = cells.len() as f64;
    let mean = |i: usize, of: fn(&(f64, f64)) -> f64| cells.iter().map(|row| of(&row[i])).sum::<f64>() / s;
    (0..n).map(|i| (mean(i, |pair| pair.0), mean(i, |pair| pair.1))).collect()
}

fn difference_of(name: &str, unit: &str, cells: &Cells, seed: Seed) -> Option<Difference> {
    let pairs = over_seeds(cells);
    let n_replicates = if cells.len() == 1 { N_REPLICATES } else { 2 };
    let found = paired::compare(&pairs, n_replicates, seed)?;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
    let (standard_error, interval, p_value) = if cells.len() == 1 {
        let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
        (found.std_error, found.interval, bootstrap_p(&differences, seed))
    } else {
        let rows: Vec<Vec<f64>> = cells.iter().map(|row| row.iter().map(|(a, b)| a - b).collect()).collect();
        let crossed = crossed_mean(&rows)?;
        (crossed.std_error, crossed.interval, crossed.p_value())
    };
    Some(Difference {
        name: name.to_owned(),
        unit: unit.to_owned(),
        a: mean(|pair| pair.0),
        b: mean(|pair| pair.1),
        difference: found.mean,
        standard_error,
        interval,
        p_value,
        sign_p_value: Some(found.sign_p_value),
        n_ahead: Some(found.n_ahead),
    })
}

/// The two-sided p value of the bootstrap whose percentiles are the interval: twice the smaller share of resamples on one side of 0,
/// with one resample added to each side, so that it is never 0 (Davison and Hinkley, 1997, section 4.2). 1 where nothing differs.
fn bootstrap_p(differences: &[f64], seed: Seed) -> Option<f64> {
    if differences.len() < 2 {
        return None;
    }
    if differences.iter().all(|difference| *difference == 0.0) {
        return Some(1.0);
    }
    let sum = |drawn: &[usize]| Some(drawn.iter().map(|i| differences[*i]).sum::<f64>());
    Some(two_sided_p(&bootstrap::replicates(differences.len(), N_REPLICATES, seed, sum)))
}

fn two_sided_p(replicates: &[f64]) -> f64 {
    let share = |keep: fn(&f64) -> bool| {
        (1 + replicates.iter().filter(|value| keep(value)).count()) as f64 / (1 + replicates.len()) as f64
    };
    (2.0 * share(|value| *value <= 0.0).min(share(|value| *value >= 0.0))).min(1.0)
}

/// The difference of the length-controlled win rates: both regressions without difficulties, on the common instructions, at the
/// strength that cross-validation finds for each. The standard error counts the instructions and that the weights are fitted; with
/// several seeds, the spread between them is added as if it were on top of that, which is too wide rather than too narrow. `None`
/// where a length is not known, no answer of a side differs in length from its reference, or there are fewer than 10 instructions.
fn length_controlled_difference(pairing: &Pairing<'_>) -> Result<Option<Difference>> {
    let [a, b] = pairing.instances();
    let has_lengths = |side: &[Vec<Instance>]| side.iter().flatten().any(|instance| instance.delta_len != 0.0);
    if !pairing.knows_lengths() || !has_lengths(&a) || !has_lengths(&b) || pairing.n_instructions() < 10 {
        return Ok(None);
    }
    let rate = |instances: &[Instance], c: Option<f64>| length_controlled::fit(instances, &[], c);
    let flat = |side: &[Vec<Instance>]| side.iter().flatten().cloned().collect::<Vec<Instance>>();
    let (fit_a, fit_b) = (rate(&flat(&a), None)?, rate(&flat(&b), None)?);
    let difference = 100.0 * (fit_a.win_rate - fit_b.win_rate);
    let mut found = Difference {
        name: "length_controlled_winrate".to_owned(),
        unit: "%".to_owned(),
        a: 100.0 * fit_a.win_rate,
        b: 100.0 * fit_b.win_rate,
        difference,
        standard_error: None,
        interval: None,
        p_value: None,
        sign_p_value: None,
        n_ahead: None,
    };
    let Some((of_a, of_b)) = fit_a.influences.as_ref().zip(fit_b.influences.as_ref()) else { return Ok(Some(found)) };
    // Rows are seed by seed; what one instruction moves is the sum over seeds.
    let n = pairing.n_instructions();
    let of_instruction = |i: usize| (i..of_a.len()).step_by(n).map(|row| of_a[row] - of_b[row]).sum::<f64>();
    let squares: f64 = (0..n).map(|i| of_instruction(i).powi(2)).sum();
    let error = 100.0 * (squares * n as f64 / (n as f64 - 1.0)).sqrt();
    let z = normal::quantile(1.0 - ALPHA / 2.0);
    let (error, half) = if pairing.n_seeds() == 1 {
        (error, z * error)
    } else {
        let of_seed = |(a, b): (&Vec<Instance>, &Vec<Instance>)| {
            Ok(100.0 * (rate(a, Some(fit_a.c))?.win_rate - rate(b, Some(fit_b.c))?.win_rate))
        };
        let by_seed: Vec<f64> = a.iter().zip(&b).map(of_seed).collect::<Result<_>>()?;
        let s = by_seed.len() as f64;
        let between = standard_deviation(&by_seed) / s.sqrt();
        (error.hypot(between), (z * error).hypot(student_quantile(s - 1.0, ALPHA / 2.0) * between))
    };
    found.standard_error = Some(error);
    found.interval = Some([difference - half, difference + half]);
    found.p_value = (half > 0.0).then(|| normal::two_sided_p(difference * z / half));
    Ok(Some(found))
}

/// With the divisor n − 1; 0 for fewer than two.
fn standard_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 { 0.0 } else { (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt() }
}

fn power_of(percents: &Cells, rate: &Difference) -> Option<ComparisonPower> {
    let differences: Vec<f64> = over_seeds(percents).iter().map(|(a, b)| a - b).collect();
    let sd = standard_deviation(&differences);
    if sd <= 0.0 {
        return None;
    }
    if percents.len() > 1 {
        // Half the interval is what a difference must reach to be significant, with the seeds counted.
        let [low, high] = rate.interval?;
        let detectable = f64::midpoint(high, -low) + normal::quantile(POWER) * rate.standard_error?;
        return Some(ComparisonPower { standard_deviation: sd, detectable, for_2_points: None, for_this_difference: None });
    }
    let needed = |points: f64| power::n_instructions(points, sd, ALPHA, POWER);
    Some(ComparisonPower {
        standard_deviation: sd,
        detectable: power::detectable_difference(differences.len(), sd, ALPHA, POWER)?,
        for_2_points: needed(2.0),
        for_this_difference: needed(rate.difference),
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Annotation, Comparison, Instruction, Judgement, Preference};

    use super::*;

    /// Verdicts on 400 instructions with these chances to win, longer answers by so many characters.
    fn side(name: &str, p_win: f64, longer: usize, world: u64, seed: Option<u64>) -> Side {
        let mut side = Side::new(name);
        add(&mut side, p_win, longer, world, seed);
        side
    }

    fn add(side: &mut Side, p_win: f64, longer: usize, world: u64, seed: Option<u64>) {
        let mut rng = Seed::root(world).rng();
        let judgement = |i: usize| {
            let answer = "b".repeat(20 + longer + i % 7);
            let comparison = Comparison::new(Instruction::new(format!("Question {i}"), None), "a".repeat(20 + i % 5), answer);
            let preference = if rng.bernoulli(p_win) { Preference::Second } else { Preference::First };
            Judgement::new(comparison.between("sft", "model"), Ok(Annotation::new("judge", preference)))
        };
        let judgements: Vec<Judgement> = (0..400).map(judgement).collect();
        side.add(seed, &judgements);
    }

    #[test]
    fn a_real_difference_is_told_with_interval_p_and_number() {
        let (a, b) = (side("ppo", 0.7, 10, 1, None), side("dpo", 0.5, 0, 2, None));
        let found = compare(&a, &b, Seed::root(0)).expect("compared");
        assert_eq!(found.better.as_deref(), Some("ppo"));
        assert!(
            found.verdict.starts_with("ppo is better: ") && found.verdict.contains("p < 0.001 over 400 instructions."),
            "{found:?}"
        );
        let names: Vec<&str> = found.differences.iter().map(|difference| difference.name.as_str()).collect();
        assert_eq!(names, ["win_rate", "length_controlled_winrate", "avg_length"]);
        let [low, high] = found.differences[0].interval.expect("many");
        assert!(low < found.differences[0].difference && found.differences[0].difference < high && low > 0.0);
        assert!((found.differences[2].difference - 10.0).abs() < 1e-9);
        let back = compare(&b, &a, Seed::root(0)).expect("compared");
        assert_eq!((back.better.as_deref(), back.differences[0].difference), (Some("ppo"), -found.differences[0].difference));
        assert!(back.verdict.starts_with("ppo is better: "), "{}", back.verdict);
        assert_eq!(found, compare(&a, &b, Seed::root(0)).expect("compared"));
    }

    #[test]
    fn no_difference_says_what_it_would_take() {
        let (a, b) = (side("ppo", 0.5, 0, 3, None), side("dpo", 0.5, 0, 4, None));
        let found = compare(&a, &b, Seed::root(0)).expect("compared");
        assert_eq!(found.better, None);
        let power = found.power.clone().expect("they differ");
        let n = power.for_2_points.expect("one repetition");
        let needed = format!("to see one of 2 points {n} instructions are needed.");
        assert!(
            found.verdict.starts_with("No difference is shown between ppo and dpo: ") && found.verdict.ends_with(&needed),
            "{found:?}"
        );
        // Two fair coins: the difference has the standard deviation 70.7 points, and (2.8 · 70.7 / 2)² is 9,811.
        assert!((n as f64 / 9811.0 - 1.0).abs() < 0.1, "{power:?}");
        let text = found.terminal();
        assert!(text.contains("ppo is ahead on") && text.contains("four times in five"), "{text}");
        assert!(found.markdown().starts_with("**No difference is shown") && found.markdown().contains("| Win rate (%)"));
    }

    #[test]
    fn one_comparison_in_twenty_finds_what_is_not_there() {
        let finds = |world: u64| {
            let (a, b) = (side("a", 0.5, 0, 2 * world + 100, None), side("b", 0.5, 0, 2 * world + 101, None));
            let pairing = Pairing::of(&a, &b).expect("joined");
            let cells = pairing.values(|answer| answer.p_win);
            let differences: Vec<f64> = over_seeds(&cells).iter().map(|(a, b)| a - b).collect();
            let sums = |drawn: &[usize]| Some(drawn.iter().map(|i| differences[*i]).sum::<f64>());
            two_sided_p(&bootstrap::replicates(differences.len(), 300, Seed::root(world), sums)) < 0.05
        };
        let share = (0..300).filter(|world| finds(*world)).count() as f64 / 300.0;
        assert!((0.02..0.09).contains(&share), "{share}");
    }

    #[test]
    fn seeds_that_disagree_are_no_proof() {
        let (mut a, mut b) = (Side::new("ppo"), Side::new("dpo"));
        for (seed, rate) in [(0, 0.45), (1, 0.9), (2, 0.6)] {
            add(&mut a, rate, 0, seed, Some(seed));
            add(&mut b, 0.5, 0, seed + 10, Some(seed));
        }
        let found = compare(&a, &b, Seed::root(0)).expect("compared");
        assert_eq!((found.n_seeds, found.n_instructions), (3, 400));
        let rate = &found.differences[0];
        // The instructions alone would make it certain; three seeds do not.
        assert!(rate.sign_p_value.expect("there") < 0.001 && rate.p_value.expect("there") > 0.05, "{rate:?}");
        assert!(found.verdict.contains("over 400 instructions and 3 seeds") && found.better.is_none());
        let power = found.power.expect("they differ");
        assert!(power.for_2_points.is_none() && power.detectable > rate.difference, "{power:?}");
        assert!(found.verdict.contains("are seen four times in five by as many instructions and seeds"), "{}", found.verdict);
        // A model that was not repeated goes with every repetition of the other.
        let once = compare(&a, &side("sft", 0.3, 0, 9, None), Seed::root(0)).expect("compared");
        assert_eq!(once.n_seeds, 3);
    }

    #[test]
    fn equal_verdicts_and_strangers_are_told_apart() {
        let (a, b) = (side("ppo", 0.5, 0, 3, None), side("twin", 0.5, 0, 3, None));
        let found = compare(&a, &b, Seed::root(0)).expect("compared");
        assert_eq!((found.differences[0].p_value, &found.power), (Some(1.0), &None));
        assert!(found.verdict.ends_with("every verdict is the same."), "{}", found.verdict);
        let mut stranger = Side::new("other");
        let comparison = Comparison::new(Instruction::new("Something else", None), "a", "b").between("gpt", "other");
        stranger.add(None, &[Judgement::new(comparison, Ok(Annotation::new("person", Preference::Tie)))]);
        let error = compare(&a, &stranger, Seed::root(0)).expect_err("refused");
        assert!(error.to_string().contains("`ppo` (400 instructions) and `other` (1) have no instruction in common"), "{error}");
    }

    #[test]
    fn what_makes_win_rates_incomparable_is_noted() {
        let mut other = Side::new("gpt");
        let judgement = |i: usize| {
            let comparison = Comparison::new(Instruction::new(format!("Question {i}"), None), "x", "y").between("davinci", "gpt");
            Judgement::new(comparison, Ok(Annotation::new("person", Preference::Second)))
        };
        let mut judgements: Vec<Judgement> = (0..30).map(judgement).collect();
        judgements.push(judgement(0));
        other.add(None, &judgements);
        let found = compare(&side("ppo", 0.5, 0, 3, None), &other, Seed::root(0)).expect("compared");
        let notes = found.notes.join("\n");
        for part in [
            "370 instructions without",
            "`gpt` has 1 further verdicts",
            "`sft` and `davinci`",
            "Different judges: `judge` and `person`",
        ] {
            assert!(notes.contains(part), "no {part} in {notes}");
        }
    }
}
