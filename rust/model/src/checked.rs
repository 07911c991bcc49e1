//! The protocol as `stateright` takes it: first state, steps, and what has to hold.

use stateright::{Model, Property};

use crate::end;
use crate::protocol::{Protocol, Step};
use crate::state::{
    Append, At, Control, Driver, EVENTS, Fence, History, Journal, Pass, Progress, Source, State,
    Store, Target, Writer,
};

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let driver = Driver {
            at: At::Down,
            pass: Pass::default(),
        };
        let writer = Writer {
            route: Store::Source,
            acknowledged: 0,
            append: Append::Idle,
        };
        vec![State {
            source: Source {
                rows: [None; EVENTS],
                fence: Fence::Absent,
                holder: None,
                next_xid: 1,
                flushed: 0,
                next_position: 1,
            },
            target: Target {
                carried: 0,
                appended: 0,
                open: false,
                progress: Some(Progress {
                    owner: None,
                    pass: Pass::default(),
                    proven: None,
                }),
            },
            control: Control {
                journal: Journal::Pending,
                lease: None,
                route: Store::Source,
                cutover_requested: true,
                abort_requested: false,
            },
            drivers: [driver; 2],
            writers: [writer; 2],
            faults: self.faults,
            history: History {
                kept: self.remembers,
                ..History::default()
            },
        }]
    }

    fn actions(&self, state: &State, found: &mut Vec<Step>) {
        self.steps(state, found);
        if state.faults > 0 {
            self.faults(state, found);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        Some(self.after(before, step)).filter(|after| after != before)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        end::properties()
    }
}
