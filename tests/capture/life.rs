//! What else happens in the life of a server that binds by itself.

use nix::sys::signal::{Signal, kill};

use super::{at, free_address, swap};
use crate::common::processes::is_alive;
use crate::common::{eventually, server};

/// A wrapper that waits for its server would leave it behind, were it the one to be told to stop.
#[test]
fn the_server_is_stopped_and_not_its_wrapper() {
    let address = free_address();
    let odd = server("odd").display().to_string();
    let script = format!(
        "#!/bin/sh\n'{odd}' at={address}\nstatus=$?\necho server ended >&2\nexit $status\n"
    );
    let site = at(address).by_script(&script, &[]).serving("");
    let mut clients = site.clients(4);
    swap(&site, 3);
    assert_eq!(site.log.count("server ended"), 3, "{}", site.log.timed());
    clients.expect_no_failure();
}

#[test]
fn a_crash_is_met_with_a_restart_into_the_same_socket() {
    let address = free_address();
    let odd = server("odd");
    let site = at(address)
        .by_program(odd, &[&format!("at={address}")])
        .serving("");
    let first = site.pid(1);
    kill(first, Signal::SIGKILL).expect("a signal");
    eventually("the end of the first", || (!is_alive(first)).then_some(()));
    let mut clients = site.clients(4);
    clients.until_answered(8);
    clients.expect_no_failure();
    site.log.wait_for("generation 2 is serving");
}
