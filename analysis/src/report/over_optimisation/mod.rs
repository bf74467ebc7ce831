//! Over-optimisation: proxy and gold against how far a policy has moved from where it began.
//!
//! Gao, Schulman and Hilton 2022, <https://arxiv.org/abs/2210.10760>: the reward model's score (the proxy) keeps rising with the
//! divergence from the initial policy, the judge's (the gold) rises and then falls. Two kinds of methods make such curves:
//!
//! * best-of-n with several n from one model, whose divergence is at most `ln n − (n − 1)/n`;
//! * methods that go on from one another (`init`), whose divergence is the last one that the learner recorded (`…/kl`).

use crate::charts::{Curves, Panel, Series};
use crate::leaderboard::Leaderboard;
use crate::repetitions::split_seed;
use crate::run_files::RunFiles;

/// A method as a point of a curve.
struct Point {
    divergence: f64,
    method: String,
}

/// Two panels, proxy and gold, with a line a curve; none without at least two methods on a curve and a reward model.
pub(super) fn over_optimisation(run: &RunFiles, board: &Leaderboard) -> Curves {
    let curves = curves(run);
    let row = |method: &str| (0..board.len()).find(|row| board.text("model", *row) == Some(method));
    let panel = |title: &str, y_label: &str, column: &str| {
        let line = |(place, (label, points)): (usize, &(String, Vec<Point>))| {
            let value = |point: &Point| Some((point.divergence, board.number(column, row(&point.method)?)?));
            Series { label: label.clone(), points: points.iter().filter_map(value).collect(), colour: place }
        };
        Panel {
            title: title.into(),
            y_label: y_label.into(),
            x_label: "Divergence from the start (KL, nats)".into(),
            series: curves.iter().enumerate().map(line).filter(|series| series.points.len() > 2).collect(),
        }
    };
    let panels = [panel("Proxy", "Mean reward", "mean_reward"), panel("Gold", "Win rate (%)", "win_rate")];
    // One without the other says nothing about over-optimisation.
    if panels.iter().any(|panel| panel.series.is_empty()) { Curves::new([]) } else { Curves::new(panels) }
}

/// The curves of a run, each from its start on.
fn curves(run: &RunFiles) -> Vec<(String, Vec<Point>)> {
    let config = run.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
    let Some(methods) = config.get("methods").and_then(toml::Value::as_table) else { return Vec::new() };
    let init = |name: &str| methods.get(name).and_then(|method| method.get("init")?.as_str()).unwrap_or("sft");
    let learns = |name: &str| methods.get(name).is_some_and(|method| method.get("learner").is_some());
    let mut curves = Vec::new();

    let best_of = |name: &String| {
        let n = methods[name].get("policy")?.get("best_of_n")?.get("n")?.as_integer()?;
        (n >= 1 && !learns(name) && init(name) == "sft").then(|| (n, name.clone()))
    };
    let mut sizes: Vec<(i64, String)> = methods.keys().filter_map(best_of).collect();
    sizes.sort();
    if sizes.len() > 1 {
        let moved = |(n, method)| {
            let n = n as f64;
            Point { divergence: n.ln() - (n - 1.0) / n, method }
        };
        curves.push(("best of n".to_owned(), start().chain(sizes.into_iter().map(moved)).collect()));
    }

    // A chain ends in a method from which no other goes on.
    let goes_on = |name: &str| methods.keys().any(|other| other != name && learns(other) && init(other) == name);
    for last in methods.keys().filter(|name| learns(name) && !goes_on(name)) {
        let mut chain = vec![last.as_str()];
        while let Some(before) = Some(init(chain[chain.len() - 1])).filter(|before| learns(before) && !chain.contains(before)) {
            chain.push(before);
        }
        chain.reverse();
        let moved = |name: &&str| Some(Point { divergence: divergence(run, name)?, method: (*name).to_owned() });
        if let Some(points) = chain.iter().map(moved).collect::<Option<Vec<_>>>().filter(|points| points.len() > 1) {
            curves.push((chain[0].to_owned(), start().chain(points).collect()));
        }
    }
    curves
}

/// The model that everything starts from.
fn start() -> impl Iterator<Item = Point> {
    std::iter::once(Point { divergence: 0.0, method: "sft".to_owned() })
}

/// The divergence at the end of a method's learning, the mean over its repetitions; `None` when it recorded none.
fn divergence(run: &RunFiles, method: &str) -> Option<f64> {
    let stage = format!("learn-{method}");
    let of_method = run.scalars.iter().filter(|(name, _)| split_seed(name).0 == stage);
    let last = |scalars: &std::collections::BTreeMap<String, std::collections::BTreeMap<u64, f64>>| {
        let kl = scalars.iter().find(|(name, _)| name.rsplit('/').next() == Some("kl"))?.1;
        kl.values().next_back().copied()
    };
    let all: Vec<f64> = of_method.map(|(_, scalars)| last(scalars)).collect::<Option<_>>()?;
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture::{metric, report_of};
    use crate::leaderboard::Entry;

    fn run(config: &str) -> RunFiles {
        let kl = |end: f64| BTreeMap::from([("ppo/kl".to_owned(), BTreeMap::from([(0, 0.0), (19, end)]))]);
        let scalars =
            [("learn-ppo_1@0", 1.0), ("learn-ppo_1@1", 3.0), ("learn-ppo_2@0", 7.0), ("learn-ppo_2@1", 9.0), ("sft", 5.0)];
        RunFiles {
            config: Some(config.to_owned()),
            scalars: scalars.into_iter().map(|(stage, end)| (stage.to_owned(), kl(end))).collect(),
            ..RunFiles::default()
        }
    }

    const CONFIG: &str = "[methods.b4.policy.best_of_n]\nn = 4\n[methods.b1.policy.best_of_n]\nn = 1\n\
        [methods.ppo_1.learner.ppo]\nsteps = 20\n[methods.ppo_2]\ninit = \"ppo_1\"\n[methods.ppo_2.learner.ppo]\nsteps = 20\n\
        [methods.alone.learner.dpo]\nbeta = 0.1\n";

    #[test]
    fn best_of_n_and_chains_of_methods_make_curves() {
        let curves = curves(&run(CONFIG));
        let shape: Vec<(&str, Vec<(&str, f64)>)> = curves
            .iter()
            .map(|(label, points)| (label.as_str(), points.iter().map(|p| (p.method.as_str(), p.divergence)).collect()))
            .collect();
        let four = 4_f64.ln() - 0.75;
        assert_eq!(
            shape,
            [
                ("best of n", vec![("sft", 0.0), ("b1", 0.0), ("b4", four)]),
                ("ppo_1", vec![("sft", 0.0), ("ppo_1", 2.0), ("ppo_2", 8.0)]),
            ]
        );
        assert!(super::curves(&run("[methods.ppo_1.learner.ppo]\nsteps = 1\n")).is_empty());
    }

    #[test]
    fn a_chart_needs_both_the_proxy_and_the_gold() {
        let entry = |model: &str, with_reward: bool| {
            let mut reports = report_of(model, 55.0, 1.0, 40.0);
            reports[1].metrics.extend(with_reward.then(|| metric("mean_reward", 0.5)));
            Entry { run: "r".into(), model: model.into(), reports }
        };
        let board = |with_reward: bool| {
            let entries: Vec<Entry> = ["sft", "b1", "b4", "ppo_1", "ppo_2"].map(|model| entry(model, with_reward)).into();
            Leaderboard::from_entries(&entries).expect("made")
        };
        assert!(!over_optimisation(&run(CONFIG), &board(true)).is_empty());
        assert!(over_optimisation(&run(CONFIG), &board(false)).is_empty());
    }
}
