//! Dropout whose masks depend on a text and its seed alone: not on the batch the text is in, on the layout, or on how often
//! a block is computed.
//!
//! Srivastava et al., 2014, <https://jmlr.org/papers/v15/srivastava14a.html>; what is kept is scaled up, so that the mean
//! stays.

use farmhand_core::{Rng, Seed};
use tch::{Device, Tensor};

/// Where the tokens `[n]` of a batch get their masks from.
#[derive(Debug)]
pub(crate) struct Dropout {
    runs: Vec<Run>,
}

/// Tokens of one text that lie one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The seed of the text.
    pub(crate) seed: Seed,
    /// The first token's position in the text.
    pub(crate) start: usize,
    /// Tokens.
    pub(crate) length: usize,
}

impl Dropout {
    /// The masks of runs that follow each other.
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    /// What the inputs `[n, width]` of a module are multiplied by: 0 with probability `p`, to within 2⁻¹⁷, and otherwise
    /// 1 / (1 − p), for `p` in [0, 1).
    pub(crate) fn mask(&self, module: &str, width: usize, p: f64, device: Device) -> Tensor {
        let threshold = (p * f64::from(1u32 << 16)).round() as u64;
        let kept = (1.0 / (1.0 - p)) as f32;
        let n_tokens: usize = self.runs.iter().map(|run| run.length).sum();
        let mut mask = Vec::with_capacity(n_tokens * width);
        for run in &self.runs {
            let mut lanes = Lanes { rng: run.seed.child_text("dropout", module).rng(), bits: 0, left: 0 };
            lanes.skip(run.start * width);
            mask.extend((0..run.length * width).map(|_| if lanes.next() < threshold { 0.0 } else { kept }));
        }
        Tensor::from_slice(&mask).view([n_tokens as i64, width as i64]).to_device(device)
    }
}

/// A stream of 16-bit numbers.
struct Lanes {
    rng: Rng,
    bits: u64,
    left: u32,
}

impl Lanes {
    fn next(&mut self) -> u64 {
        if self.left == 0 {
            (self.bits, self.left) = (self.rng.next_u64(), 4);
        }
        let lane = self.bits & 0xffff;
        self.bits >>= 16;
        self.left -= 1;
        lane
    }

    fn skip(&mut self, n: usize) {
        for _ in 0..n {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn mask(runs: &[(u64, usize, usize)], module: &str) -> Tensor {
        let runs = runs.iter().map(|&(seed, start, length)| Run { seed: Seed::root(seed), start, length });
        Dropout::new(runs.collect()).mask(module, 7, 0.25, Device::Cpu)
    }

    #[test]
    fn a_texts_mask_is_the_same_wherever_its_tokens_lie() {
        let (first, second) = (mask(&[(1, 0, 10)], "a"), mask(&[(2, 0, 5)], "a"));
        assert_eq!(mask(&[(1, 0, 10), (2, 0, 5)], "a"), Tensor::cat(&[&first, &second], 0));
        // The response of the second text stands after the first text, its prompt before.
        let apart = mask(&[(2, 0, 2), (1, 0, 10), (2, 2, 3)], "a");
        assert_eq!(apart, Tensor::cat(&[&second.narrow(0, 0, 2), &first, &second.narrow(0, 2, 3)], 0));
        assert_ne!(mask(&[(1, 0, 10)], "b"), first);
    }

    #[test]
    fn a_share_of_p_is_dropped_and_the_mean_stays() {
        let mask = mask(&[(1, 0, 20_000)], "a");
        let dropped = mask.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((dropped - 0.25).abs() < 0.005, "{dropped}");
        assert!((mask.max().double_value(&[]) - 4.0 / 3.0).abs() < 1e-6);
        assert!((mask.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.01);
    }
}
