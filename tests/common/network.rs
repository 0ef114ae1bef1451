//! Two network namespaces with a long way between them: clients in one, the site in the other.
//!
//! The namespaces have no name: they live as long as this, and nothing is left of them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{process, thread};

use nix::sched::{CloneFlags, setns, unshare};

use super::server;

/// The address of the clients.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SITE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Nobody else is there, so the port can be a fixed one.
pub const FAR_AWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SITE), 8080);

pub struct Network {
    clients: File,
    site: File,
    relay: Child,
}

impl Network {
    /// Says why, where there cannot be one.
    pub fn with(round_trip: Duration, loss_per_mille: u32) -> Result<Network, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        File::open("/dev/net/tun").map_err(|why| format!("needs /dev/net/tun: {why}"))?;
        let clients = namespace()?;
        let site = namespace()?;
        let path = |file: &File| format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd());
        let one_way = format!("{}us", round_trip.as_micros() / 2);
        let mut relay = Command::new(server("relay"));
        relay.args([
            path(&clients),
            path(&site),
            one_way,
            loss_per_mille.to_string(),
        ]);
        relay.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut relay = relay.spawn().map_err(|why| format!("no relay: {why}"))?;
        let mut said = String::new();
        let stdout = relay.stdout.take().ok_or("a relay without stdout")?;
        BufReader::new(stdout)
            .read_line(&mut said)
            .map_err(|why| why.to_string())?;
        if said.is_empty() {
            return Err("the relay could not make its devices".to_owned());
        }
        let network = Network {
            clients,
            site,
            relay,
        };
        for (file, address) in [(&network.clients, CLIENTS), (&network.site, SITE)] {
            configure(door(file), address)?;
        }
        Ok(network)
    }

    /// Leads the calling thread to where the clients are.
    pub fn to_the_clients(&self) -> impl FnOnce() + Send + 'static + use<> {
        door(&self.clients)
    }

    pub fn to_the_site(&self) -> impl FnOnce() + Send + 'static + use<> {
        door(&self.site)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.relay.stdin.take());
        let _ = self.relay.wait();
    }
}

/// A new namespace, held by its descriptor alone.
pub fn namespace() -> Result<File, String> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    let made: std::io::Result<File> = made.join().expect("a namespace");
    made.map_err(|why| format!("no network namespace: {why}"))
}

/// Leads the calling thread into it.
pub fn door(namespace: &File) -> impl FnOnce() + Send + 'static + use<> {
    let namespace = namespace.try_clone().expect("the namespace");
    move || setns(namespace, CloneFlags::CLONE_NEWNET).expect("the way into the namespace")
}

fn configure(door: impl FnOnce() + Send + 'static, address: Ipv4Addr) -> Result<(), String> {
    let ip = move || {
        door();
        let address = format!("{address}/24");
        for line in [
            "link set lo up".to_owned(),
            format!("address add {address} dev far0"),
            "link set far0 up txqueuelen 10000".to_owned(),
        ] {
            let status = Command::new("ip").args(line.split(' ')).status();
            match status.map_err(|why| format!("needs ip(8): {why}"))? {
                status if status.success() => {}
                status => return Err(format!("ip {line}: {status}")),
            }
        }
        Ok(())
    };
    thread::spawn(ip).join().expect("ip(8)")
}
