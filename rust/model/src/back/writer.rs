//! Applications: an append at the store of the route that a router knows, which may be an old one.

use crate::back::guard::Says;
use crate::back::rules::Rule;
use crate::back::state::{Append, EVENTS, Fence, Row, State, source};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The transaction writes somewhere else first.
    Begin,
    /// The guard's lock and check, and the row; in one step, because nothing changes a fence between.
    Append,
    Commit,
    /// Committed, and the reply is lost: the application tries the same event again.
    CommitUnanswered,
    Rollback,
    /// NOTIFY or the route's time to live.
    RefreshRoute,
    /// What a router must not do: the event goes to the store that was left, too.
    Mirror,
}

/// The event that a writer is about to append.
fn next(state: &State, writer: usize, events: [u8; 2]) -> Option<usize> {
    let done = state.writers[writer].acknowledged;
    (done < events[writer]).then_some(writer * EVENTS / 2 + done as usize)
}

/// Whether the lock of a store is asked for.
fn takes_lock(state: &State, store: usize, rule: Rule) -> bool {
    let leaves_again = (1..state.stores[store].fences.len())
        .any(|leg| source(leg) == store && state.stores[store].fences[leg] != Fence::Absent);
    state.is_guarded(store) && !(rule == Rule::HomeWithoutGuard && leaves_again)
}

/// What it can do now, apart from failing.
pub fn steps(state: &State, writer: usize, events: [u8; 2], rule: Rule, found: &mut Vec<Step>) {
    let this = state.writers[writer];
    if this.generation < state.control.generation() {
        found.push(Step::RefreshRoute);
    }
    let store = match this.append {
        Append::Idle => this.generation % 2,
        Append::Begun { store, .. } => store,
        Append::Inserted { .. } => {
            found.push(Step::Commit);
            return;
        }
    };
    if next(state, writer, events).is_some() {
        if state.holders[store].is_none() || !takes_lock(state, store, rule) {
            found.push(Step::Append);
        }
        if writer == 0 && this.append == Append::Idle && state.early > 0 {
            found.push(Step::Begin);
        }
    }
    if rule == Rule::MirrorDraws && this.acknowledged > 0 {
        found.push(Step::Mirror);
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
        Step::Begin => {
            let store = state.writers[writer].generation % 2;
            let xid = state.stores[store].next_xid;
            state.stores[store].next_xid += 1;
            state.early -= 1;
            state.writers[writer].append = Append::Begun { store, xid };
        }
        Step::Append => append(state, writer, events, rule),
        Step::Commit => commit(state, writer, events, true),
        Step::CommitUnanswered => commit(state, writer, events, false),
        Step::Rollback => state.writers[writer].append = Append::Idle,
        Step::RefreshRoute => state.writers[writer].generation = state.control.generation(),
        Step::Mirror => mirror(state, writer),
    }
}

fn append(state: &mut State, writer: usize, events: [u8; 2], rule: Rule) {
    let Some(event) = next(state, writer, events) else {
        return;
    };
    let (store, begun) = match state.writers[writer].append {
        Append::Begun { store, xid } => (store, Some(xid)),
        _ => (state.writers[writer].generation % 2, None),
    };
    let guarded = takes_lock(state, store, rule);
    let (generation, says) = state.says(store);
    let unguarded = rule == Rule::HomeWithoutGuard && !guarded;
    let here = &mut state.stores[store];
    match says {
        Says::Moved if !unguarded => {
            state.writers[writer].generation = state.writers[writer].generation.max(generation);
            state.writers[writer].append = Append::Idle;
        }
        Says::NotOpen => state.writers[writer].append = Append::Idle,
        _ if here.rows[event].is_some() => {
            // The first try was committed: a success with the stored position.
            state.writers[writer].append = Append::Idle;
            acknowledge(state, writer, event);
        }
        _ => {
            let xid = begun.unwrap_or(here.next_xid);
            here.next_xid = here.next_xid.max(xid + 1);
            let position = here.next_position;
            here.next_position += 1;
            let saw = here.events();
            state.writers[writer].append = Append::Inserted {
                store,
                row: Row { xid, position },
                saw,
                guarded,
            };
        }
    }
}

fn acknowledge(state: &mut State, writer: usize, event: usize) {
    state.writers[writer].acknowledged += 1;
    state.acknowledged |= 1 << event;
}

fn commit(state: &mut State, writer: usize, events: [u8; 2], answered: bool) {
    let (
        Append::Inserted {
            store, row, saw, ..
        },
        Some(event),
    ) = (state.writers[writer].append, next(state, writer, events))
    else {
        return;
    };
    let (generation, says) = state.says(store);
    let elsewhere = state.says(1 - store).0 > generation;
    // A store that has forgotten where the tenant went accepts until it is reminded.
    let stranded = state.gone_back[store] && (elsewhere || state.is_home(1 - store));
    state.wrong.late |= !stranded && (says != Says::Write || elsewhere);
    if stranded {
        state.forgotten |= 1 << event;
    }
    state.stores[store].rows[event] = Some(row);
    state.saw[event] = saw;
    state.writers[writer].append = Append::Idle;
    if answered {
        acknowledge(state, writer, event);
    }
}

fn mirror(state: &mut State, writer: usize) {
    let event = writer * EVENTS / 2 + state.writers[writer].acknowledged as usize - 1;
    for old in 0..2 {
        let stands_by = state.stores[old].fences.contains(&Fence::Asleep)
            && state.is_home(1 - old)
            && state.stores[1 - old].rows[event].is_some();
        if stands_by {
            let mut batch = [None; EVENTS];
            batch[0] = Some(event as u8);
            state.stores[old].insert(batch);
        }
    }
}
