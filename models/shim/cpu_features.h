// Which of the instruction sets that kernels are compiled for this processor has.
#pragma once

namespace farmhand {

// The best of three tables of kernels. On other processors than x86-64 only the last exists.
#if defined(__x86_64__)
template <class Kernels>
const Kernels& best_for_processor(const Kernels& avx512, const Kernels& avx2, const Kernels& any) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return avx512;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2 : any;
}
#endif

}  // namespace farmhand
