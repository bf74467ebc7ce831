//! How sure the places on a leaderboard are: each model's rank with its 95 % interval.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::Scale;
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};
use crate::number::fixed;

const WIDTH: i32 = 1600;
const ROW: i32 = 58;
const TOP: i32 = 36;
const BOTTOM: i32 = 128;
const EM: f64 = 27.0;

/// One model's place.
#[derive(Debug, Clone, PartialEq)]
pub struct RankInterval {
    /// The model.
    pub model: String,
    /// Its place on the leaderboard, from 1.
    pub rank: usize,
    /// The 95 % interval of its place.
    pub interval: [f64; 2],
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
}

/// Models from top to bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct RankIntervals {
    rows: Vec<RankInterval>,
}

impl RankIntervals {
    /// These models in this order.
    pub fn new(rows: impl IntoIterator<Item = RankInterval>) -> Self {
        Self { rows: rows.into_iter().filter(|row| row.interval.iter().all(|end| end.is_finite())).collect() }
    }

    /// Whether there is no model.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Chart for RankIntervals {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (TOP + ROW * self.rows.len().max(1) as i32 + BOTTOM) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let label = Text::new(EM).anchored(HPos::Right, VPos::Center);
        let names: Vec<String> = self.rows.iter().map(|row| label.fit(&row.model, 480.0)).collect();
        let names_width = names.iter().map(|name| label.width(name)).fold(0.0, f64::max);
        let value = Text::new(25.0);
        let text = |row: &RankInterval| {
            let [low, high] = row.interval.map(|end| fixed(end, 0));
            format!("{} [{low}, {high}]", row.rank)
        };
        let texts: Vec<String> = self.rows.iter().map(text).collect();
        let texts_width = texts.iter().map(|text| value.width(text)).fold(0.0, f64::max);
        let (left, right) = (24 + names_width.ceil() as i32 + 20, WIDTH - 24 - texts_width.ceil() as i32 - 32);
        let bottom = TOP + ROW * self.rows.len().max(1) as i32;
        let last = self.rows.iter().map(|row| row.interval[1].max(row.rank as f64)).fold(2.0, f64::max);
        let x = Scale::new((0.5, last + 0.5), (left, right), 10).whole();

        let tick = Text::new(EM - 2.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        for (at, text) in x.ticks().into_iter().filter(|(at, _)| *at >= 1.0) {
            canvas.line(&[(x.at(at), TOP), (x.at(at), bottom)], GRID, 2)?;
            canvas.text(&text, (x.at(at), bottom + 12), tick)?;
        }
        for (index, row) in self.rows.iter().enumerate() {
            let (y, colour) = (TOP + ROW * index as i32 + ROW / 2, model_colour(row.colour));
            let [low, high] = row.interval.map(|end| x.at(end));
            canvas.filled_box((low - 6, y - 9), (high + 6, y + 9), lighter(colour, 0.45))?;
            canvas.disc((x.at(row.rank as f64), y), 12, colour)?;
            canvas.text(&names[index], (left - 20, y), label)?;
            canvas.text(&texts[index], (right + 32, y), value)?;
        }
        canvas.line(&[(left, TOP), (left, bottom), (right, bottom)], INK, 3)?;
        let title = Text::new(29.0).anchored(HPos::Center, VPos::Top);
        canvas.text("Place on the leaderboard (1 is best), 95 % interval", (i32::midpoint(left, right), bottom + 70), title)
    }
}
