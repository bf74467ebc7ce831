//! How far every two judges agree, as a square of numbers on colours.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::range;
use super::canvas::{Canvas, Drawn, Text};
use super::palette::{GRID, INK, PAPER, SOFT, lighter, model_colour};
use crate::number::fixed;

const WIDTH: i32 = 1600;
const MOST_CELL: i32 = 190;
const TOP: i32 = 40;

/// A square of agreements, in %.
#[derive(Debug, Clone, PartialEq)]
pub struct AgreementHeatMap {
    /// The judges.
    pub judges: Vec<String>,
    /// `[judge][judge]`, in %; `None` where two share nothing.
    pub agreement: Vec<Vec<Option<f64>>>,
}

impl AgreementHeatMap {
    fn style() -> Text {
        Text::new(28.0)
    }

    /// How wide a name may be: less where there are many.
    fn most_name(&self) -> f64 {
        if self.judges.len() > 8 { 320.0 } else { 540.0 }
    }

    /// The widths of the names' column and of a cell.
    fn widths(&self) -> (i32, i32) {
        let style = Self::style();
        let fit = |name: &String| style.width(&style.fit(name, self.most_name()));
        let names = self.judges.iter().map(fit).fold(60.0, f64::max).ceil() as i32;
        let n = self.judges.len().max(1) as i32;
        (names, ((WIDTH - names - 80) / n).clamp(10, MOST_CELL))
    }

    /// The number in a cell: without decimals where cells are narrow, nothing where they are too narrow for a number.
    fn cell_text(cell: i32, value: f64) -> String {
        match cell {
            ..44 => String::new(),
            44..84 => fixed(value, 0),
            _ => fixed(value, 1),
        }
    }
}

impl Chart for AgreementHeatMap {
    fn size(&self) -> (u32, u32) {
        let (names, cell) = self.widths();
        (WIDTH as u32, (TOP + self.judges.len().max(1) as i32 * cell + names + 110) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let (names, cell) = self.widths();
        let n = self.judges.len() as i32;
        let left = (WIDTH - names - 24 - n * cell) / 2 + names + 24;
        let style = Self::style();
        let values = self.agreement.iter().flatten().flatten().copied();
        let (low, high) = range(values).unwrap_or((0.0, 100.0));
        let span = (high - low).max(1.0);
        for (row, agreements) in self.agreement.iter().enumerate() {
            let y = TOP + row as i32 * cell;
            let name = style.fit(&self.judges[row], self.most_name());
            canvas.text(&name, (left - 16, y + cell / 2), style.anchored(HPos::Right, VPos::Center))?;
            for (column, agreement) in agreements.iter().enumerate() {
                let x = left + column as i32 * cell;
                let share = agreement.map(|value| (value - low) / span);
                let colour = share.map_or(GRID, |share| lighter(model_colour(0), 0.92 * (1.0 - share)));
                canvas.filled_box((x + 2, y + 2), (x + cell - 2, y + cell - 2), colour)?;
                let text = agreement.map_or_else(|| "–".to_owned(), |value| Self::cell_text(cell, value));
                let ink = if share.is_some_and(|share| share > 0.55) { PAPER } else { INK };
                let number = Text::new(30.0).colour(ink).anchored(HPos::Center, VPos::Center);
                canvas.text(&text, (x + cell / 2, y + cell / 2), number)?;
            }
        }
        let bottom = TOP + n * cell;
        for (column, name) in self.judges.iter().enumerate() {
            let x = left + column as i32 * cell + cell / 2;
            // Upwards text is anchored at its own left end, which is the lower one.
            let name = style.fit(name, self.most_name());
            let width = style.width(&name).ceil() as i32;
            canvas.text(&name, (x, bottom + 16 + width / 2), style.anchored(HPos::Center, VPos::Center).upwards())?;
        }
        let title = Text::new(30.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        canvas.text("Agreement of one verdict with one of the other's (%)", (WIDTH / 2, bottom + names + 44), title)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::both;
    use super::*;

    #[test]
    fn squares_of_any_size_are_drawn() {
        let judges =
            ["people", "weighted_alpaca_eval_gpt4_turbo", "claude", "longest", "a-very-long-name-of-a-judge-that-must-be-cut"];
        for n in [0, 1, 5, 20, 60] {
            let agreement = |i: usize, j: usize| (i != j && i + j != 7).then(|| 52.0 + ((i * j) % 11) as f64 * 3.3);
            let chart = AgreementHeatMap {
                judges: (0..n).map(|i| judges[i % judges.len()].to_owned()).collect(),
                agreement: (0..n).map(|i| (0..n).map(|j| agreement(i, j)).collect()).collect(),
            };
            both(&chart, &format!("agreement_heat_map_{n}"));
        }
    }
}
