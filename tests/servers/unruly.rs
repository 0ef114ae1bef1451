//! What `odd` does to itself and to its processes: the calls that have no safe form in std.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};
use std::time::{Duration, SystemTime};
use std::{env, fs, io, thread};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::kill;
use nix::sys::socket::{SockaddrStorage, UnixAddr, getsockname};
use nix::unistd::{ForkResult, Pid, Uid, fork, getpgid, getppid, setpgid, setsid, setuid};

/// Forks for ever, and its children do, until its user has so many processes; each in a session of its own, if that is
/// wanted. Nobody waits for anybody.
pub fn bomb(most: u64, in_sessions: bool) {
    setrlimit(Resource::RLIMIT_NPROC, most, most).expect("a limit");
    thread::spawn(move || multiply(in_sessions));
}

fn multiply(in_sessions: bool) {
    loop {
        // SAFETY: the child makes system calls only, until it is killed.
        match unsafe { fork() } {
            Ok(ForkResult::Child) if in_sessions => drop(setsid()),
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// As a background process, or as a daemon: in a session of its own.
pub fn start_again(daemon: bool) -> io::Result<()> {
    let mut again = Command::new(env::current_exe()?);
    if daemon {
        again = Command::new("setsid");
        again.arg("--fork").arg(env::current_exe()?);
    }
    let words = env::args_os().skip(1);
    again.args(words.filter(|word| word != "background" && word != "daemon"));
    again.arg(format!("heir-of={}", process::id()));
    again.process_group(0).spawn()?;
    Ok(())
}

/// Waits until that process has ended and is reaped.
pub fn outlive(process: i32) {
    while kill(Pid::from_raw(process), None).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Has a process of its own ask it.
pub fn ask_itself(listener: &OwnedFd) -> io::Result<()> {
    let unix = getsockname::<UnixAddr>(listener.as_raw_fd()).ok();
    let path = unix.as_ref().and_then(UnixAddr::path);
    let address = match path.and_then(Path::to_str) {
        // it may have been bound beside the path that leads to it
        Some(path) => path.split(".hotswap-").next().unwrap_or(path).to_owned(),
        None => getsockname::<SockaddrStorage>(listener.as_raw_fd())?.to_string(),
    };
    let mut asks = Command::new(env::current_exe()?);
    asks.arg(format!("asks={address}")).spawn()?;
    Ok(())
}

/// Asks there for something that takes ten minutes.
pub fn ask(address: &str) -> io::Result<()> {
    let request = b"GET /?ms=600000 HTTP/1.1\r\n\r\n";
    let mut answer = [0; 1];
    if let Ok(address) = address.parse::<SocketAddr>() {
        let mut server = TcpStream::connect(address)?;
        server.write_all(request)?;
        eprintln!("it has asked itself");
        server.read_exact(&mut answer)?;
    } else {
        let mut server = UnixStream::connect(address)?;
        server.write_all(request)?;
        eprintln!("it has asked itself");
        server.read_exact(&mut answer)?;
    }
    Ok(())
}

/// Leaves its own process group for that of its parent.
pub fn join_parent() {
    let parent = getpgid(Some(getppid())).expect("the parent's group");
    setpgid(Pid::from_raw(0), parent).expect("another group");
}

pub fn become_user(uid: u32) {
    setuid(Uid::from_raw(uid)).expect("another user");
}

/// Has so much memory from now on, and has written to all of it.
pub fn eat(bytes: usize) {
    vec![1_u8; bytes].leak();
}

/// Whoever waits on one of them still gets what comes next.
pub fn close(sockets: &[OwnedFd]) {
    for socket in sockets {
        // SAFETY: nobody opens anything afterwards that could get this number; `odd` never drops its sockets.
        unsafe { libc::close(socket.as_raw_fd()) };
    }
}

/// On stderr: the limit of its queue, and whether accept(2) would wait.
pub fn tell(socket: &OwnedFd) {
    let flags = fcntl(socket, FcntlArg::F_GETFL).expect("its flags");
    let blocks = flags & OFlag::O_NONBLOCK.bits() == 0;
    let how = if blocks { "blocking" } else { "non-blocking" };
    // in one piece: a line that is cut is passed on in two
    let line = format!("backlog {}, {how}\n", backlog(socket));
    io::stderr().write_all(line.as_bytes()).expect("a stderr");
}

/// The kernel shows it where a connection has its selective acknowledgements.
fn backlog(socket: &OwnedFd) -> u32 {
    // SAFETY: all zero is a valid value of this plain structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = u32::try_from(size_of_val(&info)).expect("a size");
    // SAFETY: both pointers lead to values that live as long as the call, and the length is that of the first.
    unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    info.tcpi_sacked
}

/// Writes a file as servers do that keep their data in files.
pub fn write(how: &str, path: &Path) -> io::Result<()> {
    let now = SystemTime::UNIX_EPOCH.elapsed().map(|now| now.as_nanos());
    let now = now.expect("a time after 1970").to_string();
    match how {
        "in-place" => fs::write(path, &now),
        "rename" => {
            let new = path.with_extension("tmp");
            fs::write(&new, &now)?;
            fs::rename(new, path)
        }
        "new" => fs::write(path.join(&now), &now),
        "deep" => {
            let path = path.join(&now[now.len() - 6..]);
            fs::create_dir_all(&path)?;
            fs::write(path.join(&now), &now)
        }
        "database" => {
            let journal = path.with_extension("db-journal");
            fs::write(&journal, &now)?;
            fs::write(path, &now)?;
            fs::remove_file(journal)
        }
        _ => panic!("{how} is no way to write"),
    }
}
