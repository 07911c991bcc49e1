//! What the two stores hold, and what is under way, in the model of databases that go back.

pub const EVENTS: usize = 3;

/// A set of events.
pub type Events = u8;
/// What a barrier row has written, and a progress row names; 0 is none.
pub type Token = u8;

/// In the decision of a source that was reminded of it: no pass has it.
pub const SENT_ON: Token = 14;

/// In a progress row whose rows are being deleted.
pub const SPOILED: Token = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceFence {
    Open,
    Moved,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetFence {
    Closed,
    Aborting,
    Open,
    Gone,
}

/// What a decision names: the last pass, and for the property what the source held then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    pub token: Token,
    pub rows: Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The transaction id of each event that is there.
    pub rows: [Option<u8>; EVENTS],
    pub next_xid: u8,
    pub fence: SourceFence,
    /// Barriers that were passed, a bit for each token.
    pub barriers: u16,
    pub decided: Option<Decision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub rows: Events,
    pub fence: TargetFence,
    /// The stored pass: its barrier, and the first transaction id that its snapshot did not show.
    pub token: Token,
    pub proven: u8,
}

/// Where the driver is; one that is frozen stays there for as long as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    Idle,
    /// It has passed the barrier, and has not stored the pass.
    Passed {
        token: Token,
        upper: u8,
    },
    /// It has decided, and has not opened the target.
    Decided(Decision),
}

/// Where the abort is, of another driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abort {
    None,
    Begun { gone_back: bool },
    GuardRemoved { gone_back: bool },
    Kept,
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub source: Source,
    pub target: Target,
    pub saved: (Option<Source>, Option<Target>),
    pub driver: At,
    pub abort: Abort,
    pub acknowledged: Events,
    /// Kept by an abort, where nothing deletes.
    pub rescued: Events,
    pub next_token: Token,
    pub restores: u8,
    /// Whether the source was put back: its server was started again for that.
    pub restarted: bool,
    /// What applications wrote at the target.
    pub appended: Events,
    pub taken: bool,
    pub lost: bool,
    pub gap: bool,
}

impl Source {
    pub fn events(&self) -> Events {
        (0..EVENTS).fold(0, |set, event| {
            set | u8::from(self.rows[event].is_some()) << event
        })
    }

    /// What a pass after `proven` takes: by transaction id, as the code does.
    pub fn since(&self, proven: u8) -> Events {
        (0..EVENTS)
            .filter(|event| self.rows[*event].is_some_and(|xid| xid >= proven))
            .fold(0, |set, event| set | 1 << event)
    }

    pub fn holds(&self, token: Token) -> bool {
        token == 0 || token < SPOILED && self.barriers & 1 << token != 0
    }
}

impl State {
    /// A migration whose guard is up and that has carried nothing.
    pub fn at_the_start(restores: u8) -> State {
        State {
            source: Source {
                rows: [None; EVENTS],
                next_xid: 1,
                fence: SourceFence::Open,
                barriers: 0,
                decided: None,
            },
            target: Target {
                rows: 0,
                fence: TargetFence::Closed,
                token: 0,
                proven: 0,
            },
            saved: (None, None),
            driver: At::Idle,
            abort: Abort::None,
            acknowledged: 0,
            rescued: 0,
            next_token: 1,
            restores,
            restarted: false,
            appended: 0,
            taken: false,
            lost: false,
            gap: false,
        }
    }

    pub fn held(&self) -> Events {
        self.source.events() | self.target.rows | self.rescued
    }

    pub fn next_event(&self) -> Option<usize> {
        let next = self.acknowledged.count_ones() as usize;
        (next < EVENTS).then_some(next)
    }
}
