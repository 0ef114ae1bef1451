//! What a captured server may have bound, who it may be, and where capturing does not work.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, iter, thread};

use nix::unistd::geteuid;

use super::{at, find, python, swap};
use crate::common::attempt::attempt;
use crate::common::crowd::Habit;
use crate::common::network::{FAR_AWAY, Network, namespace};
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{Raised, eventually, hotswap_program, server, skipped};
use crate::nonroot::as_nobody;

/// A port that only root may bind, and nobody has.
fn privileged_address() -> Option<SocketAddr> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (512..1024).rev().find(free).filter(|_| geteuid().is_root());
    port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
}

/// It has the address until it is gone, and hotswap cannot give it to the next.
#[test]
fn a_server_in_another_network_is_told_where_to_start_hotswap() {
    let network = match namespace() {
        Ok(network) => network,
        Err(why) => return skipped("a_server_in_another_network", &why),
    };
    let Some(enter) = find("nsenter") else {
        return;
    };
    let network = format!(
        "--net=/proc/{}/fd/{}",
        std::process::id(),
        network.as_raw_fd()
    );
    // one that binds at once: a candidate without a listener is ready when it has lived for 1s
    let hello = server("hello");
    let hello = hello.to_str().expect("a path");
    let site = at(free_address())
        .by_program(enter, &[&network, hello, "127.0.0.1:8080"])
        .starting("");
    let start_there = "try: ip netns exec NAME hotswap -- COMMAND";
    site.log
        .wait_for_all(&["binds 127.0.0.1:8080 in another network", start_there]);
    site.log.wait_for("generation 1 is serving");
    site.swap_in_vain();
    eventually("what to do, twice", || {
        (site.log.count(start_there) == 2).then_some(())
    });
    assert_eq!(site.log.count("does not listen on anything"), 0);
}

const AS_NOBODY: [&str; 4] = ["--user", "65534", "--group", "65534"];

fn is_swapped(plan: Plan) {
    let site = plan.serving("v1");
    let mut clients = site.clients(4);
    site.swaps(3);
    clients.until_all_see("v4");
    clients.expect_no_failure();
}

/// The group of sockets has one owner, whoever made them.
#[test]
fn a_server_of_another_user_is_captured() {
    if !geteuid().is_root() {
        return skipped("a_server_of_another_user_is_captured", "needs root");
    }
    let address = free_address();
    let plan = at(address)
        .with(&AS_NOBODY)
        .by_odd(&format!("at={address}"));
    is_swapped(plan);
}

#[test]
fn a_server_does_not_bind_by_us_what_it_could_not_bind() {
    let Some(address) = privileged_address() else {
        return skipped(
            "a_server_does_not_bind_by_us_what_it_could_not_bind",
            "needs root",
        );
    };
    let mut site = Site::at(Place::Nowhere)
        .with(&AS_NOBODY)
        .by_odd(&format!("at={address}"))
        .opening("v1");
    assert!(!site.end().success());
    site.log.wait_for("Permission denied");
    let hint = format!("try: --listen {address}");
    site.log.wait_for_all(&["cannot bind", &hint]);
}

/// An unmodified server without rights serves a port that hotswap has opened for it.
#[test]
fn a_listened_port_is_given_to_a_server_without_rights() {
    let Some(address) = privileged_address() else {
        return skipped(
            "a_listened_port_is_given_to_a_server_without_rights",
            "needs root",
        );
    };
    let everywhere = format!("at=0.0.0.0:{}", address.port());
    let script = format!(
        "#!/bin/sh\nunset LISTEN_FDS LISTEN_PID\nexec '{}' {everywhere}\n",
        server("odd").display()
    );
    let site = Site::at(Place::Given(Target::Tcp(address)))
        .with(&AS_NOBODY)
        .with(&["--listen", &address.to_string()])
        .by_script(&script, &[])
        .serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    swap(&site, 3);
    clients.until_answered(10);
    clients.expect_no_failure();
}

/// As in a container: hotswap makes the socket, and puts it in the place of the server's.
#[test]
fn a_server_whose_sockets_cannot_be_duplicated_is_captured() {
    let address = free_address();
    let confined = server("confined").display().to_string();
    let plan = at(address)
        .inside(&[&confined])
        .by_odd(&format!("at={address}"));
    is_swapped(plan);
}

/// Each of them binds its own socket of both families, as nginx with `reuseport` and many others do.
#[test]
fn workers_whose_sockets_cannot_be_duplicated_may_bind_one_each() {
    let address = free_address();
    let confined = server("confined").display().to_string();
    let script = format!(
        "
import os, socket, time
from http.server import HTTPServer, BaseHTTPRequestHandler
class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'hello')
    log_message = lambda *_: None
def listens(family, host):
    one = socket.socket(family)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((host, {port}))
    one.listen(50)
    return one
for _ in range(3):
    if os.fork() == 0:
        kept = listens(socket.AF_INET6, '::1')
        own = HTTPServer(('', 0), Hello, False)
        own.socket = listens(socket.AF_INET, '127.0.0.1')
        own.serve_forever()
os.wait()
os.killpg(0, 9)
",
        port = address.port()
    );
    let plan = at(address).inside(&[&confined]).with(&["--quiesce", "1s"]);
    let Some(plan) = python(plan, &script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(20);
    swap(&site, 2);
    clients.until_answered(20);
    clients.expect_no_failure();
    TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).expect("the other family");
    let said = site.log.timed();
    assert!(
        !said.contains("aborted") && !said.contains("not kept"),
        "{said}"
    );
}

/// A socket of hotswap's in its place is on that device alone as well.
#[test]
fn a_server_on_one_device_is_on_no_other_where_its_sockets_cannot_be_duplicated() {
    const NAME: &str =
        "a_server_on_one_device_is_on_no_other_where_its_sockets_cannot_be_duplicated";
    let network = match Network::with(Duration::ZERO, 0) {
        Ok(network) => network,
        Err(why) => return skipped(NAME, &why),
    };
    let confined = server("confined").display().to_string();
    let port = FAR_AWAY.port();
    let script = format!(
        "
import socket
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')
one.bind(('', {port}))
one.listen(50)
while True:
    client = one.accept()[0]
    client.recv(1000)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello')
    client.close()
"
    );
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let plan = at(here).inside(&[&confined]).through(network.to_the_site());
    let Some(plan) = python(plan, &script) else {
        return;
    };
    let site = plan.serving("");
    let guests = site.guests().and(2, Habit::default());
    let mut clients = guests.come_through(network.to_the_site());
    clients.until_answered(4);
    let is_over = AtomicBool::new(false);
    let from_outside = thread::scope(|scope| {
        let _over = Raised(&is_over);
        let (door, is_over) = (network.to_the_clients(), &is_over);
        let outside = scope.spawn(move || {
            door();
            let tries = iter::repeat_with(|| TcpStream::connect(FAR_AWAY).map(drop));
            let tries = tries.take_while(|_| !is_over.load(Ordering::Relaxed));
            tries
                .map(|tried| tried.map_err(|error| error.kind()))
                .collect::<Vec<_>>()
        });
        swap(&site, 2);
        clients.until_answered(4);
        is_over.store(true, Ordering::Relaxed);
        outside.join().expect("the clients outside")
    });
    clients.expect_no_failure();
    let refused = Err(ErrorKind::ConnectionRefused);
    assert!(from_outside.len() > 1, "nobody came");
    assert!(
        from_outside.iter().all(|tried| *tried == refused),
        "{from_outside:?}"
    );
}

/// Its path is relative, and its umask lets nobody in but itself.
#[test]
fn a_path_is_captured_where_no_thread_can_stand_in_for_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.sock");
    let confined = server("confined").display().to_string();
    let (odd, here) = (server("odd"), directory.path().display());
    let script = |version: &str| {
        let odd = odd.display();
        format!(
            "#!/bin/sh\ncd '{here}' || exit\numask 077\nVERSION={version} exec '{odd}' at=unix:own.sock\n"
        )
    };
    let site = Site::at(Place::Given(Target::Unix(path.clone())))
        .with(&["--capture", "always"])
        .inside(&[&confined])
        .by_script(&script("v1"), &[])
        .serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    for version in ["v2", "v3"] {
        site.publish_file(script(version).as_bytes(), 0o755).swap();
        clients.until_all_see(version);
    }
    clients.expect_no_failure();
    let mode = fs::metadata(&path)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// The outer one has the only seat in the front row: the inner one says so, and shares its sockets.
#[test]
fn a_hotswap_inside_another_shares_its_sockets() {
    let address = free_address();
    let hotswap = hotswap_program().display().to_string();
    let inner = ["--no-watch", "--listen", &address.to_string(), "--"].map(str::to_owned);
    let mut arguments: Vec<String> = inner.to_vec();
    arguments.push(server("hello").display().to_string());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let site = at(address)
        .by_program(hotswap.into(), &arguments)
        .serving("");
    site.log
        .wait_for("cannot capture what the server binds: another hotswap");
    site.log.wait_for("and all generations share them");
    let mut clients = site.clients(4);
    swap(&site, 2);
    clients.until_answered(10);
    clients.expect_no_failure();
}

#[test]
fn where_capture_is_a_must_it_must_be_possible() {
    let hotswap = hotswap_program().display().to_string();
    let inner = ["--", &hotswap, "--capture", "always", "--", "true"];
    let attempt = attempt(&inner);
    let (status, said) = (attempt.status, &attempt.said);
    assert_eq!(status, Some(125), "{said}");
    for line in [
        "cannot capture what the server binds: another hotswap",
        "try: --capture auto",
    ] {
        assert!(said.contains(line), "no {line:?} in {said}");
    }
}

/// Without root, capture costs a server what its file may do.
#[test]
fn a_server_with_file_capabilities_is_told_why_it_may_not_bind() {
    const NAME: &str = "a_server_with_file_capabilities_is_told_why_it_may_not_bind";
    let Some(address) = privileged_address() else {
        return skipped(NAME, "needs root");
    };
    let Some(plan) = as_nobody(NAME, Place::Nowhere) else {
        return;
    };
    let program = plan.dir().join("capable");
    fs::copy(server("odd"), &program).expect("a copy");
    let granted = Command::new("setcap")
        .arg("cap_net_bind_service=+ep")
        .arg(&program)
        .status();
    if !granted.is_ok_and(|status| status.success()) {
        return skipped(NAME, "needs setcap(8)");
    }
    let plan = plan.by_program(program, &[&format!("at={address}")]);
    let mut site = plan.opening("v1");
    assert!(!site.end().success());
    site.log.wait_for("try: --capture never");
}
