// Which instruction set the kernels of training run on.
#include "cpu_training.h"

extern const farmhand::TrainingKernels farmhand_training_any;
#if defined(__x86_64__)
extern const farmhand::TrainingKernels farmhand_training_avx2;
extern const farmhand::TrainingKernels farmhand_training_avx512;
#endif

namespace farmhand {

static const TrainingKernels& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return farmhand_training_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return farmhand_training_avx2;
#endif
  return farmhand_training_any;
}

const TrainingKernels& training_kernels() {
  static const TrainingKernels& chosen = choose();
  return chosen;
}

}  // namespace farmhand
