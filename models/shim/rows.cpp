// Differentiable norms, rotations and gates on the CPU, by the kernels of cpu_rows.h: one visit of memory each way, and no
// more kept for the backward pass than it needs.
#include "cpu_training.h"
#include "shim.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace farmhand {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Floats that are worth starting another thread for.
constexpr int64_t kThreadWorth = 1 << 15;

// Runs `row(i)` for all rows of `width` floats, on libtorch's threads.
template <class Row>
static void for_each_row(int64_t n, int64_t width, const Row& row) {
  at::parallel_for(0, n, std::max<int64_t>(1, kThreadWorth / std::max<int64_t>(1, width)), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) row(i);
  });
}

static const float* read(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }
static float* write(const at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }

// A tensor whose last dimension lies in one piece, and whose rows are evenly spaced when the others are taken together.
static at::Tensor in_rows(const at::Tensor& x) {
  bool rows = x.dim() == 2 && x.stride(1) == 1;
  return rows ? x : x.contiguous();
}
static int64_t spacing(const at::Tensor& x) { return x.dim() == 2 ? x.stride(0) : x.size(-1); }

static bool trains(std::initializer_list<const at::Tensor*> tensors) {
  auto requires_grad = [](const at::Tensor* tensor) { return tensor->requires_grad(); };
  return at::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(), requires_grad);
}

// ── RMS norm of the last dimension ───────────────────────────────────────────────────────────────────────────────────

static at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, float eps, float* factors) {
  auto y = at::empty(x.sizes(), x.options());
  int64_t width = x.size(-1), n = width ? x.numel() / width : 0, step = spacing(x);
  const float *from = read(x), *w = read(weight);
  float* to = write(y);
  for_each_row(n, width, [&](int64_t i) {
    float factor = training_kernels().rms_norm(from + i * step, w, width, eps, to + i * width);
    if (factors) factors[i] = factor;
  });
  return y;
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    auto rows = in_rows(x);
    auto factors = at::empty({rows.numel() / std::max<int64_t>(1, rows.size(-1))}, rows.options());
    auto y = rms_norm(rows, weight, static_cast<float>(eps), write(factors));
    context->save_for_backward({rows, weight, factors});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &factors = saved[2];
    auto gradient = in_rows(gradients[0]);
    int64_t width = x.size(-1), n = factors.numel();
    // The weight's gradient is summed in stretches of rows whose number does not depend on that of the threads.
    constexpr int64_t stretch = 64;
    int64_t stretches = (n + stretch - 1) / stretch;
    at::Tensor of_x, sums;
    if (context->needs_input_grad(0)) of_x = at::empty(x.sizes(), x.options());
    if (context->needs_input_grad(1)) sums = at::zeros({stretches, width}, x.options());
    const float *g = read(gradient), *from = read(x), *w = read(weight), *r = read(factors);
    float *dx = of_x.defined() ? write(of_x) : nullptr, *dw = sums.defined() ? write(sums) : nullptr;
    int64_t x_step = spacing(x), g_step = spacing(gradient);
    for_each_row(stretches, stretch * width, [&](int64_t s) {
      for (int64_t i = s * stretch; i < std::min(n, (s + 1) * stretch); i++) {
        training_kernels().rms_norm_backward(g + i * g_step, from + i * x_step, w, r[i], width, dx ? dx + i * width : nullptr,
                                             dw ? dw + s * width : nullptr);
      }
    });
    return {of_x, sums.defined() ? sums.sum(0) : sums, at::Tensor()};
  }
};

// ── rotary positions: x [n, heads, dim], cosines and signed sines [n, turned] ────────────────────────────────────────

static at::Tensor rotate(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines, bool transposed) {
  auto from = x.contiguous();
  auto y = at::empty_like(from);
  int64_t n = x.size(0), heads = x.size(1), dim = x.size(2), turned = cosines.size(-1);
  const float *source = read(from), *c = read(cosines), *s = read(sines);
  float* to = write(y);
  for_each_row(n, heads * dim, [&](int64_t i) {
    int64_t row = i * heads * dim;
    training_kernels().rotate(source + row, c + i * turned, s + i * turned, heads, dim, turned / 2, transposed, to + row);
  });
  return y;
}

struct Rotate : torch::autograd::Function<Rotate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines) {
    context->save_for_backward({cosines, sines});
    return rotate(x, cosines, sines, false);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto saved = context->get_saved_variables();
    return {rotate(gradients[0], saved[0], saved[1], true), at::Tensor(), at::Tensor()};
  }
};

// ── silu(gate) up ────────────────────────────────────────────────────────────────────────────────────────────────────

static at::Tensor gate(const at::Tensor& gates, const at::Tensor& ups) {
  auto y = at::empty(gates.sizes(), gates.options());
  int64_t width = gates.size(-1), n = width ? gates.numel() / width : 0;
  const float *a = read(gates), *b = read(ups);
  int64_t a_step = spacing(gates), b_step = spacing(ups);
  float* to = write(y);
  for_each_row(n, width, [&](int64_t i) { training_kernels().gate(a + i * a_step, b + i * b_step, width, to + i * width); });
  return y;
}

struct Gate : torch::autograd::Function<Gate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gates, const at::Tensor& ups) {
    auto a = in_rows(gates), b = in_rows(ups);
    context->save_for_backward({a, b});
    return gate(a, b);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto saved = context->get_saved_variables();
    const auto &gates = saved[0], &ups = saved[1];
    auto gradient = in_rows(gradients[0]);
    auto of_gates = at::empty(gates.sizes(), gates.options()), of_ups = at::empty(ups.sizes(), ups.options());
    int64_t width = gates.size(-1), n = width ? gates.numel() / width : 0;
    const float *g = read(gradient), *a = read(gates), *b = read(ups);
    int64_t g_step = spacing(gradient), a_step = spacing(gates), b_step = spacing(ups);
    float *da = write(of_gates), *db = write(of_ups);
    for_each_row(n, width, [&](int64_t i) {
      training_kernels().gate_backward(g + i * g_step, a + i * a_step, b + i * b_step, width, da + i * width, db + i * width);
    });
    return {of_gates, of_ups};
  }
};

}  // namespace farmhand

extern "C" {

int farmhand_rms_norm(const at::Tensor* x, const at::Tensor* weight, double eps, at::Tensor** result) {
  return farmhand::guarded([&] {
    TORCH_CHECK(x->dim() > 0 && weight->dim() == 1 && x->size(-1) == weight->size(0) && weight->is_contiguous(), "rows of shape ",
                x->sizes(), " with a weight of shape ", weight->sizes());
    using namespace farmhand;
    *result = hand_over(trains({x, weight}) ? RmsNorm::apply(*x, *weight, eps)
                                            : rms_norm(in_rows(*x), *weight, static_cast<float>(eps), nullptr));
  });
}

int farmhand_rotate(const at::Tensor* x, const at::Tensor* cosines, const at::Tensor* sines, at::Tensor** result) {
  return farmhand::guarded([&] {
    auto turned = cosines->size(-1);
    TORCH_CHECK(x->dim() == 3 && cosines->numel() == x->size(0) * turned && cosines->sizes() == sines->sizes() &&
                    turned % 2 == 0 && turned <= x->size(2) && cosines->is_contiguous() && sines->is_contiguous(),
                "heads of shape ", x->sizes(), " with tables of shape ", cosines->sizes());
    using namespace farmhand;
    *result = hand_over(trains({x}) ? Rotate::apply(*x, *cosines, *sines) : rotate(*x, *cosines, *sines, false));
  });
}

int farmhand_gate(const at::Tensor* gates, const at::Tensor* ups, at::Tensor** result) {
  return farmhand::guarded([&] {
    TORCH_CHECK(gates->dim() > 0 && gates->sizes() == ups->sizes(), "gates of shape ", gates->sizes(), " for ", ups->sizes());
    using namespace farmhand;
    *result = hand_over(trains({gates, ups}) ? Gate::apply(*gates, *ups) : gate(in_rows(*gates), in_rows(*ups)));
  });
}

}  // extern "C"
