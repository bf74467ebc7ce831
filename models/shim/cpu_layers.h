// Norms, activations and rotary embeddings, each element by the same operations wherever it stands.
//
// A library's vector loop rounds its last few elements in another way than the rest, so that a row's numbers depend on how many
// rows there are. Here the last elements go through the same vector operations.

#pragma once

#include "cpu_simd.h"

namespace {

/// The i-th vector of n floats; the last may be shorter, its other lanes zero.
static inline Vec load_at(const float* x, long i, long n) { return n - i >= LANES ? load(x + i) : load_first(x + i, n - i); }
static inline void store_at(float* x, long i, long n, Vec a) {
  if (n - i >= LANES) store(x + i, a);
  else store_first(x + i, a, n - i);
}

/// x / √(mean x² + eps) · (weight + plus), row by row.
static void rms_norm_rows(const float* x, long rows, long d, const float* weight, float plus, float eps, float* out) {
  const Vec more = splat(plus);
  for (long r = 0; r < rows; r++, x += d, out += d) {
    Vec squares = zero();
    for (long i = 0; i < d; i += LANES) {
      Vec a = load_at(x, i, d);
      squares = fma(a, a, squares);
    }
    const Vec factor = splat(1.0f / __builtin_sqrtf(sum(squares) / (float)d + eps));
    for (long i = 0; i < d; i += LANES) store_at(out, i, d, load_at(x, i, d) * factor * (load_at(weight, i, d) + more));
  }
}

/// (x − mean) / √(variance + eps) · weight + bias, row by row.
static void layer_norm_rows(const float* x, long rows, long d, const float* weight, const float* bias, float eps, float* out) {
  for (long r = 0; r < rows; r++, x += d, out += d) {
    Vec total = zero();
    for (long i = 0; i < d; i += LANES) total = total + load_at(x, i, d);
    const float mean = sum(total) / (float)d;
    Vec squares = zero();
    for (long i = 0; i < d; i += LANES) {
      Vec a = load_at(x, i, d) - splat(mean);
      if (d - i < LANES) {
        // The lanes beyond the row are no part of it.
        float lanes[LANES];
        store(lanes, a);
        a = load_first(lanes, d - i);
      }
      squares = fma(a, a, squares);
    }
    const Vec factor = splat(1.0f / __builtin_sqrtf(sum(squares) / (float)d + eps));
    for (long i = 0; i < d; i += LANES) {
      Vec a = (load_at(x, i, d) - splat(mean)) * factor;
      store_at(out, i, d, fma(a, load_at(weight, i, d), bias ? load_at(bias, i, d) : zero()));
    }
  }
}

static inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }

/// The complementary error function for x ≥ 0, to 1.2e-7 of its value (the Chebyshev fit of Numerical Recipes, `erfcc`).
static inline Vec erfc_positive(Vec x) {
  Vec t = splat(1.0f) / fma(splat(0.5f), x, splat(1.0f));
  Vec p = splat(0.17087277f);
  p = fma(p, t, splat(-0.82215223f));
  p = fma(p, t, splat(1.48851587f));
  p = fma(p, t, splat(-1.13520398f));
  p = fma(p, t, splat(0.27886807f));
  p = fma(p, t, splat(-0.18628806f));
  p = fma(p, t, splat(0.09678418f));
  p = fma(p, t, splat(0.37409196f));
  p = fma(p, t, splat(1.00002368f));
  p = fma(p, t, splat(-1.26551223f));
  return t * exp(fma(zero() - x, x, p));
}

/// 0 silu, 1 gelu, 2 gelu by tanh, 3 relu.
static inline Vec activation(long kind, Vec x) {
  switch (kind) {
    case 0: return x * sigmoid(x);
    case 1: {
      Vec z = x * splat(0.70710678118654752f);
      Vec size = max(z, zero() - z);
      Vec tail = erfc_positive(size);
      return splat(0.5f) * x * where_less(z, zero(), tail, splat(2.0f) - tail);
    }
    case 2: {
      // 0.5 x (1 + tanh y) = x · sigmoid(2y), y = √(2/π) (x + 0.044715 x³).
      Vec cubic = fma(splat(0.044715f) * x * x, x, x);
      return x * sigmoid(splat(1.5957691216057308f) * cubic);
    }
    default: return max(zero(), x);
  }
}

/// cap · tanh(x / cap), by 1 − 2 / (e^2y + 1).
static inline Vec bend(Vec x, float cap) {
  Vec e = exp(x * splat(2.0f / cap));
  return splat(cap) * (splat(1.0f) - splat(2.0f) / (e + splat(1.0f)));
}

static void bend_all(const float* x, float cap, long n, float* out) {
  for (long i = 0; i < n; i += LANES) store_at(out, i, n, bend(load_at(x, i, n), cap));
}

/// The activation of x, times `factor` where there is one.
static void activate_all(long kind, const float* x, const float* factor, long n, float* out) {
  for (long i = 0; i < n; i += LANES) {
    Vec y = activation(kind, load_at(x, i, n));
    store_at(out, i, n, factor ? y * load_at(factor, i, n) : y);
  }
}

/// Turns the first `turned` components of heads [rows, heads, d]; the tables are [rows, turned], the sines with the signs of the
/// rotation.
static void rotate_rows(const float* x, long x_stride, long rows, long heads, long d, const float* cosines, const float* sines,
                        long turned, float* out) {
  const long half = turned / 2;
  for (long r = 0; r < rows; r++) {
    const float *c = cosines + r * turned, *s = sines + r * turned;
    for (long h = 0; h < heads; h++) {
      const float* a = x + r * x_stride + h * d;
      float* o = out + (r * heads + h) * d;
      for (long i = turned; i < d; i++) o[i] = a[i];
      for (long i = 0; i < half; i += LANES) {
        Vec low = load_at(a, i, half), high = load_at(a + half, i, half);
        store_at(o, i, half, fma(high, load_at(s, i, half), low * load_at(c, i, half)));
        store_at(o + half, i, half, fma(low, load_at(s + half, i, half), high * load_at(c + half, i, half)));
      }
    }
  }
}

}  // namespace
