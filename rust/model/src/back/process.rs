//! A driver and a follower: what a process does with the leg that the control database names.

use crate::back::bounds::ThereAndBack;
use crate::back::passes;
use crate::back::rules::Rule;
use crate::back::state::{At, Fence, Journal, Pass, Process, Progress, State, Way, source, target};
use crate::back::{ends, mending};

/// None unless a process that is not running finds something to do. True if another one that is alive
/// and only frozen has the lease.
pub fn may_start(model: &ThereAndBack, state: &State, process: usize) -> Option<bool> {
    let twin = process == 1 && state.processes[0].at == At::Down;
    if state.processes[process].at != At::Down || twin || !is_asked(model, state) {
        return None;
    }
    Some(state.control.lease.is_some())
}

fn is_asked(model: &ThereAndBack, state: &State) -> bool {
    let control = state.control;
    let leg = control.leg;
    match control.journal {
        Journal::DualWrite => {
            let moved = matches!(state.stores[source(leg)].fences[leg], Fence::Moved { .. });
            let there = &state.stores[target(leg)];
            let stands = there.progress[leg].is_some()
                && matches!(there.fences[leg], Fence::Closed | Fence::Asleep);
            moved
                || stands
                    && (control.abort_requested
                        || control.cutover_requested && model.asks(state, leg))
        }
        Journal::CutoverPaused => true,
        Journal::Migrated => follows(model, state),
    }
}

/// Whether a way back has something to carry that it may.
fn follows(model: &ThereAndBack, state: &State) -> bool {
    let leg = state.control.leg + 1;
    if leg >= model.legs || state.control.ways[leg] != Way::Standby {
        return false;
    }
    let (home, old) = (&state.stores[source(leg)], &state.stores[target(leg)]);
    let due = match old.progress[leg] {
        Some(at) => matches!(at.pass, Pass::UpTo(_)) || passes::difference(home, at, None) != 0,
        None => false,
    };
    due && model.asks(state, leg) && old.fences[leg] == Fence::Asleep
}

pub fn start(state: &mut State, process: usize) {
    state.control.lease = Some(process as u8);
    state.processes[process] = Process {
        at: At::Obey,
        leg: state.control.leg,
    };
}

/// Whether its next step can be taken now.
pub fn may_step(state: &State, process: usize) -> bool {
    let Process { at, leg } = state.processes[process];
    let free = |store: usize| state.holders[store].is_none() && !state.writes(store, true);
    match at {
        At::Down => false,
        // Making a guard waits for every transaction that has written.
        At::KeepFences => !state.writes(target(state.control.leg), false),
        At::FenceAsked => free(source(leg)),
        At::Decision | At::AbortDecision => {
            matches!(state.stores[source(leg)].fences[leg], Fence::Moved { .. })
                || free(source(leg))
        }
        At::RemoveGuard => free(source(leg)),
        At::PutBack => !state.writes(source(leg), false),
        _ => true,
    }
}

/// Whether the budget may be spent here.
pub fn may_give_up(state: &State, process: usize) -> bool {
    let Process { at, leg } = state.processes[process];
    let held = state.holders[source(leg)] == Some(process as u8);
    match at {
        At::FenceAsked | At::FenceHeld | At::Decide => true,
        At::Write(_) => held,
        _ => false,
    }
}

pub fn step(model: &ThereAndBack, state: &mut State, process: usize) {
    let at = next(model, state, process);
    state.processes[process].at = at;
    if at == At::Down {
        state.forget(process);
    }
}

fn next(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let Process { at, leg } = state.processes[process];
    match at {
        At::Down => At::Down,
        At::Obey => obey(model, state, process),
        At::KeepFences | At::KeepSnapshot | At::KeepProgress { .. } | At::KeepRow => {
            keep(model, state, process)
        }
        At::Claim => passes::claim(model, state, process),
        At::Snapshot => passes::snapshot(model, state, leg),
        At::Begin { snapshot, token } => {
            passes::begin(model, state, process, Pass::UpTo(snapshot), token)
        }
        At::Read => passes::read(model, state, process),
        At::Write(batch) => passes::write(model, state, process, batch),
        At::Complete => {
            let done = passes::complete(model, state, process);
            let cuts_over = passes::is_driven(state, leg) && state.leased(process);
            if done && cuts_over {
                At::Wake
            } else {
                At::Down
            }
        }
        At::Wake => wake(state, process),
        At::Enter => enter(state, process),
        At::PrepareLast => match passes::barrier(model, state, leg) {
            Some(token) => passes::begin(model, state, process, Pass::Last, token),
            None => At::GiveUp,
        },
        At::FenceAsked => {
            state.holders[source(leg)] = Some(process as u8);
            At::FenceHeld
        }
        At::FenceHeld => passes::read_last(model, state, process),
        At::Decide => decide(state, process),
        At::OpenTarget => open_target(model, state, process),
        At::Finish => finish(model, state, process),
        At::GiveUp
        | At::Undecided
        | At::RecoverClaim
        | At::AbortClaim
        | At::Decision
        | At::AbortDecision
        | At::Rest
        | At::GivenUp => ended(state, process),
        At::Close | At::Retire | At::RemoveGuard | At::RemoveProgress => {
            ends::close(model, state, process)
        }
        At::Repair => mending::repair(model, state, process),
        At::PutBack => mending::put_back(model, state, process),
        At::StandAgain(gone) => mending::stand_again(model, state, process, gone),
    }
}

/// A cutover that is not decided, or not known to be.
fn ended(state: &mut State, process: usize) -> At {
    let Process { at, leg } = state.processes[process];
    match at {
        At::GiveUp | At::Undecided => undecided(state, process, at == At::GiveUp),
        At::RecoverClaim | At::AbortClaim => {
            passes::take(state, process);
            let aborts = at == At::AbortClaim;
            if aborts {
                At::AbortDecision
            } else {
                At::Decision
            }
        }
        At::Decision => match state.stores[source(leg)].fences[leg] {
            Fence::Moved { .. } => At::OpenTarget,
            _ => At::Undecided,
        },
        At::AbortDecision => match state.stores[source(leg)].fences[leg] {
            Fence::Moved { .. } => {
                state.control.abort_requested = false;
                At::Obey
            }
            _ => At::Rest,
        },
        At::Rest => {
            let fence = &mut state.stores[target(leg)].fences[leg];
            if *fence == Fence::Closed {
                *fence = Fence::Asleep;
            }
            At::GivenUp
        }
        At::GivenUp => given_up(state, process),
        _ => at,
    }
}

fn obey(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let control = state.control;
    let leg = control.leg;
    if !state.leased(process) {
        return At::Down;
    }
    let decided = matches!(state.stores[source(leg)].fences[leg], Fence::Moved { .. });
    match control.journal {
        Journal::CutoverPaused => At::RecoverClaim,
        Journal::DualWrite if decided => {
            state.control.journal = Journal::CutoverPaused;
            At::RecoverClaim
        }
        Journal::DualWrite if control.abort_requested => At::AbortClaim,
        Journal::DualWrite if control.cutover_requested => {
            if keeps(model, state) && model.rule != Rule::SnapshotAfterDecision {
                At::KeepFences
            } else {
                At::Claim
            }
        }
        Journal::DualWrite => At::Down,
        Journal::Migrated => {
            state.processes[process].leg = leg + 1;
            if follows(model, state) {
                At::Claim
            } else {
                At::Down
            }
        }
    }
}

/// Whether the move has no way back yet that stands by.
fn keeps(model: &ThereAndBack, state: &State) -> bool {
    let back = state.control.leg + 1;
    back < model.legs && matches!(state.control.ways[back], Way::None | Way::Preparing)
}

/// `way_back.keep`: for the leg after the one that is about to be decided.
fn keep(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.control.leg;
    let (back, old, home) = (leg + 1, source(leg), target(leg));
    if !state.leased(process) {
        // Who takes the lease ends the sessions of the one before.
        return At::Down;
    }
    match state.processes[process].at {
        At::KeepFences => {
            let arrived = state.stores[home].fences[leg] == Fence::Arrived;
            state.stores[old].fences[back] = Fence::Asleep;
            state.stores[old].progress[back] = None;
            state.stores[home].fences[back] = if arrived { Fence::Open } else { Fence::Asleep };
            state.control.ways[back] = Way::Preparing;
            At::KeepSnapshot
        }
        At::KeepSnapshot => {
            let snapshot = state.snapshot(home);
            let token = state.token(home);
            At::KeepProgress { snapshot, token }
        }
        At::KeepProgress { snapshot, token } => {
            state.stores[old].progress[back] = Some(Progress {
                owner: None,
                token,
                proven: snapshot,
                pass: Pass::Proven,
            });
            At::KeepRow
        }
        _ => {
            if state.control.ways[back] == Way::Preparing {
                state.control.ways[back] = Way::Standby;
            }
            if model.rule == Rule::SnapshotAfterDecision {
                At::Down
            } else {
                At::Claim
            }
        }
    }
}

/// The comparison of both sides comes first; then everybody who comes to the target waits there.
fn wake(state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    let here = state.stores[source(leg)].events();
    let there = &mut state.stores[target(leg)];
    if there.events() & !here != 0 {
        return At::GiveUp;
    }
    if there.fences[leg] == Fence::Asleep {
        there.fences[leg] = Fence::Closed;
    }
    At::Enter
}

fn enter(state: &mut State, process: usize) -> At {
    let control = &mut state.control;
    let asked = control.cutover_requested && !control.abort_requested;
    if control.lease != Some(process as u8) || control.journal != Journal::DualWrite || !asked {
        return At::Obey;
    }
    control.journal = Journal::CutoverPaused;
    At::PrepareLast
}

/// Inside the session that holds the lock; fails if that session is lost.
fn decide(state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    let (from, to) = (source(leg), target(leg));
    let held = state.holders[from] == Some(process as u8);
    let Some(at) = state.stores[to].progress[leg] else {
        return At::GiveUp;
    };
    if !held || state.stores[from].fences[leg] != Fence::Open {
        return At::GiveUp;
    }
    let rows = state.stores[from].events();
    let token = at.token;
    state.stores[from].fences[leg] = Fence::Moved { token, rows };
    At::OpenTarget
}

/// `eventsource_open_target`, with what its caller has read of the decision; what the fence of the
/// target says then.
pub fn open(model: &ThereAndBack, state: &mut State, leg: usize) -> Fence {
    let decided = state.stores[source(leg)].fences[leg];
    let there = &mut state.stores[target(leg)];
    let Fence::Moved { token, rows } = decided else {
        return there.fences[leg];
    };
    let proven = there.progress[leg]
        .is_some_and(|at| at.token == token && at.pass == Pass::LastCarried)
        || model.rule == Rule::OpenedAsItIs;
    if matches!(there.fences[leg], Fence::Closed | Fence::Asleep) && proven {
        there.fences[leg] = Fence::Arrived;
        // Its way back is in force from the first append on.
        if let Some(back) = there.fences.get_mut(leg + 1)
            && *back == Fence::Asleep
        {
            *back = Fence::Open;
        }
        state.wrong.gap |= rows & !there.events() != 0;
    }
    state.stores[target(leg)].fences[leg]
}

fn open_target(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    let opened = open(model, state, leg) == Fence::Arrived;
    let holder = &mut state.holders[source(leg)];
    *holder = holder.filter(|it| *it != process as u8);
    if opened { At::Finish } else { At::Repair }
}

/// Route and state; the second process finds it done.
fn finish(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    finish_leg(state, state.processes[process].leg);
    if keeps(model, state) && model.rule == Rule::SnapshotAfterDecision {
        return At::KeepFences;
    }
    At::Down
}

pub fn finish_leg(state: &mut State, leg: usize) {
    let control = &mut state.control;
    if control.leg == leg && control.journal == Journal::CutoverPaused {
        control.journal = Journal::Migrated;
        control.cutover_requested = false;
        control.abort_requested = false;
    }
}

/// The cutover was given up, or found undecided: back in `dual_write`.
fn undecided(state: &mut State, process: usize, given_up: bool) -> At {
    let leg = state.processes[process].leg;
    let holder = &mut state.holders[source(leg)];
    *holder = holder.filter(|it| *it != process as u8);
    if !state.leased(process) {
        return At::Down;
    }
    if state.control.journal == Journal::CutoverPaused {
        state.control.journal = Journal::DualWrite;
    }
    if given_up {
        state.control.cutover_requested = false;
    }
    At::Obey
}

/// An aborted return: its way back stands by again.
fn given_up(state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    if state.leased(process) && state.control.leg == leg {
        let control = &mut state.control;
        control.leg -= 1;
        control.journal = Journal::Migrated;
        control.abort_requested = false;
        control.cutover_requested = false;
        control.ways[leg] = Way::Standby;
    }
    At::Down
}
