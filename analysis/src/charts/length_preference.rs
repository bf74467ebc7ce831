//! How a judge's preference goes with the difference of the answers' lengths.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};

const WIDTH: i32 = 1600;
const LEFT: i32 = 150;
const RIGHT: i32 = 1560;
const TOP: i32 = 40;
const BOTTOM: i32 = 860;
const LEGEND_ROW: i32 = 48;

/// Some of a judge's verdicts, those of about one difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthBin {
    /// The mean of how much longer the second answer is than the first, in characters.
    pub difference: f64,
    /// The mean probability that the second answer is preferred, in %.
    pub preferred: f64,
    /// Its 95 % interval, in %.
    pub interval: Option<[f64; 2]>,
}

/// One judge.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthSeries {
    /// Its name.
    pub judge: String,
    /// Bins in the order of the difference.
    pub bins: Vec<LengthBin>,
}

/// One line a judge.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthPreference {
    /// The judges; the first seven are drawn in colours of their own.
    pub judges: Vec<LengthSeries>,
}

impl Chart for LengthPreference {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (BOTTOM + 150 + LEGEND_ROW * self.legend_rows().len() as i32) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let bins = || self.judges.iter().flat_map(|judge| &judge.bins);
        let differences = range(bins().map(|bin| bin.difference)).unwrap_or((-1.0, 1.0));
        let x = Scale::rounded(padded(differences, 0.03), (LEFT, RIGHT), 7);
        let ends = |bin: &LengthBin| bin.interval.unwrap_or([bin.preferred; 2]).into_iter().chain([bin.preferred]);
        let shares = range(bins().flat_map(ends).chain([50.0])).unwrap_or((0.0, 100.0));
        let y = Scale::rounded((shares.0.max(0.0), shares.1.min(100.0)), (BOTTOM, TOP), 6);
        let tick = Text::new(28.0).colour(SOFT);
        for (at, text) in x.ticks() {
            canvas.line(&[(x.at(at), TOP), (x.at(at), BOTTOM)], GRID, 2)?;
            canvas.text(&text, (x.at(at), BOTTOM + 14), tick.anchored(HPos::Center, VPos::Top))?;
        }
        for (at, text) in y.ticks() {
            canvas.line(&[(LEFT, y.at(at)), (RIGHT, y.at(at))], GRID, 2)?;
            canvas.text(&text, (LEFT - 16, y.at(at)), tick.anchored(HPos::Right, VPos::Center))?;
        }
        canvas.dashes((LEFT, y.at(50.0)), (RIGHT, y.at(50.0)), SOFT, 3)?;
        if differences.0 < 0.0 && differences.1 > 0.0 {
            canvas.dashes((x.at(0.0), TOP), (x.at(0.0), BOTTOM), SOFT, 3)?;
        }
        canvas.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 3)?;
        let title = Text::new(30.0).anchored(HPos::Center, VPos::Top);
        canvas.text("Second answer longer by (characters)", ((LEFT + RIGHT) / 2, BOTTOM + 70), title)?;
        canvas.text("Second answer preferred (%)", (28, (TOP + BOTTOM) / 2), title.upwards())?;
        for (index, judge) in self.judges.iter().enumerate() {
            let colour = model_colour(index);
            // A little apart, so that intervals at the same difference can be told.
            let aside = 7 * index as i32 - 7 * (self.judges.len() as i32 - 1) / 2;
            let drawn: Vec<&LengthBin> =
                judge.bins.iter().filter(|bin| bin.difference.is_finite() && bin.preferred.is_finite()).collect();
            for bin in &drawn {
                if let Some([low, high]) = bin.interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
                    let at = x.at(bin.difference) + aside;
                    canvas.line(&[(at, y.at(low)), (at, y.at(high))], lighter(colour, 0.45), 4)?;
                }
            }
            let points: Vec<Point> = drawn.iter().map(|bin| (x.at(bin.difference) + aside, y.at(bin.preferred))).collect();
            canvas.line(&points, colour, 4)?;
            for point in points {
                canvas.disc(point, 9, colour)?;
            }
        }
        self.legend(canvas)
    }
}

impl LengthPreference {
    /// The judges of each row of the legend, with where they begin.
    fn legend_rows(&self) -> Vec<Vec<(usize, i32, String)>> {
        let style = Text::new(28.0);
        let mut rows: Vec<Vec<(usize, i32, String)>> = Vec::new();
        let mut at = RIGHT;
        for (index, judge) in self.judges.iter().enumerate() {
            let name = style.fit(&judge.judge, 620.0);
            let width = 70 + style.width(&name).ceil() as i32 + 40;
            if at + width > RIGHT {
                (at, _) = (LEFT, rows.push(Vec::new()));
            }
            if let Some(row) = rows.last_mut() {
                row.push((index, at, name));
            }
            at += width;
        }
        rows
    }

    fn legend<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        for (row, judges) in self.legend_rows().into_iter().enumerate() {
            let y = BOTTOM + 150 + LEGEND_ROW * row as i32;
            for (index, x, name) in judges {
                canvas.line(&[(x, y), (x + 50, y)], model_colour(index), 5)?;
                canvas.disc((x + 25, y), 9, model_colour(index))?;
                canvas.text(&name, (x + 64, y), Text::new(28.0))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both;
    use super::*;

    #[test]
    fn every_judge_has_a_line_and_a_place_in_the_legend() {
        let bin = |i: i32, slope: f64| {
            let preferred = 50.0 + slope * f64::from(i);
            LengthBin { difference: f64::from(i * 300), preferred, interval: Some([preferred - 5.0, preferred + 5.0]) }
        };
        let names = ["people", "alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo", "longest", "a-very-long-name-of-a-judge"];
        let series = |(i, name): (usize, &&str)| LengthSeries {
            judge: (*name).into(),
            bins: (-5..=5).map(|place| bin(place, 1.0 + 2.0 * i as f64)).collect(),
        };
        let chart = LengthPreference { judges: names.iter().enumerate().map(series).collect() };
        let (svg, _) = both(&chart, "length_preference");
        assert!(names.iter().all(|name| svg.contains(name)));
        both(&LengthPreference { judges: Vec::new() }, "length_preference_0");
    }
}
