//! What a server is started with: sockets from descriptor 3 on, every protocol's variables, and a clean slate.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::commands::{ended, run};
use crate::common::eventually;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::server;
use crate::common::site::Site;

/// What a server saw of its own start, before it became the example server.
struct Seen {
    variables: HashMap<String, String>,
    arguments: Vec<String>,
    descriptors: Vec<String>,
    status: String,
}

/// Starts it with further arguments, and reads what it wrote down.
fn seen_by_a_server(plan: Plan, arguments: &[&str]) -> (Site, Seen) {
    let at = plan.dir().join("run");
    fs::create_dir_all(&at).expect("a directory");
    let hello = server("hello");
    let at_ = at.display();
    let script = format!(
        "#!/bin/sh\ncat /proc/$$/environ > {at_}/environ\ncat /proc/$$/cmdline > {at_}/cmdline\n\
         ls /proc/$$/fd > {at_}/fd\nwhile read -r line; do echo \"$line\"; done < /proc/$$/status > {at_}/status\n\
         VERSION=v1 exec {} 127.0.0.1:0\n",
        hello.display()
    );
    let site = plan.by_script(&script, arguments).serving("v1");
    let split = |name: &str| -> Vec<String> {
        let bytes = fs::read(at.join(name)).expect("what it saw");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split(['\0', '\n'])
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let pair = |line: &String| {
        line.split_once('=')
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
    };
    let variables = split("environ").iter().filter_map(pair).collect();
    // The shell, the script, then what it was given.
    let arguments = split("cmdline").into_iter().skip(2).collect();
    let (descriptors, status) = (split("fd"), split("status").join("\n"));
    (
        site,
        Seen {
            variables,
            arguments,
            descriptors,
            status,
        },
    )
}

impl Seen {
    fn is(&self, name: &str, value: &str) -> &Seen {
        assert_eq!(
            self.variables.get(name).map(String::as_str),
            Some(value),
            "{name}"
        );
        self
    }

    fn is_not_set(&self, name: &str) -> &Seen {
        assert_eq!(self.variables.get(name), None, "{name}");
        self
    }
}

fn two_listeners() -> Plan {
    let plan = Site::at(Place::Tcp4);
    let path = format!("admin=unix:{}/run/admin.sock", plan.dir().display());
    plan.with(&["--listen", &path])
}

#[test]
fn every_protocol_has_its_variables() {
    let (site, seen) = seen_by_a_server(two_listeners(), &[]);
    let pid = site.pid(1).to_string();
    let admin = site.dir().join("run/admin.sock");
    seen.is("LISTEN_FDS", "2")
        .is("LISTEN_PID", &pid)
        .is("LISTEN_FDNAMES", "listen1:admin");
    let line = site.log.lines("listening on 127.0.0.1:").remove(0);
    let port = line.rsplit(':').next().expect("a port");
    let ports = format!("127.0.0.1:{port}=3;{}=4", admin.display());
    seen.is("PORT", port)
        .is("SERVER_STARTER_PORT", &ports)
        .is("SERVER_STARTER_GENERATION", "1");
    seen.is("HOTSWAP_GENERATION", "1")
        .is("HOTSWAP_INSTANCE", "server");
    seen.is_not_set("NGINX").is_not_set("FPM_SOCKETS");
    assert!(seen.variables.contains_key("NOTIFY_SOCKET"));
    let control = seen
        .variables
        .get("HOTSWAP_SOCKET")
        .expect("the control socket");
    assert!(Path::new(control).exists(), "{control}");
}

#[test]
fn variables_of_others_are_taken_away() {
    let others = [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
    ];
    let plan = others.iter().fold(Site::at(Place::Nowhere), |plan, name| {
        plan.variable(name, "7")
    });
    let plan = plan
        .variable("KEPT", "it")
        .variable("HOTSWAP_STRANGE", "thing");
    let (_site, seen) = seen_by_a_server(plan, &[]);
    seen.is("KEPT", "it")
        .is_not_set("HOTSWAP_STRANGE")
        .is_not_set("LISTEN_FDS");
    seen.is_not_set("LISTEN_PID")
        .is_not_set("LISTEN_PIDFDID")
        .is_not_set("WATCHDOG_USEC");
    assert_ne!(
        seen.variables.get("NOTIFY_SOCKET").map(String::as_str),
        Some("7")
    );
}

#[test]
fn variables_of_the_user_are_kept() {
    let plan = Site::at(Place::Tcp4);
    let file = plan.dir().join("env");
    fs::write(&file, "LISTEN_FDS=7\nWATCHDOG_DIR=/w\n").expect("a file");
    let file = file.display().to_string();
    let plan = plan
        .variable("LISTEN_ADDR", "a")
        .variable("LISTEN_PORT", "b")
        .variable("PORT", "3000")
        .with(&["--env-file", &file]);
    let (_site, seen) = seen_by_a_server(plan, &[]);
    seen.is("LISTEN_ADDR", "a")
        .is("LISTEN_PORT", "b")
        .is("WATCHDOG_DIR", "/w")
        .is("PORT", "3000");
    // the number of sockets, not what the file says
    seen.is("LISTEN_FDS", "1");
}

#[test]
fn an_env_file_says_nothing_that_is_meant_for_hotswap() {
    let plan = Site::at(Place::Nowhere);
    let file = plan.dir().join("env");
    fs::write(&file, "LISTEN_FDS=7\nLISTEN_PID=1\nWATCHDOG_USEC=5\n").expect("a file");
    let file = file.display().to_string();
    let (_site, seen) = seen_by_a_server(plan.with(&["--env-file", &file]), &[]);
    seen.is_not_set("LISTEN_FDS")
        .is_not_set("LISTEN_PID")
        .is_not_set("WATCHDOG_USEC");
}

#[test]
fn tokens_are_replaced() {
    let given = [
        "{fd}",
        "{fd:admin}",
        "{generation}",
        "{{fd}}",
        "a{fd}",
        "{port}",
        "{addr}",
    ];
    let (site, seen) = seen_by_a_server(
        Site::at(Place::Tcp4).with(&["--listen", "admin=127.0.0.1:0"]),
        &given,
    );
    let listening = site.log.lines("listening on 127.0.0.1:");
    let first = listening[0].rsplit(' ').next().expect("an address");
    let port = first.rsplit(':').next().expect("a port");
    assert_eq!(seen.arguments, ["3", "4", "1", "{fd}", "a3", port, first]);
}

#[test]
fn it_starts_with_a_clean_slate() {
    let (site, seen) = seen_by_a_server(two_listeners(), &[]);
    // 0 to 2, both sockets, and the script that the shell reads at some number of its own.
    let inherited = seen
        .descriptors
        .iter()
        .filter_map(|fd| fd.parse::<u32>().ok())
        .filter(|fd| *fd < 10);
    assert_eq!(inherited.collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let pid = site.pid(1);
    let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).expect("its stdin");
    assert_eq!(stdin, Path::new("/dev/null"));
    let field = |name: &str| {
        let line = seen.status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().trim_start_matches('0').to_owned())
    };
    assert_eq!(field("SigBlk:").as_deref(), Some(""), "{}", seen.status);
    assert_eq!(field("SigIgn:").as_deref(), Some(""), "{}", seen.status);
    let group = nix::unistd::getpgid(Some(pid)).expect("its group");
    assert_eq!(group, pid);
}

#[test]
fn its_stdin_is_left_open_if_it_shall_be() {
    let plan = Site::at(Place::Tcp4).with(&["--stdin", "open"]);
    let hello = server("hello").display().to_string();
    // cat ends at the end of its stdin, and the script with it
    let script =
        format!("#!/bin/sh\nexec 5<&0\n(cat <&5; kill $$) & VERSION=v1 exec {hello} 127.0.0.1:0\n");
    let site = plan.by_script(&script, &[]).serving("v1");
    site.swap();
    assert_eq!(site.log.count("is dead"), 0);
}

#[test]
fn a_tool_that_ends_with_its_stdin_is_given_a_hint() {
    let script = "#!/bin/sh\ncat\n";
    let plan = Site::at(Place::Nowhere).by_script(script, &[]);
    let mut site = plan.starting("v1");
    site.expect_status(0);
    site.log.wait_for("its stdin is /dev/null");
    site.log.wait_for("try: --stdin open");
}

#[test]
fn an_env_file_is_read_for_every_generation() {
    let plan = Site::at(Place::Tcp4);
    let file = plan.dir().join("run/env");
    fs::create_dir_all(plan.dir().join("run")).expect("a directory");
    fs::write(&file, "# a comment\nCOLOR=red\n").expect("a file");
    let file_ = file.display().to_string();
    let (site, seen) = seen_by_a_server(plan.with(&["--env-file", &file_]), &[]);
    seen.is("COLOR", "red");
    fs::write(&file, "COLOR=green and blue\n").expect("a file");
    site.swap();
    let environ = site.dir().join("run/environ");
    eventually("the new color", || {
        let environ = fs::read(&environ).expect("what it saw");
        String::from_utf8_lossy(&environ)
            .contains("COLOR=green and blue")
            .then_some(())
    });
}

/// It would have to be waited for, and the next generation would find it empty.
#[test]
fn an_env_file_that_is_a_pipe_is_refused_and_not_waited_for() {
    let plan = Site::at(Place::Tcp4);
    let file = plan.dir().join("env");
    fs::write(&file, "COLOR=red\n").expect("a file");
    let file_ = file.display().to_string();
    let site = plan.with(&["--env-file", &file_]).serving("v1");
    fs::remove_file(&file).expect("no file");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let why = site.swap_in_vain();
    assert!(why.contains("env: it is a pipe"), "{why}");
    let output = run(&site, &["--env-file", &file_, "--", "true"]);
    ended(&output, 125, &["env: it is a pipe"]);
}

#[test]
fn it_runs_in_the_directory_it_is_told() {
    let plan = Site::at(Place::Tcp4);
    let there = plan.dir().join("run");
    fs::create_dir_all(&there).expect("a directory");
    let there_ = there.display().to_string();
    let site = plan.with(&["--chdir", &there_]).serving("v1");
    let cwd = fs::read_link(format!("/proc/{}/cwd", site.pid(1))).expect("its directory");
    assert_eq!(cwd, there.canonicalize().expect("a path"));
}
