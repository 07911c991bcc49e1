//! Which fence of a store is in force, and what its guard says.

use crate::back::state::{Fence, LEGS, State, source};

/// What a store's guard says to the tenant's writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Says {
    Write,
    /// EVF01.
    Moved,
    /// EVF03.
    NotOpen,
}

impl State {
    /// Whether the control database names the process.
    pub fn leased(&self, process: usize) -> bool {
        self.control.lease == Some(process as u8)
    }

    /// Whether the tenant lives in a store, as far as both of them know.
    pub fn is_home(&self, store: usize) -> bool {
        self.says(store).0 >= self.says(1 - store).0 && self.says(store).1 == Says::Write
    }

    /// The generation of the fence that is in force at a store, and what it says.
    pub fn says(&self, store: usize) -> (usize, Says) {
        let mut found = (0, 0, Says::Write);
        for (leg, fence) in self.stores[store].fences.iter().enumerate() {
            let (generation, first, says) = match fence {
                Fence::Open => (leg, 0, Says::Write),
                Fence::Arrived => (leg + 1, 0, Says::Write),
                Fence::Moved { .. } => (leg + 1, 1, Says::Moved),
                Fence::Closed => (leg, 2, Says::NotOpen),
                Fence::Absent | Fence::Asleep | Fence::Retired => continue,
            };
            // At one generation closed comes before moved, that before open.
            if (generation, first) >= (found.0, found.1) {
                found = (generation, first, says);
            }
        }
        (found.0, found.2)
    }

    /// Whether appends take the lock: who leaves or has left has a guard, also one that sleeps.
    pub fn is_guarded(&self, store: usize) -> bool {
        (0..LEGS).any(|leg| source(leg) == store && self.stores[store].fences[leg] != Fence::Absent)
    }
}
