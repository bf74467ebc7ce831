//! Lets the programs and tests of this package find libtorch without `LD_LIBRARY_PATH`: its folder becomes their RUNPATH. And tells
//! `farmhand plugin build` where libtorch is, and where cargo keeps what it compiled.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from);
    if let Some(lib) = &lib {
        // One argument each, so that a comma or a space in the path does no harm.
        for argument in ["-Xlinker", "-rpath", "-Xlinker"] {
            println!("cargo::rustc-link-arg={argument}");
        }
        println!("cargo::rustc-link-arg={}", lib.display());
    }
    let set = |name: &str, path: Option<&Path>| println!("cargo::rustc-env={name}={}", path.unwrap_or(Path::new("")).display());
    set("FARMHAND_LIBTORCH_DIR", lib.as_deref().and_then(Path::parent));
    // OUT_DIR is `<build folder>/<profile>/build/<package>/out`.
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from);
    set("FARMHAND_BUILD_DIR", out.as_deref().and_then(|out| out.ancestors().nth(4)));
}
