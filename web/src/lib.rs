//! Pages for people, served on this machine to a browser.
//!
//! * [`label`]: people judge pairs of answers; every answer is on the disk before it is acknowledged.
//! * [`runs`]: runs as they are, live and read-only.
//!
//! Nothing is fetched from elsewhere: HTML, style and scripts are part of the program. What a model wrote is untrusted and
//! never becomes markup: the server reads its Markdown into a tree of harmless elements, the page builds those one by one,
//! and the content security policy refuses everything else, text that turns into markup included. An address holds a secret,
//! and requests from pages of other sites are refused.

pub mod label;
pub mod runs;

mod access;
mod asset;
mod markdown;
mod refusal;
mod server;

pub use server::ListenOptions;
