//! Lets the programs and tests of this package find libtorch without `LD_LIBRARY_PATH`: its folder becomes their RUNPATH.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        // One argument each, so that a comma or a space in the path does no harm.
        for argument in ["-Xlinker", "-rpath", "-Xlinker"] {
            println!("cargo::rustc-link-arg={argument}");
        }
        println!("cargo::rustc-link-arg={}", lib.display());
    }
}
