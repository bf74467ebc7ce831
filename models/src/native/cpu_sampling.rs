//! Drawing tokens from logits on the CPU (models/shim/cpu_sampling.h).

use std::ffi::c_int;
use std::ptr::null;

use farmhand_core::types::SamplingParams;
use tch::Tensor;
use torch_sys::C_tensor;

use super::{checked, expect, handle};

/// `FarmhandSampling` of models/shim/cpu_kernels.h.
#[repr(C)]
struct RawSampling {
    temperature: f64,
    top_k: i64,
    top_p: f64,
    min_p: f64,
    repetition_penalty: f64,
}

#[expect(unsafe_code, reason = "declares a function of models/shim/cpu_kernels.cpp")]
unsafe extern "C" {
    fn farmhand_cpu_sample(
        logits: *const C_tensor,
        params: *const RawSampling,
        seen: *const u32,
        seen_starts: *const i64,
        uniforms: *const f64,
        tokens: *mut i64,
        log_probs: *mut f32,
    ) -> c_int;
}

/// A token for each row of logits `[rows, v]`, which are changed, and its log-probability under the distribution it was
/// drawn from; `None` for a row with a logit that is not finite. `seen` names the tokens that a penalty applies to;
/// `uniforms` has one number in [0, 1) a row and is not read when decoding is greedy.
///
/// # Panics
/// When a seen token lies beyond the vocabulary or there are not as many seen lists and uniform numbers as rows.
pub(crate) fn sample(logits: &Tensor, params: &SamplingParams, seen: &[&[u32]], uniforms: &[f64]) -> Vec<Option<(u32, f32)>> {
    let (rows, v) = logits.size2().expect("logits are [rows, vocabulary]");
    let rows = rows as usize;
    assert!(seen.len() == rows && (params.is_greedy() || uniforms.len() == rows), "{rows} rows");
    let flat: Vec<u32> = seen.concat();
    assert!(flat.iter().all(|token| i64::from(*token) < v), "a seen token beyond the vocabulary of {v}");
    let mut starts = vec![0i64];
    for list in seen {
        starts.push(starts.last().expect("not empty") + list.len() as i64);
    }
    let raw = RawSampling {
        temperature: params.temperature,
        top_k: i64::from(params.top_k),
        top_p: params.top_p,
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty,
    };
    let (mut tokens, mut log_probs) = (vec![0i64; rows], vec![0f32; rows]);
    let uniforms = if params.is_greedy() { null() } else { uniforms.as_ptr() };
    #[expect(unsafe_code, reason = "every list has the length the shim reads or writes; it checks the tensor")]
    let status = unsafe {
        farmhand_cpu_sample(
            handle(logits),
            &raw,
            flat.as_ptr(),
            starts.as_ptr(),
            uniforms,
            tokens.as_mut_ptr(),
            log_probs.as_mut_ptr(),
        )
    };
    expect("sample", checked(status));
    tokens.iter().zip(log_probs).map(|(token, log_prob)| u32::try_from(*token).ok().map(|token| (token, log_prob))).collect()
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::native::cpu::on_every_instruction_set;
    use crate::sampling::draw_rows;

    /// Logits `[rows, v]`, some of them equal.
    fn logits(rows: usize, v: usize, spread: f64) -> Tensor {
        let mut rng = Seed::root(v as u64).rng();
        let values: Vec<f32> = (0..rows * v).map(|_| ((rng.normal() * spread * 8.0).round() / 8.0) as f32).collect();
        Tensor::from_slice(&values).view([rows as i64, v as i64])
    }

    #[test]
    fn tokens_and_log_probs_are_those_of_the_tensor_version() {
        let plain = SamplingParams { log_probs: true, ..SamplingParams::default() };
        let ways = [
            plain.clone(),
            SamplingParams { temperature: 0.0, ..plain.clone() },
            SamplingParams { temperature: 0.7, ..plain.clone() },
            SamplingParams { top_k: 5, ..plain.clone() },
            SamplingParams { top_k: 40, temperature: 1.7, ..plain.clone() },
            SamplingParams { top_p: 0.9, ..plain.clone() },
            SamplingParams { top_p: 0.1, ..plain.clone() },
            SamplingParams { min_p: 0.05, ..plain.clone() },
            SamplingParams { repetition_penalty: 1.3, ..plain.clone() },
            SamplingParams { temperature: 0.0, repetition_penalty: 1.3, ..plain.clone() },
            SamplingParams { temperature: 0.8, top_k: 50, top_p: 0.95, min_p: 0.02, repetition_penalty: 1.2, ..plain },
        ];
        on_every_instruction_set(|set| {
            for (v, spread) in [(1, 1.0), (2, 1.0), (37, 2.0), (300, 1.0), (5000, 3.0)] {
                let rows = 50;
                let mut rng = Seed::root(3).rng();
                let uniforms: Vec<f64> = (0..rows).map(|_| rng.uniform()).collect();
                let seen: Vec<Vec<u32>> = (0..rows).map(|row| (0..row.min(v) as u32).collect()).collect();
                for way in &ways {
                    let none = way.repetition_penalty == 1.0;
                    let seen: Vec<&[u32]> = seen.iter().map(|list| if none { &[] } else { list.as_slice() }).collect();
                    let ours = sample(&logits(rows, v, spread), way, &seen, &uniforms);
                    let theirs = draw_rows(&logits(rows, v, spread), &seen, way, &uniforms, false).expect("finite");
                    for (row, (ours, theirs)) in ours.into_iter().zip(theirs).enumerate() {
                        let ours = ours.expect("finite");
                        assert_eq!(ours.0, theirs.0, "{set}, {v} tokens, {way:?}, row {row}");
                        assert!((ours.1 - theirs.1).abs() < 1e-5, "{set}, {v} tokens, {way:?}: {} and {}", ours.1, theirs.1);
                    }
                }
            }
        });
    }

    #[test]
    fn the_ends_of_the_uniform_range_give_tokens_that_can_be_drawn() {
        on_every_instruction_set(|set| {
            let row = [0.0f32, 0.7, 0.3, 0.0].map(|p: f32| p.ln().max(-200.0));
            for (uniform, expected) in [(0.0, 1), (0.699, 1), (0.701, 2), (1.0 - f64::EPSILON / 2.0, 2)] {
                let logits = Tensor::from_slice(&row).view([1, 4]);
                let drawn = sample(&logits, &SamplingParams::default(), &[&[]], &[uniform]);
                assert_eq!(drawn[0].map(|(token, _)| token), Some(expected), "{set}");
            }
        });
    }

    #[test]
    fn rows_that_are_not_finite_give_no_token() {
        on_every_instruction_set(|set| {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [0, 17, 39] {
                    let logits = logits(2, 40, 1.0);
                    let _ = logits.get(1).narrow(0, place, 1).fill_(f64::from(wrong));
                    for temperature in [0.0, 1.0] {
                        let way = SamplingParams { temperature, ..SamplingParams::default() };
                        let drawn = sample(&logits.copy(), &way, &[&[], &[]], &[0.5, 0.5]);
                        assert!(drawn[0].is_some() && drawn[1].is_none(), "{set}, {wrong}");
                    }
                }
            }
        });
    }
}
