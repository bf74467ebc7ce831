#define FARMHAND_TABLE cpu_kernels_any
#define FARMHAND_NAME "any"
#include "cpu_kernels_body.h"
