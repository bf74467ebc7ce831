// Reads memory as fast as the processor can, to measure that.
#include <cstddef>
#include <cstdint>

#include "shim.h"

namespace {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FARMHAND_CLONES __attribute__((optimize("O3"), target_clones("avx512f", "avx2", "default")))
#else
#define FARMHAND_CLONES
#endif

// Four streams side by side keep more loads under way than one.
FARMHAND_CLONES uint64_t fold(const uint64_t* words, size_t n) {
  const size_t quarter = n / 4;
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (size_t i = 0; i < quarter; ++i) {
    a ^= words[i];
    b ^= words[i + quarter];
    c ^= words[i + 2 * quarter];
    d ^= words[i + 3 * quarter];
  }
  return a ^ b ^ c ^ d;
}

}  // namespace

extern "C" {

// Folds all whole words of a contiguous CPU tensor into one number, so that each is read once.
int farmhand_read_all(const at::Tensor* tensor, uint64_t* result) {
  return farmhand::guarded([&] {
    TORCH_CHECK(tensor->device().is_cpu() && tensor->is_contiguous(), "a contiguous tensor on the CPU is read");
    *result = fold(static_cast<const uint64_t*>(tensor->const_data_ptr()), tensor->nbytes() / sizeof(uint64_t));
  });
}

}  // extern "C"
