//! Sockets between the processes of one generation are no listeners of hotswap's.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use super::{find, free_address, swap};
use crate::common::crowd::Habit;
use crate::common::eventually;
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::site::Site;

/// A server in Python with `listen(PATH)`, which lasts as long as the server, and `serve()`, which answers at its port.
const SERVER: &str = "
import http.server, os, socket, sys, tempfile, time
port, directory = int(sys.argv[1]), sys.argv[2]
kept = []

def listen(path):
    if os.path.exists(path):
        os.unlink(path)
    one = socket.socket(socket.AF_UNIX)
    one.bind(path)
    one.listen(5)
    kept.append(one)
    return one

def at_port():
    return http.server.ThreadingHTTPServer(('127.0.0.1', port), http.server.SimpleHTTPRequestHandler)

def serve():
    at_port().serve_forever()
";

/// Under capture, by a script that knows its port and its directory.
fn plan(target: Target, address: SocketAddr, directory: &Path, script: &str) -> Option<Plan> {
    let python = find("python3")?;
    let (port, directory) = (address.port().to_string(), directory.to_str()?);
    let plan = Site::at(Place::Given(target)).with(&["--capture", "always", "--no-watch"]);
    Some(plan.by_program(python, &["-c", script, &port, directory]))
}

pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

/// Starts and swaps at its port, and nobody speaks of the path.
fn is_left_alone(script: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let address = free_address();
    let script = format!("{SERVER}\n{script}");
    let Some(plan) = plan(Target::Tcp(address), address, directory.path(), &script) else {
        return;
    };
    let site = plan.serving("");
    site.log.wait_for("listening on 127.0.0.1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    swap(&site, 3);
    clients.until_answered(8);
    clients.expect_no_failure();
    let said = site.log.timed();
    for words in [
        "does not accept on /",
        "listening on /",
        "listening on unix:",
    ] {
        assert!(!said.contains(words), "{said}");
    }
    let names = names_in(directory.path());
    assert!(
        !names.iter().any(|name| name.contains("hotswap")),
        "{names:?}"
    );
}

/// tsx, .NET and the JVM.
#[test]
fn a_path_that_names_a_process_is_no_listener() {
    is_left_alone("listen(f'{directory}/{os.getpid()}.pipe')\ntime.sleep(1)\nserve()");
}

/// The managers of Python's multiprocessing, sanic and pm2-runtime.
#[test]
fn a_path_that_is_another_for_each_generation_is_no_listener() {
    is_left_alone(
        "import threading\nthreading.Timer(0.3, lambda: listen(tempfile.mktemp(dir=directory))).start()\nserve()",
    );
}

/// The managers of Python 3.9, and D-Bus.
#[test]
fn an_abstract_name_that_is_another_for_each_generation_is_no_listener() {
    is_left_alone(
        "listen(f'\\0listener-{os.getpid()}-0')\nlisten('\\0' + tempfile.mktemp(dir=directory))\nserve()",
    );
}

#[test]
fn a_path_that_two_generations_bind_is_a_listener_beside_a_port() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.sock");
    let address = free_address();
    let script = format!(
        "{SERVER}
import threading
def answer(one):
    while True:
        client = one.accept()[0]
        client.recv(1000)
        client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello')
        client.close()
own = at_port()
threading.Thread(target=answer, args=(listen(f'{{directory}}/own.sock'),), daemon=True).start()
own.serve_forever()"
    );
    let Some(plan) = plan(Target::Unix(path), address, directory.path(), &script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    swap(&site, 3);
    clients.until_answered(8);
    clients.expect_no_failure();
}

/// Its bind(2) looks like one of netlink, which is not stopped.
#[test]
fn a_path_of_nine_bytes_is_a_listener() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("http.sock");
    let script = format!(
        "{SERVER}
os.chdir(directory)
own = listen('http.sock')
while True:
    client = own.accept()[0]
    client.recv(1000)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello')
    client.close()"
    );
    let target = Target::Unix(path);
    let Some(plan) = plan(target, free_address(), directory.path(), &script) else {
        return;
    };
    let site = plan.serving("");
    assert!(site.log.says("http.sock"), "{}", site.log.timed());
    let mut clients = site.guests().and(4, Habit::default()).come();
    swap(&site, 3);
    clients.until_answered(8);
    clients.expect_no_failure();
}

/// As pm2-runtime, which waits for an answer from the one before.
#[test]
fn a_private_path_of_a_dead_generation_answers_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = free_address();
    let script = format!(
        "{SERVER}
path = f'{{directory}}/own.sock'
try:
    before = socket.socket(socket.AF_UNIX)
    before.connect(path)
    before.recv(1)
except OSError:
    pass
listen(path)
serve()"
    );
    let Some(plan) = plan(Target::Tcp(address), address, directory.path(), &script) else {
        return;
    };
    let site = plan.with(&["--ready-timeout", "20s"]).serving("");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    let outcome = site
        .log
        .wait_after(0, &["generation 2 is serving", "generation 2 aborted"]);
    assert!(outcome.contains("is serving"), "{outcome}");
}

/// By the time it does so, the one before it is gone.
#[test]
fn a_path_that_each_generation_binds_late_is_a_listener_from_the_second_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.sock");
    let address = free_address();
    let script = format!(
        "{SERVER}
import threading
threading.Thread(target=serve, daemon=True).start()
time.sleep(0.7)
one = listen(f'{{directory}}/own.sock')
while True:
    client = one.accept()[0]
    client.recv(1000)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello')
    client.close()"
    );
    let Some(plan) = plan(
        Target::Unix(path.clone()),
        address,
        directory.path(),
        &script,
    ) else {
        return;
    };
    let site = plan.serving("");
    let mut first = eventually("the first path", || UnixStream::connect(&path).ok());
    first.write_all(b"x").expect("it reads");
    io::copy(&mut first, &mut io::sink()).expect("an answer");
    swap(&site, 1);
    site.log
        .wait_for(&format!("listening on {}", path.display()));
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    site.swap().wait_until_gone(2);
    clients.until_answered(8);
    clients.expect_no_failure();
}

/// As PostgreSQL does: it sets the mode of what it has bound.
#[test]
fn a_private_path_is_there_once_it_is_bound_under_stop_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = free_address();
    let script = format!(
        "{SERVER}
import signal
path = f'{{directory}}/own.sock'
def end(*_):
    os.unlink(path)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
listen(path)
os.chmod(path, 0o777)
serve()"
    );
    let Some(plan) = plan(Target::Tcp(address), address, directory.path(), &script) else {
        return;
    };
    let site = plan.with(&["--order", "stop-first"]).serving("");
    swap(&site, 3);
    assert!(!site.log.says("aborted"));
}

/// As the control sockets of two gunicorns of one user: each takes the path from the other, as without hotswap.
#[test]
fn two_hotswaps_may_have_servers_that_bind_one_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = format!("{SERVER}\nlisten(f'{{directory}}/control.sock')\nserve()");
    let site = || {
        let address = free_address();
        let plan = plan(Target::Tcp(address), address, directory.path(), &script)?;
        Some(plan.with(&["--ready-timeout", "20s"]).serving(""))
    };
    let (Some(one), Some(other)) = (site(), site()) else {
        return;
    };
    for generation in 1..=3 {
        for site in [&one, &other] {
            site.swap();
            site.wait_until_gone(generation);
        }
    }
}
