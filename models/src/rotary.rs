//! Rotary position embeddings and their scalings.
//!
//! Su et al., 2021, <https://arxiv.org/abs/2104.09864>. A head's vector is read as `d/2` pairs (component `i`
//! with component `i + d/2`, the layout of Hugging Face checkpoints), and pair `i` is turned by the position
//! times `theta^(−2i/d)`. Scalings change these frequencies so that a model reads longer texts. Some families turn only
//! the first d components of a head.

use farmhand_core::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::config_json::ConfigJson;
use crate::native::{self, cpu};
use crate::rope_scaling::RopeScaling;

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
    scaling: RopeScaling,
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
        let scaling = settings.map_or(Ok(RopeScaling::None), |settings| RopeScaling::read(settings, json, dim))?;
        Ok(Self { dim, theta, scaling })
    }

    /// The longest text the settings are made for, in tokens, where that is less than the model's context.
    pub(crate) fn longest(&self) -> Option<usize> {
        self.scaling.longest()
    }

    /// The embeddings with their frequencies computed, on a device.
    pub(crate) fn on(&self, device: Device) -> RotaryEmbedding {
        RotaryEmbedding {
            frequencies: self.scaling.frequencies(self.theta, self.dim, device),
            amplitude: self.scaling.amplitude(),
        }
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

/// Rotary embeddings ready for use.
pub(crate) struct RotaryEmbedding {
    /// `[dim/2]`.
    frequencies: Tensor,
    amplitude: f64,
}

impl RotaryEmbedding {
    /// The tables for these positions (any shape `[..]`, integers), each `[.., 1, dim]`: cosines, and sines with
    /// the signs of the rotation.
    pub(crate) fn tables(&self, positions: &Tensor) -> RotaryTables {
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies;
        // In f64, so that what is left after rounding does not depend on a token's place in a vector loop.
        let exact = angles.to_kind(Kind::Double);
        let (mut cosines, mut sines) = (exact.cos().to_kind(Kind::Float), exact.sin().to_kind(Kind::Float));
        if self.amplitude != 1.0 {
            (cosines, sines) = (cosines * self.amplitude, sines * self.amplitude);
        }
        RotaryTables {
            cosines: Tensor::cat(&[&cosines, &cosines], -1).unsqueeze(-2),
            signed_sines: Tensor::cat(&[&sines.neg(), &sines], -1).unsqueeze(-2),
        }
    }
}

/// Cosines and signed sines of one forward pass.
pub(crate) struct RotaryTables {
    cosines: Tensor,
    signed_sines: Tensor,
}

impl RotaryTables {
    /// Another handle on the same tables.
    pub(crate) fn shallow_clone(&self) -> Self {
        let (cosines, signed_sines) = (self.cosines.shallow_clone(), self.signed_sines.shallow_clone());
        Self { cosines, signed_sines }
    }

    /// Turns queries or keys `[n, heads, d]`.
    pub(crate) fn rotate(&self, x: &Tensor) -> Tensor {
        native::rotate(x, &self.cosines, &self.signed_sines)
    }

    /// As [`RotaryTables::rotate`] by the CPU kernel: a token's numbers are the same whatever tokens are beside it.
    pub(crate) fn rotate_by_kernel(&self, x: &Tensor) -> Tensor {
        cpu::rotate(x, &self.cosines, &self.signed_sines)
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
        let refused = |json| plain(json).expect_err("refused").to_string();
        let theta = json!({ "rope_scaling": { "rope_theta": 0 } });
        assert!(refused(theta).contains("`rope_scaling.rope_theta`: expected a number above 1"));
        let partial = json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } });
        assert!(refused(partial).contains("`rope_parameters.partial_rotary_factor` is `0.5`, which is not supported"));
        assert!(refused(json!({ "partial_rotary_factor": 0.5 })).contains("`partial_rotary_factor` is `0.5`"));
        assert!(refused(json!({ "rope_scaling": "linear" })).contains("`rope_scaling`: expected an object"));
        let odd = rotary(json!({}), 7, RotarySpelling::PLAIN).expect_err("odd");
        assert!(odd.message().contains("7 of a head's 7 components"), "{odd}");
        assert!(rotary(json!({ "rotary_pct": 0.01 }), 8, RotarySpelling::NEOX).is_err());
        assert!(rotary(json!({ "rotary_pct": 1.5 }), 8, RotarySpelling::NEOX).is_err());
    }
}
