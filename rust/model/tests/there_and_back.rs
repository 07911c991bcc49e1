//! A tenant goes to and fro: with every rule kept nothing is lost, and without any one of them
//! something is.

use std::time::Instant;

use eventsource_model::back::properties::{self, ALWAYS};
use eventsource_model::back::{Rule, ThereAndBack};
use stateright::{Checker, HasDiscoveries, Model};

/// There and back with one process, a transaction that begins early, and nothing that fails.
const QUIET: ThereAndBack = ThereAndBack {
    events: [1, 1],
    legs: 2,
    early: 1,
    processes: 1,
    faults: 0,
    restores: 0,
    restored: [false; 3],
    rule: Rule::Kept,
};

/// One event, and one database that may go back: the store that the tenant leaves, the one that it moves
/// to, or the control database.
const fn restored(source: bool, target: bool, control: bool) -> ThereAndBack {
    ThereAndBack {
        events: [1, 0],
        early: 0,
        restores: 1,
        restored: [source, target, control],
        ..QUIET
    }
}

const SOURCE: ThereAndBack = restored(true, false, false);
const TARGET: ThereAndBack = restored(false, true, false);
const CONTROL: ThereAndBack = restored(false, false, true);

fn hold_in_every_state(model: ThereAndBack) {
    let began = Instant::now();
    let checked = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{model:?}: {} states, {} steps, {:.1?}",
        checked.unique_state_count(),
        checked.state_count(),
        began.elapsed(),
    );
    assert!(checked.is_done());
    for invariant in ALWAYS {
        checked.assert_no_discovery(invariant);
    }
    for outcome in properties::outcomes(&model) {
        checked.assert_any_discovery(outcome);
    }
}

#[test]
fn a_tenant_returns_or_stays_with_every_event() {
    hold_in_every_state(QUIET);
}

#[test]
fn two_processes_go_to_and_fro() {
    hold_in_every_state(ThereAndBack {
        processes: 2,
        early: 0,
        ..QUIET
    });
}

#[test]
fn a_way_back_survives_any_fault() {
    hold_in_every_state(ThereAndBack {
        events: [1, 0],
        early: 0,
        faults: 2,
        ..QUIET
    });
}

#[test]
fn a_way_back_survives_a_restore_of_any_database() {
    for model in [SOURCE, TARGET, CONTROL] {
        hold_in_every_state(model);
    }
}

#[test]
#[ignore = "minutes; make model runs it"]
fn more_of_everything() {
    for model in [
        ThereAndBack {
            events: [2, 1],
            processes: 2,
            ..QUIET
        },
        ThereAndBack {
            processes: 2,
            early: 0,
            faults: 1,
            ..QUIET
        },
        ThereAndBack { faults: 1, ..QUIET },
        ThereAndBack {
            events: [1, 1],
            ..SOURCE
        },
        ThereAndBack {
            events: [1, 1],
            ..TARGET
        },
        ThereAndBack {
            events: [1, 1],
            ..CONTROL
        },
    ] {
        hold_in_every_state(model);
    }
}

#[test]
fn every_rule_of_the_way_back_that_is_left_out_has_a_counterexample() {
    for rule in Rule::BROKEN {
        broken(rule, smallest(rule));
    }
}

/// Of which the counterexample is far away.
#[test]
#[ignore = "minutes; make model runs it"]
fn every_rule_of_a_home_that_went_back_has_a_counterexample() {
    for rule in Rule::BROKEN_LATE {
        let model = ThereAndBack {
            events: [1, 1],
            early: 1,
            ..TARGET
        };
        broken(rule, model);
    }
}

/// What it takes for the rule to be missed.
fn smallest(rule: Rule) -> ThereAndBack {
    match rule {
        Rule::NoOwnerCompare => ThereAndBack {
            processes: 2,
            ..QUIET
        },
        Rule::CloseForgetsDecision => CONTROL,
        Rule::CloseDeletes | Rule::OpenedAsItIs | Rule::NothingIsKept => TARGET,
        _ => QUIET,
    }
}

fn broken(rule: Rule, model: ThereAndBack) {
    let checked = ThereAndBack { rule, ..model }
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = ALWAYS
        .into_iter()
        .find_map(|invariant| Some((invariant, checked.discovery(invariant)?)));
    let Some((invariant, path)) = found else {
        panic!("nothing is lost without the rule: {rule:?}");
    };
    let steps = path.into_actions().len();
    let states = checked.unique_state_count();
    println!("{rule:?}: {steps} steps, {states} states break {invariant}");
}
