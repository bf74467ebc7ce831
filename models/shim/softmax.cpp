// Rows of logits to probabilities, by the kernel of cpu_softmax.h.
#include "cpu_training.h"
#include "shim.h"

#include <ATen/Parallel.h>

extern "C" int farmhand_softmax_rows(const at::Tensor* logits, const at::Tensor* targets, double temperature,
                                     const at::Tensor* log_probs, const at::Tensor* entropies) {
  return farmhand::guarded([&] {
    int64_t n = logits->size(0), v = logits->size(1);
    TORCH_CHECK(logits->is_contiguous() && logits->is_cpu() && targets->numel() == n && targets->is_contiguous(),
                "rows of logits ", logits->sizes(), " with targets ", targets->sizes());
    float* rows = logits->mutable_data_ptr<float>();
    const int64_t* wanted = targets->const_data_ptr<int64_t>();
    float *values = log_probs->mutable_data_ptr<float>(), *spreads = entropies->mutable_data_ptr<float>();
    at::parallel_for(0, n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        TORCH_CHECK(wanted[i] >= 0 && wanted[i] < v, "target ", wanted[i], " of ", v, " logits");
        auto summary = farmhand::training_kernels().softmax_row(rows + i * v, v, wanted[i], static_cast<float>(temperature));
        values[i] = summary.log_prob;
        spreads[i] = summary.entropy;
      }
    });
  });
}
