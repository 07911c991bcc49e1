//! The model as `stateright` takes it: first state, steps, and what has to hold.

use stateright::{Model, Property};

use crate::back::bounds::ThereAndBack;
use crate::back::model::Step;
use crate::back::properties;
use crate::back::state::{
    Append, At, Control, EVENTS, Fence, Journal, LEGS, Pass, Process, Progress, State, Store, Way,
    Writer, Wrong, source, target,
};

/// A store of a migration whose guard is up and that has carried nothing.
fn first(store: usize) -> Store {
    let mut here = Store {
        rows: [None; EVENTS],
        next_xid: 0,
        next_position: 1,
        barriers: u32::from(store == source(0)),
        fences: [Fence::Absent; LEGS],
        progress: [None; LEGS],
    };
    if store == target(0) {
        here.fences[0] = Fence::Closed;
        here.progress[0] = Some(Progress {
            owner: None,
            token: 0,
            proven: 0,
            pass: Pass::Proven,
        });
    } else {
        here.fences[0] = Fence::Open;
    }
    here
}

impl Model for ThereAndBack {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let process = Process {
            at: At::Down,
            leg: 0,
        };
        let writer = Writer {
            generation: 0,
            acknowledged: 0,
            append: Append::Idle,
        };
        vec![State {
            stores: [first(0), first(1)],
            control: Control {
                leg: 0,
                journal: Journal::DualWrite,
                cutover_requested: true,
                abort_requested: false,
                lease: None,
                ways: [Way::None; LEGS],
            },
            holders: [None; 2],
            processes: [process; 2],
            writers: [writer; 2],
            saw: [0; EVENTS],
            copies: [None; 2],
            control_copy: None,
            next_token: 1,
            faults: self.faults,
            restores: self.restores,
            early: self.early,
            acknowledged: 0,
            forgotten: 0,
            gone_back: [false; 2],
            rescued: 0,
            wrong: Wrong::default(),
        }]
    }

    fn actions(&self, state: &State, found: &mut Vec<Step>) {
        self.steps(state, found);
        self.asked(state, found);
        if state.faults > 0 {
            self.faults(state, found);
        }
        if state.restores > 0 {
            self.volumes(state, found);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        Some(self.after(before, step)).filter(|after| after != before)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::properties()
    }
}
