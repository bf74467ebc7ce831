#define NAME farmhand_training_any
#include "cpu_training_body.h"
