//! Over-optimisation: proxy and gold against how far a policy has moved from where it began.
//!
//! Gao, Schulman and Hilton 2022, <https://arxiv.org/abs/2210.10760>: the reward model's score (the proxy) keeps rising with the
//! divergence from the initial policy, the judge's verdict (the gold) rises and then falls.
//!
//! * `curves`: which models are points of a curve.

mod curves;

use std::collections::BTreeMap;
use std::fmt::Write;

use farmhand_core::types::Judgement;

use self::curves::{Curve, Point, curves};
use crate::charts::{Curves, Panel, Series};
use crate::crossed::CrossedMean;
use crate::html::escape;
use crate::leaderboard::Leaderboard;
use crate::number::{fixed, significant};
use crate::peak::{Peak, mean, peak};
use crate::repetitions::{Repetitions, p_wins};
use crate::run_files::{ModelFiles, RunFiles};
use crate::table::{Align, Table};

/// The curves of a run with what was measured at their points.
pub(super) struct OverOptimisation {
    curves: Vec<Measured>,
}

struct Measured {
    curve: Curve,
    /// One a point.
    values: Vec<Values>,
    /// The peak of the win rate, in percent.
    win_rate: Option<Peak>,
    /// The peak of the judges' score above the reference's.
    gold_score: Option<Peak>,
}

/// What was measured of a model.
struct Values {
    proxy: Option<f64>,
    win_rate: Option<f64>,
    interval: Option<[f64; 2]>,
    gold_score: Option<f64>,
}

impl OverOptimisation {
    /// The curves on which every point was evaluated; none in most runs.
    pub(super) fn of(run: &RunFiles, board: &Leaderboard) -> Self {
        let methods = run.by_method();
        let with_scores = judges_give_scores(run);
        let measured = |curve: Curve| {
            let model = |point: &Point| methods.iter().find(|method| method.name == point.method);
            let models: Vec<&Repetitions<'_>> = curve.points.iter().map(model).collect::<Option<_>>()?;
            let values = models.iter().map(|model| Values::of(model, board, with_scores)).collect();
            let gold_score = if with_scores { peak(&models, gold_scores) } else { None };
            Some(Measured { curve, values, win_rate: peak(&models, win_percents), gold_score })
        };
        Self { curves: curves(run).into_iter().filter_map(measured).collect() }
    }

    /// Proxy and gold against the root of the divergence, with a line a curve; none without a reward model.
    pub(super) fn chart(&self) -> Curves {
        let panel = |title: &str, y_label: &str, value: fn(&Values) -> Option<f64>| {
            let line = |(place, measured): (usize, &Measured)| {
                let points = measured.curve.points.iter().zip(&measured.values);
                let points = points.filter_map(|(point, values)| Some((point.divergence?.max(0.0).sqrt(), value(values)?)));
                Series { label: measured.curve.label.clone(), points: points.collect(), colour: place, ..Series::default() }
            };
            Panel {
                title: title.into(),
                y_label: y_label.into(),
                x_label: "√ divergence from the start (KL, nats)".into(),
                series: self.curves.iter().enumerate().map(line).filter(|series| series.points.len() > 2).collect(),
            }
        };
        let (proxy, gold) =
            (panel("Proxy", "Mean reward", |values| values.proxy), panel("Gold", "Win rate (%)", |values| values.win_rate));
        // One without the other says nothing about over-optimisation.
        if proxy.series.is_empty() || gold.series.is_empty() {
            return Curves::new([]);
        }
        Curves::new([proxy, gold, panel("Gold", "Judges' score above the reference", |values| values.gold_score)])
    }

    /// What the page says: for each curve the peak, the fall after it, and the numbers; nothing without a curve.
    pub(super) fn html(&self) -> Option<String> {
        if self.curves.is_empty() {
            return None;
        }
        let mut body =
            "<p>The proxy is the reward model that is optimised, the gold the judges of the evaluation: their win rate, and \
             where they give scores, the score of the model's answer above that of the reference's. Differences are paired, on the same instructions and seeds; a peak is \
             picked because it is the highest point, so the intervals of its differences are wide enough to hold for all points \
             of its curve together.</p>\n"
                .to_owned();
        for measured in &self.curves {
            let _ = write!(body, "<h3>{}</h3>\n<p>{}</p>\n", escape(&measured.curve.label), escape(&measured.told()));
            body.push_str(&measured.table().html());
        }
        Some(body)
    }

    /// CSV with a line a point; numbers have all their digits. Nothing without a curve.
    pub(super) fn csv(&self) -> Option<String> {
        let mut text = "curve,method,at,divergence,proxy,win_rate,interval_low,interval_high,gold_score\n".to_owned();
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for Measured { curve, values, .. } in &self.curves {
            for (point, value) in curve.points.iter().zip(values) {
                let [low, high] = value.interval.map_or([None; 2], |ends| ends.map(Some)).map(number);
                let cells = [value.proxy, value.win_rate, value.gold_score].map(number);
                let [proxy, win_rate, gold_score] = cells;
                let (method, at, divergence) = (&point.method, &point.at, number(point.divergence));
                let _ = writeln!(text, "{},{method},{at},{divergence},{proxy},{win_rate},{low},{high},{gold_score}", curve.label);
            }
        }
        (!self.curves.is_empty()).then_some(text)
    }
}

impl Values {
    fn of(model: &Repetitions<'_>, board: &Leaderboard, with_scores: bool) -> Self {
        let row = (0..board.len()).find(|row| board.text("model", *row) == Some(model.name));
        let number = |column: &str| board.number(column, row?);
        Self {
            proxy: number("mean_reward"),
            win_rate: number("win_rate"),
            interval: number("interval_low").zip(number("interval_high")).map(<[f64; 2]>::from),
            gold_score: if with_scores { mean(model, gold_scores) } else { None },
        }
    }
}

impl Measured {
    /// The peaks in words.
    fn told(&self) -> String {
        let told = |what: &str, unit: &str, found: &Option<Peak>, height: fn(&Values) -> Option<f64>| {
            let found = found.as_ref()?;
            let name = &self.curve.points[found.at];
            let top = significant(height(&self.values[found.at])?);
            let place = match (found.at, self.curve.axis) {
                (0, _) => "at the start".to_owned(),
                (_, "") => format!("with {}", name.method),
                (_, "n") => format!("at n = {}", name.at),
                (_, axis) => format!("after {} {axis}", name.at),
            };
            let difference = |difference: &CrossedMean| {
                let ends = difference.interval.map(|[low, high]| format!(" ({} to {})", significant(low), significant(high)));
                format!("{}{}", significant(difference.mean), ends.unwrap_or_default())
            };
            let rise = match &found.rise {
                None => String::new(),
                Some(rise) if found.rises() => format!(", {} above the start", difference(rise)),
                Some(rise) => format!(", {} above the start, which may be chance", difference(rise)),
            };
            let fall = match &found.fall {
                None => "; it is the last point: no fall is seen".to_owned(),
                Some(fall) if found.falls() => format!(" and {} above the end: it falls", difference(fall)),
                Some(fall) => format!(" and {} above the end, which may be chance", difference(fall)),
            };
            Some(format!("The {what} is highest {place}: {top}{unit}{rise}{fall}."))
        };
        let ends = self.values.first().and_then(|first| first.proxy).zip(self.values.last().and_then(|last| last.proxy));
        let proxy = ends.map(|(first, last)| format!("The proxy goes from {} to {}.", significant(first), significant(last)));
        let sentences = [
            told("win rate", " %", &self.win_rate, |values| values.win_rate),
            told("judges' score", "", &self.gold_score, |values| values.gold_score),
            proxy,
        ];
        sentences.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn table(&self) -> Table {
        let headers = [
            "Model",
            self.curve.axis,
            "KL (nats)",
            "Proxy",
            "Win rate (%)",
            "95 % interval",
            "Judges' score (above the reference)",
        ];
        let align = |place| if place == 0 { Align::Left } else { Align::Right };
        let columns = headers.iter().enumerate().map(|(place, header)| ((*header).to_owned(), align(place))).collect();
        let row = |(point, values): (&Point, &Values)| {
            let number = |value: Option<f64>| value.map(significant).unwrap_or_default();
            let ends = values.interval.map(|[low, high]| format!("{} – {}", fixed(low, 1), fixed(high, 1)));
            vec![
                point.method.clone(),
                point.at.clone(),
                number(point.divergence),
                number(values.proxy),
                values.win_rate.map(|rate| fixed(rate, 1)).unwrap_or_default(),
                ends.unwrap_or_default(),
                number(values.gold_score),
            ]
        };
        Table::new(columns, self.curve.points.iter().zip(&self.values).map(row).collect())
    }
}

/// How often the model's answer is better, in percent, by instruction.
fn win_percents(model: &ModelFiles) -> BTreeMap<&str, f64> {
    p_wins(model).into_iter().map(|(id, p)| (id, 100.0 * p)).collect()
}

/// Whether a judge of the run gave scores beside verdicts.
fn judges_give_scores(run: &RunFiles) -> bool {
    let scored = |judged: &Judgement| judged.annotation().is_some_and(|annotation| annotation.scores.is_some());
    run.models.iter().any(|model| model.judgements.iter().any(scored))
}

/// By how much the judge scored the model's answer above the reference's, by instruction; only where judges give scores. Equal
/// answers, which nobody has to judge, score alike.
fn gold_scores(model: &ModelFiles) -> BTreeMap<&str, f64> {
    let above = |judgement: &Judgement| {
        let comparison = &judgement.comparison;
        let equal = (comparison.output_1 == comparison.output_2).then_some(0.0);
        equal.or_else(|| judgement.annotation()?.scores.map(|[reference, model]| model - reference))
    };
    model.judgements.iter().filter_map(|judged| Some((judged.comparison.instruction.id.as_str(), above(judged)?))).collect()
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Annotation, Comparison, Instruction, Judgement, Preference};

    use super::*;
    use crate::fixture::{metric, report_of};
    use crate::leaderboard::{Entry, entries_of};

    /// PPO that is better after 10 steps and worse in the end than in the beginning, while its reward rises.
    fn run(with_reward: bool) -> RunFiles {
        let config = "[methods.ppo]\ncheckpoint_every = 10\n[methods.ppo.learner.ppo]\nsteps = 30\n";
        let kl = BTreeMap::from([("ppo/kl".to_owned(), BTreeMap::from([(0, 0.0), (10, 4.0), (20, 9.0), (29, 16.0)]))]);
        let model = |name: &str, won: usize, reward: f64| {
            let judgement = |index: usize| {
                let comparison = Comparison::new(Instruction::new(format!("Question {index}"), None), "a", "b");
                let (preference, score) =
                    if index * 7919 % 500 < won { (Preference::Second, 1.0) } else { (Preference::First, 0.0) };
                let annotation = Annotation { scores: Some([0.5, score]), ..Annotation::new("judge", preference) };
                Judgement::new(comparison, Ok(annotation))
            };
            let mut reports = report_of(name, won as f64 / 5.0, 2.0, 40.0);
            reports[1].metrics.extend(with_reward.then(|| metric("mean_reward", reward)));
            ModelFiles { method: name.into(), reports, judgements: (0..500).map(judgement).collect(), ..ModelFiles::default() }
        };
        RunFiles {
            config: Some(config.to_owned()),
            scalars: BTreeMap::from([("learn-ppo".to_owned(), kl)]),
            models: vec![model("ppo", 150, 4.0), model("ppo.10", 330, 2.0), model("ppo.20", 260, 3.0), model("sft", 250, 1.0)],
            ..RunFiles::default()
        }
    }

    fn found(run: &RunFiles) -> OverOptimisation {
        let board = Leaderboard::from_entries(&entries_of(run)).expect("made");
        OverOptimisation::of(run, &board)
    }

    #[test]
    fn the_peak_and_the_fall_after_it_are_told_with_numbers() {
        let page = found(&run(true)).html().expect("a curve");
        assert!(page.contains("The win rate is highest after 10 steps: 66.00 %, 16.00 ("), "{page}");
        assert!(page.contains("and 36.00 (") && page.contains("above the end: it falls."), "{page}");
        assert!(page.contains("The judges&#39; score is highest after 10 steps: 0.1600"), "{page}");
        assert!(page.contains("The proxy goes from 1.000 to 4.000."), "{page}");
        let csv = found(&run(true)).csv().expect("a curve");
        assert_eq!(csv.lines().nth(2).and_then(|line| line.split(',').nth(2)), Some("10"), "{csv}");
        assert_eq!(csv.lines().count(), 1 + 4);
    }

    #[test]
    fn a_chart_needs_both_the_proxy_and_the_gold() {
        assert!(!found(&run(true)).chart().is_empty());
        assert!(found(&run(false)).chart().is_empty());
    }

    #[test]
    fn a_curve_with_a_point_that_was_not_evaluated_is_left_out() {
        let mut run = run(true);
        run.models.retain(|model| model.method != "sft");
        assert!(found(&run).html().is_none() && found(&run).csv().is_none());
        let entry = Entry { run: "r".into(), model: "sft".into(), reports: report_of("sft", 50.0, 1.0, 40.0) };
        let board = Leaderboard::from_entries(&[entry]).expect("made");
        assert!(OverOptimisation::of(&run, &board).chart().is_empty());
    }
}
