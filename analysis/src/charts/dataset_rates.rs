//! Win rates on each data set: a heat map, a row a model and a column a data set, with the numbers in the cells.

use plotters::prelude::DrawingBackend;
use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{INK, PAPER, SOFT, lighter, model_colour};
use crate::number::fixed;

const WIDTH: i32 = 1600;
const ROW: i32 = 56;
const MARGIN: i32 = 24;
const EM: f64 = 27.0;
/// The widest cell.
const CELL: i32 = 240;
/// Under the map: the colours' scale with its title.
const BOTTOM: i32 = 150;
/// From 50 % to the strongest colour at most, in points.
const REACH: f64 = 50.0;

/// One model's win rates.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetRow {
    /// Its name.
    pub model: String,
    /// Its place among the run's models, which gives its colour elsewhere.
    pub colour: usize,
    /// Its win rate on each data set, in %; `None` where it has none.
    pub rates: Vec<Option<f64>>,
}

/// Models by data sets.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetRates {
    datasets: Vec<(String, usize)>,
    rows: Vec<DatasetRow>,
}

impl DatasetRates {
    /// These data sets, each with its number of instructions, and these models from top to bottom.
    pub fn new(datasets: impl IntoIterator<Item = (String, usize)>, rows: impl IntoIterator<Item = DatasetRow>) -> Self {
        Self { datasets: datasets.into_iter().collect(), rows: rows.into_iter().collect() }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() || self.datasets.is_empty()
    }

    fn layout(&self) -> Layout {
        let label = Text::new(EM);
        let names_width = self.rows.iter().map(|row| label.width(&label.fit(&row.model, 480.0)));
        let names_width = names_width.fold(Text::new(22.0).width("instructions"), f64::max);
        let left = MARGIN + names_width.ceil() as i32 + 20;
        let n = self.datasets.len().max(1) as i32;
        let cell = ((WIDTH - MARGIN - left) / n).min(CELL);
        let widest = self.datasets.iter().map(|(name, _)| label.width(name)).fold(0.0, f64::max);
        let upwards = widest > f64::from(cell - 12);
        let head = if upwards { (widest.ceil() as i32).min(360) + 60 } else { 96 };
        Layout { left, cell, upwards, top: MARGIN + head }
    }

    /// The distance from 50 % that has the strongest colour: the largest there is, in steps of 10 points.
    fn reach(&self) -> f64 {
        let far = self.rows.iter().flat_map(|row| &row.rates).flatten().filter(|rate| rate.is_finite());
        let far = far.map(|rate| (rate - 50.0).abs()).fold(0.0, f64::max);
        ((far / 10.0).ceil() * 10.0).clamp(10.0, REACH)
    }
}

struct Layout {
    left: i32,
    cell: i32,
    /// Names of data sets are written upwards.
    upwards: bool,
    top: i32,
}

impl Chart for DatasetRates {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (self.layout().top + ROW * self.rows.len().max(1) as i32 + BOTTOM) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let Layout { left, cell, upwards, top } = self.layout();
        let (right, bottom) = (left + cell * self.datasets.len() as i32, top + ROW * self.rows.len() as i32);
        let (label, reach) = (Text::new(EM), self.reach());
        let count = Text::new(22.0).colour(SOFT).anchored(HPos::Center, VPos::Bottom);
        for (column, (name, n)) in self.datasets.iter().enumerate() {
            let middle = left + cell * column as i32 + cell / 2;
            canvas.text(&count.fit(&n.to_string(), f64::from(cell - 4)), (middle, top - 10), count)?;
            if upwards {
                let style = label.anchored(HPos::Left, VPos::Center).upwards();
                canvas.text(&style.fit(name, 360.0), (middle, top - 50), style)?;
            } else {
                canvas.text(name, (middle, top - 44), label.anchored(HPos::Center, VPos::Bottom))?;
            }
        }
        canvas.text("instructions", (left - 16, top - 10), count.anchored(HPos::Right, VPos::Bottom))?;
        for (index, row) in self.rows.iter().enumerate() {
            let y = top + ROW * index as i32;
            let name = label.fit(&row.model, 480.0);
            canvas.text(&name, (left - 16, y + ROW / 2), label.anchored(HPos::Right, VPos::Center))?;
            for (column, rate) in row.rates.iter().take(self.datasets.len()).enumerate() {
                let x = left + cell * column as i32;
                let Some(rate) = rate.filter(|rate| rate.is_finite()) else { continue };
                canvas.filled_box((x + 1, y + 1), (x + cell - 1, y + ROW - 1), shade(rate, reach))?;
                let number = Text::new(25.0).colour(ink_on(rate, reach)).anchored(HPos::Center, VPos::Center);
                canvas.text(&fixed(rate, if cell < 80 { 0 } else { 1 }), (x + cell / 2, y + ROW / 2), number)?;
            }
        }
        canvas.line(&[(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], SOFT, 2)?;
        self.draw_scale(canvas, (left, right.max(left + 480).min(WIDTH - MARGIN)), bottom + 34, reach)
    }
}

impl DatasetRates {
    /// The colours with the win rates that they stand for.
    fn draw_scale<B: DrawingBackend>(&self, canvas: &Canvas<B>, (left, right): (i32, i32), y: i32, reach: f64) -> Drawn<B> {
        const STEPS: i32 = 60;
        let right = right.min(left + 640);
        let at = |step: i32| left + (right - left) * step / STEPS;
        for step in 0..STEPS {
            let share = (f64::from(step) + 0.5) / f64::from(STEPS);
            canvas.filled_box((at(step), y), (at(step + 1), y + 26), shade(50.0 + reach * (2.0 * share - 1.0), reach))?;
        }
        let tick = Text::new(24.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        for (x, rate) in [(left, 50.0 - reach), (i32::midpoint(left, right), 50.0), (right, 50.0 + reach)] {
            canvas.text(&fixed(rate, 0), (x, y + 34), tick)?;
        }
        let title = Text::new(EM).anchored(HPos::Center, VPos::Top);
        canvas.text("Win rate (%)", (i32::midpoint(left, right), y + 70), title)
    }
}

/// Blue above 50 %, orange below, white between; the further the stronger.
fn shade(rate: f64, reach: f64) -> RGBColor {
    let strength = ((rate - 50.0).abs() / reach).clamp(0.0, 1.0);
    lighter(if rate >= 50.0 { model_colour(0) } else { model_colour(1) }, 1.0 - 0.9 * strength)
}

/// White on strong colours, ink on light ones.
fn ink_on(rate: f64, reach: f64) -> RGBColor {
    if (rate - 50.0).abs() / reach > 0.72 { PAPER } else { INK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_white_and_far_is_strong() {
        assert_eq!(shade(50.0, 30.0), RGBColor(255, 255, 255));
        assert!(shade(80.0, 30.0).0 < 40 && shade(20.0, 30.0).2 < 40);
        let rates = |rates: &[f64]| {
            let row = DatasetRow { model: "m".into(), colour: 0, rates: rates.iter().copied().map(Some).collect() };
            DatasetRates::new([("a".to_owned(), 3)], [row])
        };
        assert_eq!((rates(&[52.0]).reach(), rates(&[71.0]).reach(), rates(&[f64::NAN]).reach()), (10.0, 30.0, 10.0));
    }
}
