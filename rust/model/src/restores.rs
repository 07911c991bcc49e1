//! Databases that go back in time: source, target and control, each to any earlier moment.
//!
//! A model of its own, coarser than that of the protocol in steps and finer in one thing: at any
//! moment each volume may be copied, and put back later. The control database is not in it: who
//! drives, aborts or opens does so at any time, whatever a journal says, which is what a restored
//! one comes to. A failover that loses its last commits is a restore to the moment of the last
//! commit that arrived.

use stateright::{Model, Property};

use crate::left_out::Witness;
use crate::volumes::{
    Abort, At, Decision, EVENTS, SENT_ON, SPOILED, SourceFence, State, TargetFence, Token,
};

/// Passes of a history, less one.
const TOKENS: Token = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    AppendAtSource,
    AppendAtTarget,
    Mirror,
    PassBarrier,
    StorePass,
    /// The whole of the cutover under the fence.
    Decide,
    DriverOpens,
    /// A router, or a driver that has just come.
    OthersOpen,
    Repair,
    /// The target follows a source that has gone back.
    Reconcile,
    /// A source that has forgotten a decision hears of it from the open target.
    SendOn,
    AskAbort,
    RemoveGuard,
    KeepLost,
    Delete,
    DropFence,
    SaveSource,
    SaveTarget,
    RestoreSource,
    RestoreTarget,
}

/// The protocol under restores.
#[derive(Clone, Copy, Debug)]
pub struct Restores {
    pub restores: u8,
    pub rule: Witness,
}

impl Restores {
    fn asks(&self, state: &State) -> bool {
        self.rule == Witness::BarrierAsksForNothing || state.source.holds(state.target.token)
    }

    /// `eventsource_open_target`, with what its caller knows of the decision.
    fn open(&self, state: &mut State, decided: Decision) {
        let closed = state.target.fence == TargetFence::Closed
            || (self.rule == Witness::AbortedIsOpened
                && state.target.fence == TargetFence::Aborting);
        let proven = self.rule == Witness::OpenedAsItIs || state.target.token == decided.token;
        if closed && proven {
            state.target.fence = TargetFence::Open;
            state.gap |= decided.rows & !state.target.rows != 0;
        }
    }

    fn carry(&self, state: &mut State, token: Token) {
        state.target.rows |= state.source.since(state.target.proven);
        state.target.token = token;
        state.target.proven = state.source.next_xid;
    }

    fn token(state: &mut State) -> Token {
        let token = state.next_token;
        state.next_token += 1;
        state.source.barriers |= 1 << token;
        token
    }

    /// What the pass read goes to the target, if its barrier row is still there.
    fn store_pass(&self, state: &mut State) {
        if let At::Passed { token, upper } = state.driver
            && state.target.fence == TargetFence::Closed
            && self.asks(state)
        {
            state.target.rows |= state.source.since(state.target.proven);
            state.target.token = token;
            state.target.proven = upper;
        }
        state.driver = At::Idle;
    }

    fn restore_source(state: &mut State) -> Option<()> {
        state.source = state.saved.0.take()?;
        state.restores -= 1;
        state.restarted = true;
        // Who has a session there begins again. A call to the target alone may be under way.
        state.abort = Abort::None;
        if matches!(state.driver, At::Passed { .. }) {
            state.driver = At::Idle;
        }
        Some(())
    }

    fn cut_over(&self, state: &mut State) {
        let token = Self::token(state);
        self.carry(state, token);
        let rows = state.source.events();
        let decided = Decision { token, rows };
        state.source.fence = SourceFence::Moved;
        state.source.decided = Some(decided);
        state.driver = At::Decided(decided);
    }

    /// All that the decision needs is there, but for what a repair carries: with the proof of it.
    fn repair(&self, state: &mut State) {
        let token = Self::token(state);
        self.carry(state, token);
        let rows = state.source.events();
        if rows & !state.target.rows == 0 {
            state.source.decided = Some(Decision { token, rows });
        }
    }

    /// A volume is copied, or put back.
    fn volumes(state: &State, found: &mut Vec<Step>) {
        if state.restores > 0 {
            match state.saved.0 {
                None => found.push(Step::SaveSource),
                Some(_) => found.push(Step::RestoreSource),
            }
            match state.saved.1 {
                None => found.push(Step::SaveTarget),
                Some(_) => found.push(Step::RestoreTarget),
            }
        }
    }

    /// What only the target has is kept and taken out of it, and the passes go on from the first
    /// transaction id of what it lacks.
    fn reconcile(&self, state: &mut State) {
        let token = Self::token(state);
        let here = state.source.events();
        if self.rule != Witness::NothingIsKept {
            state.rescued |= state.target.rows & !here;
        }
        state.target.rows &= here;
        if self.rule != Witness::ReconciledUnderTheOldToken {
            state.target.token = token;
        }
        let lacking = here & !state.target.rows;
        let lowest = (0..EVENTS)
            .filter(|event| lacking & 1 << event != 0)
            .filter_map(|event| state.source.rows[event])
            .min();
        state.target.proven = match lowest {
            Some(xid) if self.rule != Witness::ReconciledPastTheSource => xid,
            _ => state.source.next_xid,
        };
    }

    fn send_on(&self, state: &mut State) {
        if self.rule == Witness::SourceIsBelieved {
            state.target.fence = TargetFence::Closed;
            return;
        }
        // Of no pass: a target that is put back to before it was opened gets all that is here.
        let decided = Decision {
            token: SENT_ON,
            rows: state.target.rows & !state.appended,
        };
        state.source.fence = SourceFence::Moved;
        state.source.decided = Some(decided);
    }

    fn abort(&self, state: &mut State, step: Step) {
        match (step, state.abort) {
            (Step::AskAbort, _) => {
                let gone_back = state.restarted || !state.source.holds(state.target.token);
                let open = state.target.fence == TargetFence::Open;
                if state.target.fence == TargetFence::Closed
                    || open && self.rule == Witness::OpenIsNoWitness
                {
                    state.target.fence = TargetFence::Aborting;
                }
                state.abort = Abort::Begun { gone_back };
            }
            (Step::RemoveGuard, Abort::Begun { gone_back }) => {
                if state.source.fence == SourceFence::Moved {
                    if state.target.fence == TargetFence::Aborting {
                        state.target.fence = TargetFence::Closed;
                    }
                    state.abort = Abort::None;
                } else {
                    state.source.fence = SourceFence::Removed;
                    state.abort = Abort::GuardRemoved { gone_back };
                }
            }
            (Step::KeepLost, Abort::GuardRemoved { gone_back }) => {
                if gone_back && self.rule != Witness::NothingIsKept {
                    state.rescued |= state.target.rows & !state.source.events();
                }
                if self.rule != Witness::AbortedIsOpened {
                    state.target.token = SPOILED;
                }
                state.abort = Abort::Kept;
            }
            (Step::Delete, Abort::Kept) => {
                if state.target.fence == TargetFence::Aborting {
                    state.taken |= state.target.rows & state.appended != 0;
                    state.target.rows = 0;
                }
                state.abort = Abort::Deleted;
            }
            (Step::DropFence, Abort::Deleted) => {
                if state.target.fence == TargetFence::Aborting {
                    state.target.fence = TargetFence::Gone;
                }
                state.abort = Abort::None;
            }
            _ => {}
        }
    }
}

impl Model for Restores {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::at_the_start(self.restores)]
    }

    fn actions(&self, state: &State, found: &mut Vec<Step>) {
        let (source, target) = (&state.source, &state.target);
        let open = target.fence == TargetFence::Open;
        let writable = source.fence != SourceFence::Moved;
        if state.next_event().is_some() {
            found.extend(writable.then_some(Step::AppendAtSource));
            found.extend(open.then_some(Step::AppendAtTarget));
        }
        if target.fence == TargetFence::Closed && source.events() & !target.rows != 0 {
            found.push(Step::Mirror);
        }
        let more = state.next_token < TOKENS;
        let ours = source.fence == SourceFence::Open && target.fence == TargetFence::Closed;
        match state.driver {
            At::Idle if more && ours && self.asks(state) => {
                found.extend([Step::PassBarrier, Step::Decide]);
            }
            // For who has the lease, as a pass; a frozen driver may still have decided before.
            At::Idle | At::Decided(_)
                if more && ours && !self.asks(state) && state.abort == Abort::None =>
            {
                found.push(Step::Reconcile);
                if let At::Decided(_) = state.driver {
                    found.push(Step::DriverOpens);
                }
            }
            At::Passed { .. } => found.push(Step::StorePass),
            At::Decided(_) => found.push(Step::DriverOpens),
            At::Idle => {}
        }
        if let (SourceFence::Moved, Some(decided)) = (source.fence, source.decided) {
            found.push(Step::OthersOpen);
            let closed = target.fence == TargetFence::Closed;
            if more && closed && target.token != decided.token && self.asks(state) {
                found.push(Step::Repair);
            }
        }
        if open && writable {
            found.push(Step::SendOn);
        }
        let witnessed = open && self.rule != Witness::OpenIsNoWitness;
        match state.abort {
            Abort::None if writable && !witnessed && target.fence != TargetFence::Gone => {
                found.push(Step::AskAbort);
            }
            Abort::None => {}
            Abort::Begun { .. } => found.push(Step::RemoveGuard),
            Abort::GuardRemoved { .. } => found.push(Step::KeepLost),
            Abort::Kept => found.push(Step::Delete),
            Abort::Deleted => found.push(Step::DropFence),
        }
        Self::volumes(state, found);
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = *before;
        match step {
            Step::AppendAtSource => {
                let event = state.next_event()?;
                state.source.rows[event] = Some(state.source.next_xid);
                state.source.next_xid += 1;
                state.acknowledged |= 1 << event;
            }
            Step::AppendAtTarget => {
                let event = state.next_event()?;
                state.target.rows |= 1 << event;
                state.appended |= 1 << event;
                state.acknowledged |= 1 << event;
            }
            Step::Mirror => state.target.rows |= state.source.events(),
            Step::PassBarrier => {
                let upper = state.source.next_xid;
                let token = Self::token(&mut state);
                state.driver = At::Passed { token, upper };
            }
            Step::StorePass => self.store_pass(&mut state),
            Step::Decide => self.cut_over(&mut state),
            Step::DriverOpens => {
                if let At::Decided(decided) = state.driver {
                    self.open(&mut state, decided);
                }
                state.driver = At::Idle;
            }
            Step::OthersOpen => self.open(&mut state, before.source.decided?),
            Step::Repair => self.repair(&mut state),
            Step::Reconcile => self.reconcile(&mut state),
            Step::SendOn => self.send_on(&mut state),
            Step::AskAbort
            | Step::RemoveGuard
            | Step::KeepLost
            | Step::Delete
            | Step::DropFence => self.abort(&mut state, step),
            Step::SaveSource => state.saved.0 = Some(state.source),
            Step::SaveTarget => state.saved.1 = Some(state.target),
            Step::RestoreSource => Self::restore_source(&mut state)?,
            Step::RestoreTarget => {
                state.target = state.saved.1.take()?;
                state.restores -= 1;
                state.abort = Abort::None;
            }
        }
        if !matches!(step, Step::RestoreSource | Step::RestoreTarget) {
            state.lost |= before.acknowledged & before.held() & !state.held() != 0;
        }
        Some(state).filter(|after| after != before)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LOST, |_, state: &State| !state.lost),
            Property::always(GAP, |_, state: &State| !state.gap),
            Property::always(TAKEN, |_, state: &State| !state.taken),
            Property::sometimes("a target is opened", |_, state: &State| {
                state.target.fence == TargetFence::Open
            }),
            Property::sometimes(
                "a repaired target is opened",
                |model: &Restores, state: &State| {
                    state.restores < model.restores
                        && state.target.fence == TargetFence::Open
                        && state.saved.1.is_none()
                        && state.next_token > 2
                },
            ),
            Property::sometimes(
                "a source is sent on that had forgotten",
                |_, state: &State| {
                    state.restarted
                        && state.source.fence == SourceFence::Moved
                        && state.target.fence == TargetFence::Open
                        && state.source.events() & !state.target.rows != 0
                },
            ),
            Property::sometimes("an abort keeps what the source lost", |_, state: &State| {
                state.rescued != 0
            }),
        ]
    }
}

pub const LOST: &str = "nothing but a restore takes the last copy of an acknowledged event";
pub const TAKEN: &str = "an abort does not delete what applications wrote at the target";
pub const GAP: &str = "a target is opened only with everything that was decided on";
