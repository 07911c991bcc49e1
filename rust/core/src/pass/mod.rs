//! One pass over a tenant's rows, from the source to the proof.

pub mod chunk;
mod difference;
pub mod direct;
pub mod later;
pub mod pipeline;
pub mod positions;
pub mod progress;
mod proof;
pub mod run;
pub mod session;
pub mod source;
pub mod staged;
mod straight;
