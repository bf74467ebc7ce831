//! Numbers over the steps of training, a panel a quantity: reward and KL, losses, whatever a method records.

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};

const WIDTH: i32 = 1600;
const LEGEND: i32 = 64;
const EM: f64 = 27.0;

/// From this many points on, a line is drawn lightly and smoothed over it.
const SMOOTH_FROM: usize = 40;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is, for the legend.
    pub label: String,
    /// Step and value; values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
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

/// Panels, two in a row.
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

    fn columns(&self) -> usize {
        self.panels.len().clamp(1, 2)
    }

    fn panel_size(&self) -> (i32, i32) {
        if self.columns() == 1 { (WIDTH, 700) } else { (WIDTH / 2, 580) }
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
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let steps = range(points().map(|point| point.0)).unwrap_or((0.0, 1.0));
    let values = range(points().map(|point| point.1)).unwrap_or((0.0, 1.0));
    let (top, bottom) = (origin.1 + if panel.title.is_empty() { 30 } else { 76 }, origin.1 + size.1 - 124);
    let y = Scale::new(padded(values, 0.06), (bottom, top), 5);

    let tick = Text::new(EM - 2.0).colour(SOFT);
    let labels_width = y.ticks().iter().map(|(_, text)| tick.width(text)).fold(0.0, f64::max).ceil() as i32;
    let frame = Frame { left: origin.0 + 76 + labels_width, right: origin.0 + size.0 - 40, top, bottom };
    let x = Scale::new(steps, (frame.left, frame.right), 6).whole();

    for (at, text) in y.ticks() {
        canvas.line(&[(frame.left, y.at(at)), (frame.right, y.at(at))], GRID, 2)?;
        canvas.text(&text, (frame.left - 14, y.at(at)), tick.anchored(HPos::Right, VPos::Center))?;
    }
    for (at, text) in x.ticks() {
        canvas.line(&[(x.at(at), frame.top), (x.at(at), frame.bottom)], GRID, 2)?;
        canvas.text(&text, (x.at(at), frame.bottom + 14), tick.anchored(HPos::Center, VPos::Top))?;
    }
    for series in &panel.series {
        draw_series(canvas, series, &x, &y)?;
    }
    canvas.line(&[(frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom)], INK, 3)?;

    let centred = Text::new(EM).anchored(HPos::Center, VPos::Top);
    let (across, along) = (f64::from(frame.bottom - frame.top), f64::from(frame.right - frame.left));
    canvas.text(&centred.fit(&panel.x_label, along), ((frame.left + frame.right) / 2, frame.bottom + 66), centred)?;
    canvas.text(&centred.fit(&panel.y_label, across), (origin.0 + 22, (frame.top + frame.bottom) / 2), centred.upwards())?;
    let heading = Text::new(EM + 1.0).bold();
    canvas.text(&heading.fit(&panel.title, along), (frame.left, frame.top - 36), heading)
}

fn draw_series<B: DrawingBackend>(canvas: &Canvas<B>, series: &Series, x: &Scale, y: &Scale) -> Drawn<B> {
    let colour = model_colour(series.colour);
    let place = |points: &[(f64, f64)]| thinned(points.iter().map(|(step, value)| (x.at(*step), y.at(*value))));
    let raw = place(&series.points);
    if series.points.len() >= SMOOTH_FROM {
        canvas.line(&raw, lighter(colour, 0.68), 2)?;
        return canvas.line(&place(&smoothed(&series.points)), colour, 6);
    }
    canvas.line(&raw, colour, 5)?;
    let dots = if series.points.len() <= 20 { raw.as_slice() } else { &[] };
    dots.iter().try_for_each(|point| canvas.disc(*point, 8, colour))
}

/// The line smoothed: at each point, the straight line that fits best the window of about a tenth of all points
/// around it. Unlike a running mean it does not lag at the ends and keeps a slope.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 20).max(3);
    let at = |index: usize| {
        let window = &points[index.saturating_sub(half)..(index + half + 1).min(points.len())];
        let n = window.len() as f64;
        let centre = window.iter().map(|point| point.0 / n).sum::<f64>();
        let mean = window.iter().map(|point| point.1 / n).sum::<f64>();
        let spread = window.iter().map(|point| (point.0 - centre).powi(2)).sum::<f64>();
        let covariance = window.iter().map(|point| (point.0 - centre) * (point.1 - mean)).sum::<f64>();
        let slope = if spread > 0.0 { covariance / spread } else { 0.0 };
        mean + slope * (points[index].0 - centre)
    };
    let smooth = points.iter().enumerate().map(|(index, point)| (point.0, at(index)));
    smooth.filter(|point| point.1.is_finite()).collect()
}

/// The line with at most its lowest and highest point (and its last) at each unit: looks the same, and a long run
/// does not make a large file.
fn thinned(points: impl Iterator<Item = Point>) -> Vec<Point> {
    let mut out: Vec<Point> = Vec::new();
    let mut column: Vec<Point> = Vec::new();
    let flush = |column: &mut Vec<Point>, out: &mut Vec<Point>| {
        let ends = [column.iter().map(|point| point.1).min(), column.iter().map(|point| point.1).max()];
        let kept = |index: usize, point: &Point| index == 0 || index + 1 == column.len() || ends.contains(&Some(point.1));
        out.extend(column.iter().enumerate().filter(|(index, point)| kept(*index, point)).map(|(_, point)| *point));
        out.dedup();
        column.clear();
    };
    for point in points {
        if column.last().is_some_and(|last| last.0 != point.0) {
            flush(&mut column, &mut out);
        }
        column.push(point);
    }
    flush(&mut column, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_straight_line_and_flattens_a_zigzag() {
        let line: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        assert!(smoothed(&line).iter().zip(&line).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
        let zigzag: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smoothed(&zigzag)[50].1 > 0.3 && smoothed(&zigzag)[50].1 < 0.7);
    }

    #[test]
    fn a_long_line_keeps_its_extremes() {
        let long = (0..100_000).map(|i| (i / 100, if i == 5050 { 999 } else { i % 7 }));
        let short = thinned(long);
        assert!(short.len() < 40_000, "{}", short.len());
        assert!(short.contains(&(50, 999)));
        assert_eq!(thinned([(1, 2), (1, 2), (3, 4)].into_iter()), [(1, 2), (3, 4)]);
    }

    #[test]
    fn a_legend_is_drawn_only_where_lines_must_be_told_apart() {
        let series = |label: &str| Series { label: label.into(), points: vec![(0.0, 1.0)], colour: 0 };
        let panel = |series| Panel { title: String::new(), y_label: "y".into(), x_label: "x".into(), series };
        assert!(Curves::new([panel(vec![series("a")]), panel(vec![series("b")])]).legend().is_empty());
        assert_eq!(Curves::new([panel(vec![series("a"), series("b")])]).legend().len(), 2);
        let nan = Series { label: "n".into(), points: vec![(0.0, f64::NAN)], colour: 0 };
        assert!(Curves::new([panel(vec![nan])]).is_empty());
    }
}
