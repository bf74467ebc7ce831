//! Win rates of methods under two annotators, against each other: does the ranking transfer? (Figure 3 of Dubois et al., 2023.)

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::labels::{self, Box4};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};

const SIZE: (i32, i32) = (1600, 1200);
const LEFT: i32 = 150;
const RIGHT: i32 = 1560;
const TOP: i32 = 40;
const BOTTOM: i32 = 1060;
const RADIUS: i32 = 12;
const CAP: i32 = 8;

/// One method.
#[derive(Debug, Clone, PartialEq)]
pub struct CorrelationPoint {
    /// Its name.
    pub method: String,
    /// Its win rates under the two annotators, in %.
    pub win_rates: [f64; 2],
    /// Their 95 % intervals, in %.
    pub intervals: [Option<[f64; 2]>; 2],
    /// Its place among the methods, which gives its colour.
    pub colour: usize,
}

/// One point a method, with error bars both ways and the least-squares line.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodCorrelation {
    /// The points.
    pub points: Vec<CorrelationPoint>,
    /// What the two annotators are called.
    pub annotators: [String; 2],
    /// Intercept (%) and slope of the line.
    pub line: Option<[f64; 2]>,
    /// What stands in the corner: the correlations.
    pub note: Vec<String>,
}

impl MethodCorrelation {
    fn scale(&self, side: usize, units: (i32, i32)) -> Scale {
        let ends = |point: &CorrelationPoint| {
            point.intervals[side].unwrap_or([point.win_rates[side]; 2]).into_iter().chain([point.win_rates[side]])
        };
        let (low, high) = padded(range(self.points.iter().flat_map(ends)).unwrap_or((0.0, 100.0)), 0.06);
        Scale::rounded((low.max(0.0), high.min(100.0)), units, 6)
    }
}

impl Chart for MethodCorrelation {
    fn size(&self) -> (u32, u32) {
        (SIZE.0 as u32, SIZE.1 as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let (x, y) = (self.scale(0, (LEFT, RIGHT)), self.scale(1, (BOTTOM, TOP)));
        let tick = Text::new(28.0).colour(SOFT);
        for (at, text) in x.ticks() {
            canvas.line(&[(x.at(at), TOP), (x.at(at), BOTTOM)], GRID, 2)?;
            canvas.text(&text, (x.at(at), BOTTOM + 14), tick.anchored(HPos::Center, VPos::Top))?;
        }
        for (at, text) in y.ticks() {
            canvas.line(&[(LEFT, y.at(at)), (RIGHT, y.at(at))], GRID, 2)?;
            canvas.text(&text, (LEFT - 16, y.at(at)), tick.anchored(HPos::Right, VPos::Center))?;
        }
        let mut obstacles: Vec<Box4> = Vec::new();
        if let Some(ends) = self.line_ends(&x, &y) {
            canvas.dashes(ends[0], ends[1], SOFT, 3)?;
            obstacles.extend(along(ends));
        }
        canvas.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 3)?;
        let title = Text::new(30.0).anchored(HPos::Center, VPos::Top);
        let [a, b] = self.annotators.each_ref().map(|name| format!("Win rate under {name} (%)"));
        canvas.text(&title.fit(&a, f64::from(RIGHT - LEFT)), ((LEFT + RIGHT) / 2, BOTTOM + 70), title)?;
        canvas.text(&title.fit(&b, f64::from(BOTTOM - TOP)), (28, (TOP + BOTTOM) / 2), title.upwards())?;

        let points: Vec<&CorrelationPoint> =
            self.points.iter().filter(|point| point.win_rates.iter().all(|rate| rate.is_finite())).collect();
        let centres: Vec<Point> = points.iter().map(|point| (x.at(point.win_rates[0]), y.at(point.win_rates[1]))).collect();
        for (point, centre) in points.iter().zip(&centres) {
            let colour = lighter(model_colour(point.colour), 0.45);
            for (side, interval) in point.intervals.iter().enumerate() {
                let Some(interval) = interval.filter(|ends| ends.iter().all(|end| end.is_finite())) else { continue };
                let [low, high] = interval.map(|end| if side == 0 { x.at(end) } else { y.at(end) });
                let along = |at: i32, off: i32| if side == 0 { (at, centre.1 + off) } else { (centre.0 + off, at) };
                canvas.line(&[along(low, 0), along(high, 0)], colour, 4)?;
                for end in [low, high] {
                    canvas.line(&[along(end, -CAP), along(end, CAP)], colour, 4)?;
                }
                let (from, to) = (along(low, 0), along(high, 0));
                obstacles.push((from.0.min(to.0) - 4, from.1.min(to.1) - 4, from.0.max(to.0) + 4, from.1.max(to.1) + 4));
            }
        }
        for (point, centre) in points.iter().zip(&centres) {
            canvas.disc(*centre, RADIUS as u32, model_colour(point.colour))?;
        }
        let note = Text::new(30.0).anchored(HPos::Left, VPos::Center);
        let note_width = self.note.iter().map(|line| note.width(line)).fold(0.0, f64::max).ceil() as i32;
        for (index, line) in self.note.iter().enumerate() {
            canvas.text(line, (LEFT + 30, TOP + 30 + 44 * index as i32), note)?;
        }
        obstacles
            .extend((!self.note.is_empty()).then(|| (LEFT, TOP, LEFT + 60 + note_width, TOP + 44 * self.note.len() as i32 + 20)));
        let style = Text::new(28.0);
        let names: Vec<String> = points.iter().map(|point| style.fit(&point.method, 480.0)).collect();
        let widths: Vec<i32> = names.iter().map(|name| style.width(name).ceil() as i32).collect();
        let placed = labels::place(&centres, RADIUS, &obstacles, &widths, (LEFT + 6, 8, SIZE.0 - 8, BOTTOM - 4));
        for ((name, label), centre) in names.iter().zip(placed).zip(&centres) {
            if let Some(end) = label.leader(*centre) {
                canvas.line(&[*centre, end], SOFT, 2)?;
            }
            canvas.text(name, label.middle_left(), style)?;
        }
        Ok(())
    }
}

impl MethodCorrelation {
    /// The line's ends inside the plot.
    fn line_ends(&self, x: &Scale, y: &Scale) -> Option<[Point; 2]> {
        let [intercept, slope] = self.line.filter(|line| line.iter().all(|number| number.is_finite()))?;
        let (low, high) = range(self.points.iter().map(|point| point.win_rates[0]))?;
        let margin = (high - low) * 0.04;
        // Cut where the line leaves the plot.
        let inside = |a: f64| {
            let at = (x.at(a), y.at(intercept + slope * a));
            ((LEFT..=RIGHT).contains(&at.0) && (TOP..=BOTTOM).contains(&at.1)).then_some(at)
        };
        let steps: Vec<Point> =
            (0..=200).filter_map(|i| inside(low - margin + (high - low + 2.0 * margin) * f64::from(i) / 200.0)).collect();
        Some([*steps.first()?, *steps.last()?])
    }
}

/// Small boxes along a line, which labels keep clear of.
fn along([from, to]: [Point; 2]) -> impl Iterator<Item = Box4> {
    const N: i32 = 60;
    (0..=N).map(move |i| {
        let at = (from.0 + (to.0 - from.0) * i / N, from.1 + (to.1 - from.1) * i / N);
        (at.0 - 6, at.1 - 6, at.0 + 6, at.1 + 6)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::both;
    use super::*;

    /// AlpacaFarm's figure: win rates of table 2 of Dubois et al., 2023, with standard errors.
    fn alpaca_farm() -> MethodCorrelation {
        let rows = [
            ("GPT-4", 79.0, 1.4, 69.8, 1.6),
            ("ChatGPT", 61.4, 1.7, 52.9, 1.7),
            ("PPO", 46.8, 1.8, 55.1, 1.7),
            ("Best-of-16", 45.0, 1.7, 50.7, 1.8),
            ("Expert Iteration", 41.9, 1.7, 45.7, 1.7),
            ("SFT 52k (Alpaca 7B)", 39.2, 1.7, 40.7, 1.7),
            ("SFT 10k", 36.7, 1.7, 44.3, 1.7),
            ("Binary FeedME", 36.6, 1.7, 37.9, 1.7),
            ("Davinci001", 24.4, 1.5, 32.5, 1.6),
            ("LLaMA 7B", 11.3, 1.1, 6.5, 0.9),
        ];
        let point = |(colour, (method, a, a_se, b, b_se)): (usize, (&str, f64, f64, f64, f64))| CorrelationPoint {
            method: method.into(),
            win_rates: [a, b],
            intervals: [Some([a - 1.96 * a_se, a + 1.96 * a_se]), Some([b - 1.96 * b_se, b + 1.96 * b_se])],
            colour,
        };
        MethodCorrelation {
            points: rows.into_iter().enumerate().map(point).collect(),
            annotators: ["simulated annotators".into(), "human annotators".into()],
            line: Some([8.185, 0.8389]),
            note: vec!["Spearman's ρ = 0.98 [0.88, 1.00]".into(), "R² = 0.87 [0.82, 0.92]".into()],
        }
    }

    #[test]
    fn drawn_with_every_method_named() {
        let (svg, _) = both(&alpaca_farm(), "method_correlation");
        for text in ["GPT-4", "SFT 52k (Alpaca 7B)", "Win rate under human annotators (%)", "R² = 0.87 [0.82, 0.92]"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn little_and_odd_data_is_drawn_too() {
        let mut odd = alpaca_farm();
        odd.points.truncate(2);
        odd.points[0].win_rates = [f64::NAN, 3.0];
        odd.points[1].intervals = [Some([f64::INFINITY, 1.0]), None];
        odd.line = Some([f64::NAN, 1.0]);
        both(&odd, "method_correlation_odd");
        odd.points.clear();
        both(&odd, "method_correlation_0");
    }
}
