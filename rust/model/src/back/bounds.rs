//! How large a model is.

use crate::back::rules::Rule;

/// How much happens, and which rule is broken.
#[derive(Clone, Copy, Debug)]
pub struct ThereAndBack {
    /// Events that each of the writers appends, at most half of `EVENTS`.
    pub events: [u8; 2],
    /// Moves at most: 2 is there and back, 3 there again.
    pub legs: usize,
    /// Transactions that have their id before they write.
    pub early: u8,
    /// Processes that may be at work beside each other, at most two.
    pub processes: usize,
    /// Faults of processes, sessions and replies in one history.
    pub faults: u8,
    /// Stores and control databases that are put back, in one history.
    pub restores: u8,
    /// What may be put back: one of the stores, and the control database.
    pub restored: [bool; 3],
    pub rule: Rule,
}
