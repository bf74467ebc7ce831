// All kernels as one table; a file that includes this names the table by FARMHAND_TABLE and its instruction set by FARMHAND_NAME.

#include "cpu_attention.h"
#include "cpu_kernels.h"
#include "cpu_layers.h"
#include "cpu_linear.h"
#include "cpu_sampling.h"

namespace farmhand {

const CpuKernels FARMHAND_TABLE = {
    FARMHAND_NAME,   linear_columns,  linear_input_first_columns, store_all, attend_one,  attention_scratch,
    rms_norm_rows,   layer_norm_rows, activate_all,               bend_all,  rotate_rows, sample_row,
};

}  // namespace farmhand
