// The kernels of training under the name NAME, for the instruction set this file is compiled for.

#include "cpu_attention_training.h"
#include "cpu_rows.h"
#include "cpu_softmax.h"

extern const farmhand::TrainingKernels NAME;
const farmhand::TrainingKernels NAME = {scratch_floats, forward_item, backward_item, softmax_row, rms_norm_row, rms_norm_backward_row,
                                     rotate_row, gate_row, gate_backward_row};
