//! The backend for PNG: draws at twice the size and averages, so that every edge is smooth; places letters by
//! the font's own metrics. (plotters' bitmap backend has neither for thick lines and embedded fonts.)

use std::convert::Infallible;

use farmhand_core::{Error, Result};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontStyle, FontTransform,
};

use super::font::{self, Face};

type Drawn = std::result::Result<(), DrawingErrorKind<Infallible>>;

/// Samples a pixel, in each direction.
const OVERSAMPLING: u32 = 2;

/// White paper in memory.
pub(super) struct Raster {
    size: (u32, u32),
    /// Red, green and blue of each sample, row by row.
    samples: Vec<u8>,
}

impl Raster {
    /// White paper of so many pixels.
    pub(super) fn new((width, height): (u32, u32)) -> Self {
        let n = (width * OVERSAMPLING) as usize * (height * OVERSAMPLING) as usize;
        Self { size: (width, height), samples: vec![255; 3 * n] }
    }

    /// The picture as a PNG file.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let failed = |error: png::EncodingError| Error::other("a chart cannot be written as PNG").with_source(error);
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, self.size.0, self.size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_filter(png::FilterType::Up);
        // 300 dots an inch at 1600 pixels make a figure as wide as a page's text.
        let dots = png::PixelDimensions { xppu: 11811, yppu: 11811, unit: png::Unit::Meter };
        encoder.set_pixel_dims(Some(dots));
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.averaged()).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(out)
    }

    /// The mean of each pixel's samples.
    fn averaged(&self) -> Vec<u8> {
        let (row, n) = (3 * self.size.0 as usize, OVERSAMPLING * OVERSAMPLING);
        let mut out = Vec::with_capacity(row * self.size.1 as usize);
        for samples in self.samples.chunks_exact(row * n as usize) {
            let mut sums = vec![n / 2; row];
            for (index, sample) in samples.iter().enumerate() {
                let column = index % (row * OVERSAMPLING as usize);
                sums[column / 3 / OVERSAMPLING as usize * 3 + column % 3] += u32::from(*sample);
            }
            out.extend(sums.into_iter().map(|sum| (sum / n) as u8));
        }
        out
    }

    fn blend(&mut self, x: i32, y: i32, color: BackendColor, coverage: f64) {
        let (width, height) = (self.size.0 * OVERSAMPLING, self.size.1 * OVERSAMPLING);
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if x >= width || y >= height {
            return;
        }
        let alpha = color.alpha * coverage;
        let first = 3 * (y as usize * width as usize + x as usize);
        let rgb = [color.rgb.0, color.rgb.1, color.rgb.2];
        for (channel, new) in self.samples[first..first + 3].iter_mut().zip(rgb) {
            *channel = (f64::from(*channel) * (1.0 - alpha) + f64::from(new) * alpha).round() as u8;
        }
    }

    /// Paints the samples of a box (in samples, clipped to the paper) that `inside` accepts.
    fn paint(&mut self, low: (f64, f64), high: (f64, f64), color: BackendColor, inside: impl Fn(f64, f64) -> bool) {
        let limit = |value: f64, size: u32| value.clamp(0.0, f64::from(size * OVERSAMPLING)) as i32;
        let (x0, x1) = (limit(low.0.floor(), self.size.0), limit(high.0.ceil() + 1.0, self.size.0));
        let (y0, y1) = (limit(low.1.floor(), self.size.1), limit(high.1.ceil() + 1.0, self.size.1));
        for y in y0..y1 {
            for x in x0..x1 {
                if inside(f64::from(x) + 0.5, f64::from(y) + 0.5) {
                    self.blend(x, y, color, 1.0);
                }
            }
        }
    }

    fn disc(&mut self, centre: BackendCoord, radius: f64, color: BackendColor) {
        let ((x, y), r) = (samples(centre), radius * f64::from(OVERSAMPLING));
        self.paint((x - r, y - r), (x + r, y + r), color, |px, py| (px - x).powi(2) + (py - y).powi(2) <= r * r);
    }

    fn stroke(&mut self, from: BackendCoord, to: BackendCoord, width: u32, color: BackendColor) {
        let ((x0, y0), (x1, y1)) = (samples(from), samples(to));
        let r = f64::from(width * OVERSAMPLING) / 2.0;
        let (dx, dy) = (x1 - x0, y1 - y0);
        let length = dx * dx + dy * dy;
        self.paint((x0.min(x1) - r, y0.min(y1) - r), (x0.max(x1) + r, y0.max(y1) + r), color, |px, py| {
            let along = if length == 0.0 { 0.0 } else { (((px - x0) * dx + (py - y0) * dy) / length).clamp(0.0, 1.0) };
            (px - x0 - along * dx).powi(2) + (py - y0 - along * dy).powi(2) <= r * r
        });
    }
}

/// The middle of a unit, in samples.
fn samples((x, y): BackendCoord) -> (f64, f64) {
    let k = f64::from(OVERSAMPLING);
    ((f64::from(x) + 0.5) * k, (f64::from(y) + 0.5) * k)
}

impl DrawingBackend for &mut Raster {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let k = OVERSAMPLING as i32;
        for index in 0..k * k {
            self.blend(x * k + index % k, y * k + index / k, color, 1.0);
        }
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.stroke(from, to, style.stroke_width(), style.color());
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        let points: Vec<BackendCoord> = path.into_iter().collect();
        for pair in points.windows(2) {
            self.stroke(pair[0], pair[1], style.stroke_width(), style.color());
        }
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S, fill: bool) -> Drawn {
        if fill {
            let k = f64::from(OVERSAMPLING);
            let corner = |(x, y): BackendCoord| (f64::from(x) * k, f64::from(y) * k);
            let ((x0, y0), (x1, y1)) = (corner(from), corner(to));
            self.paint((x0, y0), (x1, y1), style.color(), |x, y| x > x0 && x < x1 && y > y0 && y < y1);
            return Ok(());
        }
        self.draw_path([from, (to.0, from.1), to, (from.0, to.1), from], style)
    }

    fn draw_circle<S: BackendStyle>(&mut self, centre: BackendCoord, radius: u32, style: &S, fill: bool) -> Drawn {
        if fill {
            self.disc(centre, f64::from(radius), style.color());
        } else {
            let steps = (0..=64).map(|step| f64::from(step) * std::f64::consts::TAU / 64.0);
            let at = |angle: f64| {
                let (sin, cos) = angle.sin_cos();
                (centre.0 + (f64::from(radius) * cos).round() as i32, centre.1 + (f64::from(radius) * sin).round() as i32)
            };
            self.draw_path(steps.map(at).collect::<Vec<_>>(), style)?;
        }
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, corners: I, style: &S) -> Drawn {
        let corners: Vec<(f64, f64)> = corners.into_iter().map(samples).collect();
        let edges: Vec<_> = corners.iter().zip(corners.iter().cycle().skip(1)).collect();
        let ends = |of: fn(&(f64, f64)) -> f64| {
            corners
                .iter()
                .map(of)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
        };
        let (across, along) = (ends(|corner| corner.0), ends(|corner| corner.1));
        if corners.len() < 3 || !across.0.is_finite() || !along.0.is_finite() {
            return Ok(());
        }
        let limit = f64::from(self.size.1 * OVERSAMPLING);
        let (first, last) = (along.0.floor().clamp(0.0, limit) as i32, along.1.ceil().clamp(0.0, limit) as i32);
        for row in first..last {
            let y = f64::from(row) + 0.5;
            // Between the first and the second crossing of a row's middle it is inside, and so on.
            let crossing = |((x0, y0), (x1, y1)): &(&(f64, f64), &(f64, f64))| {
                ((*y0 <= y) != (*y1 <= y)).then(|| x0 + (y - y0) / (y1 - y0) * (x1 - x0))
            };
            let mut crossings: Vec<f64> = edges.iter().filter_map(crossing).collect();
            crossings.sort_by(f64::total_cmp);
            for pair in crossings.chunks_exact(2) {
                for x in pair[0].round().clamp(0.0, 1e6) as i32..pair[1].round().clamp(0.0, 1e6) as i32 {
                    self.blend(x, row, style.color(), 1.0);
                }
            }
        }
        Ok(())
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, at: BackendCoord) -> Drawn {
        let k = f64::from(OVERSAMPLING);
        // plotters' sizes are 1.24 of an em; its SVG backend divides so too.
        let em = style.size() / 1.24 * k;
        let face = if matches!(style.style(), FontStyle::Bold) { Face::Bold } else { Face::Regular };
        let width = font::width(text, em, face);
        let dx = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        // As the SVG backend places the baseline; half the height of an x is 0.27 em.
        let dy = match style.anchor().v_pos {
            VPos::Top => 0.76 * em,
            VPos::Center => 0.27 * em,
            VPos::Bottom => -0.27 * em,
        };
        let (x0, y0) = samples(at);
        let (dx, dy) = (dx.round() as i32, dy.round() as i32);
        let transform = style.transform();
        let color = style.color();
        let place = |x: i32, y: i32| match transform {
            FontTransform::None => (x, y),
            FontTransform::Rotate90 => (-y, x),
            FontTransform::Rotate180 => (-x, -y),
            FontTransform::Rotate270 => (y, -x),
        };
        font::rasterise(text, em, face, |x, y, coverage| {
            let (x, y) = place(x + dx, y + dy);
            self.blend(x0 as i32 + x, y0 as i32 + y, color, f64::from(coverage).clamp(0.0, 1.0));
        });
        Ok(())
    }
}
