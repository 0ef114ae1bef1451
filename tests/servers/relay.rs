//! A long way between two network namespaces: packets from one tun device come out of the other, late or never.
//!
//! `relay NAMESPACE NAMESPACE ONE_WAY LOSS_PER_MILLE`: the namespaces are paths, the devices are called `far0`. It ends
//! with its stdin. A userspace relay, because many kernels lack netem.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};
use std::{array, env};

use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};

/// More than a second of any load that a test makes.
const LONGEST_QUEUE: usize = 65_536;

struct Way {
    from: File,
    to: File,
    queue: VecDeque<(Instant, Vec<u8>)>,
}

fn main() -> io::Result<()> {
    let arguments: [String; 4] =
        array::from_fn(|i| env::args().nth(i + 1).expect("four arguments"));
    let [one, other, one_way, loss] = arguments;
    let one_way = humantime::parse_duration(&one_way).expect("a duration");
    let loss: u64 = loss.parse().expect("a number");
    let (near, far) = (tun(&one)?, tun(&other)?);
    let way = |from: &File, to: &File| -> io::Result<Way> {
        Ok(Way {
            from: from.try_clone()?,
            to: to.try_clone()?,
            queue: VecDeque::new(),
        })
    };
    let mut ways = [way(&near, &far)?, way(&far, &near)?];
    let mut dice = 0x9E37_79B9_7F4A_7C15;
    println!("relaying");
    loop {
        for way in &mut ways {
            way.deliver()?;
        }
        let next = ways
            .iter()
            .filter_map(|way| way.queue.front())
            .map(|packet| packet.0)
            .min();
        let wait = next.map(|due| due.saturating_duration_since(Instant::now()).into());
        let stdin = io::stdin();
        let mut polled =
            [near.as_fd(), far.as_fd(), stdin.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        ppoll(&mut polled, wait, None)?;
        if polled[2].any() == Some(true) {
            return Ok(());
        }
        for way in &mut ways {
            way.take(one_way, || {
                // xorshift: the same losses in every run that sends the same.
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                dice % 1000 < loss
            });
        }
    }
}

impl Way {
    /// What has come in since, but for what is lost.
    fn take(&mut self, one_way: Duration, mut is_lost: impl FnMut() -> bool) {
        let mut packet = [0; 2048];
        while let Ok(length) = self.from.read(&mut packet) {
            if !is_lost() && self.queue.len() < LONGEST_QUEUE {
                self.queue
                    .push_back((Instant::now() + one_way, packet[..length].to_vec()));
            }
        }
    }

    fn deliver(&mut self) -> io::Result<()> {
        while self
            .queue
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            if let Some((_, packet)) = self.queue.pop_front() {
                match self.to.write(&packet) {
                    // Not up yet, or full: lost, as on any road.
                    Err(e)
                        if [libc::EIO, libc::EAGAIN].contains(&e.raw_os_error().unwrap_or(0)) => {}
                    other => drop(other?),
                }
            }
        }
        Ok(())
    }
}

/// A tun device in that namespace, where this thread stays.
fn tun(namespace: &str) -> io::Result<File> {
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    attach(&device)?;
    Ok(device)
}

#[allow(unsafe_code)]
fn attach(device: &File) -> io::Result<()> {
    // struct ifreq of netdevice(7): the name, then the flags.
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(b"far0");
    let flags = u16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("sixteen bits");
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, 40 bytes, which `request` has.
    match unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
