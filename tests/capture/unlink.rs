//! What a captured server removes is removed, and no call of it fails that would not fail without hotswap.

use super::private::names_in;
use super::{at, find, free_address, swap};
use crate::common::crowd::Habit;
use crate::common::place::{Place, Target};
use crate::common::site::Site;
use crate::common::{alone, server};

/// A server in Python whose children end all the time, of which a signal without SA_RESTART tells it. Each request makes
/// and removes a file and a directory; what goes wrong there is answered with 500.
const INTERRUPTED: &str = "
import http.server, os, signal, socketserver, subprocess, sys, tempfile, threading, time
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.siginterrupt(signal.SIGCHLD, True)
# the calls themselves: Python would try them again
import ctypes
libc = ctypes.CDLL(None, use_errno=True)

def removes():
    handle, path = tempfile.mkstemp()
    os.close(handle)
    directory = tempfile.mkdtemp()
    failed = libc.unlink(path.encode()) or libc.rmdir(directory.encode())
    return not failed

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if all(removes() for _ in range(10)) else 500)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'hello')
    def log_message(self, *_):
        pass

def interrupt():
    while True:
        os.kill(os.getpid(), signal.SIGCHLD)
        time.sleep(0.001)

# bind and listen are stopped, and may be interrupted: see Limits
server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
threading.Thread(target=interrupt, daemon=True).start()
server.serve_forever()
";

#[test]
fn no_request_fails_because_a_signal_meets_an_unlink() {
    let Some(python) = find("python3") else {
        return;
    };
    let _alone = alone();
    let address = free_address();
    let port = address.port().to_string();
    let site = at(address)
        .by_program(python, &["-c", INTERRUPTED, &port])
        .serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(300);
    clients.expect_no_failure();
}

/// The first generation, which could not know that clients come by its path, unlinks that when it is told to end.
#[test]
fn a_path_that_the_old_generation_unlinks_is_put_back() {
    let Some(python) = find("python3") else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.sock");
    let script = "
import os, signal, socket, sys, time
path = sys.argv[1]
if os.path.exists(path):
    os.unlink(path)
one = socket.socket(socket.AF_UNIX)
one.bind(path)
one.listen(100)
def end(*_):
    os.unlink(path)
    time.sleep(1)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    client = one.accept()[0]
    client.recv(1000)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello')
    client.close()
";
    let plan = Site::at(Place::Given(Target::Unix(path.clone())));
    let given = path.display().to_string();
    let site = plan
        .with(&["--capture", "always"])
        .by_program(python, &["-c", script, &given])
        .serving("");
    site.swap();
    site.wait_until_gone(1);
    let mut clients = site.guests().and(2, Habit::default()).come();
    clients.until_answered(4);
    swap_again(&site);
    clients.until_answered(4);
    clients.expect_no_failure();
    assert!(names_in(directory.path()).contains(&"own.sock".to_owned()));
}

fn swap_again(site: &Site) {
    site.swap();
    site.wait_until_gone(2);
}

/// As a shell would, and execvp(3) does.
#[test]
fn a_script_that_names_no_interpreter_is_run_by_the_shell() {
    let address = free_address();
    let script = format!("exec '{}' at={address}\n", server("odd").display());
    let site = at(address).by_script(&script, &[]).serving("");
    let mut clients = site.clients(2);
    swap(&site, 1);
    clients.expect_no_failure();
}
