//! Relayed clients of another host and of another user: what the server sees as their address or user.

use std::fs::{Permissions, set_permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::common::network::{CLIENTS, FAR_AWAY, Network};
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::processes::stop;
use crate::common::{PATIENCE, eventually, skipped};

/// More than a slow server accepts before its queue is relayed.
const MANY: usize = 16;

fn ask(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = b"GET / HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("a connection");
}

/// A slow server on all addresses, clients of another host in its queue, and a swap that does not wait for all of them.
fn they_look_like_what_they_are(name: &str, plan: impl FnOnce(SocketAddr) -> Plan) {
    let network = match Network::with(Duration::from_millis(1), 0) {
        Ok(network) => network,
        Err(why) => return skipped(name, &why),
    };
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, FAR_AWAY.port()));
    let site = plan(everywhere)
        .with(&["--drain-timeout", "3s"])
        .by_odd("single think=300ms peer")
        .through(network.to_the_site())
        .serving("v1");
    let (door, (connected, all_connected)) = (network.to_the_clients(), channel());
    let clients = thread::spawn(move || {
        door();
        let connect = |_| TcpStream::connect(FAR_AWAY).expect("room in the queue");
        let clients: Vec<TcpStream> = (0..MANY).map(connect).collect();
        clients.iter().for_each(ask);
        connected.send(()).expect("the test");
        let answer = |mut client: TcpStream| {
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|_| answer)
        };
        clients.into_iter().map(answer).collect::<Vec<_>>()
    });
    all_connected.recv().expect("connected clients");
    site.publish_odd("v2", "peer").swap();
    let answers = clients.join().expect("the clients");
    let mut relayed = 0;
    for answer in answers {
        let answer = answer.unwrap_or_else(|why| panic!("{why}: {}", site.log.timed()));
        let peer = if answer.contains("hello from v2") {
            relayed += 1;
            FAR_AWAY.ip()
        } else {
            CLIENTS.into()
        };
        assert!(answer.contains(&format!("peer {peer}\n")), "{answer}");
    }
    assert!(relayed > 0, "none was relayed: {}", site.log.timed());
}

#[test]
fn relayed_clients_of_another_host_do_not_look_like_this_host() {
    let name = "relayed_clients_of_another_host_do_not_look_like_this_host";
    they_look_like_what_they_are(name, |everywhere| {
        let plan = Plan::at(Place::Given(Target::Tcp(everywhere)));
        plan.with(&["--listen", &everywhere.to_string()])
    });
}

#[test]
fn neither_do_they_with_a_captured_server() {
    let name = "neither_do_they_with_a_captured_server";
    they_look_like_what_they_are(name, |everywhere| Plan::at(Place::Captured(everywhere)));
}

fn visitor(wrapper: &[&str], path: &str) -> Child {
    let words = ["curl", "--silent", "--show-error", "--max-time", "30"];
    let words = [wrapper, &words, &["--unix-socket", path, "http://site/"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("curl")
}

/// The server would take them for hotswap's own user.
#[test]
fn relayed_clients_of_another_user_are_closed_and_counted() {
    let name = "relayed_clients_of_another_user_are_closed_and_counted";
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !geteuid().is_root() || !has("setpriv") || !has("curl") {
        return skipped(name, "needs root, setpriv and curl");
    }
    let plan = Plan::at(Place::Unix).with(&["--drain-timeout", "3s", "--socket-mode", "0666"]);
    let site = plan.serving("v1");
    set_permissions(site.dir(), Permissions::from_mode(0o755)).expect("a directory");
    let Target::Unix(path) = &site.targets[0] else {
        panic!("no path");
    };
    let path = path.to_str().expect("text");
    stop(site.pid(1));
    let stranger = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let ours = visitor(&[], path);
    let theirs = [visitor(&stranger, path), visitor(&stranger, path)];
    eventually("three clients in the queue", || {
        let status = crate::commands::said(&crate::commands::run(&site, &["status"]));
        status.contains("3 in the queue").then_some(())
    });
    site.publish("v2").swap();
    let said = |child: Child| child.wait_with_output().expect("its end");
    let ours = said(ours);
    let answer = String::from_utf8_lossy(&ours.stdout);
    assert!(answer.contains("hello from v2"), "{ours:?}");
    for one in theirs.map(said) {
        assert!(!one.status.success() && one.stdout.is_empty(), "{one:?}");
    }
    site.log
        .wait_for(&format!("closed 2 connections queued on {path}"));
}
