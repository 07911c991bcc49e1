//! The rules of the model of databases that go back, each of which can be left out.

/// Which rule is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    Kept,
    /// A barrier does not ask for the one before.
    BarrierAsksForNothing,
    /// The target is opened whatever its progress row says.
    OpenedAsItIs,
    /// A target whose rows are being deleted can be opened, and its progress row says nothing of it.
    AbortedIsOpened,
    /// An abort does not look at the target's fence.
    OpenIsNoWitness,
    /// An abort, or a reconciliation, takes what only the target has.
    NothingIsKept,
    /// A reconciled target still has the token of before.
    ReconciledUnderTheOldToken,
    /// A reconciliation goes on from what the source shows now, and not from what the target lacks.
    ReconciledPastTheSource,
    /// A source that has gone back is believed, and the open target that it has forgotten is closed.
    SourceIsBelieved,
}

impl Witness {
    pub const BROKEN: [Witness; 8] = [
        Witness::BarrierAsksForNothing,
        Witness::OpenedAsItIs,
        Witness::AbortedIsOpened,
        Witness::OpenIsNoWitness,
        Witness::NothingIsKept,
        Witness::ReconciledUnderTheOldToken,
        Witness::ReconciledPastTheSource,
        Witness::SourceIsBelieved,
    ];
}
