//! How the texts of a batch lie in its flat tokens, and the attention that belongs to it.
//!
//! *Padded*: rows of one width, one attention call for all. *Packed*: only real tokens, one segment a text; texts with the
//! same prompt share one segment for it, which is computed once, and their responses attend to it and to themselves.
//! Everything but attention works on single tokens, so a packed batch wastes nothing there.

use std::collections::BTreeMap;
use std::sync::Mutex;

use farmhand_core::Result;
use tch::{Device, Kind, Tensor};

use crate::forward_pass::Attention;
use crate::native;

/// A run of tokens of one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Tokens, ≥ 1.
    pub(crate) length: i64,
    /// The segment that comes before it in its text, if the text begins there.
    pub(crate) prefix: Option<usize>,
}

/// The places of texts in flat tokens `[n]`.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The position of each token in its text, `[n]`.
    positions: Vec<i64>,
    shape: Shape,
    /// What is added to scores: made once and used by every layer.
    masks: Mutex<BTreeMap<MaskShape, Tensor>>,
    /// What flash attention takes, made once and used by every layer.
    texts: Mutex<Option<FlashTexts>>,
}

/// The segments as flash attention takes them: each is a text of its own whose keys begin with those of its prompt.
#[derive(Debug)]
struct FlashTexts {
    starts: native::TextStarts,
    /// The token of each key, where prompts are repeated, `[keys]`; none where keys are the tokens in their order.
    keys: Option<Tensor>,
}

/// Query length, key length and window of a mask.
type MaskShape = (i64, i64, Option<usize>);

#[derive(Debug)]
enum Shape {
    /// `rows · width` tokens.
    Padded { rows: i64, width: i64 },
    /// The segments in order, a prefix before those that follow it.
    Packed { segments: Vec<Segment> },
}

impl Layout {
    /// Rows of one width, padded on the right.
    pub(crate) fn padded(rows: usize, width: usize) -> Self {
        let (rows, width) = (rows as i64, width as i64);
        let positions = (0..rows).flat_map(|_| 0..width).collect();
        Self { positions, shape: Shape::Padded { rows, width }, masks: Mutex::default(), texts: Mutex::default() }
    }

    /// Segments one after the other.
    pub(crate) fn packed(segments: Vec<Segment>) -> Self {
        let start = |segment: &Segment| segment.prefix.map_or(0, |prefix| segments[prefix].length);
        let positions = segments.iter().flat_map(|segment| start(segment)..start(segment) + segment.length).collect();
        Self { positions, shape: Shape::Packed { segments }, masks: Mutex::default(), texts: Mutex::default() }
    }

    /// `[n]`.
    pub(crate) fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// The first position and the tokens of each segment or padded row.
    pub(crate) fn places(&self) -> Vec<(i64, i64)> {
        match &self.shape {
            Shape::Padded { rows, width } => vec![(0, *width); *rows as usize],
            Shape::Packed { segments } => {
                let place = |segment: &Segment| (segment.prefix.map_or(0, |prefix| segments[prefix].length), segment.length);
                segments.iter().map(place).collect()
            }
        }
    }

    /// Queries `[n, heads, dim]`, keys and values `[n, kv_heads, dim]` → `[n, heads · dim]`.
    pub(crate) fn attend(&self, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let (device, kind, capped) = (queries.device(), queries.kind(), attention.softcap.is_some());
        let attended = if native::has_attention(device, kind) && !capped {
            native::attention(queries, keys, values, &self.segments(), attention.scale, attention.window)
        } else if native::has_flash_attention(device, kind, queries.size()[2]) && !capped {
            let flash = |q: &Tensor, k: &Tensor, v: &Tensor, starts: &native::TextStarts| {
                native::flash_attention([q, k, v], starts, attention.scale, attention.window)
            };
            // A GPU that is too old for the kernel refuses it.
            self.attend_to_texts(queries, keys, values, flash)
                .unwrap_or_else(|_| self.attend_by_libtorch(attention, queries, keys, values))
        } else {
            self.attend_by_libtorch(attention, queries, keys, values)
        };
        attended.flatten(1, 2)
    }

    /// As [`Layout::attend`], → `[n, heads, dim]`, by a kernel that knows texts of unequal lengths and no shared prompts.
    fn attend_to_texts(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        kernel: impl FnOnce(&Tensor, &Tensor, &Tensor, &native::TextStarts) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut texts = self.texts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let texts = texts.get_or_insert_with(|| self.flash_texts(queries.device()));
        let repeated = |x: &Tensor| texts.keys.as_ref().map_or_else(|| x.shallow_clone(), |keys| x.index_select(0, keys));
        kernel(queries, &repeated(keys), &repeated(values), &texts.starts)
    }

    fn flash_texts(&self, device: Device) -> FlashTexts {
        let segments: Vec<Segment> = match &self.shape {
            Shape::Padded { rows, width } => (0..*rows).map(|_| Segment { length: *width, prefix: None }).collect(),
            Shape::Packed { segments } => segments.clone(),
        };
        let mut first = Vec::with_capacity(segments.len());
        let (mut query_starts, mut key_starts, mut keys) = (vec![0i32], vec![0i32], Vec::new());
        let (mut n_queries, mut most_queries, mut most_keys) = (0, 0, 0);
        for segment in &segments {
            first.push(n_queries);
            let before = keys.len();
            if let Some(prefix) = segment.prefix {
                keys.extend(first[prefix]..first[prefix] + segments[prefix].length);
            }
            keys.extend(n_queries..n_queries + segment.length);
            n_queries += segment.length;
            query_starts.push(n_queries as i32);
            key_starts.push(keys.len() as i32);
            most_queries = most_queries.max(segment.length);
            most_keys = most_keys.max((keys.len() - before) as i64);
        }
        let on_device = |starts: &[i32]| Tensor::from_slice(starts).to_device(device);
        let starts =
            native::TextStarts { queries: on_device(&query_starts), keys: on_device(&key_starts), most_queries, most_keys };
        let repeats = segments.iter().any(|segment| segment.prefix.is_some());
        FlashTexts { starts, keys: repeats.then(|| Tensor::from_slice(&keys).to_device(device)) }
    }

    /// As [`Layout::attend`], → `[n, heads, dim]`, by libtorch's own attention, on any device.
    fn attend_by_libtorch(&self, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        match &self.shape {
            Shape::Padded { rows, width } => {
                let heads = |x: &Tensor| x.view([*rows, *width, x.size()[1], x.size()[2]]).transpose(1, 2);
                self.attend_rows(attention, &heads(queries), &heads(keys), &heads(values)).transpose(1, 2).reshape(queries.size())
            }
            Shape::Packed { segments } => {
                let lengths: Vec<i64> = segments.iter().map(|segment| segment.length).collect();
                let heads = |x: &Tensor| -> Vec<Tensor> {
                    x.split_with_sizes(&lengths, 0).iter().map(|part| part.transpose(0, 1).unsqueeze(0)).collect()
                };
                let (queries, keys, values) = (heads(queries), heads(keys), heads(values));
                let attended: Vec<Tensor> = segments
                    .iter()
                    .enumerate()
                    .map(|(i, segment)| {
                        let whole = |parts: &[Tensor]| match segment.prefix {
                            Some(prefix) => Tensor::cat(&[&parts[prefix], &parts[i]], 2),
                            None => parts[i].shallow_clone(),
                        };
                        let attended = self.attend_rows(attention, &queries[i], &whole(&keys), &whole(&values));
                        attended.squeeze_dim(0).transpose(0, 1)
                    })
                    .collect();
                Tensor::cat(&attended, 0)
            }
        }
    }

    /// `[segments, 2]`: the length of each, and the segment it continues or −1. A padded row is a segment with its padding.
    fn segments(&self) -> Tensor {
        let rows: Vec<i64> = match &self.shape {
            Shape::Padded { rows, width } => (0..*rows).flat_map(|_| [*width, -1]).collect(),
            Shape::Packed { segments } => {
                segments.iter().flat_map(|segment| [segment.length, segment.prefix.map_or(-1, |prefix| prefix as i64)]).collect()
            }
        };
        Tensor::from_slice(&rows).view([-1, 2])
    }

    /// Queries `[b, heads, q, dim]` that are the last of keys and values `[b, kv_heads, k, dim]` → `[b, heads, q, dim]`.
    fn attend_rows(&self, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let (q, k) = (queries.size()[2], keys.size()[2]);
        let window = attention.window.filter(|window| (*window as i64) < k);
        let grouped = queries.size()[1] != keys.size()[1];
        if let Some(cap) = attention.softcap {
            let group = queries.size()[1] / keys.size()[1];
            let (keys, values) =
                (keys.repeat_interleave_self_int(group, 1, None), values.repeat_interleave_self_int(group, 1, None));
            let scores = queries.matmul(&keys.transpose(2, 3)) * (attention.scale / cap);
            let scores = scores.tanh() * cap + self.mask(q, k, window, queries);
            return scores.softmax(-1, scores.kind()).matmul(&values);
        }
        let is_causal = q == k && window.is_none();
        let mask = (!is_causal).then(|| self.mask(q, k, window, queries));
        Tensor::scaled_dot_product_attention(queries, keys, values, mask, 0.0, is_causal, attention.scale, grouped)
    }

    /// What is added to the scores `[q, k]` of the last `q` of `k` tokens: 0 for what a token sees, −∞ for the rest.
    fn mask(&self, q: i64, k: i64, window: Option<usize>, like: &Tensor) -> Tensor {
        let mut masks = self.masks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mask = masks.entry((q, k, window)).or_insert_with(|| {
            let options = (Kind::Int64, like.device());
            let (own, other) = (Tensor::arange_start(k - q, k, options).unsqueeze(1), Tensor::arange(k, options).unsqueeze(0));
            let distance = own - other;
            let mut hidden = distance.lt(0);
            if let Some(window) = window {
                hidden = hidden.logical_or(&distance.ge(window as i64));
            }
            Tensor::zeros([q, k], (like.kind(), like.device())).masked_fill(&hidden, f64::NEG_INFINITY)
        });
        mask.shallow_clone()
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::language_model::normal;

    /// The attention of the last `q` of `k` tokens, written out, in `f64`.
    fn by_hand(attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let (q, k) = (queries.size()[0], keys.size()[0]);
        let group = queries.size()[1] / keys.size()[1];
        let wide = |x: &Tensor| x.to_kind(Kind::Double).repeat_interleave_self_int(group, 1, None).transpose(0, 1);
        let mut scores = queries.to_kind(Kind::Double).transpose(0, 1).matmul(&wide(keys).transpose(1, 2)) * attention.scale;
        if let Some(cap) = attention.softcap {
            scores = (scores / cap).tanh() * cap;
        }
        let mut hidden = vec![false; (q * k) as usize];
        for i in 0..q {
            for j in 0..k {
                let distance = k - q + i - j;
                if distance < 0 || attention.window.is_some_and(|window| distance >= window as i64) {
                    hidden[(i * k + j) as usize] = true;
                }
            }
        }
        let hidden = Tensor::from_slice(&hidden).view([q, k]);
        let scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
        scores.softmax(-1, Kind::Double).matmul(&wide(values)).transpose(0, 1).reshape([q, -1])
    }

    /// Output and the gradients of queries, keys and values for a loss that treats every output differently.
    fn with_gradients(inputs: &[Tensor; 3], attend: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> [Tensor; 4] {
        let [q, k, v] = inputs.each_ref().map(|x| x.detach().copy().set_requires_grad(true));
        let out = attend(&q, &k, &v);
        let weights = Tensor::arange(out.numel() as i64, (out.kind(), Device::Cpu)).sin().view_as(&out);
        (&out * weights).sum(out.kind()).backward();
        [out.detach(), q.grad(), k.grad(), v.grad()]
    }

    #[test]
    fn every_layout_and_kernel_gives_the_attention_of_each_text_written_out_and_its_gradients() {
        let causal = Attention::causal(20);
        let kinds = [
            causal,
            Attention { window: Some(3), ..causal },
            Attention { window: Some(70), ..causal },
            Attention { softcap: Some(2.0), scale: 0.9, window: None },
            Attention { softcap: Some(2.0), scale: 0.9, window: Some(4) },
        ];
        // Two responses to one prompt of 70 tokens and a text of its own; more than a tile and a panel of keys.
        let segment = |length, prefix| Segment { length, prefix };
        let packed = Layout::packed(vec![segment(70, None), segment(2, Some(0)), segment(51, None), segment(57, Some(0))]);
        // Start and length of each segment, and of what it continues.
        let packed_places = vec![(0, 70, 0), (70, 2, 70), (72, 51, 0), (123, 57, 70)];
        let padded = Layout::padded(3, 60);
        let padded_places = vec![(0, 60, 0), (60, 60, 0), (120, 60, 0)];
        let inputs = [(1, 4), (2, 2), (3, 2)].map(|(seed, heads)| normal(&[180, heads, 20], 1.0, Seed::root(seed)));
        for attention in kinds {
            for (layout, places) in [(&packed, &packed_places), (&padded, &padded_places)] {
                let expected = with_gradients(&inputs.each_ref().map(|x| x.to_kind(Kind::Double)), |q, k, v| {
                    let text = |&(start, length, prompt): &(i64, i64, i64)| {
                        let own = |x: &Tensor| x.narrow(0, start, length);
                        let whole = |x: &Tensor| Tensor::cat(&[x.narrow(0, 0, prompt), own(x)], 0);
                        by_hand(&attention, &own(q), &whole(k), &whole(v))
                    };
                    Tensor::cat(&places.iter().map(text).collect::<Vec<_>>(), 0)
                });
                // What a kernel for texts of unequal lengths computes from what it is given.
                let by_starts = |q: &Tensor, k: &Tensor, v: &Tensor, starts: &native::TextStarts| {
                    let numbers = |starts: &Tensor| Vec::<i64>::try_from(starts.to_kind(Kind::Int64)).expect("numbers");
                    let (of_queries, of_keys) = (numbers(&starts.queries), numbers(&starts.keys));
                    let text = |i: usize| {
                        let part = |x: &Tensor, starts: &[i64]| x.narrow(0, starts[i], starts[i + 1] - starts[i]);
                        by_hand(&attention, &part(q, &of_queries), &part(k, &of_keys), &part(v, &of_keys))
                    };
                    let longest = |starts: &[i64]| starts.windows(2).map(|pair| pair[1] - pair[0]).max();
                    assert_eq!(longest(&of_queries), Some(starts.most_queries));
                    assert_eq!(longest(&of_keys), Some(starts.most_keys));
                    Ok(Tensor::cat(&(0..of_queries.len() - 1).map(text).collect::<Vec<_>>(), 0).to_kind(Kind::Float))
                };
                for way in 0..3 {
                    let attended = with_gradients(&inputs, |q, k, v| match way {
                        0 => layout.attend(&attention, q, k, v),
                        1 => layout.attend_by_libtorch(&attention, q, k, v).flatten(1, 2),
                        _ => layout.attend_to_texts(q, k, v, by_starts).expect("attended"),
                    });
                    for (ours, expected) in attended.iter().zip(&expected) {
                        let difference = (ours - expected).abs().max().double_value(&[]);
                        assert!(difference < 1e-5, "{attention:?}: {difference}");
                    }
                }
            }
        }
    }
}
