#define NAME farmhand_training_avx2
#include "cpu_training_body.h"
