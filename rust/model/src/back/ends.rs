//! The end of a way back: somebody closes it, or its time is over.

use crate::back::bounds::ThereAndBack;
use crate::back::rules::Rule;
use crate::back::state::{At, Fence, Journal, Process, State, Way, source, target};

/// The way back that may end now, by one compare-and-set on its row: never while a return is asked for.
pub fn may_end(model: &ThereAndBack, state: &State) -> Option<usize> {
    let control = &state.control;
    let next = control.leg + 1;
    if control.journal == Journal::Migrated && next < model.legs {
        return (control.ways[next] == Way::Standby).then_some(next);
    }
    let broken = model.rule == Rule::EndDuringReturn
        && control.journal != Journal::Migrated
        && control.ways[control.leg] == Way::Returning;
    broken.then_some(control.leg)
}

/// The one that is being closed, unless its home has gone back or the tenant has returned by it.
pub fn may_close(model: &ThereAndBack, state: &State) -> Option<usize> {
    (0..model.legs).find(|leg| {
        state.control.ways[*leg] == Way::Closing
            && (stands(state, *leg) && asks(model, state, *leg) || is_left(state, *leg))
            && !(returned(state, *leg) && model.rule != Rule::CloseForgetsDecision)
    })
}

fn stands(state: &State, leg: usize) -> bool {
    matches!(
        state.stores[target(leg)].fences[leg],
        Fence::Asleep | Fence::Closed
    )
}

fn asks(model: &ThereAndBack, state: &State, leg: usize) -> bool {
    state.stores[target(leg)].progress[leg].is_none() || model.asks(state, leg)
}

/// One that does not stand any more: what is left of it goes.
fn is_left(state: &State, leg: usize) -> bool {
    !stands(state, leg)
}

fn returned(state: &State, leg: usize) -> bool {
    let decided = matches!(state.stores[source(leg)].fences[leg], Fence::Moved { .. });
    decided || state.stores[target(leg)].fences[leg] == Fence::Arrived
}

pub fn begin(state: &mut State, process: usize, leg: usize) {
    state.processes[process] = Process { at: At::Close, leg };
}

/// `way_back.dismantle`; every step may be repeated, also by two at once.
pub fn close(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let Process { at, leg } = state.processes[process];
    let (home, old) = (source(leg), target(leg));
    match at {
        At::Close if may_close(model, state) == Some(leg) => At::Retire,
        At::Close => At::Down,
        At::Retire => {
            retire(model, state, old, leg);
            At::RemoveGuard
        }
        At::RemoveGuard => {
            let fence = &mut state.stores[home].fences[leg];
            match fence {
                Fence::Moved { .. } if model.rule != Rule::CloseForgetsDecision => At::Down,
                _ => {
                    *fence = Fence::Absent;
                    At::RemoveProgress
                }
            }
        }
        _ => {
            state.stores[old].progress[leg] = None;
            if state.control.ways[leg] == Way::Closing {
                state.control.ways[leg] = Way::Closed;
            }
            At::Down
        }
    }
}

/// No pass writes there any more; what they have written stays hidden, if there is anything.
fn retire(model: &ThereAndBack, state: &mut State, old: usize, leg: usize) {
    let here = &mut state.stores[old];
    if model.rule == Rule::CloseDeletes {
        here.remove(here.events());
    }
    let carried = here.events() & !here.decided();
    let fence = &mut here.fences[leg];
    if matches!(fence, Fence::Asleep | Fence::Closed) {
        let hides = carried != 0 && model.rule != Rule::CloseShows;
        *fence = if hides { Fence::Retired } else { Fence::Absent };
    }
}
