// Matrix products whose every element is summed in one fixed order, whatever is computed beside it.
//
// An element of x · wᵀ is LANES running sums over k (lane l takes l, l + LANES, …), added up as `sum` does, then the bias. Tiles
// of several rows and columns share loads and change nothing in that order. Weights stand as training left them, row by row; a
// tile of a few weight rows is read once for all rows of x while the next tile is on its way from memory.

#pragma once

#include "cpu_simd.h"

namespace {

#if FARMHAND_AVX512
constexpr int TILE_ROWS = 6;
#elif FARMHAND_AVX2
constexpr int TILE_ROWS = 3;
#else
constexpr int TILE_ROWS = 2;
#endif
/// Weight rows of a tile.
constexpr int TILE_COLUMNS = 4;
/// Tiles of weight rows, and numbers of each row, that stay in the first-level cache while rows of x pass by.
constexpr long GROUP = 3;
#if FARMHAND_AVX512
constexpr long PART = 576;
#else
constexpr long PART = 384;
#endif
/// Tiles of rows of x in use at a time.
constexpr long BLOCK_TILES = 32;
/// Weight rows of a tile for a single row of x, where only memory counts.
constexpr int WIDE_COLUMNS = 8;
/// Rows of x in use at a time, in floats: half of a usual second-level cache.
constexpr long BLOCK_FLOATS = 128 * 1024;

/// The sums of four vectors.
static inline void sum4(const Vec* a, float* out) {
#if FARMHAND_AVX512
  __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a[0].v, a[1].v, 0x44), _mm512_shuffle_f32x4(a[0].v, a[1].v, 0xEE));
  __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(a[2].v, a[3].v, 0x44), _mm512_shuffle_f32x4(a[2].v, a[3].v, 0xEE));
  __m512 p = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  p = _mm512_add_ps(p, _mm512_shuffle_ps(p, p, 0x4E));
  p = _mm512_add_ps(p, _mm512_shuffle_ps(p, p, 0xB1));
  // Every 128-bit lane now holds one sum four times.
  __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, p)));
#elif FARMHAND_AVX2
  __m128 x[4];
  for (int i = 0; i < 4; i++) x[i] = _mm_add_ps(_mm256_castps256_ps128(a[i].v), _mm256_extractf128_ps(a[i].v, 1));
  __m128 s = _mm_add_ps(_mm_shuffle_ps(x[0], x[1], 0x44), _mm_shuffle_ps(x[0], x[1], 0xEE));
  __m128 t = _mm_add_ps(_mm_shuffle_ps(x[2], x[3], 0x44), _mm_shuffle_ps(x[2], x[3], 0xEE));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(s, t, 0x88), _mm_shuffle_ps(s, t, 0xDD)));
#else
  for (int i = 0; i < 4; i++) out[i] = sum(a[i]);
#endif
}

/// The sums of 4 × 4 vectors, row by row: as four times `sum4`, with fewer shuffles.
static inline void sum4x4(const Vec* r0, const Vec* r1, const Vec* r2, const Vec* r3, float* o0, float* o1, float* o2, float* o3) {
#if FARMHAND_AVX512
  __m512 p[4];
  for (int n = 0; n < 4; n++) {
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(r0[n].v, r1[n].v, 0x44), _mm512_shuffle_f32x4(r0[n].v, r1[n].v, 0xEE));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(r2[n].v, r3[n].v, 0x44), _mm512_shuffle_f32x4(r2[n].v, r3[n].v, 0xEE));
    p[n] = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  }
  __m512 s = _mm512_add_ps(_mm512_shuffle_ps(p[0], p[1], 0x44), _mm512_shuffle_ps(p[0], p[1], 0xEE));
  __m512 t = _mm512_add_ps(_mm512_shuffle_ps(p[2], p[3], 0x44), _mm512_shuffle_ps(p[2], p[3], 0xEE));
  __m512 all = _mm512_add_ps(_mm512_shuffle_ps(s, t, 0x88), _mm512_shuffle_ps(s, t, 0xDD));
  _mm_storeu_ps(o0, _mm512_castps512_ps128(all));
  _mm_storeu_ps(o1, _mm512_extractf32x4_ps(all, 1));
  _mm_storeu_ps(o2, _mm512_extractf32x4_ps(all, 2));
  _mm_storeu_ps(o3, _mm512_extractf32x4_ps(all, 3));
#else
  sum4(r0, o0);
  sum4(r1, o1);
  sum4(r2, o2);
  sum4(r3, o3);
#endif
}

/// Which part of k a tile is about: all of it, or the first, a middle or the last part, between which its sums are kept.
enum Part { WHOLE, FIRST, MIDDLE, LAST };

/// ROWS × COLUMNS elements, over k of the `stride` numbers of a row. Meanwhile cache lines from `ahead` on are asked for: AHEAD a
/// step, or, when paced, `pace` of them in 256 steps and at most AHEAD a step.
template <int ROWS, int COLUMNS, int AHEAD, bool IS_PACED, bool IN_PARTS>
static inline __attribute__((always_inline)) void tile(const float* x, const float* w, long k, long stride, float* out, long out_stride,
                                                       const char* ahead, unsigned pace, Part part, Vec* kept) {
  Vec acc[ROWS][COLUMNS];
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++) acc[r][c] = IN_PARTS && part != FIRST ? kept[r * COLUMNS + c] : zero();
  unsigned asked = 0;
  long i = 0;
  for (; i + LANES <= k; i += LANES) {
    if (IS_PACED) {
      for (int a = 0; a < AHEAD; a++) __builtin_prefetch(ahead + 64 * (long)(asked / 256 + a), 0, 2);
      asked += pace;
    } else {
      for (int a = 0; a < AHEAD; a++) __builtin_prefetch(ahead + 64 * a, 0, 2);
      ahead += 64 * AHEAD;
    }
    Vec b[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) b[c] = load(w + c * stride + i);
    for (int r = 0; r < ROWS; r++) {
      Vec a = load(x + r * stride + i);
      for (int c = 0; c < COLUMNS; c++) acc[r][c] = fma(a, b[c], acc[r][c]);
    }
  }
  if (i < k) {
    for (int c = 0; c < COLUMNS; c++) {
      Vec b = load_first(w + c * stride + i, k - i);
      for (int r = 0; r < ROWS; r++) acc[r][c] = fma(load_first(x + r * stride + i, k - i), b, acc[r][c]);
    }
  }
  if (IN_PARTS && part != LAST) {
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++) kept[r * COLUMNS + c] = acc[r][c];
    return;
  }
  for (int c = 0; c + 4 <= COLUMNS; c += 4) {
    int r = 0;
    for (; r + 4 <= ROWS; r += 4) {
      float* o = out + r * out_stride + c;
      sum4x4(acc[r] + c, acc[r + 1] + c, acc[r + 2] + c, acc[r + 3] + c, o, o + out_stride, o + 2 * out_stride, o + 3 * out_stride);
    }
    for (; r < ROWS; r++) sum4(acc[r] + c, out + r * out_stride + c);
  }
  for (int c = COLUMNS / 4 * 4; c < COLUMNS; c++)
    for (int r = 0; r < ROWS; r++) out[r * out_stride + c] = sum(acc[r][c]);
}

template <int COLUMNS, int AHEAD, bool IS_PACED, bool IN_PARTS>
static inline void some_rows(long rows, const float* x, const float* w, long k, long stride, float* out, long out_stride,
                             const char* ahead, unsigned pace, Part part = WHOLE, Vec* kept = nullptr) {
  switch (rows) {
    case 1: return tile<1, COLUMNS, AHEAD, IS_PACED, IN_PARTS>(x, w, k, stride, out, out_stride, ahead, pace, part, kept);
    case 2: return tile<2, COLUMNS, AHEAD, IS_PACED, IN_PARTS>(x, w, k, stride, out, out_stride, ahead, pace, part, kept);
#if FARMHAND_AVX512 || FARMHAND_AVX2
    case 3: return tile<3, COLUMNS, AHEAD, IS_PACED, IN_PARTS>(x, w, k, stride, out, out_stride, ahead, pace, part, kept);
#endif
#if FARMHAND_AVX512
    case 4: return tile<4, COLUMNS, AHEAD, IS_PACED, IN_PARTS>(x, w, k, stride, out, out_stride, ahead, pace, part, kept);
    case 5: return tile<5, COLUMNS, AHEAD, IS_PACED, IN_PARTS>(x, w, k, stride, out, out_stride, ahead, pace, part, kept);
    case 6: return tile<6, COLUMNS, AHEAD, IS_PACED, IN_PARTS>(x, w, k, stride, out, out_stride, ahead, pace, part, kept);
#endif
  }
}

template <bool IN_PARTS>
static inline void paced(long rows, const float* x, const float* w, long k, long stride, float* out, long out_stride, const char* ahead,
                         unsigned pace, Part part, Vec* kept) {
  if (pace > 512) return some_rows<TILE_COLUMNS, 4, true, IN_PARTS>(rows, x, w, k, stride, out, out_stride, ahead, pace, part, kept);
  if (pace > 256) return some_rows<TILE_COLUMNS, 2, true, IN_PARTS>(rows, x, w, k, stride, out, out_stride, ahead, pace, part, kept);
  some_rows<TILE_COLUMNS, 1, true, IN_PARTS>(rows, x, w, k, stride, out, out_stride, ahead, pace, part, kept);
}

/// Columns [from, to) of some rows. A group of weight rows and one tile of x stay in the first-level cache, over a part of k.
static void linear_rows(const float* x, long rows, long k, const float* w, long n, float* out, long from, long to) {
  long c = from;
  if (rows == 1)
    for (; c + WIDE_COLUMNS <= to; c += WIDE_COLUMNS) {
      const float* ws = w + c * k;
      tile<1, WIDE_COLUMNS, WIDE_COLUMNS, false, false>(x, ws, k, k, out + c, n, (const char*)(ws + WIDE_COLUMNS * k), 0, WHOLE, nullptr);
    }
  if (rows <= TILE_ROWS)
    // Memory is what counts: no row of x comes twice.
    for (; c + TILE_COLUMNS <= to; c += TILE_COLUMNS) {
      const float* ws = w + c * k;
      some_rows<TILE_COLUMNS, TILE_COLUMNS, false, false>(rows, x, ws, k, k, out + c, n, (const char*)(ws + TILE_COLUMNS * k), 0);
    }
  const long tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, parts = (k + PART - 1) / PART;
  const long part = ((k + parts - 1) / (parts > 0 ? parts : 1) + LANES - 1) / LANES * LANES;
  // Few rows of x stay in the first-level cache themselves.
  const long most = tiles <= 2 && parts == 1 ? 1 : GROUP;
  Vec sums[BLOCK_TILES * GROUP * TILE_ROWS * TILE_COLUMNS];
  while (c + TILE_COLUMNS <= to) {
    const long left = (to - c) / TILE_COLUMNS, group = left < most ? left : most;
    const char* next = (const char*)(w + (c + group * TILE_COLUMNS) * k);
    for (long k0 = 0; k0 < k || k0 == 0; k0 += part) {
      const long some_k = k - k0 < part ? k - k0 : part;
      for (long t = 0; t < tiles; t++) {
        // Tiles of equal height.
        const long r = rows * t / tiles, some = rows * (t + 1) / tiles - r;
        const unsigned pace = (unsigned)(256 * TILE_COLUMNS * some / rows);
        for (long g = 0; g < group; g++) {
          const float *xr = x + r * k + k0, *ws = w + (c + g * TILE_COLUMNS) * k + k0;
          float* o = out + r * n + c + g * TILE_COLUMNS;
          // The lines of the next group, dealt out over the steps of this one.
          const char* ahead = next + (long)sizeof(float) * TILE_COLUMNS * (group * k0 + (group * r + g * some) * some_k / rows);
          if (parts == 1) {
            paced<false>(some, xr, ws, some_k, k, o, n, ahead, pace, WHOLE, nullptr);
          } else {
            const Part p = k0 == 0 ? FIRST : k0 + part >= k ? LAST : MIDDLE;
            paced<true>(some, xr, ws, some_k, k, o, n, ahead, pace, p, sums + (t * GROUP + g) * TILE_ROWS * TILE_COLUMNS);
          }
        }
      }
    }
    c += group * TILE_COLUMNS;
  }
  for (; c < to; c++)
    for (long r = 0; r < rows; r += TILE_ROWS)
      some_rows<1, 0, false, false>(rows - r < TILE_ROWS ? rows - r : TILE_ROWS, x + r * k, w + c * k, k, k, out + r * n + c, n, nullptr, 0);
}

/// Columns [from, to) of out [m, n] = x [m, k] · wᵀ, w [n, k], + bias [n] when there is one.
static void linear_columns(const float* x, long m, long k, const float* w, long n, const float* bias, float* out, long from, long to) {
  long block = BLOCK_FLOATS / (k > 0 ? k : 1) / TILE_ROWS * TILE_ROWS;
  if (block < 4 * TILE_ROWS) block = 4 * TILE_ROWS;
  if (block > BLOCK_TILES * TILE_ROWS) block = BLOCK_TILES * TILE_ROWS;
  for (long r = 0; r < m; r += block) linear_rows(x + r * k, m - r < block ? m - r : block, k, w, n, out + r * n, from, to);
  if (bias)
    for (long r = 0; r < m; r++) {
      float* o = out + r * n;
      long j = from;
      for (; j + LANES <= to; j += LANES) store(o + j, load(o + j) + load(bias + j));
      for (; j < to; j++) o[j] += bias[j];
    }
}

/// ROWS × (COLUMNS · LANES) elements for weights [k, n]: each the sum over k in order.
template <int ROWS, int COLUMNS>
static inline void tile_input_first(const float* x, const float* w, long k, long n, float* out, const float* bias) {
  Vec acc[ROWS][COLUMNS];
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++) acc[r][c] = zero();
  for (long i = 0; i < k; i++, w += n) {
    Vec b[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) b[c] = load(w + c * LANES);
    for (int r = 0; r < ROWS; r++) {
      Vec a = splat(x[r * k + i]);
      for (int c = 0; c < COLUMNS; c++) acc[r][c] = fma(a, b[c], acc[r][c]);
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++) {
      Vec y = bias ? acc[r][c] + load(bias + c * LANES) : acc[r][c];
      store(out + r * n + c * LANES, y);
    }
}

template <int COLUMNS>
static inline void some_rows_input_first(long rows, const float* x, const float* w, long k, long n, float* out, const float* bias) {
  switch (rows) {
    case 1: return tile_input_first<1, COLUMNS>(x, w, k, n, out, bias);
    case 2: return tile_input_first<2, COLUMNS>(x, w, k, n, out, bias);
#if FARMHAND_AVX512 || FARMHAND_AVX2
    case 3: return tile_input_first<3, COLUMNS>(x, w, k, n, out, bias);
#endif
#if FARMHAND_AVX512
    case 4: return tile_input_first<4, COLUMNS>(x, w, k, n, out, bias);
    case 5: return tile_input_first<5, COLUMNS>(x, w, k, n, out, bias);
    case 6: return tile_input_first<6, COLUMNS>(x, w, k, n, out, bias);
#endif
  }
}

/// The same for few rows, with w read front to back: strides over its rows would wait for memory at every step.
template <int ROWS>
static void stream_input_first(const float* x, const float* w, long k, long n, float* out, const float* bias, long from, long to) {
  for (int r = 0; r < ROWS; r++)
    for (long c = from; c < to; c++) out[r * n + c] = 0;
  const long whole = from + (to - from) / LANES * LANES;
  for (long i = 0; i < k;) {
    const long steps = k - i < 4 ? 1 : 4;
    for (long c = from; c < whole; c += LANES)
      for (int r = 0; r < ROWS; r++) {
        Vec acc = load(out + r * n + c);
        for (long s = 0; s < steps; s++) acc = fma(splat(x[r * k + i + s]), load(w + (i + s) * n + c), acc);
        store(out + r * n + c, acc);
      }
    i += steps;
  }
  if (bias)
    for (int r = 0; r < ROWS; r++)
      for (long c = from; c < whole; c += LANES) store(out + r * n + c, load(out + r * n + c) + load(bias + c));
}

/// Columns [from, to) of out [m, n] = x [m, k] · w, w [k, n], + bias [n] when there is one. `from` is a multiple of LANES.
static void linear_input_first_columns(const float* x, long m, long k, const float* w, long n, const float* bias, float* out, long from,
                                       long to) {
  long c = from;
  if (m <= 2) {
    if (m == 1) stream_input_first<1>(x, w, k, n, out, bias, from, to);
    if (m == 2) stream_input_first<2>(x, w, k, n, out, bias, from, to);
    c = from + (to - from) / LANES * LANES;
  }
  for (; c + TILE_COLUMNS * LANES <= to; c += TILE_COLUMNS * LANES)
    for (long r = 0; r < m; r += TILE_ROWS)
      some_rows_input_first<TILE_COLUMNS>(m - r < TILE_ROWS ? m - r : TILE_ROWS, x + r * k, w + c, k, n, out + r * n + c,
                                          bias ? bias + c : nullptr);
  for (; c + LANES <= to; c += LANES)
    for (long r = 0; r < m; r += TILE_ROWS)
      some_rows_input_first<1>(m - r < TILE_ROWS ? m - r : TILE_ROWS, x + r * k, w + c, k, n, out + r * n + c, bias ? bias + c : nullptr);
  for (long j = c; j < to; j++)
    for (long r = 0; r < m; r++) {
      float s = 0;
      for (long i = 0; i < k; i++) s = __builtin_fmaf(x[r * k + i], w[i * n + j], s);
      out[r * n + j] = bias ? s + bias[j] : s;
    }
}

}  // namespace
