// The distribution of one row of logits, in one visit while the row is in the cache.

#pragma once

#include "cpu_simd.h"
#include "cpu_training.h"

namespace {

/// Turns logits / temperature into probabilities in place; returns the log-probability of `target` and the entropy.
static farmhand::RowSummary softmax_row(float* row, long n, long target, float temperature) {
  long whole = n / LANES * LANES;
  float most = row[0], scale = 1.0f / temperature;
  if (whole) {
    Vec m = load(row);
    for (long i = LANES; i < whole; i += LANES) m = max(m, load(row + i));
    most = largest(m);
  }
  for (long i = whole; i < n; i++) most = row[i] > most ? row[i] : most;
  float at_target = (row[target] - most) * scale;
  // Two sums each, so that one addition does not wait for the last: of e^x, and of x e^x.
  Vec highest = splat(most), factor = splat(scale), sums[2] = {zero(), zero()}, weighted[2] = {zero(), zero()};
  // Below it e^x is 0, and so must be its product with an x of minus infinity.
  Vec lowest = splat(-200.0f);
  long i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES)
    for (int j = 0; j < 2; j++) {
      Vec x = (load(row + i + j * LANES) - highest) * factor, e = exp(x);
      sums[j] = sums[j] + e;
      weighted[j] = fma(e, max(x, lowest), weighted[j]);
      store(row + i + j * LANES, e);
    }
  double total = (double)sum(sums[0]) + sum(sums[1]), moment = (double)sum(weighted[0]) + sum(weighted[1]);
  for (; i < n; i += LANES) {
    long rest = n - i < LANES ? n - i : LANES;
    Vec x = rest < LANES ? load_first(row + i, rest) : load(row + i);
    x = (x - highest) * factor;
    Vec e = exp(x);
    float lanes[LANES], products[LANES];
    store(lanes, e);
    store(products, e * max(x, lowest));
    for (long l = 0; l < rest; l++) {
      row[i + l] = lanes[l];
      total += lanes[l];
      moment += products[l];
    }
  }
  Vec inverse = splat((float)(1.0 / total));
  for (i = 0; i < whole; i += LANES) store(row + i, load(row + i) * inverse);
  for (; i < n; i++) row[i] *= (float)(1.0 / total);
  double log_total = __builtin_log(total);
  return {(float)(at_target - log_total), (float)(log_total - moment / total)};
}

}  // namespace
