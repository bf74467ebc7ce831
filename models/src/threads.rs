//! How many CPU threads libtorch uses.

/// Sets the number of CPU threads for tensor work. 0 keeps what `OMP_NUM_THREADS` says, or else takes one per core. Never
/// more than there are cores: a mistyped number must not start thousands of threads.
///
/// More threads than idle cores are far slower than one thread: they wait for each other at every operation. Call it
/// before the first tensor operation.
pub fn configure_threads(threads: usize) {
    let from_environment = || std::env::var("OMP_NUM_THREADS").ok()?.parse::<usize>().ok();
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads > 0 { threads } else { from_environment().filter(|n| *n > 0).unwrap_or_else(cores) };
    tch::set_num_threads(i32::try_from(threads.min(cores())).unwrap_or(1));
}
