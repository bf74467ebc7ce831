//! Response length against win rate: does a model win by writing more?

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
use super::labels::{self, Box4};
use super::palette::{GRID, INK, SOFT, lighter, model_colour};

const SIZE: (i32, i32) = (1600, 1000);
const LEFT: i32 = 150;
const RIGHT: i32 = 1560;
const TOP: i32 = 40;
const BOTTOM: i32 = 860;
const RADIUS: i32 = 13;
const LABEL_EM: f64 = 28.0;

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthPoint {
    /// Its name.
    pub model: String,
    /// The mean length of its answers, in characters.
    pub length: f64,
    /// Its win rate, in %.
    pub win_rate: f64,
    /// The 95 % interval of the win rate, in %.
    pub interval: Option<[f64; 2]>,
    /// Its place among the run's models, which gives its colour.
    pub colour: usize,
}

/// Models with intervals at most; of more, the intervals hide the points and their names.
pub(super) const MAX_INTERVALS: usize = 15;

/// One point a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthWinRate {
    points: Vec<LengthPoint>,
}

impl LengthWinRate {
    /// These points; those with a number that is not finite are left out. More than fifteen are drawn without intervals.
    pub fn new(points: impl IntoIterator<Item = LengthPoint>) -> Self {
        let finite = |point: &LengthPoint| point.length.is_finite() && point.win_rate.is_finite();
        let mut points: Vec<LengthPoint> = points.into_iter().filter(finite).collect();
        if points.len() > MAX_INTERVALS {
            points.iter_mut().for_each(|point| point.interval = None);
        }
        Self { points }
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    fn scales(&self) -> (Scale, Scale) {
        let lengths = range(self.points.iter().map(|point| point.length)).unwrap_or((0.0, 1.0));
        let lengths = padded(lengths, 0.12);
        let ends = |point: &LengthPoint| point.interval.unwrap_or([point.win_rate; 2]).into_iter().chain([point.win_rate]);
        let rates = range(self.points.iter().flat_map(ends).chain([50.0])).unwrap_or((0.0, 100.0));
        let rates = (rates.0.max(0.0), rates.1.min(100.0));
        (Scale::rounded((lengths.0.max(0.0), lengths.1), (LEFT, RIGHT), 7), Scale::rounded(rates, (BOTTOM, TOP), 6))
    }
}

impl Chart for LengthWinRate {
    fn size(&self) -> (u32, u32) {
        (SIZE.0 as u32, SIZE.1 as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B> {
        let (x, y) = self.scales();
        let tick = Text::new(28.0).colour(SOFT);
        for (at, text) in x.ticks() {
            canvas.line(&[(x.at(at), TOP), (x.at(at), BOTTOM)], GRID, 2)?;
            canvas.text(&text, (x.at(at), BOTTOM + 14), tick.anchored(HPos::Center, VPos::Top))?;
        }
        for (at, text) in y.ticks() {
            canvas.line(&[(LEFT, y.at(at)), (RIGHT, y.at(at))], GRID, 2)?;
            canvas.text(&text, (LEFT - 16, y.at(at)), tick.anchored(HPos::Right, VPos::Center))?;
        }
        canvas.dashes((LEFT, y.at(50.0)), (RIGHT, y.at(50.0)), SOFT, 3)?;
        canvas.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], INK, 3)?;
        let title = Text::new(30.0).anchored(HPos::Center, VPos::Top);
        canvas.text("Mean length of the answers (characters)", ((LEFT + RIGHT) / 2, BOTTOM + 76), title)?;
        canvas.text("Win rate (%)", (28, (TOP + BOTTOM) / 2), title.upwards())?;

        let centres: Vec<Point> = self.points.iter().map(|point| (x.at(point.length), y.at(point.win_rate))).collect();
        let whiskers: Vec<[Point; 2]> =
            self.points.iter().zip(&centres).map(|(point, centre)| whisker(point, *centre, &y)).collect();
        for (point, [low, high]) in self.points.iter().zip(&whiskers) {
            let colour = lighter(model_colour(point.colour), 0.35);
            canvas.line(&[*low, *high], colour, 4)?;
            for end in [low, high].into_iter().filter(|_| point.interval.is_some()) {
                canvas.line(&[(end.0 - 10, end.1), (end.0 + 10, end.1)], colour, 4)?;
            }
        }
        let style = Text::new(LABEL_EM);
        let names: Vec<String> = self.points.iter().map(|point| style.fit(&point.model, 480.0)).collect();
        let widths: Vec<i32> = names.iter().map(|name| style.width(name).ceil() as i32).collect();
        let lines = whiskers.iter().map(|[low, high]| (low.0 - 5, high.1, low.0 + 5, low.1));
        let lines: Vec<Box4> = lines.chain([(LEFT, y.at(50.0) - 3, RIGHT, y.at(50.0) + 3)]).collect();
        let placed = labels::place(&centres, RADIUS, &lines, &widths, (LEFT + 6, 8, SIZE.0 - 8, BOTTOM - 4));
        // Lines under points, points under names.
        for (label, centre) in placed.iter().zip(&centres) {
            if let Some(end) = label.leader(*centre) {
                canvas.line(&[*centre, end], lighter(SOFT, 0.35), 2)?;
            }
        }
        for (point, centre) in self.points.iter().zip(&centres) {
            canvas.disc(*centre, RADIUS as u32, model_colour(point.colour))?;
        }
        names.iter().zip(placed).try_for_each(|(name, label)| canvas.text(name, label.middle_left(), style))
    }
}

fn whisker(point: &LengthPoint, centre: Point, y: &Scale) -> [Point; 2] {
    let ends = point.interval.filter(|ends| ends.iter().all(|end| end.is_finite()));
    ends.map_or([centre; 2], |ends| ends.map(|end| (centre.0, y.at(end))))
}
