//! Lets the program find libtorch without `LD_LIBRARY_PATH`: its folder becomes the RUNPATH.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        // One argument each, so that a comma or a space in the path does no harm.
        for argument in ["-Xlinker", "-rpath", "-Xlinker"] {
            println!("cargo::rustc-link-arg={argument}");
        }
        println!("cargo::rustc-link-arg={}", Path::new(&libtorch).join("lib").display());
    }
}
