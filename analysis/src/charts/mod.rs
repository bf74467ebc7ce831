//! Charts, drawn with plotters: one chart a file, each as SVG and as PNG.
//!
//! Charts are 1600 units wide, which is what a PNG has in pixels; an SVG scales to the page. They have no title:
//! that is the caption's task. A colour stands for the same model in every chart of a run.

mod agreement_heat_map;
mod axis;
mod canvas;
mod cost_agreement;
mod curves;
mod dataset_rates;
mod distributions;
mod font;
mod labels;
mod length_controlled;
mod length_preference;
mod length_win_rate;
mod method_correlation;
mod named;
mod palette;
mod position_bias;
mod rank_intervals;
mod raster;
mod rows;
mod smoothing;
mod win_rates;

use farmhand_core::{Error, Result};
use plotters::prelude::SVGBackend;

use raster::Raster;

pub use agreement_heat_map::AgreementHeatMap;
pub use canvas::{Canvas, Drawn};
pub use cost_agreement::{CostAgreement, CostPoint};
pub use curves::{Curves, Panel, Series};
pub use dataset_rates::{DatasetRates, DatasetRow};
pub use distributions::{Distribution, Distributions};
pub use length_controlled::{ControlledRate, LengthControlled};
pub use length_preference::{LengthBin, LengthPreference, LengthSeries};
pub use length_win_rate::{LengthPoint, LengthWinRate};
pub use method_correlation::{CorrelationPoint, MethodCorrelation};
pub use named::NamedChart;
pub use position_bias::{PositionBias, PositionShare};
pub use rank_intervals::{RankInterval, RankIntervals};
pub use smoothing::Band;
pub use win_rates::{WinRateBar, WinRates};

/// Something that can be drawn on any plotters backend.
pub trait Chart {
    /// Width and height, in units.
    fn size(&self) -> (u32, u32);

    /// Draws itself on a white canvas of that size.
    ///
    /// # Errors
    /// When the backend refuses.
    fn draw<B: plotters::prelude::DrawingBackend>(&self, canvas: &Canvas<B>) -> Drawn<B>;
}

/// The chart as an SVG document. It names no font file; a viewer shows it in its own sans-serif font.
///
/// # Errors
/// When the chart cannot be drawn, which no data causes.
pub fn svg<C: Chart>(chart: &C) -> Result<String> {
    let mut text = String::new();
    {
        let canvas = Canvas::new(SVGBackend::with_string(&mut text, chart.size()));
        canvas.background().map_err(drawing_error)?;
        chart.draw(&canvas).map_err(drawing_error)?;
        canvas.finish().map_err(drawing_error)?;
    }
    Ok(text)
}

/// The chart as a PNG file.
///
/// # Errors
/// When the chart cannot be drawn, which no data causes.
pub fn png<C: Chart>(chart: &C) -> Result<Vec<u8>> {
    let mut raster = Raster::new(chart.size());
    {
        let canvas = Canvas::new(&mut raster);
        chart.draw(&canvas).map_err(drawing_error)?;
        canvas.finish().map_err(drawing_error)?;
    }
    raster.encode()
}

fn drawing_error(error: impl std::fmt::Display) -> Error {
    Error::other(format!("a chart cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(n: usize) -> WinRates {
        let names =
            ["ppo", "best_of_n", "dpo", "a-very-long-organisation/with-a-model-of-70B-instruct-v1.3", "sft", "x", "y", "z"];
        let bar = |index: usize| WinRateBar {
            model: names[index % names.len()].into(),
            win_rate: 64.0 - 4.3 * index as f64,
            interval: Some([60.0 - 4.3 * index as f64, 67.5 - 4.3 * index as f64]),
            colour: index,
        };
        WinRates::new((0..n).map(bar), Some("sft".into()))
    }

    fn lengths(n: usize) -> LengthWinRate {
        let names = ["ppo", "best_of_n", "dpo", "meta-llama/Llama-3.1-8B-Instruct", "sft", "grpo", "rloo", "kto"];
        let point = |index: usize| LengthPoint {
            model: names[index % names.len()].into(),
            length: 400.0 + 37.0 * (index as f64 * 1.7).sin() + 20.0 * index as f64,
            win_rate: 52.0 + 3.0 * (index as f64 * 2.1).cos(),
            interval: Some([49.5 + 3.0 * (index as f64 * 2.1).cos(), 54.5 + 3.0 * (index as f64 * 2.1).cos()]),
            colour: index,
        };
        LengthWinRate::new((0..n).map(point))
    }

    fn curves(n_points: u32, labels: &[&str]) -> Curves {
        let series = |scale: f64, index: usize, label: &&str| Series {
            label: (*label).into(),
            points: (0..n_points)
                .map(|i| (f64::from(i), scale * ((1.0 + f64::from(i)).ln() + (f64::from(i) * 1.3).sin() * 0.3 - index as f64)))
                .collect(),
            colour: index,
            ..Series::default()
        };
        let panel = |title: &str, scale: f64| Panel {
            title: title.into(),
            y_label: "Reward".into(),
            x_label: "Step".into(),
            series: labels.iter().enumerate().map(|(index, label)| series(scale, index, label)).collect(),
        };
        Curves::new([panel("Reward", 1.0), panel("KL", 0.01)])
    }

    /// Both files of a chart; left to be looked at in the folder that FARMHAND_TEST_CHARTS names.
    pub(super) fn both<C: Chart>(chart: &C, name: &str) -> (String, Vec<u8>) {
        let (svg_text, png_bytes) = (svg(chart).expect("drawn"), png(chart).expect("drawn"));
        if let Some(folder) = std::env::var_os("FARMHAND_TEST_CHARTS") {
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), &png_bytes).expect("written");
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.svg")), &svg_text).expect("written");
        }
        (svg_text, png_bytes)
    }

    #[test]
    fn every_chart_is_drawn_the_same_twice() {
        assert_eq!(both(&bars(5), "win_rates"), both(&bars(5), "win_rates"));
        assert_eq!(both(&lengths(8), "length_win_rate"), both(&lengths(8), "length_win_rate"));
        both(&lengths(24), "length_win_rate_24");
        let smooth = curves(300, &["ppo", "grpo"]);
        assert_eq!(both(&smooth, "curves"), both(&smooth, "curves"));
        let (text, png_bytes) = both(&bars(5), "win_rates");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        let reader = png::Decoder::new(png_bytes.as_slice()).read_info().expect("a PNG");
        assert_eq!((reader.info().width, reader.info().height), bars(5).size());
    }

    #[test]
    fn little_or_no_data_is_drawn_too() {
        for n in [0, 1] {
            both(&bars(n), &format!("win_rates_{n}"));
            both(&lengths(n), &format!("length_win_rate_{n}"));
            both(&curves(n as u32, &["ppo"]), &format!("curves_{n}"));
        }
        let odd = [f64::NAN, f64::INFINITY, 0.0, 1e300, -1e300];
        let points = odd.iter().map(|value| (*value, *value)).collect();
        let series = vec![Series { label: "odd".into(), points, colour: 99, ..Series::default() }];
        both(
            &Curves::new([Panel { title: String::new(), y_label: String::new(), x_label: String::new(), series }]),
            "curves_odd",
        );
        let point = |win_rate: f64| LengthPoint {
            model: "\u{0}".into(),
            length: 0.0,
            win_rate,
            interval: Some([f64::NAN, 3.0]),
            colour: 3,
        };
        both(&LengthWinRate::new([point(f64::NAN), point(0.0), point(-5.0), point(1e9)]), "length_win_rate_odd");
    }

    #[test]
    fn charts_of_many_models_are_drawn_the_same_twice_and_with_little_data_too() {
        let name = |index: usize| format!("method-{index}-with-a-rather-long-name");
        let wave = |index: usize, phase: f64| (index as f64 * phase).sin();
        for n in [0, 1, 12] {
            let row = |index: usize| DatasetRow {
                model: name(index),
                colour: index,
                rates: (0..13).map(|j| (j != 5).then_some(50.0 + 30.0 * wave(index + j, 1.3))).collect(),
            };
            let datasets = (0..if n == 1 { 2 } else { 13 }).map(|j| (format!("source of instructions {j}"), 10 * j + 3));
            let heat = DatasetRates::new(datasets, (0..n).map(row));
            assert_eq!(both(&heat, &format!("by_dataset_{n}")).0, svg(&heat).expect("drawn"));
            let spread = |index: usize| Distribution {
                model: name(index),
                values: (0..300).map(|i| wave(index + i, 0.37) + 0.5 * wave(i, 2.11) + index as f64 / 10.0).collect(),
                colour: index,
            };
            let ridges = Distributions::new("Reward", (0..n).map(spread));
            assert_eq!(both(&ridges, &format!("distributions_{n}")).0, svg(&ridges).expect("drawn"));
            let place = |index: usize| RankInterval {
                model: name(index),
                rank: index + 1,
                interval: [(index as f64 - 4.0).max(1.0), (index as f64 + 5.0).min(n as f64)],
                colour: index,
            };
            let ranks = RankIntervals::new((0..n).map(place));
            assert_eq!(both(&ranks, &format!("ranks_{n}")).0, svg(&ranks).expect("drawn"));
            let rate = |index: usize| ControlledRate {
                model: name(index),
                raw: 70.0 - index as f64,
                controlled: 66.0 - 0.8 * index as f64,
                interval: (!index.is_multiple_of(3)).then_some([63.0 - 0.8 * index as f64, 69.0 - 0.8 * index as f64]),
                colour: index,
            };
            let controlled = LengthControlled::new((0..n).map(rate));
            assert_eq!(both(&controlled, &format!("length_controlled_{n}")).0, svg(&controlled).expect("drawn"));
        }
        let seed = |seed: usize| (0..60).map(|i| (i as f64, wave(i, 0.1) + 0.3 * wave(i + 7 * seed, 1.9))).collect();
        let seeds: Vec<Vec<(f64, f64)>> = (0..3).map(seed).collect();
        let panel = |index: usize| Panel {
            title: name(index),
            y_label: "Reward".into(),
            x_label: "Step".into(),
            series: vec![Series::over_seeds("dpo", &seeds, index)],
        };
        for n in [2, 9] {
            let bands = Curves::new((0..n).map(panel));
            assert!(bands.has_bands());
            assert_eq!(both(&bands, &format!("bands_{n}")).0, svg(&bands).expect("drawn"));
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_svg() {
        let bar = WinRateBar { model: "<script>x</script>&".into(), win_rate: 50.0, interval: None, colour: 0 };
        let text = svg(&WinRates::new([bar], Some("<b>".into()))).expect("drawn");
        assert!(!text.contains("<script") && !text.contains("<b>"), "{text}");
    }
}
