//! The counters of a comparison that Python polls.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::Side;

/// Rows read so far; those that are read again count once.
#[derive(Debug, Default)]
pub struct VerifyCounters {
    source: AtomicI64,
    target: AtomicI64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    pub source_rows: i64,
    pub target_rows: i64,
}

impl VerifyCounters {
    pub fn add(&self, side: Side, rows: usize) {
        let counter = match side {
            Side::Source => &self.source,
            Side::Target | Side::Control => &self.target,
        };
        counter.fetch_add(rows as i64, Ordering::Relaxed);
    }

    pub fn read(&self) -> VerifyProgress {
        VerifyProgress {
            source_rows: self.source.load(Ordering::Relaxed),
            target_rows: self.target.load(Ordering::Relaxed),
        }
    }
}
