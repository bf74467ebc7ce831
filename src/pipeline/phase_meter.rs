//! The figures of every phase: tokens/s, utilisation, overhead, memory. Taken from what the models count, so that no method
//! measures itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use farmhand_models::{Work, ceilings, memory_in_use, peak_memory, reset_peak_memory, tch_device, work_so_far};

use farmhand_core::Device;

/// Phases that are running, each with what was done before it began.
#[derive(Debug, Default)]
pub(super) struct PhaseMeter(Mutex<Vec<Running>>);

#[derive(Debug)]
struct Running {
    phase: String,
    started: Instant,
    before: Work,
}

/// Seconds of tensor work from which the machine's own rate is worth measuring.
const WORTH_COMPARING: f64 = 2.0;

impl PhaseMeter {
    /// A phase begins. Peak memory is that of the outermost phase.
    pub(super) fn start(&self, phase: &str, device: Device) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_empty()
            && let Ok(device) = tch_device(device)
        {
            reset_peak_memory(device);
        }
        running.push(Running { phase: phase.to_owned(), started: Instant::now(), before: work_so_far() });
    }

    /// A phase ends: its figures, if it did tensor work.
    pub(super) fn finish(&self, phase: &str, device: Device) -> Option<BTreeMap<String, f64>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = running.iter().rposition(|running| running.phase == phase)?;
        let Running { started, before, .. } = running.remove(place);
        let (work, secs) = (work_so_far() - before, started.elapsed().as_secs_f64());
        if work.tensor_secs <= 0.0 {
            return None;
        }
        let device = tch_device(device).ok()?;
        let best = (work.tensor_secs >= WORTH_COMPARING && work.needed_flops > 0.0).then(|| ceilings(device).matmul_flops);
        Some(figures(work, secs, best, peak_memory(device), memory_in_use(device)))
    }
}

/// Figures of a phase of `secs` seconds; `best` is the machine's rate of matrix products in operations a second.
fn figures(work: Work, secs: f64, best: Option<f64>, peak: Option<u64>, in_use: Option<u64>) -> BTreeMap<String, f64> {
    let secs = secs.max(1e-9);
    let mut figures = BTreeMap::from([
        ("secs", secs),
        ("tensor_secs", work.tensor_secs),
        ("overhead", 1.0 - work.tensor_secs / secs),
        ("tokens", work.tokens),
        ("computed_tokens", work.computed_tokens),
        ("tokens_per_sec", work.tokens / secs),
        ("conventional_flops_per_sec", work.conventional_flops / secs),
        ("needed_flops_per_sec", work.needed_flops / secs),
    ]);
    if work.computed_tokens > 0.0 {
        figures.insert("padding", work.padding / work.computed_tokens);
    }
    if work.generated_tokens > 0.0 {
        figures.insert("generated_tokens", work.generated_tokens);
        figures.insert("generated_tokens_per_sec", work.generated_tokens / secs);
        figures.insert("occupancy", work.generated_tokens / work.generation_rows);
    }
    if let Some(best) = best.filter(|best| *best > 0.0) {
        figures.insert("matmul_flops_per_sec", best);
        figures.insert("mfu", work.conventional_flops / secs / best);
        figures.insert("mfu_needed", work.needed_flops / secs / best);
    }
    figures.extend(peak.map(|bytes| ("peak_bytes", bytes as f64)));
    figures.extend(in_use.map(|bytes| ("bytes_in_use", bytes as f64)));
    figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use farmhand_models::tensor_work;

    use super::*;

    #[test]
    fn a_phase_with_tensor_work_has_figures_and_another_has_none() {
        let meter = PhaseMeter::default();
        meter.start("waiting", Device::Cpu);
        meter.start("working", Device::Cpu);
        tensor_work(|| std::thread::sleep(std::time::Duration::from_millis(4)));
        let figures = meter.finish("working", Device::Cpu).expect("it worked");
        assert!(figures["tensor_secs"] >= 0.004 && figures["secs"] >= figures["tensor_secs"]);
        assert!((0.0..1.0).contains(&figures["overhead"]));
        assert!(!figures.contains_key("mfu"), "too short to compare with the machine");
        assert!(meter.finish("working", Device::Cpu).is_none(), "it has ended");
        meter.start("idle", Device::Cpu);
        assert!(meter.finish("idle", Device::Cpu).is_none());
        assert!(meter.finish("waiting", Device::Cpu).is_some(), "what happens inside a phase belongs to it");
    }

    #[test]
    fn figures_are_shares_of_the_time_and_of_the_machine() {
        let work = Work {
            tensor_secs: 8.0,
            tokens: 100.0,
            computed_tokens: 120.0,
            padding: 30.0,
            conventional_flops: 4e9,
            needed_flops: 2e9,
            generated_tokens: 9.0,
            generation_rows: 10.0,
        };
        let figures = figures(work, 10.0, Some(1e9), Some(7), None);
        let close = |name: &str, value: f64| assert!((figures[name] - value).abs() < 1e-12, "{name}: {figures:?}");
        close("overhead", 0.2);
        close("tokens_per_sec", 10.0);
        close("padding", 0.25);
        close("occupancy", 0.9);
        close("mfu", 0.4);
        close("mfu_needed", 0.2);
        close("peak_bytes", 7.0);
        assert!(!figures.contains_key("bytes_in_use"));
    }
}
