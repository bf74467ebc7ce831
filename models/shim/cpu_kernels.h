// The kernels of generation on the CPU: what Rust passes, and the table that each instruction set fills.

#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

/// The shape of a paged cache; cpu_attention.h says how a block is laid out.
struct FarmhandCache {
  int64_t kv_heads;
  int64_t head_dim;
  /// Tokens of a block, a multiple of 16.
  int64_t block;
  /// Bytes of one layer in a block.
  int64_t layer_bytes;
  /// 0 for f32, 1 for bf16, 2 for int8.
  int64_t format;
};

/// New tokens' keys and values of one layer, each [n, kv_heads, head_dim], and where they go.
struct FarmhandStore {
  int64_t n;
  const float* keys;
  int64_t key_stride;
  const float* values;
  int64_t value_stride;
  uint8_t* const* blocks;
  const int64_t* slots;
};

/// Attention of one layer: queries [n, heads, head_dim], flat over sequences, to out [n, heads, head_dim].
struct FarmhandAttention {
  int64_t layer;
  int64_t heads;
  const float* queries;
  int64_t query_stride;
  float* out;
  int64_t n_sequences;
  /// Sequence s has the rows [starts[s], starts[s + 1]), at consecutive positions from first_positions[s] on.
  const int64_t* starts;
  const int64_t* first_positions;
  /// Its blocks are tables[table_starts[s]], …, in order of position.
  uint8_t* const* tables;
  const int64_t* table_starts;
  /// Positions of the longest sequence.
  int64_t longest;
  float scale;
  /// 0 for none.
  float softcap;
  /// Tokens a token sees, itself included; 0 for all.
  int64_t window;
};

/// How a token is drawn; the fields are those of farmhand's `SamplingParams`.
struct FarmhandSampling {
  double temperature;
  int64_t top_k;
  double top_p;
  double min_p;
  double repetition_penalty;
};

}  // extern "C"

namespace farmhand {

struct CpuKernels {
  const char* name;
  void (*linear)(const float* x, long m, long k, const float* w, long n, const float* bias, float* out, long from, long to);
  void (*linear_input_first)(const float* x, long m, long k, const float* w, long n, const float* bias, float* out, long from, long to);
  void (*store)(const FarmhandCache& cache, long layer, const FarmhandStore& store);
  void (*attend)(const FarmhandCache& cache, const FarmhandAttention& attention, long sequence, long head, float* scratch);
  long (*attention_scratch)(long positions);
  void (*rms_norm)(const float* x, long rows, long d, const float* weight, float plus, float eps, float* out);
  void (*layer_norm)(const float* x, long rows, long d, const float* weight, const float* bias, float eps, float* out);
  void (*activate)(long kind, const float* x, const float* factor, long n, float* out);
  void (*bend)(const float* x, float cap, long n, float* out);
  void (*rotate)(const float* x, long x_stride, long rows, long heads, long d, const float* cosines, const float* sines,
                 long turned, float* out);
  long (*sample)(float* logits, long v, const FarmhandSampling& params, const uint32_t* seen, long n_seen, double uniform,
                 float* scratch, float* log_prob);
};

// Each in a file of its own, compiled for that instruction set.
extern const CpuKernels cpu_kernels_any;
extern const CpuKernels cpu_kernels_avx2;
extern const CpuKernels cpu_kernels_avx512;

}  // namespace farmhand
