//! Two configurations: with every rule kept no append goes elsewhere and nobody is cut off unasked,
//! and without any one of them that happens.

use eventsource_model::configurations::{CUT_OFF, Configurations, Configured, LOST};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn no_configuration_leads_an_append_elsewhere() {
    let model = Configurations {
        rule: Configured::Kept,
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
fn every_rule_about_configurations_that_is_left_out_has_a_counterexample() {
    for rule in Configured::BROKEN {
        let checked = Configurations { rule }
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let wanted = match rule {
            Configured::PlaceIsBelieved | Configured::ArrivalIsBelieved => LOST,
            _ => CUT_OFF,
        };
        let Some(path) = checked.discovery(wanted) else {
            panic!("nothing breaks without the rule: {rule:?}");
        };
        println!(
            "{rule:?}: {} steps break {wanted}",
            path.into_actions().len()
        );
    }
}
