//! hotswap under a service manager that keeps descriptors: neither a restart nor a crash refuses anybody.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use nix::unistd::geteuid;

use crate::common::crowd::Habit;
use crate::common::families::on_every_family;
use crate::common::place::{Place, Target, free_address};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::common::{eventually, processes, server, skipped};

/// What stands in for systemd.
struct Manager {
    notify: Arc<UnixDatagram>,
    starts: UnixListener,
    kept: Arc<Mutex<Kept>>,
}

type Kept = Vec<(String, OwnedFd)>;

impl Manager {
    /// The service is started by it, through another program.
    fn of(plan: Plan, through: &[&str]) -> (Manager, Plan) {
        let dir = plan.dir().join("run");
        fs::create_dir_all(&dir).expect("a directory");
        let (notify, starts) = (dir.join("notify"), dir.join("starts"));
        let manager = Manager {
            notify: UnixDatagram::bind(&notify).expect("a socket").into(),
            starts: UnixListener::bind(&starts).expect("a socket"),
            kept: Arc::default(),
        };
        let (hears, keeps) = (manager.notify.clone(), manager.kept.clone());
        thread::spawn(move || while listen(&hears, &keeps) {});
        let stored = server("stored").display().to_string();
        let plan = plan
            .variable("NOTIFY_SOCKET", &notify.display().to_string())
            .inside(&[&[&*stored, &starts.display().to_string()], through].concat());
        (manager, plan)
    }

    fn until_it_keeps(&self, wanted: &[String]) {
        eventually("what is kept", || {
            let kept = self.kept.lock().expect("what is kept");
            let sockets = kept.iter().filter(|(_, fd)| is_socket(fd));
            let mut names: Vec<&String> = sockets.map(|(name, _)| name).collect();
            names.sort();
            names.into_iter().eq(wanted).then_some(())
        });
    }

    /// What has been sent by now is done, as systemd does it before it hears of the end of a service.
    fn heed_all(&self) {
        let mark = UnixDatagram::unbound().expect("a socket");
        let path = self.notify.local_addr().expect("its address");
        let path = path.as_pathname().expect("a path");
        let (mine, theirs) = UnixStream::pair().expect("a pair");
        let (text, rights) = ([IoSlice::new(b"BARRIER=1")], [theirs.as_raw_fd()]);
        let (rights, to) = (
            [ControlMessage::ScmRights(&rights)],
            UnixAddr::new(path).expect("an address"),
        );
        let from = mark.as_raw_fd();
        sendmsg(from, &text, &rights, MsgFlags::empty(), Some(&to)).expect("a message");
        drop(theirs);
        // it ends once the other end is closed
        (&mine).read_to_end(&mut Vec::new()).expect("an end");
    }

    /// Passes what it keeps to the service that is being started.
    fn start(&self) {
        let (service, _) = self.starts.accept().expect("a service");
        self.heed_all();
        let kept = self.kept.lock().expect("what is kept");
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let fds: Vec<RawFd> = kept.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        let names = format!("{}\n", names.join(":"));
        let text = [IoSlice::new(names.as_bytes())];
        let rights = (!fds.is_empty()).then_some(ControlMessage::ScmRights(&fds));
        let to = service.as_raw_fd();
        sendmsg::<()>(to, &text, rights.as_slice(), MsgFlags::empty(), None).expect("a message");
    }

    fn serving(plan: Plan) -> (Manager, Site) {
        Manager::serving_through(plan, &[])
    }

    fn serving_through(plan: Plan, through: &[&str]) -> (Manager, Site) {
        let (manager, plan) = Manager::of(plan, through);
        let site = thread::scope(|scope| {
            scope.spawn(|| manager.start());
            plan.serving("v1")
        });
        (manager, site)
    }

    fn start_again(&self, site: &mut Site) {
        site.start_again();
        self.start();
    }
}

#[allow(unsafe_code)]
fn owned(number: RawFd) -> OwnedFd {
    // SAFETY: it has just come with a message, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.notify.shutdown(Shutdown::Both);
    }
}

/// Does what one message says; false at the end.
fn listen(notify: &UnixDatagram, kept: &Mutex<Kept>) -> bool {
    let (mut bytes, mut space) = ([0; 4096], cmsg_space!([RawFd; 8]));
    let mut text = [IoSliceMut::new(&mut bytes)];
    let (from, flags) = (notify.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = recvmsg::<()>(from, &mut text, Some(&mut space), flags).expect("a message");
    let mut rights = Vec::new();
    for part in message.cmsgs().expect("whole parts") {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            rights.extend(numbers.into_iter().map(owned));
        }
    }
    let length = message.bytes;
    let text = String::from_utf8_lossy(&bytes[..length]);
    let lines: Vec<&str> = text.lines().collect();
    let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME="));
    let name = name.unwrap_or_default();
    let allowed = |c: char| c.is_ascii() && !c.is_ascii_control() && c != ':';
    assert!(name.chars().all(allowed), "{name}");
    let mut kept = kept.lock().expect("what is kept");
    if lines.contains(&"FDSTOREREMOVE=1") {
        kept.retain(|(other, _)| other != name);
    } else if lines.contains(&"FDSTORE=1") {
        kept.extend(rights.into_iter().map(|fd| (name.to_owned(), fd)));
    }
    length > 0
}

fn is_socket(fd: &OwnedFd) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
}

/// The name of what is kept at the address of a site.
fn name(site: &Site) -> String {
    let address = match &site.targets[0] {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(path) => path.display().to_string(),
        Target::Udp(_) | Target::Abstract(_) => unreachable!("no site of this file"),
    };
    format!("hotswap-{}", address.replace(':', "-"))
}

/// `systemctl restart`.
fn is_restarted(plan: Plan) {
    let (manager, mut site) = Manager::serving(plan);
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    for version in ["v2", "v3"] {
        clients.until_answered(50);
        site.publish(version);
        assert!(site.stop().success());
        manager.start_again(&mut site);
        site.log.wait_for("generation 1 is serving");
        clients.until_all_see(version);
    }
    site.publish("v4").swap();
    clients.until_all_see("v4");
    manager.until_it_keeps(&[name(&site)]);
    clients.expect_no_failure();
}

/// The server closes its listener when it is asked to stop, and answers what it has in hand.
fn stops_gracefully(plan: Plan) {
    let (manager, mut site) = Manager::serving(plan);
    let slow = Habit::taking(Duration::from_secs(1));
    let mut slow = site.guests().and(1, slow).come();
    slow.until_asked(1);
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    clients.until_answered(20);
    site.publish("v2");
    assert!(site.stop().success());
    manager.start_again(&mut site);
    clients.until_all_see("v2");
    clients.expect_no_failure();
    slow.expect_no_failure();
}

/// It is stopped once more while the next version, which is slow, has not accepted anybody.
fn is_stopped_early(plan: Plan, slow: &str) {
    let (manager, mut site) = Manager::serving(plan.by_odd(""));
    manager.until_it_keeps(&[name(&site)]);
    assert!(site.stop().success());
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    clients.until_asked(10);
    site.publish_odd("v2", slow);
    manager.start_again(&mut site);
    site.executed(1);
    clients.until_asked(20);
    assert!(site.stop().success());
    clients.until_asked(30);
    site.publish("v3");
    manager.start_again(&mut site);
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

/// Everything is killed at once, as systemd does when hotswap dies. The server accepts nothing any more, so nothing is lost.
fn crashes(plan: Plan) {
    let (manager, mut site) = Manager::serving(plan);
    site.publish("v2").swap().wait_until_gone(1);
    let mut before = site.clients(4);
    before.until_all_see("v2");
    before.expect_no_failure();
    manager.until_it_keeps(&[name(&site)]);
    processes::stop(site.pid(2));
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    clients.until_asked(20);
    site.kill_hotswap();
    processes::kill_all_of_site(site.dir());
    site.publish("v3");
    manager.start_again(&mut site);
    clients.until_all_see("v3");
    clients.expect_no_failure();
}

/// Its servers live on, as with `KillMode=process`.
fn is_adopted(plan: Plan) {
    let (manager, mut site) = Manager::serving(plan);
    let mut clients = site.guests().arriving(200, Habit::default()).come();
    for (old, version) in [(1, "v2"), (2, "v3")] {
        clients.until_answered(50);
        site.publish(version);
        site.kill_hotswap();
        manager.start_again(&mut site);
        site.log.wait_for("adopting generation ");
        site.wait_until_gone(old);
        clients.until_all_see(version);
        manager.until_it_keeps(&[name(&site)]);
    }
    clients.expect_no_failure();
}

on_every_family! {
    fn a_restart_of_the_service_fails_nobody(plan: Plan) {
        is_restarted(plan);
    }

    fn a_server_that_stops_slowly_fails_nobody_who_comes_meanwhile(plan: Plan) {
        stops_gracefully(plan.with(&["--quiesce", "100ms"]));
    }

    fn a_stop_before_the_server_listens_fails_nobody(plan: Plan) {
        is_stopped_early(plan, "late=60s");
    }

    fn a_stop_before_the_server_accepts_fails_nobody(plan: Plan) {
        is_stopped_early(plan, "hang");
    }

    fn a_crash_of_the_service_fails_nobody_who_was_not_accepted(plan: Plan) {
        crashes(plan);
    }

    fn what_a_killed_hotswap_has_left_is_adopted_beside_what_was_kept(plan: Plan) {
        is_adopted(plan);
    }
}

#[test]
fn clients_wait_where_the_kernel_does_not_tell_who_listens() {
    let confined = server("confined").display().to_string();
    let plan = Site::at(Place::Tcp4).with(&["--quiesce", "300ms"]);
    let (manager, mut site) = Manager::serving_through(plan, &[&confined, "no-netlink"]);
    assert!(site.stop().success());
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    clients.until_asked(20);
    site.publish("v2");
    manager.start_again(&mut site);
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn an_upgrade_changes_nothing_of_what_is_kept() {
    let (manager, mut site) = Manager::serving(Site::at(Place::Tcp4));
    let mut clients = site.guests().arriving(100, Habit::default()).come();
    for version in ["v2", "v3"] {
        site.signal(Signal::SIGUSR2);
        site.log.wait_for("upgraded to ");
        manager.until_it_keeps(&[name(&site)]);
        site.publish(version);
        assert!(site.stop().success());
        manager.start_again(&mut site);
        site.log.wait_for("generation 1 is serving");
        clients.until_all_see(version);
    }
    clients.expect_no_failure();
}

#[test]
fn what_is_no_longer_listened_on_is_not_kept() {
    let first = free_address();
    let plan = Site::at(Place::Given(Target::Tcp(first)));
    let second = format!("unix:{}", plan.dir().join("second").display());
    let plan = plan.with(&["--listen", &first.to_string(), "--listen", &second]);
    let plan = plan.with(&["--capture", "never"]);
    let (manager, mut site) = Manager::serving(plan);
    let mut names = [name(&site), format!("hotswap-{}", &second["unix:".len()..])];
    let first = names[..1].to_vec();
    names.sort();
    manager.until_it_keeps(&names);
    assert!(site.stop().success());
    let line = &mut site.start.line;
    let at = line.iter().position(|word| *word == *second);
    let at = at.expect("the second");
    line.drain(at - 1..=at);
    manager.start_again(&mut site);
    site.log.wait_for("generation 1 is serving");
    manager.until_it_keeps(&first);
}

#[test]
fn a_captured_address_that_the_next_version_does_not_bind_is_let_go() {
    let (first, second) = (free_address(), free_address());
    let plan = Site::at(Place::Captured(first)).with(&["--ready-timeout", "2s"]);
    let (manager, mut site) = Manager::serving(plan);
    manager.until_it_keeps(&[name(&site)]);
    assert!(site.stop().success());
    site.publish_file(hello_at(second).as_bytes(), 0o755);
    manager.start_again(&mut site);
    site.log.wait_for("generation 1 is serving");
    eventually("a refusal", || TcpStream::connect(first).err());
    site.targets = vec![Target::Tcp(second)];
    manager.until_it_keeps(&[name(&site)]);
}

/// It takes all addresses of the host, so that they come to it by another socket.
#[test]
fn clients_are_answered_at_an_address_that_covers_theirs() {
    const NAME: &str = "clients_are_answered_at_an_address_that_covers_theirs";
    if !geteuid().is_root() {
        return skipped(NAME, "needs root");
    }
    let address = free_address();
    let (manager, mut site) = Manager::serving(Site::at(Place::Captured(address)));
    manager.until_it_keeps(&[name(&site)]);
    assert!(site.stop().success());
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_asked(4);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
    site.publish_file(hello_at(everywhere).as_bytes(), 0o755);
    manager.start_again(&mut site);
    clients.until_answered(8);
    clients.expect_no_failure();
    assert!(!site.log.says("address changed"));
}

fn hello_at(address: SocketAddr) -> String {
    format!(
        "#!/bin/sh\nexec '{}' {address}\n",
        server("hello").display()
    )
}
