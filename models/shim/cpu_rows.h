// Norms, rotations and gates of one row, forward and backward, each in as few visits of the row as it takes.

#pragma once

#include "cpu_simd.h"
#include "cpu_training.h"

namespace {

/// y = x r w with r = 1 / sqrt(mean(x²) + eps), which is returned.
static float rms_norm_row(const float* x, const float* w, long n, float eps, float* y) {
  Vec squares[2] = {zero(), zero()};
  long i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES)
    for (int j = 0; j < 2; j++) {
      Vec a = load(x + i + j * LANES);
      squares[j] = fma(a, a, squares[j]);
    }
  for (; i < n; i += LANES) {
    Vec a = n - i < LANES ? load_first(x + i, n - i) : load(x + i);
    squares[0] = fma(a, a, squares[0]);
  }
  float r = 1.0f / __builtin_sqrtf(sum(squares[0] + squares[1]) / (float)n + eps);
  const Vec factor = splat(r);
  for (i = 0; i + LANES <= n; i += LANES) store(y + i, load(x + i) * factor * load(w + i));
  if (i < n) store_first(y + i, load_first(x + i, n - i) * factor * load_first(w + i, n - i), n - i);
  return r;
}

/// dx = r (g w - x r² mean(g w x)) for the gradient g of y; adds g x r to dw. `dx` or `dw` may be null.
static void rms_norm_backward_row(const float* g, const float* x, const float* w, float r, long n, float* dx, float* dw) {
  const Vec factor = splat(r);
  Vec product = zero();
  long i = 0;
  for (; i + LANES <= n; i += LANES) {
    Vec gx = load(g + i) * load(x + i);
    product = fma(gx, load(w + i), product);
    if (dw) store(dw + i, fma(gx, factor, load(dw + i)));
  }
  if (i < n) {
    Vec gx = load_first(g + i, n - i) * load_first(x + i, n - i);
    product = fma(gx, load_first(w + i, n - i), product);
    if (dw) store_first(dw + i, fma(gx, factor, load_first(dw + i, n - i)), n - i);
  }
  if (!dx) return;
  const Vec back = splat(-r * r * r * sum(product) / (float)n);
  for (i = 0; i + LANES <= n; i += LANES) store(dx + i, fma(load(x + i), back, load(g + i) * load(w + i) * factor));
  if (i < n) {
    Vec a = load_first(g + i, n - i) * load_first(w + i, n - i) * factor;
    store_first(dx + i, fma(load_first(x + i, n - i), back, a), n - i);
  }
}

/// Turns pairs (i, i + half) of each head of one token: y = x c + (x with the pair's members swapped) s; the rest of a head
/// is copied. `transposed` gives the gradient of x for that of y instead.
static void rotate_row(const float* x, const float* c, const float* s, long heads, long dim, long half, bool transposed, float* y) {
  for (long h = 0; h < heads; h++, x += dim, y += dim) {
    // The sine at the place that is written, or at the one that is read.
    const float *first_sine = transposed ? s + half : s, *second_sine = transposed ? s : s + half;
    long i = 0;
    for (; i + LANES <= half; i += LANES) {
      Vec a = load(x + i), b = load(x + half + i);
      store(y + i, fma(b, load(first_sine + i), a * load(c + i)));
      store(y + half + i, fma(a, load(second_sine + i), b * load(c + half + i)));
    }
    if (i < half) {
      long left = half - i;
      Vec a = load_first(x + i, left), b = load_first(x + half + i, left);
      store_first(y + i, fma(b, load_first(first_sine + i, left), a * load_first(c + i, left)), left);
      store_first(y + half + i, fma(a, load_first(second_sine + i, left), b * load_first(c + half + i, left)), left);
    }
    if (2 * half < dim) memcpy(y + 2 * half, x + 2 * half, (size_t)(dim - 2 * half) * sizeof(float));
  }
}

static inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }

/// y = silu(gate) up.
static void gate_row(const float* gate, const float* up, long n, float* y) {
  long i = 0;
  for (; i + LANES <= n; i += LANES) {
    Vec a = load(gate + i);
    store(y + i, a * sigmoid(a) * load(up + i));
  }
  if (i < n) {
    Vec a = load_first(gate + i, n - i);
    store_first(y + i, a * sigmoid(a) * load_first(up + i, n - i), n - i);
  }
}

static inline Vec gate_gradient(Vec g, Vec a, Vec up, Vec* of_up) {
  Vec sig = sigmoid(a), one = splat(1.0f);
  *of_up = g * a * sig;
  return g * up * sig * fma(a, one - sig, one);
}

/// The gradients of gate and up for the gradient g of y.
static void gate_backward_row(const float* g, const float* gate, const float* up, long n, float* of_gate, float* of_up) {
  long i = 0;
  Vec second;
  for (; i + LANES <= n; i += LANES) {
    store(of_gate + i, gate_gradient(load(g + i), load(gate + i), load(up + i), &second));
    store(of_up + i, second);
  }
  if (i < n) {
    long left = n - i;
    Vec first = gate_gradient(load_first(g + i, left), load_first(gate + i, left), load_first(up + i, left), &second);
    store_first(of_gate + i, first, left);
    store_first(of_up + i, second, left);
  }
}

}  // namespace
