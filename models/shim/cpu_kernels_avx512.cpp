#define FARMHAND_TABLE cpu_kernels_avx512
#define FARMHAND_NAME "avx512"
#include "cpu_kernels_body.h"
