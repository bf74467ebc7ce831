// The next token of one row of logits: penalty, temperature, top-k, top-p, min-p, one uniform number.
//
// Every truncation keeps the tokens at or above a threshold, found by counting, or adding up probabilities, over the leading bits of
// the logits and then over the following bits of those that share them. No sort, and ties stand or fall together.

#pragma once

#include "cpu_kernels.h"
#include "cpu_simd.h"

namespace {

/// Numbers added up in one go.
constexpr long RUN = 256;

/// A float as an integer that orders as the float does.
static inline uint32_t ordered(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
static inline float unordered(uint32_t key) {
  uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// The largest threshold such that the weights of the logits at or above it reach `target`. A weight is 1, or exp(logit − top).
static float threshold(const float* x, long n, double target, const float* weights, float floor) {
  uint32_t prefix = 0, mask = 0;
  double above = 0;
  const int shifts[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
  double bins[2048];
  for (int level = 0; level < 3; level++) {
    const int size = 1 << bits[level];
    for (int i = 0; i < size; i++) bins[i] = 0;
    for (long i = 0; i < n; i++) {
      uint32_t key = ordered(x[i]);
      if ((key & mask) == prefix && x[i] >= floor) bins[(key >> shifts[level]) & (size - 1)] += weights ? (double)weights[i] : 1.0;
    }
    int bin = size - 1, lowest = -1;
    for (; bin >= 0; bin--) {
      if (bins[bin] > 0) {
        lowest = bin;
        if (above + bins[bin] >= target) break;
        above += bins[bin];
      }
    }
    if (bin < 0) {
      // Rounding left the sum below the target: everything is kept.
      if (lowest < 0) return floor;
      bin = lowest;
      above -= bins[bin];
    }
    prefix |= (uint32_t)bin << shifts[level];
    mask |= (uint32_t)(size - 1) << shifts[level];
  }
  return unordered(prefix);
}

/// The token drawn, or -1 when a logit is not finite. Changes the logits. `scratch` has room for v numbers.
static long sample_row(float* x, long v, const FarmhandSampling& params, const uint32_t* seen, long n_seen, double uniform,
                       float* scratch, float* log_prob) {
  const Vec low = splat(-__builtin_inff());
  Vec most = low, wrong = zero();
  long i = 0;
  for (; i + LANES <= v; i += LANES) {
    Vec a = load(x + i);
    wrong = wrong + (a - a);
  }
  float finite = sum(wrong);
  for (; i < v; i++) finite += x[i] - x[i];
  if (!(finite == 0.0f)) return -1;

  const float penalty = (float)params.repetition_penalty;
  for (long s = 0; s < n_seen; s++) x[seen[s]] = x[seen[s]] < 0 ? x[seen[s]] * penalty : x[seen[s]] / penalty;
  const bool greedy = params.temperature == 0;
  const float temperature = (float)params.temperature;
  if (!greedy && temperature != 1.0f) {
    for (i = 0; i + LANES <= v; i += LANES) store(x + i, load(x + i) / splat(temperature));
    for (; i < v; i++) x[i] /= temperature;
  }
  for (i = 0; i + LANES <= v; i += LANES) most = max(most, load(x + i));
  float top = largest(most);
  for (; i < v; i++) top = x[i] > top ? x[i] : top;
  if (greedy) {
    *log_prob = 0;
    for (i = 0; i < v; i++)
      if (x[i] == top) return i;
    return -1;
  }

  float floor = -__builtin_inff();
  if (params.top_k > 0 && params.top_k < v) floor = threshold(x, v, (double)params.top_k, nullptr, floor);
  const double runs = (v + RUN - 1) / RUN;
  // Probabilities up to a factor, and the sum of every run of them behind them.
  double* sums = (double*)(scratch + (v + RUN) / RUN * RUN);
  double total = 0;
  for (int pass = 0;; pass++) {
    total = 0;
    for (long run = 0; run < runs; run++) {
      const long from = run * RUN, to = from + RUN < v ? from + RUN : v;
      Vec lanes = zero();
      for (i = from; i < to; i += LANES) {
        const long n = to - i < LANES ? to - i : LANES;
        Vec a = n == LANES ? load(x + i) : load_first(x + i, n);
        Vec p = where_less(a, splat(floor), zero(), exp(a - splat(top)));
        if (n < LANES) {
          store_first(scratch + i, p, n);
          p = load_first(scratch + i, n);
        } else {
          store(scratch + i, p);
        }
        lanes = lanes + p;
      }
      sums[run] = (double)sum(lanes);
      total += sums[run];
    }
    if (pass == 1) break;
    float higher = floor;
    if (params.top_p < 1) higher = threshold(x, v, params.top_p * total, scratch, floor);
    if (params.min_p > 0) {
      float least = top + (float)__builtin_log(params.min_p);
      if (least > higher) higher = least;
    }
    if (!(higher > floor)) break;
    floor = higher;
  }

  // Rounding must not push the target up to the total, beyond the last token that can be drawn.
  double target = uniform * total, limit = total * (1 - __DBL_EPSILON__);
  if (target > limit) target = limit;
  double before = 0;
  long run = 0, last = -1;
  for (; run < runs - 1 && before + sums[run] <= target; run++) before += sums[run];
  long token = -1;
  for (; token < 0 && run < runs; run++) {
    const long from = run * RUN, to = from + RUN < v ? from + RUN : v;
    for (i = from; i < to; i++) {
      if (scratch[i] > 0) last = i;
      before += (double)scratch[i];
      if (before > target && scratch[i] > 0) {
        token = i;
        break;
      }
    }
    // The run's own sum may be larger by rounding than that of its numbers one by one.
    if (token < 0) token = last;
  }
  if (token < 0)
    for (token = v - 1; token > 0 && !(scratch[token] > 0);) token--;
  *log_prob = (float)((double)(x[token] - top) - __builtin_log(total));
  return token;
}

}  // namespace
