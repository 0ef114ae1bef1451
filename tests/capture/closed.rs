//! What a server has closed is closed: nothing of hotswap's is in its way, and no client waits there.

use std::net::{SocketAddr, TcpStream};

use super::{at, find, free_address, swap};
use crate::common::crowd::Habit;
use crate::common::plan::Plan;
use crate::common::{alone, eventually};

/// A server in Python that does this before it listens on `port` of 127.0.0.1. `listen(HOST)` makes a socket as most do.
const SERVER: &str = r"
import http.server, os, socket, sys, threading
port = int(sys.argv[1])

def listen(host, backlog=128):
    one = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((host, port))
    one.listen(backlog)
    return one

def serve(one):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler, False)
    server.socket.close()
    server.socket = one
    server.serve_forever()
";

fn python(address: SocketAddr, script: &str) -> Option<Plan> {
    let python = find("python3")?;
    let script = format!("{SERVER}\n{script}");
    let port = address.port().to_string();
    Some(at(address).by_program(python, &["-c", &script, &port]))
}

/// What it binds first, and closes again, it has closed.
fn starts_and_swaps_having_tried(script: &str) {
    let address = free_address();
    let script = format!("{script}\nserve(listen('127.0.0.1'))");
    let Some(plan) = python(address, &script) else {
        return;
    };
    let _alone = alone();
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    swap(&site, 3);
    clients.until_answered(8);
    clients.expect_no_failure();
    for line in ["changed", "listening on 0.0.0.0", "listening on [::]"] {
        assert_eq!(site.log.count(line), 0, "{}", site.log.timed());
    }
}

/// Vite, get-port and serve listen on the wildcards, to see whether somebody has the port.
#[test]
fn a_port_may_be_tried_out_on_the_wildcards() {
    starts_and_swaps_having_tried("listen('0.0.0.0').close()\nlisten('::').close()");
}

/// detect-port and portfinder walk through all addresses of the machine.
#[test]
fn a_port_may_be_tried_out_on_every_address() {
    starts_and_swaps_having_tried(
        "for host in ['::', '0.0.0.0', '127.0.0.1', '::1']:\n    listen(host).close()",
    );
}

/// Some only bind it.
#[test]
fn a_port_may_be_tried_out_without_listening() {
    starts_and_swaps_having_tried(
        "for host in ['0.0.0.0', '127.0.0.1']:\n    one = socket.socket()\n    one.bind((host, port))\n    one.close()",
    );
}

/// As soon as a client asks for it.
#[test]
fn a_server_that_serves_one_address_may_come_to_serve_all() {
    let address = free_address();
    let script = "\
one = listen('127.0.0.1')
client = one.accept()[0]
client.recv(100)
one.close()
one = listen('0.0.0.0')
client.close()
serve(one)";
    let Some(plan) = python(address, script) else {
        return;
    };
    let site = plan.opening("");
    site.log.wait_for("generation 1 is serving");
    let mut client = TcpStream::connect(address).expect("it listens");
    std::io::Write::write_all(&mut client, b"move").expect("it reads");
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
    eventually("a server at another address", || {
        TcpStream::connect(elsewhere).ok()
    });
    site.log
        .wait_for(&format!("listening on 0.0.0.0:{}", address.port()));
    assert_eq!(site.log.count("generation 2"), 0, "{}", site.log.timed());
}
