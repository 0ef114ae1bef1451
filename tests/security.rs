//! What others could do to hotswap: other users of the machine, the server itself, files in a watched tree, and whoever
//! chooses a name that ends up on a terminal.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::commands::{ended, run, said};
use crate::common::Raised;
use crate::common::attempt::attempt_in;
use crate::common::place::{Place, Target};
use crate::common::site::Site;
use crate::common::skipped;
use crate::nonroot::{SETPRIV, as_nobody};

/// It clears the screen, begins a line, and says in it what hotswap says.
const FORGED: &str = "x\x1b[2J\nhotswap: generation 99 is serving\u{9b}5n";

fn expect_plain(text: &str) {
    let odd = |c: char| c.is_control() && c != '\n';
    assert!(!text.chars().any(odd), "{text:?}");
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("hotswap: generation 99")),
        "{text}"
    );
}

#[test]
fn another_user_is_not_served() {
    let site = Site::serving("v1");
    let socket = site.dir().join("run/hotswap/server.sock");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    };
    let ask = |user: &[&str], what: &str| {
        let mut curl = Command::new(user.first().unwrap_or(&"curl"));
        let rest = user.iter().skip(1).copied();
        let curl = curl.args(rest.chain(["curl"]).skip(usize::from(user.is_empty())));
        let asked = curl
            .args(["-s", "--http0.9", "--max-time", "20", "--unix-socket"])
            .arg(&socket)
            .args(["http://hotswap/", "-X", &format!("{{\"do\":\"{what}\"}}\n")]);
        let output = asked.output();
        output.map(|output| (output.status.code(), said(&output)))
    };
    let Ok((_, owner)) = ask(&[], "status") else {
        return skipped("another_user_is_not_served", "needs curl");
    };
    assert!(owner.contains("\"hotswap\""), "{owner}");
    let answer = ask(&SETPRIV, "stop")
        .ok()
        .filter(|_| nix::unistd::geteuid().is_root());
    let Some((status, _)) = answer else {
        return skipped("another_user_is_not_served", "needs root and setpriv(1)");
    };
    assert_eq!(status, Some(7), "it could connect");
    // Even if somebody opens it to all, the kernel tells who asks.
    mode(&site.dir().join("run"), 0o755);
    mode(&site.dir().join("run/hotswap"), 0o755);
    mode(&socket, 0o666);
    let (_, stranger) = ask(&SETPRIV, "stop").expect("curl");
    assert!(!stranger.contains("\"hotswap\""), "{stranger}");
    assert!(!site.log.says("stopping"));
    site.publish("v2").swap();
}

/// Neither a link nor a file at the name of the socket is followed, replaced or removed.
#[test]
fn what_lies_in_the_place_of_the_control_socket_stays() {
    let plan = Site::at(Place::Tcp4);
    let run_dir = plan.dir().join("run/hotswap");
    fs::create_dir_all(&run_dir).expect("a directory");
    let victim = plan.dir().join("run/victim");
    fs::write(&victim, "precious").expect("a file");
    symlink(&victim, run_dir.join("server.sock")).expect("a link");
    // Whoever may read a directory may lock it for ever.
    let locked = File::open(&run_dir).expect("the directory");
    let _lock = Flock::lock(locked, FlockArg::LockExclusive).map_err(|(_, error)| error);
    let mut site = plan.serving("v1");
    assert_eq!(run(&site, &["swap", "server-2"]).status.code(), Some(0));
    site.stop();
    assert_eq!(fs::read_to_string(&victim).expect("the file"), "precious");
    assert!(run_dir.join("server.sock").is_symlink());
}

/// Others may put there what they like, and take away nothing that is ours.
#[test]
fn a_unix_path_in_a_directory_of_all_survives_squatters() {
    let name = "a_unix_path_in_a_directory_of_all_survives_squatters";
    if !nix::unistd::geteuid().is_root() {
        return skipped(name, "needs root, to be somebody else");
    }
    let Some(plan) = as_nobody(name, Place::Nowhere) else {
        return;
    };
    let shared = plan.dir().join("run").join("shared");
    fs::create_dir_all(&shared).expect("a directory");
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).expect("its mode");
    let path = shared.join("site.sock");
    let listen = format!("unix:{}", path.display());
    let site = plan
        .with(&["--listen", &listen])
        .reached_at(Target::Unix(path.clone()))
        .serving("v1");
    let mut clients = site.clients(4);
    for squatted in ["site.sock.hotswap-2", "site.sock.hotswap-new"] {
        let squatted = shared.join(squatted);
        fs::write(&squatted, "").expect("a squatter");
        let verdict = site.publish("v2").swap_in_vain();
        assert!(verdict.contains("keeps serving"), "{verdict}");
        fs::remove_file(squatted).expect("the squatter");
    }
    site.publish("v2").swap();
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// A FIFO that nobody writes to would keep whoever reads it for ever.
#[test]
fn files_in_a_watched_tree_neither_hang_nor_forge_a_line() {
    let plan = Site::at(Place::Tcp4);
    let tree = plan.dir().join("run/tree");
    fs::create_dir_all(tree.join("below")).expect("a tree");
    for odd in [".gitignore", "fifo", "below/.ignore"] {
        mkfifo(&tree.join(odd), Mode::from_bits_truncate(0o666)).expect("a FIFO");
    }
    symlink("/dev/zero", tree.join("endless")).expect("a link");
    symlink(".", tree.join("round")).expect("a link");
    let site = plan
        .with(&["--watch", &tree.display().to_string()])
        .serving("v1");
    fs::write(tree.join(OsStr::from_bytes(FORGED.as_bytes())), "").expect("a file");
    site.log.wait_for(" changed");
    site.log.wait_for("generation 2 is serving");
    expect_plain(&site.log.timed());
    fs::write(tree.join("plain"), "").expect("a file");
    site.log.wait_for("generation 3 is serving");
}

/// Others may write there without a pause: hotswap does not wait for it to end.
#[test]
fn a_flood_of_file_events_keeps_nobody_waiting() {
    let plan = Site::at(Place::Tcp4);
    let tree = plan.dir().join("run/tree");
    fs::create_dir_all(&tree).expect("a tree");
    let site = plan
        .with(&["--watch", &tree.display().to_string()])
        .serving("v1");
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        let _over = Raised(&is_over);
        for number in 0..4 {
            let (hidden, is_over) = (tree.join(format!(".{number}")), &is_over);
            threads.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    fs::write(&hidden, "").expect("a file");
                    fs::remove_file(&hidden).expect("the file");
                }
            });
        }
        for below in ["one", "two", "three"] {
            // One more directory to be watched, in the midst of it.
            fs::create_dir(tree.join(below)).expect("a directory");
            site.swap();
        }
    });
}

/// What an instance says goes to the terminal of whoever asks, which may be root.
#[test]
fn an_instance_of_somebody_else_cannot_speak_to_the_terminal() {
    let site = Site::serving("v1");
    let path = site.dir().join("run/hotswap/evil.sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    let text = serde_json::Value::from(FORGED);
    let (greeting, verdict) = (
        format!("{{\"hotswap\":\"0\",\"name\":{text},\"pid\":1}}\n"),
        format!(
            "{{\"event\":{{\"event\":\"started\",\"message\":{text}}}}}\n\
             {{\"verdict\":{{\"serving\":false,\"message\":{text},\"stderr\":[{text}]}}}}\n"
        ),
    );
    let instance = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(greeting.as_bytes()).expect("a greeting");
        let mut request = String::new();
        let mut reader = BufReader::new(client.try_clone().expect("a stream"));
        reader.read_line(&mut request).expect("a request");
        client.write_all(verdict.as_bytes()).expect("a verdict");
    });
    let output = run(&site, &["swap", &path.display().to_string()]);
    instance.join().expect("the instance");
    ended(&output, 1, &[]);
    expect_plain(&said(&output));
}

/// The name of a program is the user's own, and yet it may come from a script.
#[test]
fn a_program_with_a_forged_name_is_spelled_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = format!("./{FORGED}");
    let attempt = attempt_in(dir, &["--name", "odd", "--", &name], |_| {});
    attempt.ended(127, &[]);
    expect_plain(&attempt.said);
}

/// A variable that an upgrade left behind somewhere, and one that nobody understands.
#[test]
fn variables_of_somebody_else_do_no_harm() {
    for left in ["0", "1:0:0"] {
        let mut site = Site::at(Place::Tcp4)
            .variable("HOTSWAP_HANDED_OVER", left)
            .variable("HOTSWAP_LOG", "hotswap=loud")
            .serving("v1");
        let warned = site.log.lines("HOTSWAP_LOG=hotswap=loud");
        assert_eq!(warned.len(), 1);
        assert!(!site.log.says("invalid logging spec"));
        assert_eq!(site.stop().code(), Some(0));
    }
}

#[test]
fn only_a_generation_itself_can_say_that_it_is_ready() {
    let site = Site::at(Place::Tcp4)
        .with(&["--ready", "notify", "--ready-timeout", "2s"])
        .opening("v1");
    let server = site.pid(1);
    let socket = crate::common::eventually("its variables", || {
        let environment = fs::read(format!("/proc/{server}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| Some(variable.strip_prefix(b"NOTIFY_SOCKET=@")?.to_owned()))
    });
    let address = SocketAddr::from_abstract_name(&socket).expect("an address");
    let stranger = UnixDatagram::unbound().expect("a socket");
    stranger.send_to_addr(b"READY=1", &address).expect("a lie");
    site.log.wait_for("not ready within 2s");
    assert!(!site.log.says("is serving"));
}

/// Its socket, and what it would have without hotswap.
#[test]
fn a_server_gets_no_descriptor_that_it_was_not_promised() {
    let site = Site::at(Place::Tcp4)
        .with(&["--watch", "/etc/hostname", "--on-event", "true"])
        .by_odd("")
        .serving("v1");
    site.publish("v2").swap();
    let held = format!("/proc/{}/fd", site.pid(2));
    let mut numbers: Vec<String> = fs::read_dir(&held)
        .expect("its descriptors")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2", "3"]);
    let stdin = fs::read_link(format!("{held}/0")).expect("its stdin");
    assert_eq!(stdin, Path::new("/dev/null"));
}

/// hotswap binds it in the server's place, with no more rights than that has.
#[test]
fn a_captured_path_is_bound_with_the_rights_of_the_server() {
    if !nix::unistd::geteuid().is_root() {
        return skipped(
            "a_captured_path_is_bound_with_the_rights_of_the_server",
            "needs root",
        );
    }
    let plan = Site::at(Place::Nowhere).with(&["--user", "65534", "--group", "65534"]);
    let path = plan.dir().join("own.sock");
    let mut site = plan
        .by_odd(&format!("at=unix:{}", path.display()))
        .opening("v1");
    assert!(!site.end().success());
    assert!(site.log.says("Permission denied"));
    assert!(!path.exists());
}
