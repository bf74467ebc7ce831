//! Shared libraries opened at run time.

use std::path::Path;

use crate::plugin::Declaration;

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

/// Opens a plugin for itself, with its symbols hidden from others, and never closes it: what it registers is used until the process
/// ends. Only after its stamp was compared with this program's.
///
/// # Errors
/// When the system refuses, or the library does not export `symbol`.
pub(crate) fn open_plugin(path: &Path, symbol: &str) -> Result<&'static Declaration, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: opening runs the plugin's initialisers, which only enter components in its own registry. The stamp says that the
    // plugin was made by the same compiler from the same sources, so `Declaration` means the same on both sides; the handle is
    // leaked, so the reference stays good.
    #[expect(unsafe_code, reason = "there is no safe way to open a shared library")]
    unsafe {
        let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)?;
        let declaration: &'static Declaration = &**library.get::<*const Declaration>(symbol.as_bytes())?;
        std::mem::forget(library);
        Ok(declaration)
    }
}
