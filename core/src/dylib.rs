//! Shared libraries opened at run time.

/// Opens a shared library for the whole process, with all its symbols visible to others, and never closes it.
///
/// libtorch finds its CUDA half this way: once `libtorch_cuda.so` is open, its kernels are registered. It must be
/// open before the first tensor operation; later libtorch has already decided that there is no CUDA.
///
/// Returns whether the library could be opened.
pub fn open_globally(name: &str) -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: opening a library runs its initialisers; the callers name libtorch's own libraries, whose initialisers
    // only register kernels. The handle is leaked, so no symbol dangles.
    #[expect(unsafe_code, reason = "there is no safe way to open a shared library")]
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) };
    library.map(std::mem::forget).is_ok()
}
