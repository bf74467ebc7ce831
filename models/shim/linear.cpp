// Matrix products by the fastest kernel in libtorch, and the differentiable linear layer on top of them.
//
// On AMD processors with AVX-512 libtorch's default (MKL) stays with AVX2; oneDNN, inside the same library, does not and is
// about twice as fast once the matrices are large enough to pay for its start (some 20 microseconds). The choice depends on
// the processor and the sizes alone, never on a clock, so that a machine always gives the same bits.
#include "shim.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

namespace farmhand {

// Multiplications from which oneDNN is ahead: 2 million, measured for sides between 32 and 4096.
constexpr int64_t kWorthOneDnn = 1 << 21;

#if defined(__x86_64__)
static bool amd_with_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}
#else
static bool amd_with_avx512() { return false; }
#endif

using OneDnnLinear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                                c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

// oneDNN's linear layer, where this libtorch has it and this processor gains from it.
static const std::optional<c10::TypedOperatorHandle<OneDnnLinear>>& one_dnn_linear() {
  static const auto handle = []() -> std::optional<c10::TypedOperatorHandle<OneDnnLinear>> {
    auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!found || !amd_with_avx512()) return std::nullopt;
    return found->typed<OneDnnLinear>();
  }();
  return handle;
}

bool product_is_ours(const at::Tensor& a, const at::Tensor& b) {
  auto plain = [](const at::Tensor& tensor) {
    return tensor.dim() == 2 && tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided;
  };
  return plain(a) && plain(b) && a.size(1) == b.size(1) && a.size(0) * a.size(1) * b.size(0) >= kWorthOneDnn &&
         one_dnn_linear().has_value();
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias) {
  if (!product_is_ours(a, b)) return at::linear(a, b, bias);
  at::AutoDispatchBelowADInplaceOrView guard;
  return one_dnn_linear()->call(a, b, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->saved_data["trains_bias"] = bias && bias->requires_grad();
    // Each gradient needs the other factor, and a frozen weight's input is not kept.
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), x.requires_grad() ? weight : at::Tensor()});
    return product(x, weight, bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto& gradient = gradients[0];
    auto saved = context->get_saved_variables();
    at::Tensor of_x, of_weight, of_bias;
    if (context->needs_input_grad(0)) of_x = product(gradient, saved[1].t(), {});
    if (context->needs_input_grad(1)) of_weight = product(gradient.t(), saved[0].t(), {});
    if (context->saved_data["trains_bias"].toBool()) of_bias = gradient.sum(0);
    return {of_x, of_weight, of_bias};
  }
};

static at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  if (!product_is_ours(x, weight)) return at::linear(x, weight, bias);
  bool differentiable = at::GradMode::is_enabled() &&
                        (x.requires_grad() || weight.requires_grad() || (bias && bias->requires_grad()));
  return differentiable ? Linear::apply(x, weight, bias) : product(x, weight, bias);
}

}  // namespace farmhand

extern "C" {

int farmhand_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, at::Tensor** result) {
  return farmhand::guarded([&] {
    auto optional = bias ? std::optional<at::Tensor>(*bias) : std::nullopt;
    *result = farmhand::hand_over(farmhand::linear(*x, *weight, optional));
  });
}

int farmhand_product(const at::Tensor* a, const at::Tensor* b, at::Tensor** result) {
  return farmhand::guarded([&] {
    at::NoGradGuard no_grad;
    *result = farmhand::hand_over(farmhand::product(*a, *b, {}));
  });
}

}  // extern "C"
