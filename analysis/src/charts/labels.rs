//! Names beside points, so that none covers another, a point or a line.

use super::canvas::Point;

/// Left, top, right, bottom, in units.
pub(super) type Box4 = (i32, i32, i32, i32);

/// The height of a label's box; a line of text of 28 units an em fits.
pub(super) const HEIGHT: i32 = 36;

/// Where a label stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    left: i32,
    top: i32,
    width: i32,
}

impl Label {
    /// The middle of its left end, where its text is anchored.
    pub(super) fn middle_left(&self) -> Point {
        (self.left, self.top + HEIGHT / 2)
    }

    /// Where a line from its point should end, when it stands too far away to be read without one.
    pub(super) fn leader(&self, (x, y): Point) -> Option<Point> {
        let end = (x.clamp(self.left, self.left + self.width), y.clamp(self.top, self.top + HEIGHT));
        let distance = f64::from(end.0 - x).hypot(f64::from(end.1 - y));
        (distance > 45.0).then_some(end)
    }

    /// The part of the box shared with another, in square units.
    fn overlap(&self, (left, top, right, bottom): Box4) -> i64 {
        let x = (self.left + self.width).min(right) - self.left.max(left);
        let y = (self.top + HEIGHT).min(bottom) - self.top.max(top);
        if x > 0 && y > 0 { i64::from(x) * i64::from(y) } else { 0 }
    }

    fn inside(&self, (left, top, right, bottom): Box4) -> bool {
        self.left >= left && self.left + self.width <= right && self.top >= top && self.top + HEIGHT <= bottom
    }
}

/// A place inside the frame for each label of a point (a disc of this radius), one after the other: the candidate nearest to its
/// point that covers least of the points, the lines and the labels placed before.
pub(super) fn place(centres: &[Point], radius: i32, lines: &[Box4], widths: &[i32], frame: Box4) -> Vec<Label> {
    let reach = radius + 3;
    let mut placed: Vec<Label> = Vec::new();
    for (centre, width) in centres.iter().zip(widths) {
        let cost = |label: &Label| {
            let points = centres.iter().map(|(x, y)| 4 * label.overlap((x - reach, y - reach, x + reach, y + reach)));
            let lines = lines.iter().map(|line| label.overlap(*line));
            let labels = placed
                .iter()
                .map(|other| 4 * label.overlap((other.left - 8, other.top, other.left + other.width + 8, other.top + HEIGHT)));
            let outside = if label.inside(frame) { 0 } else { 1_000_000 };
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

    const FRAME: Box4 = (150, 8, 1592, 856);

    #[test]
    fn labels_of_close_points_do_not_overlap() {
        let centres: Vec<Point> = (0..8).map(|i| (800 + 9 * (i % 3), 400 + 12 * (i / 3))).collect();
        let lines: Vec<Box4> = centres.iter().map(|c| (c.0 - 5, c.1 - 60, c.0 + 5, c.1 + 60)).collect();
        let labels = place(&centres, 13, &lines, &[180; 8], FRAME);
        for (index, a) in labels.iter().enumerate() {
            assert!(a.inside(FRAME));
            for b in &labels[..index] {
                assert_eq!(a.overlap((b.left, b.top, b.left + b.width, b.top + HEIGHT)), 0, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_lone_label_stands_right_beside_its_point_and_turns_at_the_edge() {
        let place = |x| place(&[(x, 400)], 13, &[], &[200], FRAME)[0];
        assert!(place(600).left > 600);
        assert!(place(1540).left + 200 <= 1592);
    }
}
