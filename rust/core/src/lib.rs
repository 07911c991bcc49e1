//! The data plane: one tenant's rows from a source table through the framer into a target table.
//!
//! A row's way, by room: in [`pass`], [`source`](pass::source) reads it; in [`row`],
//! [`frame`](row::frame) finds its fields; [`chunk`](pass::chunk) carries its position and takes its
//! [`digest`](row::digest); [`direct`](pass::direct) or [`staged`](pass::staged) writes it,
//! [`positions`](pass::positions) maps it, [`progress`](pass::progress) records it in the same
//! transaction, `proof` reads it back. [`server`] holds the connections; [`verify`] compares whole stores.

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
pub use server::identifier::TableAddress;
pub use snapshot::Snapshot;
pub use verify::{Verification, VerifyConfig, VerifyResult};
