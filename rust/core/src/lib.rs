//! The data plane: one tenant's rows from a source table through the framer into a target table.
//!
//! A row's way: [`source`] reads it, [`frame`] finds its fields, [`chunk`] carries its position and
//! takes its [`digest`], [`direct`] or [`staged`] writes it, [`positions`] maps it, [`progress`]
//! records it in the same transaction, `proof` reads it back; [`verify`] compares whole stores.

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

mod certificate;
pub mod chunk;
mod claim;
pub mod config;
pub mod connect;
pub mod copy;
mod copy_in;
mod difference;
pub mod digest;
pub mod direct;
pub mod dsn;
pub mod error;
#[cfg(feature = "failpoints")]
mod failpoints;
pub mod frame;
pub mod identifier;
pub mod positions;
pub mod progress;
mod proof;
pub mod session;
pub mod snapshot;
pub mod source;
pub mod staged;
mod stream;
mod task;
pub mod throttle;
mod tls;
pub mod verify;

pub use config::{PassConfig, PassResult, PassSpec};
pub use digest::Digest;
pub use error::{Error, Result};
pub use identifier::TableAddress;
pub use progress::Progress;
pub use session::PassSession;
pub use snapshot::Snapshot;
pub use verify::{Verification, VerifyConfig, VerifyResult};
