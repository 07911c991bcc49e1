//! What has to hold always, and how a history may end.

use stateright::Property;

use crate::back::bounds::ThereAndBack;
use crate::back::guard::Says;
use crate::back::state::{At, EVENTS, Fence, Journal, State, Way, source, target};

pub const I1: &str = "I1: what was acknowledged is where the tenant lives, once";
pub const I3: &str = "I3: what was written later has the higher position, in every store";
pub const I7: &str = "I7: one writer epoch";
pub const I11: &str = "I11: what is over has one home, open and complete";
pub const SOMEWHERE: &str = "I11: what was decided has a target that can be opened";
pub const HIDDEN: &str = "I6: a store that was left shows what it had when it was left";
pub const LOST: &str = "nothing but a restore takes the last copy of an acknowledged event";
pub const GAP: &str = "a target is opened only with everything that was decided on";

/// Properties that must hold in every state.
pub const ALWAYS: [&str; 8] = [I1, I3, I7, I11, SOMEWHERE, HIDDEN, LOST, GAP];

/// How a history ends.
pub const RETURNED: &str = "back at the source, with an event that was written at the target";
pub const STAYED: &str = "at the target, the way back closed";
pub const ABORTED: &str = "at the target, a return given up and the way back open as before";
pub const NOT_MOVED: &str = "at the source, the cutover given up";

/// The outcomes that a model of this size has.
pub fn outcomes(model: &ThereAndBack) -> Vec<&'static str> {
    let mut found = vec![RETURNED, STAYED];
    if model.faults > 1 {
        found.push(ABORTED);
    }
    if model.faults > 0 {
        found.push(NOT_MOVED);
    }
    found
}

pub fn properties() -> Vec<Property<ThereAndBack>> {
    vec![
        Property::always(I1, |_, state| is_complete(state) && !state.wrong.twice),
        Property::always(I3, |_, state| is_ordered(state)),
        Property::always(I7, |_, state: &State| !state.wrong.late),
        Property::always(I11, |model: &ThereAndBack, state: &State| {
            state.restores < model.restores || !is_over(model, state) || settled(model, state)
        }),
        Property::always(SOMEWHERE, |_, state| is_somewhere(state)),
        Property::always(HIDDEN, |_, state| is_hidden(state)),
        Property::always(LOST, |_, state: &State| !state.wrong.lost),
        Property::always(GAP, |_, state: &State| !state.wrong.gap),
        Property::sometimes(RETURNED, |_, state: &State| {
            let Fence::Moved { rows, .. } = state.stores[0].fences[0] else {
                return false;
            };
            state.stores[0].fences[1] == Fence::Arrived && state.stores[0].events() & !rows != 0
        }),
        Property::sometimes(STAYED, |model, state: &State| {
            is_over(model, state) && state.is_home(1) && state.control.ways[1] == Way::Closed
        }),
        Property::sometimes(ABORTED, |_, state: &State| {
            // Given up under the fence, and then aborted.
            let at_home = state.control.leg == 0 && state.control.journal == Journal::Migrated;
            let stands = state.control.ways[1] == Way::Standby;
            at_home && stands && state.faults == 0 && state.is_home(1)
        }),
        Property::sometimes(NOT_MOVED, |model, state: &State| {
            is_over(model, state) && state.is_home(0) && state.control.leg == 0
        }),
    ]
}

/// Where the tenant lives, by the fence of the highest generation.
fn authority(state: &State) -> usize {
    let said = [state.says(0), state.says(1)];
    let leads = usize::from(said[1].0 > said[0].0);
    let equal = said[0].0 == said[1].0;
    match (said[leads].1, said[1 - leads].1) {
        (Says::Write, _) => leads,
        (_, Says::Write) if equal => 1 - leads,
        (Says::Moved, _) => 1 - leads,
        (Says::NotOpen, _) => {
            if equal {
                1 - leads
            } else {
                leads
            }
        }
    }
}

fn is_complete(state: &State) -> bool {
    let home = authority(state);
    let mends = state.gone_back.contains(&true) && !state.is_home(home);
    mends || state.acknowledged & !state.forgotten & !state.stores[home].events() == 0
}

fn is_ordered(state: &State) -> bool {
    state.stores.iter().all(|store| {
        (0..EVENTS).all(|event| {
            (0..EVENTS)
                .filter(|earlier| state.saw[event] & !state.forgotten & 1 << earlier != 0)
                .all(|earlier| match (store.rows[earlier], store.rows[event]) {
                    (Some(first), Some(second)) => first.position < second.position,
                    _ => true,
                })
        })
    })
}

fn is_somewhere(state: &State) -> bool {
    let newest = state.stores.iter().enumerate().flat_map(|(store, it)| {
        let moved = |leg: &usize| matches!(it.fences[*leg], Fence::Moved { .. });
        (0..it.fences.len()).filter(move |leg| source(*leg) == store && moved(leg))
    });
    state.gone_back.contains(&true)
        || newest.max().is_none_or(|leg| {
            matches!(
                state.stores[target(leg)].fences[leg],
                Fence::Closed | Fence::Asleep | Fence::Arrived
            )
        })
}

/// What the feed of a store shows: the rows of a way back are left out until the tenant has returned.
fn is_hidden(state: &State) -> bool {
    (0..2).all(|store| {
        let here = &state.stores[store];
        let hides = here.fences.iter().enumerate().any(|(leg, fence)| {
            let waits = matches!(fence, Fence::Asleep | Fence::Closed | Fence::Retired);
            waits && target(leg) == store
        });
        let left = state.says(store).1 == Says::Moved;
        !left || hides || state.gone_back[store] || here.events() & !here.decided() == 0
    })
}

/// Nothing more happens unless something fails or is asked for.
pub fn is_over(model: &ThereAndBack, state: &State) -> bool {
    let mut steps = Vec::new();
    model.steps(state, &mut steps);
    steps.iter().all(|step| model.after(state, *step) == *state)
}

fn settled(model: &ThereAndBack, state: &State) -> bool {
    let control = &state.control;
    let written = state
        .writers
        .iter()
        .zip(model.events)
        .all(|(writer, events)| writer.acknowledged == events);
    let still = state.holders == [None; 2] && state.processes.iter().all(|it| it.at == At::Down);
    let home = control.generation() % 2;
    let ended = !control.ways.contains(&Way::Closing);
    let asks = control.journal == Journal::DualWrite && !control.cutover_requested;
    written
        && still
        && ended
        && state.is_home(home)
        && !state.is_home(1 - home)
        && (asks || control.journal == Journal::Migrated)
}
