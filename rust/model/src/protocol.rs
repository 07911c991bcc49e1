//! What can happen next, and what it leads to.

use crate::rules::Rule;
use crate::state::{Append, At, Fence, Journal, State};
use crate::{driver, writer};

/// How much happens, and which rule is broken.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Events that each of the writers appends, at most half of `EVENTS`.
    pub events: [u8; 2],
    /// Faults, of any kind and at any place, in one history.
    pub faults: u8,
    pub rule: Rule,
    /// Whether states record what led to them; the properties about outcomes need it.
    pub remembers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Writer(usize, writer::Step),
    WriterFails(usize, writer::Step),
    /// `acquire_lease`.
    Start(usize),
    /// `acquire_lease` from a driver that is alive and frozen.
    TakeOver(usize),
    Driver(usize),
    Kill(usize),
    GiveUp(usize),
    /// COMMIT reaches the source and is answered.
    CommitArrives,
    /// COMMIT reaches the source, and its answer is lost.
    CommitUnanswered,
    /// The server ends a session whose driver is gone.
    OrphanEnds,
    /// The session of a live driver is lost, or ended by a timeout.
    SessionLost,
    SourceCrashes,
    AbortAsked,
}

impl Protocol {
    /// What happens by itself. A history in which nothing of this is left is over.
    pub fn steps(&self, state: &State, found: &mut Vec<Step>) {
        for number in 0..2 {
            let mut steps = Vec::new();
            writer::steps(state, number, self.events, &mut steps);
            found.extend(steps.into_iter().map(|step| Step::Writer(number, step)));
            if driver::may_start(state, number) == Some(false) {
                found.push(Step::Start(number));
            }
            if driver::may_step(state, number, self.rule) {
                found.push(Step::Driver(number));
            }
        }
        match state.source.holder {
            Some(holder) if holder.commit_sent && holder.driver.is_some() => {
                found.push(Step::CommitArrives);
            }
            Some(holder) if holder.driver.is_none() => {
                found.push(Step::OrphanEnds);
                if holder.commit_sent {
                    found.push(Step::CommitUnanswered);
                }
            }
            _ => {}
        }
    }

    /// What may fail, or be asked for, at any time.
    pub fn faults(&self, state: &State, found: &mut Vec<Step>) {
        for number in 0..2 {
            let mut steps = Vec::new();
            writer::faults(state, number, &mut steps);
            found.extend(
                steps
                    .into_iter()
                    .map(|step| Step::WriterFails(number, step)),
            );
            if driver::may_start(state, number) == Some(true) {
                found.push(Step::TakeOver(number));
            }
            if state.drivers[number].at != At::Down {
                found.push(Step::Kill(number));
            }
            if driver::may_give_up(state, number) {
                found.push(Step::GiveUp(number));
            }
        }
        if let Some(holder) = state.source.holder.filter(|it| it.driver.is_some()) {
            found.push(Step::SessionLost);
            if holder.commit_sent {
                found.push(Step::CommitUnanswered);
            }
        }
        let over = matches!(
            state.control.journal,
            Journal::Migrated | Journal::RolledBack
        );
        if !state.control.abort_requested && !over {
            found.push(Step::AbortAsked);
        }
        found.push(Step::SourceCrashes);
    }

    /// The state after a step.
    pub fn after(&self, before: &State, step: Step) -> State {
        let mut state = *before;
        match step {
            Step::Writer(number, step) => {
                writer::take(&mut state, number, step, self.events, self.rule);
            }
            Step::WriterFails(number, step) => {
                state.faults -= 1;
                writer::take(&mut state, number, step, self.events, self.rule);
            }
            Step::Start(number) => driver::start(&mut state, number),
            Step::TakeOver(number) => {
                state.faults -= 1;
                driver::start(&mut state, number);
            }
            Step::Driver(number) => driver::step(&mut state, number, self.rule),
            Step::Kill(number) => {
                state.faults -= 1;
                kill(&mut state, number);
            }
            Step::GiveUp(number) => {
                state.faults -= 1;
                state.drivers[number].at = At::GiveUp;
            }
            Step::CommitArrives => end_session(&mut state, true, At::OpenTarget),
            Step::CommitUnanswered => {
                let orphan = state.source.holder.is_some_and(|it| it.driver.is_none());
                state.remember(|history| history.orphan_decided |= orphan);
                state.faults -= u8::from(!orphan);
                end_session(&mut state, true, At::Obey);
            }
            Step::OrphanEnds => end_session(&mut state, false, At::Obey),
            Step::SessionLost => {
                state.faults -= 1;
                end_session(&mut state, false, At::Obey);
            }
            Step::SourceCrashes => {
                state.faults -= 1;
                crash(&mut state);
            }
            Step::AbortAsked => {
                state.faults -= 1;
                state.control.abort_requested = true;
            }
        }
        state.in_order()
    }
}

/// The server ends the session that holds the lock; a driver that waits for it goes on.
fn end_session(state: &mut State, commit: bool, then: At) {
    let Some(holder) = state.source.holder.take() else {
        return;
    };
    if commit && holder.decided {
        state.source.fence = Fence::Moved;
        state.source.flushed = state.source.next_xid - 1;
    }
    if let Some(number) = holder.driver {
        let driver = &mut state.drivers[number as usize];
        if driver.at == At::Committing {
            driver.at = then;
        }
    }
}

fn kill(state: &mut State, number: usize) {
    if state.source.held_by(number)
        && let Some(holder) = &mut state.source.holder
    {
        holder.driver = None;
    }
    state.forget(number);
}

/// What was not committed is gone, and transaction ids that are not on disk are given out again.
fn crash(state: &mut State) {
    for writer in &mut state.writers {
        if matches!(writer.append, Append::AtGuard(_) | Append::Inserted { .. }) {
            writer.append = Append::Idle;
        }
    }
    end_session(state, false, At::Obey);
    for driver in &mut state.drivers {
        // Snapshot and barrier go over one connection: a crash between them is noticed.
        if matches!(driver.at, At::Barrier(_)) {
            driver.at = At::Obey;
        }
    }
    state.source.next_xid = state.source.flushed + 1;
}
