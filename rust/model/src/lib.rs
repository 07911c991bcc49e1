//! The protocol's order of things, small enough that every order can be tried.
//!
//! Two writers with routers of their own append while two drivers move their tenant. Commits are
//! delayed, replies lost, drivers killed or frozen, the source crashes. [`Protocol`] is what
//! `stateright` explores; the names of its steps are those of the code. [`restores`] is another model,
//! of databases that go back in time, [`back`] one of a tenant that moves, and may return, and
//! [`configurations`] one of processes whose addresses lead to different databases.

#![forbid(unsafe_code)]

pub mod back;
mod checked;
pub mod configurations;
pub mod driver;
pub mod end;
pub mod left_out;
pub mod passes;
pub mod protocol;
pub mod restores;
pub mod rules;
pub mod state;
pub mod volumes;
pub mod writer;

pub use protocol::{Protocol, Step};
pub use rules::Rule;
pub use state::State;
