//! Processes with configurations of their own: the same id of a store leads to different databases.
//!
//! A model of its own. Two drivers and two routers know the target by an address each. It leads to
//! the database where the migration began, to another one, or nowhere: no route to the host, or no
//! right to append. Copies and passes are one step; nothing crashes and nothing goes back here, as
//! the other models have that.

use stateright::{Model, Property};

/// A set of events.
type Events = u8;

const EVENTS: u32 = 3;

/// Which rule is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    Kept,
    /// A driver does not compare its target with the one where the migration began.
    PlaceIsBelieved,
    /// A router uses the route of a flip without asking the store's fence.
    ArrivalIsBelieved,
    /// A cutover does not look at what routers have said.
    NobodyIsWaitedFor,
    /// It looks when it is asked for, and not when it decides.
    LookedAtOnce,
}

impl Configured {
    pub const BROKEN: [Configured; 4] = [
        Configured::PlaceIsBelieved,
        Configured::ArrivalIsBelieved,
        Configured::NobodyIsWaitedFor,
        Configured::LookedAtOnce,
    ];
}

/// Where an address of the target leads; the first two are databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Here = 0,
    Elsewhere = 1,
    Nowhere,
}

const ADDRESSES: [Address; 3] = [Address::Here, Address::Elsewhere, Address::Nowhere];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fence {
    None,
    Closed,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub fence: Fence,
    pub rows: Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Router {
    pub address: Address,
    /// Whether its route leads to the target, and whether the store there was asked.
    pub is_sent_on: bool,
    pub has_asked: bool,
    pub has_appended: bool,
    /// What it has said of itself before the decision.
    pub said: Option<bool>,
    /// Whether an operator has named it: then it is not waited for.
    pub is_named: bool,
    pub is_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Journal {
    Pending,
    DualWrite,
    /// A cutover is asked for, and everything was ready then.
    Asked,
    Decided,
    Migrated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub source: Events,
    pub targets: [Target; 2],
    pub journal: Journal,
    /// The place where the migration began.
    pub began: Option<Address>,
    pub drivers: [Address; 2],
    pub routers: [Router; 2],
    pub acknowledged: Events,
    /// A router was refused of which the cutover could know it.
    pub cut_off: bool,
    /// A router was refused, in whatever way.
    pub refused: bool,
    /// A cutover was refused for a router's sake.
    pub waited: bool,
}

impl Target {
    const UNUSED: Target = Target {
        fence: Fence::None,
        rows: 0,
    };
}

impl Router {
    const fn at(address: Address) -> Router {
        Router {
            address,
            is_sent_on: false,
            has_asked: false,
            has_appended: false,
            said: None,
            is_named: false,
            is_gone: false,
        }
    }

    fn is_waited_for(self) -> bool {
        self.said == Some(false) && !self.is_named && !self.is_gone
    }
}

impl State {
    fn is_unready(&self) -> bool {
        self.routers.iter().any(|router| router.is_waited_for())
    }

    /// What the place where the tenant lives holds.
    fn at_home(&self) -> Events {
        match (self.journal, self.began) {
            (Journal::Decided | Journal::Migrated, Some(place)) => {
                self.targets[place as usize].rows
            }
            _ => self.source,
        }
    }

    fn next_event(&self) -> Option<Events> {
        let next = self.acknowledged.count_ones();
        (next < EVENTS).then_some(1 << next)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Append(usize),
    /// A router tries the target as it would use it, and says what came of it.
    Report(usize),
    /// An operator names a router.
    Name(usize),
    /// A process with the right address takes its place.
    Replace(usize),
    /// It ends, and what it has said grows old.
    Go(usize),
    Start(usize),
    Carry(usize),
    Ask,
    /// The last pass under the fence, and the decision.
    Decide(usize),
    Open(usize),
}

/// One move, with any configuration of each process.
#[derive(Clone, Copy, Debug)]
pub struct Configurations {
    pub rule: Configured,
}

impl Configurations {
    /// Whether a driver may go on with the target that it finds.
    fn is_the_place(&self, state: &State, driver: usize) -> bool {
        let place = state.drivers[driver];
        let known = state.began == Some(place) || self.rule == Configured::PlaceIsBelieved;
        known && place != Address::Nowhere
    }

    /// Everything of the source goes to where this driver's address leads.
    fn carry(state: &mut State, driver: usize) {
        let target = &mut state.targets[state.drivers[driver] as usize];
        if target.fence == Fence::None {
            target.fence = Fence::Closed;
        }
        target.rows |= state.source;
    }

    fn append(&self, state: &mut State, number: usize) {
        let Some(event) = state.next_event() else {
            return;
        };
        let router = &mut state.routers[number];
        let moved = matches!(state.journal, Journal::Decided | Journal::Migrated);
        if !moved {
            router.has_appended = true;
            state.source |= event;
            state.acknowledged |= event;
            return;
        }
        // The source's guard has sent it on.
        router.is_sent_on = true;
        let open = match router.address {
            Address::Nowhere => Fence::None,
            place => state.targets[place as usize].fence,
        };
        let believes = self.rule == Configured::ArrivalIsBelieved;
        match open {
            Fence::Closed => {}
            Fence::None if router.address == Address::Nowhere || !believes => {
                state.refused = true;
                state.cut_off |= router.is_waited_for();
            }
            // Where there is no fence there is no guard either.
            Fence::Open | Fence::None => {
                router.has_asked = true;
                state.targets[router.address as usize].rows |= event;
                state.acknowledged |= event;
            }
        }
    }

    fn ask(&self, state: &mut State) {
        if self.rule != Configured::NobodyIsWaitedFor && state.is_unready() {
            state.waited = true;
        } else {
            state.journal = Journal::Asked;
        }
    }

    fn decide(&self, state: &mut State, driver: usize) {
        let looks = !matches!(
            self.rule,
            Configured::NobodyIsWaitedFor | Configured::LookedAtOnce
        );
        if looks && state.is_unready() {
            state.waited = true;
            state.journal = Journal::DualWrite;
            return;
        }
        Self::carry(state, driver);
        state.journal = Journal::Decided;
    }
}

impl Model for Configurations {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut found = Vec::new();
        for first in ADDRESSES {
            for second in ADDRESSES {
                for other in [Address::Here, Address::Elsewhere] {
                    found.push(State {
                        source: 0,
                        targets: [Target::UNUSED; 2],
                        journal: Journal::Pending,
                        began: None,
                        drivers: [Address::Here, other],
                        routers: [Router::at(first), Router::at(second)],
                        acknowledged: 0,
                        cut_off: false,
                        refused: false,
                        waited: false,
                    });
                }
            }
        }
        found
    }

    fn actions(&self, state: &State, found: &mut Vec<Step>) {
        let under_way = matches!(state.journal, Journal::DualWrite | Journal::Asked);
        for number in 0..2 {
            let router = &state.routers[number];
            if !router.is_gone {
                found.push(Step::Append(number));
                found.push(Step::Go(number));
                // Idle ones say nothing; nobody asks again after the decision.
                if under_way && router.has_appended {
                    found.push(Step::Report(number));
                }
                if under_way && router.is_waited_for() {
                    found.extend([Step::Name(number), Step::Replace(number)]);
                }
            }
            let is_the_place = self.is_the_place(state, number);
            match state.journal {
                Journal::Pending => found.push(Step::Start(number)),
                Journal::DualWrite if is_the_place => found.push(Step::Carry(number)),
                Journal::Asked if is_the_place => found.push(Step::Decide(number)),
                Journal::Decided if is_the_place => found.push(Step::Open(number)),
                _ => {}
            }
        }
        if state.journal == Journal::DualWrite {
            found.push(Step::Ask);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = *before;
        match step {
            Step::Append(number) => self.append(&mut state, number),
            Step::Report(number) => {
                let router = &mut state.routers[number];
                router.said = Some(Some(router.address) == state.began);
            }
            Step::Name(number) => state.routers[number].is_named = true,
            Step::Replace(number) => state.routers[number] = Router::at(before.began?),
            Step::Go(number) => state.routers[number].is_gone = true,
            Step::Start(number) => {
                state.began = Some(state.drivers[number]);
                state.journal = Journal::DualWrite;
                Self::carry(&mut state, number);
            }
            Step::Carry(number) => Self::carry(&mut state, number),
            Step::Ask => self.ask(&mut state),
            Step::Decide(number) => self.decide(&mut state, number),
            Step::Open(number) => {
                // Only with what was decided on: its progress row says so.
                let target = &mut state.targets[state.drivers[number] as usize];
                if target.fence == Fence::Closed && state.source & !target.rows == 0 {
                    target.fence = Fence::Open;
                    state.journal = Journal::Migrated;
                }
            }
        }
        Some(state).filter(|after| after != before)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LOST, |_, state: &State| {
                state.acknowledged & !state.at_home() == 0
            }),
            Property::always(CUT_OFF, |_, state: &State| !state.cut_off),
            Property::sometimes("every router goes on at the target", |_, state: &State| {
                state.routers.iter().all(|router| router.has_asked)
            }),
            Property::sometimes(
                "a router that was waited for is replaced",
                |_, state: &State| {
                    state.waited && state.routers.iter().all(|router| router.has_asked)
                },
            ),
            Property::sometimes("one that is named is refused", |_, state: &State| {
                state.refused && state.routers.iter().any(|router| router.is_named)
            }),
            Property::sometimes("one that is gone is not waited for", |_, state: &State| {
                let gone = |router: &Router| router.is_gone && router.said == Some(false);
                state.journal == Journal::Migrated && state.routers.iter().any(gone)
            }),
            Property::sometimes(
                "one that has said nothing is refused",
                |_, state: &State| {
                    state.refused && state.routers.iter().all(|router| router.said.is_none())
                },
            ),
        ]
    }
}

pub const LOST: &str = "what was acknowledged is where the tenant lives";
pub const CUT_OFF: &str = "no router is cut off of which a cutover could know that";
