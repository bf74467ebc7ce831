//! Lets the program find libtorch without `LD_LIBRARY_PATH`: its folder becomes the RUNPATH.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}/lib", libtorch.display());
    }
}
