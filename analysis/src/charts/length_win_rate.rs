//! Response length against win rate: does a model win by writing more?

use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

use super::Chart;
use super::axis::{Scale, padded, range};
use super::canvas::{Canvas, Drawn, Point, Text};
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

/// One point a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthWinRate {
    points: Vec<LengthPoint>,
}

impl LengthWinRate {
    /// These points; those with a number that is not finite are left out.
    pub fn new(points: impl IntoIterator<Item = LengthPoint>) -> Self {
        let finite = |point: &LengthPoint| point.length.is_finite() && point.win_rate.is_finite();
        Self { points: points.into_iter().filter(finite).collect() }
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
        for (point, centre) in self.points.iter().zip(&centres) {
            canvas.disc(*centre, RADIUS as u32, model_colour(point.colour))?;
        }
        let style = Text::new(LABEL_EM);
        let names: Vec<String> = self.points.iter().map(|point| style.fit(&point.model, 480.0)).collect();
        let widths: Vec<i32> = names.iter().map(|name| style.width(name).ceil() as i32).collect();
        let lines = whiskers.iter().map(|[low, high]| (low.0 - 5, high.1, low.0 + 5, low.1));
        let lines: Vec<Box4> = lines.chain([(LEFT, y.at(50.0) - 3, RIGHT, y.at(50.0) + 3)]).collect();
        for ((name, label), centre) in names.iter().zip(place_labels(&centres, &lines, &widths)).zip(&centres) {
            if let Some(end) = label.leader(*centre) {
                canvas.line(&[*centre, end], SOFT, 2)?;
            }
            canvas.text(name, (label.left, label.top + HEIGHT / 2), style)?;
        }
        Ok(())
    }
}

fn whisker(point: &LengthPoint, centre: Point, y: &Scale) -> [Point; 2] {
    let ends = point.interval.filter(|ends| ends.iter().all(|end| end.is_finite()));
    ends.map_or([centre; 2], |ends| ends.map(|end| (centre.0, y.at(end))))
}

/// Left, top, right, bottom.
type Box4 = (i32, i32, i32, i32);

/// The height of a label's box.
const HEIGHT: i32 = 36;

/// Where a label stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label {
    left: i32,
    top: i32,
    width: i32,
}

impl Label {
    /// The part of the box shared with another, in square units.
    fn overlap(&self, (left, top, right, bottom): Box4) -> i64 {
        let x = (self.left + self.width).min(right) - self.left.max(left);
        let y = (self.top + HEIGHT).min(bottom) - self.top.max(top);
        if x > 0 && y > 0 { i64::from(x) * i64::from(y) } else { 0 }
    }

    fn inside(&self) -> bool {
        self.left >= LEFT + 6 && self.left + self.width <= SIZE.0 - 8 && self.top >= 8 && self.top + HEIGHT <= BOTTOM - 4
    }

    /// Where a line from its point should end, when it stands too far away to be read without one.
    fn leader(&self, (x, y): Point) -> Option<Point> {
        let end = (x.clamp(self.left, self.left + self.width), y.clamp(self.top, self.top + HEIGHT));
        let distance = f64::from(end.0 - x).hypot(f64::from(end.1 - y));
        (distance > 45.0).then_some(end)
    }
}

/// A place for each label, one after the other: the candidate nearest to its point that covers least of the
/// points, the lines and the labels placed before.
fn place_labels(centres: &[Point], lines: &[Box4], widths: &[i32]) -> Vec<Label> {
    let reach = RADIUS + 3;
    let mut placed: Vec<Label> = Vec::new();
    for (centre, width) in centres.iter().zip(widths) {
        let cost = |label: &Label| {
            let points = centres.iter().map(|(x, y)| 4 * label.overlap((x - reach, y - reach, x + reach, y + reach)));
            let lines = lines.iter().map(|line| label.overlap(*line));
            let labels = placed
                .iter()
                .map(|other| 4 * label.overlap((other.left - 8, other.top, other.left + other.width + 8, other.top + HEIGHT)));
            let outside = if label.inside() { 0 } else { 1_000_000 };
            points.chain(lines).chain(labels).sum::<i64>() + outside
        };
        let best = candidates(*centre, *width).enumerate().min_by_key(|(rank, label)| cost(label) * 100 + *rank as i64 * 60);
        placed.push(best.map_or(Label { left: centre.0, top: centre.1, width: *width }, |(_, label)| label));
    }
    placed
}

/// Places around a point, the preferred first: right, left, above, below and the corners, then the same further out.
fn candidates((x, y): Point, width: i32) -> impl Iterator<Item = Label> {
    const DISTANCES: [i32; 6] = [22, 44, 80, 130, 190, 260];
    DISTANCES.into_iter().flat_map(move |d| {
        let (middle, right, left) = (x - width / 2, x + d, x - d - width);
        let (level, above, below) = (y - HEIGHT / 2, y - d - HEIGHT + 4, y + d - 4);
        let near = d / 2;
        let spots = [
            (right, level),
            (left, level),
            (x + near, above + near),
            (x + near, below - near),
            (x - near - width, above + near),
            (x - near - width, below - near),
            (middle, above),
            (middle, below),
        ];
        spots.into_iter().map(move |(left, top)| Label { left, top, width })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_close_points_do_not_overlap() {
        let centres: Vec<Point> = (0..8).map(|i| (800 + 9 * (i % 3), 400 + 12 * (i / 3))).collect();
        let lines: Vec<Box4> = centres.iter().map(|c| (c.0 - 5, c.1 - 60, c.0 + 5, c.1 + 60)).collect();
        let labels = place_labels(&centres, &lines, &[180; 8]);
        for (index, a) in labels.iter().enumerate() {
            assert!(a.inside());
            for b in &labels[..index] {
                assert_eq!(a.overlap((b.left, b.top, b.left + b.width, b.top + HEIGHT)), 0, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_lone_label_stands_right_beside_its_point_and_turns_at_the_edge() {
        let place = |x| place_labels(&[(x, 400)], &[], &[200])[0];
        assert!(place(600).left > 600);
        assert!(place(1540).left + 200 <= SIZE.0);
    }
}
