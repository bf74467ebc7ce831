//! Runs, live and read-only: what `farmhand run` leaves in its folder, shown while it is still being written.
//!
//! Nothing here locks, changes or trusts a file: a line that is half written is left for the next look, a file that is not
//! there yet is an empty part, and what cannot be read is said on the page, which goes on.

mod compare;
mod events;
mod folder;
mod leaderboard;
mod line_index;
mod routes;
mod samples;
mod session;
mod stages;

pub use session::RunsSession;
