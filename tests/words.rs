//! The words on the screen: one line an event, in these words and no others.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::capture::find;
use crate::common::place::Place;
use crate::common::plan::hotswap;
use crate::common::program::install;
use crate::common::site::Site;
use crate::common::{eventually, hotswap_program, processes, server};

/// The line with every number and duration replaced by `N`.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut inside = false;
    for part in line.chars() {
        let digit = part.is_ascii_digit() || (inside && part == '.');
        if !digit {
            shape.push(part);
        } else if !inside {
            shape.push('N');
        }
        inside = digit;
    }
    shape.replace("Nms", "D").replace("Ns", "D")
}

#[test]
fn a_swap_is_told_line_by_line() {
    let mut site = Site::serving("v1");
    site.publish("v2").swap().wait_until_gone(1);
    assert!(site.stop().success());
    site.log.wait_for("generation 2 is gone");
    let said: Vec<_> = site
        .log
        .lines("hotswap: ")
        .iter()
        .map(|line| shape(line))
        .collect();
    let expected = [
        "hotswap: listening on N:N",
        "hotswap: generation N started, pid N",
        "hotswap: generation N is serving (accepting after D)",
        "hotswap: generation N started, pid N",
        "hotswap: generation N is serving (accepting after D); generation N is draining, N connections",
        "hotswap: generation N is gone after D (exited with status N)",
    ];
    assert_eq!(said[..expected.len()], expected);
    let last = said.last().expect("a last line");
    assert_eq!(
        last,
        "hotswap: generation N is gone after D (exited with status N)"
    );
}

/// What hotswap itself writes, byte for byte, when its stderr is a pipe and these variables are set.
fn written_under(variables: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = hotswap(hotswap_program(), dir.path());
    command.args(["--no-watch", "--", "/bin/sh", "-c", "exit 3"]);
    let output = command.envs(variables.iter().copied()).output();
    String::from_utf8_lossy(&output.expect("its output").stderr).into_owned()
}

#[test]
fn each_line_has_its_time_where_nobody_watches() {
    let written = written_under(&[]);
    assert!(
        written.contains(" hotswap: generation 1 started"),
        "{written}"
    );
    for line in written.lines() {
        let (time, _) = line.split_once(" hotswap: ").expect(line);
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
    }
}

#[test]
fn the_journal_gets_priorities_instead_of_times() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = dir.path().join("journal");
    let file = std::fs::File::create(&journal).expect("a file");
    let stat = nix::sys::stat::fstat(&file).expect("its identity");
    let mut command = hotswap(hotswap_program(), dir.path());
    command.args(["--no-watch", "--", "/bin/sh", "-c", "exit 3"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
    command.stderr(file).status().expect("its end");
    let written = std::fs::read_to_string(&journal).expect("what it wrote");
    assert!(
        written.starts_with("hotswap: generation 1 started"),
        "{written}"
    );
    assert!(
        written.contains("\n<3>hotswap: generation 1 aborted"),
        "{written}"
    );
}

#[test]
fn long_lines_of_two_generations_are_not_mixed() {
    let script = "#!/bin/sh\nletter=$(echo xab | cut -c$((HOTSWAP_GENERATION + 1)))\n\
                  half() { head -c 40000 /dev/zero | tr '\\0' $letter; }\n\
                  while :; do half; sleep 0.02; half; echo; sleep 0.05; done >&2\n";
    let site = Site::at(Place::Nowhere)
        .with(&["--ready", "after:10ms", "--stop-signal", "WINCH"])
        .by_script(script, &[])
        .serving("v1");
    site.swap();
    for letter in ["a", "b"] {
        let whole = letter.repeat(80_000);
        eventually("whole lines", || {
            (site.log.lines(&whole).len() > 4).then_some(())
        });
    }
    let mixed = |line: &&String| line.contains("aaa") && line.contains("bbb");
    assert_eq!(site.log.lines("aaa").iter().find(mixed), None);
}

#[test]
fn a_prompt_is_passed_on_before_its_line_ends() {
    let script = "#!/bin/sh\nprintf 'password: ' >&2\nexec sleep 100\n";
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("server");
    install(&program, script.as_bytes(), 0o755);
    let mut command = hotswap(hotswap_program(), dir.path());
    command.args(["--ready", "after:10ms", "--"]).arg(&program);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("hotswap");
    let mut stderr = child.stderr.take().expect("its stderr");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("password: ") {
        let mut piece = [0; 1000];
        let bytes = std::io::Read::read(&mut stderr, &mut piece).expect("a piece");
        assert!(bytes > 0, "{}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&piece[..bytes]);
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("a signal");
    child.wait().expect("its end");
}

#[test]
fn every_address_is_announced() {
    let plan = Site::at(Place::Tcp4);
    let path = plan.dir().join("run/admin.sock").display().to_string();
    let site = plan
        .with(&["--listen", &path, "--listen", "web=[::1]:0"])
        .serving("v1");
    site.log.wait_for("hotswap: listening on 127.0.0.1:");
    site.log.wait_for("hotswap: listening on [::1]:");
    site.log.wait_for(&path);
}

#[test]
fn json_events_can_be_parsed() {
    let plan = Site::at(Place::Nowhere).with(&["--log-format", "json", "--listen", "127.0.0.1:0"]);
    let mut site = plan.serving("v1");
    site.publish("v2").signal(Signal::SIGHUP);
    site.log.wait_for("generation 1 is gone");
    assert!(site.stop().success());
    let lines = site.log.lines("{");
    let events: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert!(
        events
            .iter()
            .all(|event| event["time"].is_string() || event["time"].is_number())
    );
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(
        names[..5],
        ["listening", "started", "serving", "started", "serving"]
    );
    let serving = &events[4];
    assert_eq!(serving["generation"], 2);
    assert_eq!(serving["reason"], "accepting");
    assert!(
        serving["after_ms"].is_u64() && serving["connections"].is_u64(),
        "{serving}"
    );
    assert!(events[3]["pid"].is_u64(), "{}", events[3]);
}

#[test]
fn quiet_says_what_went_wrong_and_nothing_else() {
    let plan = Site::at(Place::Nowhere).with(&["-q", "--listen", "127.0.0.1:0"]);
    let mut site = plan.opening("v1");
    // It says nothing of its start: the abort is the first line there is.
    eventually("the server", || {
        let all = processes::of_site(site.dir());
        all.iter()
            .any(|pid| processes::status(*pid, "Name").is_some_and(|n| n == "hello"))
            .then_some(())
    });
    site.publish_odd("v2", "exit=3");
    let verdict = site.swap_in_vain();
    assert!(
        verdict.contains("generation 2 aborted: exited with status 3"),
        "{verdict}"
    );
    assert!(site.stop().success());
    assert_eq!(site.log.lines("hotswap: ").len(), 1);
}

#[test]
fn the_output_of_the_server_is_its_own() {
    let site = Site::at(Place::Tcp4)
        .by_odd("say=from-the-server")
        .serving("v1");
    site.log.wait_for("from-the-server");
    assert_eq!(site.log.lines("from-the-server"), ["from-the-server"]);
}

#[test]
fn what_a_candidate_was_waited_for_in_vain_is_said() {
    let plan = Site::at(Place::Tcp4).with(&["--ready-timeout", "1s"]);
    let site = plan.serving("v1");
    site.publish_odd("v2", "hang");
    site.swap_in_vain();
    site.log
        .wait_for("generation 2 aborted: not ready within 1s: does not accept on 127.0.0.1:");
}

#[test]
fn who_has_the_port_that_a_server_cannot_bind_is_said() {
    let theirs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = theirs.local_addr().expect("its address").to_string();
    let plan = Site::at(Place::Nowhere).by_program(server("hello"), &[&address]);
    let site = plan.opening("v1");
    let holder = format!("it is held by pid {} ", std::process::id());
    let line = site.log.wait_for("generation 1 cannot bind ");
    assert!(line.contains(&holder), "{line}");
    let advice = format!("stop it first: kill {}", std::process::id());
    site.log.wait_for(&advice);
}

#[test]
fn who_has_the_abstract_name_that_a_server_cannot_bind_is_said() {
    let Some(python) = find("python3") else {
        return;
    };
    let name = format!("hotswap-words-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _theirs = UnixListener::bind_addr(&address).expect("the name");
    let script = format!("import socket\nsocket.socket(socket.AF_UNIX).bind('\\0{name}')");
    let plan = Site::at(Place::Nowhere).by_program(python, &["-c", &script]);
    let site = plan.opening("v1");
    let holder = format!("it is held by pid {} ", std::process::id());
    let line = site.log.wait_for("generation 1 cannot bind ");
    assert!(line.contains(&holder), "{line}");
}

/// Word by word, as a shell reads it.
#[test]
fn what_is_to_be_tried_for_a_wrong_value_is_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let told = |options: &str| {
        let mut command = hotswap("sh", dir.path());
        let line = format!("exec \"$HOTSWAP_UNDER_TEST\" {options} -- /bin/sh -c 'exit 3'");
        command.args(["-c", &line]).current_dir(dir.path());
        command.env(
            "HOTSWAP_UNDER_TEST",
            hotswap_program().canonicalize().expect("it"),
        );
        let output = command.output().expect("its output");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    for wrong in [
        "--ignore '['",
        "--ignore 'src/[id/{a b'",
        "--watch '['",
        "--watch 'src/[id/*.ts'",
        "--ready fd:2000000000",
        "--poll 99999999999999999999",
        "--poll 100000d",
        "--listen udp:1.2.3.4.5",
        "--listen dns=udp:1.2.3.4:x",
        "--listen http://localhost/",
        "--listen '[::1%lo]:0'",
        "--listen fe80::1%lo:0",
    ] {
        let (status, said) = told(wrong);
        assert_eq!(status, Some(125), "{wrong}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        let [what, hint] = lines[..] else {
            panic!("{wrong}: {said}");
        };
        assert!(
            what.starts_with("hotswap: cannot use --"),
            "{wrong}: {said}"
        );
        let hint = hint.strip_prefix("try: --").expect("something to try");
        let (_, said) = told(&format!("--{hint}"));
        assert!(!said.contains("cannot use --"), "{wrong}: {hint}: {said}");
    }
}

#[test]
fn an_option_that_does_nothing_is_named() {
    let site = Site::at(Place::Tcp4).with(&["--clear"]).serving("v1");
    site.log.wait_for("--clear does nothing without --dev");
}

#[test]
fn how_much_time_requests_have_is_said_where_it_is_less_than_was_asked_for() {
    let short = ["--quiesce", "9s", "--drain-timeout", "4s"];
    let site = Site::at(Place::Tcp4).with(&short).serving("v1");
    site.log
        .wait_for("requests in flight have 2s, not the 9s of --quiesce");
    site.log.wait_for("try: --drain-timeout 11s");
    let enough = ["--quiesce", "9s", "--drain-timeout", "11s"];
    let site = Site::at(Place::Tcp4).with(&enough).serving("v1");
    assert_eq!(site.log.count("requests in flight have"), 0);
}

#[test]
fn a_misspelled_level_does_not_silence_hotswap() {
    let mut site = Site::at(Place::Tcp4)
        .variable("HOTSWAP_LOG", "degub")
        .serving("v1");
    site.log
        .wait_for("cannot use HOTSWAP_LOG=degub: it is not a filter");
    site.log.wait_for("try: HOTSWAP_LOG=debug");
    assert!(site.stop().success());
}
