//! One row a model: its name on the left, a mark on a common axis, its numbers in words on the right.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Scale;
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{GRID, INK, SOFT};

const WIDTH: i32 = 1600;
const ROW: i32 = 58;
const BOTTOM: i32 = 128;
const EM: f64 = 27.0;
/// The longest name that is not cut, in units.
const NAME: f64 = 480.0;

/// Where everything stands.
pub(super) struct Rows {
    names: Vec<String>,
    texts: Vec<String>,
    top: i32,
    /// Left and right end of the axis.
    pub(super) ends: (i32, i32),
}

impl Rows {
    /// The size of a chart with so many rows under a margin of `top` units.
    pub(super) fn size(n: usize, top: i32) -> (u32, u32) {
        (WIDTH as u32, (top + ROW * n.max(1) as i32 + BOTTOM) as u32)
    }

    /// Rows of these names and texts, as many of one as of the other.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>, texts: Vec<String>, top: i32) -> Self {
        let names: Vec<String> = names.map(|name| label().fit(name, NAME)).collect();
        let widest = |texts: &[String], style: Text| texts.iter().map(|text| style.width(text)).fold(0.0, f64::max).ceil() as i32;
        let ends = (24 + widest(&names, label()) + 20, WIDTH - 24 - widest(&texts, value()) - 32);
        Self { names, texts, top, ends }
    }

    /// The lower end of the rows.
    pub(super) fn bottom(&self) -> i32 {
        self.top + ROW * self.names.len().max(1) as i32
    }

    /// The middle of a row.
    pub(super) fn y(&self, row: usize) -> i32 {
        self.top + ROW * row as i32 + ROW / 2
    }

    /// Grid lines with their numbers, under the marks.
    pub(super) fn grid<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
        x: &Scale,
        ticks: impl IntoIterator<Item = (f64, String)>,
    ) -> Drawn<B> {
        let tick = Text::new(EM - 2.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        for (at, text) in ticks {
            canvas.line(&[(x.at(at), self.top), (x.at(at), self.bottom())], GRID, 2)?;
            canvas.text(&text, (x.at(at), self.bottom() + 12), tick)?;
        }
        Ok(())
    }

    /// Names, texts, axes and the title of the axis.
    pub(super) fn frame<B: DrawingBackend>(&self, canvas: &Canvas<B>, title: &str) -> Drawn<B> {
        let ((left, right), bottom) = (self.ends, self.bottom());
        for (row, (name, text)) in self.names.iter().zip(&self.texts).enumerate() {
            canvas.text(name, (left - 20, self.y(row)), label())?;
            canvas.text(text, (right + 32, self.y(row)), value())?;
        }
        canvas.line(&[(left, self.top), (left, bottom), (right, bottom)], INK, 3)?;
        let style = Text::new(29.0).anchored(HPos::Center, VPos::Top);
        canvas.text(title, (i32::midpoint(left, right), bottom + 70), style)
    }
}

fn label() -> Text {
    Text::new(EM).anchored(HPos::Right, VPos::Center)
}

fn value() -> Text {
    Text::new(25.0)
}
