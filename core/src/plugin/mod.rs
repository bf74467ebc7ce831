//! Components from shared libraries: a crate outside of this repository, built on its own and opened at run time.
//!
//! A plugin is a crate of the type `cdylib` that registers components as the built-in ones do and says [`export_plugin!`](crate::export_plugin)
//! once. Rust promises no layout across separate builds, so nothing of a plugin runs before what both sides must share
//! was compared field by field ([`Stamp`]); what was built by the same compiler from the same sources has the same layout in practice.
//!
//! The plugin carries its own copy of this crate, with its own registries. So the two copies hand each other a [`Table`]: functions that
//! read, write, check and build components by name. A component is only ever touched by the copy that made it. That is also
//! where panics are caught, for a panic of one copy of the standard library cannot be caught by another.

mod guard;
mod guarded;
mod library;
mod stamp;
mod table;

pub use library::{LoadedPlugin, load_plugin, load_plugins, loaded_plugins, plugin_files};
pub use stamp::{LOADER_VERSION, Mismatch, Stamp};
pub(crate) use table::{Calls, elsewhere, everywhere, is_own, made_elsewhere};
#[doc(hidden)]
pub use table::{Host, Offer, start};

/// What a plugin exports. Made by [`export_plugin!`](crate::export_plugin), read by [`load_plugin`] after the stamp was compared.
#[doc(hidden)]
#[derive(Debug)]
pub struct Declaration {
    /// Keeps the stamp's section in the library.
    pub stamp: &'static [u8],
    /// Keeps the lock file's section in the library.
    pub lock: &'static [u8],
    /// Introduces the two copies to each other.
    pub start: fn(&'static Host, &'static str) -> crate::Result<Offer>,
}

/// Makes a crate of the type `cdylib` a plugin that `farmhand` can load: all components that the crate registers.
///
/// Once, at the end of `src/lib.rs`:
///
/// ```ignore
/// farmhand_core::export_plugin!();
/// ```
///
/// The crate's `Cargo.lock` is compiled in, so that versions can be compared before anything of the plugin runs. Where it
/// lies elsewhere, in a workspace above the crate, say so: `export_plugin!(lock: "../Cargo.lock")`.
#[macro_export]
macro_rules! export_plugin {
    () => {
        $crate::export_plugin!(lock: "Cargo.lock");
    };
    (lock: $lock:literal) => {
        const _: () = {
            const PARTS: [&str; 5] =
                [$crate::plugin::COMMON_STAMP, "package=", env!("CARGO_PKG_NAME"), "\nversion=", env!("CARGO_PKG_VERSION")];
            const LOCK: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $lock));
            #[allow(unsafe_code)]
            #[unsafe(link_section = ".farmhand.stamp")]
            static STAMP: [u8; $crate::plugin::joined_len(&PARTS)] = $crate::plugin::joined(&PARTS);
            #[allow(unsafe_code)]
            #[unsafe(link_section = ".farmhand.lock")]
            static LOCKED: [u8; LOCK.len()] = *LOCK.first_chunk().expect("as long as itself");
            #[allow(unsafe_code)]
            #[unsafe(export_name = concat!("farmhand_plugin_", env!("CARGO_PKG_NAME")))]
            static DECLARATION: $crate::plugin::Declaration =
                $crate::plugin::Declaration { stamp: &STAMP, lock: &LOCKED, start: $crate::plugin::start };
        };
    };
}

#[doc(hidden)]
pub use stamp::{COMMON_STAMP, joined, joined_len};
