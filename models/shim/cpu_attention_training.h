// Attention over whole texts, forward and backward, on one instruction set.
//
// A work item is one key-value head of one group of segments: a root, and the segments that continue it. Its keys and values are
// packed once and serve all queries of all heads that share them. Queries are taken in tiles of rows: the scores of a tile
// against all keys it may see stand in the cache, whole rows are normalised in the plain way, and the backward pass computes
// them again from the saved log-sums instead of reading them from memory (Dao et al., 2022, https://arxiv.org/abs/2205.14135,
// without its running maximum: a tile's rows fit). Nothing is computed for keys that every row of a tile is blind to.

#pragma once

#include <cstdlib>

#include "cpu_training.h"
#include "cpu_simd.h"

namespace {

#if FARMHAND_AVX512
constexpr int ROWS = 6, COLUMNS = 4;
#elif FARMHAND_AVX2
constexpr int ROWS = 4, COLUMNS = 3;
#else
constexpr int ROWS = 2, COLUMNS = 4;
#endif

/// Floats in a panel of packed, transposed keys.
constexpr long PANEL = COLUMNS * LANES;
/// Query rows of a tile.
constexpr long TILE = 48;

static inline long up(long n, long unit) { return (n + unit - 1) / unit * unit; }

/// C [M, N vectors] (+)= A · B for one register tile: A is read element by element at `a + m·a_row + k·a_k`, rows of B and C are
/// contiguous.
template <int M, int N>
static inline void tile(const float* a, long a_row, long a_k, const float* b, long b_row, long n_k, float* c, long c_row, bool add) {
  Vec sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) sums[m][n] = add ? load(c + m * c_row + n * LANES) : zero();
  for (long k = 0; k < n_k; k++) {
    Vec row[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) row[n] = load(b + k * b_row + n * LANES);
  #pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
      Vec x = splat(a[m * a_row + k * a_k]);
  #pragma GCC unroll 4
    for (int n = 0; n < N; n++) sums[m][n] = fma(x, row[n], sums[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) store(c + m * c_row + n * LANES, sums[m][n]);
}

template <int N>
static void rows(long m, const float* a, long a_row, long a_k, const float* b, long b_row, long n_k, float* c, long c_row, bool add) {
  for (; m >= ROWS; m -= ROWS, a += ROWS * a_row, c += ROWS * c_row) tile<ROWS, N>(a, a_row, a_k, b, b_row, n_k, c, c_row, add);
  for (; m >= 2; m -= 2, a += 2 * a_row, c += 2 * c_row) tile<2, N>(a, a_row, a_k, b, b_row, n_k, c, c_row, add);
  if (m) tile<1, N>(a, a_row, a_k, b, b_row, n_k, c, c_row, add);
}

/// As `tile`, for any number of rows and any multiple of LANES columns.
static void multiply(long m, long columns, const float* a, long a_row, long a_k, const float* b, long b_row, long n_k, float* c,
                     long c_row, bool add) {
  for (; columns >= PANEL; columns -= PANEL, b += PANEL, c += PANEL) rows<COLUMNS>(m, a, a_row, a_k, b, b_row, n_k, c, c_row, add);
  for (; columns > 0; columns -= LANES, b += LANES, c += LANES) rows<1>(m, a, a_row, a_k, b, b_row, n_k, c, c_row, add);
}

/// One segment's keys or values, its prefix's first: as rows `[keys, width]` and as panels `[keys / PANEL, dim, PANEL]`, with
/// zeros where they are padded.
static void pack(const float* from, long stride, const SegmentPlace& segment, long dim, long width, float* as_rows, float* panels) {
  long n = segment.prefix_length + segment.length;
  for (long j = 0; j < n; j++) {
    long token = j < segment.prefix_length ? segment.prefix_start + j : segment.start + j - segment.prefix_length;
    const float* row = from + token * stride;
    if (as_rows) {
      for (long d = 0; d < dim; d++) as_rows[j * width + d] = row[d];
      for (long d = dim; d < width; d++) as_rows[j * width + d] = 0;
    }
    if (panels) {
      float* panel = panels + j / PANEL * dim * PANEL + j % PANEL;
      for (long d = 0; d < dim; d++) panel[d * PANEL] = row[d];
    }
  }
  if (as_rows) memset(as_rows + n * width, 0, (size_t)((up(n, PANEL) - n) * width) * sizeof(float));
  if (panels)
    for (long j = n; j < up(n, PANEL); j++)
      for (long d = 0; d < dim; d++) panels[j / PANEL * dim * PANEL + d * PANEL + j % PANEL] = 0;
}

/// Rows `first..first + n` of one head, padded to `width`.
static void pack_rows(const float* from, long stride, long n, long dim, long width, float* to) {
  for (long i = 0; i < n; i++) {
    for (long d = 0; d < dim; d++) to[i * width + d] = from[i * stride + d];
    for (long d = dim; d < width; d++) to[i * width + d] = 0;
  }
}

/// The keys that row `i` of a segment sees: `from..to`.
struct Seen {
  long from, to;
};
static inline Seen seen(const AttentionShape& shape, const SegmentPlace& segment, long i) {
  long to = segment.prefix_length + i + 1;
  return {shape.window > 0 && to > shape.window ? to - shape.window : 0, to};
}

/// Products `[n, columns]` of rows `a` with panels, for the columns `from..to` (multiples of PANEL).
static void against_panels(long n, const float* a, long a_row, const float* panels, long dim, long from, long to, float* out, long out_row) {
  for (long column = from; column < to; column += PANEL)
    rows<COLUMNS>(n, a, a_row, 1, panels + column / PANEL * dim * PANEL, PANEL, dim, out + column, out_row, false);
}

/// Scores to exp(scale · score − shift) where they are seen, 0 elsewhere in `from..to`; their sum.
static float exponentials(float* row, Seen seen, long from, long to, float scale, float shift) {
  Vec sums = zero(), factor = splat(scale), offset = splat(shift);
  for (long j = from; j < seen.from; j++) row[j] = 0;
  long j = seen.from;
  for (; j + LANES <= seen.to; j += LANES) {
    Vec p = exp(load(row + j) * factor - offset);
    sums = sums + p;
    store(row + j, p);
  }
  float total = sum(sums);
  if (j < seen.to) {
    Vec p = exp(load_first(row + j, seen.to - j) * factor - offset);
    float lanes[LANES];
    store(lanes, p);
    for (long l = 0; l < seen.to - j; l++) {
      row[j + l] = lanes[l];
      total += lanes[l];
    }
  }
  for (j = seen.to; j < to; j++) row[j] = 0;
  return total;
}

static float highest(const float* row, Seen seen) {
  float m = row[seen.from];
  long j = seen.from;
  if (seen.to - j >= LANES) {
    Vec most = load(row + j);
    for (; j + LANES <= seen.to; j += LANES) most = max(most, load(row + j));
    m = largest(most);
  }
  for (; j < seen.to; j++) m = row[j] > m ? row[j] : m;
  return m;
}

/// Scratch for a work item, cut from one allocation.
struct Arena {
  float* next;
  float* take(long n) {
    float* part = next;
    next += up(n, 16);
    return part;
  }
};

static long longest(const SegmentPlace* segments, long n) {
  long most = 0;
  for (long i = 0; i < n; i++) {
    long length = segments[i].prefix_length + segments[i].length;
    if (length > most) most = length;
  }
  return up(most, PANEL);
}

static long scratch_floats(const AttentionShape& shape, const SegmentPlace* segments, long n) {
  return 6 * longest(segments, n) * (up(shape.dim, LANES) + 1) + 2 * TILE * (longest(segments, n) + 16) + 4 * TILE * up(shape.dim, LANES) + 512;
}

static void forward_item(const AttentionShape& shape, const SegmentPlace* segments, long n_segments, long kv_head, const float* q,
                         const float* k, const float* v, float* out, float* log_sums, float* scratch) {
  long dim = shape.dim, width = up(dim, LANES), most = longest(segments, n_segments);
  long group = shape.heads / shape.kv_heads, q_stride = shape.heads * dim, kv_stride = shape.kv_heads * dim;
  // 16 more than the keys, so that rows do not fall on the same cache lines.
  long row = most + 16;
  Arena arena{scratch};
  float *keys = arena.take(most * dim), *values = arena.take(most * width), *scores = arena.take(TILE * row), *sums = arena.take(TILE * width);
  for (long s = 0; s < n_segments; s++) {
    const SegmentPlace& segment = segments[s];
    pack(k + kv_head * dim, kv_stride, segment, dim, width, nullptr, keys);
    pack(v + kv_head * dim, kv_stride, segment, dim, width, values, nullptr);
    for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
      for (long i = 0; i < segment.length; i += TILE) {
        long n = segment.length - i < TILE ? segment.length - i : TILE;
        long from = seen(shape, segment, i).from / PANEL * PANEL, to = up(seen(shape, segment, i + n - 1).to, PANEL);
        const float* queries = q + (segment.start + i) * q_stride + head * dim;
        against_panels(n, queries, q_stride, keys, dim, from, to, scores, row);
        float totals[TILE];
        for (long r = 0; r < n; r++) {
          Seen range = seen(shape, segment, i + r);
          float shift = shape.scale * highest(scores + r * row, range);
          totals[r] = exponentials(scores + r * row, range, from, to, shape.scale, shift);
          log_sums[(segment.start + i + r) * shape.heads + head] = shift + __builtin_logf(totals[r]);
        }
        multiply(n, width, scores + from, row, 1, values + from * width, width, to - from, sums, width, false);
        for (long r = 0; r < n; r++) {
          float* target = out + (segment.start + i + r) * q_stride + head * dim;
          for (long d = 0; d < dim; d++) target[d] = sums[r * width + d] / totals[r];
        }
      }
    }
  }
}

static void backward_item(const AttentionShape& shape, const SegmentPlace* segments, long n_segments, long kv_head, const float* q,
                          const float* k, const float* v, const float* out, const float* log_sums, const float* g, float* dq,
                          float* dk, float* dv, float* scratch) {
  long dim = shape.dim, width = up(dim, LANES), most = longest(segments, n_segments);
  long group = shape.heads / shape.kv_heads, q_stride = shape.heads * dim, kv_stride = shape.kv_heads * dim;
  long row = most + 16;
  Arena arena{scratch};
  float *key_panels = arena.take(most * dim), *value_panels = arena.take(most * dim), *keys = arena.take(most * width);
  float *key_sums = arena.take(most * width), *value_sums = arena.take(most * width);
  float *p = arena.take(TILE * row), *dp = arena.take(TILE * row);
  float *queries = arena.take(TILE * width), *gradients = arena.take(TILE * width), *sums = arena.take(TILE * width);
  for (long s = 0; s < n_segments; s++) {
    const SegmentPlace& segment = segments[s];
    long n_keys = segment.prefix_length + segment.length;
    pack(k + kv_head * dim, kv_stride, segment, dim, width, keys, key_panels);
    pack(v + kv_head * dim, kv_stride, segment, dim, width, nullptr, value_panels);
    memset(key_sums, 0, (size_t)(up(n_keys, PANEL) * width) * sizeof(float));
    memset(value_sums, 0, (size_t)(up(n_keys, PANEL) * width) * sizeof(float));
    for (long head = kv_head * group; head < (kv_head + 1) * group; head++) {
      for (long i = 0; i < segment.length; i += TILE) {
        long n = segment.length - i < TILE ? segment.length - i : TILE;
        long first = segment.start + i;
        long from = seen(shape, segment, i).from / PANEL * PANEL, to = up(seen(shape, segment, i + n - 1).to, PANEL);
        pack_rows(q + first * q_stride + head * dim, q_stride, n, dim, width, queries);
        pack_rows(g + first * q_stride + head * dim, q_stride, n, dim, width, gradients);
        against_panels(n, queries, width, key_panels, dim, from, to, p, row);
        against_panels(n, gradients, width, value_panels, dim, from, to, dp, row);
        for (long r = 0; r < n; r++) {
          const float* o = out + (first + r) * q_stride + head * dim;
          float along = 0;
          for (long d = 0; d < dim; d++) along += o[d] * gradients[r * width + d];
          exponentials(p + r * row, seen(shape, segment, i + r), from, to, shape.scale, log_sums[(first + r) * shape.heads + head]);
          Vec shift = splat(along), scale = splat(shape.scale);
          for (long j = from; j < to; j += LANES) {
            float* place = dp + r * row + j;
            store(place, load(p + r * row + j) * (load(place) - shift) * scale);
          }
        }
        multiply(n, width, dp + from, row, 1, keys + from * width, width, to - from, sums, width, false);
        for (long r = 0; r < n; r++)
          for (long d = 0; d < dim; d++) dq[(first + r) * q_stride + head * dim + d] = sums[r * width + d];
        long m = (to < n_keys ? to : n_keys) - from;
        multiply(m, width, dp + from, 1, row, queries, width, n, key_sums + from * width, width, true);
        multiply(m, width, p + from, 1, row, gradients, width, n, value_sums + from * width, width, true);
      }
    }
    // A prefix is continued by several segments of this item: their sums meet here, in order.
    for (long j = 0; j < n_keys; j++) {
      long token = j < segment.prefix_length ? segment.prefix_start + j : segment.start + j - segment.prefix_length;
      for (long d = 0; d < dim; d++) {
        dk[token * kv_stride + kv_head * dim + d] += key_sums[j * width + d];
        dv[token * kv_stride + kv_head * dim + d] += value_sums[j * width + d];
      }
    }
  }
}

}  // namespace
