//! Python's `random.Random`, number for number.
//!
//! AlpacaFarm and AlpacaEval draw the annotator of an example, the order of its answers and label noise with Python's generator,
//! seeded by text. Whoever wants the same draws needs the same generator: CPython's `random.py` and `_randommodule.c`
//! (3.2 and later).

use sha2::{Digest, Sha512};

use crate::mersenne_twister::MersenneTwister;

/// Python's `random.Random`.
#[derive(Clone)]
pub struct PythonRandom(MersenneTwister);

impl PythonRandom {
    /// `random.Random(text)`: the text's UTF-8 and its SHA-512, as one big-endian number.
    pub fn from_text(text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend(Sha512::digest(text));
        Self::from_big_endian(&bytes)
    }

    /// `random.Random(number)`.
    pub fn from_number(number: u64) -> Self {
        Self::from_big_endian(&number.to_be_bytes())
    }

    /// The number's 32-bit digits, the least significant first and no leading zeros, are the generator's key.
    fn from_big_endian(bytes: &[u8]) -> Self {
        let digit = |four: &[u8]| four.iter().fold(0, |digit, byte| (digit << 8) | u32::from(*byte));
        let mut key: Vec<u32> = bytes.rchunks(4).map(digit).collect();
        while key.len() > 1 && key.last() == Some(&0) {
            key.pop();
        }
        Self(MersenneTwister::from_key(&key))
    }

    /// `random()`: uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.0.next_u32() >> 5, self.0.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `getrandbits(n_bits)`.
    ///
    /// # Panics
    /// When `n_bits` is over 64.
    pub fn bits(&mut self, n_bits: u32) -> u64 {
        assert!(n_bits <= 64, "at most 64 bits at a time");
        let (mut number, mut filled) = (0, 0);
        while filled < n_bits {
            let wanted = (n_bits - filled).min(32);
            number |= u64::from(self.0.next_u32() >> (32 - wanted)) << filled;
            filled += wanted;
        }
        number
    }

    /// `randrange(n)`, and the place that `choice` takes from n items.
    ///
    /// # Panics
    /// When `n` is zero.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "no index below zero");
        let n_bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = self.bits(n_bits) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// The place that `choices` takes from n items. Not the same draw as [`Self::below`].
    ///
    /// # Panics
    /// When `n` is zero.
    pub fn choices(&mut self, n: usize) -> usize {
        assert!(n > 0, "no item to choose");
        (self.uniform() * n as f64) as usize
    }

    /// The place that `choices` takes with these weights, each ≥ 0 and one of them > 0.
    ///
    /// # Panics
    /// When the weights do not sum to a positive finite number.
    pub fn choices_weighted(&mut self, weights: &[f64]) -> usize {
        let sum = |sum: &mut f64, weight: &f64| {
            *sum += weight;
            Some(*sum)
        };
        let cumulative: Vec<f64> = weights.iter().scan(0.0, sum).collect();
        let total = cumulative.last().copied().unwrap_or(0.0);
        assert!(total > 0.0 && total.is_finite(), "weights must sum to a positive finite number");
        let drawn = self.uniform() * total;
        // `bisect` over all but the last, so that rounding never leads past the end.
        cumulative[..cumulative.len() - 1].partition_point(|bound| *bound <= drawn)
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `sample(range(n), k)`.
    ///
    /// # Panics
    /// When `k` is over `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "cannot sample {k} of {n}");
        let power = if k > 5 { 4_f64.powf(((k * 3) as f64).log(4.0).ceil()) } else { 0.0 };
        if n as f64 <= 21.0 + power {
            let mut pool: Vec<usize> = (0..n).collect();
            let mut draw = |i: usize| {
                let j = self.below(n - i);
                let drawn = pool[j];
                pool[j] = pool[n - i - 1];
                drawn
            };
            return (0..k).map(&mut draw).collect();
        }
        let mut taken = std::collections::HashSet::new();
        let mut draw = |_| loop {
            let j = self.below(n);
            if taken.insert(j) {
                return j;
            }
        };
        (0..k).map(&mut draw).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    /// A line of `tests/golden/python_random.jsonl`, which `make_python_random.py` beside it wrote.
    #[derive(Deserialize)]
    struct Golden {
        seed: serde_json::Value,
        random: Vec<f64>,
        choices: Vec<usize>,
        choices_weighted: Vec<usize>,
        bits: Vec<u64>,
        below: Vec<usize>,
        shuffled: Vec<usize>,
        sample: Vec<Vec<usize>>,
    }

    #[test]
    fn every_draw_is_cpythons() {
        let lines = include_str!("../tests/golden/python_random.jsonl").lines();
        let mut n_texts = 0;
        for golden in lines.map(|line| serde_json::from_str::<Golden>(line).expect("a golden line")) {
            let fresh = || match &golden.seed {
                serde_json::Value::String(text) => PythonRandom::from_text(text),
                number => PythonRandom::from_number(number.as_u64().expect("a number")),
            };
            n_texts += usize::from(golden.seed.is_string());
            let mut random = fresh();
            let drawn: Vec<f64> = golden.random.iter().map(|_| random.uniform()).collect();
            assert_eq!(drawn, golden.random, "seed {}", golden.seed);
            assert_eq!((0..golden.choices.len()).map(|i| fresh().choices(i + 2)).collect::<Vec<_>>(), golden.choices);
            let mut random = fresh();
            let drawn: Vec<usize> =
                golden.choices_weighted.iter().map(|_| random.choices_weighted(&[0.5, 0.25, 0.0, 0.1])).collect();
            assert_eq!(drawn, golden.choices_weighted, "seed {}", golden.seed);
            let mut random = fresh();
            assert_eq!([1, 5, 31, 32, 33, 63, 64].map(|n_bits| random.bits(n_bits)).as_slice(), golden.bits);
            let mut random = fresh();
            assert_eq!([1, 2, 13, 805, 1 << 40].map(|n| random.below(n)).as_slice(), golden.below);
            let mut order: Vec<usize> = (0..golden.shuffled.len()).collect();
            fresh().shuffle(&mut order);
            assert_eq!(order, golden.shuffled, "seed {}", golden.seed);
            assert_eq!([(10, 4), (40, 7), (1000, 4)].map(|(n, k)| fresh().sample(n, k)).as_slice(), golden.sample);
        }
        assert!(n_texts >= 100, "{n_texts} texts");
    }

    proptest! {
        #[test]
        fn draws_stay_in_range(text: String, n in 1..100_usize, weights in prop::collection::vec(0.0..10.0, 1..9)) {
            let mut random = PythonRandom::from_text(&text);
            prop_assert!((0.0..1.0).contains(&random.uniform()));
            prop_assert!(random.below(n) < n && random.choices(n) < n);
            if weights.iter().sum::<f64>() > 0.0 {
                prop_assert!(weights[random.choices_weighted(&weights)] > 0.0);
            }
            let mut order: Vec<usize> = (0..n).collect();
            random.shuffle(&mut order);
            order.sort_unstable();
            prop_assert_eq!(&order, &(0..n).collect::<Vec<_>>());
            let mut sampled = random.sample(n, n / 2);
            sampled.sort_unstable();
            sampled.dedup();
            prop_assert_eq!(sampled.len(), n / 2);
        }
    }
}
