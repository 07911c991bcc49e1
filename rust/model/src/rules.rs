//! The protocol as it is, and the ways of breaking it that the model has to notice.

/// Which rule is left out. Every one but `Kept` has a counterexample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Kept,
    /// The target opens and the route changes before the fence row is committed.
    FlipBeforeDecision,
    /// Recovery and abort believe a plain read of the fence.
    RecoveryWithoutLock,
    /// The last pass reads before the lock is granted.
    DeltaBeforeGrant,
    /// A snapshot is used before a later commit was flushed.
    NoBarrier,
    /// The guard looks at the fence with the snapshot from before its wait.
    GuardInOneStatement,
    /// A frozen snapshot is believed.
    NoForShare,
    /// The guard is installed beside transactions that have written.
    GuardDoesNotWait,
    /// A resumed pass takes another snapshot and keeps the cursor.
    FreshSnapshotAtResume,
    /// A pass takes what comes after the highest position it has carried.
    PositionInsteadOfTransaction,
    /// Chunks and passes commit without comparing the progress row's owner.
    NoOwnerCompare,
    /// A chunk is mapped without comparing the lease's owner.
    NoLeaseCompare,
    /// Recovery sets a fence that has moved back to open.
    Unfence,
}

impl Rule {
    pub const BROKEN: [Rule; 12] = [
        Rule::FlipBeforeDecision,
        Rule::RecoveryWithoutLock,
        Rule::DeltaBeforeGrant,
        Rule::NoBarrier,
        Rule::GuardInOneStatement,
        Rule::NoForShare,
        Rule::GuardDoesNotWait,
        Rule::FreshSnapshotAtResume,
        Rule::PositionInsteadOfTransaction,
        Rule::NoOwnerCompare,
        Rule::NoLeaseCompare,
        Rule::Unfence,
    ];
}
