// What the kernels of training share between instruction sets.

#pragma once

namespace farmhand {

/// A run of tokens that follows a prefix, which is another run or empty.
struct SegmentPlace {
  long start, length, prefix_start, prefix_length;
};

/// What all segments share. `window` is 0 when a token sees all before it.
struct AttentionShape {
  long heads, kv_heads, dim, window;
  float scale;
};

/// Log-probability of a row's target and entropy of its distribution, in nats.
struct RowSummary {
  float log_prob, entropy;
};

/// The functions of cpu_attention_training.h, cpu_softmax.h and cpu_rows.h. Queries, outputs and their gradients are `[tokens, heads, dim]`, keys and values
/// `[tokens, kv_heads, dim]`, log-sums of the exponentiated scores `[tokens, heads]`.
struct TrainingKernels {
  /// Floats of scratch that an item with these segments needs.
  long (*scratch)(const AttentionShape&, const SegmentPlace*, long n);
  void (*forward)(const AttentionShape&, const SegmentPlace*, long n, long kv_head, const float* q, const float* k, const float* v,
                  float* out, float* log_sums, float* scratch);
  /// Writes the queries' gradients and adds to those of keys and values.
  void (*backward)(const AttentionShape&, const SegmentPlace*, long n, long kv_head, const float* q, const float* k, const float* v,
                   const float* out, const float* log_sums, const float* gradient, float* dq, float* dk, float* dv, float* scratch);
  RowSummary (*softmax_row)(float* row, long n, long target, float temperature);
  float (*rms_norm)(const float* x, const float* w, long n, float eps, float* y);
  void (*rms_norm_backward)(const float* g, const float* x, const float* w, float r, long n, float* dx, float* dw);
  void (*rotate)(const float* x, const float* c, const float* s, long heads, long dim, long half, bool transposed, float* y);
  void (*gate)(const float* gate, const float* up, long n, float* y);
  void (*gate_backward)(const float* g, const float* gate, const float* up, long n, float* of_gate, float* of_up);
};

/// Those for this processor.
const TrainingKernels& training_kernels();

}  // namespace farmhand

using farmhand::AttentionShape;
using farmhand::SegmentPlace;
