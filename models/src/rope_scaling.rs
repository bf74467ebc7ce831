//! Scalings of rotary embeddings: how the frequencies are changed so that a model reads longer texts.

use farmhand_core::Result;
use tch::{Device, Kind, Tensor};

use crate::config_json::ConfigJson;

/// How the frequencies are changed for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RopeScaling {
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
    /// depend on how long its text becomes, so such texts are beyond the context here ([`RopeScaling::longest`]).
    LongRope {
        divisors: Vec<f64>,
        original: usize,
        attention: f64,
    },
}

impl RopeScaling {
    /// Reads one settings object; `json` is the whole configuration and `dim` how many components of a head are turned.
    pub(crate) fn read(settings: &ConfigJson<'_>, json: &ConfigJson<'_>, dim: usize) -> Result<Self> {
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
            "default" => Ok(Self::None),
            // Dynamic scaling starts beyond `max_position_embeddings`, which is where this crate refuses to go.
            "dynamic" => factor().map(|_| Self::None),
            "linear" => Ok(Self::Linear { factor: factor()? }),
            "llama3" => {
                let (low, high) = (settings.positive("low_freq_factor")?, settings.positive("high_freq_factor")?);
                if low >= high {
                    return Err(settings.wrong("high_freq_factor", &format!("more than `low_freq_factor`, which is {low}")));
                }
                Ok(Self::Llama3 { factor: factor()?, low, high, original: original()? as f64 })
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
                Ok(Self::Yarn {
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
                Ok(Self::LongRope { divisors, original, attention: settings.positive_or("attention_factor", inferred)? })
            }
            _ => Err(settings.unsupported(key, "one of default, linear, dynamic, llama3, yarn, longrope")),
        }
    }

    /// The longest text the settings are made for, in tokens, where that is less than the model's context.
    pub(crate) fn longest(&self) -> Option<usize> {
        match self {
            Self::LongRope { original, .. } => Some(*original),
            _ => None,
        }
    }

    /// The angle a pair turns by per position, `[dim/2]`, computed in `f32` as transformers does.
    pub(crate) fn frequencies(&self, theta: f64, dim: usize, device: Device) -> Tensor {
        let n = dim as f64;
        let exponents = Tensor::arange_start_step(0, dim as i64, 2, (Kind::Float, device)) / n;
        let periods = Tensor::pow_scalar(theta, &exponents);
        let plain = periods.reciprocal();
        match self {
            Self::None => plain,
            Self::Linear { factor } => plain / *factor,
            Self::Llama3 { factor, low, high, original } => {
                let wavelengths = plain.reciprocal() * std::f64::consts::TAU;
                let slow = wavelengths.gt(original / low);
                let fast = wavelengths.lt(original / high);
                let share = (wavelengths.reciprocal() * *original - *low) / (high - low);
                let blended = (1.0 - &share) * &plain / *factor + &share * &plain;
                let scaled = (&plain / *factor).where_self(&slow, &blended);
                plain.where_self(&fast, &scaled)
            }
            Self::Yarn { factor, fast, slow, original, truncate, .. } => {
                let dimension = |turns: f64| n * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
                let (low, high) = (dimension(*fast), dimension(*slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(n - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let index = Tensor::arange(dim as i64 / 2, (Kind::Float, device));
                let interpolated = ((index - low) / width).clamp(0.0, 1.0);
                (&plain / *factor) * &interpolated + &plain * (1.0 - &interpolated)
            }
            Self::LongRope { divisors, .. } => {
                let divisors = Tensor::from_slice(divisors).to_kind(Kind::Float).to_device(device);
                (divisors * periods).reciprocal()
            }
        }
    }

    /// The factor on both tables.
    pub(crate) fn amplitude(&self) -> f64 {
        match self {
            Self::Yarn { attention, .. } | Self::LongRope { attention, .. } => *attention,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(settings: Value) -> Result<RopeScaling> {
        let Value::Object(fields) = json!({ "rope_scaling": settings, "max_position_embeddings": 64 }) else {
            panic!("an object")
        };
        let json = ConfigJson::new(&fields, "`config.json`");
        RopeScaling::read(&json.object("rope_scaling").expect("an object").expect("there"), &json, 8)
    }

    #[test]
    fn wrong_settings_are_refused_with_their_key() {
        let llama3 = |low: f64, high: f64, factor: f64| json!({ "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high });
        let long = |short: Value| json!({ "rope_type": "longrope", "short_factor": short, "long_factor": [1, 2, 3, 4] });
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
            (long(json!([1, 2, 3])), "`rope_scaling.short_factor`: expected a list of 4 numbers above 0"),
            (long(json!([1, 2, 3, 0])), "`rope_scaling.short_factor`: expected a list of 4 numbers above 0"),
        ];
        for (settings, expected) in cases {
            let error = read(settings).expect_err(expected);
            assert!(error.message().contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn longrope_ends_at_the_original_context_which_may_stand_beside_the_settings() {
        let lists = json!({ "type": "su", "short_factor": [1, 1, 2, 4], "long_factor": [1, 2, 4, 8], "original_max_position_embeddings": 16 });
        let scaling = read(lists).expect("valid");
        assert_eq!(scaling.longest(), Some(16));
        // √(1 + ln(64/16) / ln 16)
        assert!((scaling.amplitude() - 1.5f64.sqrt()).abs() < 1e-12);
        let slowest = scaling.frequencies(16.0, 8, Device::Cpu).double_value(&[3]);
        assert!((slowest - 16f64.powf(-0.75) / 4.0).abs() < 1e-8, "its divisor is 4");
    }
}
