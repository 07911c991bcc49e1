//! What can happen next, and what it leads to.

use crate::back::bounds::ThereAndBack;
use crate::back::process::{finish_leg, open};
use crate::back::state::{At, Control, Fence, Journal, State, Way, source};
use crate::back::{ends, mending, process, writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Writer(usize, writer::Step),
    WriterFails(usize, writer::Step),
    /// `acquire_lease`, or `follow`.
    Start(usize),
    /// The same, from a process that is alive and frozen.
    TakeOver(usize),
    Process(usize),
    Kill(usize),
    /// A session that holds the fence is lost.
    SessionLost(usize),
    GiveUp(usize),
    /// `decision.roll_forward` of a router.
    RouterFinishes,
    AskReturn,
    /// A cutover that was given up is asked for again.
    AskAgain,
    AskAbort,
    /// `way-back close`, or its time is over.
    End(usize),
    Close(usize),
    Save(usize),
    Restore(usize),
    SaveControl,
    RestoreControl,
    /// A router has met a target that is closed again.
    Reopen(usize),
    /// A store that has forgotten a decision hears of it.
    SendOn(usize),
    /// One of the stores knows nothing of the way back.
    CloseHalf,
    Mend(usize),
    RepairControl,
}

impl ThereAndBack {
    /// What happens by itself. A history in which nothing of this is left is over.
    pub fn steps(&self, state: &State, found: &mut Vec<Step>) {
        for number in 0..2 {
            let mut steps = Vec::new();
            writer::steps(state, number, self.events, self.rule, &mut steps);
            found.extend(steps.into_iter().map(|step| Step::Writer(number, step)));
        }
        for number in 0..self.processes {
            if process::may_start(self, state, number) == Some(false) {
                found.push(Step::Start(number));
            }
            if process::may_step(state, number) {
                found.push(Step::Process(number));
            }
            let idle = state.processes[number].at == At::Down;
            if idle && ends::may_close(self, state).is_some() {
                found.push(Step::Close(number));
            }
        }
        let leg = state.control.leg;
        let decided = matches!(state.stores[source(leg)].fences[leg], Fence::Moved { .. });
        if state.control.journal != Journal::Migrated && decided {
            found.push(Step::RouterFinishes);
        }
        if state.restores < self.restores {
            self.mended(state, found);
        }
    }

    /// What follows from a restore.
    fn mended(&self, state: &State, found: &mut Vec<Step>) {
        if let Some(leg) = mending::is_closed_again(state) {
            found.push(Step::Reopen(leg));
        }
        if let Some(leg) = mending::is_forgotten(state) {
            found.push(Step::SendOn(leg));
        }
        if mending::is_half(self, state) {
            found.push(Step::CloseHalf);
        }
        let idle = state.processes.iter().all(|it| it.at == At::Down);
        if idle && mending::may_mend(self, state) {
            found.push(Step::Mend(0));
        }
        if idle && mending::repaired_control(self, state).is_some_and(|after| after != *state) {
            found.push(Step::RepairControl);
        }
    }

    /// What somebody may ask for.
    pub fn asked(&self, state: &State, found: &mut Vec<Step>) {
        if mending::may_return(self, state) {
            found.push(Step::AskReturn);
        }
        if let Some(leg) = ends::may_end(self, state) {
            found.push(Step::End(leg));
        }
        let control = &state.control;
        if control.journal == Journal::DualWrite && !control.abort_requested {
            if !control.cutover_requested && state.faults > 0 {
                found.push(Step::AskAgain);
            }
            // A return whose home has gone back can only be given up.
            if control.leg > 0 && (state.faults > 0 || !self.asks(state, control.leg)) {
                found.push(Step::AskAbort);
            }
        }
    }

    /// What may fail at any time.
    pub fn faults(&self, state: &State, found: &mut Vec<Step>) {
        for number in 0..2 {
            let mut steps = Vec::new();
            writer::faults(state, number, &mut steps);
            let failed = |step| Step::WriterFails(number, step);
            found.extend(steps.into_iter().map(failed));
        }
        for number in 0..self.processes {
            if process::may_start(self, state, number) == Some(true) {
                found.push(Step::TakeOver(number));
            }
            if state.processes[number].at != At::Down {
                found.push(Step::Kill(number));
            }
            if state.holders.contains(&Some(number as u8)) {
                found.push(Step::SessionLost(number));
            }
            if process::may_give_up(state, number) {
                found.push(Step::GiveUp(number));
            }
        }
    }

    pub fn volumes(&self, state: &State, found: &mut Vec<Step>) {
        for store in (0..2).filter(|store| self.restored[*store]) {
            found.push(match state.copies[store] {
                None => Step::Save(store),
                Some(_) => Step::Restore(store),
            });
        }
        if self.restored[2] {
            found.push(match state.control_copy {
                None => Step::SaveControl,
                Some(_) => Step::RestoreControl,
            });
        }
    }

    /// The state after a step.
    pub fn after(&self, before: &State, step: Step) -> State {
        let mut state = *before;
        match step {
            Step::Writer(number, step) => {
                writer::take(&mut state, number, step, self.events, self.rule);
            }
            Step::WriterFails(number, step) => {
                writer::take(&mut state, number, step, self.events, self.rule);
            }
            Step::Start(number) | Step::TakeOver(number) => process::start(&mut state, number),
            Step::Process(number) => process::step(self, &mut state, number),
            Step::Kill(number) => state.forget(number),
            Step::SessionLost(number) => {
                let number = Some(number as u8);
                for holder in &mut state.holders {
                    *holder = holder.filter(|it| Some(*it) != number);
                }
            }
            Step::GiveUp(number) => state.processes[number].at = At::GiveUp,
            Step::RouterFinishes => {
                let leg = state.control.leg;
                if open(self, &mut state, leg) == Fence::Arrived {
                    state.control.journal = Journal::CutoverPaused;
                    finish_leg(&mut state, leg);
                }
            }
            Step::End(leg) => state.control.ways[leg] = Way::Closing,
            Step::Close(number) => {
                if let Some(leg) = ends::may_close(self, before) {
                    ends::begin(&mut state, number, leg);
                }
            }
            Step::AskReturn | Step::AskAgain | Step::AskAbort => ask(&mut state, step),
            _ => self.goes_back(&mut state, step),
        }
        let fails = matches!(
            step,
            Step::WriterFails(..)
                | Step::TakeOver(_)
                | Step::Kill(_)
                | Step::SessionLost(_)
                | Step::GiveUp(_)
                | Step::AskAgain
                | Step::AskAbort
        );
        state.faults = state.faults.saturating_sub(u8::from(fails));
        if !matches!(step, Step::Restore(_)) {
            let taken = before.acknowledged & before.held() & !state.held();
            state.wrong.lost |= taken != 0;
        }
        // With one process there is nobody to change names with.
        if self.processes > 1 {
            state.in_order()
        } else {
            state
        }
    }

    fn goes_back(&self, state: &mut State, step: Step) {
        match step {
            Step::Save(store) => state.copies[store] = Some(state.stores[store]),
            Step::Restore(store) => mending::restore(state, store),
            Step::SaveControl => state.control_copy = Some(state.control),
            Step::RestoreControl => {
                if let Some(copy) = state.control_copy.take() {
                    state.control = Control {
                        lease: None,
                        ..copy
                    };
                    state.restores -= 1;
                }
            }
            Step::Reopen(leg) => mending::reopen(state, leg),
            Step::SendOn(leg) => mending::send_on(state, leg),
            Step::CloseHalf => {
                let back = state.control.leg + 1;
                state.control.ways[back] = Way::Closing;
            }
            Step::Mend(number) => mending::begin(state, number),
            Step::RepairControl => {
                if let Some(after) = mending::repaired_control(self, state) {
                    *state = after;
                }
            }
            _ => {}
        }
    }
}

fn ask(state: &mut State, step: Step) {
    let control = &mut state.control;
    match step {
        Step::AskReturn => {
            control.leg += 1;
            control.ways[control.leg] = Way::Returning;
            control.journal = Journal::DualWrite;
            control.cutover_requested = true;
            // Who follows it does so no longer.
            control.lease = None;
        }
        Step::AskAgain => control.cutover_requested = true,
        _ => control.abort_requested = true,
    }
}
