//! The drawing surface of the charts: lines, boxes, discs and text on any plotters backend.

use plotters::coord::Shift;
use plotters::prelude::{Circle, DrawingArea, DrawingBackend, IntoDrawingArea, PathElement, Polygon, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBColor, TextStyle};

use super::font::{self, Face};
use super::palette::{INK, PAPER};

/// What drawing gives.
pub type Drawn<B> = Result<(), plotters::drawing::DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A point in units from the upper left corner.
pub(super) type Point = (i32, i32);

/// How a line of text looks.
#[derive(Clone, Copy)]
pub(super) struct Text {
    /// Units an em.
    pub(super) em: f64,
    pub(super) face: Face,
    pub(super) colour: RGBColor,
    /// Which point of the text its position names.
    pub(super) anchor: (HPos, VPos),
    /// Written upwards instead of to the right.
    pub(super) upwards: bool,
}

impl Text {
    /// Regular text in ink, anchored at the middle of its left end.
    pub(super) fn new(em: f64) -> Self {
        Self { em, face: Face::Regular, colour: INK, anchor: (HPos::Left, VPos::Center), upwards: false }
    }

    pub(super) fn bold(self) -> Self {
        Self { face: Face::Bold, ..self }
    }

    pub(super) fn colour(self, colour: RGBColor) -> Self {
        Self { colour, ..self }
    }

    pub(super) fn anchored(self, h: HPos, v: VPos) -> Self {
        Self { anchor: (h, v), ..self }
    }

    pub(super) fn upwards(self) -> Self {
        Self { upwards: true, ..self }
    }

    /// How wide a text is in this style, in units.
    pub(super) fn width(&self, text: &str) -> f64 {
        font::width(text, self.em, self.face)
    }

    /// The text, shortened in its middle to fit.
    pub(super) fn fit(&self, text: &str, allowed: f64) -> String {
        font::fit(text, self.em, self.face, allowed)
    }
}

/// A surface to draw on.
pub struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
}

impl<B: DrawingBackend> Canvas<B> {
    pub(super) fn new(backend: B) -> Self {
        Self { area: backend.into_drawing_area() }
    }

    pub(super) fn background(&self) -> Drawn<B> {
        self.area.fill(&PAPER)
    }

    pub(super) fn finish(&self) -> Drawn<B> {
        self.area.present()
    }

    /// A line through points; fewer than two draw nothing.
    pub(super) fn line(&self, points: &[Point], colour: RGBColor, width: u32) -> Drawn<B> {
        if points.len() < 2 {
            return Ok(());
        }
        self.area.draw(&PathElement::new(points.to_vec(), colour.stroke_width(width)))
    }

    /// A straight line of dashes.
    pub(super) fn dashes(&self, from: Point, to: Point, colour: RGBColor, width: u32) -> Drawn<B> {
        const DASH: f64 = 14.0;
        const GAP: f64 = 10.0;
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy);
        let at = |along: f64| {
            let share = (along / length).min(1.0);
            (from.0 + (dx * share).round() as i32, from.1 + (dy * share).round() as i32)
        };
        let n = if length > 0.0 { (length / (DASH + GAP)).ceil() as u32 } else { 0 };
        for start in (0..n).map(|index| f64::from(index) * (DASH + GAP)) {
            self.line(&[at(start), at(start + DASH)], colour, width)?;
        }
        Ok(())
    }

    pub(super) fn filled_box(&self, from: Point, to: Point, colour: RGBColor) -> Drawn<B> {
        self.area.draw(&Rectangle::new([from, to], colour.filled()))
    }

    /// A filled area; fewer than three corners draw nothing.
    pub(super) fn polygon(&self, corners: &[Point], colour: RGBColor) -> Drawn<B> {
        if corners.len() < 3 {
            return Ok(());
        }
        self.area.draw(&Polygon::new(corners.to_vec(), colour.filled()))
    }

    pub(super) fn disc(&self, centre: Point, radius: u32, colour: RGBColor) -> Drawn<B> {
        self.area.draw(&Circle::new(centre, radius, colour.filled()))
    }

    pub(super) fn text(&self, text: &str, at: Point, style: Text) -> Drawn<B> {
        let face = if style.face == Face::Bold { FontStyle::Bold } else { FontStyle::Normal };
        let turn = if style.upwards { FontTransform::Rotate270 } else { FontTransform::None };
        let font = ("sans-serif", style.em * 1.24).into_font().style(face).transform(turn);
        let style = TextStyle::from(font).color(&style.colour).pos(Pos::new(style.anchor.0, style.anchor.1));
        self.area.draw_text(text, &style, at)
    }
}
