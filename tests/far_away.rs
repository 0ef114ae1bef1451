//! Clients 50 ms away, who lose one packet in a hundred: a handshake may be half done when the cut-over comes.

use std::time::Duration;

use crate::common::crowd::Habit;
use crate::common::network::{FAR_AWAY, Network};
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{alone, skipped};

fn no_connection_is_lost(name: &str, plan: Plan) {
    let network = match Network::with(Duration::from_millis(50), 10) {
        Ok(network) => network,
        Err(why) => return skipped(name, &why),
    };
    let _alone = alone();
    let site = plan.through(network.to_the_site()).serving("v1");
    let guests = site
        .guests()
        .arriving(400, Habit::default())
        .arriving(20, Habit::hesitating());
    let mut clients = guests
        .and(8, Habit::kept())
        .come_through(network.to_the_clients());
    site.swaps(20);
    clients.until_all_see("v21");
    clients.expect_no_failure();
}

fn far_away() -> Plan {
    let plan = Site::at(Place::Given(Target::Tcp(FAR_AWAY)));
    plan.with(&["--listen", &FAR_AWAY.to_string()])
}

#[test]
fn no_connection_is_lost_from_far_away() {
    no_connection_is_lost("no_connection_is_lost_from_far_away", far_away());
}

#[test]
fn no_connection_is_lost_from_far_away_by_a_server_that_dies_of_sigterm() {
    let name = "no_connection_is_lost_from_far_away_by_a_server_that_dies_of_sigterm";
    no_connection_is_lost(name, far_away().by_odd(""));
}
