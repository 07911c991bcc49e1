//! With every rule kept, the invariants hold under every fault.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{BuildHasher, BuildHasherDefault};
use std::time::Instant;

use eventsource_model::{Protocol, Rule, State, Step, end};
use stateright::{Checker, Model};

const THREADS: usize = 2;

fn protocol(events: [u8; 2], faults: u8) -> Protocol {
    Protocol {
        events,
        faults,
        rule: Rule::Kept,
        remembers: false,
    }
}

fn hold_in_every_state(model: Protocol) {
    let began = Instant::now();
    let checked = model.checker().threads(THREADS).spawn_bfs().join();
    println!(
        "events {:?}, faults {}: {} states, {} steps, {:.1?}",
        model.events,
        model.faults,
        checked.unique_state_count(),
        checked.state_count(),
        began.elapsed(),
    );
    assert!(checked.is_done());
    for invariant in end::ALWAYS {
        checked.assert_no_discovery(invariant);
    }
    for outcome in end::OUTCOMES {
        checked.assert_any_discovery(outcome);
    }
}

#[test]
fn one_event_of_each_writer_survives_any_two_faults() {
    hold_in_every_state(protocol([1, 1], 2));
}

#[test]
fn streams_of_two_events_survive_any_fault() {
    hold_in_every_state(protocol([2, 1], 1));
}

#[test]
fn every_way_through_the_protocol_is_taken() {
    let model = Protocol {
        remembers: true,
        ..protocol([1, 1], 1)
    };
    // The invariants hold and each of the `sometimes` properties has an example.
    model
        .checker()
        .threads(THREADS)
        .spawn_bfs()
        .join()
        .assert_properties();
}

/// Together with I11, which looks at the states where nothing is left to do: from wherever the last
/// fault leaves things, every history ends, all at the source or all at the target.
#[test]
fn without_further_faults_every_history_ends() {
    let model = protocol([1, 1], 1);
    let mut seen = HashMap::new();
    let mut roots = model.init_states();
    while let Some(root) = roots.pop() {
        ends(&model, root, &mut seen, &mut roots);
    }
    println!("{} states, no cycle", seen.len());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    OnThisPath,
    Done,
}

/// Follows what happens by itself, to every end; states after a fault are further `roots`.
fn ends(model: &Protocol, root: State, seen: &mut HashMap<u64, Seen>, roots: &mut Vec<State>) {
    let mut path = Vec::new();
    enter(model, root, seen, roots, &mut path);
    while let Some((number, following)) = path.last_mut() {
        match following.pop() {
            Some(state) => enter(model, state, seen, roots, &mut path),
            None => {
                seen.insert(*number, Seen::Done);
                path.pop();
            }
        }
    }
}

fn enter(
    model: &Protocol,
    state: State,
    seen: &mut HashMap<u64, Seen>,
    roots: &mut Vec<State>,
    path: &mut Vec<(u64, Vec<State>)>,
) {
    let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
    match seen.entry(number) {
        Entry::Occupied(known) => {
            assert!(*known.get() == Seen::Done, "a history returns to {state:?}");
            return;
        }
        Entry::Vacant(new) => new.insert(Seen::OnThisPath),
    };
    let after = |steps: Vec<Step>| {
        steps
            .into_iter()
            .filter_map(|step| model.next_state(&state, step))
    };
    let mut by_itself = Vec::new();
    model.steps(&state, &mut by_itself);
    let mut failing = Vec::new();
    if state.faults > 0 {
        model.faults(&state, &mut failing);
    }
    path.push((number, after(by_itself).collect()));
    roots.extend(after(failing));
}
