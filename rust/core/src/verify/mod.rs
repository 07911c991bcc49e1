//! Compares a tenant's rows in two tables while both may be written to.
//!
//! Both sides are read at the same time in the order of their positions and merged. What does not
//! match there is only suspected, because the two sides were not read at the same moment: it is
//! read again, the target before the source. The mirror writes to the source first, so a mirrored
//! row that the target shows is then certainly on the source, and what still differs is wrong.

mod config;
mod count;
mod counters;
mod counting;
mod merge;
mod names;
mod outcome;
mod recheck;
mod scan;
mod streams;
mod verification;

pub use config::{Level, VerifyConfig};
pub use counters::VerifyProgress;
pub use names::Names;
pub use outcome::{Seen, StreamResult, VerifyResult, Violation, ViolationKind};
pub use verification::Verification;
