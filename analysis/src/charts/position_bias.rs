//! How often each judge takes the answer that it is shown first.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{GRID, INK, SOFT, model_colour};
use crate::number::fixed;

const WIDTH: i32 = 1600;
const ROW: i32 = 84;
const TOP: i32 = 64;

/// One judge.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionShare {
    /// Its name.
    pub judge: String,
    /// The share of verdicts for the answer shown first, in %.
    pub share: f64,
    /// Its 95 % interval, in %.
    pub interval: Option<[f64; 2]>,
}

/// One row a judge, and the line of a judge without a bias.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionBias {
    /// The judges, from top to bottom.
    pub judges: Vec<PositionShare>,
}

impl Chart for PositionBias {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (TOP + ROW * self.judges.len().max(1) as i32 + 128) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let label = Text::new(30.0).anchored(HPos::Right, VPos::Center);
        let names: Vec<String> = self.judges.iter().map(|judge| label.fit(&judge.judge, 560.0)).collect();
        let values: Vec<String> = self.judges.iter().map(value_text).collect();
        let value = Text::new(28.0);
        let widest = |texts: &[String], style: Text| texts.iter().map(|text| style.width(text)).fold(0.0, f64::max).ceil() as i32;
        let left = 24 + widest(&names, label) + 24;
        let right = WIDTH - 24 - widest(&values, value) - 36;
        let bottom = TOP + ROW * self.judges.len().max(1) as i32;
        let ends = |judge: &PositionShare| judge.interval.unwrap_or([judge.share; 2]).into_iter().chain([judge.share]);
        let (low, high) = range(self.judges.iter().flat_map(ends).chain([40.0, 60.0])).unwrap_or((0.0, 100.0));
        let (low, high) = padded((low, high), 0.05);
        let scale = Scale::rounded((low.max(0.0), high.min(100.0)), (left, right), 5);
        let tick = Text::new(28.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        for (at, text) in scale.ticks() {
            canvas.line(&[(scale.at(at), TOP), (scale.at(at), bottom)], GRID, 2)?;
            canvas.text(&text, (scale.at(at), bottom + 12), tick)?;
        }
        let middle = scale.at(50.0);
        canvas.dashes((middle, TOP - 8), (middle, bottom), SOFT, 3)?;
        let small = Text::new(25.0).colour(SOFT).anchored(HPos::Center, VPos::Bottom);
        canvas.text("no bias", (middle, TOP - 14), small)?;
        for (index, judge) in self.judges.iter().enumerate().filter(|(_, judge)| judge.share.is_finite()) {
            let y = TOP + ROW * index as i32 + ROW / 2;
            if let Some([low, high]) = judge.interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
                let (low, high) = (scale.at(low), scale.at(high));
                canvas.line(&[(low, y), (high, y)], INK, 4)?;
                for end in [low, high] {
                    canvas.line(&[(end, y - 10), (end, y + 10)], INK, 4)?;
                }
            }
            canvas.disc((scale.at(judge.share), y), 14, model_colour(0))?;
            canvas.text(&names[index], (left - 24, y), label)?;
            canvas.text(&values[index], (right + 36, y), value)?;
        }
        canvas.line(&[(left, TOP), (left, bottom)], INK, 3)?;
        let title = Text::new(30.0).anchored(HPos::Center, VPos::Top);
        let text = "Verdicts for the answer shown first (%), 95 % interval";
        let half = (title.width(text) / 2.0).ceil() as i32 + 24;
        canvas.text(text, (((left + right) / 2).clamp(half, WIDTH - half), bottom + 66), title)
    }
}

fn value_text(judge: &PositionShare) -> String {
    match judge.interval {
        Some([low, high]) => format!("{} [{}, {}]", fixed(judge.share, 1), fixed(low, 1), fixed(high, 1)),
        None => fixed(judge.share, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both;
    use super::*;

    #[test]
    fn every_judge_has_a_row() {
        let share =
            |judge: &str, share: f64| PositionShare { judge: judge.into(), share, interval: Some([share - 3.4, share + 3.4]) };
        let judges =
            vec![share("alpaca_eval_gpt4", 48.0), share("weighted_alpaca_eval_gpt4_turbo", 61.5), share("odd", f64::NAN)];
        let (svg, _) = both(&PositionBias { judges }, "position_bias");
        assert!(svg.contains("61.5 [58.1, 64.9]") && svg.contains("no bias"));
        both(&PositionBias { judges: Vec::new() }, "position_bias_0");
    }
}
