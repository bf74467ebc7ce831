//! How rewards are spread: a ridge a model, all on one axis, with the median marked.
//!
//! A ridge is a kernel density with a Gaussian kernel and Silverman's bandwidth 0.9 · min(s, IQR / 1.34) · n^(−1/5) (*Density
//! Estimation*, 1986, equation 3.31). All ridges have the same area, so heights compare.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};
use crate::number::significant;

const WIDTH: i32 = 1600;
const ROW: i32 = 62;
/// How far the highest ridge reaches into the rows above it, in units.
const HEIGHT: i32 = 112;
const BOTTOM: i32 = 128;
const EM: f64 = 27.0;
/// Points of a ridge.
const N_POINTS: usize = 240;

/// One model's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// The model.
    pub model: String,
    /// One an answer.
    pub values: Vec<f64>,
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
}

/// Ridges from top to bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct Distributions {
    label: String,
    /// Sorted values.
    rows: Vec<Distribution>,
}

impl Distributions {
    /// What is measured, with its unit if it has one, and the models in this order. Values that are not finite are left out, and
    /// so are models with fewer than two.
    pub fn new(label: impl Into<String>, rows: impl IntoIterator<Item = Distribution>) -> Self {
        let sorted = |mut row: Distribution| {
            row.values.retain(|value| value.is_finite());
            row.values.sort_by(f64::total_cmp);
            (row.values.len() > 1).then_some(row)
        };
        Self { label: label.into(), rows: rows.into_iter().filter_map(sorted).collect() }
    }

    /// Whether there is no ridge.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where 99 of 100 values of every model lie, with a margin: a few outliers do not squeeze the rest.
    fn range(&self) -> (f64, f64) {
        let low = self.rows.iter().map(|row| quantile(&row.values, 0.005)).fold(f64::INFINITY, f64::min);
        let high = self.rows.iter().map(|row| quantile(&row.values, 0.995)).fold(f64::NEG_INFINITY, f64::max);
        padded((low, high), 0.04)
    }
}

impl Chart for Distributions {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (HEIGHT + 24 + ROW * self.rows.len().max(1) as i32 + BOTTOM) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let label = Text::new(EM).anchored(HPos::Right, VPos::Center);
        let names: Vec<String> = self.rows.iter().map(|row| label.fit(&row.model, 480.0)).collect();
        let names_width = names.iter().map(|name| label.width(name)).fold(0.0, f64::max);
        let value = Text::new(24.0).colour(SOFT);
        let medians: Vec<f64> = self.rows.iter().map(|row| quantile(&row.values, 0.5)).collect();
        let texts: Vec<String> = medians.iter().map(|median| significant(*median)).collect();
        let texts_width = texts.iter().map(|text| value.width(text)).fold(value.width("median"), f64::max);
        let (left, right) = (24 + names_width.ceil() as i32 + 20, WIDTH - 40 - texts_width.ceil() as i32 - 20);
        let top = HEIGHT + 24;
        let bottom = top + ROW * self.rows.len() as i32;
        let x = Scale::new(self.range(), (left, right), 7);

        let tick = Text::new(25.0).colour(SOFT).anchored(HPos::Center, VPos::Top);
        for (at, text) in x.ticks() {
            canvas.line(&[(x.at(at), top - ROW), (x.at(at), bottom)], GRID, 2)?;
            canvas.text(&text, (x.at(at), bottom + 12), tick)?;
        }
        canvas.text("median", (right + 20, top - HEIGHT / 2 - 28), value)?;
        let ridges: Vec<Vec<(f64, f64)>> = self.rows.iter().map(|row| density(&row.values, self.range())).collect();
        let highest = ridges.iter().flatten().map(|point| point.1).fold(0.0, f64::max);
        for (index, ((row, ridge), median)) in self.rows.iter().zip(&ridges).zip(&medians).enumerate() {
            let base = top + ROW * (index as i32 + 1) - 12;
            let colour = model_colour(row.colour);
            let height = |density: f64| if highest > 0.0 { (f64::from(HEIGHT) * density / highest).round() as i32 } else { 0 };
            let line: Vec<Point> = ridge.iter().map(|(at, density)| (x.at(*at), base - height(*density))).collect();
            let ends = [(right, base), (left, base)];
            let outline: Vec<Point> = line.iter().copied().chain(ends).collect();
            canvas.polygon(&outline, lighter(colour, 0.55))?;
            canvas.line(&line, colour, 3)?;
            canvas.line(&[(left, base), (right, base)], GRID, 2)?;
            let marked = ridge.iter().min_by(|a, b| (a.0 - median).abs().total_cmp(&(b.0 - median).abs()));
            let high = marked.map_or(0, |point| height(point.1));
            canvas.line(&[(x.at(*median), base), (x.at(*median), base - high)], INK, 4)?;
            canvas.text(&names[index], (left - 20, base - 8), label)?;
            canvas.text(&texts[index], (right + 20, base - 8), value)?;
        }
        canvas.line(&[(left, bottom), (right, bottom)], INK, 3)?;
        let title = Text::new(29.0).anchored(HPos::Center, VPos::Top);
        canvas.text(&title.fit(&self.label, f64::from(right - left)), (i32::midpoint(left, right), bottom + 70), title)
    }
}

/// A quantile of sorted numbers, at least one.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    farmhand_evaluators::statistics::bootstrap::quantile(sorted, p)
}

/// The density of sorted numbers at points of the range.
fn density(sorted: &[f64], (low, high): (f64, f64)) -> Vec<(f64, f64)> {
    let n = sorted.len() as f64;
    let mean = sorted.iter().sum::<f64>() / n;
    let deviation = (sorted.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let middle_half = (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / 1.34;
    let spread = if middle_half > 0.0 { deviation.min(middle_half) } else { deviation };
    let step = (high - low) / (N_POINTS - 1) as f64;
    // Equal numbers are a peak as wide as the line.
    let width = (0.9 * spread * n.powf(-0.2)).max(step);
    let at = |index: usize| {
        let x = low + step * index as f64;
        // Further than five widths away the kernel is nothing.
        let from = sorted.partition_point(|value| *value < x - 5.0 * width);
        let near = sorted[from..].iter().take_while(|value| **value <= x + 5.0 * width);
        let sum: f64 = near.map(|value| (-0.5 * ((x - value) / width).powi(2)).exp()).sum();
        (x, sum / (n * width * (2.0 * std::f64::consts::PI).sqrt()))
    };
    (0..N_POINTS).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_density_has_area_one_and_its_peak_where_the_numbers_are() {
        let values: Vec<f64> =
            (0..400).map(|i| (f64::from(i) * 0.618_034).fract() + (f64::from(i) * 0.414_214).fract()).collect();
        let chart = Distributions::new("Reward", [Distribution { model: "m".into(), values, colour: 0 }]);
        let ridge = density(&chart.rows[0].values, (-1.0, 3.0));
        let area: f64 = ridge.windows(2).map(|pair| (pair[1].0 - pair[0].0) * f64::midpoint(pair[0].1, pair[1].1)).sum();
        assert!((area - 1.0).abs() < 0.01, "{area}");
        let peak = ridge.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("points").0;
        assert!((peak - 1.0).abs() < 0.2, "{peak}");
    }

    #[test]
    fn too_few_numbers_are_no_ridge_and_equal_ones_are_drawn() {
        let row = |values: &[f64]| Distribution { model: "m".into(), values: values.to_vec(), colour: 0 };
        assert!(Distributions::new("x", [row(&[1.0, f64::NAN]), row(&[])]).is_empty());
        let equal = Distributions::new("x", [row(&[2.0, 2.0])]);
        assert!(super::super::svg(&equal).expect("drawn").contains("median"));
    }
}
