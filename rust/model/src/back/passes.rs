//! The passes of a leg: the same for a way back that is followed and for a cutover.

use crate::back::bounds::ThereAndBack;
use crate::back::rules::Rule;
use crate::back::state::{
    At, Batch, Events, Fence, Journal, Pass, Process, Progress, State, Store, Token, source, target,
};

/// What `upper` shows, or everything that is committed, without what was proven.
pub fn difference(home: &Store, at: Progress, upper: Option<u32>) -> Events {
    let shown = upper.map_or(home.events(), |snapshot| home.shown_by(snapshot));
    shown & !home.shown_by(at.proven)
}

/// The progress row, if it still names this process.
fn ours<'a>(
    model: &ThereAndBack,
    state: &'a mut State,
    process: usize,
) -> Option<&'a mut Progress> {
    let leg = state.processes[process].leg;
    let compares = model.rule != Rule::NoOwnerCompare;
    state.stores[target(leg)].progress[leg]
        .as_mut()
        .filter(|at| !compares || at.owner == Some(process as u8))
}

/// `progress.claim`: takes the row from any previous owner.
pub fn take(state: &mut State, process: usize) -> Option<Progress> {
    let leg = state.processes[process].leg;
    let at = state.stores[target(leg)].progress[leg].as_mut()?;
    at.owner = Some(process as u8);
    Some(*at)
}

pub fn claim(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    let Some(at) = take(state, process) else {
        return At::Down;
    };
    if !model.asks(state, leg) {
        return At::Down;
    }
    match at.pass {
        Pass::UpTo(_) => At::Read,
        _ => At::Snapshot,
    }
}

/// A barrier of a new pass, if that of the stored one is there.
pub fn barrier(model: &ThereAndBack, state: &mut State, leg: usize) -> Option<Token> {
    model.asks(state, leg).then(|| state.token(source(leg)))
}

pub fn snapshot(model: &ThereAndBack, state: &mut State, leg: usize) -> At {
    let snapshot = state.snapshot(source(leg));
    match barrier(model, state, leg) {
        Some(token) => At::Begin { snapshot, token },
        None => At::Down,
    }
}

pub fn begin(
    model: &ThereAndBack,
    state: &mut State,
    process: usize,
    pass: Pass,
    token: Token,
) -> At {
    match ours(model, state, process) {
        Some(at) => {
            at.pass = pass;
            at.token = token;
            if pass == Pass::Last {
                At::FenceAsked
            } else {
                At::Read
            }
        }
        None => At::Down,
    }
}

fn batch(model: &ThereAndBack, home: &Store, some: Events) -> Batch {
    home.in_order(some, |row| match model.rule {
        Rule::ByTransaction => (row.xid, row.position),
        _ => (row.position, 0),
    })
}

/// The mapping is written with the rows; the lease is compared for it.
pub fn read(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    if !state.leased(process) && model.rule != Rule::NoOwnerCompare {
        return At::Down;
    }
    let Some(at) = ours(model, state, process).copied() else {
        return At::Down;
    };
    let Pass::UpTo(upper) = at.pass else {
        return At::Down;
    };
    let home = &state.stores[source(leg)];
    At::Write(batch(model, home, difference(home, at, Some(upper))))
}

/// Under the fence: the barrier of the stored pass again, and everything that is committed.
pub fn read_last(model: &ThereAndBack, state: &mut State, process: usize) -> At {
    let leg = state.processes[process].leg;
    let held = state.holders[source(leg)] == Some(process as u8);
    let asks = model.asks(state, leg);
    let Some(at) = ours(model, state, process).copied() else {
        return At::GiveUp;
    };
    if !held || !asks {
        return At::GiveUp;
    }
    let home = &state.stores[source(leg)];
    let left_out = model.rule == Rule::DecidedWithoutLastPass && leg > 0;
    let rows = if left_out {
        0
    } else {
        difference(home, at, None)
    };
    At::Write(batch(model, home, rows))
}

/// One chunk: its rows and the progress row in one transaction, and only under a fence that is closed.
pub fn write(model: &ThereAndBack, state: &mut State, process: usize, batch: Batch) -> At {
    let Process { leg, .. } = state.processes[process];
    let fence = state.stores[target(leg)].fences[leg];
    let writable = matches!(fence, Fence::Asleep | Fence::Closed)
        || (model.rule == Rule::NoOwnerCompare && fence == Fence::Arrived);
    let held = state.holders[source(leg)] == Some(process as u8);
    let refused = if held { At::GiveUp } else { At::Down };
    if !writable {
        return refused;
    }
    let Some(at) = ours(model, state, process) else {
        return refused;
    };
    let last = at.pass == Pass::Last;
    if last {
        at.pass = Pass::LastCarried;
    }
    let there = &mut state.stores[target(leg)];
    let known = there.events();
    there.insert(batch);
    if model.rule == Rule::EventsUnknown {
        state.wrong.twice |= batch
            .into_iter()
            .flatten()
            .any(|event| known & 1 << event != 0);
    }
    if last { At::Decide } else { At::Complete }
}

pub fn complete(model: &ThereAndBack, state: &mut State, process: usize) -> bool {
    let Some(at) = ours(model, state, process) else {
        return false;
    };
    if let Pass::UpTo(upper) = at.pass {
        at.proven = upper;
        at.pass = Pass::Proven;
    }
    true
}

/// What a restored store has to be asked for, before anything is done with what was carried from it.
impl ThereAndBack {
    /// Whether the source of a leg holds the barrier of the stored pass.
    pub fn asks(&self, state: &State, leg: usize) -> bool {
        self.rule == Rule::BarrierAsksForNothing
            || state.stores[target(leg)].progress[leg]
                .is_none_or(|at| state.stores[source(leg)].holds(at.token))
    }
}

/// Whether the control database says that somebody drives this leg.
pub fn is_driven(state: &State, leg: usize) -> bool {
    state.control.leg == leg && state.control.journal != Journal::Migrated
}
