//! The rules of the way back, each of which can be left out.

/// Which rule is left out. Every one but `Kept` has a counterexample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Kept,
    /// The first snapshot of the way back is taken when its store is open already.
    SnapshotAfterDecision,
    /// The store that the tenant may leave again has no guard.
    HomeWithoutGuard,
    /// The decision is made by the pass before the fence.
    DecidedWithoutLastPass,
    /// A way back ends while a return is asked for.
    EndDuringReturn,
    /// The end of a way back takes the rows that it has left.
    CloseDeletes,
    /// The end of a way back shows the rows that it has carried.
    CloseShows,
    /// The end of a way back by which the tenant has returned removes the decision.
    CloseForgetsDecision,
    /// A barrier does not ask for the one before.
    BarrierAsksForNothing,
    /// A router writes new events to the store that was left, at positions that it draws.
    MirrorDraws,
    /// A pass goes by transaction and position.
    ByTransaction,
    /// A pass does not look whether an event is there already.
    EventsUnknown,
    /// A pass commits without comparing the progress row's owner.
    NoOwnerCompare,
    /// A target is opened whatever its progress row says.
    OpenedAsItIs,
    /// A home that has gone back keeps what it has, and the old store drops the rest.
    NothingIsKept,
    /// A way back that stands again goes on from the first transaction id that the old store lacks,
    /// whatever is in flight below it.
    InFlightForgotten,
}

impl Rule {
    pub const BROKEN: [Rule; 13] = [
        Rule::SnapshotAfterDecision,
        Rule::HomeWithoutGuard,
        Rule::DecidedWithoutLastPass,
        Rule::EndDuringReturn,
        Rule::CloseDeletes,
        Rule::CloseShows,
        Rule::CloseForgetsDecision,
        Rule::MirrorDraws,
        Rule::ByTransaction,
        Rule::EventsUnknown,
        Rule::NoOwnerCompare,
        Rule::OpenedAsItIs,
        Rule::NothingIsKept,
    ];

    /// Those whose counterexample is far away.
    pub const BROKEN_LATE: [Rule; 2] = [Rule::BarrierAsksForNothing, Rule::InFlightForgotten];
}
