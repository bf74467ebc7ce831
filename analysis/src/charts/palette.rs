//! Colours that people with any colour vision can tell apart.

use plotters::style::RGBColor;

/// Okabe and Ito's palette (<https://jfly.uni-koeln.de/color/>) without yellow, which is too light for white paper.
const MODELS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(38, 42, 46);
/// Less important text.
pub(super) const SOFT: RGBColor = RGBColor(98, 105, 112);
/// Grid lines.
pub(super) const GRID: RGBColor = RGBColor(228, 231, 234);
/// Behind everything.
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);

/// The colour of the model at this place of the run's sorted models. After seven they repeat.
pub(super) fn model_colour(index: usize) -> RGBColor {
    MODELS[index % MODELS.len()]
}

/// The same colour, mixed with so much white (0: none, 1: all). Opaque, so that overlaps do not add up.
pub(super) fn lighter(colour: RGBColor, white: f64) -> RGBColor {
    let mix = |channel: u8| (f64::from(channel) + (255.0 - f64::from(channel)) * white).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}
