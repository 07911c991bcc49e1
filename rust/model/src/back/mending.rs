//! Stores and control databases that go back: what is done then, by a process or by who repairs.

use crate::back::bounds::ThereAndBack;
use crate::back::passes;
use crate::back::rules::Rule;
use crate::back::state::{
    Append, At, EVENTS, Events, Fence, Journal, LEGS, Pass, Process, Progress, SENT_ON, Snapshot,
    State, Way, source, target,
};

/// A store is put back to its copy: what had a session there begins again.
pub fn restore(state: &mut State, store: usize) {
    let Some(copy) = state.copies[store].take() else {
        return;
    };
    let lost = state.stores[store].events() & !copy.events();
    // Also what was carried already to a target that was not open yet: the decision is gone with it.
    if state.is_home(store) || !state.is_home(1 - store) {
        state.forgotten |= lost;
    }
    state.stores[store] = copy;
    state.holders[store] = None;
    state.gone_back[store] = true;
    state.restores -= 1;
    for writer in &mut state.writers {
        match writer.append {
            Append::Begun { store: at, .. } | Append::Inserted { store: at, .. } if at == store => {
                writer.append = Append::Idle;
            }
            _ => {}
        }
    }
    for process in 0..2 {
        if state.processes[process].at != At::Down {
            state.forget(process);
        }
    }
}

/// The move whose target the tenant lives at, by the control database.
fn arrived_by(state: &State) -> Option<usize> {
    match state.control.journal {
        Journal::Migrated => Some(state.control.leg),
        _ => state.control.leg.checked_sub(1),
    }
}

/// Its target was put back to before it was opened.
pub fn is_closed_again(state: &State) -> Option<usize> {
    arrived_by(state).filter(|leg| {
        let moved = matches!(state.stores[source(*leg)].fences[*leg], Fence::Moved { .. });
        // The newest decision speaks.
        let later = (leg + 1..LEGS)
            .any(|later| state.stores[target(later)].fences[later] == Fence::Arrived);
        moved && !later && state.stores[target(*leg)].fences[*leg] != Fence::Arrived
    })
}

/// A router has met it: the journal asks for a driver again.
pub fn reopen(state: &mut State, leg: usize) {
    let control = &mut state.control;
    if control.leg > leg {
        control.ways[control.leg] = Way::Standby;
    }
    control.leg = leg;
    control.journal = Journal::CutoverPaused;
    control.cutover_requested = false;
    control.abort_requested = false;
    control.lease = None;
}

/// The leg whose source has forgotten a decision that the target is a witness of.
pub fn is_forgotten(state: &State) -> Option<usize> {
    (0..state.control.ways.len()).find(|leg| {
        let here = state.stores[source(*leg)].fences[*leg];
        let known = matches!(here, Fence::Moved { .. });
        // Under the lock, as every change of what a fence says.
        let free = state.holders[source(*leg)].is_none() && !state.writes(source(*leg), false);
        state.stores[target(*leg)].fences[*leg] == Fence::Arrived && !known && free
    })
}

pub fn send_on(state: &mut State, leg: usize) {
    let here = &mut state.stores[source(leg)];
    let rows = here.events();
    here.fences[leg] = Fence::Moved {
        token: SENT_ON,
        rows,
    };
}

/// Whether both stores have a way back: otherwise nobody can return by it.
fn stands(state: &State, leg: usize) -> bool {
    let (home, old) = (&state.stores[source(leg)], &state.stores[target(leg)]);
    home.fences[leg] == Fence::Open
        && matches!(old.fences[leg], Fence::Asleep | Fence::Closed)
        && old.progress[leg].is_some()
}

pub fn may_return(model: &ThereAndBack, state: &State) -> bool {
    let leg = state.control.leg + 1;
    state.control.journal == Journal::Migrated
        && leg < model.legs
        && state.control.ways[leg] == Way::Standby
        && stands(state, leg)
        && model.asks(state, leg)
}

/// A way back of which one store knows nothing any more.
pub fn is_half(model: &ThereAndBack, state: &State) -> bool {
    let leg = state.control.leg + 1;
    state.control.journal == Journal::Migrated
        && leg < model.legs
        && state.control.ways[leg] == Way::Standby
        && state.stores[target(leg - 1)].fences[leg - 1] == Fence::Arrived
        && !stands(state, leg)
}

/// The home of a way back lacks the barrier of its last pass.
pub fn may_mend(model: &ThereAndBack, state: &State) -> bool {
    let leg = state.control.leg + 1;
    let due = state.control.journal == Journal::Migrated
        && leg < model.legs
        && matches!(state.control.ways[leg], Way::Standby | Way::Closing);
    if !due {
        return false;
    }
    let (home, old) = (&state.stores[source(leg)], &state.stores[target(leg)]);
    home.fences[leg - 1] == Fence::Arrived
        && matches!(home.fences[leg], Fence::Open | Fence::Asleep)
        && old.fences[leg] == Fence::Asleep
        && old.progress[leg].is_some_and(|at| !home.holds(at.token))
}

pub fn begin(state: &mut State, process: usize) {
    state.control.lease = Some(process as u8);
    state.processes[process] = Process {
        at: At::PutBack,
        leg: state.control.leg + 1,
    };
}

/// What only the old store has is kept, and goes home if its stream has not gone on.
pub fn put_back(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    if passes::take(state, process).is_none() {
        return At::Down;
    }
    let old = state.stores[target(leg)];
    let home = &mut state.stores[source(leg)];
    let missing = old.events() & !home.events() & !old.decided();
    if model.rule == Rule::NothingIsKept {
        return At::StandAgain(missing);
    }
    state.rescued |= missing;
    let there = home.events();
    let fitting = (0..EVENTS as u8)
        .filter(|event| missing & 1 << event != 0 && there & later(*event) == 0)
        .fold(0, |set, event| set | 1 << event);
    home.insert(old.in_order(fitting, |row| (row.position, 0)));
    At::StandAgain(missing)
}

/// The events of the same stream after this one.
fn later(event: u8) -> Events {
    let half = (EVENTS / 2) as u8;
    let end = (event / half + 1) * half;
    (event + 1..end).fold(0, |set, other| set | 1 << other)
}

/// A snapshot that shows nothing which the old store lacks.
fn held_by_both(model: &ThereAndBack, state: &State, leg: usize, here: Events) -> Snapshot {
    let home = &state.stores[source(leg)];
    let taken = state.snapshot(source(leg));
    let lacking = home.shown_by(taken) & !here;
    let lowest = (0..EVENTS)
        .filter(|event| lacking & 1 << event != 0)
        .filter_map(|event| home.rows[event])
        .map(|row| row.xid)
        .min();
    match lowest {
        None => taken,
        Some(xid) if model.rule == Rule::InFlightForgotten => (1 << xid) - 1,
        Some(xid) => taken & ((1 << xid) - 1),
    }
}

pub fn stand_again(model: &ThereAndBack, state: &mut State, process: usize, missing: Events) -> At {
    let leg = state.processes[process].leg;
    let (home, old) = (source(leg), target(leg));
    let ours = state.stores[old].progress[leg].is_some_and(|at| at.owner == Some(process as u8));
    let writable = matches!(state.stores[old].fences[leg], Fence::Asleep | Fence::Closed);
    if !ours || !writable {
        return At::Down;
    }
    let fence = &mut state.stores[home].fences[leg];
    if matches!(fence, Fence::Absent | Fence::Asleep) {
        *fence = Fence::Open;
    }
    let shown = state.stores[home].shown_by(state.snapshot(home));
    let above = state.stores[old].events() & !state.stores[old].decided();
    let gone = missing | above & !shown;
    let here = state.stores[old].events() & !gone;
    let proven = held_by_both(model, state, leg, here);
    let token = state.token(home);
    state.stores[old].remove(gone);
    state.stores[old].progress[leg] = Some(Progress {
        owner: Some(process as u8),
        token,
        proven,
        pass: Pass::Proven,
    });
    At::Down
}

/// The passes run again to a target that is closed, then what the way back had brought goes home, and
/// the way back stands again. The decision names the new proof.
pub fn repair(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    let (from, to) = (source(leg), target(leg));
    let Fence::Moved { rows, .. } = state.stores[from].fences[leg] else {
        return At::Down;
    };
    let missing = state.stores[to].fences[leg];
    let whole = rows & !state.stores[from].events() == 0;
    if !whole || missing == Fence::Retired || missing == Fence::Arrived {
        return At::Down;
    }
    if missing == Fence::Absent {
        state.stores[to].fences[leg] = Fence::Closed;
    }
    let token = state.token(from);
    let source_rows = state.stores[from];
    let by_position = |some| source_rows.in_order(some, |row| (row.position, 0));
    state.stores[to].insert(by_position(rows));
    state.stores[to].insert(by_position(source_rows.events() & !rows));
    state.stores[to].progress[leg] = Some(Progress {
        owner: Some(process as u8),
        token,
        proven: 0,
        pass: Pass::LastCarried,
    });
    let back = leg + 1;
    if back < model.legs {
        way_stands_again(model, state, process, back);
    }
    state.stores[from].fences[leg] = Fence::Moved { token, rows };
    At::OpenTarget
}

fn way_stands_again(model: &ThereAndBack, state: &mut State, process: usize, back: usize) {
    let (home, old) = (source(back), target(back));
    let stood = matches!(
        state.stores[old].fences[back],
        Fence::Asleep | Fence::Closed
    );
    if !stood || state.stores[old].progress[back].is_none() {
        return;
    }
    let fence = &mut state.stores[home].fences[back];
    if *fence == Fence::Absent {
        *fence = Fence::Asleep;
    }
    let here = state.stores[old].events();
    let proven = held_by_both(model, state, back, here);
    let token = state.token(home);
    state.stores[old].fences[back] = Fence::Asleep;
    state.stores[old].progress[back] = Some(Progress {
        owner: Some(process as u8),
        token,
        proven,
        pass: Pass::Proven,
    });
}

/// `repair`: what the fences of both stores say takes the place of what the control database says.
pub fn repaired_control(model: &ThereAndBack, state: &State) -> Option<State> {
    let newest = (0..model.legs).rev().find(|leg| {
        let decided = matches!(state.stores[source(*leg)].fences[*leg], Fence::Moved { .. });
        decided || state.stores[target(*leg)].fences[*leg] == Fence::Arrived
    })?;
    let control = state.control;
    let under_way = control.journal != Journal::Migrated && control.leg == newest + 1;
    if under_way {
        return None;
    }
    let mut after = *state;
    let arrived = state.stores[target(newest)].fences[newest] == Fence::Arrived;
    after.control.leg = newest;
    after.control.journal = if arrived {
        Journal::Migrated
    } else {
        Journal::CutoverPaused
    };
    after.control.cutover_requested = false;
    after.control.abort_requested = false;
    if newest > 0 {
        after.control.ways[newest] = Way::Returning;
    }
    let back = newest + 1;
    if back < model.legs && arrived && control.ways[back] != Way::Closing {
        repaired_way(&mut after, back);
    }
    Some(after)
}

fn repaired_way(after: &mut State, back: usize) {
    let (home, old) = (source(back), target(back));
    let left = [
        after.stores[home].fences[back],
        after.stores[old].fences[back],
    ];
    let is_left = left
        .iter()
        .any(|fence| !matches!(fence, Fence::Absent | Fence::Retired));
    after.control.ways[back] = match (stands(after, back), is_left) {
        (true, _) => Way::Standby,
        (false, true) => Way::Closing,
        (false, false) if after.control.ways[back] == Way::None => Way::None,
        (false, false) => Way::Closed,
    };
    if after.control.ways[back] == Way::Standby && left[1] == Fence::Closed {
        // A return had begun, and nobody knows of it any more.
        if let Some(at) = &mut after.stores[old].progress[back] {
            at.owner = None;
        }
        after.stores[old].fences[back] = Fence::Asleep;
    }
}
