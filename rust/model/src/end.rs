//! What has to hold always, and how a history may end.

use stateright::Property;

use crate::protocol::Protocol;
use crate::state::{At, EVENTS, Fence, Journal, State, Store};

pub const I1: &str = "I1: what was acknowledged is in the authoritative store";
pub const I7: &str = "I7: one writer epoch";
pub const I11: &str = "I11: what is over is all at the source or all at the target";
pub const I13: &str = "I13: an abort leaves nothing behind";

/// Properties that must hold in every state.
pub const ALWAYS: [&str; 4] = [I1, I7, I11, I13];

/// How a history ends.
pub const AT_TARGET: &str = "all at the target";
pub const GIVEN_UP: &str = "all at the source, given up";
pub const ABORTED: &str = "all at the source, aborted";
pub const OUTCOMES: [&str; 3] = [AT_TARGET, GIVEN_UP, ABORTED];

pub fn properties() -> Vec<Property<Protocol>> {
    vec![
        Property::always(I1, |_, state| nothing_is_lost(state)),
        Property::always(I7, |_, state: &State| {
            !state.history.late_at_source && !state.history.early_at_target
        }),
        Property::always(I11, |model, state| {
            !is_over(model, state) || settled(model, state)
        }),
        Property::always(I13, |_, state: &State| {
            state.control.journal != Journal::RolledBack || state.target.events() == 0
        }),
        Property::sometimes(AT_TARGET, |model, state| {
            is_over(model, state) && all_at_target(state)
        }),
        Property::sometimes(GIVEN_UP, |model, state| {
            is_over(model, state) && gave_up(state)
        }),
        Property::sometimes(ABORTED, |model, state| {
            is_over(model, state) && aborted(state)
        }),
        Property::sometimes(
            "a COMMIT decides after its driver is gone",
            |model, state| {
                is_over(model, state) && state.history.orphan_decided && all_at_target(state)
            },
        ),
        Property::sometimes(
            "recovery finds the decision under the lock",
            |model, state| is_over(model, state) && state.history.recovered,
        ),
        Property::sometimes("a stale router follows EVF01", |_, state: &State| {
            state.history.followed
        }),
        Property::sometimes("a router finishes the flip", |_, state: &State| {
            state.history.finished_by_router
        }),
    ]
}

fn nothing_is_lost(state: &State) -> bool {
    let acknowledged = state
        .writers
        .iter()
        .enumerate()
        .fold(0u8, |set, (number, writer)| {
            set | ((1 << writer.acknowledged) - 1) << (number * EVENTS / 2)
        });
    let twice = state.target.carried & state.target.appended;
    acknowledged & !state.authoritative() == 0 && twice == 0 && !state.history.conflict
}

/// Nothing more happens unless something fails or is requested.
pub fn is_over(model: &Protocol, state: &State) -> bool {
    let mut steps = Vec::new();
    model.steps(state, &mut steps);
    steps.iter().all(|step| model.after(state, *step) == *state)
}

fn settled(model: &Protocol, state: &State) -> bool {
    let written = state
        .writers
        .iter()
        .zip(model.events)
        .all(|(writer, events)| writer.acknowledged == events);
    let still = state.source.holder.is_none()
        && state
            .drivers
            .iter()
            .all(|driver| matches!(driver.at, At::Down | At::Resting));
    written && still && (all_at_target(state) || gave_up(state) || aborted(state))
}

fn all_at_target(state: &State) -> bool {
    state.source.fence == Fence::Moved
        && state.target.open
        && state.control.journal == Journal::Migrated
        && state.control.route == Store::Target
        && state.source.events() & !state.target.events() == 0
}

fn stayed(state: &State) -> bool {
    state.source.fence != Fence::Moved
        && state.control.route == Store::Source
        && state.target.appended == 0
        && !state.target.open
}

fn gave_up(state: &State) -> bool {
    stayed(state)
        && state.control.journal == Journal::DualWrite
        && !state.control.cutover_requested
        && state.source.fence == Fence::Open
}

fn aborted(state: &State) -> bool {
    stayed(state)
        && state.control.journal == Journal::RolledBack
        && state.source.fence == Fence::Removed
}
