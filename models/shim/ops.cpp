// Any registered operator by its name, and the text of the last error.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace farmhand {

static thread_local std::string last_error;

void keep_error(const char* text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error.clear();
  }
}

const char* kept_error() noexcept { return last_error.c_str(); }

// One argument as Rust writes it down; which member counts is said by `kind`.
struct Argument {
  int32_t kind;
  int64_t integer;
  double real;
  const void* pointer;
  size_t length;
};

enum Kind : int32_t { kNone, kTensor, kInteger, kReal, kTruth, kText, kIntegers, kTensors };

static c10::IValue value(const Argument& argument) {
  switch (argument.kind) {
    case kNone:
      return {};
    case kTensor:
      return *static_cast<const at::Tensor*>(argument.pointer);
    case kInteger:
      return argument.integer;
    case kReal:
      return argument.real;
    case kTruth:
      return argument.integer != 0;
    case kText:
      return std::string(static_cast<const char*>(argument.pointer), argument.length);
    case kIntegers:
      return c10::IntArrayRef(static_cast<const int64_t*>(argument.pointer), argument.length);
    case kTensors: {
      c10::List<at::Tensor> tensors;
      auto first = static_cast<const at::Tensor* const*>(argument.pointer);
      for (size_t i = 0; i < argument.length; i++) tensors.push_back(*first[i]);
      return tensors;
    }
    default:
      TORCH_CHECK(false, "an argument of unknown kind ", argument.kind);
  }
}

static const c10::OperatorHandle operator_named(const char* name, const char* overload) {
  auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  TORCH_CHECK(found.has_value(), "libtorch has no operator `", name, overload[0] ? "." : "", overload, "`");
  return *found;
}

}  // namespace farmhand

extern "C" {

const char* farmhand_last_error() { return farmhand::kept_error(); }

// For Rust code that C++ calls.
void farmhand_keep_error(const char* text) { farmhand::keep_error(text); }

// Writes the operator's schema into `text`, cut off at `capacity` bytes with the closing zero.
int farmhand_schema(const char* name, const char* overload, char* text, size_t capacity) {
  return farmhand::guarded([&] {
    std::ostringstream stream;
    stream << farmhand::operator_named(name, overload).schema();
    auto written = stream.str();
    auto length = std::min(written.size(), capacity - 1);
    std::copy_n(written.data(), length, text);
    text[length] = 0;
  });
}

// Calls an operator with the first `n_arguments` of its arguments, the others at their defaults. The tensors among its
// results go to `results`, in order, lists laid out flat; `n_results` holds the room there and then their number.
int farmhand_call(const char* name, const char* overload, const farmhand::Argument* arguments, size_t n_arguments,
                  at::Tensor** results, size_t* n_results) {
  return farmhand::guarded([&] {
    auto op = farmhand::operator_named(name, overload);
    const auto& expected = op.schema().arguments();
    TORCH_CHECK(n_arguments <= expected.size(), "operator `", name, "` takes ", expected.size(), " arguments, got ", n_arguments);
    torch::jit::Stack stack;
    for (size_t i = 0; i < n_arguments; i++) stack.push_back(farmhand::value(arguments[i]));
    for (size_t i = n_arguments; i < expected.size(); i++) {
      TORCH_CHECK(expected[i].default_value(), "operator `", name, "` needs argument `", expected[i].name(), "`");
      stack.push_back(*expected[i].default_value());
    }
    op.callBoxed(stack);
    std::vector<at::Tensor> tensors;
    for (const auto& result : stack) {
      if (result.isTensor()) {
        tensors.push_back(result.toTensor());
      } else if (result.isTensorList()) {
        for (const auto& tensor : result.toTensorVector()) tensors.push_back(tensor);
      }
    }
    TORCH_CHECK(tensors.size() <= *n_results, "operator `", name, "` gave ", tensors.size(), " tensors, room for ", *n_results);
    *n_results = tensors.size();
    for (size_t i = 0; i < tensors.size(); i++) results[i] = farmhand::hand_over(std::move(tensors[i]));
  });
}

// Kernels that add up in one order where libtorch has them; the others run as they are and libtorch warns of them.
int farmhand_prefer_deterministic_kernels() {
  return farmhand::guarded([] {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    // That mode would also fill new tensors, to show who reads what was never written.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

}  // extern "C"
