// Which instruction set the kernels of training run on.
#include "cpu_features.h"
#include "cpu_training.h"

extern const farmhand::TrainingKernels farmhand_training_any;
#if defined(__x86_64__)
extern const farmhand::TrainingKernels farmhand_training_avx2;
extern const farmhand::TrainingKernels farmhand_training_avx512;
#endif

namespace farmhand {

static const TrainingKernels& choose() {
#if defined(__x86_64__)
  return best_for_processor(farmhand_training_avx512, farmhand_training_avx2, farmhand_training_any);
#else
  return farmhand_training_any;
#endif
}

const TrainingKernels& training_kernels() {
  static const TrainingKernels& chosen = choose();
  return chosen;
}

}  // namespace farmhand
