//! From data to units: scales with sensible ticks.

/// A linear scale from data to units.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    data: (f64, f64),
    units: (i32, i32),
    step: f64,
}

impl Scale {
    /// A scale from exactly this range of data to this range of units, with about `n_ticks` ticks. An empty or
    /// non-finite range is widened to one that can be drawn.
    pub(super) fn new(data: (f64, f64), units: (i32, i32), n_ticks: usize) -> Self {
        let data = widened(data);
        Self { data, units, step: nice_step(data.1 - data.0, n_ticks) }
    }

    /// A scale whose ends are ticks, or one whole step beyond the data at most.
    pub(super) fn rounded(data: (f64, f64), units: (i32, i32), n_ticks: usize) -> Self {
        let (low, high) = widened(data);
        let step = nice_step(high - low, n_ticks);
        let data = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self { data, units, step }
    }

    /// The same for whole numbers: ticks are never closer than 1.
    pub(super) fn whole(self) -> Self {
        Self { step: self.step.max(1.0).round(), ..self }
    }

    /// Where a value is, in units.
    pub(super) fn at(&self, value: f64) -> i32 {
        let share = (value - self.data.0) / (self.data.1 - self.data.0);
        // A value far outside must not overflow; the chart clips it at ten times its size.
        let share = share.clamp(-10.0, 10.0);
        (f64::from(self.units.0) + share * f64::from(self.units.1 - self.units.0)).round() as i32
    }

    /// The ticks inside the range with their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = self.data;
        let first = (low / self.step - 1e-6).ceil();
        let n = ((high / self.step + 1e-6).floor() - first).clamp(0.0, 100.0) as usize;
        let values = (0..=n).map(|index| (first + index as f64) * self.step);
        let inside = values.filter(|value| *value >= low - self.step * 1e-6 && *value <= high + self.step * 1e-6);
        inside.map(|value| (value, crate::number::tick(value, self.step))).collect()
    }
}

/// The smallest range that holds all finite values; `None` without one.
pub(super) fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|value| value.is_finite());
    finite.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// The range with a margin of this share of it at both ends.
pub(super) fn padded((low, high): (f64, f64), share: f64) -> (f64, f64) {
    let margin = (high - low) * share;
    (low - margin, high + margin)
}

fn widened((low, high): (f64, f64)) -> (f64, f64) {
    if !low.is_finite() || !high.is_finite() {
        return (0.0, 1.0);
    }
    let (low, high) = (low.clamp(-1e300, 1e300), high.clamp(-1e300, 1e300));
    let least = low.abs().max(high.abs()).max(1e-12) * 1e-6;
    if high - low > least {
        return (low, high);
    }
    let half = if low == 0.0 { 0.5 } else { low.abs() * 0.1 };
    (low - half, low + half)
}

/// 1, 2, 2.5 or 5 times a power of ten, so that there are about `n` steps in the span.
fn nice_step(span: f64, n: usize) -> f64 {
    let raw = span / n.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let candidates = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    candidates.into_iter().find(|step| *step >= raw * 0.999).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(labels(&Scale::new((0.0, 100.0), (0, 1000), 5)), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(&Scale::new((0.13, 0.91), (0, 1000), 4)), ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels(&Scale::rounded((0.13, 0.91), (0, 1000), 4)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&Scale::rounded((-0.2, 0.3), (0, 1000), 3)), ["-0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels(&Scale::new((1.0, 3.0), (0, 1000), 6).whole()), ["1", "2", "3"]);
    }

    #[test]
    fn values_map_linearly_and_far_ones_do_not_overflow() {
        let scale = Scale::new((0.0, 10.0), (900, 100), 5);
        assert_eq!((scale.at(0.0), scale.at(5.0), scale.at(10.0)), (900, 500, 100));
        assert!(scale.at(f64::MAX).abs() < 10_000);
    }

    #[test]
    fn ranges_that_cannot_be_drawn_are_widened() {
        for data in [(5.0, 5.0), (0.0, 0.0), (f64::NAN, 1.0), (f64::NEG_INFINITY, f64::INFINITY), (-1e308, 1e308), (3.0, 2.0)] {
            let scale = Scale::rounded(data, (0, 100), 5);
            assert!(!scale.ticks().is_empty(), "{data:?}");
            assert!(scale.at(1.0).abs() <= 1000);
        }
        assert_eq!(range([f64::NAN, 2.0, -1.0]), Some((-1.0, 2.0)));
        assert_eq!(range([f64::NAN]), None);
    }
}
