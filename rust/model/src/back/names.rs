//! What a process is called, and what is left of it when it has ended.

use crate::back::state::{At, Process, State};

impl State {
    /// The two processes are interchangeable: which one is called the first does not matter.
    pub fn in_order(mut self) -> State {
        if self.processes[0] > self.processes[1] {
            self.processes.swap(0, 1);
            let rename = |number: &mut Option<u8>| {
                if let Some(it) = number {
                    *it = 1 - *it;
                }
            };
            rename(&mut self.control.lease);
            self.holders.iter_mut().for_each(rename);
            let copies = self.copies.iter_mut().flatten();
            for store in self.stores.iter_mut().chain(copies) {
                for progress in store.progress.iter_mut().flatten() {
                    rename(&mut progress.owner);
                }
            }
            if let Some(copy) = &mut self.control_copy {
                rename(&mut copy.lease);
            }
        }
        self
    }

    /// The process has ended: its token is not used again.
    pub fn forget(&mut self, process: usize) {
        let number = Some(process as u8);
        self.processes[process] = Process {
            at: At::Down,
            leg: 0,
        };
        for owner in [&mut self.control.lease]
            .into_iter()
            .chain(self.holders.iter_mut())
        {
            *owner = owner.filter(|it| Some(*it) != number);
        }
        let copies = self.copies.iter_mut().flatten();
        for store in self.stores.iter_mut().chain(copies) {
            for progress in store.progress.iter_mut().flatten() {
                progress.owner = progress.owner.filter(|it| Some(*it) != number);
            }
        }
        if let Some(copy) = &mut self.control_copy {
            copy.lease = None;
        }
    }
}
