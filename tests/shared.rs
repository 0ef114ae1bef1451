//! Listeners that all generations share: nothing is lost there either, with servers that stop gracefully.

use crate::common::crowd::Habit;
use crate::common::datagrams::Datagrams;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{alone, server};

const SWAPS: usize = 20;

fn no_connection_is_lost(plan: Plan) {
    let _alone = alone();
    let site = plan.serving("v1");
    let guests = site
        .guests()
        .arriving(1000, Habit::default())
        .arriving(20, Habit::hesitating());
    let mut clients = guests
        .arriving(10, Habit::slow())
        .and(8, Habit::kept())
        .come();
    site.swaps(SWAPS);
    clients.until_all_see(&format!("v{}", SWAPS + 1));
    clients.expect_no_failure();
}

#[test]
fn no_connection_is_lost_on_a_shared_tcp_socket() {
    no_connection_is_lost(Site::at(Place::Tcp4).with(&["--share"]));
}

#[test]
fn no_connection_is_lost_on_a_shared_unix_path() {
    no_connection_is_lost(Site::at(Place::Unix).with(&["--share"]));
}

#[test]
fn no_connection_is_lost_on_an_abstract_socket() {
    no_connection_is_lost(Site::at(Place::Abstract));
}

/// As systemd hands it over, with its name.
#[test]
fn no_connection_is_lost_on_an_inherited_socket() {
    let activate = server("activate").display().to_string();
    no_connection_is_lost(Site::at(Place::Inherited).inside(&[&activate, "127.0.0.1:0", "web"]));
}

#[test]
fn no_datagram_is_lost() {
    let _alone = alone();
    let site = Site::at(Place::Udp).by_odd("echo").serving("v1");
    let datagrams = Datagrams::to(&site.targets[0]);
    site.swaps(SWAPS);
    datagrams.until_answered_by(&format!("v{}", SWAPS + 1));
    datagrams.expect_none_lost();
}

/// shutdown(2) of a shared socket would end it for everybody.
#[test]
fn a_shared_socket_that_is_shut_down_listens_again() {
    let site = Site::at(Place::Tcp4)
        .with(&["--share", "--drain-timeout", "2s"])
        .by_odd("shut-down=term")
        .serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    let clients = site.clients(4);
    clients.until_all_see("v2");
}
