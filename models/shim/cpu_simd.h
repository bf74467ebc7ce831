// One vector of floats, as wide as the instruction set this file is compiled for.
//
// The kernels are compiled once per instruction set (see cpu_kernels_*.cpp), each time with other flags. A template or inline
// function of the standard library would then exist several times under one name, and the linker could keep the copy that an
// older processor cannot run. So nothing here or in the kernels uses the standard library's templates, and everything is static.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FARMHAND_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define FARMHAND_AVX2 1
#include <immintrin.h>
#endif

namespace {

#if FARMHAND_AVX512

constexpr long LANES = 16;
struct Vec {
  __m512 v;
};
static inline Vec zero() { return {_mm512_setzero_ps()}; }
static inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline __mmask16 first(long n) { return (__mmask16)((1u << n) - 1u); }
/// The first n floats, 0 < n < LANES; the other lanes are zero.
static inline Vec load_first(const float* p, long n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
static inline void store_first(float* p, Vec a, long n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
/// a * b + c in one rounding.
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vec round_even(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
/// 2 to the power of a whole number in [-126, 127].
static inline Vec power_of_two(Vec n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
/// Lanes of a where the lane of x is below y, else of b.
static inline Vec where_less(Vec x, Vec y, Vec a, Vec b) { return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v)}; }
static inline Vec load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
static inline Vec load_int8(const int8_t* p) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))}; }
/// The lanes' sum: i with i + 8, those with i + 4, with i + 2, with i + 1. Every sum over lanes is taken in this order.
static inline float sum(Vec a) {
  __m256 y = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

#elif FARMHAND_AVX2

constexpr long LANES = 8;
struct Vec {
  __m256 v;
};
static inline Vec zero() { return {_mm256_setzero_ps()}; }
static inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline __m256i first(long n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Vec load_first(const float* p, long n) { return {_mm256_maskload_ps(p, first(n))}; }
static inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
static inline void store_first(float* p, Vec a, long n) { _mm256_maskstore_ps(p, first(n), a.v); }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline Vec round_even(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline Vec power_of_two(Vec n) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}
static inline Vec where_less(Vec x, Vec y, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_LT_OQ))}; }
static inline Vec load_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16))};
}
static inline Vec load_int8(const int8_t* p) { return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))}; }
static inline float sum(Vec a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

#else

// Any processor: the compiler maps these to what it has (SSE2, NEON).
constexpr long LANES = 4;
typedef float Lanes __attribute__((vector_size(16)));
struct Vec {
  Lanes v;
};
static inline Vec zero() { return {Lanes{0, 0, 0, 0}}; }
static inline Vec splat(float x) { return {Lanes{x, x, x, x}}; }
static inline Vec load(const float* p) {
  Vec a;
  memcpy(&a.v, p, sizeof a.v);
  return a;
}
static inline Vec load_first(const float* p, long n) {
  Vec a = zero();
  memcpy(&a.v, p, (size_t)n * sizeof(float));
  return a;
}
static inline void store(float* p, Vec a) { memcpy(p, &a.v, sizeof a.v); }
static inline void store_first(float* p, Vec a, long n) { memcpy(p, &a.v, (size_t)n * sizeof(float)); }
static inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
static inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
static inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
static inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
static inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
static inline Vec where_less(Vec x, Vec y, Vec a, Vec b) { return {x.v < y.v ? a.v : b.v}; }
static inline Vec max(Vec a, Vec b) { return where_less(b, a, a, b); }
static inline Vec min(Vec a, Vec b) { return where_less(a, b, a, b); }
static inline Vec round_even(Vec a) {
  Vec r;
  for (int i = 0; i < 4; i++) r.v[i] = __builtin_nearbyintf(a.v[i]);
  return r;
}
static inline Vec power_of_two(Vec n) {
  Vec r;
  for (int i = 0; i < 4; i++) {
    uint32_t bits = (uint32_t)((int32_t)n.v[i] + 127) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    r.v[i] = x;
  }
  return r;
}
static inline Vec load_bf16(const uint16_t* p) {
  uint32_t bits[4] = {(uint32_t)p[0] << 16, (uint32_t)p[1] << 16, (uint32_t)p[2] << 16, (uint32_t)p[3] << 16};
  Vec r;
  memcpy(&r.v, bits, sizeof bits);
  return r;
}
static inline Vec load_int8(const int8_t* p) { return {Lanes{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}}; }
static inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }

#endif

static inline float largest(Vec a) {
  float lanes[LANES];
  store(lanes, a);
  float m = lanes[0];
  for (long i = 1; i < LANES; i++) m = lanes[i] > m ? lanes[i] : m;
  return m;
}

/// e to the power of x, to 2 units in the last place; 0 below -87.3 and infinite above 88.7. The polynomial is that of
/// Cephes (Moshier).
static inline Vec exp(Vec x) {
  const Vec highest = splat(88.72283f), lowest = splat(-87.33654f);
  // In this order of arguments a NaN stays one.
  Vec y = min(highest, max(lowest, x));
  Vec n = round_even(y * splat(1.44269504088896341f));
  y = fma(n, splat(-0.693359375f), y);
  y = fma(n, splat(2.12194440e-4f), y);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, y, splat(1.3981999507e-3f));
  p = fma(p, y, splat(8.3334519073e-3f));
  p = fma(p, y, splat(4.1665795894e-2f));
  p = fma(p, y, splat(1.6666665459e-1f));
  p = fma(p, y, splat(5.0000001201e-1f));
  p = fma(p, y * y, y + splat(1.0f));
  // 2^n in two factors, because n may be 128.
  Vec half = round_even(n * splat(0.5f));
  Vec r = p * power_of_two(half) * power_of_two(n - half);
  r = where_less(x, lowest, zero(), r);
  return where_less(highest, x, splat(__builtin_inff()), r);
}

}  // namespace
