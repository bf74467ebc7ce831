#define FARMHAND_TABLE cpu_kernels_avx2
#define FARMHAND_NAME "avx2"
#include "cpu_kernels_body.h"
