//! From logits to the next token of every row: penalties and truncation, one uniform number a row.
//!
//! On the CPU a kernel draws row by row (models/shim/cpu_sampling.h); here is the same over the whole batch at once, in tensors, for
//! every device.
//!
//! The order is transformers': repetition penalty, temperature, top-k, top-p, min-p, each on what the one before left.
//! Every truncation keeps the tokens at or above a threshold of its row, so tokens of exactly equal probability stand or
//! fall together and nothing depends on the order a sort leaves them in. A token is drawn by inverting the cumulative
//! distribution, in the order of token ids, at the row's uniform number.

use farmhand_core::types::SamplingParams;
use farmhand_core::{Error, Result};
use tch::{Kind, Tensor};

use crate::native::{cpu, sample};

/// Tokens looked at first for top-p; more only when these do not reach it.
const FIRST_CANDIDATES: i64 = 256;

/// The next token of each row and, when asked for, its log-probability under the distribution it was drawn from.
struct Drawn {
    /// `[b]`, i64.
    tokens: Tensor,
    /// `[b]`, f32, in nats; 0 for greedy decoding, which leaves no choice.
    log_probs: Option<Tensor>,
}

/// Draws a token from each row of logits `[b, v]`, which may be changed: the token and its log-probability. `seen` lists the
/// tokens that a repetition penalty applies to. With `kernels`, `f32` logits on the CPU are drawn from by this crate's kernel.
///
/// # Errors
/// When a logit is not finite.
pub(crate) fn draw_rows(
    logits: &Tensor,
    seen: &[&[u32]],
    params: &SamplingParams,
    uniforms: &[f64],
    kernels: bool,
) -> Result<Vec<(u32, f32)>> {
    let not_finite = || {
        Error::non_finite("the model's logits are not finite while it generates")
            .with_hint("its weights are damaged or its training diverged")
    };
    if kernels && cpu::is_known(logits) {
        return sample(logits, params, seen, uniforms).into_iter().map(|drawn| drawn.ok_or_else(not_finite)).collect();
    }
    // From logits that are not numbers a token would be drawn all the same.
    if !logits.sum(Kind::Double).double_value(&[]).is_finite() {
        return Err(not_finite());
    }
    let marks = (params.repetition_penalty != 1.0).then(|| marks(seen, logits));
    let drawn = draw(logits, marks.as_ref(), params, uniforms);
    let tokens = Vec::<i64>::try_from(&drawn.tokens).expect("token ids are a vector of integers");
    let log_probs = match drawn.log_probs {
        Some(log_probs) => Vec::<f32>::try_from(log_probs).expect("log-probs are a vector of floats"),
        None => vec![0.0; tokens.len()],
    };
    Ok(tokens.into_iter().map(|token| token as u32).zip(log_probs).collect())
}

/// Which tokens each list holds, `[b, v]`.
fn marks(seen: &[&[u32]], logits: &Tensor) -> Tensor {
    let v = logits.size()[1] as usize;
    let mut marks = vec![false; seen.len() * v];
    for (row, tokens) in seen.iter().enumerate() {
        for token in *tokens {
            marks[row * v + *token as usize] = true;
        }
    }
    Tensor::from_slice(&marks).view([seen.len() as i64, v as i64]).to_device(logits.device())
}

/// Draws one token a row from logits `[b, v]`. `seen` `[b, v]` marks the tokens a repetition penalty applies to;
/// `uniforms` has one number in [0, 1) a row and is not read when decoding is greedy.
fn draw(logits: &Tensor, seen: Option<&Tensor>, params: &SamplingParams, uniforms: &[f64]) -> Drawn {
    let penalised = seen.map(|seen| penalise(logits, seen, params.repetition_penalty));
    let logits = penalised.as_ref().unwrap_or(logits);
    if params.is_greedy() {
        // The first of equal logits, on every device.
        let tokens = logits.argmax(-1, false);
        let log_probs = params.log_probs.then(|| Tensor::zeros(tokens.size(), (Kind::Float, tokens.device())));
        return Drawn { tokens, log_probs };
    }
    let kept = truncate(&(logits / params.temperature), params);
    let log_probs = kept.log_softmax(-1, Kind::Float);
    let tokens = invert(&log_probs, uniforms);
    let log_probs = params.log_probs.then(|| log_probs.gather(1, &tokens.unsqueeze(1), false).squeeze_dim(1));
    Drawn { tokens, log_probs }
}

/// Keskar et al., 2019, <https://arxiv.org/abs/1909.05858>: logits of seen tokens are divided by the penalty when positive
/// and multiplied when negative.
fn penalise(logits: &Tensor, seen: &Tensor, penalty: f64) -> Tensor {
    let lowered = (logits * penalty).where_self(&logits.lt(0.0), &(logits / penalty));
    lowered.where_self(seen, logits)
}

/// Logits with −∞ at the tokens that top-k, top-p and min-p drop.
fn truncate(logits: &Tensor, params: &SamplingParams) -> Tensor {
    let v = logits.size()[1];
    let top_k = i64::from(params.top_k);
    let mut kept = logits.shallow_clone();
    if (1..v).contains(&top_k) {
        kept = keep_from(&kept, &nth_largest(&kept, top_k));
    }
    if params.top_p < 1.0 {
        kept = keep_from(&kept, &top_p_threshold(&kept, params.top_p));
    }
    if params.min_p > 0.0 {
        let largest = kept.amax([-1i64].as_slice(), true);
        kept = keep_from(&kept, &(largest + params.min_p.ln()));
    }
    kept
}

fn keep_from(logits: &Tensor, threshold: &Tensor) -> Tensor {
    logits.masked_fill(&logits.lt_tensor(threshold), f64::NEG_INFINITY)
}

/// The n-th largest logit of each row, `[b, 1]`.
fn nth_largest(logits: &Tensor, n: i64) -> Tensor {
    let (values, _) = logits.topk(n, -1, true, true);
    values.narrow(1, n - 1, 1)
}

/// The smallest logit of each row that is still needed for the probability of it and all larger ones to reach `top_p`,
/// `[b, 1]`.
fn top_p_threshold(logits: &Tensor, top_p: f64) -> Tensor {
    let v = logits.size()[1];
    let normaliser = logits.to_kind(Kind::Double).logsumexp([-1i64].as_slice(), true);
    let mut candidates = FIRST_CANDIDATES.min(v);
    loop {
        let (largest, _) = logits.topk(candidates, -1, true, true);
        let probabilities = (&largest - &normaliser).exp();
        let reached = probabilities.cumsum(-1, Kind::Double);
        let is_enough = candidates == v || reached.narrow(1, candidates - 1, 1).ge(top_p).all().int64_value(&[]) == 1;
        if is_enough {
            let before = reached - probabilities;
            let n_kept = before.lt(top_p).sum_dim_intlist([-1i64].as_slice(), true, Kind::Int64).clamp(1, candidates);
            return largest.gather(1, &(n_kept - 1), false);
        }
        candidates = (candidates * 8).min(v);
    }
}

/// The first token of each row at which the cumulative probability exceeds the row's uniform number.
fn invert(log_probs: &Tensor, uniforms: &[f64]) -> Tensor {
    let v = log_probs.size()[1];
    let cumulative = log_probs.to_kind(Kind::Double).exp_().cumsum_(-1, Kind::Double);
    let totals = cumulative.narrow(1, v - 1, 1);
    let uniforms = Tensor::from_slice(uniforms).to_device(log_probs.device()).unsqueeze(1);
    // Rounding must not push the target up to the total, beyond the last token that can be drawn.
    let targets = (uniforms * &totals).minimum(&(&totals * (1.0 - f64::EPSILON)));
    targets.searchsorted(&cumulative, false, true, "right", None::<Tensor>).squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    fn params() -> SamplingParams {
        SamplingParams { log_probs: true, ..SamplingParams::default() }
    }

    fn row(logits: &[f32]) -> Tensor {
        Tensor::from_slice(logits).unsqueeze(0)
    }

    /// Which tokens of a row are kept.
    fn kept(logits: &[f32], params: &SamplingParams) -> Vec<usize> {
        let kept = Vec::<f32>::try_from(truncate(&row(logits), params).squeeze_dim(0)).expect("numbers");
        (0..kept.len()).filter(|i| kept[*i].is_finite()).collect()
    }

    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn truncations_keep_the_smallest_set_they_promise_and_ties_stand_together() {
        let logits = logits_of(&[0.1, 0.4, 0.2, 0.25, 0.05]);
        assert_eq!(kept(&logits, &SamplingParams { top_k: 2, ..params() }), [1, 3]);
        assert_eq!(kept(&logits, &SamplingParams { top_k: 9, ..params() }), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&logits, &SamplingParams { top_p: 0.6, ..params() }), [1, 3]);
        assert_eq!(kept(&logits, &SamplingParams { top_p: 0.66, ..params() }), [1, 2, 3]);
        assert_eq!(kept(&logits, &SamplingParams { top_p: 1e-9, ..params() }), [1]);
        assert_eq!(kept(&logits, &SamplingParams { min_p: 0.45, ..params() }), [1, 2, 3]);
        // 0.4 and 0.25 of what top-k left are 0.62 and 0.38: top-p works on the renormalised set.
        assert_eq!(kept(&logits, &SamplingParams { top_k: 2, top_p: 0.6, ..params() }), [1]);
        assert_eq!(kept(&[1.0, 3.0, 3.0, 0.0], &SamplingParams { top_k: 1, ..params() }), [1, 2]);
    }

    #[test]
    fn top_p_finds_the_same_set_when_it_needs_many_candidates() {
        let mut rng = Seed::root(1).rng();
        let logits: Vec<f32> = (0..5000).map(|_| rng.normal() as f32).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        for top_p in [0.01, 0.3, 0.9, 0.9999] {
            let (mut sum, mut expected) = (0.0, Vec::new());
            for i in &order {
                if sum >= top_p {
                    break;
                }
                sum += f64::from(logits[*i]).exp() / total;
                expected.push(*i);
            }
            expected.sort_unstable();
            assert_eq!(kept(&logits, &SamplingParams { top_p, ..params() }), expected, "top_p {top_p}");
        }
    }

    #[test]
    fn drawn_tokens_follow_the_distribution_and_carry_its_log_probabilities() {
        let probabilities = [0.5f32, 0.0, 0.2, 0.3];
        let (n, mut counts) = (4000, [0usize; 4]);
        let mut rng = Seed::root(2).rng();
        let uniforms: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
        let drawn = draw(&row(&logits_of(&probabilities)).repeat([n as i64, 1]), None, &params(), &uniforms);
        let tokens = Vec::<i64>::try_from(&drawn.tokens).expect("numbers");
        let log_probs = Vec::<f32>::try_from(drawn.log_probs.expect("asked for")).expect("numbers");
        for (token, log_prob) in tokens.iter().zip(log_probs) {
            counts[*token as usize] += 1;
            assert!((log_prob - probabilities[*token as usize].ln()).abs() < 1e-5);
        }
        assert_eq!(counts[1], 0);
        for (count, p) in counts.iter().zip(probabilities) {
            assert!((*count as f32 / n as f32 - p).abs() < 0.03);
        }
    }

    #[test]
    fn the_ends_of_the_uniform_range_give_tokens_that_can_be_drawn() {
        let logits = row(&logits_of(&[0.0, 0.7, 0.3, 0.0]));
        for (uniform, expected) in [(0.0, 1), (0.699, 1), (0.701, 2), (1.0 - f64::EPSILON / 2.0, 2)] {
            assert_eq!(draw(&logits, None, &params(), &[uniform]).tokens.int64_value(&[0]), expected);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equal_logits_after_the_penalty() {
        let greedy = SamplingParams { temperature: 0.0, repetition_penalty: 2.0, ..params() };
        assert_eq!(draw(&row(&[1.0, 3.0, 3.0]), None, &greedy, &[]).tokens.int64_value(&[0]), 1);
        let seen = Tensor::from_slice(&[false, true, false]).unsqueeze(0);
        let drawn = draw(&row(&[1.0, 3.0, 2.0]), Some(&seen), &greedy, &[]);
        assert_eq!(drawn.tokens.int64_value(&[0]), 2);
        assert_eq!(drawn.log_probs.expect("asked for").double_value(&[0]), 0.0);
        let lowered = penalise(&row(&[1.0, -3.0, 2.0]), &seen, 2.0);
        assert_eq!(lowered.double_value(&[0, 1]), -6.0);
    }
}
