//! What cannot be done is refused in one clear line, with the right status, and nothing is left behind.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::common::attempt::{as_nobody, attempt, attempt_among_ours, attempt_in};
use crate::common::skipped;

#[test]
fn a_command_must_be_given() {
    attempt(&[]).is_refused(125, &["try: hotswap -- "]);
    attempt(&["--listen", "127.0.0.1:0"]).is_refused(125, &["try: hotswap"]);
    attempt(&["--listen", "127.0.0.1:0", "--"]).is_refused(125, &[]);
}

#[test]
fn the_command_must_stand_behind_dashes() {
    attempt(&["./server"]).is_refused(125, &["try: hotswap -- ./server"]);
    attempt(&["./server", "a", "b"]).is_refused(125, &["try: hotswap -- ./server a b"]);
}

#[test]
fn a_variable_that_only_the_start_can_judge_is_called_by_its_name() {
    for (name, value, instead) in [
        ("HOTSWAP_WATCH", "[", r"'\['"),
        ("HOTSWAP_READY", "fd:1999999999", "fd:3"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |command: &mut Command| {
            command.env(name, value);
        };
        let texts = [
            format!("cannot use {name}={value:?}: "),
            format!("try: {name}={instead}"),
        ];
        attempt_in(dir, &["--", "true"], set).is_refused(125, &[&texts[0], &texts[1]]);
    }
}

#[test]
fn unknown_options_are_named() {
    attempt(&["--lisen", "8080", "--", "true"]).is_refused(125, &["--lisen", "--listen"]);
    attempt(&["swap", "--wait"]).is_refused(2, &["--wait"]);
    attempt(&["status", "one", "two"]).is_refused(2, &["two"]);
}

#[test]
fn durations_are_checked() {
    let options = [
        "ready-timeout",
        "min-ready",
        "quiesce",
        "drain-timeout",
        "debounce",
        "poll",
    ];
    for option in options {
        for value in ["5", "soon", "", "-1s", "1 parsec"] {
            let given = format!("--{option}={value}");
            attempt(&[&given, "--", "true"]).is_refused(125, &[option]);
        }
    }
    attempt(&["swap", "--timeout", "soon"]).is_refused(2, &["soon"]);
}

#[test]
fn values_are_checked() {
    for (option, value) in [
        ("backlog", "many"),
        ("socket-mode", "0999"),
        ("socket-owner", "nobody-of-that-name"),
        ("capture", "sometimes"),
        ("ready", "soon"),
        ("ready", "fd:x"),
        ("stop-signal", "SIGNONE"),
        ("order", "both-first"),
        ("restart", "sometimes"),
        ("max-draining", "some"),
        ("stderr", "nowhere"),
        ("log-format", "xml"),
        ("user", "nobody-of-that-name"),
        ("group", "nobody-of-that-name"),
    ] {
        let given = [
            &format!("--{option}"),
            value,
            "--listen",
            "127.0.0.1:0",
            "--",
            "true",
        ];
        attempt(&given).is_refused(125, &[value]);
    }
}

#[test]
fn addresses_are_checked() {
    for address in [
        "127.0.0.1",
        "127.0.0.1:http",
        "127.0.0.1:99999",
        "[::1:80",
        "nonsense",
        "udp:",
    ] {
        attempt(&["--listen", address, "--", "true"]).is_refused(125, &[address]);
    }
    let host = "no-such-host.invalid:80";
    attempt(&["--listen", host, "--", "true"]).is_refused(125, &["cannot", "no-such-host.invalid"]);
}

/// An address that no machine has of its own (TEST-NET-1).
#[test]
fn an_address_of_somebody_else_is_refused() {
    let why = "Cannot assign requested address (os error 99)";
    let address = "192.0.2.1:8080";
    attempt(&["--listen", address, "--", "true"])
        .is_refused(125, &["cannot listen on 192.0.2.1:8080: ", why]);
}

#[test]
fn who_has_the_port_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = other.local_addr().expect("its address").to_string();
    let pid = std::process::id().to_string();
    let attempt = attempt(&["--listen", &address, "--", "true"]);
    let what = format!("cannot listen on {address}: ");
    attempt.is_refused(
        125,
        &[&what, "Address already in use", "(os error 98)", &pid],
    );
}

#[test]
fn who_has_the_udp_port_is_named() {
    let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = format!("udp:{}", other.local_addr().expect("its address"));
    let attempt = attempt(&["--listen", &address, "--", "true"]);
    attempt.is_refused(
        125,
        &["cannot listen on ", "Address already in use (os error 98)"],
    );
}

#[test]
fn a_unix_path_that_somebody_answers_on_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("taken.sock");
    let _other = UnixListener::bind(&path).expect("a listener");
    let address = format!("unix:{}", path.display());
    let attempt = attempt_in(dir, &["--listen", &address, "--", "true"], |_| {});
    attempt.is_refused(125, &["cannot listen on ", "taken.sock"]);
    assert!(path.exists());
}

#[test]
fn a_file_is_never_replaced_by_a_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("precious");
    fs::write(&path, "precious").expect("a file");
    let address = format!("unix:{}", path.display());
    let attempt = attempt_in(dir, &["--listen", &address, "--", "true"], |_| {});
    attempt.is_refused(125, &["cannot listen on ", "precious"]);
    assert_eq!(fs::read_to_string(path).expect("the file"), "precious");
}

#[test]
fn a_unix_path_without_a_directory_is_refused() {
    let why = "No such file or directory (os error 2)";
    let arguments = ["--listen", "unix:{dir}/none/site.sock", "--", "true"];
    attempt(&arguments).is_refused(125, &["cannot listen on ", why]);
}

#[test]
fn a_unix_path_that_is_too_long_is_refused() {
    let long = format!("unix:/tmp/{}", "x".repeat(200));
    attempt(&["--listen", &long, "--", "true"]).is_refused(125, &["cannot "]);
}

/// Everything before it, bound already, goes with hotswap.
#[test]
fn an_earlier_listener_is_let_go() {
    let arguments = [
        "--listen",
        "unix:{dir}/one.sock",
        "--listen",
        "unix:{dir}/none/two.sock",
    ];
    let attempt = attempt(&[&arguments[..], &["--", "true"]].concat());
    attempt.is_refused(125, &["two.sock"]);
    assert!(!attempt.dir.path().join("one.sock").exists());
}

#[test]
fn a_control_socket_that_was_asked_for_must_be_made() {
    let arguments = [
        "--control",
        "{dir}/none/control.sock",
        "--listen",
        "127.0.0.1:0",
        "--",
        "sleep",
        "9",
    ];
    let attempt = attempt(&arguments);
    attempt.ended(
        125,
        &["control.sock", "No such file or directory (os error 2)"],
    );
}

#[test]
fn a_token_needs_its_listener() {
    for token in ["{fd}", "{fd:web}", "{addr}", "{port}"] {
        attempt(&["--", "sleep", token]).is_refused(125, &[token]);
    }
    let arguments = ["--listen", "api=127.0.0.1:0", "--", "sleep", "{fd:web}"];
    let attempt = attempt(&arguments);
    attempt.ended(125, &["{fd:web}"]);
}

#[test]
fn a_probe_needs_a_steered_listener() {
    for mode in ["tcp", "http:/health"] {
        let nothing = ["--capture", "never", "--ready", mode, "--", "sleep", "9"];
        attempt(&nothing).is_refused(125, &["try: "]);
        let shared = [
            "--share",
            "--listen",
            "127.0.0.1:0",
            "--ready",
            mode,
            "--",
            "sleep",
            "9",
        ];
        attempt(&shared).is_refused(125, &["try: "]);
    }
}

#[test]
fn a_directory_or_an_env_file_that_is_not_there_is_refused() {
    for option in ["--chdir", "--env-file"] {
        let listens = ["--listen", "127.0.0.1:0", "--", "true"];
        let attempt = attempt(&[&[option, "{dir}/none"], &listens[..]].concat());
        attempt.ended(125, &["/none"]);
    }
}

#[test]
fn a_program_that_is_not_there_is_127() {
    let attempt = attempt(&["--listen", "127.0.0.1:0", "--", "{dir}/none"]);
    attempt.ended(127, &["No such file or directory (os error 2)"]);
    let attempt = self::attempt(&["--listen", "127.0.0.1:0", "--", "no-such-program-anywhere"]);
    attempt.ended(127, &[]);
}

#[test]
fn a_program_that_cannot_run_is_126() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content, mode) in [("plain", "#!/bin/sh\n", 0o644), ("empty", "", 0o755)] {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        let path = path.display().to_string();
        let attempt = attempt(&["--listen", "127.0.0.1:0", "--", &path]);
        attempt.ended(126, &[]);
    }
}

#[test]
fn nobody_of_that_name_is_3() {
    for request in ["swap", "stop", "events", "upgrade"] {
        attempt(&[request, "nobody"]).is_refused(3, &["nobody", "(looked in /"]);
        attempt_among_ours(&[request]).is_refused(3, &[]);
    }
    attempt(&["status", "nobody"]).is_refused(3, &["nobody"]);
}

/// As somebody who may not listen below 1024, nor write where hotswap would put its socket.
#[test]
fn a_port_of_root_is_refused_to_others() {
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if lowest.is_ok_and(|lowest| {
        lowest
            .trim()
            .parse::<u32>()
            .is_ok_and(|lowest| lowest <= 80)
    }) {
        return skipped(
            "a_port_of_root_is_refused_to_others",
            "anybody may listen on port 80 here",
        );
    }
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = ["--listen", "127.0.0.1:80", "--", "true"];
    let attempt = as_nobody(dir, &arguments);
    let why = "Permission denied (os error 13)";
    attempt.ended(
        125,
        &["hotswap: cannot listen on 127.0.0.1:80: ", why, "try: "],
    );
}

/// It is a warning, not an error, where nobody asked for a control socket.
#[test]
fn a_runtime_directory_that_cannot_be_written_is_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("run")).expect("a directory");
    let file = dir.path().join("run/hotswap");
    fs::write(&file, "no directory").expect("a file");
    let line = ["--listen", "127.0.0.1:0", "--", "false"];
    let attempt = attempt_in(dir, &line, |command| {
        command.env("RUNTIME_DIRECTORY", &file);
    });
    attempt.ended(1, &["cannot ", "generation 1 started"]);
}

#[test]
fn who_has_one_of_two_addresses_of_a_port_is_not_hotswap_itself() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
    let second = holder.local_addr().expect("its address").to_string();
    let first = format!("[::1]{}", second.trim_start_matches("127.0.0.1"));
    let pid = std::process::id();
    let (held, hint) = (
        format!("it is held by pid {pid} ("),
        format!("first: kill {pid}"),
    );
    attempt(&["--listen", &first, "--listen", &second, "--", "true"])
        .is_refused(125, &[&held, &hint]);
}

#[test]
fn an_address_that_another_one_covers_is_not_held_by_somebody_else() {
    let address = crate::common::place::free_address();
    let (all, one) = (format!("0.0.0.0:{}", address.port()), address.to_string());
    let why = format!("cannot listen on {one}: Address already in use");
    let covered = attempt(&["--listen", &all, "--listen", &one, "--", "true"]);
    covered.is_refused(
        125,
        &[
            &why,
            "another address of this hotswap covers it\ntry: one of",
        ],
    );
    assert!(!covered.said.contains("kill"), "{}", covered.said);
}

#[test]
fn an_address_that_is_given_twice_is_refused() {
    let address = crate::common::place::free_address().to_string();
    let twice = ["--listen", &address, "--listen", &address, "--", "true"];
    let why = format!("cannot listen on {address} twice");
    attempt(&twice).is_refused(125, &[&why]);
}
