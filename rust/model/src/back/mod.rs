//! There and back: a tenant moves, its way back is kept, and it returns, stays, or goes there again.
//!
//! A model of its own. Its writers and processes are those of the protocol's, coarser in the cutover and
//! finer in what a snapshot shows: rows have transaction ids and positions in both stores, and a
//! transaction may have its id long before it writes. A way back is followed, asked for, given up,
//! ended and mended; either store and the control database may be put back to an earlier moment.

mod bounds;
mod checked;
mod ends;
mod guard;
mod mending;
mod model;
mod names;
mod passes;
mod process;
pub mod properties;
mod rules;
mod state;
mod writer;

pub use bounds::ThereAndBack;
pub use model::Step;
pub use rules::Rule;
pub use state::State;
