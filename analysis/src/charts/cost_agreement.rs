//! What judges cost against how far they agree with people.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::labels::{self, Box4};
use super::length_win_rate::MAX_INTERVALS;
use super::palette::{GRID, INK, SOFT, lighter, model_colour};

const SIZE: (i32, i32) = (1600, 1000);
const LEFT: i32 = 150;
const RIGHT: i32 = 1560;
const TOP: i32 = 40;
const BOTTOM: i32 = 860;
const RADIUS: i32 = 13;

/// One judge.
#[derive(Debug, Clone, PartialEq)]
pub struct CostPoint {
    /// Its name.
    pub judge: String,
    /// US dollars per 1,000 verdicts, > 0.
    pub price: f64,
    /// Its agreement with people, in %.
    pub agreement: f64,
    /// The 95 % interval of the agreement, in %.
    pub interval: Option<[f64; 2]>,
}

/// One point a judge; the price is on a logarithmic axis.
#[derive(Debug, Clone, PartialEq)]
pub struct CostAgreement {
    points: Vec<CostPoint>,
}

impl CostAgreement {
    /// These points; those without a price above 0 have no place on the axis and are left out. More than fifteen are drawn without
    /// intervals.
    pub fn new(points: impl IntoIterator<Item = CostPoint>) -> Self {
        let fits = |point: &CostPoint| point.price.is_finite() && point.price > 0.0 && point.agreement.is_finite();
        let mut points: Vec<CostPoint> = points.into_iter().filter(fits).collect();
        if points.len() > MAX_INTERVALS {
            points.iter_mut().for_each(|point| point.interval = None);
        }
        Self { points }
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

impl Chart for CostAgreement {
    fn size(&self) -> (u32, u32) {
        (SIZE.0 as u32, SIZE.1 as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let logs = range(self.points.iter().map(|point| point.price.log10())).unwrap_or((-1.0, 1.0));
        let (low, high) = padded(logs, 0.08);
        let (low, high) = (low.min(logs.0 - 0.1), high.max(logs.1 + 0.1));
        let x = Scale::new((low, high), (LEFT, RIGHT), 6);
        let ends = |point: &CostPoint| point.interval.unwrap_or([point.agreement; 2]).into_iter().chain([point.agreement]);
        let agreements = range(self.points.iter().flat_map(ends)).unwrap_or((50.0, 100.0));
        let agreements = padded(agreements, 0.08);
        let y = Scale::new((agreements.0.max(0.0), agreements.1.min(100.0)), (BOTTOM, TOP), 6);
        let tick = Text::new(28.0).colour(SOFT);
        for price in prices(low, high) {
            let at = x.at(price.log10());
            canvas.line(&[(at, TOP), (at, BOTTOM)], GRID, 2)?;
            canvas.text(&format!("{price}"), (at, BOTTOM + 14), tick.anchored(HPos::Center, VPos::Top))?;
        }
        for (at, text) in y.ticks() {
            canvas.line(&[(LEFT, y.at(at)), (RIGHT, y.at(at))], GRID, 2)?;
            canvas.text(&text, (LEFT - 16, y.at(at)), tick.anchored(HPos::Right, VPos::Center))?;
        }
        canvas.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 3)?;
        let title = Text::new(30.0).anchored(HPos::Center, VPos::Top);
        canvas.text("Price (US dollars per 1,000 verdicts, logarithmic)", ((LEFT + RIGHT) / 2, BOTTOM + 70), title)?;
        canvas.text("Agreement with people (%)", (28, (TOP + BOTTOM) / 2), title.upwards())?;

        let centres: Vec<Point> = self.points.iter().map(|point| (x.at(point.price.log10()), y.at(point.agreement))).collect();
        let mut obstacles: Vec<Box4> = Vec::new();
        for (index, (point, (at, _))) in self.points.iter().zip(&centres).enumerate() {
            if let Some([low, high]) = point.interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
                let colour = lighter(model_colour(index), 0.45);
                let (low, high) = (y.at(low), y.at(high));
                canvas.line(&[(*at, low), (*at, high)], colour, 4)?;
                for end in [low, high] {
                    canvas.line(&[(at - 10, end), (at + 10, end)], colour, 4)?;
                }
                obstacles.push((at - 5, high, at + 5, low));
            }
        }
        let style = Text::new(28.0);
        let names: Vec<String> = self.points.iter().map(|point| style.fit(&point.judge, 520.0)).collect();
        let widths: Vec<i32> = names.iter().map(|name| style.width(name).ceil() as i32).collect();
        let placed = labels::place(&centres, RADIUS, &obstacles, &widths, (LEFT + 6, 8, SIZE.0 - 8, BOTTOM - 4));
        // Lines under points, points under names.
        for (label, centre) in placed.iter().zip(&centres) {
            if let Some(end) = label.leader(*centre) {
                canvas.line(&[*centre, end], lighter(SOFT, 0.35), 2)?;
            }
        }
        for (index, centre) in centres.iter().enumerate() {
            canvas.disc(*centre, RADIUS as u32, model_colour(index))?;
        }
        names.iter().zip(placed).try_for_each(|(name, label)| canvas.text(name, label.middle_left(), style))
    }
}

/// Round prices between two logarithms: 1, 2 and 5 times powers of ten, or the powers alone where there are many.
fn prices(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = (low.floor() as i32)..=(high.ceil() as i32);
    let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    all.filter(|price| (low..=high).contains(&price.log10())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::both;
    use super::*;

    #[test]
    fn judges_of_much_the_same_price_are_told_apart() {
        // Rows of AlpacaEval's leaderboard of evaluators.
        let rows = [
            ("alpaca_eval_gpt4_fn", 14.5, 71.0),
            ("improved_aviary_gpt4", 12.8, 69.8),
            ("alpaca_eval_gpt4", 13.6, 69.2),
            ("alpaca_eval_cot_gpt4_turbo_fn", 6.3, 68.6),
            ("aviary_gpt4", 12.8, 68.4),
            ("gpt4", 12.5, 66.9),
            ("alpaca_farm_greedy_gpt4", 15.3, 66.4),
            ("weighted_alpaca_eval_gpt4_turbo", 4.3, 65.7),
            ("humans", 300.0, 65.7),
            ("claude", 3.3, 65.3),
            ("text_davinci_003", 8.7, 64.1),
            ("chatgpt", 0.8, 57.3),
        ];
        let point = |(judge, price, agreement): (&str, f64, f64)| CostPoint {
            judge: judge.into(),
            price,
            agreement,
            interval: Some([agreement - 2.0, agreement + 2.0]),
        };
        let (svg, _) = both(&CostAgreement::new(rows.map(point)), "cost_agreement");
        assert!(rows.iter().all(|(judge, _, _)| svg.contains(judge)));
        // As many judges again, of other names, a little cheaper and better.
        let twice = rows.iter().flat_map(|(judge, price, agreement)| {
            [
                point((judge, *price, *agreement)),
                CostPoint { judge: format!("{judge}_swapped"), ..point((judge, 0.8 * price, agreement + 0.6)) },
            ]
        });
        let (svg, _) = both(&CostAgreement::new(twice), "cost_agreement_24");
        assert!(["chatgpt_swapped", "humans_swapped", "gpt4_swapped"].iter().all(|judge| svg.contains(judge)));
        both(&CostAgreement::new([]), "cost_agreement_0");
        both(&CostAgreement::new([point(rows[0])]), "cost_agreement_1");
    }

    #[test]
    fn prices_are_round() {
        assert_eq!(prices(-0.1, 1.2), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(prices(-1.5, 2.6), [0.1, 1.0, 10.0, 100.0]);
    }

    #[test]
    fn what_is_free_has_no_place_on_a_logarithmic_axis() {
        let point = |price| CostPoint { judge: "j".into(), price, agreement: 60.0, interval: None };
        assert_eq!(CostAgreement::new([point(0.0), point(f64::NAN), point(3.0)]).points.len(), 1);
        assert!(CostAgreement::new([]).is_empty());
    }
}
