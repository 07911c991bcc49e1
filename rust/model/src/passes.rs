//! What a driver reads and writes in a pass.

use crate::rules::Rule;
use crate::state::{At, EVENTS, Events, Pass, Progress, Snapshot, State};

fn shows(snapshot: Snapshot, xid: u8) -> bool {
    snapshot & (1 << xid) != 0
}

/// The rows of the driver's pass after its cursor, and what the cursor will be.
pub fn read(state: &State, pass: Pass, rule: Rule) -> (Events, u8) {
    let carried = (0..EVENTS)
        .filter(|event| state.target.carried & (1 << event) != 0)
        .filter_map(|event| state.source.rows[event])
        .map(|row| row.position)
        .max();
    let mut rows = 0;
    let mut cursor = pass.cursor;
    for (event, row) in state.source.rows.iter().enumerate() {
        let Some(row) = row else { continue };
        let above = pass.upper.is_some_and(|upper| !shows(upper, row.xid));
        let (passed, place) = match pass.previous {
            None => (row.position <= pass.cursor, row.position),
            Some(_) if rule == Rule::PositionInsteadOfTransaction => {
                (carried.is_some_and(|last| row.position <= last), row.xid)
            }
            Some(previous) => (shows(previous, row.xid) || row.xid <= pass.cursor, row.xid),
        };
        if !above && !passed {
            rows |= 1 << event;
            cursor = cursor.max(place);
        }
    }
    (rows, cursor)
}

/// The progress row, if it still names this driver.
fn ours(state: &mut State, driver: usize, rule: Rule) -> Option<&mut Progress> {
    let number = state.drivers[driver].pass.number;
    state.target.progress.as_mut().filter(|progress| {
        (progress.owner == Some(driver as u8) || rule == Rule::NoOwnerCompare)
            && progress.pass.number == number
    })
}

/// `progress.claim`: takes the row from any previous owner. False when there is no row.
pub fn claim(state: &mut State, driver: usize) -> bool {
    let Some(progress) = state.target.progress.as_mut() else {
        return false;
    };
    progress.owner = Some(driver as u8);
    state.drivers[driver].pass = progress.pass;
    true
}

/// `progress.begin_pass`.
pub fn begin(state: &mut State, driver: usize, upper: Option<Snapshot>, rule: Rule) -> bool {
    let Some(progress) = ours(state, driver, rule) else {
        return false;
    };
    progress.pass = Pass {
        number: progress.pass.number + 1,
        previous: progress.proven,
        upper,
        cursor: 0,
    };
    state.drivers[driver].pass = progress.pass;
    true
}

/// `ProgressRow::read`.
pub fn is_ours(state: &mut State, driver: usize, rule: Rule) -> bool {
    ours(state, driver, rule).is_some()
}

/// One chunk: its rows and the progress row in one transaction.
pub fn write(state: &mut State, driver: usize, rows: Events, cursor: u8, rule: Rule) -> bool {
    let before = state.drivers[driver].pass.cursor;
    match ours(state, driver, rule) {
        Some(progress) if progress.pass.cursor == before => progress.pass.cursor = cursor,
        _ => return false,
    }
    state.target.carried |= rows;
    state.drivers[driver].pass.cursor = cursor;
    true
}

/// `progress.complete_pass`.
pub fn complete(state: &mut State, driver: usize, rule: Rule) -> bool {
    let Some(progress) = ours(state, driver, rule) else {
        return false;
    };
    progress.proven = progress.pass.upper;
    true
}

/// The next step of a driver that has claimed the progress row.
pub fn resume(state: &mut State, driver: usize, rule: Rule) -> At {
    use crate::state::Journal::{BulkCopy, Pending};
    let snapshot = state.source.snapshot(&state.writers);
    let journal = state.control.journal;
    let Some(progress) = state.target.progress.as_mut() else {
        return At::Down;
    };
    if progress.pass_is_open() {
        if rule == Rule::FreshSnapshotAtResume {
            progress.pass.upper = Some(snapshot);
            state.drivers[driver].pass = progress.pass;
        }
        return if journal == Pending {
            At::Follow
        } else {
            At::Run
        };
    }
    if journal == BulkCopy && progress.proven.is_some() {
        return At::Follow;
    }
    At::Snapshot
}
