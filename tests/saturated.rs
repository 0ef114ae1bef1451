//! A server that is busy for seconds to come: what queued up on the old one is answered by the old one.

use crate::common::alone;
use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;

/// One at a time, 15 ms each, and a hundred who wait: 1.5 s of queue in front of everybody.
fn no_connection_is_lost(plan: Plan) {
    let _alone = alone();
    let site = plan.by_odd("single think=15ms").serving("v1");
    let mut clients = site.guests().and(100, Habit::default()).come();
    clients.until_answered(100);
    site.swaps(10);
    clients.until_all_see("v11");
    clients.expect_no_failure();
}

#[test]
fn no_connection_is_lost_by_a_saturated_server_on_tcp() {
    no_connection_is_lost(Site::at(Place::Tcp4));
}

#[test]
fn no_connection_is_lost_by_a_saturated_server_on_a_unix_path() {
    no_connection_is_lost(Site::at(Place::Unix));
}
