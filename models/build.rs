//! Compiles the C++ shim, and lets this crate's tests, examples and benches find libtorch without LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else { return };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    compile_shim(&lib);
}

/// Every `.cpp` file of `shim/` but the kernels that are compiled once per instruction set (`cpu_kernels_*.cpp`), as one
/// static library, against the headers beside libtorch's libraries.
fn compile_shim(lib: &Path) {
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let sources = sources(|stem| !stem.starts_with("cpu_kernels_"));
    // The same choices as torch-sys makes for its own C++, so that both see the same types.
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let include = std::env::var_os("LIBTORCH_INCLUDE").map_or_else(|| lib.with_file_name(""), PathBuf::from).join("include");
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .opt_level(2)
        .debug(false)
        .includes([include.join("torch/csrc/api/include"), include])
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        // libtorch's `parallel_for` is inline code, which runs on one thread unless this is on.
        .flag("-fopenmp")
        .files(sources)
        .compile("farmhand_shim");
    // The OpenMP runtime that libtorch brings along: a second one would have threads of its own.
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=dylib:+verbatim=libgomp.so.1");
    compile_kernels();
}

/// The kernels: plain C++ without libtorch, each file for the instruction set its name ends with. Products and sums are contracted
/// only where a kernel asks for it: the bits must not depend on how a loop was unrolled.
fn compile_kernels() {
    let on_x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let sets: [(&str, &[&str]); 3] = [
        ("avx512", &["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"]),
        ("avx2", &["-mavx2", "-mfma"]),
        ("any", &[]),
    ];
    for (set, flags) in sets.into_iter().filter(|(set, _)| on_x86 || *set == "any") {
        let ending = format!("_{set}");
        let sources = sources(|stem| stem.starts_with("cpu_kernels_") && stem.ends_with(&ending));
        let mut build = cc::Build::new();
        build.cpp(true).pic(true).warnings(false).opt_level(3).debug(false).std("c++17").files(sources);
        build.flag("-ffp-contract=off").flag("-fno-math-errno");
        for flag in flags {
            build.flag(flag);
        }
        build.compile(&format!("farmhand_kernels_{set}"));
    }
}

/// The `.cpp` files of `shim/` whose name without its ending fits, sorted.
fn sources(fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("shim")
        .expect("the folder `shim` stands beside build.rs")
        .map(|entry| entry.expect("the folder `shim` can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .filter(|path| path.file_stem().is_some_and(|stem| fits(&stem.to_string_lossy())))
        .collect();
    found.sort();
    found
}
