//! Serving means serving: when a candidate is ready, and what is said of one that is not.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Output;

use nix::sys::signal::{Signal, kill};

use crate::capture::closed::python;
use crate::capture::{at, find};
use crate::commands::{ended, run, said};
use crate::common::crowd::{Crowd, Habit};
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{eventually, server};

mod first;
mod reasons;

/// Two addresses that the server binds itself, the second one later.
struct Two {
    site: Site,
    first: SocketAddr,
    second: SocketAddr,
}

impl Two {
    /// Serving on both, with clients for each.
    fn serving(flags: &[&str], words: &str) -> Two {
        let (first, second) = (free_address(), free_address());
        let words = format!("at={first} and={second} {words}");
        let site = at(first).with(flags).by_odd(&words).serving("v1");
        let mut two = Two {
            site,
            first,
            second,
        };
        eventually("the second address", || TcpStream::connect(second).ok());
        two.site.targets.push(Target::Tcp(second));
        two
    }

    fn clients(&self) -> Crowd {
        let clients = self.site.guests().and(8, Habit::default()).come();
        clients.until_answered(16);
        clients
    }

    /// A version that never binds the second address.
    fn publish_without_the_second(&self, version: &str, words: &str) {
        let words = format!("at={} {words}", self.first);
        self.site.publish_odd(version, &words);
    }

    fn swap(&self, arguments: &[&str]) -> Output {
        run(&self.site, &[&["swap", "server"], arguments].concat())
    }
}

/// The mode is content at once, and the second address comes 2 s later.
fn waits_for_every_address(mode: &str, words: &str) {
    let two = Two::serving(&["--ready", mode], &format!("{words} and-late=2s"));
    let mut clients = two.clients();
    two.site.publish("v2").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn a_late_address_is_waited_for_if_it_is_seen_accepting() {
    waits_for_every_address("auto", "");
}

#[test]
fn a_late_address_is_waited_for_if_it_accepts_a_probe() {
    waits_for_every_address("tcp", "");
}

#[test]
fn a_late_address_is_waited_for_after_ready_was_said() {
    waits_for_every_address("notify", "ready");
}

#[test]
fn a_late_address_is_waited_for_after_a_newline() {
    waits_for_every_address("fd:9", "newline=9");
}

#[test]
fn a_late_address_is_waited_for_after_a_good_status() {
    waits_for_every_address("http:/health", "health=204");
}

#[test]
fn a_late_address_is_waited_for_after_a_command_has_succeeded() {
    waits_for_every_address("exec:true", "");
}

#[test]
fn a_late_address_is_waited_for_after_the_time_is_over() {
    waits_for_every_address("after:300ms", "");
}

#[test]
fn a_version_that_leaves_out_an_address_changes_nothing() {
    for mode in ["auto", "after:300ms"] {
        let flags = ["--ready", mode, "--ready-timeout", "3s"];
        let two = Two::serving(&flags, "");
        let mut clients = two.clients();
        two.publish_without_the_second("v2", "");
        let output = two.swap(&[]);
        ended(&output, 1, &[]);
        let why = format!(
            "generation 2 aborted: not ready within 3s: does not accept on {}; \
             generation 1 keeps serving",
            two.second
        );
        let hint = format!("\ntry: hotswap swap --without {}", two.second);
        assert!(said(&output).contains(&why), "{}", said(&output));
        assert!(said(&output).contains(&hint), "{}", said(&output));
        two.site.log.wait_for(&why);
        clients.expect_no_failure().expect_never_seen("v2");
    }
}

#[test]
fn an_address_may_be_left_out_by_one_swap() {
    let two = Two::serving(&["--ready-timeout", "5s"], "");
    two.publish_without_the_second("v2", "");
    let second = two.second.to_string();
    let output = two.swap(&["--without", &second]);
    ended(&output, 0, &[]);
    two.site.wait_until_gone(1);
    eventually("the second address to be free", || {
        TcpStream::connect(two.second).err()
    });
}

/// Whatever may be left out: a version that listens nowhere is not ready, and nothing that would take the server down is
/// proposed.
#[test]
fn a_version_that_listens_nowhere_cannot_be_excused() {
    let address = free_address();
    let flags = ["--ready-timeout", "3s"];
    let site = at(address)
        .with(&flags)
        .by_odd(&format!("at={address}"))
        .serving("v1");
    let mut clients = site.guests().and(8, Habit::default()).come();
    site.publish_file(b"#!/bin/sh\nexec sleep 60\n", 0o755);
    for arguments in [&[][..], &["--without", &address.to_string()]] {
        let output = run(&site, &[&["swap", "server"], arguments].concat());
        ended(&output, 1, &[]);
        let why = format!("not ready within 3s: does not accept on {address}");
        assert!(said(&output).contains(&why), "{}", said(&output));
        assert!(!said(&output).contains("--without"), "{}", said(&output));
    }
    clients.until_answered(16);
    clients.expect_no_failure().expect_never_seen("v2");
}

/// The version that is started after a crash leaves it out, so the next may do so as well.
#[test]
fn an_address_that_a_restart_has_left_out_is_not_required() {
    let two = Two::serving(&[], "");
    let listening = format!("listening on {}", two.second);
    two.site.log.wait_for(&listening);
    two.publish_without_the_second("v2", "");
    kill(two.site.pid(1), Signal::SIGKILL).expect("a signal to the server");
    two.site.log.wait_for("generation 2 is serving");
    two.publish_without_the_second("v3", "");
    two.site.swap();
}

#[test]
fn an_optional_address_may_be_left_out() {
    let second = free_address();
    let first = free_address();
    let flags = ["--optional", &second.to_string(), "--ready-timeout", "5s"];
    let words = format!("at={first} and={second}");
    let site = at(first).with(&flags).by_odd(&words).serving("v1");
    eventually("the second address", || TcpStream::connect(second).ok());
    site.publish_odd("v2", &format!("at={first}")).swap();
    site.publish_odd("v3", &words).swap();
    site.publish_odd("v4", &format!("at={first}")).swap();
}

/// All that it serves may be left out, and it leaves out nothing.
#[test]
fn a_version_that_accepts_where_it_need_not_is_ready() {
    for mode in ["auto", "tcp"] {
        let address = free_address();
        let optional = address.to_string();
        let flags = ["--ready", mode, "--optional", &optional];
        let site = at(address)
            .with(&flags)
            .with(&["--ready-timeout", "3s"])
            .by_odd(&format!("at={address}"))
            .serving("v1");
        let mut clients = site.clients(4);
        site.publish("v2").swap();
        clients.until_all_see("v2");
        clients.expect_no_failure();
    }
}

/// A debugger's port, say, or one for a transfer of files.
#[test]
fn an_address_that_was_bound_long_after_the_start_is_not_required() {
    let flags = ["--ready-timeout", "4s"];
    let two = Two::serving(&flags, "and-late=6s");
    two.site.publish("v2").swap();
    let line = two.site.log.wait_for("new versions may leave it out");
    assert!(line.contains(&two.second.to_string()), "{line}");
    eventually("the second address", || TcpStream::connect(two.second).ok());
    two.site.publish("v3").swap();
    let named = two.site.log.count("new versions may leave it out");
    assert_eq!(named, 1, "once: {}", two.site.log.timed());
}

/// It was assumed ready, and only then came to listen: its successors must listen there as well.
#[test]
fn an_address_counts_though_the_start_was_slower_than_the_ready_timeout() {
    let address = free_address();
    let words = format!("at={address} late=4s");
    let flags = ["--ready-timeout", "2500ms"];
    let site = at(address).with(&flags).by_odd(&words).serving("v1");
    assert!(site.log.says("(assumed ready after "));
    eventually("its address", || TcpStream::connect(address).ok());
    let mut clients = site.clients(4);
    site.publish_odd("v2", &format!("at={address} late=1500ms"));
    site.swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// The one before it accepts nowhere, so that no address is required; that it accepts is not made up.
#[test]
fn one_that_only_listens_is_not_said_to_accept() {
    let address = free_address();
    let words = format!("at={address} hang");
    let flags = ["--ready-timeout", "2s"];
    let site = at(address).with(&flags).by_odd(&words).serving("v1");
    site.publish_odd("v2", &words).signal(Signal::SIGHUP);
    let line = site.log.wait_for("generation 2 is serving");
    assert!(line.contains("(assumed ready after "), "{line}");
    site.log
        .wait_for("generation 2 was not seen accepting connections");
}

#[test]
fn in_development_a_missing_address_is_only_a_warning() {
    let two = Two::serving(&["--dev", "--ready-timeout", "20s"], "and-late=700ms");
    two.publish_without_the_second("v2", "");
    two.site.swap();
    let warning = format!(
        "generation 2 does not accept on {}: its clients are refused once generation 1 is gone",
        two.second
    );
    two.site.log.wait_for(&warning);
}

/// The port leads to the old one, so that a check needs another way to the candidate.
#[test]
fn a_command_can_ask_the_candidate_itself() {
    let address = free_address();
    let check = "exec:test -n \"$HOTSWAP_PID\" && bash -c 'host=${HOTSWAP_CANDIDATE%:*} \
        port=${HOTSWAP_CANDIDATE##*:}; exec 3<>/dev/tcp/$host/$port; \
        printf \"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n\" >&3; \
        cat <&3' | grep \"generation $HOTSWAP_GENERATION\"";
    let flags = ["--ready", check, "--ready-timeout", "10s"];
    let words = format!("at={address}");
    let site = at(address).with(&flags).by_odd(&words).serving("v1");
    let mut clients = site.clients(4);
    site.publish("v2").swap();
    clients.until_all_see("v2");
    site.publish_odd("v3", &format!("{words} late=1h"));
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("not ready within 10s"), "{verdict}");
    clients.expect_no_failure().expect_never_seen("v3");
}

#[test]
fn a_command_that_cannot_be_led_to_the_candidate_is_told_so() {
    let address = free_address();
    let words = format!("at={address}");
    for (flags, words, hint) in [
        (
            ["--share", "--listen", "127.0.0.1:0"],
            "",
            "try: --ready auto, if the command",
        ),
        (
            ["--no-watch", "--capture", "never"],
            words.as_str(),
            "try: --listen ADDR, if the command",
        ),
    ] {
        let plan = Site::at(Place::Nowhere).with(&flags);
        let plan = plan.with(&["--ready", "exec:false", "--ready-timeout", "1s"]);
        let mut site = plan.by_odd(words).opening("v1");
        site.expect_status(124);
        site.log.wait_for(hint);
    }
}

/// A server may bind its path by a name in its own directory.
#[test]
fn a_command_is_told_the_path_of_the_candidate() {
    let check = "exec:test $HOTSWAP_GENERATION = 1 || test -S \"$HOTSWAP_CANDIDATE\"";
    let plan = Site::at(Place::Nowhere).with(&["--capture", "always", "--ready", check]);
    let directory = plan.dir().to_owned();
    let target = Target::Unix(directory.join("own.sock"));
    let plan = plan.with(&["--chdir", directory.to_str().expect("text")]);
    let site = plan
        .reached_at(target)
        .by_odd("at=unix:own.sock")
        .serving("v1");
    site.publish_odd("v2", "at=unix:own.sock").swap();
    let mut clients = site.clients(2);
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn a_host_that_is_named_is_asked_for() {
    let flags = ["--ready", "http://shop.example/", "--ready-timeout", "5s"];
    let plan = Site::at(Place::Tcp4).with(&flags);
    let site = plan.by_odd("host=shop.example").serving("v1");
    site.swap();
}

#[test]
fn a_server_that_no_longer_says_ready_can_be_forgiven_once() {
    let flags = ["--ready-timeout", "2s"];
    let site = Site::at(Place::Tcp4).with(&flags).by_odd("ready");
    let site = site.serving("v1");
    site.publish_odd("v2", "");
    let output = run(&site, &["swap", "server"]);
    ended(&output, 1, &[]);
    let hint = "\ntry: hotswap swap --forget-ready";
    assert!(said(&output).contains(hint), "{}", said(&output));
    let output = run(&site, &["swap", "server", "--forget-ready"]);
    ended(&output, 0, &[]);
    site.publish("v3").swap();
}

/// A plan whose server is run by a shell after `first`.
fn after_shell(address: SocketAddr, first: &str) -> Plan {
    let odd = crate::common::server("odd").display().to_string();
    let script = format!("#!/bin/sh\n{first}\nexec '{odd}' at={address}\n");
    at(address).by_script(&script, &[])
}

fn is_running(pid: nix::unistd::Pid) -> bool {
    fs::read_dir(format!("/proc/{pid}")).is_ok()
}

/// As in Go and with tokio, whose runtimes register each socket when they make it. It listens at once, warms up, and then
/// accepts, or ends.
#[test]
fn a_server_that_warms_up_behind_its_runtime_is_not_ready() {
    let address = free_address();
    let script = "
import os, select, threading, time
one = listen('127.0.0.1')
runtime = select.epoll()
runtime.register(one, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
def hear():
    while True: runtime.poll()
threading.Thread(target=hear, daemon=True).start()
generation = int(os.environ['HOTSWAP_GENERATION'])
if generation > 1: time.sleep(1)
if generation == 2: sys.exit(9)
serve(one)
";
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.clients(4);
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("exited with status 9"), "{verdict}");
    site.swap();
    clients.until_answered(20);
    clients.expect_no_failure();
}

/// As the helper of a start script: it is reaped before hotswap reads its message.
#[test]
fn a_helper_that_has_ended_by_now_is_heard() {
    let Some(python) = find("python3") else {
        return;
    };
    let send = "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
                s.sendto(b'READY=1', chr(0) + os.environ['NOTIFY_SOCKET'][1:])";
    let script = format!(
        "#!/bin/sh\ncd $(dirname $0)\nVERSION=v1 {} 127.0.0.1:0 & server=$!\ntrap 'kill $server' TERM\n\
         until [ -e go ]; do sleep 0.01; done\n{} -c \"{send}\"\ntouch sent\nwait $server; wait $server\n",
        server("hello").display(),
        python.display(),
    );
    let plan = Site::at(Place::Tcp4).with(&["--ready", "notify"]);
    let site = plan.by_script(&script, &[]).opening("v1");
    site.log.wait_for("generation 1 started");
    site.while_stopped(|site| {
        fs::write(site.dir().join("go"), "").expect("a file");
        eventually("the end of the helper", || {
            site.dir().join("sent").exists().then_some(())
        });
    });
    site.log.wait_for("generation 1 is serving");
}
