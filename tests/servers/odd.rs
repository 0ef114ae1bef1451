//! A server that misbehaves in the ways it is told to, one word a way: `odd deaf think=15ms exit=3 after=2s`.
//!
//! Without a word it is a plain server: a thread a connection, and no handler for any signal, so that SIGTERM ends it in
//! the middle of whatever it does. A moment is a duration or `term`, the arrival of SIGTERM.
//!
//! | before it listens | |
//! |---|---|
//! | `say=TEXT` | a line on stderr |
//! | `hidden` | no other user may look into it |
//! | `deaf` | never hears SIGTERM |
//! | `helpers=N`, `escaped=N` | starts N processes in its group, or in sessions of their own |
//! | `background`, `daemon` | starts itself once more and ends with 0, and only then the other goes on; in a session of its own |
//! | `joins` | leaves its process group for that of its parent |
//! | `bomb=N`, `bomb=N sessions` | forks until its user has N processes, each in a session of its own or not |
//! | `eat=MB` | has so much memory |
//! | `exit=STATUS`, `kill=SIGNAL` | ends so, at once or `after=MOMENT`, or `after=ready`: as soon as it has said so |
//! | `late=D` | waits before it takes or binds its sockets |
//! | `at=ADDRESS` | what it binds where it is given no socket: `HOST:PORT`, `unix:PATH`, `unix:@NAME` |
//! | `busy=D` | keeps the processor busy for so long before it takes or binds its sockets |
//!
//! | once it listens | |
//! |---|---|
//! | `backlog=N`, `nonblock` | changes its sockets |
//! | `shut-down=MOMENT`, `close=MOMENT` | shutdown(2) of its sockets, or close(2) |
//! | `asks-itself` | has a process of its own that asks it for something that takes ten minutes |
//! | `tell` | says what its sockets were like: `backlog 4096, blocking` |
//! | `uid=N` | becomes another user |
//! | `exec=MOMENT` | becomes `sleep`, which holds whatever it had open |
//! | `ready`, `parent` | sends READY=1, or SIGTERM to its parent |
//! | `notify=TEXT` | sends that where READY=1 goes |
//! | `newline=FD` | writes a newline there |
//! | `notify-flood`, `stderr-flood`, `stderr-flood=LENGTH` | as fast as it can, for ever; in lines, or in one |
//! | `hang`, `hang=D` | waits before it accepts |
//! | `and=ADDRESS`, `and-late=D` | binds and serves another TCP address as well, D after the first |
//! | `single`, `think=D` | one connection at a time, each answer takes D |
//! | `parts=D` | sends the head of an answer at once, and its body D later |
//! | `greet=D` | speaks first, after D |
//! | `status=STATUS`, `health=STATUS` | what it answers to everything, and to `/health` |
//! | `writes=HOW:PATH` | on each request: `in-place`, `rename`, `new` files in a directory, `deep` in a new one, `database` |
//! | `peer` | names the address that asks, in a second line |
//! | `host=NAME` | answers 404 to those that ask for another host |
//! | `half` | breaks off in the middle of its answers |
//! | `garbage`, `tls`, `closes` | answers in another protocol, or not at all |
//! | `rpc` | speaks another protocol where it binds first, and HTTP on the address of `and` alone |
//! | `echo` | answers datagrams |

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, exit};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, net, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{self, Backlog};
use nix::unistd::Pid;

mod unruly;

fn main() -> io::Result<()> {
    let words = Words::from_arguments();
    if words.has("helper") {
        thread::sleep(Duration::from_secs(3600));
        return Ok(());
    }
    if let Some(address) = words.value("asks") {
        return unruly::ask(address);
    }
    words.start()?;
    let sockets = Arc::new(words.sockets()?);
    words.change(&sockets)?;
    words.announce()?;
    if words.has("asks-itself") {
        unruly::ask_itself(&sockets[0])?;
    }
    words.hang();
    if words.has("echo") {
        return echo(&sockets);
    }
    let turn = Arc::new(Mutex::new(()));
    thread::scope(|listeners| {
        if let Some(address) = words.value("and") {
            listeners.spawn(|| words.serve_another(address, &turn));
        }
        for socket in sockets.iter() {
            listeners.spawn(|| words.accept(socket, &turn));
        }
    });
    Ok(())
}

#[derive(Clone)]
struct Words(HashMap<String, String>);

impl Words {
    fn from_arguments() -> Words {
        let word = |word: String| match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (word, String::new()),
        };
        Words(env::args().skip(1).map(word).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        let number = self.value(name)?.parse().ok();
        Some(number.unwrap_or_else(|| panic!("{name} wants a number")))
    }

    fn time(&self, name: &str) -> Option<Duration> {
        self.value(name).map(duration)
    }

    /// What happens before there is a socket.
    fn start(&self) -> io::Result<()> {
        if let Some(text) = self.value("say") {
            eprintln!("{text}");
        }
        if self.has("hidden") {
            nix::sys::prctl::set_dumpable(false)?;
        }
        // A blocked signal is as unheard as an ignored one, and can be waited for where it is a moment.
        if self.has("deaf") || self.0.values().any(|value| value == "term") {
            SigSet::from(Signal::SIGTERM).thread_block()?;
        }
        for _ in 0..self.number("helpers").unwrap_or(0) {
            Command::new(env::current_exe()?).arg("helper").spawn()?;
        }
        for _ in 0..self.number("escaped").unwrap_or(0) {
            let own = env::current_exe()?;
            Command::new("setsid").arg(own).arg("helper").spawn()?;
        }
        if self.has("background") || self.has("daemon") {
            unruly::start_again(self.has("daemon"))?;
            exit(0);
        }
        if let Some(first) = self.number("heir-of") {
            unruly::outlive(first);
        }
        if self.has("joins") {
            unruly::join_parent();
        }
        if let Some(megabytes) = self.number::<usize>("eat") {
            unruly::eat(megabytes << 20);
        }
        let end = self.clone();
        match self.value("after") {
            Some("ready") => {}
            Some(moment) => at(moment, move || end.end()),
            None => self.end(),
        }
        // Last, since it leaves no room for a thread.
        if let Some(most) = self.number("bomb") {
            unruly::bomb(most, self.has("sessions"));
        }
        thread::sleep(self.time("late").unwrap_or_default());
        let (since, busy) = (Instant::now(), self.time("busy").unwrap_or_default());
        while since.elapsed() < busy {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(signal) = self.value("kill") {
            raise(signal.parse().expect("a signal")).expect("a signal to itself");
        }
        if let Some(status) = self.number("exit") {
            exit(status);
        }
    }

    /// The sockets it is given, whoever their `LISTEN_PID` was, else one of its own.
    fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        if let Some(count) = env::var("LISTEN_FDS")
            .ok()
            .and_then(|n| n.parse::<usize>().ok())
        {
            return Ok((3..).take(count).map(owned).collect());
        }
        let address = self.value("at").unwrap_or("127.0.0.1:8080");
        Ok(vec![match address.strip_prefix("unix:") {
            Some(path) => match path.strip_prefix('@') {
                Some(name) => {
                    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?.into()
                }
                None => UnixListener::bind(path)?.into(),
            },
            None if self.has("echo") => UdpSocket::bind(address)?.into(),
            None => {
                let own = TcpListener::bind(address)?;
                println!("listening on {}", own.local_addr()?);
                own.into()
            }
        }])
    }

    /// What it does to its sockets.
    fn change(&self, sockets: &Arc<Vec<OwnedFd>>) -> io::Result<()> {
        if self.has("tell") {
            sockets.iter().for_each(unruly::tell);
        }
        for socket in sockets.iter() {
            if let Some(backlog) = self.number::<i32>("backlog") {
                socket::listen(socket, Backlog::new(backlog)?)?;
            }
            if self.has("nonblock") {
                TcpListener::from(socket.try_clone()?).set_nonblocking(true)?;
            }
        }
        if let Some(moment) = self.value("shut-down") {
            let sockets = Arc::clone(sockets);
            at(moment, move || {
                for socket in sockets.iter() {
                    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Both);
                }
            });
        }
        if let Some(moment) = self.value("close") {
            let sockets = Arc::clone(sockets);
            at(moment, move || unruly::close(&sockets));
        }
        if let Some(uid) = self.number("uid") {
            unruly::become_user(uid);
        }
        if let Some(moment) = self.value("exec") {
            at(moment, || {
                panic!("{}", Command::new("sleep").arg("3600").exec());
            });
        }
        Ok(())
    }

    /// How it says that it is ready, true or not.
    fn announce(&self) -> io::Result<()> {
        if let Some(text) = self.value("notify") {
            notify(text.as_bytes())?;
        }
        if self.has("ready") {
            notify(b"READY=1\n")?;
        }
        if self.value("after") == Some("ready") {
            self.end();
        }
        if let Some(fd) = self.number::<i32>("newline") {
            fs::OpenOptions::new()
                .write(true)
                .open(format!("/proc/self/fd/{fd}"))?
                .write_all(b"\n")?;
        }
        if self.has("parent") {
            kill(
                Pid::from_raw(parent_id().try_into().expect("a pid")),
                Signal::SIGTERM,
            )?;
        }
        if self.has("notify-flood") {
            thread::spawn(|| while notify(b"READY=1\nSTATUS=flooding\n").is_ok() {});
        }
        if let Some(length) = self.value("stderr-flood") {
            let mut line = vec![b'x'; 8191];
            for end in length
                .parse()
                .into_iter()
                .flat_map(|n| (n..8191).step_by(n))
            {
                line[end] = b'\n';
            }
            thread::spawn(move || while io::stderr().write_all(&line).is_ok() {});
        }
        Ok(())
    }

    fn hang(&self) {
        match self.value("hang") {
            Some("") => loop {
                thread::park();
            },
            Some(time) => thread::sleep(duration(time)),
            None => {}
        }
    }

    fn serve_another(&self, address: &str, turn: &Mutex<()>) {
        thread::sleep(self.time("and-late").unwrap_or_default());
        let another = TcpListener::bind(address).expect("another address");
        self.accept(&another.into(), turn);
    }

    fn accept(&self, socket: &OwnedFd, turn: &Mutex<()>) {
        loop {
            let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            if self.has("nonblock") && poll(&mut polled, PollTimeout::NONE).is_err() {
                continue;
            }
            let Ok(stream) = socket::accept(socket.as_raw_fd()).map(owned::<TcpStream>) else {
                // Shut down; what has been accepted is still served.
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            if self.has("single") {
                let _turn = turn.lock();
                let _ = self.serve(&stream);
            } else {
                let words = self.clone();
                thread::spawn(move || words.serve(&stream));
            }
        }
    }

    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        if let Some(time) = self.time("greet") {
            thread::sleep(time);
            stream.write_all(answer().as_bytes())?;
            return stream.shutdown(Shutdown::Write);
        }
        let mut asked = String::new();
        let mut buffer = [0; 4096];
        loop {
            while !asked.ends_with("\r\n\r\n") {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => asked += &String::from_utf8_lossy(&buffer[..n]).to_lowercase(),
                }
                let here = stream.local_addr().ok().map(|address| address.to_string());
                let is_first = here.as_ref() != self.0.get("and");
                if let Some(bytes) = self.strange_answer(&buffer, is_first) {
                    return stream.write_all(bytes);
                }
            }
            let slow = asked
                .split_once("?ms=")
                .and_then(|(_, ms)| ms.split_once(' '));
            thread::sleep(
                slow.map_or_else(Duration::default, |(ms, _)| duration(&format!("{ms}ms"))),
            );
            thread::sleep(self.time("think").unwrap_or_default());
            if let Some((how, path)) = self.value("writes").and_then(|what| what.split_once(':')) {
                unruly::write(how, path.as_ref())?;
            }
            let health = self
                .value("health")
                .filter(|_| asked.starts_with("get /health "));
            let elsewhere = |host: &&str| !asked.contains(&format!("host: {host}\r\n"));
            let missed = self.value("host").filter(elsewhere).map(|_| "404");
            let status = missed.or(health).or(self.value("status")).unwrap_or("200");
            let peer = self.has("peer").then(|| stream.peer_addr());
            let peer = peer.map(|peer| peer.map_or("a unix client".to_owned(), named));
            let body = peer.map_or_else(answer, |peer| format!("{}peer {peer}\n", answer()));
            let length = body.len();
            let whole = format!("HTTP/1.1 {status} Odd\r\nContent-Length: {length}\r\n\r\n{body}");
            let sent = if self.has("half") {
                whole.len() - 5
            } else {
                whole.len()
            };
            let head = self.time("parts").map_or(0, |pause| {
                let head = whole.len() - length;
                let _ = stream.write_all(&whole.as_bytes()[..head]);
                thread::sleep(pause);
                head
            });
            stream.write_all(&whole.as_bytes()[head..sent])?;
            if self.has("single") || self.has("half") || asked.contains("connection: close") {
                return Ok(());
            }
            asked.clear();
        }
    }
}

impl Words {
    /// What one that speaks no HTTP says to the first bytes that it gets.
    fn strange_answer(&self, asked: &[u8], is_first: bool) -> Option<&'static [u8]> {
        // A TLS server says nothing in clear text, and sends an alert to a hello that it does not like.
        let hello = asked.starts_with(&[0x16, 3]);
        match () {
            () if self.has("garbage") || (self.has("rpc") && is_first) => Some(b"SSH-2.0-odd\r\n"),
            () if self.has("tls") && hello => Some(&[0x15, 3, 3, 0, 2, 2, 40]),
            () if self.has("tls") || self.has("closes") => Some(b""),
            () => None,
        }
    }
}

/// Answers datagrams until SIGTERM, and leaves none unanswered that it has taken.
fn echo(sockets: &[OwnedFd]) -> io::Result<()> {
    let sigterm = SigSet::from(Signal::SIGTERM);
    sigterm.thread_block()?;
    let stop = SignalFd::new(&sigterm)?;
    let sockets: Vec<UdpSocket> = sockets
        .iter()
        .map(|s| s.try_clone().map(UdpSocket::from))
        .collect::<io::Result<_>>()?;
    let mut datagram = [0; 2048];
    loop {
        let mut polled = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        polled.extend(
            sockets
                .iter()
                .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)),
        );
        poll(&mut polled, PollTimeout::NONE)?;
        if polled[0].any() == Some(true) {
            return Ok(());
        }
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            if let Ok((_, client)) = socket.recv_from(&mut datagram) {
                socket.send_to(answer().as_bytes(), client)?;
            }
        }
    }
}

fn named(peer: net::SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

fn answer() -> String {
    let of = |name: &str| env::var(name).unwrap_or("0".to_owned());
    format!(
        "hello from {}, generation {}\n",
        of("VERSION"),
        of("HOTSWAP_GENERATION")
    )
}

fn notify(message: &[u8]) -> io::Result<usize> {
    let name = env::var("NOTIFY_SOCKET").unwrap_or_default();
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)
}

/// Does it at that moment, from a thread of its own.
fn at(moment: &str, what: impl FnOnce() + Send + 'static) {
    let moment = moment.to_owned();
    thread::spawn(move || {
        if moment == "term" {
            SigSet::from(Signal::SIGTERM).wait().expect("a signal");
        } else {
            thread::sleep(duration(&moment));
        }
        eprintln!("its moment has come");
        what();
    });
}

fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).expect("a duration")
}

#[allow(unsafe_code)]
fn owned<T: FromRawFd>(fd: i32) -> T {
    // SAFETY: accept(2), or whoever set LISTEN_FDS, has just given this descriptor to us, and nothing else owns it.
    unsafe { T::from_raw_fd(fd) }
}
