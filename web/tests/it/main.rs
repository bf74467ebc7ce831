//! The pages by HTTP and in a browser.

mod browser;
mod http;
mod label;
mod label_browser;
mod runs;
