//! A way through a migration, step by step, as the driver takes it.

use crate::passes;
use crate::rules::Rule;
use crate::state::{At, Fence, Holder, Journal, State, Store};

/// None unless a driver that is not running may take the lease now. True if that is a fault, because
/// the lease's holder is alive and only frozen.
pub fn may_start(state: &State, driver: usize) -> Option<bool> {
    let control = state.control;
    let asked = control.abort_requested
        || control.cutover_requested
        || control.journal != Journal::DualWrite
        || state.source.fence == Fence::Moved;
    let over = matches!(control.journal, Journal::Migrated | Journal::RolledBack);
    if state.drivers[driver].at != At::Down || over || !asked {
        return None;
    }
    // Two stopped drivers are interchangeable: only the first one starts.
    if driver == 1 && state.drivers[0].at == At::Down {
        return None;
    }
    Some(control.lease.is_some())
}

pub fn start(state: &mut State, driver: usize) {
    state.control.lease = Some(driver as u8);
    state.drivers[driver].at = obey(state, driver);
}

/// Whether its next step can be taken now.
pub fn may_step(state: &State, driver: usize, rule: Rule) -> bool {
    let lock_is_free = state.source.holder.is_none() && !state.lock_is_shared();
    match state.drivers[driver].at {
        At::Down | At::Committing => false,
        At::Guard => rule == Rule::GuardDoesNotWait || !state.source_is_written(),
        At::FenceAsked => lock_is_free,
        At::Decision | At::AbortDecision => {
            // `moved` is acted upon at once; that nothing was decided takes the lock.
            rule == Rule::RecoveryWithoutLock
                || matches!(state.source.fence, Fence::Moved | Fence::Removed)
                || lock_is_free
        }
        At::RemoveGuard => {
            !state.source_is_written() && (lock_is_free || rule == Rule::RecoveryWithoutLock)
        }
        At::Resting => {
            state.control.abort_requested
                || state.source.fence == Fence::Moved
                || state.control.journal != Journal::DualWrite
        }
        _ => true,
    }
}

/// Whether the budget may be spent here; afterwards only the answer of the server counts.
pub fn may_give_up(state: &State, driver: usize) -> bool {
    let fenced = state.source.held_by(driver);
    match state.drivers[driver].at {
        At::FenceAsked | At::FenceHeld | At::Decide => true,
        At::Run | At::Read | At::Map { .. } | At::Write { .. } => fenced,
        _ => false,
    }
}

pub fn step(state: &mut State, driver: usize, rule: Rule) {
    let at = next(state, driver, rule);
    state.drivers[driver].at = at;
    if at == At::Down {
        // Its connections are closed: what it held is rolled back.
        state.source.holder = state
            .source
            .holder
            .filter(|holder| holder.driver != Some(driver as u8));
        state.forget(driver);
    }
}

/// Takes the step that the driver is at, and returns the next one.
fn next(state: &mut State, driver: usize, rule: Rule) -> At {
    let at = state.drivers[driver].at;
    match at {
        At::Down | At::Committing => at,
        At::Obey | At::Resting => obey(state, driver),
        At::Guard => guard(state),
        At::Claim => claim(state, driver, rule),
        At::Snapshot => taken(state, rule),
        At::Barrier(snapshot) => {
            flush(state);
            At::BeginPass(snapshot)
        }
        At::BeginPass(snapshot) => {
            let begun = passes::begin(state, driver, Some(snapshot), rule);
            or_down(begun, after_begin(state))
        }
        At::Run => or_down(passes::is_ours(state, driver, rule), At::Read),
        At::Read => read(state, driver, rule),
        At::Map { rows, cursor } => {
            let mapped = leased(state, driver) || rule == Rule::NoLeaseCompare;
            or_down(mapped, At::Write { rows, cursor })
        }
        At::Write { rows, cursor } => {
            let written = passes::write(state, driver, rows, cursor, rule);
            or_down(written, after_write(state, driver, rule))
        }
        At::Complete => or_down(passes::complete(state, driver, rule), At::Follow),
        At::Follow => follow(state, driver),
        At::PrepareLast => prepare_last(state, driver, rule),
        At::FenceAsked => take_fence(state, driver),
        At::FenceHeld => fence_held(state, rule),
        At::Decide => decide(state, driver),
        At::Commit => send_commit(state, driver),
        At::OpenTarget => {
            state.target.open = true;
            At::Finish
        }
        At::Finish => finish(state, driver, rule),
        At::GiveUp => give_up(state, driver),
        At::RecoverClaim => or_down(passes::claim(state, driver), At::Decision),
        At::Decision => decision(state, rule),
        At::Undecided => undecided(state, driver),
        At::AbortDecision => abort_decision(state),
        At::RemoveGuard => remove_guard(state),
        At::AbortClaim => {
            passes::claim(state, driver);
            At::DeleteCopied
        }
        At::DeleteCopied => {
            state.target.carried = 0;
            At::RemoveProgress
        }
        At::RemoveProgress => {
            state.target.progress = None;
            At::RolledBack
        }
        At::RolledBack => roll_back(state, driver),
    }
}

fn read(state: &State, driver: usize, rule: Rule) -> At {
    let (rows, cursor) = passes::read(state, state.drivers[driver].pass, rule);
    if rows == 0 {
        after_write(state, driver, rule)
    } else {
        At::Map { rows, cursor }
    }
}

/// `next` if the step was taken: only the recorded driver may take it.
fn or_down(taken: bool, next: At) -> At {
    if taken { next } else { At::Down }
}

fn leased(state: &State, driver: usize) -> bool {
    state.control.lease == Some(driver as u8)
}

fn flush(state: &mut State) {
    state.source.flushed = state.source.next_xid - 1;
}

fn obey(state: &mut State, driver: usize) -> At {
    if !leased(state, driver) {
        return At::Down;
    }
    match state.control.journal {
        Journal::Migrated | Journal::RolledBack => At::Down,
        Journal::CutoverPaused => At::RecoverClaim,
        _ if state.control.abort_requested => At::AbortDecision,
        Journal::Pending => At::Guard,
        Journal::BulkCopy => At::Claim,
        Journal::DualWrite if state.source.fence == Fence::Moved => {
            state.control.journal = Journal::CutoverPaused;
            At::RecoverClaim
        }
        Journal::DualWrite if state.control.cutover_requested => At::Claim,
        Journal::DualWrite => At::Resting,
    }
}

fn guard(state: &mut State) -> At {
    if state.source.fence == Fence::Absent {
        state.source.fence = Fence::Open;
    }
    At::Claim
}

fn claim(state: &mut State, driver: usize, rule: Rule) -> At {
    if passes::claim(state, driver) {
        passes::resume(state, driver, rule)
    } else {
        At::Down
    }
}

fn taken(state: &State, rule: Rule) -> At {
    let snapshot = state.source.snapshot(&state.writers);
    if rule == Rule::NoBarrier {
        At::BeginPass(snapshot)
    } else {
        At::Barrier(snapshot)
    }
}

fn after_begin(state: &State) -> At {
    if state.control.journal == Journal::Pending {
        At::Follow
    } else {
        At::Run
    }
}

fn after_write(state: &State, driver: usize, rule: Rule) -> At {
    match (state.drivers[driver].pass.upper, rule) {
        (Some(_), _) => At::Complete,
        (None, Rule::DeltaBeforeGrant) => At::FenceAsked,
        (None, Rule::FlipBeforeDecision) => At::OpenTarget,
        (None, _) => At::Decide,
    }
}

fn follow(state: &mut State, driver: usize) -> At {
    if !leased(state, driver) {
        return At::Down;
    }
    let control = &mut state.control;
    match control.journal {
        Journal::Pending => {
            control.journal = Journal::BulkCopy;
            At::Run
        }
        Journal::BulkCopy => {
            control.journal = Journal::DualWrite;
            obey(state, driver)
        }
        Journal::DualWrite if control.cutover_requested && !control.abort_requested => {
            control.journal = Journal::CutoverPaused;
            At::PrepareLast
        }
        _ => At::Obey,
    }
}

fn prepare_last(state: &mut State, driver: usize, rule: Rule) -> At {
    let prepared = passes::begin(state, driver, None, rule);
    let early = rule == Rule::DeltaBeforeGrant;
    or_down(prepared, if early { At::Run } else { At::FenceAsked })
}

fn take_fence(state: &mut State, driver: usize) -> At {
    state.source.holder = Some(Holder {
        driver: Some(driver as u8),
        decided: false,
        commit_sent: false,
    });
    At::FenceHeld
}

fn fence_held(state: &mut State, rule: Rule) -> At {
    flush(state);
    let early = rule == Rule::DeltaBeforeGrant;
    if early { At::Decide } else { At::Run }
}

/// Inside the session that holds the lock; fails if that session is lost.
fn decide(state: &mut State, driver: usize) -> At {
    let held = state.source.held_by(driver);
    match (held, state.source.fence, &mut state.source.holder) {
        (true, Fence::Open, Some(holder)) => {
            holder.decided = true;
            At::Commit
        }
        (true, _, holder) => {
            *holder = None;
            At::Obey
        }
        (false, _, _) => At::Obey,
    }
}

fn send_commit(state: &mut State, driver: usize) -> At {
    if !state.source.held_by(driver) {
        return At::Obey;
    }
    if let Some(holder) = &mut state.source.holder {
        holder.commit_sent = true;
    }
    At::Committing
}

fn finish(state: &mut State, driver: usize, rule: Rule) -> At {
    if state.control.journal == Journal::CutoverPaused {
        state.control.journal = Journal::Migrated;
        state.control.route = Store::Target;
        if rule == Rule::FlipBeforeDecision && state.source.held_by(driver) {
            return At::Decide;
        }
    }
    At::Down
}

fn give_up(state: &mut State, driver: usize) -> At {
    if state.source.held_by(driver) {
        state.source.holder = None;
    }
    if !leased(state, driver) {
        return At::Down;
    }
    if state.control.journal == Journal::CutoverPaused {
        state.control.journal = Journal::DualWrite;
        state.control.cutover_requested = false;
    }
    At::Obey
}

fn decision(state: &mut State, rule: Rule) -> At {
    match state.source.fence {
        Fence::Moved if rule == Rule::Unfence => {
            state.source.fence = Fence::Open;
            At::Undecided
        }
        Fence::Moved => {
            state.remember(|history| history.recovered = true);
            At::OpenTarget
        }
        _ => At::Undecided,
    }
}

fn undecided(state: &mut State, driver: usize) -> At {
    if !leased(state, driver) {
        return At::Down;
    }
    if state.control.journal == Journal::CutoverPaused {
        state.control.journal = Journal::DualWrite;
    }
    At::Obey
}

fn abort_decision(state: &mut State) -> At {
    match state.source.fence {
        Fence::Moved => withdraw_abort(state),
        _ => At::RemoveGuard,
    }
}

fn remove_guard(state: &mut State) -> At {
    if state.source.fence == Fence::Moved {
        return withdraw_abort(state);
    }
    // Without the lock, a row that a lost session has changed stays until that session ends.
    if state.source.holder.is_none() {
        state.source.fence = Fence::Removed;
    }
    At::AbortClaim
}

fn withdraw_abort(state: &mut State) -> At {
    state.control.abort_requested = false;
    At::Obey
}

fn roll_back(state: &mut State, driver: usize) -> At {
    let undecided = !matches!(
        state.control.journal,
        Journal::CutoverPaused | Journal::Migrated
    );
    if leased(state, driver) && undecided {
        state.control.journal = Journal::RolledBack;
    }
    At::Down
}
