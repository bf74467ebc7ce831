//! Win rates with their 95 % intervals: a bar a model, and the line at which a model is as good as the reference.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::Scale;
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};
use crate::number::fixed;

const WIDTH: i32 = 1600;
const ROW: i32 = 78;
const TOP: i32 = 64;
const BOTTOM: i32 = 128;
const BAR: i32 = 40;
const CAP: i32 = 11;

/// One model's bar.
#[derive(Debug, Clone, PartialEq)]
pub struct WinRateBar {
    /// The model.
    pub model: String,
    /// Its win rate, in %.
    pub win_rate: f64,
    /// The 95 % interval, in %.
    pub interval: Option<[f64; 2]>,
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
}

/// Bars from top to bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct WinRates {
    bars: Vec<WinRateBar>,
    reference: Option<String>,
}

impl WinRates {
    /// Bars in this order, against this reference. Win rates that are not finite are left out.
    pub fn new(bars: impl IntoIterator<Item = WinRateBar>, reference: Option<String>) -> Self {
        Self { bars: bars.into_iter().filter(|bar| bar.win_rate.is_finite()).collect(), reference }
    }

    /// Whether there is no bar.
    pub fn is_empty(&self) -> bool {
        self.bars.is_empty()
    }

    fn row(&self, index: usize) -> i32 {
        TOP + ROW * index as i32 + ROW / 2
    }
}

impl Chart for WinRates {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (TOP + ROW * self.bars.len().max(1) as i32 + BOTTOM) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let label = Text::new(30.0).anchored(HPos::Right, VPos::Center);
        let names: Vec<String> = self.bars.iter().map(|bar| label.fit(&bar.model, 540.0)).collect();
        let names_width = names.iter().map(|name| label.width(name)).fold(0.0, f64::max);
        let values: Vec<String> = self.bars.iter().map(value_text).collect();
        let value = Text::new(28.0);
        let values_width = values.iter().map(|text| value.width(text)).fold(0.0, f64::max);
        let left = 24 + names_width.ceil() as i32 + 20;
        let right = WIDTH - 24 - values_width.ceil() as i32 - 32;
        let bottom = TOP + ROW * self.bars.len().max(1) as i32;
        let scale = Scale::new((0.0, 100.0), (left, right), 4);

        let tick = Text::new(28.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        for (at, text) in scale.ticks() {
            canvas.line(&[(scale.at(at), TOP), (scale.at(at), bottom)], GRID, 2)?;
            canvas.text(&text, (scale.at(at), bottom + 12), tick)?;
        }
        for (index, bar) in self.bars.iter().enumerate() {
            let y = self.row(index);
            let colour = model_colour(bar.colour);
            let end = scale.at(bar.win_rate.clamp(0.0, 100.0));
            canvas.filled_box((left, y - BAR / 2), (end, y + BAR / 2), lighter(colour, 0.25))?;
            canvas.text(&names[index], (left - 20, y), label)?;
            canvas.text(&values[index], (right + 32, y), value)?;
        }
        let middle = scale.at(50.0);
        canvas.dashes((middle, TOP - 8), (middle, bottom), SOFT, 3)?;
        for (index, bar) in self.bars.iter().enumerate() {
            if let Some(interval) = bar.interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
                let ([low, high], y) = (interval.map(|end| scale.at(end.clamp(0.0, 100.0))), self.row(index));
                canvas.line(&[(low, y), (high, y)], INK, 4)?;
                canvas.line(&[(low, y - CAP), (low, y + CAP)], INK, 4)?;
                canvas.line(&[(high, y - CAP), (high, y + CAP)], INK, 4)?;
            }
        }
        canvas.line(&[(left, TOP), (left, bottom)], INK, 3)?;

        let reference = self.reference.as_deref().unwrap_or("the reference");
        let small = Text::new(25.0).colour(SOFT).anchored(HPos::Center, VPos::Bottom);
        let equal = small.fit(&format!("as good as {reference}"), f64::from(right - left));
        canvas.text(&equal, (middle, TOP - 18), small)?;
        let title = Text::new(30.0).anchored(HPos::Center, VPos::Top);
        let text = title.fit(&format!("Win rate against {reference} (%), 95 % interval"), f64::from(WIDTH - 48));
        // Under the plot, but never beyond the paper's edges.
        let half = (title.width(&text) / 2.0).ceil() as i32 + 24;
        canvas.text(&text, (((left + right) / 2).clamp(half, WIDTH - half), bottom + 70), title)
    }
}

fn value_text(bar: &WinRateBar) -> String {
    match bar.interval {
        Some([low, high]) => format!("{} [{}, {}]", fixed(bar.win_rate, 1), fixed(low, 1), fixed(high, 1)),
        None => fixed(bar.win_rate, 1),
    }
}
