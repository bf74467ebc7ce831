//! Rotary position embeddings and their scalings.
//!
//! Su et al., 2021, <https://arxiv.org/abs/2104.09864>. A head's vector is read as `d/2` pairs (component `i`
//! with component `i + d/2`, the layout of Hugging Face checkpoints), and pair `i` is turned by the position
//! times `theta^(−2i/d)`. Scalings change these frequencies so that a model reads longer texts.

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
}

/// The rotary settings of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    head_dim: usize,
    theta: f64,
    scaling: Scaling,
}

impl Rotary {
    /// Reads `rope_parameters` (new spelling), or `rope_theta` and `rope_scaling` (old spelling).
    pub(crate) fn read(json: &ConfigJson<'_>, head_dim: usize) -> Result<Self> {
        if !head_dim.is_multiple_of(2) {
            return Err(Error::invalid_config(format!(
                "{}: head size {head_dim} is odd, rotary embeddings need pairs",
                json.source()
            )));
        }
        let new = json.object("rope_parameters")?;
        let settings = match new {
            Some(settings) => Some(settings),
            None => json.object("rope_scaling")?,
        };
        if let Some(key) = settings.and_then(|settings| settings.nested_key()) {
            let settings = settings.expect("it has a key");
            return Err(settings.unsupported(key, "one rotary setting for all layers"));
        }
        let theta_default = json.positive_or("rope_theta", 10_000.0)?;
        let theta = match &new {
            Some(settings) => settings.positive_or("rope_theta", theta_default)?,
            None => theta_default,
        };
        for object in settings.iter().chain([json]) {
            if object.number_or("partial_rotary_factor", 1.0)? != 1.0 {
                return Err(object.unsupported("partial_rotary_factor", "1"));
            }
        }
        let scaling = match settings {
            Some(settings) => read_scaling(&settings, json)?,
            None => Scaling::None,
        };
        Ok(Self { head_dim, theta, scaling })
    }

    /// The angle a pair turns by per position, `[d/2]`, computed in `f32` as transformers does.
    fn frequencies(&self, device: Device) -> Tensor {
        let dim = self.head_dim as f64;
        let exponents = Tensor::arange_start_step(0, self.head_dim as i64, 2, (Kind::Float, device)) / dim;
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
                let index = Tensor::arange(self.head_dim as i64 / 2, (Kind::Float, device));
                let interpolated = ((index - low) / width).clamp(0.0, 1.0);
                (&plain / *factor) * &interpolated + &plain * (1.0 - &interpolated)
            }
        }
    }

    /// The factor YaRN puts on both tables, 1 otherwise.
    fn amplitude(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention, .. } => attention,
            _ => 1.0,
        }
    }

    /// The embeddings with their frequencies computed, on a device.
    pub(crate) fn on(&self, device: Device) -> RotaryEmbedding {
        let half = self.head_dim as i64 / 2;
        RotaryEmbedding { frequencies: self.frequencies(device), amplitude: self.amplitude(), half }
    }
}

fn read_scaling(settings: &ConfigJson<'_>, json: &ConfigJson<'_>) -> Result<Scaling> {
    let key = if settings.is_set("rope_type") || !settings.is_set("type") { "rope_type" } else { "type" };
    let original = || {
        let default = json.size_or("max_position_embeddings", 2048)?;
        settings.size_or("original_max_position_embeddings", json.size_or("original_max_position_embeddings", default)?)
    };
    match settings.text_or(key, "default")? {
        "default" => Ok(Scaling::None),
        // Dynamic scaling starts beyond `max_position_embeddings`, which is where this crate refuses to go.
        "dynamic" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: settings.positive("factor")? }),
        "llama3" => {
            let (low, high) = (settings.positive("low_freq_factor")?, settings.positive("high_freq_factor")?);
            if low >= high {
                return Err(settings.wrong("high_freq_factor", &format!("more than `low_freq_factor`, which is {low}")));
            }
            Ok(Scaling::Llama3 { factor: settings.positive("factor")?, low, high, original: original()? as f64 })
        }
        "yarn" => {
            let factor = settings.positive("factor")?;
            let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let (mscale, all) = (settings.number_or("mscale", 0.0)?, settings.number_or("mscale_all_dim", 0.0)?);
            let inferred = if mscale != 0.0 && all != 0.0 { magnitude(mscale) / magnitude(all) } else { magnitude(1.0) };
            Ok(Scaling::Yarn {
                factor,
                fast: settings.positive_or("beta_fast", 32.0)?,
                slow: settings.positive_or("beta_slow", 1.0)?,
                original: original()? as f64,
                truncate: settings.flag_or("truncate", true)?,
                attention: settings.positive_or("attention_factor", inferred)?,
            })
        }
        _ => Err(settings.unsupported(key, "one of default, linear, dynamic, llama3, yarn")),
    }
}

/// Rotary embeddings ready for use.
pub(crate) struct RotaryEmbedding {
    /// `[d/2]`.
    frequencies: Tensor,
    amplitude: f64,
    half: i64,
}

impl RotaryEmbedding {
    /// The tables for these positions (any shape `[..]`, integers), each `[.., 1, d]`: cosines, and sines with
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
    /// Turns queries or keys `[n, heads, d]`.
    pub(crate) fn rotate(&self, x: &Tensor) -> Tensor {
        // Rolling by half swaps the members of every pair in one operation; the signs are in the sines.
        (x * &self.cosines).addcmul(&x.roll([self.half], [-1]), &self.signed_sines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(json: serde_json::Value, head_dim: usize) -> Result<Rotary> {
        let serde_json::Value::Object(fields) = json else { panic!("an object") };
        Rotary::read(&ConfigJson::new(&fields, "`config.json`"), head_dim)
    }

    #[test]
    fn a_pair_is_turned_by_position_times_frequency() {
        let rotary = rotary(serde_json::json!({ "rope_theta": 100.0 }), 4).expect("valid");
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([1, 1, 1, 4]);
        let turned = rotary.on(Device::Cpu).tables(&Tensor::from_slice(&[3i64])).rotate(&x);
        for (pair, angle) in [(0, 3.0f64), (1, 0.3)] {
            let (a, b) = (1.0 + pair as f64, 3.0 + pair as f64);
            let first = turned.double_value(&[0, 0, 0, pair]);
            let second = turned.double_value(&[0, 0, 0, pair + 2]);
            assert!((first - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
            assert!((second - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
        }
    }

    #[test]
    fn both_spellings_mean_the_same_and_unknown_kinds_are_refused_by_name() {
        let old = serde_json::json!({ "rope_theta": 5e5, "rope_scaling": { "type": "linear", "factor": 2.0 } });
        let new = serde_json::json!({ "rope_parameters": { "rope_type": "linear", "rope_theta": 5e5, "factor": 2.0 } });
        assert_eq!(rotary(old, 8).expect("valid"), rotary(new, 8).expect("valid"));
        let unknown = serde_json::json!({ "rope_scaling": { "rope_type": "longrope", "factor": 2.0 } });
        let error = rotary(unknown, 8).expect_err("not implemented");
        assert!(error.message().contains("longrope"), "{error}");
        assert!(rotary(serde_json::json!({ "partial_rotary_factor": 0.5 }), 8).is_err());
        assert!(rotary(serde_json::json!({}), 7).is_err());
    }
}
