//! A model that cannot fail proves nothing: without any one of the rules it finds a loss.

use eventsource_model::{Protocol, Rule, end};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn every_rule_that_is_left_out_has_a_counterexample() {
    for rule in Rule::BROKEN {
        let (invariant, faults, steps) = counterexample(rule);
        println!("{rule:?}: {steps} steps, {faults} faults break {invariant}");
    }
}

/// The invariant that falls first, with as few faults as do it and as few steps.
fn counterexample(rule: Rule) -> (&'static str, u8, usize) {
    for faults in 0..=2 {
        let model = Protocol {
            events: [1, 1],
            faults,
            rule,
            remembers: false,
        };
        let checked = model
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        for invariant in end::ALWAYS {
            if let Some(path) = checked.discovery(invariant) {
                return (invariant, faults, path.into_actions().len());
            }
        }
    }
    panic!("nothing is lost without the rule: {rule:?}");
}
