//! The serving generation is killed with two hundred clients in its queue, and nobody is there yet to take its place.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};

use crate::capture::{at, find};
use crate::common::crowd::Habit;
use crate::common::families::on_every_family;
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::processes::stop;
use crate::common::site::Site;
use crate::common::{PATIENCE, alone, skipped};

const CLIENTS: usize = 200;

/// All of them are answered by a candidate that has come as far as that when the old one is killed; hotswap's lines about
/// relaying.
fn rescued(plan: Plan, candidate: &str, as_far_as: &str) -> Vec<String> {
    let mut site = plan.serving("v1");
    let old = site.pid(1);
    stop(old);
    let mut clients = site.guests().and(CLIENTS, Habit::default()).come();
    clients.until_asked(CLIENTS);
    site.publish_odd("v2", candidate).signal(Signal::SIGHUP);
    site.log.wait_for(as_far_as);
    kill(old, Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 1 is dead: killed by SIGKILL");
    assert_eq!(clients.so_far().answers, 0, "nobody could have answered");
    clients.until_answered(CLIENTS).until_all_see("v2");
    let tally = clients.expect_no_failure();
    tally.expect_never_seen("v1");
    site.log.wait_for("generation 2 is serving");
    assert!(!site.log.says(" closed "));
    assert!(site.stop().success());
    site.expect_nothing_left();
    site.log.lines("relaying ")
}

/// Every one of them is counted, and what it means for the server is said once.
fn expect_all_relayed(said: &[String]) {
    let count = |line: &String| {
        let words = line.strip_prefix("hotswap: relaying ")?;
        words.split(' ').next()?.parse::<usize>().ok()
    };
    let relayed: usize = said.iter().filter_map(count).sum();
    assert_eq!(relayed, CLIENTS, "{said:?}");
    let meaning = |line: &&String| {
        line.ends_with("which sees an address of this host instead of theirs")
            || line.ends_with("which sees hotswap's process and user instead of theirs")
    };
    assert_eq!(said.iter().filter(meaning).count(), 1, "{said:?}");
}

on_every_family! {
    fn its_queue_is_carried_to_the_candidate(plan: Plan) {
        expect_all_relayed(&rescued(plan, "tell hang=2s", "backlog "));
    }
}

/// It is given the dead one's socket when it binds, so it sees the clients themselves.
#[test]
fn a_candidate_that_has_not_bound_yet_gets_the_socket_itself() {
    let plan = Plan::at(Place::captured());
    let said = rescued(plan, "late=2s", "generation 2 started");
    assert!(said.is_empty(), "{said:?}");
}

/// Clients that have asked, and that nobody accepts.
fn queued(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let clients = (0..count).map(|_| {
        let mut client = TcpStream::connect(address).expect("room in the queue");
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.write_all(request).expect("a connection");
        client
    });
    clients.collect()
}

fn expect_answers(site: &Site, clients: Vec<TcpStream>) {
    for (number, mut client) in clients.into_iter().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut answer = String::new();
        let end = client.read_to_string(&mut answer);
        let log = || site.log.timed();
        assert!(end.is_ok(), "client {number}: {end:?}: {}", log());
        assert!(answer.contains(" 200 "), "client {number}: {answer}");
    }
}

/// More clients than can be relayed at once wait in a queue that nobody accepts from, while hotswap has few descriptors:
/// some stay there, and follow as soon as others are done.
#[test]
fn more_clients_than_can_be_relayed_at_once_are_all_answered() {
    const MANY: usize = 2_500;
    let needed = u64::try_from(MANY + 500).expect("a number");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < needed {
        return skipped("2,500 relayed clients", "no more descriptors");
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard).expect("a limit");
    let _alone = alone();
    let plan = Plan::at(Place::Tcp4).inside(&["prlimit", "--nofile=1024:1024"]);
    let site = plan.serving("v1");
    let Target::Tcp(address) = site.targets[0] else {
        panic!("no TCP address");
    };
    stop(site.pid(1));
    let clients = queued(address, MANY);
    site.publish("v2").swap();
    expect_answers(&site, clients);
    assert!(!site.log.says(" closed "));
}

/// The first generation accepts nobody any more, and shuts its listener down once it is told to stop.
const SHUTS_DOWN: &str = "
import http.server, os, signal, socket, sys
one = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1000)
if os.environ['HOTSWAP_GENERATION'] == '1':
    def end(*_):
        one.shutdown(socket.SHUT_RDWR)
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    client = one.accept()[0]
    while True:
        signal.pause()
handler = http.server.SimpleHTTPRequestHandler
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler, False)
server.socket.close()
server.socket = one
server.serve_forever()
";

#[test]
fn clients_queued_at_a_server_that_shuts_its_listener_down_are_answered() {
    const QUEUED: usize = 400;
    let Some(python) = find("python3") else {
        return;
    };
    let address = free_address();
    let port = address.port().to_string();
    let site = at(address)
        .with(&["--quiesce", "500ms"])
        .by_program(python, &["-c", SHUTS_DOWN, &port])
        .serving("");
    let _accepted = TcpStream::connect(address).expect("it accepts one");
    let clients = queued(address, QUEUED);
    site.swap().wait_until_gone(1);
    expect_answers(&site, clients);
}
