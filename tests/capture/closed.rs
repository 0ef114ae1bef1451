//! What a server has closed is closed: nothing of hotswap's is in its way, and no client waits there.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use super::{at, find, free_address, swap};
use crate::common::crowd::Habit;
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{alone, eventually};

/// A server in Python that does this before it listens on `port` of 127.0.0.1. `listen(HOST)` makes a socket as most do.
const SERVER: &str = r"
import http.server, os, socket, sys, threading, time
port = int(sys.argv[1])

def listen(host, backlog=128):
    one = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == '::':
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind((host, port))
    one.listen(backlog)
    return one

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.wfile.write(b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok')
    def log_message(self, *_):
        pass

def serve(one):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer, False)
    server.socket.close()
    server.socket = one
    server.serve_forever()
";

pub fn python(plan: Plan, address: SocketAddr, script: &str) -> Option<Plan> {
    // that of the system, which other users may run, too
    let system = Path::new("/usr/bin/python3");
    let python = (system.exists().then(|| system.into())).or_else(|| find("python3"))?;
    let script = format!("{SERVER}\n{script}");
    let port = address.port().to_string();
    Some(plan.by_program(python, &["-c", &script, &port]))
}

/// From the second generation on it tries its port out on these hosts, and takes its time before it listens.
fn tries_its_port_out(plan: Plan, address: SocketAddr, hosts: &str) -> Option<Plan> {
    let script = format!(
        "\
if os.environ['HOTSWAP_GENERATION'] != '1':
    for host in {hosts}:
        listen(host).close()
    time.sleep(1.5)
serve(listen('127.0.0.1'))"
    );
    python(plan, address, &script)
}

/// As get-port-please and detect-port do.
const HOSTS: &str = "['127.0.0.1', '0.0.0.0', '::', '127.0.0.1']";

#[test]
fn clients_wait_for_a_restart_that_tries_its_port_out() {
    let address = free_address();
    let Some(plan) = tries_its_port_out(at(address), address, HOSTS) else {
        return;
    };
    let site = plan.serving("");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 1 is dead");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    clients.expect_no_failure();
}

#[test]
fn under_stop_first_clients_wait_for_a_new_version_that_tries_its_port_out() {
    let address = free_address();
    let plan = at(address).with(&["--order", "stop-first"]);
    let Some(plan) = tries_its_port_out(plan, address, HOSTS) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    site.swap();
    clients.until_answered(8);
    clients.expect_no_failure();
}

/// What it binds first, and closes again, it has closed.
fn starts_and_swaps_having_tried(script: &str) {
    let address = free_address();
    let script = format!("{script}\nserve(listen('127.0.0.1'))");
    let Some(plan) = python(at(address), address, &script) else {
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
        assert_eq!(site.log.count(line), 0);
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
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let site = plan.opening("");
    site.log.wait_for("generation 1 is serving");
    let mut client = TcpStream::connect(address).expect("it listens");
    client.write_all(b"move").expect("it reads");
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
    eventually("a server at another address", || {
        TcpStream::connect(elsewhere).ok()
    });
    site.log
        .wait_for(&format!("listening on 0.0.0.0:{}", address.port()));
    assert_eq!(site.log.count("generation 2"), 0);
}

/// A server that has one more listener, until it is asked to close it.
const CLOSES: &str = "\
def close():
    client = other.accept()[0]
    client.recv(100)
    other.close()
    client.close()

own = listen('127.0.0.1')
if os.environ['HOTSWAP_GENERATION'] == '1':
    other = open()
    threading.Thread(target=close).start()
serve(own)";

/// The client asks for it, and knows when it is done.
fn ask_to_close(mut client: impl io::Read + Write) {
    client.write_all(b"close").expect("it reads");
    let end = client.read(&mut [0; 1]).expect("its end");
    assert_eq!(end, 0, "it has closed the listener");
}

/// The first clients after that may still be let in, to be cut off.
fn until_refused<T>(connect: impl Fn() -> io::Result<T>) {
    let refused = [ErrorKind::ConnectionRefused, ErrorKind::NotFound];
    let is_refused = || connect().is_err_and(|error| refused.contains(&error.kind()));
    eventually("a refusal", || is_refused().then_some(()));
}

/// Its other clients notice nothing, and neither does the next version.
fn expect_the_rest_served(site: &Site, address: SocketAddr) {
    // it may serve before it listens there, too
    site.log.wait_for(&format!("listening on {address}"));
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    swap(site, 1);
    clients.until_answered(8);
    clients.expect_no_failure();
}

#[test]
fn a_port_that_is_closed_at_run_time_is_refused_and_free() {
    let (address, other) = (free_address(), free_address());
    let port = other.port();
    let script = format!("open = lambda: socket.create_server(('127.0.0.1', {port}))\n{CLOSES}");
    let Some(plan) = python(at(address), address, &script) else {
        return;
    };
    let site = plan.serving("");
    site.log.wait_for(&format!("listening on {other}"));
    ask_to_close(TcpStream::connect(other).expect("it listens"));
    until_refused(|| TcpStream::connect(other));
    drop(TcpListener::bind(other).expect("another program may have it"));
    expect_the_rest_served(&site, address);
}

#[test]
fn a_path_that_is_closed_at_run_time_is_refused() {
    let address = free_address();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let script =
        format!("open = lambda: socket.create_server({path:?}, family=socket.AF_UNIX)\n{CLOSES}");
    let Some(plan) = python(at(address), address, &script) else {
        return;
    };
    let site = plan.serving("");
    let client = eventually("a socket", || UnixStream::connect(&path).ok());
    ask_to_close(client);
    until_refused(|| UnixStream::connect(&path));
    expect_the_rest_served(&site, address);
}

/// Threads wait in accept(2), which they leave when the main thread shuts the listener down.
const WITH_THREADS: &str = "\
import queue
came = queue.Queue()
def accept(one):
    try:
        while True:
            came.put(one.accept()[0])
    except OSError:
        pass

def end(one):
    one.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    one.close()

one = listen('127.0.0.1')
threads = [threading.Thread(target=accept, args=[one]) for _ in range(16)]
for thread in threads:
    thread.start()
";

#[test]
fn a_server_may_shut_its_listener_down_and_bind_another() {
    let address = free_address();
    let script = format!(
        "{WITH_THREADS}
client = came.get()
client.recv(100)
end(one)
one = listen('0.0.0.0')
client.close()
serve(one)"
    );
    let Some(plan) = python(at(address), address, &script) else {
        return;
    };
    let site = plan.opening("");
    site.log.wait_for("generation 1 is serving");
    ask_to_close(TcpStream::connect(address).expect("it listens"));
    site.log
        .wait_for(&format!("listening on 0.0.0.0:{}", address.port()));
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    clients.expect_no_failure();
    assert_eq!(site.log.count("generation 2"), 0);
}

/// As servers with threads do when they are told to stop.
#[test]
fn threads_end_when_their_server_shuts_its_listener_down() {
    for flags in [&[][..], &["--share"]] {
        let address = free_address();
        let script = format!(
            "import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
{WITH_THREADS}
signal.sigwait([signal.SIGTERM])
end(one)"
        );
        let Some(plan) = python(at(address).with(flags), address, &script) else {
            return;
        };
        let mut site = plan.opening("");
        site.log.wait_for("generation 1 is serving");
        kill(site.pid(1), Signal::SIGTERM).expect("a signal to the server");
        site.log.wait_for("generation 1 is dead");
        assert!(site.end().success());
    }
}

/// A parent that may bind passes its listener to a worker, and closes its own copy at once.
#[test]
fn a_listener_may_be_on_its_way_to_another_process() {
    let address = free_address();
    let script = "\
ours, its = socket.socketpair()
if os.fork() == 0:
    ours.close()
    time.sleep(0.4)
    passed = socket.recv_fds(its, 10, 1)[1]
    serve(socket.socket(fileno=passed[0]))
its.close()
one = listen('127.0.0.1')
socket.send_fds(ours, [b'x'], [one.fileno()])
one.close()
os.wait()";
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let site = plan.opening("");
    site.log.wait_for(&format!("listening on {address}"));
    site.log.wait_for("generation 1 is serving");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    swap(&site, 1);
    clients.until_answered(8);
    clients.expect_no_failure();
}
