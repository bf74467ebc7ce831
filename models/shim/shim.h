// What all files of the shim share: how errors cross to Rust, and the tensor handle of the tch crate.
#pragma once

#include <exception>

#include <ATen/core/Tensor.h>

namespace farmhand {

// Keeps `text` for `farmhand_last_error` on this thread.
void keep_error(const char* text) noexcept;

// The text kept last on this thread.
const char* kept_error() noexcept;

// Runs `body`; every function that Rust calls returns what this returns: 0, or 1 with the error's text kept.
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    keep_error(error.what());
  } catch (...) {
    keep_error("an exception of unknown type");
  }
  return 1;
}

// A tensor that Rust owns from here on; tch frees it with `delete`.
inline at::Tensor* hand_over(at::Tensor tensor) {
  return new at::Tensor(std::move(tensor));
}

}  // namespace farmhand
