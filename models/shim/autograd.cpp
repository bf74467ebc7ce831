// Gradients where tch has no way in: backward from given gradients, a parameter's gradient itself, and checkpoints.
#include "shim.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <vector>

namespace farmhand {

// A Rust closure from tensor to tensor: `call` writes the result and returns 0, or keeps an error and returns 1.
struct Closure : torch::CustomClassHolder {
  using Call = int (*)(void* data, const at::Tensor* x, at::Tensor** result);
  using Free = void (*)(void* data);

  Closure(void* data, Call call, Free free) : data_(data), call_(call), free_(free) {}
  Closure(const Closure&) = delete;
  ~Closure() override { free_(data_); }

  at::Tensor operator()(const at::Tensor& x) const {
    at::Tensor* result = nullptr;
    if (call_(data_, &x, &result)) throw std::runtime_error(kept_error());
    std::unique_ptr<at::Tensor> owned(result);
    return std::move(*owned);
  }

 private:
  void* data_;
  Call call_;
  Free free_;
};

// Keeps nothing of the closure's insides but its input, and runs it again when the gradient arrives.
struct Checkpoint : torch::autograd::Function<Checkpoint> {
  // `anchor` makes the result differentiable even where `x` is not: parameters used inside may be.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& anchor,
                            const c10::intrusive_ptr<Closure>& closure) {
    context->save_for_backward({x});
    context->saved_data["trains_x"] = x.requires_grad();
    context->saved_data["closure"] = c10::IValue::make_capsule(closure);
    auto y = (*closure)(x);
    return y.is_same(x) ? y.view_as(y) : y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    auto closure = c10::static_intrusive_pointer_cast<Closure>(context->saved_data["closure"].toCapsule());
    auto x = context->get_saved_variables()[0].detach().requires_grad_(context->saved_data["trains_x"].toBool());
    at::Tensor y;
    {
      at::AutoGradMode with_grad(true);
      y = (*closure)(x);
    }
    if (y.requires_grad()) torch::autograd::backward({y}, {gradients[0]});
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

static std::vector<at::Tensor> tensors(const at::Tensor* const* handles, size_t n) {
  std::vector<at::Tensor> list;
  for (size_t i = 0; i < n; i++) list.push_back(*handles[i]);
  return list;
}

}  // namespace farmhand

extern "C" {

int farmhand_backward(const at::Tensor* const* outputs, const at::Tensor* const* gradients, size_t n) {
  return farmhand::guarded([&] { torch::autograd::backward(farmhand::tensors(outputs, n), farmhand::tensors(gradients, n)); });
}

// `gradient` may be null: then the parameter has none afterwards.
int farmhand_set_grad(const at::Tensor* parameter, const at::Tensor* gradient) {
  return farmhand::guarded([&] {
    if (gradient) {
      TORCH_CHECK(gradient->sizes() == parameter->sizes(), "a gradient of shape ", gradient->sizes(), " for a parameter of shape ",
                  parameter->sizes());
      TORCH_CHECK(gradient->device() == parameter->device(), "a gradient on another device than its parameter");
    }
    parameter->mutable_grad() = gradient ? gradient->detach() : at::Tensor();
  });
}

// Takes over `data` whatever happens: `free` is called once the result's graph is gone.
int farmhand_checkpoint(const at::Tensor* x, void* data, farmhand::Closure::Call call, farmhand::Closure::Free free,
                        at::Tensor** result) {
  return farmhand::guarded([&] {
    auto closure = c10::make_intrusive<farmhand::Closure>(data, call, free);
    if (!at::GradMode::is_enabled()) {
      *result = farmhand::hand_over((*closure)(*x));
      return;
    }
    auto anchor = at::empty({0}, x->options()).requires_grad_(true);
    *result = farmhand::hand_over(farmhand::Checkpoint::apply(*x, anchor, closure));
  });
}

}  // extern "C"
