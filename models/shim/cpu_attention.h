// Attention of new tokens on a paged cache of keys and values.
//
// The cache of a sequence is a list of blocks. A block holds, for every layer, `block` tokens: keys [kv_heads, head_dim, block],
// so that a vector takes LANES keys at once, values [kv_heads, block, padded head_dim], and with int8 the scales
// [kv_heads, 2, block] of keys and of values. What a token gets depends on its own position and its own sequence alone: every sum
// runs over positions in order, or over the lanes that a position belongs to.

#pragma once

#include "cpu_kernels.h"
#include "cpu_layers.h"
#include "cpu_simd.h"

namespace {

#if FARMHAND_AVX512
constexpr int QUERY_TILE = 6;
#elif FARMHAND_AVX2
constexpr int QUERY_TILE = 3;
#else
constexpr int QUERY_TILE = 2;
#endif
/// Vectors of keys, or of a value's components, taken together.
constexpr int VECTORS = 4;

static inline long round_up(long n, long to) { return (n + to - 1) / to * to; }

struct F32 {
  typedef float Stored;
  static Vec load(const float* p) { return ::load(p); }
};
struct Bf16 {
  typedef uint16_t Stored;
  static Vec load(const uint16_t* p) { return load_bf16(p); }
};
struct Int8 {
  typedef int8_t Stored;
  static Vec load(const int8_t* p) { return load_int8(p); }
};

/// Where a layer's keys, values and scales of one key-value head lie in a block.
template <class Format>
struct HeadLayout {
  typedef typename Format::Stored Stored;
  long head_dim, padded, block;
  size_t keys, values, scales;

  HeadLayout(const FarmhandCache& cache, long layer, long head) {
    head_dim = cache.head_dim, block = cache.block, padded = round_up(cache.head_dim, 16);
    size_t base = (size_t)layer * (size_t)cache.layer_bytes;
    keys = base + (size_t)(head * head_dim * block) * sizeof(Stored);
    values = base + (size_t)(cache.kv_heads * head_dim * block + head * block * padded) * sizeof(Stored);
    scales = base + (size_t)(cache.kv_heads * block * (head_dim + padded)) * sizeof(Stored) + (size_t)(head * 2 * block) * sizeof(float);
  }
  Stored* key_column(uint8_t* at, long slot) const { return (Stored*)(at + keys) + slot; }
  Stored* value_row(uint8_t* at, long slot) const { return (Stored*)(at + values) + slot * padded; }
  float* key_scales(uint8_t* at) const { return (float*)(at + scales); }
  float* value_scales(uint8_t* at) const { return (float*)(at + scales) + block; }
};

static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/// The factor that takes the largest of n components to 127.
static inline float int8_scale(const float* x, long n) {
  float most = 0;
  for (long i = 0; i < n; i++) {
    float size = __builtin_fabsf(x[i]);
    if (!(size <= most)) most = size;
  }
  return most / 127.0f;
}

/// Writes a vector with this distance between its components.
static inline void put(F32, const float* x, long n, float* to, long stride, float*) {
  for (long i = 0; i < n; i++) to[i * stride] = x[i];
}
static inline void put(Bf16, const float* x, long n, uint16_t* to, long stride, float*) {
  for (long i = 0; i < n; i++) to[i * stride] = to_bf16(x[i]);
}
static inline void put(Int8, const float* x, long n, int8_t* to, long stride, float* scale) {
  float s = int8_scale(x, n);
  *scale = s;
  float inverse = s > 0 ? 1.0f / s : 0.0f;
  for (long i = 0; i < n; i++) to[i * stride] = (int8_t)(int)__builtin_nearbyintf(x[i] * inverse);
}

template <class Format>
static void store_tokens(const FarmhandCache& cache, long layer, const FarmhandStore& s) {
  for (long h = 0; h < cache.kv_heads; h++) {
    HeadLayout<Format> at(cache, layer, h);
    for (long t = 0; t < s.n; t++) {
      uint8_t* block = s.blocks[t];
      long slot = s.slots[t];
      const float* key = s.keys + t * s.key_stride + h * cache.head_dim;
      const float* value = s.values + t * s.value_stride + h * cache.head_dim;
      put(Format(), key, cache.head_dim, at.key_column(block, slot), cache.block, at.key_scales(block) + slot);
      put(Format(), value, cache.head_dim, at.value_row(block, slot), 1, at.value_scales(block) + slot);
    }
  }
}

/// Scores of ROWS queries with the keys of VECTORS groups of LANES; meanwhile the keys at `next` are on their way.
template <class Format, int ROWS>
static inline void score_tile(const float* const* q, long head_dim, long block, const typename Format::Stored* const* keys,
                              const typename Format::Stored* const* next, float* const* scores, long at) {
  Vec acc[ROWS][VECTORS];
  for (int r = 0; r < ROWS; r++)
    for (int g = 0; g < VECTORS; g++) acc[r][g] = zero();
  for (long i = 0; i < head_dim; i++) {
    Vec k[VECTORS];
    for (int g = 0; g < VECTORS; g++) {
      k[g] = Format::load(keys[g] + i * block);
      __builtin_prefetch(next[g] + i * block, 0, 3);
    }
    for (int r = 0; r < ROWS; r++) {
      Vec a = splat(q[r][i]);
      for (int g = 0; g < VECTORS; g++) acc[r][g] = fma(a, k[g], acc[r][g]);
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int g = 0; g < VECTORS; g++) store(scores[r] + at + g * LANES, acc[r][g]);
}

/// COUNT vectors of the outputs of ROWS queries: the values of positions [low, high), weighted.
template <class Format, int ROWS, int COUNT>
static inline void mix_tile(uint8_t* const* table, const HeadLayout<Format>& layout, const float* const* weights, long low, long high,
                            long column, Vec* out) {
  Vec acc[ROWS][COUNT];
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COUNT; c++) acc[r][c] = zero();
  for (long t = low; t < high;) {
    long slot = t % layout.block, n = layout.block - slot < high - t ? layout.block - slot : high - t;
    const typename Format::Stored* v = layout.value_row(table[t / layout.block], slot) + column;
    // The same slots of the next block are on their way.
    const typename Format::Stored* next = t + n < high ? layout.value_row(table[t / layout.block + 1], slot) + column : v;
    for (long i = 0; i < n; i++, v += layout.padded, next += layout.padded) {
      Vec x[COUNT];
      for (int c = 0; c < COUNT; c++) {
        x[c] = Format::load(v + c * LANES);
        __builtin_prefetch(next + c * LANES, 0, 3);
      }
      for (int r = 0; r < ROWS; r++) {
        Vec p = splat(weights[r][t + i]);
        for (int c = 0; c < COUNT; c++) acc[r][c] = fma(p, x[c], acc[r][c]);
      }
    }
    t += n;
  }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COUNT; c++) out[r * COUNT + c] = acc[r][c];
}

/// ROWS queries of one sequence and key-value head; row r sees positions [lows[r], highs[r]).
template <class Format, int ROWS>
static void attend_rows(const FarmhandAttention& a, uint8_t* const* table,
                        const HeadLayout<Format>& layout, const float* const* q, const long* lows, const long* highs, float* scratch,
                        long scratch_stride, float* const* outs) {
  long low = lows[0], high = highs[0];
  for (int r = 1; r < ROWS; r++) {
    if (lows[r] < low) low = lows[r];
    if (highs[r] > high) high = highs[r];
  }
  // Groups of LANES positions start at multiples of LANES. The scratch rows begin at the first group's first position.
  const long origin = low / LANES * LANES, span = round_up(high - origin, LANES);
  float* scores[ROWS];
  for (int r = 0; r < ROWS; r++) scores[r] = scratch + r * scratch_stride;
  const long tile_span = VECTORS * LANES;
  // Beyond the last group, once more the last: its scores are not read.
  auto group_at = [&](long at) {
    const long p = origin + (at < span ? at : span - LANES);
    return layout.key_column(table[p / layout.block], p % layout.block);
  };
  for (long at = 0; at < span; at += tile_span) {
    const typename Format::Stored *keys[VECTORS], *next[VECTORS];
    const bool is_last = at + tile_span >= span;
    for (int g = 0; g < VECTORS; g++) {
      keys[g] = group_at(at + g * LANES);
      // After the last keys come the first values, which take as much room.
      const long p = origin + (g * LANES < span ? g * LANES : 0);
      next[g] = is_last ? layout.value_row(table[p / layout.block], 0) + p % layout.block : group_at(at + tile_span + g * LANES);
    }
    score_tile<Format, ROWS>(q, layout.head_dim, layout.block, keys, next, scores, at);
  }
  float inverse[ROWS];
  for (int r = 0; r < ROWS; r++) {
    float* s = scores[r];
    const Vec scale = splat(a.scale);
    for (long i = 0; i < span; i += LANES) {
      Vec x = load(s + i) * scale;
      if (sizeof(typename Format::Stored) == 1) {
        long p = origin + i;
        x = x * load(layout.key_scales(table[p / layout.block]) + p % layout.block);
      }
      if (a.softcap > 0) x = bend(x, a.softcap);
      store(s + i, x);
    }
    // What the row does not see: at most the rest of its first group and what the tile's other rows see.
    for (long i = 0; i < lows[r] - origin; i++) s[i] = -__builtin_inff();
    for (long i = highs[r] - origin; i < span; i++) s[i] = -__builtin_inff();
    Vec most = load(s);
    for (long i = LANES; i < span; i += LANES) most = max(most, load(s + i));
    const Vec top = splat(largest(most));
    Vec total = zero();
    for (long i = 0; i < span; i += LANES) {
      Vec e = exp(load(s + i) - top);
      total = total + e;
      if (sizeof(typename Format::Stored) == 1) {
        long p = origin + i;
        e = e * load(layout.value_scales(table[p / layout.block]) + p % layout.block);
      }
      store(s + i, e);
    }
    if (sizeof(typename Format::Stored) == 1) {
      // Scales of slots that hold no token yet are not numbers to rely on.
      for (long i = highs[r] - origin; i < span; i++) s[i] = 0.0f;
    }
    inverse[r] = 1.0f / sum(total);
  }
  const float* weights[ROWS];
  for (int r = 0; r < ROWS; r++) weights[r] = scores[r] - origin;
  for (long column = 0; column < layout.head_dim;) {
    Vec out[ROWS * VECTORS];
    long left = (layout.head_dim - column + LANES - 1) / LANES;
    int count = left >= VECTORS ? VECTORS : left >= 2 ? 2 : 1;
    if (count == VECTORS) mix_tile<Format, ROWS, VECTORS>(table, layout, weights, low, high, column, out);
    else if (count == 2) mix_tile<Format, ROWS, 2>(table, layout, weights, low, high, column, out);
    else mix_tile<Format, ROWS, 1>(table, layout, weights, low, high, column, out);
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < count; c++) {
        long from = column + c * LANES, n = layout.head_dim - from;
        Vec y = out[r * count + c] * splat(inverse[r]);
        if (n >= LANES) store(outs[r] + from, y);
        else store_first(outs[r] + from, y, n);
      }
    column += count * LANES;
  }
}

/// The work of one sequence and one key-value head.
template <class Format>
static void attend_head(const FarmhandCache& cache, const FarmhandAttention& a, long sequence, long head, float* scratch,
                        long scratch_stride) {
  HeadLayout<Format> layout(cache, a.layer, head);
  uint8_t* const* table = a.tables + a.table_starts[sequence];
  const long group = a.heads / cache.kv_heads, d = cache.head_dim;
  const long first = a.starts[sequence], rows = (a.starts[sequence + 1] - first) * group;
  for (long row = 0; row < rows; row += QUERY_TILE) {
    const long n = rows - row < QUERY_TILE ? rows - row : QUERY_TILE;
    const float* q[QUERY_TILE];
    float* outs[QUERY_TILE];
    long lows[QUERY_TILE], highs[QUERY_TILE];
    for (long r = 0; r < n; r++) {
      long token = (row + r) / group, query_head = head * group + (row + r) % group;
      q[r] = a.queries + (first + token) * a.query_stride + query_head * d;
      outs[r] = a.out + (first + token) * a.heads * d + query_head * d;
      highs[r] = a.first_positions[sequence] + token + 1;
      lows[r] = a.window > 0 && highs[r] > a.window ? highs[r] - a.window : 0;
    }
    switch (n) {
      case 1: attend_rows<Format, 1>(a, table, layout, q, lows, highs, scratch, scratch_stride, outs); break;
      case 2: attend_rows<Format, 2>(a, table, layout, q, lows, highs, scratch, scratch_stride, outs); break;
#if FARMHAND_AVX512 || FARMHAND_AVX2
      case 3: attend_rows<Format, 3>(a, table, layout, q, lows, highs, scratch, scratch_stride, outs); break;
#endif
#if FARMHAND_AVX512
      case 4: attend_rows<Format, 4>(a, table, layout, q, lows, highs, scratch, scratch_stride, outs); break;
      case 5: attend_rows<Format, 5>(a, table, layout, q, lows, highs, scratch, scratch_stride, outs); break;
      case 6: attend_rows<Format, 6>(a, table, layout, q, lows, highs, scratch, scratch_stride, outs); break;
#endif
    }
  }
}

/// Floats of scratch a call needs for sequences of up to this many positions.
static long attention_scratch(long positions) { return QUERY_TILE * (round_up(positions, VECTORS * LANES) + VECTORS * LANES); }

static void attend_one(const FarmhandCache& cache, const FarmhandAttention& a, long sequence, long head, float* scratch) {
  long stride = attention_scratch(a.longest) / QUERY_TILE;
  switch (cache.format) {
    case 0: return attend_head<F32>(cache, a, sequence, head, scratch, stride);
    case 1: return attend_head<Bf16>(cache, a, sequence, head, scratch, stride);
    default: return attend_head<Int8>(cache, a, sequence, head, scratch, stride);
  }
}

static void store_all(const FarmhandCache& cache, long layer, const FarmhandStore& s) {
  switch (cache.format) {
    case 0: return store_tokens<F32>(cache, layer, s);
    case 1: return store_tokens<Bf16>(cache, layer, s);
    default: return store_tokens<Int8>(cache, layer, s);
  }
}

}  // namespace
