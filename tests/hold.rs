//! `--hold`: from a change on new connections wait, so that the first answer after a save is of the new version.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::capture::{at, find};
use crate::common::PATIENCE;
use crate::common::crowd::{Crowd, Habit};
use crate::common::families::on_every_family;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::watch::{binary, watching};

/// Said with `-v` once they wait.
const HELD: &str = "new connections wait for the next version";

fn holding(plan: Plan) -> Plan {
    plan.watching().with(&["--dev", "--hold", "-v"])
}

/// Does something, and lets clients come as soon as they have to wait.
fn held_by(site: &Site, what: impl FnOnce()) -> Crowd {
    let mark = site.log.mark();
    what();
    site.log.wait_after(mark, &[HELD]);
    site.guests().and(4, Habit::default()).come()
}

/// A build that takes until there is a file `go`, and fails if there is a file `broken`.
fn build(dir: &Path) -> String {
    format!(
        "cd {}; until test -e go; do sleep 0.02; done; rm go; test ! -e broken",
        dir.display()
    )
}

on_every_family! {
    fn the_first_answer_after_a_save_is_of_the_new_version(plan: Plan) {
        let site = holding(plan).serving("v1");
        for version in ["v2", "v3", "v4"] {
            let mut clients = held_by(&site, || {
            site.publish(version);
        });
            clients.until_all_see(version).until_answered(20);
            let tally = clients.expect_no_failure();
            assert_eq!(tally.versions.len(), 1, "{tally}");
        }
    }

    fn a_failed_build_gives_those_who_wait_to_the_old_version(plan: Plan) {
        let build = build(plan.dir());
        fs::write(plan.dir().join("go"), "").expect("a file");
        let site = holding(plan).with(&["--before-swap", &build]).serving("v1");
        fs::write(site.dir().join("broken"), "").expect("a file");
        let mut clients = held_by(&site, || {
            site.signal(Signal::SIGHUP);
        });
        clients.until_asked(4);
        assert_eq!(clients.so_far().answers, 0, "they wait");
        fs::write(site.dir().join("go"), "").expect("a file");
        site.log.wait_for("generation 2 aborted: --before-swap exited");
        clients.until_all_see("v1").until_answered(20);
        clients.expect_no_failure();
    }

    fn a_failed_candidate_gives_those_who_wait_to_the_old_version(plan: Plan) {
        let site = holding(plan).serving("v1");
        let mut clients = held_by(&site, || {
            site.publish_odd("v2", "hang exit=3 after=500ms");
        });
        site.log.wait_for("generation 2 aborted: exited with status 3");
        clients.until_all_see("v1").until_answered(20);
        clients.expect_no_failure().expect_never_seen("v2");
    }

    fn under_stop_first_too_the_first_answer_after_a_save_is_of_the_new_version(plan: Plan) {
        let site = holding(plan).with(&["--order", "stop-first"]).serving("v1");
        for version in ["v2", "v3"] {
            let mut clients = held_by(&site, || {
                site.publish(version);
            });
            clients.until_all_see(version).until_answered(20);
            let tally = clients.expect_no_failure();
            assert_eq!(tally.versions.len(), 1, "{tally}");
        }
    }

    fn many_saves_under_load_fail_nobody(plan: Plan) {
        let site = holding(plan).with(&["--max-draining", "20"]).serving("v1");
        let mut clients = site.clients(8);
        for version in ["v2", "v3", "v4", "v5", "v6"] {
            site.publish(version);
            clients.until_all_see(version);
        }
        clients.expect_no_failure();
    }
}

/// The old one is not asked to stop before the build has succeeded.
#[test]
fn under_stop_first_a_failed_build_gives_those_who_wait_to_the_old_version() {
    let plan = Plan::at(Place::Tcp4);
    let build = build(plan.dir());
    fs::write(plan.dir().join("go"), "").expect("a file");
    let options = ["--order", "stop-first", "--before-swap", &build];
    let site = holding(plan).with(&options).serving("v1");
    fs::write(site.dir().join("broken"), "").expect("a file");
    let mut clients = held_by(&site, || {
        site.signal(Signal::SIGHUP);
    });
    fs::write(site.dir().join("go"), "").expect("a file");
    clients.until_all_see("v1").until_answered(20);
    clients.expect_no_failure();
    assert!(!site.log.says("generation 1 is gone"));
}

#[test]
fn under_stop_first_those_who_wait_wait_until_the_new_version_is_ready() {
    for place in [Place::Tcp4, Place::captured()] {
        let plan = Plan::at(place);
        let go = plan.dir().join("go");
        fs::write(&go, "").expect("a file");
        let ready = format!("exec:test -e {}", go.display());
        let options = ["--order", "stop-first", "--ready", &ready];
        let site = holding(plan).with(&options).serving("v1");
        fs::remove_file(&go).expect("a file");
        let clients = held_by(&site, || {
            site.publish("v2");
        });
        clients.until_asked(4);
        site.log.wait_for("generation 2 started");
        let late = site.guests().and(4, Habit::default()).come();
        late.until_asked(4);
        assert_eq!(clients.so_far().answers + late.so_far().answers, 0);
        fs::write(&go, "").expect("a file");
        for mut clients in [clients, late] {
            clients.until_all_see("v2").until_answered(20);
            let tally = clients.expect_no_failure();
            assert_eq!(tally.versions.len(), 1, "{tally}");
        }
    }
}

/// The program that served last is started again.
#[test]
fn under_stop_first_a_failed_candidate_lets_those_who_wait_reach_the_old_version() {
    let plan = holding(Plan::at(Place::Tcp4)).by_binary(binary(1));
    let plan = plan.with(&["--order", "stop-first"]);
    let site = plan.variable("VERSION", "v1").serving("v1");
    let mut clients = held_by(&site, || {
        site.publish_odd("v2", "hang exit=3 after=500ms");
    });
    site.log.wait_for("generation 2 aborted");
    clients.until_all_see("v1").until_answered(20);
    clients.expect_no_failure().expect_never_seen("v2");
}

#[test]
fn an_upgrade_waits_for_the_next_version_as_clients_do() {
    let plan = Plan::at(Place::Tcp4);
    let build = build(plan.dir());
    fs::write(plan.dir().join("go"), "").expect("a file");
    let site = holding(plan).with(&["--before-swap", &build]).serving("v1");
    let mut clients = held_by(&site, || {
        site.publish("v2");
    });
    clients.until_asked(4);
    an_upgrade_waits_with(&site, &mut clients);
}

/// For the next version, which comes once the site may go on.
pub fn an_upgrade_waits_with(site: &Site, clients: &mut Crowd) {
    site.signal(Signal::SIGUSR2);
    fs::write(site.dir().join("go"), "").expect("a file");
    clients.until_all_see("v2");
    site.log.wait_for("upgraded to");
    clients.until_answered(20);
    clients.expect_no_failure();
}

#[test]
fn a_save_that_changes_nothing_lets_them_go_on() {
    let site = holding(Plan::at(Place::Tcp4)).serving("v1");
    let same = fs::read(site.program()).expect("the program");
    let mut clients = held_by(&site, || {
        site.publish_file(&same, 0o755);
    });
    clients.until_all_see("v1").until_answered(20);
    clients.expect_no_failure();
    assert!(!site.log.says("generation 2"));
}

#[test]
fn a_save_during_the_build_is_waited_for_too() {
    let plan = holding(Plan::at(Place::Tcp4));
    let (build, page) = (build(plan.dir()), plan.dir().join("page"));
    fs::write(plan.dir().join("go"), "").expect("a file");
    fs::write(&page, "1").expect("a page");
    let page_path = page.to_str().expect("a path").to_owned();
    let plan = plan.with(&["--before-swap", &build, "--watch", &page_path]);
    let site = plan.serving("v1");
    let mut clients = held_by(&site, || {
        site.publish("v2");
    });
    site.log.wait_for("generation 2 waits for: ");
    fs::write(&page, "2").expect("a page");
    site.log.wait_for("changed during the build");
    site.publish("v3");
    fs::write(site.dir().join("go"), "").expect("a file");
    clients.until_all_see("v3");
    clients
        .expect_no_failure()
        .expect_never_seen("v1")
        .expect_never_seen("v2");
}

#[test]
fn a_file_in_a_tree_is_waited_for_and_one_that_is_left_out_is_not() {
    let plan = watching().with(&["--dev", "--hold", "-v"]);
    let source = plan.dir().join("src");
    fs::create_dir(&source).expect("a directory");
    for (name, content) in [("page", "1"), ("a.log", "1"), (".gitignore", "*.log\n")] {
        fs::write(source.join(name), content).expect("a file");
    }
    let site = plan
        .with(&["--watch", source.to_str().expect("a path")])
        .serving("v1");
    site.log.wait_for("watching 1 file in ");
    fs::write(source.join("a.log"), "2").expect("a log");
    let clients = held_by(&site, || {
        fs::write(source.join("page"), "2").expect("a page");
    });
    site.log.wait_for("generation 2 is serving");
    clients.until_answered(20);
    assert_eq!(site.log.count(HELD), 1);
}

#[test]
fn clients_of_a_shared_socket_do_not_wait_and_that_is_said_once() {
    let plan = Plan::at(Place::Tcp4).with(&["--share"]);
    let site = holding(plan).serving("v1");
    let mut clients = site.guests().and(4, Habit::default()).come();
    for version in ["v2", "v3"] {
        site.publish(version);
        clients.until_all_see(version);
    }
    clients.leave();
    assert_eq!(site.log.count("do not wait for the next version"), 1);
}

#[test]
fn a_stop_answers_those_who_wait() {
    let plan = Plan::at(Place::Tcp4);
    let build = build(plan.dir());
    fs::write(plan.dir().join("go"), "").expect("a file");
    let mut site = holding(plan).with(&["--before-swap", &build]).serving("v1");
    let mut clients = held_by(&site, || {
        site.signal(Signal::SIGHUP);
    });
    clients.until_asked(4);
    assert_eq!(clients.so_far().answers, 0, "they wait");
    site.signal(Signal::SIGTERM);
    clients.until_answered(4);
    clients.leave();
    site.expect_status(0);
}

/// A server that answers on keep-alive connections: its threads block in recv(2).
const KEEPING: &str = "
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'VERSION')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

/// One connection for all requests.
struct Browser(TcpStream);

impl Browser {
    fn ask(&mut self) -> String {
        self.0
            .write_all(b"GET / HTTP/1.1\r\nHost: site\r\n\r\n")
            .expect("a request");
        let mut answer = Vec::new();
        while !answer.ends_with(b"v1") && !answer.ends_with(b"v2") && !answer.ends_with(b"v3") {
            let mut piece = [0; 1000];
            let bytes = self.0.read(&mut piece).expect("an answer");
            assert_ne!(bytes, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend(&piece[..bytes]);
        }
        String::from_utf8_lossy(&answer[answer.len() - 2..]).into_owned()
    }
}

/// Serves by Python, rebuilt by a command that waits until there is a file `go`.
fn keeping(order: &str) -> Option<(Site, Browser)> {
    let python = find("python3")?;
    let address = free_address();
    let plan = at(address);
    let script = plan.dir().join("server.py");
    fs::write(&script, KEEPING.replace("VERSION", "v1")).expect("a script");
    fs::write(plan.dir().join("go"), "").expect("a file");
    let build = build(plan.dir());
    let script = script.to_str().expect("a path").to_owned();
    let options = [
        "--dev",
        "--hold",
        "-v",
        "--watch",
        &script,
        "--before-swap",
        &build,
        "--order",
        order,
    ];
    let site = plan
        .with(&options)
        .by_program(python, &[&script, &address.port().to_string()])
        .serving("");
    let browser = TcpStream::connect(address).expect("a connection");
    browser
        .set_read_timeout(Some(PATIENCE))
        .expect("a deadline");
    Some((site, Browser(browser)))
}

fn save(site: &Site, version: &str) {
    let mark = site.log.mark();
    let script = KEEPING.replace("VERSION", version);
    fs::write(site.dir().join("server.new"), script).expect("a script");
    fs::rename(site.dir().join("server.new"), site.dir().join("server.py")).expect("a save");
    site.log
        .wait_after(mark, &["holding ", "keep-alive connection"]);
}

fn build_ends(site: &Site) {
    fs::write(site.dir().join("go"), "").expect("a file");
}

#[test]
fn a_kept_connection_waits_for_the_new_version_too() {
    goes_on_through_saves("start-first");
}

#[test]
fn under_stop_first_a_kept_connection_waits_for_the_new_version_too() {
    goes_on_through_saves("stop-first");
}

/// It waits, is answered by the new version, and goes on there, through one save after another.
fn goes_on_through_saves(order: &str) {
    let Some((site, mut browser)) = keeping(order) else {
        return;
    };
    assert_eq!(browser.ask(), "v1");
    for (version, pause) in [("v2", 0), ("v3", 50), ("v1", 0), ("v2", 50)] {
        let mark = site.log.mark();
        save(&site, version);
        thread::scope(|scope| {
            let answer = scope.spawn(|| browser.ask());
            thread::sleep(Duration::from_millis(pause));
            build_ends(&site);
            assert_eq!(answer.join().expect("an answer"), version);
        });
        // under stop-first it answers before
        site.log.wait_after(mark, &["is serving"]);
    }
}

#[test]
fn a_failed_build_gives_a_kept_connection_to_the_old_version() {
    let Some((site, mut browser)) = keeping("start-first") else {
        return;
    };
    assert_eq!(browser.ask(), "v1");
    for round in 1..=2 {
        fs::write(site.dir().join("broken"), "").expect("a file");
        save(&site, if round == 1 { "v2" } else { "v3" });
        thread::scope(|scope| {
            let answer = scope.spawn(|| browser.ask());
            build_ends(&site);
            assert_eq!(answer.join().expect("an answer"), "v1");
        });
    }
    fs::remove_file(site.dir().join("broken")).expect("no file");
    save(&site, "v2");
    build_ends(&site);
    assert_eq!(browser.ask(), "v2");
}

/// The one that takes over its server lets it answer while the next version is built.
#[test]
fn a_kept_connection_that_waits_when_hotswap_is_killed_is_answered_by_the_old_version() {
    let Some((mut site, mut browser)) = keeping("start-first") else {
        return;
    };
    assert_eq!(browser.ask(), "v1");
    save(&site, "v2");
    site.kill_hotswap().start_again();
    site.log.wait_for("adopting generation 1");
    assert_eq!(browser.ask(), "v1");
}
