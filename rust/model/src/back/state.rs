//! What two stores, the control database, two processes and two routers hold while a tenant goes to and fro.

/// Most events of a model, those of both writers together.
pub const EVENTS: usize = 4;

/// Most moves of the tenant in one history: there, back, there again.
pub const LEGS: usize = 3;

/// A set of events.
pub type Events = u8;
/// Events in the order in which a pass carries them.
pub type Batch = [Option<u8>; EVENTS];
pub type Xid = u8;
/// The transaction ids that it calls finished.
pub type Snapshot = u32;
/// What a barrier row has written, and a progress row names.
pub type Token = u8;

/// In the decision of a store that was reminded of it: no pass has it.
pub const SENT_ON: Token = 31;

/// A tenant moves on leg 0 from store 0 to store 1, on leg 1 back, on leg 2 there again.
pub fn source(leg: usize) -> usize {
    leg % 2
}

pub fn target(leg: usize) -> usize {
    1 - leg % 2
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub xid: Xid,
    pub position: u8,
}

/// The fence row of one leg at one of its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fence {
    Absent,
    /// Of a way back that is not in force; at the tenant's home its guard is up.
    Asleep,
    /// At the source: writers may write.
    Open,
    /// At the source: the decision, the pass that it names and what the source held.
    Moved {
        token: Token,
        rows: Events,
    },
    /// At the target: nobody but the passes writes.
    Closed,
    /// At the target: the tenant lives here.
    Arrived,
    /// At the target: of a way back that has ended, whose rows are hidden.
    Retired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Everything that `proven` shows is there.
    Proven,
    UpTo(Snapshot),
    Last,
    LastCarried,
}

/// The progress row of one leg, at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    pub owner: Option<u8>,
    pub token: Token,
    pub proven: Snapshot,
    pub pass: Pass,
}

/// A database with everything that a restore of it takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    pub rows: [Option<Row>; EVENTS],
    pub next_xid: Xid,
    pub next_position: u8,
    /// Barriers that were passed, a bit for each token.
    pub barriers: u32,
    pub fences: [Fence; LEGS],
    pub progress: [Option<Progress>; LEGS],
}

/// The row of a way back in the control database; that of a leg is in `ways` by the leg's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    None,
    Preparing,
    Standby,
    Returning,
    Closing,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Journal {
    DualWrite,
    CutoverPaused,
    Migrated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Control {
    pub leg: usize,
    pub journal: Journal,
    pub cutover_requested: bool,
    pub abort_requested: bool,
    pub lease: Option<u8>,
    pub ways: [Way; LEGS],
}

impl Control {
    /// That of the route: its store is the one with the same remainder.
    pub fn generation(&self) -> usize {
        self.leg + usize::from(self.journal == Journal::Migrated)
    }
}

/// Where a process is; the names are those of the functions it is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    Down,
    Obey,
    /// `way_back._make`: fences and guard.
    KeepFences,
    /// `snapshots.take` and `witnesses.stand`.
    KeepSnapshot,
    /// `standby.add_progress`.
    KeepProgress {
        snapshot: Snapshot,
        token: Token,
    },
    /// The row says `standby`.
    KeepRow,
    /// `progress.claim` and `witnesses.stand_again`.
    Claim,
    /// `snapshots.take` and `witnesses.stand`.
    Snapshot,
    /// `progress.begin_pass`.
    Begin {
        snapshot: Snapshot,
        token: Token,
    },
    Read,
    /// `pass/staged.rs`: rows and progress in one transaction.
    Write(Batch),
    /// `progress.complete_pass`.
    Complete,
    /// The comparison, and `standby.wake`.
    Wake,
    /// The journal says `cutover_paused`.
    Enter,
    PrepareLast,
    FenceAsked,
    FenceHeld,
    /// `decision.decide` and its COMMIT.
    Decide,
    OpenTarget,
    Finish,
    GiveUp,
    /// `Stages._recover`.
    RecoverClaim,
    Decision,
    Undecided,
    /// `way_back.give_up_return`.
    AbortClaim,
    AbortDecision,
    Rest,
    GivenUp,
    /// `Follower.close`.
    Close,
    Retire,
    RemoveGuard,
    RemoveProgress,
    /// `Repair.run`: the target lacks what was decided on.
    Repair,
    /// `reconciled_way._reconcile`: what only the old store has.
    PutBack,
    /// `StandingAgain.run`.
    StandAgain(Events),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub at: At,
    /// Whose passes it runs.
    pub leg: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Append {
    Idle,
    /// Its transaction has written somewhere else before: it has its id already.
    Begun {
        store: usize,
        xid: Xid,
    },
    /// Written and not committed; with what the store held then.
    Inserted {
        store: usize,
        row: Row,
        saw: Events,
        guarded: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Of the newest route that its router knows.
    pub generation: usize,
    pub acknowledged: u8,
    pub append: Append,
}

/// What has gone wrong, where no later state shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wrong {
    /// An application's row entered a store where the tenant did not live.
    pub late: bool,
    pub twice: bool,
    /// A step that is no restore took the last copy of an acknowledged event.
    pub lost: bool,
    /// A target was opened without something that was decided on.
    pub gap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub stores: [Store; 2],
    pub control: Control,
    /// Sessions that hold the lock of the tenant's fence exclusively.
    pub holders: [Option<u8>; 2],
    pub processes: [Process; 2],
    pub writers: [Writer; 2],
    /// By event: what was there when it was written.
    pub saw: [Events; EVENTS],
    pub copies: [Option<Store>; 2],
    pub control_copy: Option<Control>,
    pub next_token: Token,
    pub faults: u8,
    pub restores: u8,
    /// Transactions that may still write somewhere else first.
    pub early: u8,
    pub acknowledged: Events,
    /// What a restore took from the store where the tenant lived.
    pub forgotten: Events,
    /// Stores that have gone back.
    pub gone_back: [bool; 2],
    /// Kept in `eventsource_rescued_events`.
    pub rescued: Events,
    pub wrong: Wrong,
}

impl Store {
    pub fn events(&self) -> Events {
        self.having(|_| true)
    }

    pub fn having(&self, wanted: impl Fn(Row) -> bool) -> Events {
        (0..EVENTS).fold(0, |set, event| {
            set | u8::from(self.rows[event].is_some_and(&wanted)) << event
        })
    }

    pub fn shown_by(&self, snapshot: Snapshot) -> Events {
        self.having(|row| snapshot & 1 << row.xid != 0)
    }

    pub fn holds(&self, token: Token) -> bool {
        self.barriers & 1 << token != 0
    }

    /// Some events in the order of their positions here.
    pub fn in_order(&self, some: Events, key: impl Fn(Row) -> (u8, u8)) -> Batch {
        let mut found: Vec<(u8, u8, u8)> = (0..EVENTS)
            .filter(|event| some & 1 << event != 0)
            .filter_map(|event| self.rows[event].map(|row| (key(row), event as u8)))
            .map(|((first, second), event)| (first, second, event))
            .collect();
        found.sort_unstable();
        let mut batch = [None; EVENTS];
        for (place, (_, _, event)) in batch.iter_mut().zip(found) {
            *place = Some(event);
        }
        batch
    }

    /// Writes what is not there, one transaction, positions in this order.
    pub fn insert(&mut self, batch: Batch) {
        let xid = self.next_xid;
        for event in batch.into_iter().flatten() {
            if self.rows[event as usize].is_none() {
                self.rows[event as usize] = Some(Row {
                    xid,
                    position: self.next_position,
                });
                self.next_position += 1;
                self.next_xid = xid + 1;
            }
        }
    }

    pub fn remove(&mut self, some: Events) {
        for event in 0..EVENTS {
            if some & 1 << event != 0 {
                self.rows[event] = None;
            }
        }
    }

    /// What was there when the tenant left, by the latest of the decisions here.
    pub fn decided(&self) -> Events {
        self.fences.iter().fold(0, |set, fence| match fence {
            Fence::Moved { rows, .. } => set | rows,
            _ => set,
        })
    }
}

impl State {
    /// What `pg_current_snapshot` calls finished.
    pub fn snapshot(&self, store: usize) -> Snapshot {
        let running = self
            .writers
            .iter()
            .fold(0u32, |set, writer| match writer.append {
                Append::Begun { store: at, xid } if at == store => set | 1 << xid,
                Append::Inserted { store: at, row, .. } if at == store => set | 1 << row.xid,
                _ => set,
            });
        ((1 << self.stores[store].next_xid) - 1) & !running
    }

    pub fn writes(&self, store: usize, guarded_only: bool) -> bool {
        self.writers.iter().any(|writer| {
            matches!(writer.append, Append::Inserted { store: at, guarded, .. }
                if at == store && (guarded || !guarded_only))
        })
    }

    pub fn token(&mut self, store: usize) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.stores[store].barriers |= 1 << token;
        token
    }

    /// In any place from which it can be got back.
    pub fn held(&self) -> Events {
        self.stores[0].events() | self.stores[1].events() | self.rescued
    }
}
