#define NAME farmhand_training_avx512
#include "cpu_training_body.h"
