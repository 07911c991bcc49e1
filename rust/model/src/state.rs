//! What the three databases, two drivers and two routers hold: all of it, and nothing else.

/// Events are numbered; a set of them is a bit mask.
pub type Event = u8;
pub type Events = u8;

/// Transaction ids are small numbers; a snapshot is the set of those that it calls finished.
pub type Xid = u8;
pub type Snapshot = u32;

/// Most events of a model, all writers together.
pub const EVENTS: usize = 4;

/// The number of the driver that is the owner; in the code its UUID. None after the driver has ended:
/// its UUID is not used again.
pub type Owner = Option<u8>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    Source,
    Target,
}

/// The fence row of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fence {
    /// No guard yet: writers look at nothing.
    Absent,
    Open,
    Moved,
    /// An abort has taken the guard away.
    Removed,
}

/// A committed row of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub xid: Xid,
    pub position: u8,
}

/// The session that holds the fence's lock exclusively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The driver at the other end; None if it is gone and the server has not noticed.
    pub driver: Option<u8>,
    /// Whether the transaction has set the fence to `moved`.
    pub decided: bool,
    /// Whether COMMIT is on its way.
    pub commit_sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub rows: [Option<Row>; EVENTS],
    pub fence: Fence,
    pub holder: Option<Holder>,
    pub next_xid: Xid,
    /// Transaction ids up to here are on disk: a crash does not give them out again.
    pub flushed: Xid,
    pub next_position: u8,
}

/// Which rows a pass takes: those that `upper` shows and `previous` does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pass {
    pub number: u8,
    pub previous: Option<Snapshot>,
    /// None is the last pass: everything that is committed.
    pub upper: Option<Snapshot>,
    /// What the last committed chunk ended with: a position in pass 0, else a transaction id.
    pub cursor: u8,
}

/// The progress row of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    pub owner: Owner,
    pub pass: Pass,
    pub proven: Option<Snapshot>,
}

impl Progress {
    pub fn pass_is_open(&self) -> bool {
        self.pass.upper.is_some() && self.pass.upper != self.proven
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Rows that passes have written.
    pub carried: Events,
    /// Rows that applications have written.
    pub appended: Events,
    pub open: bool,
    pub progress: Option<Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Journal {
    Pending,
    BulkCopy,
    DualWrite,
    CutoverPaused,
    Migrated,
    RolledBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Control {
    pub journal: Journal,
    pub lease: Owner,
    pub route: Store,
    pub cutover_requested: bool,
    pub abort_requested: bool,
}

/// Where a driver is; the names are those of the functions it is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    Down,
    /// `Stages._obey` and the match on the journal's state.
    Obey,
    /// `guard.install`.
    Guard,
    /// `progress.claim`.
    Claim,
    /// `snapshots.take`.
    Snapshot,
    /// `snapshots.barrier`.
    Barrier(Snapshot),
    /// `progress.begin_pass`.
    BeginPass(Snapshot),
    /// `PassSession.run`: the progress row is compared.
    Run,
    /// `pass/source.rs`: the rows are read.
    Read,
    /// `pass/positions.rs`: the mapping, with the lease compared.
    Map {
        rows: Events,
        cursor: u8,
    },
    /// `pass/staged.rs`: rows and progress in one transaction.
    Write {
        rows: Events,
        cursor: u8,
    },
    /// `progress.complete_pass`.
    Complete,
    /// The journal follows a finished pass.
    Follow,
    /// `Passes.prepare_last`.
    PrepareLast,
    /// `Cutover._fenced`, waiting.
    FenceAsked,
    /// The lock is held; the barrier of the last pass.
    FenceHeld,
    /// `decision.decide`.
    Decide,
    /// `Cutover._commit`, not sent yet.
    Commit,
    /// `Cutover._commit`, waiting for the answer.
    Committing,
    /// `decision.open_target`.
    OpenTarget,
    /// `decision.finish`.
    Finish,
    /// The cutover gave up; the journal goes back to `dual_write`.
    GiveUp,
    /// `Stages._recover`: `progress.claim`.
    RecoverClaim,
    /// `decision.find`.
    Decision,
    /// Nothing was decided: back to `dual_write`.
    Undecided,
    /// `abort.carry_out`: `decision.find`.
    AbortDecision,
    /// `guard.remove`.
    RemoveGuard,
    /// `progress.claim` of an abort.
    AbortClaim,
    /// `abort._delete_copied`.
    DeleteCopied,
    /// `progress.remove`.
    RemoveProgress,
    /// The journal becomes `rolled_back`.
    RolledBack,
    /// In `dual_write` with nothing asked of it.
    Resting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Driver {
    pub at: At,
    /// The pass as this driver last read or wrote it.
    pub pass: Pass,
}

/// Where a writer's append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Append {
    Idle,
    /// Its trigger asks for the shared lock. What it saw of the fence when it began is kept, for
    /// transactions with a frozen snapshot. Nothing can change the fence between lock and check,
    /// so they are one step.
    AtGuard(Fence),
    /// The row is written and not committed.
    Inserted {
        row: Row,
        guarded: bool,
    },
    /// EVF03: the target is not open.
    NotOpen,
    /// The router finishes the flip: `decision.open_target`, then `decision.finish`.
    OpeningTarget,
    FinishingFlip,
}

/// An application with a router of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    pub route: Store,
    /// How many of its events were acknowledged.
    pub acknowledged: u8,
    pub append: Append,
}

/// What has happened and no later state shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// An application's row entered the source after the decision.
    pub late_at_source: bool,
    /// An application's row entered the target before the decision.
    pub early_at_target: bool,
    /// The target did not hold what an append expected to be there.
    pub conflict: bool,
    /// A COMMIT arrived after its driver was gone.
    pub orphan_decided: bool,
    pub recovered: bool,
    pub followed: bool,
    pub finished_by_router: bool,
    /// Whether the last four are kept: they make states differ that are otherwise the same.
    pub kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub source: Source,
    pub target: Target,
    pub control: Control,
    pub drivers: [Driver; 2],
    pub writers: [Writer; 2],
    /// Faults that may still happen.
    pub faults: u8,
    pub history: History,
}

impl Source {
    /// What `pg_current_snapshot` calls finished.
    pub fn snapshot(&self, writers: &[Writer; 2]) -> Snapshot {
        let running = writers
            .iter()
            .fold(0, |running, writer| match writer.append {
                Append::Inserted { row, .. } => running | 1 << row.xid,
                _ => running,
            });
        ((1 << self.next_xid) - 1) & !running
    }

    pub fn events(&self) -> Events {
        (0..EVENTS).fold(0, |set, event| {
            set | u8::from(self.rows[event].is_some()) << event
        })
    }

    /// The lock's exclusive holder is this driver.
    pub fn held_by(&self, driver: usize) -> bool {
        self.holder
            .is_some_and(|holder| holder.driver == Some(driver as u8))
    }
}

impl Target {
    pub fn events(&self) -> Events {
        self.carried | self.appended
    }
}

impl State {
    /// The two drivers are interchangeable: which one is called the first does not matter.
    pub fn in_order(mut self) -> State {
        if self.drivers[0] > self.drivers[1] {
            self.drivers.swap(0, 1);
            let other = |number: u8| 1 - number;
            self.control.lease = self.control.lease.map(other);
            if let Some(progress) = &mut self.target.progress {
                progress.owner = progress.owner.map(other);
            }
            if let Some(holder) = &mut self.source.holder {
                holder.driver = holder.driver.map(other);
            }
        }
        self
    }

    /// A driver's process ends, or gives the migration up. It owns nothing from here on.
    pub fn forget(&mut self, driver: usize) {
        let number = Some(driver as u8);
        self.drivers[driver] = Driver {
            at: At::Down,
            pass: Pass::default(),
        };
        if self.control.lease == number {
            self.control.lease = None;
        }
        if let Some(progress) = &mut self.target.progress {
            progress.owner = progress.owner.filter(|owner| Some(*owner) != number);
        }
    }

    pub fn remember(&mut self, what: impl FnOnce(&mut History)) {
        if self.history.kept {
            what(&mut self.history);
        }
    }

    /// The store that holds the tenant: the fence decides.
    pub fn authoritative(&self) -> Events {
        match self.source.fence {
            Fence::Moved => self.target.events(),
            _ => self.source.events(),
        }
    }

    /// A writer's transaction is open at the source, whether it has written or waits at the guard.
    pub fn source_is_written(&self) -> bool {
        self.writers
            .iter()
            .any(|writer| matches!(writer.append, Append::AtGuard(_) | Append::Inserted { .. }))
    }

    /// A writer holds the fence's lock shared.
    pub fn lock_is_shared(&self) -> bool {
        self.writers
            .iter()
            .any(|writer| matches!(writer.append, Append::Inserted { guarded: true, .. }))
    }
}
