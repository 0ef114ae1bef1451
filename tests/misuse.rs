//! The control socket under those who misuse it: they are refused or dropped, and nobody else notices.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::commands::{ended, run, said, status};
use crate::common::place::Place;
use crate::common::site::Site;
use crate::common::{Raised, skipped};

fn socket(site: &Site) -> PathBuf {
    site.dir().join("run/hotswap/server.sock")
}

pub fn caller(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(socket(site)).expect("a connection");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("its timeout");
    stream
}

/// All that is said until the connection ends.
fn heard(mut stream: UnixStream) -> String {
    let mut said = Vec::new();
    // Who is dropped in the middle of a word finds the connection reset.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

/// A site under load is swapped while `what` is done to its control socket, and nobody notices.
fn unnoticed(what: impl FnOnce(&Site)) {
    // those that ask for swaps get as many as there is time for
    let plan = Site::at(Place::Tcp4).with(&["--max-draining", "100"]);
    let site = plan.serving("v1");
    let mut clients = site.clients(8);
    clients.until_answered(100);
    what(&site);
    let output = run(site.publish("v2"), &["swap", "server"]);
    ended(&output, 0, &[]);
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn only_its_owner_may_connect() {
    let site = Site::serving("v1");
    let mode = |path: &PathBuf| fs::metadata(path).expect("a file").mode() & 0o777;
    assert_eq!(mode(&socket(&site)), 0o600);
    assert_eq!(mode(&site.dir().join("run/hotswap")), 0o700);
}

/// Even where the file lets everybody in.
#[test]
fn a_peer_of_another_uid_is_refused() {
    const NAME: &str = "a_peer_of_another_uid_is_refused";
    if !Uid::effective().is_root() {
        return skipped(NAME, "only root can be somebody else");
    }
    let site = Site::serving("v1");
    for (file, mode) in [
        ("run", 0o755),
        ("run/hotswap", 0o755),
        ("run/hotswap/server.sock", 0o666),
    ] {
        let path = site.dir().join(file);
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
    }
    let script = r#"$SIG{PIPE} = 'IGNORE'; my $s = IO::Socket::UNIX->new($ARGV[0]) or die "$!";
        print $s qq({"do":"stop"}\n); print <$s>;"#;
    let mut perl = Command::new("setpriv");
    perl.args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl"]);
    let output = perl
        .args(["-MIO::Socket::UNIX", "-e", script])
        .arg(socket(&site))
        .output();
    let Ok(output) = output else {
        return skipped(NAME, "there is no setpriv or perl");
    };
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("only uid 0 and root may connect"),
        "{}",
        said(&output)
    );
    assert!(!said(&output).contains("done"), "{}", said(&output));
    site.swap().log.wait_for("generation 2 is serving");
}

#[test]
fn hung_clients_change_nothing() {
    let mut callers = Vec::new();
    unnoticed(|site| {
        for begin in ["", "{\"do\":", "{\"do\":\"events\"}\n"].repeat(40) {
            let mut caller = caller(site);
            caller.write_all(begin.as_bytes()).expect("a beginning");
            callers.push(caller);
        }
    });
}

#[test]
fn vanishing_clients_change_nothing() {
    unnoticed(|site| {
        for what in ["swap", "status", "events", "nonsense"].repeat(25) {
            let mut caller = caller(site);
            let _ = writeln!(caller, "{{\"do\":\"{what}\"}}");
        }
    });
}

#[test]
fn flooding_clients_change_nothing() {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Raised(&enough);
        unnoticed(|site| {
            let path = socket(site);
            for line in ["{\"do\":\"status\"}\n", "{\"do\":\"events\"}\n", "x", ""] {
                let (path, enough) = (path.clone(), &enough);
                scope.spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        let Ok(mut stream) = UnixStream::connect(&path) else {
                            continue;
                        };
                        let _ = stream.set_write_timeout(Some(Duration::from_millis(10)));
                        let flood = line.repeat(100_000);
                        let _ = stream.write(flood.as_bytes());
                    }
                });
            }
            // What comes after this is done in the flood.
            enough_of_it(site);
        });
    });
}

fn enough_of_it(site: &Site) {
    for _ in 0..20 {
        status(site);
    }
}

/// Bytes of every kind, by many connections, while clients are served.
#[test]
fn whatever_is_sent_nobody_notices() {
    let pieces = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::sample::select(vec![
            &b"{\"do\":\"status\"}\n"[..],
            b"{\"do\":\"events\"}\n",
            b"{\"do\":\"status\"",
            b"{\"do\":[[[[",
            b"{\"drained\":1e999}\n",
            b"\n\n\n",
            b"null\n",
            b"\xff\xfe{}\n",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    unnoticed(|site| {
        let mut runner = TestRunner::new(Config {
            cases: 300,
            failure_persistence: None,
            ..Config::default()
        });
        let sequences = prop::collection::vec(pieces, 0..8);
        let result = runner.run(&sequences, |sequence| {
            let mut stream = caller(site);
            for piece in sequence {
                // It may have hung up on us.
                let _ = stream.write_all(&piece);
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.set_nonblocking(true);
            let _ = stream.read(&mut [0; 1000]);
            Ok(())
        });
        result.expect("hotswap lets everybody in");
        enough_of_it(site);
    });
}

#[test]
fn a_request_that_is_none_is_told_so() {
    let site = Site::serving("v1");
    let mut stream = caller(&site);
    stream.write_all(b"swap, please\n").expect("a request");
    assert!(heard(stream).contains("cannot understand the request: not a line of JSON"));
    let mut stream = caller(&site);
    match stream.write_all(&vec![b'x'; 100_000]) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
        _ => assert!(heard(stream).contains("the request is too long")),
    }
}
