//! The harness itself: what its clients count, they have met; a counter that cannot fail would prove nothing.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::crowd::{Guests, Habit};
use crate::common::log::Log;
use crate::common::network::{FAR_AWAY, Network};
use crate::common::place::Target;
use crate::common::tally::Failure;
use crate::common::{server, skipped};

/// A server without hotswap.
struct Bare {
    child: Child,
    target: Target,
}

impl Bare {
    fn start(name: &str, words: &[&str]) -> Bare {
        // Free a moment ago, and nobody else asks for it by number.
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port");
        Bare::start_at(free, name, words, || {})
    }

    fn start_at(free: SocketAddr, name: &str, words: &[&str], door: impl FnOnce() + Send) -> Bare {
        let address = if name == "odd" {
            format!("at={free}")
        } else {
            free.to_string()
        };
        let mut command = Command::new(server(name));
        command
            .arg(address)
            .args(words)
            .env("VERSION", "v1")
            .stdin(Stdio::null());
        command.stdout(Stdio::piped());
        let spawn = || {
            door();
            command.spawn().expect("a server")
        };
        let mut child = thread::scope(|scope| scope.spawn(spawn).join().expect("a server"));
        let log = Log::of(child.stdout.take().expect("its stdout"), Instant::now());
        log.wait_for("listening on");
        Bare {
            child,
            target: Target::Tcp(free),
        }
    }

    fn guests(&self) -> Guests {
        Guests::of(vec![self.target.clone()], Instant::now())
    }

    fn kill(&mut self) {
        self.child.kill().expect("a server to kill");
        self.child.wait().expect("its end");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn every_kind_of_client_is_answered() {
    let server = Bare::start("hello", &[]);
    let mut clients = server
        .guests()
        .mixed(8)
        .arriving(500, Habit::default())
        .come();
    clients.until_all_see("v1").until_answered(500);
    let tally = clients.expect_no_failure();
    assert_eq!(tally.versions.keys().collect::<Vec<_>>(), ["v1"]);
    assert_eq!(tally.stale, 0);
}

#[test]
fn a_port_without_a_server_is_refused() {
    let mut server = Bare::start("hello", &[]);
    let clients = server.guests().arriving(200, Habit::default()).come();
    clients.until_answered(20);
    server.kill();
    clients.until_failed(Failure::Refused);
}

#[test]
fn an_answer_that_never_comes_is_a_failure() {
    let mut server = Bare::start("hello", &[]);
    let mut clients = server.guests().and(8, Habit::slow()).come();
    // Others are answered at once: the slow ones wait by then.
    server
        .guests()
        .and(1, Habit::default())
        .come()
        .until_answered(5);
    server.kill();
    let tally = clients.leave();
    assert!(
        tally.failed(Failure::Eof) + tally.failed(Failure::Reset) > 0,
        "{tally}"
    );
}

#[test]
fn a_reused_connection_that_ends_is_stale_and_no_failure() {
    let mut server = Bare::start("hello", &[]);
    let kept_and_slow = Habit {
        kept: true,
        ..Habit::slow()
    };
    let mut clients = server.guests().and(4, kept_and_slow).come();
    clients.until_answered(4);
    server
        .guests()
        .and(1, Habit::default())
        .come()
        .until_answered(5);
    server.kill();
    let tally = clients.leave();
    // Those that came anew while the server died have failed, and are counted apart.
    assert_eq!(tally.stale, 4, "{tally}");
}

fn fails(words: &str, failure: Failure) {
    let server = Bare::start("odd", &[words]);
    let mut clients = server.guests().and(1, Habit::default()).come();
    clients.until_failed(failure);
    assert_eq!(clients.leave().answers, 0);
}

#[test]
fn an_error_of_the_server_is_a_failure() {
    fails("status=503", Failure::ServerError);
}

#[test]
fn half_an_answer_is_a_failure() {
    fails("half", Failure::Truncated);
}

#[test]
fn the_way_is_as_long_as_it_says() {
    let network = match Network::with(Duration::from_millis(50), 0) {
        Ok(network) => network,
        Err(why) => return skipped("the_way_is_as_long_as_it_says", &why),
    };
    let server = Bare::start_at(FAR_AWAY, "hello", &[], network.to_the_site());
    let guests = server.guests().and(4, Habit::default());
    let mut clients = guests.come_through(network.to_the_clients());
    clients.until_answered(20);
    let slowest = clients.expect_no_failure().slowest;
    assert!(
        slowest >= Duration::from_millis(100),
        "there and back, twice: {slowest:?}"
    );
}
