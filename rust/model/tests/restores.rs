//! Databases that go back in time: with every rule kept nothing is lost, and without any one of them
//! something is.

use eventsource_model::left_out::Witness;
use eventsource_model::restores::{GAP, LOST, Restores, TAKEN};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn nothing_that_a_store_still_holds_is_lost_by_a_restore() {
    let model = Restores {
        restores: 2,
        rule: Witness::Kept,
    };
    let checked = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{} states, {} steps",
        checked.unique_state_count(),
        checked.state_count()
    );
    checked.assert_properties();
}

#[test]
fn every_witness_that_is_left_out_loses_something() {
    for rule in Witness::BROKEN {
        let (invariant, restores, steps) = counterexample(rule);
        println!("{rule:?}: {steps} steps, {restores} restores break {invariant}");
    }
}

fn counterexample(rule: Witness) -> (&'static str, u8, usize) {
    for restores in 0..=2 {
        let checked = Restores { restores, rule }
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        for invariant in [LOST, GAP, TAKEN] {
            if let Some(path) = checked.discovery(invariant) {
                return (invariant, restores, path.into_actions().len());
            }
        }
    }
    panic!("nothing is lost without the rule: {rule:?}");
}
