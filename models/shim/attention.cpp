// Differentiable attention over whole texts on the CPU, by the kernels of cpu_attention_training.h.
#include "cpu_training.h"
#include "shim.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

namespace farmhand {

// Segments that share keys, so that they belong to one work item: a root and what continues it.
using Groups = std::vector<std::vector<SegmentPlace>>;

// Rows of `segments` [n, 2]: length, and the row of the prefix or -1.
static Groups group(const int64_t* segments, int64_t n) {
  Groups groups;
  std::vector<SegmentPlace> places;
  std::vector<size_t> group_of;
  long start = 0;
  for (int64_t i = 0; i < n; i++) {
    long length = segments[2 * i], prefix = segments[2 * i + 1];
    SegmentPlace place{start, length, 0, 0};
    if (prefix < 0) {
      group_of.push_back(groups.size());
      groups.emplace_back();
    } else {
      place.prefix_start = places[prefix].start;
      place.prefix_length = places[prefix].length;
      group_of.push_back(group_of[prefix]);
    }
    places.push_back(place);
    groups[group_of.back()].push_back(place);
    start += length;
  }
  return groups;
}

// Runs `item(group, kv head, scratch)` for all of them, on libtorch's threads. No two items write to one place.
template <class Item>
static void for_each_item(const Groups& groups, const AttentionShape& shape, const Item& item) {
  int64_t n = static_cast<int64_t>(groups.size()) * shape.kv_heads;
  at::parallel_for(0, n, 1, [&](int64_t first, int64_t last) {
    std::vector<float> scratch;
    for (int64_t i = first; i < last; i++) {
      const auto& members = groups[i / shape.kv_heads];
      size_t needed = training_kernels().scratch(shape, members.data(), members.size());
      if (scratch.size() < needed) scratch.resize(needed);
      item(members, i % shape.kv_heads, scratch.data());
    }
  });
}

static void forward(const AttentionShape& shape, const Groups& groups, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v, at::Tensor& out, at::Tensor& log_sums) {
  const float *queries = q.const_data_ptr<float>(), *keys = k.const_data_ptr<float>(), *values = v.const_data_ptr<float>();
  float *outputs = out.mutable_data_ptr<float>(), *sums = log_sums.mutable_data_ptr<float>();
  for_each_item(groups, shape, [&](const auto& members, int64_t head, float* scratch) {
    training_kernels().forward(shape, members.data(), members.size(), head, queries, keys, values, outputs, sums, scratch);
  });
}

struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const at::Tensor& segments, double scale, int64_t window) {
    AttentionShape shape{q.size(1), k.size(1), q.size(2), window, static_cast<float>(scale)};
    auto queries = q.contiguous(), keys = k.contiguous(), values = v.contiguous();
    auto out = at::empty_like(queries), log_sums = at::empty({q.size(0), q.size(1)}, q.options());
    farmhand::forward(shape, group(segments.const_data_ptr<int64_t>(), segments.size(0)), queries, keys, values, out, log_sums);
    context->save_for_backward({queries, keys, values, out, log_sums, segments});
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &log_sums = saved[4], &segments = saved[5];
    AttentionShape shape{q.size(1), k.size(1), q.size(2), context->saved_data["window"].toInt(),
                         static_cast<float>(context->saved_data["scale"].toDouble())};
    auto gradient = gradients[0].contiguous();
    auto of_q = at::empty_like(q), of_k = at::zeros_like(k), of_v = at::zeros_like(v);
    const float *queries = q.const_data_ptr<float>(), *keys = k.const_data_ptr<float>(), *values = v.const_data_ptr<float>();
    const float *outputs = out.const_data_ptr<float>(), *sums = log_sums.const_data_ptr<float>();
    const float* g = gradient.const_data_ptr<float>();
    float *dq = of_q.mutable_data_ptr<float>(), *dk = of_k.mutable_data_ptr<float>(), *dv = of_v.mutable_data_ptr<float>();
    for_each_item(group(segments.const_data_ptr<int64_t>(), segments.size(0)), shape,
                  [&](const auto& members, int64_t head, float* scratch) {
                    training_kernels().backward(shape, members.data(), members.size(), head, queries, keys, values, outputs, sums, g, dq,
                                       dk, dv, scratch);
                  });
    return {of_q, of_k, of_v, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace farmhand

extern "C" int farmhand_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v, const at::Tensor* segments,
                                  double scale, int64_t window, at::Tensor** result) {
  return farmhand::guarded([&] {
    TORCH_CHECK(q->dim() == 3 && k->dim() == 3 && k->sizes() == v->sizes() && q->size(0) == k->size(0) &&
                    q->size(2) == k->size(2) && q->size(1) % k->size(1) == 0,
                "attention of shapes ", q->sizes(), ", ", k->sizes(), " and ", v->sizes());
    int64_t n = 0;
    for (int64_t i = 0; i < segments->size(0); i++) n += segments->const_data_ptr<int64_t>()[2 * i];
    TORCH_CHECK(n == q->size(0), "segments of ", n, " tokens for ", q->size(0));
    *result = farmhand::hand_over(farmhand::Attention::apply(*q, *k, *v, *segments, scale, window));
  });
}
