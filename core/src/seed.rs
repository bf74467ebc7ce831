//! Random streams named by purpose, so that no result depends on order, batch size or resumption.
//!
//! A [`Seed`] is a 256-bit key. `seed.child("rollout", step)` derives another key from the name and the
//! index by SHA-256; two different paths give independent streams, and the same path always gives the
//! same stream, whatever was drawn elsewhere. Streams are ChaCha8, whose output is fixed by its
//! specification, so numbers survive upgrades and other machines.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use sha2::{Digest, Sha256};

/// A node of the seed tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The root of a run's seed tree.
    pub fn root(seed: u64) -> Self {
        Self(Sha256::new().chain_update(b"farmhand seed v1").chain_update(seed.to_le_bytes()).finalize().into())
    }

    /// The stream for one purpose and one index (a step, a sample, an epoch).
    #[must_use]
    pub fn child(&self, purpose: &str, index: u64) -> Self {
        let hash = Sha256::new().chain_update(self.0).chain_update(index.to_le_bytes()).chain_update(purpose.as_bytes());
        Self(hash.finalize().into())
    }

    /// The stream for one purpose and one text, for choices that must follow an example's content and not
    /// its position: which annotator judges it, which answer is shown first.
    #[must_use]
    pub fn child_text(&self, purpose: &str, text: &str) -> Self {
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(u64::MAX.to_le_bytes())
            .chain_update((purpose.len() as u64).to_le_bytes())
            .chain_update(purpose.as_bytes())
            .chain_update(text.as_bytes());
        Self(hash.finalize().into())
    }

    /// The random numbers of this node.
    pub fn rng(&self) -> Rng {
        Rng(ChaCha8Rng::from_seed(self.0))
    }

    /// A 63-bit number for interfaces that want an integer seed, such as torch's generator.
    pub fn to_i64(&self) -> i64 {
        let bytes: [u8; 8] = std::array::from_fn(|i| self.0[i]);
        i64::from_le_bytes(bytes) & i64::MAX
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seed({:016x})", self.to_i64())
    }
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform index below `n`.
    ///
    /// # Panics
    /// When `n` is zero.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "no index below zero");
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A standard normal number (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// One of the items, or `None` from an empty slice.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len())) }
    }

    /// An index drawn with probability proportional to its weight; `None` when the weights do not sum to a
    /// positive finite number.
    pub fn weighted(&mut self, weights: &[f64]) -> Option<usize> {
        let total: f64 = weights.iter().sum();
        if !(total.is_finite() && total > 0.0) {
            return None;
        }
        let mut left = self.uniform() * total;
        for (i, weight) in weights.iter().enumerate() {
            if left < *weight {
                return Some(i);
            }
            left -= weight;
        }
        weights.iter().rposition(|w| *w > 0.0)
    }

    /// The numbers 0 to n − 1 in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_do_not_depend_on_what_was_drawn_elsewhere() {
        let root = Seed::root(7);
        let first: Vec<u64> = (0..3).map(|i| root.child("a", i).rng().next_u64()).collect();
        let mut other = root.child("b", 0).rng();
        other.next_u64();
        let again: Vec<u64> = (0..3).map(|i| root.child("a", i).rng().next_u64()).collect();
        assert_eq!(first, again);
        assert_ne!(root.child("a", 0), root.child("b", 0));
        assert_ne!(root.child_text("a", "bc"), root.child_text("ab", "c"));
    }

    #[test]
    fn the_streams_are_pinned() {
        // Recorded once; a change here changes every run of every user.
        assert_eq!(Seed::root(0).rng().next_u64(), 7_942_379_807_115_614_487);
    }

    #[test]
    fn draws_have_the_right_moments() {
        let mut rng = Seed::root(1).rng();
        let n = 20_000;
        let (mut sum, mut squares, mut hits) = (0.0, 0.0, 0);
        for _ in 0..n {
            let x = rng.normal();
            sum += x;
            squares += x * x;
            hits += usize::from(rng.weighted(&[1.0, 0.0, 3.0]) == Some(2));
        }
        assert!((sum / n as f64).abs() < 0.03);
        assert!((squares / n as f64 - 1.0).abs() < 0.05);
        assert!((hits as f64 / n as f64 - 0.75).abs() < 0.02);
        assert_eq!(rng.weighted(&[0.0, 0.0]), None);
    }
}
