//! Servers that first ask whether somebody answers at their address, and end if so.

use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::{Signal, kill};

use super::{at, find};
use crate::common::place::free_address;
use crate::common::plan::Plan;
use crate::common::site::Site;

/// What each of these servers can do.
const WORDS: &str = "
import http.server, os, socket, sys, threading, time
host, port, generation = sys.argv[1], int(sys.argv[2]), int(os.environ['HOTSWAP_GENERATION'])
class Handler(http.server.SimpleHTTPRequestHandler): pass
def is_answered(): return socket.socket().connect_ex((host, port)) == 0
def serve(port=port, kind=http.server.ThreadingHTTPServer): kind((host, port), Handler).serve_forever()
";
/// As CherryPy does, and start scripts that look whether the server runs already.
const ASKS_FIRST: &str = "
if is_answered(): sys.exit('it runs already')
serve()
";

/// A site of a server in Python, if that is installed.
fn serving(plan: Plan, address: SocketAddr, code: &str) -> Option<Site> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let code = format!("{WORDS}{code}");
    let plan = plan.by_program(find("python3")?, &["-c", &code, &host, &port]);
    Some(plan.serving(""))
}

fn expect_answers(site: &Site) {
    let mut clients = site.clients(2);
    clients.until_answered(4);
    clients.expect_no_failure();
}

#[test]
fn an_abort_says_that_the_address_answered() {
    let address = free_address();
    let Some(site) = serving(at(address), address, ASKS_FIRST) else {
        return;
    };
    site.swap_in_vain();
    site.log.wait_for(&format!("try: --listen {address}"));
    expect_answers(&site);
}

#[test]
fn after_a_crash_it_comes_back_at_the_third_try() {
    let address = free_address();
    let Some(site) = serving(at(address), address, ASKS_FIRST) else {
        return;
    };
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 4 is serving");
    let said = format!("2 restarts in a row did not bind {address}");
    assert_eq!(site.log.count(&said), 1);
    expect_answers(&site);
}

/// The third try fails for another reason, and the fourth is slow: clients reach it, or it is not serving.
#[test]
fn after_a_crash_a_later_try_has_to_listen_as_well() {
    let address = free_address();
    let code = "
if is_answered() or generation == 4: sys.exit('no')
if generation == 5: time.sleep(3)
serve()
";
    let Some(site) = serving(at(address), address, code) else {
        return;
    };
    kill(site.pid(1), Signal::SIGKILL).expect("a signal");
    site.log.wait_for("generation 5 is serving");
    let client = TcpStream::connect(address);
    assert!(client.is_ok(), "{client:?}: {}", site.log.timed());
    assert_eq!(site.log.count("restarts in a row"), 1);
}

/// Other clients of this host ask there all the time. One thread closes a connection before its client does.
#[test]
fn an_end_for_another_reason_is_not_put_down_to_it() {
    let address = free_address();
    let code = "
if generation > 1: sys.exit('no')
serve(kind=http.server.HTTPServer)
";
    let Some(site) = serving(at(address), address, code) else {
        return;
    };
    let mut clients = site.clients(4);
    clients.until_answered(40);
    site.swap_in_vain();
    assert_eq!(site.log.count("--listen"), 0);
    clients.expect_no_failure();
}

/// As `serve` of npm does.
#[test]
fn a_candidate_that_takes_another_port_instead_is_told_how_to_get_its_own() {
    let (address, other) = (free_address(), free_address());
    let plan = at(address).with(&["--ready-timeout", "12s"]);
    let code = format!("serve({} if is_answered() else port)", other.port());
    let Some(site) = serving(plan, address, &code) else {
        return;
    };
    site.swap_in_vain();
    site.log.wait_for(&format!(
        "try: --listen {address}, if it took {other} because"
    ));
}

/// As `serve` of npm does most of the time.
#[test]
fn a_candidate_that_takes_any_port_instead_is_told_how_to_get_its_own() {
    let address = free_address();
    let plan = at(address).with(&["--ready-timeout", "12s"]);
    let Some(site) = serving(plan, address, "serve(0 if is_answered() else port)") else {
        return;
    };
    let verdict = site.swap_in_vain();
    assert!(verdict.ends_with("generation 1 keeps serving"), "{verdict}");
    site.log
        .wait_for("try: the server's option to fail if its port is in use");
}

/// An admin port, opened for the first client: no client asks a candidate.
#[test]
fn an_address_that_only_one_that_serves_opens_may_be_optional() {
    let (address, admin) = (free_address(), free_address());
    let plan = at(address).with(&["--ready-timeout", "12s"]);
    let code = format!(
        "
admin, one_at_a_time = None, threading.Lock()
def get(client):
    global admin
    with one_at_a_time: admin = admin or http.server.HTTPServer((host, {}), Handler)
    http.server.SimpleHTTPRequestHandler.do_GET(client)
Handler.do_GET = get
serve()
",
        admin.port()
    );
    let Some(site) = serving(plan, address, &code) else {
        return;
    };
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
    let code = "
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind((host, port))
serve()
";
    let Some(site) = serving(at(address), address, code) else {
        return;
    };
    site.swap_in_vain();
    site.log.wait_for(&format!("try: --listen udp:{address}"));
}

/// Both generations bind the one that is left to them, and the other is kept over the swap as ever.
#[test]
fn an_address_may_be_left_to_the_server() {
    let (address, left) = (free_address(), free_address());
    let port = left.port();
    let plan = at(address).with(&["--capture-not", &port.to_string()]);
    let code = format!(
        "
left = socket.socket()
left.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
left.bind((host, {port}))
left.listen()
serve()
"
    );
    let Some(site) = serving(plan, address, &code) else {
        return;
    };
    let mut clients = site.clients(2);
    site.swap();
    clients.until_answered(4);
    clients.expect_no_failure();
    let listening = site.log.count("hotswap: listening on ");
    assert_eq!(listening, 1);
}

#[test]
fn a_path_that_is_left_to_the_server_may_be_relative() {
    let address = free_address();
    let plan = at(address);
    let dir = plan.dir().to_str().expect("text").to_owned();
    let plan = plan
        .inside(&["sh", "-c", "cd \"$0\" && exec \"$@\"", &dir])
        .with(&["--capture-not", "./*.sock"]);
    let code = format!(
        "
left = socket.socket(socket.AF_UNIX)
left.bind('{dir}/left.sock')
left.listen()
serve()
"
    );
    let Some(site) = serving(plan, address, &code) else {
        return;
    };
    // the name is in use, as it would be for the bare server
    site.swap_in_vain();
    let listening = site.log.lines("hotswap: listening on ");
    assert!(
        listening.iter().all(|line| !line.contains("left.sock")),
        "{listening:?}"
    );
    assert!(site.log.says("Address already in use"));
}

/// As active FTP does, and proxies that have a source port.
#[test]
fn a_server_may_connect_from_one_port_to_many() {
    let (address, source) = (free_address(), free_address());
    let peers = [free_address(), free_address()].map(|peer| peer.port());
    let code = format!(
        "
peers, clients = [], []
for peer in {peers:?}:
    peers.append(socket.create_server((host, peer)))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind((host, {}))
    client.connect((host, peer))
    clients.append(client)
serve()
",
        source.port()
    );
    let Some(site) = serving(at(address), address, &code) else {
        return;
    };
    expect_answers(&site);
}

/// The fifth is slow: clients reach it, or it is not serving.
#[test]
fn under_stop_first_an_upgrade_does_not_forget_that_it_asks_first() {
    let address = free_address();
    let plan = at(address).with(&["--order", "stop-first"]);
    let code = "
if is_answered(): sys.exit('it runs already')
if generation == 5: time.sleep(3)
serve()
";
    let Some(site) = serving(plan, address, code) else {
        return;
    };
    site.swap_in_vain();
    site.log.wait_for("generation 4 is serving");
    site.signal(Signal::SIGUSR2).log.wait_for("upgraded to");
    site.swap();
    expect_answers(&site);
}

/// As MariaDB does at its unix path, once it has bound its port.
#[test]
fn under_stop_first_one_that_asks_at_its_path_alone_is_swapped_from_the_second_try_on() {
    let address = free_address();
    let plan = at(address).with(&["--order", "stop-first"]);
    let path = plan.dir().join("asked");
    let path = path.display().to_string();
    let code = format!(
        "
server = http.server.ThreadingHTTPServer((host, port), Handler)
if socket.socket(socket.AF_UNIX).connect_ex('{path}') == 0: sys.exit('it runs already')
if os.path.exists('{path}'): os.unlink('{path}')
unix = socket.socket(socket.AF_UNIX)
unix.bind('{path}')
unix.listen(5)
def accept():
    while True: unix.accept()[0].close()
threading.Thread(target=accept, daemon=True).start()
server.serve_forever()
"
    );
    let Some(site) = serving(plan, address, &code) else {
        return;
    };
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
