//! Win rates beside length-controlled ones: how much of a model's lead is length.

use plotters::prelude::DrawingBackend;

use super::Chart;
use super::axis::{Scale, range};
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{PAPER, SOFT, lighter, model_colour};
use super::rows::Rows;
use crate::number::fixed;

const TOP: i32 = 88;

/// One model's two win rates.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlledRate {
    /// The model.
    pub model: String,
    /// Its win rate, in %.
    pub raw: f64,
    /// Its length-controlled win rate, in %.
    pub controlled: f64,
    /// The 95 % interval of that, in %.
    pub interval: Option<[f64; 2]>,
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
}

/// Models from top to bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthControlled {
    rows: Vec<ControlledRate>,
}

impl LengthControlled {
    /// These models in this order; those with a number that is not finite are left out.
    pub fn new(rows: impl IntoIterator<Item = ControlledRate>) -> Self {
        Self { rows: rows.into_iter().filter(|row| row.raw.is_finite() && row.controlled.is_finite()).collect() }
    }

    /// Whether there is no model.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Chart for LengthControlled {
    fn size(&self) -> (u32, u32) {
        Rows::size(self.rows.len(), TOP)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let text = |row: &ControlledRate| {
            let change = row.controlled - row.raw;
            format!("{} ({}{})", fixed(row.controlled, 1), if change > 0.0 { "+" } else { "" }, fixed(change, 1))
        };
        let rows = Rows::new(self.rows.iter().map(|row| row.model.as_str()), self.rows.iter().map(text).collect(), TOP);
        let ends =
            |row: &ControlledRate| row.interval.unwrap_or([row.controlled; 2]).into_iter().chain([row.raw, row.controlled]);
        let (low, high) = range(self.rows.iter().flat_map(ends).chain([50.0])).unwrap_or((0.0, 100.0));
        let x = Scale::rounded((low.max(0.0), high.min(100.0)), rows.ends, 7);
        rows.grid(canvas, &x, x.ticks())?;
        canvas.dashes((x.at(50.0), TOP), (x.at(50.0), rows.bottom()), SOFT, 3)?;
        for (index, row) in self.rows.iter().enumerate() {
            let (y, colour) = (rows.y(index), model_colour(row.colour));
            if let Some(interval) = row.interval.filter(|ends| ends.iter().all(|end| end.is_finite())) {
                let [low, high] = interval.map(|end| x.at(end.clamp(0.0, 100.0)));
                canvas.filled_box((low, y - 8), (high, y + 8), lighter(colour, 0.72))?;
            }
            canvas.line(&[(x.at(row.raw), y), (x.at(row.controlled), y)], colour, 4)?;
            ring(canvas, (x.at(row.raw), y), colour)?;
            canvas.disc((x.at(row.controlled), y), 12, colour)?;
        }
        // The legend, over the plot.
        let (small, left) = (Text::new(25.0), rows.ends.0);
        let grey = model_colour(6);
        ring(canvas, (left + 14, 44), grey)?;
        canvas.text("as judged", (left + 38, 44), small)?;
        let next = left + 38 + small.width("as judged").ceil() as i32 + 56;
        canvas.disc((next, 44), 12, grey)?;
        canvas.text("at equal length, with 95 % interval", (next + 24, 44), small)?;
        rows.frame(canvas, "Win rate (%)")
    }
}

fn ring<B: DrawingBackend>(canvas: &Canvas<B>, at: (i32, i32), colour: plotters::style::RGBColor) -> Drawn<B> {
    canvas.disc(at, 12, colour)?;
    canvas.disc(at, 8, PAPER)
}
