//! The data plane: one tenant's rows from a source table through the framer into a target table.
//!
//! A row's way: [`pass::source`] reads it, [`row::frame`] finds its fields, [`row::form`] sets aside
//! what only its database understands, [`pass::chunk`] carries its position and takes its
//! [`row::digest`], [`pass::direct`] or [`pass::staged`] writes it, [`pass::positions`] maps it,
//! [`pass::progress`] records it in the same transaction, `pass::proof` reads it back. [`server`]
//! opens the connections for all of this; [`verify`] compares whole stores.
//!
//! Every import points to the same room or to one further down, in the order `verify`, `pass`, `config`,
//! `server`, `row`, and the single files below them; a test in Python reads the imports.

#![forbid(unsafe_code)]

/// A moment that a test can act at, or one by the kind of pass; nothing without the feature.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoints::reach($name).await?;
    };
    ($spec:expr, pass: $pass:literal, last: $last:literal) => {
        failpoint!($spec, bulk: $pass, pass: $pass, last: $last)
    };
    ($spec:expr, bulk: $bulk:literal, pass: $pass:literal, last: $last:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoints::reach($crate::failpoints::by_pass($spec, $bulk, $pass, $last)).await?;
    };
}

pub mod config;
pub mod error;
#[cfg(feature = "failpoints")]
mod failpoints;
pub mod pass;
pub mod row;
pub mod server;
pub mod snapshot;
mod task;
pub mod throttle;
pub mod verify;

pub use config::{PassConfig, PassResult, PassSpec};
pub use error::{Error, Result};
pub use pass::progress::Progress;
pub use pass::session::PassSession;
pub use row::digest::Digest;
pub use row::form::Forms;
pub use server::identifier::TableAddress;
pub use server::kept::KeptSessions;
pub use snapshot::Snapshot;
pub use verify::{Verification, VerifyConfig, VerifyResult};
