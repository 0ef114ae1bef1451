//! Servers that first ask whether somebody answers at their address, and end if so.

use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::{Signal, kill};

use super::{at, python};
use crate::common::place::free_address;
use crate::common::plan::Plan;

/// As CherryPy does, and start scripts that look whether the server runs already.
fn asks_first(address: SocketAddr) -> Option<Plan> {
    let (host, port) = (address.ip(), address.port());
    python(
        at(address),
        &format!(
            "import socket, sys, http.server\n\
             try:\n    \
                 socket.create_connection(('{host}', {port}), 3).close()\n    \
                 sys.exit('it runs already')\n\
             except OSError:\n    \
                 pass\n\
             http.server.ThreadingHTTPServer(('{host}', {port}), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
        ),
    )
}

#[test]
fn an_abort_says_that_the_address_answered() {
    let address = free_address();
    let Some(plan) = asks_first(address) else {
        return;
    };
    let site = plan.serving("");
    site.swap_in_vain();
    site.log.wait_for(&format!("try: --listen {address}"));
    let mut clients = site.clients(2);
    clients.until_answered(4);
    clients.expect_no_failure();
}

#[test]
fn after_a_crash_it_comes_back_at_the_third_try() {
    let address = free_address();
    let Some(plan) = asks_first(address) else {
        return;
    };
    let site = plan.serving("");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 4 is serving");
    let said = format!("2 restarts in a row did not bind {address}");
    assert_eq!(site.log.count(&said), 1, "{}", site.log.timed());
    let mut clients = site.clients(2);
    clients.until_answered(4);
    clients.expect_no_failure();
}

/// The third try fails for another reason, and the fourth is slow: clients reach it, or it is not serving.
#[test]
fn after_a_crash_a_later_try_has_to_listen_as_well() {
    let address = free_address();
    let (host, port) = (address.ip(), address.port());
    let Some(plan) = python(
        at(address),
        &format!(
            "import os, socket, sys, time, http.server\n\
             generation = int(os.environ['HOTSWAP_GENERATION'])\n\
             if socket.socket().connect_ex(('{host}', {port})) == 0 or generation == 4:\n    \
                 sys.exit('no')\n\
             if generation == 5: time.sleep(3)\n\
             http.server.HTTPServer(('{host}', {port}), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 5 is serving");
    let client = TcpStream::connect(address);
    assert!(client.is_ok(), "{client:?}: {}", site.log.timed());
    assert_eq!(
        site.log.count("restarts in a row"),
        1,
        "{}",
        site.log.timed()
    );
}

/// Other clients of this host ask there all the time.
#[test]
fn an_end_for_another_reason_is_not_put_down_to_it() {
    let address = free_address();
    let Some(plan) = python(
        at(address),
        &format!(
            "import os, sys, http.server\n\
             if os.environ['HOTSWAP_GENERATION'] != '1': sys.exit('no')\n\
             http.server.HTTPServer(('127.0.0.1', {}), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
            address.port()
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(4);
    clients.until_answered(40);
    site.swap_in_vain();
    assert_eq!(site.log.count("--listen"), 0, "{}", site.log.timed());
    clients.expect_no_failure();
}

/// As `serve` of npm does.
#[test]
fn a_candidate_that_takes_another_port_instead_is_told_how_to_get_its_own() {
    let (address, other) = (free_address(), free_address());
    let (port, instead) = (address.port(), other.port());
    let Some(plan) = python(
        at(address).with(&["--ready-timeout", "12s"]),
        &format!(
            "import socket, http.server\n\
             port = {instead} if socket.socket().connect_ex(('127.0.0.1', {port})) == 0 else {port}\n\
             http.server.HTTPServer(('127.0.0.1', port), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    site.swap_in_vain();
    site.log.wait_for(&format!(
        "try: --listen {address}, if it took {other} because"
    ));
}

/// As `serve` of npm does most of the time.
#[test]
fn a_candidate_that_takes_any_port_instead_is_told_how_to_get_its_own() {
    let address = free_address();
    let port = address.port();
    let Some(plan) = python(
        at(address).with(&["--ready-timeout", "12s"]),
        &format!(
            "import socket, http.server\n\
             port = 0 if socket.socket().connect_ex(('127.0.0.1', {port})) == 0 else {port}\n\
             http.server.HTTPServer(('127.0.0.1', port), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    let verdict = site.swap_in_vain();
    assert!(verdict.ends_with("generation 1 keeps serving"), "{verdict}");
    site.log
        .wait_for("try: the server's option to fail if its port is in use");
}

/// An admin port, opened for the first client: no client asks a candidate.
#[test]
fn an_address_that_only_one_that_serves_opens_may_be_optional() {
    let (address, admin) = (free_address(), free_address());
    let Some(plan) = python(
        at(address).with(&["--ready-timeout", "12s"]),
        &format!(
            "import http.server\n\
             class Handler(http.server.SimpleHTTPRequestHandler):\n    \
                 admin = None\n    \
                 def do_GET(self):\n        \
                     Handler.admin = Handler.admin or http.server.HTTPServer(('127.0.0.1', {}), Handler)\n        \
                     super().do_GET()\n\
             http.server.HTTPServer(('127.0.0.1', {}), Handler).serve_forever()\n",
            admin.port(),
            address.port()
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(2);
    clients.until_answered(4);
    site.log.wait_for(&format!("listening on {admin}"));
    site.swap_in_vain();
    site.log.wait_for(&format!(
        "try: hotswap swap --without {admin}, or --optional {admin}, if it opens that only once it serves"
    ));
    clients.expect_no_failure();
}

/// The one before it has the port, and UDP is not captured.
#[test]
fn a_udp_port_that_is_in_use_is_explained() {
    let address = free_address();
    let Some(plan) = python(
        at(address),
        &format!(
            "import socket, http.server\n\
             socket.socket(type=socket.SOCK_DGRAM).bind(('127.0.0.1', {port}))\n\
             udp = socket.socket(type=socket.SOCK_DGRAM)\n\
             udp.bind(('127.0.0.1', {port}))\n\
             http.server.HTTPServer(('127.0.0.1', {port}), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
            port = address.port()
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    site.swap_in_vain();
    site.log.wait_for(&format!("try: --listen udp:{address}"));
}

/// Both generations bind the one that is left to them, and the other is kept over the swap as ever.
#[test]
fn an_address_may_be_left_to_the_server() {
    let (address, left) = (free_address(), free_address());
    let Some(plan) = python(
        at(address).with(&["--capture-not", &left.port().to_string()]),
        &format!(
            "import socket, http.server\n\
             left = socket.socket()\n\
             left.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
             left.bind(('127.0.0.1', {}))\n\
             left.listen()\n\
             http.server.ThreadingHTTPServer(('127.0.0.1', {}), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
            left.port(),
            address.port()
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(2);
    site.swap();
    clients.until_answered(4);
    clients.expect_no_failure();
    let listening = site.log.count("hotswap: listening on ");
    assert_eq!(listening, 1, "{}", site.log.timed());
}

#[test]
fn a_path_that_is_left_to_the_server_may_be_relative() {
    let address = free_address();
    let plan = at(address);
    let dir = plan.dir().to_str().expect("text").to_owned();
    let plan = plan
        .inside(&["sh", "-c", "cd \"$0\" && exec \"$@\"", &dir])
        .with(&["--capture-not", "./*.sock"]);
    let Some(plan) = python(
        plan,
        &format!(
            "import socket, http.server\n\
             left = socket.socket(socket.AF_UNIX)\n\
             left.bind('{dir}/left.sock')\n\
             left.listen()\n\
             http.server.ThreadingHTTPServer(('127.0.0.1', {}), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
            address.port()
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    // the name is in use, as it would be for the bare server
    site.swap_in_vain();
    let listening = site.log.lines("hotswap: listening on ");
    assert!(
        listening.iter().all(|line| !line.contains("left.sock")),
        "{listening:?}"
    );
    assert!(
        site.log.says("Address already in use"),
        "{}",
        site.log.timed()
    );
}

/// As active FTP does, and proxies that have a source port.
#[test]
fn a_server_may_connect_from_one_port_to_many() {
    let (address, source) = (free_address(), free_address());
    let peers = [free_address(), free_address()].map(|peer| peer.port());
    let Some(plan) = python(
        at(address),
        &format!(
            "import socket, http.server\n\
             peers, clients = [], []\n\
             for port in {peers:?}:\n    \
                 peer = socket.create_server(('127.0.0.1', port))\n    \
                 client = socket.socket()\n    \
                 client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n    \
                 client.bind(('127.0.0.1', {}))\n    \
                 client.connect(('127.0.0.1', port))\n    \
                 peers.append(peer); clients.append(client)\n\
             http.server.HTTPServer(('127.0.0.1', {}), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
            source.port(),
            address.port()
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(2);
    clients.until_answered(4);
    clients.expect_no_failure();
}

/// The fifth is slow: clients reach it, or it is not serving.
#[test]
fn under_stop_first_an_upgrade_does_not_forget_that_it_asks_first() {
    let address = free_address();
    let (host, port) = (address.ip(), address.port());
    let Some(plan) = python(
        at(address),
        &format!(
            "import os, socket, sys, time, http.server\n\
             if socket.socket().connect_ex(('{host}', {port})) == 0: sys.exit('it runs already')\n\
             if os.environ['HOTSWAP_GENERATION'] == '5': time.sleep(3)\n\
             http.server.ThreadingHTTPServer(('{host}', {port}), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
        ),
    ) else {
        return;
    };
    let site = plan.with(&["--order", "stop-first"]).serving("");
    site.swap_in_vain();
    site.log.wait_for("generation 4 is serving");
    site.signal(Signal::SIGUSR2).log.wait_for("upgraded to");
    site.swap();
    let mut clients = site.clients(2);
    clients.until_answered(4);
    clients.expect_no_failure();
}

/// As MariaDB does at its unix path, once it has bound its port.
#[test]
fn under_stop_first_one_that_asks_at_its_path_alone_is_swapped_from_the_second_try_on() {
    let address = free_address();
    let (host, port) = (address.ip(), address.port());
    let plan = at(address).with(&["--order", "stop-first"]);
    let path = plan.dir().join("asked");
    let path = path.display();
    let Some(plan) = python(
        plan,
        &format!(
            "import os, socket, sys, threading, http.server\n\
             server = http.server.ThreadingHTTPServer(('{host}', {port}), http.server.SimpleHTTPRequestHandler)\n\
             if socket.socket(socket.AF_UNIX).connect_ex('{path}') == 0: sys.exit('it runs already')\n\
             if os.path.exists('{path}'): os.unlink('{path}')\n\
             unix = socket.socket(socket.AF_UNIX)\n\
             unix.bind('{path}')\n\
             unix.listen(5)\n\
             def accept():\n    \
                 while True: unix.accept()[0].close()\n\
             threading.Thread(target=accept, daemon=True).start()\n\
             server.serve_forever()\n"
        ),
    ) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(2);
    site.swap();
    site.log.wait_for(&format!("listening on {path}"));
    site.swap_in_vain();
    site.log
        .wait_for(&format!("2 restarts in a row did not bind {path}: "));
    site.log.wait_for("generation 5 is serving");
    site.swap();
    clients.until_answered(4);
    clients.expect_no_failure();
}
