//! hotswap itself is killed, or something else is in its place.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::capture::at;
use crate::capture::closed::python;
use crate::common::crowd::Habit;
use crate::common::eventually;
use crate::common::families::on_every_family;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::processes::{self, is_keeper};
use crate::common::site::Site;
use crate::common::strace::{Attached, is_here};
use crate::common::tally::Failure;

fn oom_score(pid: Pid) -> i32 {
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("its score");
    score.trim().parse().expect("a number")
}

#[test]
fn the_oom_killer_takes_the_server_rather_than_hotswap() {
    let plan = Site::at(Place::Tcp4).inside(&["choom", "-n", "500", "--"]);
    let site = plan.serving("v1");
    assert!(oom_score(site.hotswap()) <= 0);
    assert_eq!(oom_score(site.pid(1)), 500);
    site.signal(Signal::SIGUSR2);
    site.log.wait_for("upgraded to ");
    assert!(oom_score(site.hotswap()) <= 0);
    site.publish("v2").swap();
    assert_eq!(oom_score(site.pid(2)), 500);
}

/// The next hotswap takes over what the killed one has left, and no client notices.
fn adopted(plan: Plan) {
    let mut site = plan.serving("v1");
    let old = site.pid(1);
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    clients.until_answered(50);
    site.kill_hotswap();
    clients.until_answered(50);
    site.publish("v2");
    site.start_again();
    let adopting = format!("adopting generation 1, pid {old}, of a hotswap that is gone");
    site.log.wait_for(&adopting);
    let serving = site.log.wait_for("generation 2 is serving");
    assert!(serving.contains("; generation 1 is draining"), "{serving}");
    site.wait_until_gone(1);
    clients.until_all_see("v2");
    site.publish("v3").swap();
    clients.until_all_see("v3");
    clients.expect_no_failure();
    site.stop();
    site.expect_nothing_left();
}

on_every_family! {
    fn the_next_hotswap_takes_over_what_a_killed_one_has_left(plan: Plan) {
        adopted(plan);
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    let connected = TcpStream::connect(address).and_then(|mut client| {
        write!(client, "GET {path} HTTP/1.0\r\n\r\n")?;
        client.read_to_string(&mut answer)
    });
    connected.map_or_else(|error| error.to_string(), |_| answer)
}

/// Writes a line to its stderr for each answer, and binds one more address whenever it is asked to.
const TALKER: &str = "#!/usr/bin/env python3
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/bind':
            another = socket.socket()
            another.bind(('127.0.0.1', 0))
            another.listen()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'hello from v1, generation 1')
port = int(sys.argv[1])
http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler).serve_forever()
";

#[test]
fn what_says_what_runs_is_made_again_if_somebody_removes_it() {
    for by_signal in [true, false] {
        let plan = Site::at(Place::Tcp4).with(&["--quiesce", "100ms"]);
        let plan = if by_signal { plan } else { plan.watching() };
        let mut site = plan.with(&["--poll", "50ms"]).serving("v1");
        let state = site.dir().join("run/hotswap/server.sock.state");
        fs::remove_file(&state).expect("the file");
        if by_signal {
            site.publish("v2").swap().wait_until_gone(1);
        }
        let is_written = || (fs::metadata(&state).ok()?.len() > 0).then_some(());
        eventually("the file", is_written);
        let mut clients = site.clients(2);
        site.kill_hotswap();
        site.publish("v3");
        site.start_again();
        site.log.wait_for("adopting generation ");
        clients.until_all_see("v3");
        clients.expect_no_failure();
    }
}

#[test]
fn a_server_may_write_and_bind_while_there_is_no_hotswap() {
    let address = free_address();
    let port = address.port().to_string();
    let plan = Site::at(Place::Captured(address)).by_script(TALKER, &[&port]);
    let mut site = plan.serving("v1");
    assert!(get(address, "/").contains("200"));
    site.log.wait_for("GET / HTTP");
    site.kill_hotswap();
    for path in ["/", "/bind", "/after"] {
        let answer = get(address, path);
        assert!(answer.contains("200"), "{path}: {answer}");
    }
    site.log.wait_for("GET /after HTTP");
    site.start_again().log.wait_for("generation 2 is serving");
    site.stop();
    site.expect_nothing_left();
}

fn keeper(site: &Site) -> Pid {
    eventually("a keeper", || {
        let all = processes::all_of_site(site.dir());
        all.into_iter().find(|pid| is_keeper(*pid))
    })
}

#[test]
fn the_keeper_is_replaced_and_ends_with_the_last_server() {
    let mut site = Site::at(Place::captured()).serving("v1");
    let first = keeper(&site);
    let name = || fs::read_to_string(format!("/proc/{first}/comm")).ok();
    let is_named = || (name()?.trim() == "hotswap-keeper").then_some(());
    eventually("its name, as top(1) shows it", is_named);
    kill(first, Signal::SIGKILL).expect("a signal to the keeper");
    eventually("its end", || (!is_keeper(first)).then_some(()));
    assert_ne!(keeper(&site), first);
    site.kill_hotswap();
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.expect_no_process();
}

/// What dead servers have left with it goes when it goes.
#[test]
fn another_keeper_takes_over_after_some_swaps() {
    let plan = Site::at(Place::captured()).with(&["--quiesce", "50ms"]);
    let mut site = plan.serving("v1");
    let first = keeper(&site);
    for _ in 1..16 {
        site.swap();
    }
    eventually("the end of the first one", || {
        (!is_keeper(first)).then_some(())
    });
    let second = keeper(&site);
    site.kill_hotswap();
    kill(site.pid(16), Signal::SIGKILL).expect("a signal to the server");
    eventually("its end", || (!is_keeper(second)).then_some(()));
}

/// By its pid nothing of it is to be seen any more.
const FIRST_THREAD_ENDS: &str = "#!/usr/bin/env python3
import ctypes, http.server, os, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/slow':
            print('begun', file=sys.stderr, flush=True)
            time.sleep(1)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'hello from v1, generation 1')
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
threading.Thread(target=server.serve_forever).start()
exit = 60 if os.uname().machine == 'x86_64' else 93
ctypes.CDLL(None).syscall(exit, 0)
";

#[test]
fn a_server_whose_first_thread_has_ended_is_drained_and_adopted() {
    let address = free_address();
    let port = address.port().to_string();
    let plan = Site::at(Place::Captured(address)).by_script(FIRST_THREAD_ENDS, &[&port]);
    let mut site = plan.serving("v1");
    let client = std::thread::spawn(move || get(address, "/slow"));
    site.log.wait_for("begun");
    site.swap().wait_until_gone(1);
    let answer = client.join().expect("a client");
    assert!(answer.contains("200"), "{answer}");
    site.kill_hotswap();
    site.start_again().log.wait_for("adopting generation 2");
    site.log.wait_for("generation 3 is serving");
    site.wait_until_gone(2);
    site.stop();
    site.expect_nothing_left();
}

#[test]
fn there_is_no_keeper_where_it_is_not_wanted() {
    let plan = Site::at(Place::captured()).with(&["--no-keeper"]);
    let site = plan.serving("v1");
    let all = processes::all_of_site(site.dir());
    assert!(!all.into_iter().any(is_keeper));
}

/// It ends as it would without them, and they keep serving.
fn fails(plan: Plan) {
    let mut site = plan.serving("v1");
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    site.kill_hotswap();
    site.publish_file(b"#!/bin/sh\nsleep 0.2; exit 7\n", 0o755);
    site.start_again();
    site.log
        .wait_for("generation 2 aborted: exited with status 7");
    assert!(site.log.says("; generation 1 keeps serving"));
    site.expect_status(7);
    clients.until_answered(50);
    site.publish("v2");
    site.start_again().log.wait_for("adopting generation 1");
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

on_every_family! {
    fn orphans_keep_serving_if_the_next_hotswap_cannot_start(plan: Plan) {
        fails(plan);
    }
}

/// Two generations live when hotswap is killed: a candidate that is not ready yet, or one that drains.
fn killed_amid_a_swap(plan: Plan, drains: bool) {
    let mut site = plan.serving("v1");
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    clients.until_answered(20);
    let mut slow = site.guests();
    if drains {
        let long = Habit::taking(Duration::from_secs(1));
        slow = slow.and(1, long);
    }
    let mut slow = slow.come();
    if drains {
        slow.until_asked(1);
        site.publish("v2").swap();
        clients.until_all_see("v2");
    } else {
        site.publish_odd("v2", "late=60s").signal(Signal::SIGHUP);
        site.executed(2);
    }
    site.kill_hotswap();
    clients.until_answered(20);
    site.publish("v3");
    site.start_again();
    site.log
        .wait_for_all(&["adopting generation 1", "adopting generation 2"]);
    let serving = site.log.wait_for("generation 3 is serving");
    clients.until_all_see("v3");
    let old = if drains { 2 } else { 1 };
    assert!(
        serving.contains(&format!("generation {old} is draining")),
        "{serving}"
    );
    site.wait_until_gone(1).wait_until_gone(2);
    clients.expect_no_failure();
    if drains {
        slow.expect_no_failure();
    }
}

on_every_family! {
    fn a_generation_that_drained_is_adopted_too(plan: Plan) {
        killed_amid_a_swap(plan, true);
    }

    fn a_candidate_is_adopted_too(plan: Plan) {
        killed_amid_a_swap(plan.by_odd(""), false);
    }
}

/// The kernel closes the sockets of a killed hotswap one by one. Two of them before that of the server would move it, and
/// clients that come meanwhile would be reset.
#[test]
fn soon_nobody_listens_beside_the_server_that_a_killed_hotswap_would_leave() {
    let mut site = Site::at(Place::captured()).serving("v1");
    let line = site.log.wait_for("listening on 127.0.0.1:");
    let port = line.rsplit(':').next().and_then(|port| port.parse().ok());
    let port: u16 = port.expect("a port");
    let own = format!(":{port:04X} 00000000:0000 0A");
    let one_listens = || {
        let table = fs::read_to_string("/proc/net/tcp").expect("the table");
        (table.matches(&own).count() == 1).then_some(())
    };
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    site.swaps(6).wait_until_gone(6);
    eventually("one socket after swaps in quick succession", one_listens);
    let mut slow = site.guests().and(1, Habit::slow()).come();
    slow.until_asked(1);
    site.publish("v8").swap();
    site.kill_hotswap();
    site.start_again();
    site.log.wait_for("generation 9 is serving");
    slow.leave();
    site.wait_until_gone(8);
    eventually("one socket after an adoption", one_listens);
    site.kill_hotswap();
    clients.until_all_see("v8");
    clients.expect_no_failure();
}

/// hotswap is killed at each of the moments at which it writes down what runs.
#[test]
fn a_server_that_was_just_started_is_not_left_behind() {
    if !is_here("a_server_that_was_just_started_is_not_left_behind") {
        return;
    }
    for at in 1..=3 {
        let mut site = Site::serving("v1");
        let report = site.dir().join("run/strace");
        let options = [
            "-qqq".to_owned(),
            format!("--output={}", report.display()),
            format!("--inject=pwrite64:signal=KILL:when={at}"),
        ];
        let strace = Attached::with(&options, site.hotswap());
        site.publish("v2").signal(Signal::SIGHUP);
        site.end();
        strace.let_go();
        fs::remove_file(report).expect("a report");
        site.publish("v3");
        site.start_again().log.wait_for("is serving");
        assert!(site.stop().success());
        site.expect_nothing_left();
    }
}

#[test]
fn a_stop_of_one_that_has_not_served_yet_stops_what_it_has_adopted() {
    let mut site = Site::serving("v1");
    site.kill_hotswap();
    site.publish_file(b"#!/bin/sh\nsleep 60\n", 0o755);
    site.start_again().log.wait_for("generation 2 started");
    assert!(site.stop().success());
    site.expect_nothing_left();
}

/// Its path was removed with the first request to stop: nobody can come by it any more.
#[test]
fn an_orphan_that_was_being_stopped_is_stopped_by_the_next() {
    let address = free_address();
    let script = "
import signal, tempfile
signal.signal(signal.SIGTERM, lambda *_: None)
one = listen('127.0.0.1')
path = socket.socket(socket.AF_UNIX)
path.bind(tempfile.gettempdir() + '/of-the-server.sock')
path.listen()
serve(one)
";
    let Some(plan) = python(
        at(address).with(&["--drain-timeout", "2s"]),
        address,
        script,
    ) else {
        return;
    };
    let dir = plan.dir().to_str().expect("text").to_owned();
    let mut site = plan.variable("TMPDIR", &dir).serving("");
    site.signal(Signal::SIGTERM);
    site.log.wait_for("stopping");
    eventually("the end of its path", || {
        (!site.dir().join("of-the-server.sock").exists()).then_some(())
    });
    site.kill_hotswap().start_again();
    site.log.wait_for("adopting generation 1");
    let serving = site.log.wait_for("generation 2 is serving");
    assert!(serving.contains("; generation 1 is draining"), "{serving}");
    site.wait_until_gone(1);
}

#[test]
fn an_orphan_that_dies_before_the_next_is_ready_leaves_its_clients_in_the_queue() {
    let mut site = Site::serving("v1");
    let old = site.pid(1);
    site.kill_hotswap();
    site.publish_odd("v2", "late=500ms");
    site.start_again().log.wait_for("generation 2 started");
    kill(old, Signal::SIGKILL).expect("a signal to the orphan");
    site.log.wait_for("generation 1 is dead");
    let mut clients = site.guests().and(20, Habit::default()).come();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// A restart has the socket of the dead one, and its name.
#[test]
fn nothing_is_left_beside_a_path_of_an_orphan_that_was_restarted() {
    let plan = Site::at(Place::CapturedUnix).by_odd("deaf");
    let mut site = plan.serving("v1");
    kill(site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 2 is serving");
    site.publish_odd("v2", "deaf").swap();
    let orphan = site.pid(2);
    site.kill_hotswap().start_again();
    site.log.wait_for("generation 4 is serving");
    kill(orphan, Signal::SIGKILL).expect("a signal to the server");
    site.log.wait_for("generation 2 is gone");
    let names = || {
        let all = fs::read_dir(site.dir()).expect("its names").flatten();
        let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(".hotswap-")).collect()
    };
    eventually("only names of those that live", || {
        let names: Vec<String> = names();
        let lives = |name: &String| name.ends_with("-3") || name.ends_with("-4");
        names.iter().all(lives).then_some(())
    });
}

#[test]
fn a_path_leads_to_the_orphan_until_the_next_version_serves() {
    for place in [Place::Unix, Place::CapturedUnix] {
        let mut site = Site::at(place).with(&["--poll", "50ms"]).serving("v1");
        let path = site.dir().join("site.sock");
        site.kill_hotswap();
        site.publish_odd("v2", "late=1s");
        site.start_again();
        site.log.wait_for("generation 2 started");
        fs::remove_file(&path).expect("the path");
        eventually("the path", || fs::symlink_metadata(&path).ok());
        let mut clients = site.clients(4);
        clients.until_all_see("v1");
        clients.until_all_see("v2");
        clients.expect_no_failure();
    }
}

const KILLS: u8 = 6;

/// In a swap or not: what was queued on a socket that only hotswap has goes with it, a client a kill at most. Nobody is
/// refused.
fn is_killed_in_swaps(plan: Plan) {
    let flags = ["--quiesce", "200ms", "--max-draining", "16"];
    let mut site = plan.with(&flags).serving("v0");
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    for round in 1..=KILLS {
        site.publish(&format!("v{round}"));
        if round % 2 == 0 {
            site.signal(Signal::SIGHUP);
        }
        // about as long as a swap takes, in other parts of it each time
        sleep(Duration::from_millis(u64::from(round) * 13 % 90));
        site.kill_hotswap();
        site.start_again().log.wait_for("is serving");
    }
    clients.until_all_see(&format!("v{KILLS}"));
    let tally = clients.leave();
    let cut = tally.failed(Failure::Reset) + tally.failed(Failure::Eof);
    assert_eq!(tally.failures.len(), cut, "{tally}");
    assert!(cut <= usize::from(KILLS), "{tally}");
}

on_every_family! {
    fn a_kill_in_a_swap_refuses_nobody(plan: Plan) {
        is_killed_in_swaps(plan);
    }
}

/// As a debugger does, or a process manager that talks to its own workers.
#[test]
fn what_also_listens_on_a_port_of_the_kernels_choice_is_drained() {
    let mut site = Site::at(Place::Captured(free_address()))
        .by_odd("and=127.0.0.1:0")
        .serving("v1");
    site.kill_hotswap().start_again();
    site.log.wait_for("adopting generation 1");
    site.wait_until_gone(1);
}
