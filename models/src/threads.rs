//! How a process uses the CPU for tensors: its threads, its memory.

use crate::native::keep_freed_memory;

/// Sets the number of CPU threads for tensor work, and keeps the memory of freed CPU tensors for the next ones. 0 threads
/// means what `OMP_NUM_THREADS` says, or else one per core. Never more than there are cores: a mistyped number must not
/// start thousands of threads.
///
/// More threads than idle cores are far slower than one thread: they wait for each other at every operation. Call it
/// before the first tensor operation.
pub fn configure_threads(threads: usize) {
    keep_freed_memory();
    let from_environment = || std::env::var("OMP_NUM_THREADS").ok()?.parse::<usize>().ok();
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads > 0 { threads } else { from_environment().filter(|n| *n > 0).unwrap_or_else(cores) };
    tch::set_num_threads(i32::try_from(threads.min(cores())).unwrap_or(1));
}
