//! Numbers over the steps of training, a panel a quantity: reward and KL, losses, whatever a method records.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};
use super::smoothing::{Band, SMOOTH_FROM, over_seeds, smoothed, thinned};

const WIDTH: i32 = 1600;
const LEGEND: i32 = 64;
const EM: f64 = 27.0;

/// From this many panels on there are three in a row.
const MANY: usize = 9;

/// One line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// What it is, for the legend.
    pub label: String,
    /// Step and value; values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Where the line may lie, drawn lightly under it; empty for a single line.
    pub band: Vec<Band>,
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
}

impl Series {
    /// The mean of several seeds' lines with its 95 % band; one line stays as it is.
    pub fn over_seeds(label: impl Into<String>, seeds: &[Vec<(f64, f64)>], colour: usize) -> Self {
        let (points, band) = over_seeds(seeds);
        Self { label: label.into(), points, band, colour }
    }
}

/// One quantity over steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Stands over the panel; may be empty.
    pub title: String,
    /// The quantity, with its unit if it has one.
    pub y_label: String,
    /// What is counted along the panel, for example `PPO step`.
    pub x_label: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// Panels, two in a row; many are smaller, three in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    panels: Vec<Panel>,
}

/// The corners of a panel's plot.
struct Frame {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Curves {
    /// These panels. Points that are not finite, lines without points and panels without lines are left out.
    pub fn new(panels: impl IntoIterator<Item = Panel>) -> Self {
        let mut panels: Vec<Panel> = panels.into_iter().collect();
        for panel in &mut panels {
            for series in &mut panel.series {
                series.points.retain(|(step, value)| step.is_finite() && value.is_finite());
            }
            panel.series.retain(|series| !series.points.is_empty());
        }
        panels.retain(|panel| !panel.series.is_empty());
        Self { panels }
    }

    /// Whether there is no panel.
    pub fn is_empty(&self) -> bool {
        self.panels.is_empty()
    }

    /// Whether some line is long enough to be drawn smoothed over itself; a caption should then say so.
    pub fn is_smoothed(&self) -> bool {
        self.panels.iter().flat_map(|panel| &panel.series).any(|series| series.points.len() >= SMOOTH_FROM)
    }

    /// Whether some line has a band; a caption should then say what it is.
    pub fn has_bands(&self) -> bool {
        self.panels.iter().flat_map(|panel| &panel.series).any(|series| !series.band.is_empty())
    }

    fn columns(&self) -> usize {
        if self.panels.len() >= MANY { 3 } else { self.panels.len().clamp(1, 2) }
    }

    fn panel_size(&self) -> (i32, i32) {
        match self.columns() {
            1 => (WIDTH, 700),
            2 => (WIDTH / 2, 580),
            _ => (WIDTH / 3, 430),
        }
    }

    /// Labels and colours, each once, when some panel has several lines to tell apart.
    fn legend(&self) -> Vec<(&str, usize)> {
        let mut entries: Vec<(&str, usize)> = Vec::new();
        if self.panels.iter().any(|panel| panel.series.len() > 1) {
            for series in self.panels.iter().flat_map(|panel| &panel.series) {
                if !entries.iter().any(|(label, _)| *label == series.label) {
                    entries.push((&series.label, series.colour));
                }
            }
        }
        entries
    }

    /// The legend's entries in rows: shortened labels with where they start.
    fn legend_rows(&self) -> Vec<Vec<(String, usize, i32)>> {
        let style = Text::new(EM);
        let mut rows: Vec<Vec<(String, usize, i32)>> = Vec::new();
        let mut x = WIDTH;
        for (label, colour) in self.legend() {
            let label = style.fit(label, 600.0);
            let width = 64 + style.width(&label).ceil() as i32 + 48;
            if x + width > WIDTH {
                rows.push(Vec::new());
                x = 30;
            }
            if let Some(row) = rows.last_mut() {
                row.push((label, colour, x));
            }
            x += width;
        }
        rows
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        for (row, entries) in self.legend_rows().into_iter().enumerate() {
            let y = LEGEND * row as i32 + LEGEND / 2 + 6;
            for (label, colour, x) in entries {
                canvas.line(&[(x, y), (x + 48, y)], model_colour(colour), 7)?;
                canvas.text(&label, (x + 64, y), Text::new(EM))?;
            }
        }
        Ok(())
    }
}

impl Chart for Curves {
    fn size(&self) -> (u32, u32) {
        let rows = self.panels.len().max(1).div_ceil(self.columns()) as i32;
        (WIDTH as u32, (self.panel_size().1 * rows + LEGEND * self.legend_rows().len() as i32) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        self.draw_legend(canvas)?;
        let (width, height) = self.panel_size();
        let top = LEGEND * self.legend_rows().len() as i32;
        for (index, panel) in self.panels.iter().enumerate() {
            let (column, row) = ((index % self.columns()) as i32, (index / self.columns()) as i32);
            draw_panel(canvas, panel, (column * width, top + row * height), (width, height))?;
        }
        Ok(())
    }
}

fn draw_panel<B: DrawingBackend>(canvas: &Canvas<B>, panel: &Panel, origin: Point, size: (i32, i32)) -> Drawn<B> {
    // A small panel is a large one, a fifth smaller.
    let k = if size.0 < WIDTH / 2 { 0.8 } else { 1.0 };
    let units = |n: i32| (f64::from(n) * k).round() as i32;
    let em = EM * k;
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let steps = range(points().map(|point| point.0)).unwrap_or((0.0, 1.0));
    let values = range(panel.series.iter().flat_map(shown_values)).unwrap_or((0.0, 1.0));
    let values = with_bands(values, panel.series.iter().flat_map(|series| &series.band));
    let (top, bottom) = (origin.1 + units(if panel.title.is_empty() { 30 } else { 76 }), origin.1 + size.1 - units(124));
    let y = Scale::new(padded(values, 0.06), (bottom, top), if k < 1.0 { 4 } else { 5 });

    let tick = Text::new(em - 2.0).colour(SOFT);
    let labels_width = y.ticks().iter().map(|(_, text)| tick.width(text)).fold(0.0, f64::max).ceil() as i32;
    let frame = Frame { left: origin.0 + units(76) + labels_width, right: origin.0 + size.0 - units(40), top, bottom };
    let x = Scale::new(steps, (frame.left, frame.right), if k < 1.0 { 4 } else { 6 }).whole();

    for (at, text) in y.ticks() {
        canvas.line(&[(frame.left, y.at(at)), (frame.right, y.at(at))], GRID, 2)?;
        canvas.text(&text, (frame.left - units(14), y.at(at)), tick.anchored(HPos::Right, VPos::Center))?;
    }
    for (at, text) in x.ticks() {
        canvas.line(&[(x.at(at), frame.top), (x.at(at), frame.bottom)], GRID, 2)?;
        canvas.text(&text, (x.at(at), frame.bottom + units(14)), tick.anchored(HPos::Center, VPos::Top))?;
    }
    for series in &panel.series {
        draw_band(canvas, series, &x, &y, &frame)?;
    }
    for series in &panel.series {
        draw_series(canvas, series, &x, &y)?;
    }
    canvas.line(&[(frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom)], INK, 3)?;

    let centred = Text::new(em).anchored(HPos::Center, VPos::Top);
    let (across, along) = (f64::from(frame.bottom - frame.top), f64::from(frame.right - frame.left));
    let below = (i32::midpoint(frame.left, frame.right), frame.bottom + units(66));
    canvas.text(&centred.fit(&panel.x_label, along), below, centred)?;
    let beside = (origin.0 + units(22), i32::midpoint(frame.top, frame.bottom));
    canvas.text(&centred.fit(&panel.y_label, across), beside, centred.upwards())?;
    let heading = Text::new(em + 1.0).bold();
    canvas.text(&heading.fit(&panel.title, along), (frame.left, frame.top - units(36)), heading)
}

/// The values that a line is drawn through.
fn shown_values(series: &Series) -> Vec<f64> {
    let hides_points = series.points.len() >= SMOOTH_FROM && !series.band.is_empty();
    let points = if hides_points { &smoothed(&series.points) } else { &series.points };
    points.iter().map(|point| point.1).collect()
}

/// The range of the lines with their bands, but no more than its own width further at either end: two seeds that differ must not
/// make the lines flat.
fn with_bands<'a>((low, high): (f64, f64), bands: impl Iterator<Item = &'a Band>) -> (f64, f64) {
    let span = high - low;
    bands
        .filter(|band| band.low.is_finite() && band.high.is_finite())
        .fold((low, high), |(from, to), band| (from.min(band.low.max(low - span)), to.max(band.high.min(high + span))))
}

fn draw_band<B: DrawingBackend>(canvas: &Canvas<B>, series: &Series, x: &Scale, y: &Scale, frame: &Frame) -> Drawn<B> {
    let inside = |value: f64| y.at(value).clamp(frame.top, frame.bottom);
    let upper = thinned(series.band.iter().map(|band| (x.at(band.step), inside(band.high))));
    let lower = thinned(series.band.iter().map(|band| (x.at(band.step), inside(band.low))));
    let outline: Vec<Point> = upper.into_iter().chain(lower.into_iter().rev()).collect();
    canvas.polygon(&outline, lighter(model_colour(series.colour), 0.8))
}

fn draw_series<B: DrawingBackend>(canvas: &Canvas<B>, series: &Series, x: &Scale, y: &Scale) -> Drawn<B> {
    let colour = model_colour(series.colour);
    let place = |points: &[(f64, f64)]| thinned(points.iter().map(|(step, value)| (x.at(*step), y.at(*value))));
    let raw = place(&series.points);
    if series.points.len() >= SMOOTH_FROM {
        // A band shows how far single steps may lie; the line through all of them would hide it.
        if series.band.is_empty() {
            canvas.line(&raw, lighter(colour, 0.68), 2)?;
        }
        return canvas.line(&place(&smoothed(&series.points)), colour, 6);
    }
    canvas.line(&raw, colour, 5)?;
    let dots = if series.points.len() <= 20 { raw.as_slice() } else { &[] };
    dots.iter().try_for_each(|point| canvas.disc(*point, 8, colour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_is_drawn_only_where_lines_must_be_told_apart() {
        let series = |label: &str| Series { label: label.into(), points: vec![(0.0, 1.0)], ..Series::default() };
        let panel = |series| Panel { title: String::new(), y_label: "y".into(), x_label: "x".into(), series };
        assert!(Curves::new([panel(vec![series("a")]), panel(vec![series("b")])]).legend().is_empty());
        assert_eq!(Curves::new([panel(vec![series("a"), series("b")])]).legend().len(), 2);
        let nan = Series { label: "n".into(), points: vec![(0.0, f64::NAN)], ..Series::default() };
        assert!(Curves::new([panel(vec![nan])]).is_empty());
    }
}
