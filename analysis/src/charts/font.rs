//! The embedded font: how wide text is, and its pixels. No font of the system is used.

use std::sync::OnceLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};

/// A face of the embedded family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Face {
    /// Upright.
    #[default]
    Regular,
    /// Bold.
    Bold,
}

fn face(face: Face) -> &'static FontRef<'static> {
    static REGULAR: OnceLock<FontRef<'static>> = OnceLock::new();
    static BOLD: OnceLock<FontRef<'static>> = OnceLock::new();
    let parse = |bytes| FontRef::try_from_slice(bytes).expect("the embedded font is a font");
    match face {
        Face::Regular => REGULAR.get_or_init(|| parse(dejavu::sans::regular())),
        Face::Bold => BOLD.get_or_init(|| parse(dejavu::sans::bold())),
    }
}

/// ab_glyph's scale for a size in pixels an em, the way SVG and CSS count.
fn scale(font: &FontRef<'_>, em: f64) -> PxScale {
    let units = font.units_per_em().unwrap_or(2048.0);
    PxScale::from(em as f32 * font.height_unscaled() / units)
}

/// The width of a line of text at this size (units an em).
pub(super) fn width(text: &str, em: f64, of: Face) -> f64 {
    let font = face(of);
    let font = font.as_scaled(scale(font, em));
    let glyphs: Vec<_> = text.chars().map(|c| font.glyph_id(c)).collect();
    let advances: f32 = glyphs.iter().map(|glyph| font.h_advance(*glyph)).sum();
    let kerning: f32 = glyphs.windows(2).map(|pair| font.kern(pair[0], pair[1])).sum();
    f64::from(advances + kerning)
}

/// Calls `pixel` with position (relative to the start of the baseline) and coverage (0 to 1) of each pixel of the text.
pub(super) fn rasterise(text: &str, em: f64, of: Face, mut pixel: impl FnMut(i32, i32, f32)) {
    let font = face(of);
    let scale = scale(font, em);
    let scaled = font.as_scaled(scale);
    let mut x = 0.0;
    let mut previous = None;
    for c in text.chars() {
        let id = scaled.glyph_id(c);
        x += previous.map_or(0.0, |previous| scaled.kern(previous, id));
        if let Some(outline) = font.outline_glyph(id.with_scale_and_position(scale, point(x, 0.0))) {
            let bounds = outline.px_bounds();
            outline.draw(|dx, dy, coverage| pixel(bounds.min.x as i32 + dx as i32, bounds.min.y as i32 + dy as i32, coverage));
        }
        x += scaled.h_advance(id);
        previous = Some(id);
    }
}

/// The text, its middle cut out when it is wider than allowed; names differ at their ends.
pub(super) fn fit(text: &str, em: f64, of: Face, allowed: f64) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if width(&text, em, of) <= allowed {
        return text;
    }
    let letters: Vec<char> = text.chars().collect();
    let kept = (0..letters.len()).rev().map(|n| {
        let (head, tail) = (n.div_ceil(2), n / 2);
        letters[..head].iter().chain(&['…']).chain(&letters[letters.len() - tail..]).collect::<String>()
    });
    kept.into_iter().find(|short| width(short, em, of) <= allowed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_grows_with_the_text_and_its_size() {
        let short = width("win", 30.0, Face::Regular);
        assert!(short > 30.0 && short < 90.0, "{short}");
        assert!(width("win rate", 30.0, Face::Regular) > short);
        assert!((width("win", 60.0, Face::Regular) - 2.0 * short).abs() < 0.01);
        assert!(width("win", 30.0, Face::Bold) > short);
        assert_eq!(width("", 30.0, Face::Regular), 0.0);
    }

    #[test]
    fn a_long_name_keeps_its_ends() {
        let name = "meta-llama/Llama-3.1-8B-Instruct-with-a-very-long-suffix-v2";
        let short = fit(name, 30.0, Face::Regular, 400.0);
        assert!(width(&short, 30.0, Face::Regular) <= 400.0);
        assert!(short.starts_with("meta-") && short.ends_with("-v2") && short.contains('…'), "{short}");
        assert_eq!(fit("dpo", 30.0, Face::Regular, 400.0), "dpo");
        assert_eq!(fit("dpo", 30.0, Face::Regular, 1.0), "");
    }
}
