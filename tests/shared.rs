//! Listeners that all generations share: nothing is lost there either, with servers that stop gracefully.

use nix::sys::signal::Signal;

use crate::capture::closed::python;
use crate::common::crowd::Habit;
use crate::common::datagrams::Datagrams;
use crate::common::place::{Place, Target, free_address};
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

/// All generations have one socket there, which hotswap keeps open while none runs.
#[test]
fn clients_of_a_captured_name_wait_under_stop_first() {
    let name = format!("hotswap-test-{}", free_address());
    let target = Target::Abstract(name.clone());
    let script = format!(
        "if os.environ['HOTSWAP_GENERATION'] == '2':
    time.sleep(0.3)
one = socket.socket(socket.AF_UNIX)
one.bind('\\0{name}')
one.listen(128)
serve(one)"
    );
    let plan = Site::at(Place::Given(target)).with(&["--order", "stop-first"]);
    let Some(plan) = python(plan, free_address(), &script) else {
        return;
    };
    let site = plan.serving("");
    site.signal(Signal::SIGHUP);
    site.log.wait_for("generation 2 started");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    clients.expect_no_failure();
}
