// The kernels of generation as Rust calls them: on f32 tensors of the CPU, by the processor's own instruction set, with the work
// split over libtorch's threads. No result depends on how it is split.
#include "cpu_kernels.h"

#include <algorithm>
#include <vector>

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include "cpu_features.h"
#include "shim.h"

namespace farmhand {

static const CpuKernels& detect() {
#if defined(__x86_64__)
  return best_for_processor(cpu_kernels_avx512, cpu_kernels_avx2, cpu_kernels_any);
#else
  return cpu_kernels_any;
#endif
}

// Another table than the processor's best, for this thread; tests compare them.
static thread_local const CpuKernels* chosen = nullptr;

static const CpuKernels& kernels() {
  static const CpuKernels& detected = detect();
  return chosen ? *chosen : detected;
}

// Splits [0, n) at multiples of `step` over the threads; a thread must have some work to be worth waking.
template <class Work>
static void split(long n, long step, double operations, Work work) {
  const long threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  const long parts = std::min({threads, (long)(operations / 1e6) + 1, (n + step - 1) / step});
  if (parts <= 1) return work(0L, n);
  const long per = ((n + parts - 1) / parts + step - 1) / step * step;
  at::parallel_for(0, (n + per - 1) / per, 1, [&](int64_t from, int64_t to) {
    for (int64_t part = from; part < to; part++) work(part * per, std::min<long>(n, (part + 1) * per));
  });
}

static at::Tensor checked(const at::Tensor& x) {
  TORCH_CHECK(x.device().is_cpu() && x.scalar_type() == at::kFloat, "expected f32 on the CPU, got ", x.toString());
  return x.contiguous();
}

// [n, heads, dim] with whole rows of heads, whatever the distance between rows.
static at::Tensor checked_heads(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 3, "expected [tokens, heads, dim], got ", x.sizes());
  TORCH_CHECK(x.device().is_cpu() && x.scalar_type() == at::kFloat, "expected f32 on the CPU, got ", x.toString());
  return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}

static at::Tensor empty(at::IntArrayRef size) { return at::empty(size, at::TensorOptions(at::kFloat)); }

}  // namespace farmhand

using namespace farmhand;

extern "C" {

const char* farmhand_cpu_name() { return kernels().name; }

// Takes other kernels on this thread from now on: 0 any, 1 avx2, 2 avx512, or −1 for the processor's best again.
int farmhand_cpu_choose(int32_t which) {
  return guarded([&] {
    const CpuKernels* best = &detect();
    const CpuKernels* wanted = &cpu_kernels_any;
#if defined(__x86_64__)
    if (which == 1) wanted = &cpu_kernels_avx2;
    if (which == 2) wanted = &cpu_kernels_avx512;
    TORCH_CHECK(wanted == &cpu_kernels_any || wanted == best || best == &cpu_kernels_avx512, "not on this processor");
#endif
    chosen = which < 0 ? nullptr : wanted;
  });
}

// x [m, k] · wᵀ, w [n, k], or x · w, w [k, n], + bias.
int farmhand_cpu_linear(const at::Tensor* x, const at::Tensor* w, const at::Tensor* bias, bool input_first, at::Tensor** result) {
  return guarded([&] {
    auto rows = checked(*x), weight = checked(*w);
    TORCH_CHECK(rows.dim() == 2 && weight.dim() == 2, "expected matrices, got ", rows.sizes(), " and ", weight.sizes());
    const long m = rows.size(0), k = rows.size(1), n = weight.size(input_first ? 1 : 0);
    TORCH_CHECK(weight.size(input_first ? 0 : 1) == k, "the weight ", weight.sizes(), " does not take rows of ", k);
    auto shift = bias ? checked(*bias) : at::Tensor();
    TORCH_CHECK(!bias || (shift.dim() == 1 && shift.size(0) == n), "a bias of another size than ", n);
    auto out = empty({m, n});
    const float *from_x = rows.const_data_ptr<float>(), *from_w = weight.const_data_ptr<float>();
    const float* from_bias = bias ? shift.const_data_ptr<float>() : nullptr;
    float* to = out.mutable_data_ptr<float>();
    const auto kernel = input_first ? kernels().linear_input_first : kernels().linear;
    split(n, 64, 2.0 * (double)m * (double)k * (double)n, [&](long from, long until) {
      kernel(from_x, m, k, from_w, n, from_bias, to, from, until);
    });
    *result = hand_over(out);
  });
}

int farmhand_cpu_rms_norm(const at::Tensor* x, const at::Tensor* weight, double plus, double eps, at::Tensor** result) {
  return guarded([&] {
    auto rows = checked(*x), w = checked(*weight);
    const long d = w.numel();
    TORCH_CHECK(rows.size(-1) == d, "a norm of width ", d, " on ", rows.sizes());
    auto out = empty(rows.sizes());
    kernels().rms_norm(rows.const_data_ptr<float>(), rows.numel() / d, d, w.const_data_ptr<float>(), (float)plus, (float)eps,
                       out.mutable_data_ptr<float>());
    *result = hand_over(out);
  });
}

int farmhand_cpu_layer_norm(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, double eps, at::Tensor** result) {
  return guarded([&] {
    auto rows = checked(*x), w = checked(*weight), b = bias ? checked(*bias) : at::Tensor();
    const long d = w.numel();
    TORCH_CHECK(rows.size(-1) == d && (!bias || b.numel() == d), "a norm of width ", d, " on ", rows.sizes());
    auto out = empty(rows.sizes());
    kernels().layer_norm(rows.const_data_ptr<float>(), rows.numel() / d, d, w.const_data_ptr<float>(),
                         bias ? b.const_data_ptr<float>() : nullptr, (float)eps, out.mutable_data_ptr<float>());
    *result = hand_over(out);
  });
}

int farmhand_cpu_activate(int32_t kind, const at::Tensor* x, const at::Tensor* factor, at::Tensor** result) {
  return guarded([&] {
    auto values = checked(*x), factors = factor ? checked(*factor) : at::Tensor();
    TORCH_CHECK(!factor || factors.numel() == values.numel(), "a gate of another size");
    auto out = empty(values.sizes());
    const float *from_x = values.const_data_ptr<float>(), *from_factor = factor ? factors.const_data_ptr<float>() : nullptr;
    float* to = out.mutable_data_ptr<float>();
    const auto kernel = kernels().activate;
    split(values.numel(), 1024, 20.0 * (double)values.numel(), [&](long from, long until) {
      kernel(kind, from_x + from, from_factor ? from_factor + from : nullptr, until - from, to + from);
    });
    *result = hand_over(out);
  });
}

// cap · tanh(x / cap).
int farmhand_cpu_bend(const at::Tensor* x, double cap, at::Tensor** result) {
  return guarded([&] {
    auto values = checked(*x);
    auto out = empty(values.sizes());
    kernels().bend(values.const_data_ptr<float>(), (float)cap, values.numel(), out.mutable_data_ptr<float>());
    *result = hand_over(out);
  });
}

// The first components of heads [n, heads, d] by tables of as many numbers a token.
int farmhand_cpu_rotate(const at::Tensor* x, const at::Tensor* cosines, const at::Tensor* sines, at::Tensor** result) {
  return guarded([&] {
    auto heads = checked_heads(*x), c = checked(*cosines), s = checked(*sines);
    const long n = heads.size(0), d = heads.size(2);
    const long turned = n > 0 ? c.numel() / n : 0;
    TORCH_CHECK(c.numel() == n * turned && s.numel() == c.numel() && turned % 2 == 0 && turned <= d, "tables ", c.sizes(),
                " for heads ", heads.sizes());
    auto out = empty(heads.sizes());
    kernels().rotate(heads.const_data_ptr<float>(), heads.stride(0), n, heads.size(1), d, c.const_data_ptr<float>(),
                     s.const_data_ptr<float>(), turned, out.mutable_data_ptr<float>());
    *result = hand_over(out);
  });
}

// Keys and values [n, kv_heads, dim] of one layer to their blocks.
int farmhand_cpu_store(const FarmhandCache* cache, int64_t layer, const at::Tensor* keys, const at::Tensor* values,
                       uint8_t* const* blocks, const int64_t* slots) {
  return guarded([&] {
    auto k = checked_heads(*keys), v = checked_heads(*values);
    TORCH_CHECK(k.sizes() == v.sizes() && k.size(1) == cache->kv_heads && k.size(2) == cache->head_dim, "keys ", k.sizes());
    const long n = k.size(0);
    kernels().store(*cache, layer, FarmhandStore{n, k.const_data_ptr<float>(), k.stride(0), v.const_data_ptr<float>(), v.stride(0), blocks, slots});
  });
}

// Fills in queries and out of `attention`: queries [n, heads, dim] to [n, heads · dim].
int farmhand_cpu_attend(const FarmhandCache* cache, FarmhandAttention attention, const at::Tensor* queries, at::Tensor** result) {
  return guarded([&] {
    auto q = checked_heads(*queries);
    FarmhandAttention& a = attention;
    a.heads = q.size(1);
    TORCH_CHECK(q.size(2) == cache->head_dim && a.heads % cache->kv_heads == 0 && q.size(0) == a.starts[a.n_sequences], "queries ", q.sizes());
    auto out = empty({q.size(0), a.heads * cache->head_dim});
    a.queries = q.const_data_ptr<float>();
    a.query_stride = q.stride(0);
    a.out = out.mutable_data_ptr<float>();
    double pairs = 0;
    for (int64_t s = 0; s < a.n_sequences; s++) {
      const double rows = (double)(a.starts[s + 1] - a.starts[s]);
      pairs += rows * ((double)a.first_positions[s] + rows / 2);
    }
    const long scratch = kernels().attention_scratch(a.longest);
    const auto kernel = kernels().attend;
    split(a.n_sequences * cache->kv_heads, 1, 4.0 * pairs * (double)(a.heads * cache->head_dim), [&](long from, long to) {
      static thread_local std::vector<float> numbers;
      if ((long)numbers.size() < scratch) numbers.resize((size_t)scratch);
      for (long i = from; i < to; i++) kernel(*cache, a, i / cache->kv_heads, i % cache->kv_heads, numbers.data());
    });
    *result = hand_over(out);
  });
}

// Draws a token for each row of logits [rows, v], which it changes. Row r's seen tokens are seen[seen_starts[r]..seen_starts[r + 1]];
// `uniforms` is not read when decoding is greedy. A row with a logit that is not finite gets the token -1.
int farmhand_cpu_sample(const at::Tensor* logits, const FarmhandSampling* params, const uint32_t* seen, const int64_t* seen_starts,
                        const double* uniforms, int64_t* tokens, float* log_probs) {
  return guarded([&] {
    TORCH_CHECK(logits->is_contiguous() && logits->dim() == 2 && logits->device().is_cpu() && logits->scalar_type() == at::kFloat,
                "expected f32 logits [rows, vocabulary] on the CPU, got ", logits->toString(), " ", logits->sizes());
    const long rows = logits->size(0), v = logits->size(1);
    float* numbers = logits->mutable_data_ptr<float>();
    const bool greedy = params->temperature == 0;
    const auto kernel = kernels().sample;
    split(rows, 1, 50.0 * (double)rows * (double)v, [&](long from, long to) {
      std::vector<double> scratch((size_t)v + 2048);
      for (long r = from; r < to; r++)
        tokens[r] = kernel(numbers + r * v, v, *params, seen + seen_starts[r], seen_starts[r + 1] - seen_starts[r],
                                     greedy ? 0.0 : uniforms[r], reinterpret_cast<float*>(scratch.data()), log_probs + r);
    });
  });
}

}  // extern "C"
