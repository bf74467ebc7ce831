//! Rotary position embeddings and their scalings.
//!
//! Su et al., 2021, <https://arxiv.org/abs/2104.09864>. A head's vector is read as `d/2` pairs (component `i`
//! with component `i + d/2`, the layout of Hugging Face checkpoints), and pair `i` is turned by the position
//! times `theta^(−2i/d)`. Scalings change these frequencies so that a model reads longer texts. Some families turn only
//! the first d components of a head.

use farmhand_core::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::config_json::ConfigJson;

/// How the frequencies are changed for longer contexts.
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// Llama 3: slow frequencies are divided by the factor, fast ones kept, those between blended.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// YaRN (Peng et al., 2023, <https://arxiv.org/abs/2309.00071>): blend by dimension, and a factor on both tables.
    Yarn {
        factor: f64,
        fast: f64,
        slow: f64,
        original: f64,
        truncate: bool,
        attention: f64,
    },
    /// LongRoPE (Ding et al., 2024, <https://arxiv.org/abs/2402.13753>): a divisor for each frequency and a factor on both
    /// tables. There is a second list of divisors for texts beyond the original context; with it a token's states would
    /// depend on how long its text becomes, so such texts are beyond the context here ([`Rotary::longest`]).
    LongRope {
        divisors: Vec<f64>,
        original: usize,
        attention: f64,
    },
}

/// How a family spells its rotary settings outside of `rope_parameters`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotarySpelling {
    /// The key of the base of the frequencies.
    theta: &'static str,
    /// The key of the share of a head that is turned, and its default; absent where every head is turned whole.
    share: Option<(&'static str, f64)>,
}

impl RotarySpelling {
    /// Llama and most others.
    pub(crate) const PLAIN: Self = Self { theta: "rope_theta", share: None };
    /// GPT-NeoX.
    pub(crate) const NEOX: Self = Self { theta: "rotary_emb_base", share: Some(("rotary_pct", 0.25)) };
    /// Phi-3.
    pub(crate) const PHI3: Self = Self { theta: "rope_theta", share: Some(("partial_rotary_factor", 1.0)) };
}

/// The rotary settings of a model, or of some of its layers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    /// How many components of a head are turned: all, or the first ones.
    dim: usize,
    theta: f64,
    scaling: Scaling,
}

impl Rotary {
    /// Reads `rope_parameters` (new spelling), or `rope_scaling` and the keys beside it (old spelling).
    pub(crate) fn read(json: &ConfigJson<'_>, head_dim: usize, spelling: RotarySpelling) -> Result<Self> {
        let theta = read_theta(json, spelling.theta, 10_000.0)?;
        let read = |key: &'static str| -> Result<Option<Self>> {
            let settings = json.object(key)?;
            settings.map(|settings| Self::read_settings(Some(&settings), json, head_dim, spelling, theta)).transpose()
        };
        match (read("rope_parameters")?, read("rope_scaling")?) {
            (Some(new), Some(old)) if new != old => Err(Error::invalid_config(format!(
                "{}: `rope_parameters` and `rope_scaling` describe different rotary embeddings",
                json.source()
            ))
            .with_hint("they are the new and the old spelling of one thing; remove the wrong one")),
            (Some(rotary), _) | (None, Some(rotary)) => Ok(rotary),
            (None, None) => Self::read_settings(None, json, head_dim, spelling, theta),
        }
    }

    /// Reads the settings of layers that see everything, and of those with a window: `rope_parameters` by layer type, or in
    /// the old spelling `rope_theta` and `rope_scaling` for the former and `rope_local_base_freq` for the latter.
    pub(crate) fn read_by_layer_type(json: &ConfigJson<'_>, head_dim: usize) -> Result<[Self; 2]> {
        let (new, old) = (json.object("rope_parameters")?, json.object("rope_scaling")?);
        let by_type = |kind| new.map_or(Ok(None), |new| new.object(kind));
        let (full, sliding) = (by_type("full_attention")?, by_type("sliding_attention")?);
        if new.is_some() && full.is_none() && sliding.is_none() {
            return Err(json.wrong("rope_parameters", "settings under `full_attention` and `sliding_attention`"));
        }
        if full.is_some() && old.is_some() {
            return Err(Error::invalid_config(format!(
                "{}: both `rope_parameters` and `rope_scaling` set the rotary embeddings of full attention",
                json.source()
            ))
            .with_hint("they are the new and the old spelling of one thing; remove the wrong one"));
        }
        let read = |settings: Option<ConfigJson<'_>>, key, default| {
            let theta = read_theta(json, key, default)?;
            Self::read_settings(settings.as_ref(), json, head_dim, RotarySpelling::PLAIN, theta)
        };
        Ok([read(full.or(old), "rope_theta", 1e6)?, read(sliding, "rope_local_base_freq", 10_000.0)?])
    }

    /// `theta` is the base where the settings name none.
    fn read_settings(
        settings: Option<&ConfigJson<'_>>,
        json: &ConfigJson<'_>,
        head_dim: usize,
        spelling: RotarySpelling,
        theta: f64,
    ) -> Result<Self> {
        if let Some((settings, key)) = settings.and_then(|settings| Some((settings, settings.nested_key()?))) {
            return Err(settings.unsupported(key, "one rotary setting for all layers"));
        }
        let theta = settings.map_or(Ok(theta), |settings| read_theta(settings, "rope_theta", theta))?;
        let share = match spelling.share {
            Some((key, default)) => {
                let beside = read_share(json, key, default)?;
                settings.map_or(Ok(beside), |settings| read_share(settings, "partial_rotary_factor", beside))?
            }
            None => {
                for object in settings.into_iter().chain([json]) {
                    if object.number_or("partial_rotary_factor", 1.0)? != 1.0 {
                        return Err(object.unsupported("partial_rotary_factor", "1 in this architecture"));
                    }
                }
                1.0
            }
        };
        let dim = (head_dim as f64 * share) as usize;
        if dim == 0 || !dim.is_multiple_of(2) {
            return Err(Error::invalid_config(format!(
                "{}: rotary embeddings turn pairs, but {dim} of a head's {head_dim} components would be turned",
                json.source()
            ))
            .with_hint("the head size times the share that is turned must be even"));
        }
        let scaling = settings.map_or(Ok(Scaling::None), |settings| read_scaling(settings, json, dim))?;
        Ok(Self { dim, theta, scaling })
    }

    /// The longest text the settings are made for, in tokens, where that is less than the model's context.
    pub(crate) fn longest(&self) -> Option<usize> {
        match self.scaling {
            Scaling::LongRope { original, .. } => Some(original),
            _ => None,
        }
    }

    /// The angle a pair turns by per position, `[dim/2]`, computed in `f32` as transformers does.
    fn frequencies(&self, device: Device) -> Tensor {
        let dim = self.dim as f64;
        let exponents = Tensor::arange_start_step(0, self.dim as i64, 2, (Kind::Float, device)) / dim;
        let periods = Tensor::pow_scalar(self.theta, &exponents);
        let plain = periods.reciprocal();
        match &self.scaling {
            Scaling::None => plain,
            Scaling::Linear { factor } => plain / *factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let wavelengths = plain.reciprocal() * std::f64::consts::TAU;
                let slow = wavelengths.gt(original / low);
                let fast = wavelengths.lt(original / high);
                let share = (wavelengths.reciprocal() * *original - *low) / (high - low);
                let blended = (1.0 - &share) * &plain / *factor + &share * &plain;
                let scaled = (&plain / *factor).where_self(&slow, &blended);
                plain.where_self(&fast, &scaled)
            }
            Scaling::Yarn { factor, fast, slow, original, truncate, .. } => {
                let dimension = |turns: f64| dim * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln());
                let (low, high) = (dimension(*fast), dimension(*slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(dim - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let index = Tensor::arange(self.dim as i64 / 2, (Kind::Float, device));
                let interpolated = ((index - low) / width).clamp(0.0, 1.0);
                (&plain / *factor) * &interpolated + &plain * (1.0 - &interpolated)
            }
            Scaling::LongRope { divisors, .. } => {
                let divisors = Tensor::from_slice(divisors).to_kind(Kind::Float).to_device(device);
                (divisors * periods).reciprocal()
            }
        }
    }

    /// The factor on both tables.
    fn amplitude(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention, .. } | Scaling::LongRope { attention, .. } => attention,
            _ => 1.0,
        }
    }

    /// The embeddings with their frequencies computed, on a device.
    pub(crate) fn on(&self, device: Device) -> RotaryEmbedding {
        let half = self.dim as i64 / 2;
        RotaryEmbedding { frequencies: self.frequencies(device), amplitude: self.amplitude(), half }
    }
}

fn read_theta(json: &ConfigJson<'_>, key: &str, default: f64) -> Result<f64> {
    let theta = json.number_or(key, default)?;
    if theta > 1.0 { Ok(theta) } else { Err(json.wrong(key, "a number above 1")) }
}

fn read_share(json: &ConfigJson<'_>, key: &str, default: f64) -> Result<f64> {
    let share = json.positive_or(key, default)?;
    if share <= 1.0 { Ok(share) } else { Err(json.wrong(key, "a number above 0 and at most 1")) }
}

fn read_scaling(settings: &ConfigJson<'_>, json: &ConfigJson<'_>, dim: usize) -> Result<Scaling> {
    let key = if settings.is_set("rope_type") || !settings.is_set("type") { "rope_type" } else { "type" };
    let kind = settings.text_or(key, "default")?;
    if settings.is_set("type") && settings.text("type")? != kind {
        return Err(settings.wrong("type", &format!("what `rope_type` says, which is `{kind}`")));
    }
    let factor = || {
        let factor = settings.number("factor")?;
        if factor >= 1.0 { Ok(factor) } else { Err(settings.wrong("factor", "a number of at least 1")) }
    };
    let original = || {
        let default = json.size_or("max_position_embeddings", 2048)?;
        settings.size_or("original_max_position_embeddings", json.size_or("original_max_position_embeddings", default)?)
    };
    match kind {
        "default" => Ok(Scaling::None),
        // Dynamic scaling starts beyond `max_position_embeddings`, which is where this crate refuses to go.
        "dynamic" => factor().map(|_| Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: factor()? }),
        "llama3" => {
            let (low, high) = (settings.positive("low_freq_factor")?, settings.positive("high_freq_factor")?);
            if low >= high {
                return Err(settings.wrong("high_freq_factor", &format!("more than `low_freq_factor`, which is {low}")));
            }
            Ok(Scaling::Llama3 { factor: factor()?, low, high, original: original()? as f64 })
        }
        "yarn" => {
            let factor = factor()?;
            let (fast, slow) = (settings.positive_or("beta_fast", 32.0)?, settings.positive_or("beta_slow", 1.0)?);
            if fast <= slow {
                return Err(settings.wrong("beta_fast", &format!("more than `beta_slow`, which is {slow}")));
            }
            let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let (mscale, all) = (settings.number_or("mscale", 0.0)?, settings.number_or("mscale_all_dim", 0.0)?);
            let inferred = if mscale != 0.0 && all != 0.0 { magnitude(mscale) / magnitude(all) } else { magnitude(1.0) };
            Ok(Scaling::Yarn {
                factor,
                fast,
                slow,
                original: original()? as f64,
                truncate: settings.flag_or("truncate", true)?,
                attention: settings.positive_or("attention_factor", inferred)?,
            })
        }
        "longrope" | "su" => {
            let divisors = settings.positives("short_factor", dim / 2)?;
            settings.positives("long_factor", dim / 2)?;
            let holder = if json.is_set("original_max_position_embeddings") { json } else { settings };
            let original = holder.size("original_max_position_embeddings")?;
            let longest = json.size("max_position_embeddings")?;
            let factor = if settings.is_set("factor") { factor()? } else { longest as f64 / original as f64 };
            let inferred = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
            Ok(Scaling::LongRope { divisors, original, attention: settings.positive_or("attention_factor", inferred)? })
        }
        _ => Err(settings.unsupported(key, "one of default, linear, dynamic, llama3, yarn, longrope")),
    }
}

/// Rotary embeddings ready for use.
pub(crate) struct RotaryEmbedding {
    /// `[dim/2]`.
    frequencies: Tensor,
    amplitude: f64,
    half: i64,
}

impl RotaryEmbedding {
    /// The tables for these positions (any shape `[..]`, integers), each `[.., 1, dim]`: cosines, and sines with
    /// the signs of the rotation.
    pub(crate) fn tables(&self, positions: &Tensor) -> RotaryTables {
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies;
        let (mut cosines, mut sines) = (angles.cos(), angles.sin());
        if self.amplitude != 1.0 {
            (cosines, sines) = (cosines * self.amplitude, sines * self.amplitude);
        }
        RotaryTables {
            cosines: Tensor::cat(&[&cosines, &cosines], -1).unsqueeze(-2),
            signed_sines: Tensor::cat(&[&sines.neg(), &sines], -1).unsqueeze(-2),
            half: self.half,
        }
    }
}

/// Cosines and signed sines of one forward pass.
pub(crate) struct RotaryTables {
    cosines: Tensor,
    signed_sines: Tensor,
    half: i64,
}

impl RotaryTables {
    /// Another handle on the same tables.
    pub(crate) fn shallow_clone(&self) -> Self {
        let (cosines, signed_sines) = (self.cosines.shallow_clone(), self.signed_sines.shallow_clone());
        Self { cosines, signed_sines, half: self.half }
    }

    /// Turns queries or keys `[n, heads, d]`.
    pub(crate) fn rotate(&self, x: &Tensor) -> Tensor {
        let (dim, width) = (2 * self.half, x.size()[2]);
        if dim < width {
            let turned = self.rotate(&x.narrow(-1, 0, dim));
            return Tensor::cat(&[&turned, &x.narrow(-1, dim, width - dim)], -1);
        }
        // Rolling by half swaps the members of every pair in one operation; the signs are in the sines.
        (x * &self.cosines).addcmul(&x.roll([self.half], [-1]), &self.signed_sines)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rotary(json: serde_json::Value, head_dim: usize, spelling: RotarySpelling) -> Result<Rotary> {
        let serde_json::Value::Object(fields) = json else { panic!("an object") };
        Rotary::read(&ConfigJson::new(&fields, "`config.json`"), head_dim, spelling)
    }

    fn plain(json: serde_json::Value) -> Result<Rotary> {
        rotary(json, 8, RotarySpelling::PLAIN)
    }

    #[test]
    fn a_pair_is_turned_by_position_times_frequency_and_the_rest_of_a_head_is_left() {
        for head_dim in [4, 6] {
            let share = json!({ "rotary_emb_base": 100.0, "rotary_pct": 4.0 / head_dim as f64 });
            let rotary = rotary(share, head_dim, RotarySpelling::NEOX).expect("valid");
            let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).narrow(0, 0, head_dim as i64).view([1, 1, -1]);
            let turned = rotary.on(Device::Cpu).tables(&Tensor::from_slice(&[3i64])).rotate(&x);
            assert_eq!(turned.size(), x.size());
            for (pair, angle) in [(0, 3.0f64), (1, 0.3)] {
                let (a, b) = (1.0 + pair as f64, 3.0 + pair as f64);
                let (first, second) = (turned.double_value(&[0, 0, pair]), turned.double_value(&[0, 0, pair + 2]));
                assert!((first - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
                assert!((second - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
            }
            assert_eq!(turned.narrow(2, 4, head_dim as i64 - 4), x.narrow(2, 4, head_dim as i64 - 4));
        }
    }

    #[test]
    fn both_spellings_mean_the_same_and_may_not_contradict_each_other() {
        let old = json!({ "type": "linear", "factor": 2.0 });
        let new = json!({ "rope_type": "linear", "rope_theta": 5e5, "factor": 2.0 });
        let expected = plain(json!({ "rope_parameters": new })).expect("valid");
        assert_eq!(plain(json!({ "rope_theta": 5e5, "rope_scaling": old })).expect("valid"), expected);
        assert_eq!(plain(json!({ "rope_theta": 5e5, "rope_scaling": old, "rope_parameters": new })).expect("valid"), expected);
        let error = plain(json!({ "rope_scaling": old, "rope_parameters": new })).expect_err("10000 and 500000");
        assert!(error.message().contains("different rotary embeddings"), "{error}");
    }

    #[test]
    fn wrong_settings_are_refused_with_their_key() {
        let llama3 = |low: f64, high: f64, factor: f64| json!({ "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high });
        let long =
            |short: serde_json::Value| json!({ "rope_type": "longrope", "short_factor": short, "long_factor": [1, 2, 3, 4] });
        let cases = [
            (json!({ "rope_type": "ntk", "factor": 2.0 }), "`rope_scaling.rope_type` is `\"ntk\"`, which is not supported"),
            (json!({ "rope_type": 7 }), "`rope_scaling.rope_type`: expected a text, got `7`"),
            (
                json!({ "rope_type": "linear", "type": "yarn", "factor": 2.0 }),
                "`rope_scaling.type`: expected what `rope_type` says",
            ),
            (json!({ "rope_type": "linear" }), "`rope_scaling.factor` is missing"),
            (json!({ "rope_type": "dynamic" }), "`rope_scaling.factor` is missing"),
            (
                json!({ "rope_type": "linear", "factor": 0.5 }),
                "`rope_scaling.factor`: expected a number of at least 1, got `0.5`",
            ),
            (
                json!({ "rope_type": "yarn", "factor": -4.0 }),
                "`rope_scaling.factor`: expected a number of at least 1, got `-4.0`",
            ),
            (json!({ "rope_type": "linear", "factor": "8x" }), "`rope_scaling.factor`: expected a number, got `\"8x\"`"),
            (
                json!({ "rope_type": "yarn", "factor": 4.0, "beta_fast": 1.0 }),
                "`rope_scaling.beta_fast`: expected more than `beta_slow`",
            ),
            (
                json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": -1 }),
                "`rope_scaling.original_max_position_embeddings`: expected a positive integer",
            ),
            (llama3(4.0, 1.0, 8.0), "`rope_scaling.high_freq_factor`: expected more than `low_freq_factor`"),
            (llama3(1.0, 4.0, 0.0), "`rope_scaling.factor`: expected a number of at least 1"),
            (json!({ "rope_type": "default", "rope_theta": 0 }), "`rope_scaling.rope_theta`: expected a number above 1"),
            (json!({ "partial_rotary_factor": 0.5 }), "`rope_scaling.partial_rotary_factor` is `0.5`, which is not supported"),
            (long(json!([1, 2, 3])), "`rope_scaling.short_factor`: expected a list of 4 numbers above 0"),
            (long(json!([1, 2, 3, 0])), "`rope_scaling.short_factor`: expected a list of 4 numbers above 0"),
            (json!("linear"), "`rope_scaling`: expected an object"),
        ];
        for (settings, expected) in cases {
            let error = plain(json!({ "rope_scaling": settings })).expect_err(expected);
            assert!(error.message().contains(expected), "{expected}: {error}");
        }
        assert!(plain(json!({ "partial_rotary_factor": 0.5 })).is_err());
        let odd = rotary(json!({}), 7, RotarySpelling::PLAIN).expect_err("odd");
        assert!(odd.message().contains("7 of a head's 7 components"), "{odd}");
        assert!(rotary(json!({ "rotary_pct": 0.01 }), 8, RotarySpelling::NEOX).is_err());
    }
}
