//! An application's appends: the router's choice, the guard's two statements, EVF01 and EVF03.

use crate::rules::Rule;
use crate::state::{Append, EVENTS, Event, Fence, Journal, Row, State, Store};

/// The writer whose transactions are REPEATABLE READ.
const FROZEN: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `TenantStoreRouter.append_events`, at the store of the cached route.
    Append,
    /// `eventsource_guard`: `pg_advisory_xact_lock_shared`, then the check, then the row.
    Guard,
    Commit,
    /// Committed, and the reply is lost: the application tries the same event again.
    CommitUnanswered,
    Rollback,
    /// NOTIFY or the route's time to live.
    RefreshRoute,
    /// EVF03, and the target is open now.
    Retry,
    /// EVF03, and the fence says `moved`: `decision.roll_forward`.
    RollForward,
    OpenTarget,
    Finish,
}

/// The event that a writer is about to append; None when it has appended all of its own.
fn next(state: &State, writer: usize, events: [u8; 2]) -> Option<Event> {
    let done = state.writers[writer].acknowledged;
    (done < events[writer]).then_some((writer * EVENTS / 2) as u8 + done)
}

/// What it can do now, apart from failing.
pub fn steps(state: &State, writer: usize, events: [u8; 2], found: &mut Vec<Step>) {
    let this = state.writers[writer];
    if this.route == Store::Source && state.control.route == Store::Target {
        found.push(Step::RefreshRoute);
    }
    match this.append {
        Append::Idle if next(state, writer, events).is_some() => found.push(Step::Append),
        Append::Idle => {}
        Append::AtGuard(_) if state.source.holder.is_none() => found.push(Step::Guard),
        Append::AtGuard(_) => {}
        Append::Inserted { .. } => found.push(Step::Commit),
        Append::NotOpen => {
            if state.target.open {
                found.push(Step::Retry);
            } else if state.source.fence == Fence::Moved {
                found.push(Step::RollForward);
            }
        }
        Append::OpeningTarget => found.push(Step::OpenTarget),
        Append::FinishingFlip => found.push(Step::Finish),
    }
}

/// What can go wrong with it now.
pub fn faults(state: &State, writer: usize, found: &mut Vec<Step>) {
    if let Append::Inserted { .. } = state.writers[writer].append {
        found.extend([Step::CommitUnanswered, Step::Rollback]);
    }
}

pub fn take(state: &mut State, writer: usize, step: Step, events: [u8; 2], rule: Rule) {
    match step {
        Step::Append => append(state, writer, events, rule),
        Step::Guard => check(state, writer, events, rule),
        Step::Commit => commit(state, writer, events, true),
        Step::CommitUnanswered => commit(state, writer, events, false),
        Step::Rollback => state.writers[writer].append = Append::Idle,
        Step::RefreshRoute => state.writers[writer].route = state.control.route,
        Step::Retry => state.writers[writer].append = Append::Idle,
        Step::RollForward => state.writers[writer].append = Append::OpeningTarget,
        Step::OpenTarget => {
            state.target.open = true;
            state.writers[writer].append = Append::FinishingFlip;
        }
        Step::Finish => {
            if state.control.journal == Journal::CutoverPaused {
                state.control.journal = Journal::Migrated;
                state.control.route = Store::Target;
                state.remember(|history| history.finished_by_router = true);
            }
            state.writers[writer].append = Append::Idle;
        }
    }
}

fn append(state: &mut State, writer: usize, events: [u8; 2], rule: Rule) {
    let Some(event) = next(state, writer, events) else {
        return;
    };
    match (state.writers[writer].route, state.source.fence) {
        (Store::Target, _) => append_at_target(state, writer, event),
        (Store::Source, Fence::Absent | Fence::Removed) => insert(state, writer, event, false),
        (Store::Source, fence) => {
            let looked = writer == FROZEN || rule == Rule::GuardInOneStatement;
            let seen = if looked { fence } else { Fence::Open };
            state.writers[writer].append = Append::AtGuard(seen);
        }
    }
}

/// One step: while the target is closed it refuses, and it never closes again.
fn append_at_target(state: &mut State, writer: usize, event: Event) {
    if !state.target.open {
        state.writers[writer].append = Append::NotOpen;
        return;
    }
    let there = state.target.events();
    let first = (event as usize).is_multiple_of(EVENTS / 2);
    if !first && there & (1 << (event - 1)) == 0 {
        state.history.conflict = true;
    }
    if there & (1 << event) == 0 {
        state.target.appended |= 1 << event;
        state.history.early_at_target |= state.source.fence != Fence::Moved;
    }
    state.writers[writer].acknowledged += 1;
}

fn check(state: &mut State, writer: usize, events: [u8; 2], rule: Rule) {
    let (Append::AtGuard(seen), Some(event)) =
        (state.writers[writer].append, next(state, writer, events))
    else {
        return;
    };
    let now = state.source.fence;
    let frozen = writer == FROZEN;
    if frozen && rule != Rule::NoForShare && seen != now {
        // 40001: the application begins the transaction again.
        state.writers[writer].append = Append::Idle;
        return;
    }
    let fence = if frozen || rule == Rule::GuardInOneStatement {
        seen
    } else {
        now
    };
    if fence == Fence::Moved {
        // EVF01: the router adopts what the fence says.
        state.writers[writer].route = Store::Target;
        state.writers[writer].append = Append::Idle;
        state.remember(|history| history.followed = true);
        return;
    }
    insert(state, writer, event, true);
}

fn insert(state: &mut State, writer: usize, event: Event, guarded: bool) {
    if state.source.rows[event as usize].is_some() {
        // The first try was committed: a success with the stored position.
        state.writers[writer].acknowledged += 1;
        state.writers[writer].append = Append::Idle;
        return;
    }
    let row = Row {
        xid: state.source.next_xid,
        position: state.source.next_position,
    };
    state.source.next_xid += 1;
    state.source.next_position += 1;
    state.writers[writer].append = Append::Inserted { row, guarded };
}

fn commit(state: &mut State, writer: usize, events: [u8; 2], answered: bool) {
    let (Append::Inserted { row, .. }, Some(event)) =
        (state.writers[writer].append, next(state, writer, events))
    else {
        return;
    };
    state.source.rows[event as usize] = Some(row);
    state.source.flushed = state.source.flushed.max(row.xid);
    state.history.late_at_source |= state.source.fence == Fence::Moved;
    state.writers[writer].acknowledged += u8::from(answered);
    state.writers[writer].append = Append::Idle;
}
