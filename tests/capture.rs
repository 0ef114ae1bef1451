//! Servers that know nothing of hotswap and bind by themselves: eight swaps of each under load, in its stock form.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::crowd::{Crowd, Habit};
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{alone, server, skipped};

mod answered;
pub mod closed;
mod early;
mod life;
mod private;
mod rights;
mod unlink;

const SWAPS: usize = 8;

/// A plan for a server that binds that address itself.
pub fn at(address: SocketAddr) -> Plan {
    Site::at(Place::Given(Target::Tcp(address))).with(&["--capture", "always"])
}

/// Swaps as often as that, each as soon as the one before it has left nothing behind.
pub fn swap(site: &Site, times: usize) {
    for generation in 1..=times {
        site.swap();
        site.wait_until_gone(u32::try_from(generation).expect("a number"));
    }
}

fn many(site: &Site) -> Crowd {
    let guests = site.guests().and(4, Habit::default()).and(4, Habit::kept());
    guests.and(2, Habit::slow()).come()
}

fn loses_nothing(plan: Plan) {
    loses_none_of(plan, many);
}

fn loses_none_of(plan: Plan, clients: impl FnOnce(&Site) -> Crowd) {
    let _alone = alone();
    let mut site = plan.serving("");
    let mut clients = clients(&site);
    clients.until_answered(20);
    swap(&site, SWAPS);
    clients.until_answered(20);
    clients.expect_no_failure();
    // Asked to, and not killed: a server that overwrites its environment would not be found afterwards.
    site.stop();
}

/// A server in Python, if that is installed.
fn python(plan: Plan, code: &str) -> Option<Plan> {
    Some(plan.by_program(find("python3")?, &["-c", code]))
}

/// Where the program is, or a word that the test is left out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let all = std::env::split_paths(&path).map(|directory| directory.join(program));
    let found = all.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skipped(&format!("capture of {program}"), "it is not installed");
    }
    found
}

/// Runs a compiler; nothing if it is not there.
pub fn compile(compiler: &str, arguments: &[&str], directory: &Path) -> Option<()> {
    find(compiler)?;
    let mut command = Command::new(compiler);
    command
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::null());
    command
        .env("GOCACHE", directory.join("cache"))
        .env("GOFLAGS", "-mod=mod");
    assert!(
        command.status().expect(compiler).success(),
        "{compiler} failed"
    );
    Some(())
}

#[test]
fn nothing_is_lost_by_our_own_example() {
    let address = free_address();
    let hello = server("hello");
    loses_nothing(at(address).by_program(hello, &[&address.to_string()]));
}

#[test]
fn nothing_is_lost_by_a_server_that_dies_of_sigterm() {
    let address = free_address();
    let odd = server("odd");
    loses_nothing(at(address).by_program(odd, &[&format!("at={address}")]));
}

#[test]
fn nothing_is_lost_on_a_unix_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.sock");
    let plan = Site::at(Place::Given(Target::Unix(path.clone())));
    let plan = plan.by_program(server("odd"), &[&format!("at=unix:{}", path.display())]);
    // what is kept open on a unix path is busy: each swap would wait for all of --quiesce
    loses_none_of(plan, |site| site.guests().and(8, Habit::default()).come());
}

#[test]
fn nothing_is_lost_by_pythons_http_server() {
    let Some(python) = find("python3") else {
        return;
    };
    let address = free_address();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let plan = at(address);
    let directory = plan.dir().display().to_string();
    let arguments = [
        "-m",
        "http.server",
        &port,
        "--bind",
        &host,
        "--directory",
        &directory,
    ];
    loses_nothing(plan.by_program(python, &arguments));
}

/// One connection at a time, and dual stack.
#[test]
fn nothing_is_lost_by_a_python_server_of_one_thread() {
    let Some(python) = find("python3") else {
        return;
    };
    let address = free_address();
    let script = "import http.server, socket, sys\n\
        class Server(http.server.HTTPServer):\n    address_family = socket.AF_INET6\n\
        Server(('::', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()";
    let port = address.port().to_string();
    loses_nothing(at(address).by_program(python, &["-c", script, &port]));
}

#[test]
fn nothing_is_lost_by_node() {
    let Some(node) = find("node") else { return };
    let address = free_address();
    let script = "const { port } = process.env;\n\
        require('http').createServer((request, response) => {\n\
          setTimeout(() => response.end('hello'), request.url.startsWith('/slow') ? 300 : 0);\n\
        }).listen(process.argv[1]);";
    let port = address.port().to_string();
    loses_nothing(at(address).by_program(node, &["-e", script, &port]));
}

/// Linked statically: nothing could be preloaded into it.
#[test]
fn nothing_is_lost_by_a_static_c_program() {
    let address = free_address();
    let plan = at(address);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/loop.c");
    let arguments = ["-static", "-O1", "-o", "loop", source];
    if compile("gcc", &arguments, plan.dir()).is_none() {
        return;
    }
    let program = plan.dir().join("loop");
    loses_nothing(plan.by_program(program, &[&address.port().to_string()]));
}

/// Which asks for multipath TCP.
#[test]
fn nothing_is_lost_by_a_go_program() {
    let address = free_address();
    let plan = at(address);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/plain.go");
    fs::copy(source, plan.dir().join("main.go")).expect("the source");
    let arguments = ["build", "-o", "plain", "main.go"];
    if compile("go", &arguments, plan.dir()).is_none() {
        return;
    }
    let program = plan.dir().join("plain");
    loses_nothing(plan.by_program(program, &[&address.to_string()]));
}

fn nginx(address: SocketAddr, workers: &str) -> Option<Plan> {
    let nginx = find("nginx")?;
    let plan = at(address);
    let directory = plan.dir().display().to_string();
    let configuration = format!(
        "error_log stderr; pid {directory}/nginx.pid; events {{ worker_connections 256; }} {workers}\n\
         http {{ access_log off; server {{ listen {address}; location / {{ return 200 hello; }} }}\n\
         client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;\n\
         uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s; }}"
    );
    let path = plan.dir().join("nginx.conf");
    fs::write(&path, configuration).expect("a configuration");
    let path = path.display().to_string();
    Some(plan.by_program(nginx, &["-c", &path, "-g", "daemon off;"]))
}

#[test]
fn nothing_is_lost_by_nginx() {
    if let Some(plan) = nginx(free_address(), "worker_processes 2;") {
        loses_nothing(plan);
    }
}

/// Asked to end at once rather than when all is done.
#[test]
fn nothing_is_lost_by_nginx_in_a_hurry() {
    if let Some(plan) = nginx(free_address(), "worker_processes 1;") {
        loses_nothing(plan.with(&["--stop-signal", "TERM"]));
    }
}
