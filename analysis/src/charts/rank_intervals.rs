//! How sure the places on a leaderboard are: each model's rank with its 95 % interval.

use plotters::prelude::DrawingBackend;

use super::Chart;
use super::axis::Scale;
use super::canvas::{Canvas, Drawn};
use super::palette::{lighter, model_colour};
use super::rows::Rows;
use crate::number::fixed;

const TOP: i32 = 36;

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
        Rows::size(self.rows.len(), TOP)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let text = |row: &RankInterval| {
            let [low, high] = row.interval.map(|end| fixed(end, 0));
            format!("{} [{low}, {high}]", row.rank)
        };
        let rows = Rows::new(self.rows.iter().map(|row| row.model.as_str()), self.rows.iter().map(text).collect(), TOP);
        let last = self.rows.iter().map(|row| row.interval[1].max(row.rank as f64)).fold(2.0, f64::max);
        let x = Scale::new((0.5, last + 0.5), rows.ends, 10).whole();
        rows.grid(canvas, &x, x.ticks().into_iter().filter(|(at, _)| *at >= 1.0))?;
        for (index, row) in self.rows.iter().enumerate() {
            let (y, colour) = (rows.y(index), model_colour(row.colour));
            let [low, high] = row.interval.map(|end| x.at(end));
            canvas.filled_box((low - 6, y - 9), (high + 6, y + 9), lighter(colour, 0.45))?;
            canvas.disc((x.at(row.rank as f64), y), 12, colour)?;
        }
        rows.frame(canvas, "Place on the leaderboard (1 is best), 95 % interval")
    }
}
