//! What is said of calls that hotswap cannot answer as the server asks: why, and what to do.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::bind::BindRequest;
use super::notification::PATIENCE;
use super::{Capture, CaptureEvent, Warning};
use crate::listener::{CapturedAddress, Listeners, others_at};
use crate::socket::unix_stream;
use crate::supervisor::Generation;
use crate::sys;

/// For a server that is in another network namespace.
pub const START_THERE: &str = "ip netns exec NAME hotswap -- COMMAND, or --order stop-first";

impl Capture {
    /// A socket of another network namespace cannot join a group of hotswap's.
    pub(super) fn check_network(&mut self, request: &BindRequest) -> bool {
        let same = if request.server_socket.is_copy {
            request.caller.shares_with_us("net")
        } else {
            let its = sys::network_of(request.server_socket.socket.as_fd()).ok();
            its.is_none() || its == our_network()
        };
        if !same {
            let (generation, address) = (self.generation, &request.address);
            let text = format!(
                "{generation} binds {address} in another network namespace: that is not kept across a swap\ntry: {START_THERE}"
            );
            self.hint_once(Warning::OtherNetwork, text);
        }
        same
    }

    /// The kernel will refuse the bind(2) of a port that the generation before has.
    pub(super) fn warn_of_udp(&mut self, request: &BindRequest, at: SocketAddr) {
        let is_first = self.generation == Generation(1);
        if is_first || at.port() == 0 || request.server_socket.shares_address() {
            return;
        }
        let tried = UdpSocket::bind(at).map_err(|error| error.kind());
        if tried.is_err_and(|kind| kind == io::ErrorKind::AddrInUse) {
            let generation = self.generation;
            let text = format!(
                "{generation} cannot bind udp:{at}, which is in use: UDP is not captured\ntry: --listen udp:{at}"
            );
            self.warn_once(Warning::UdpInUse, text);
        }
    }

    /// It has fewer rights than hotswap: by its user, or because it is captured.
    pub(super) fn explain_rights(&mut self, request: &BindRequest) {
        let (generation, address) = (self.generation, &request.address);
        let why_and_hint = if request.caller.has_lost_rights_of_its_file() {
            "without root, capture sets no_new_privs, and so file capabilities have no effect\n\
             try: --capture never, or"
        } else if geteuid().is_root() {
            "its user is not allowed to bind ports below 1024\ntry:"
        } else {
            return;
        };
        let text = format!("{generation} cannot bind {address}: {why_and_hint} --listen {address}");
        self.warn_once(Warning::Rights, text);
    }

    /// A socket that looks like another one to hotswap alone would be open where the server has not opened it.
    pub(super) fn leave_alone(&mut self, request: &BindRequest, why: &str) {
        let (generation, address) = (self.generation, &request.address);
        let text = format!(
            "{generation} binds {address} by itself, which is not kept across a swap: {why}, and pidfd_getfd(2) is \
             forbidden here\ntry: allow pidfd_getfd, or --listen {address}"
        );
        self.hint_once(Warning::NoCopy, text);
    }

    /// Warns why the server gets `EADDRINUSE`: because of an earlier generation, or of another process.
    pub(super) fn explain(&mut self, asked: &CapturedAddress, listeners: &Listeners) {
        if let Some(there) = listeners.served_beside(self.generation, asked) {
            self.warn_of_change(asked, &there, "\ntry: stop hotswap, and start it again");
        } else if let Some(holder) = others_at(asked) {
            let text = format!("{} cannot bind {asked}: {holder}", self.generation);
            self.warn_once(Warning::InUse, text);
        }
    }

    pub(super) fn warn_of_change(&mut self, asked: &CapturedAddress, there: &str, hint: &str) {
        let (generation, asked) = (self.generation, asked.to_string());
        let change = if asked == there {
            "with a different IPV6_V6ONLY or device than the serving generation\n\
             try: stop hotswap, and start it again"
                .to_owned()
        } else {
            format!("while {there} is still served{hint}")
        };
        let text = format!("address changed: {generation} binds {asked} {change}");
        self.warn_once(Warning::AddressChanged, text);
    }

    /// Something could not be found out. Errors of the server's own are not reported.
    pub(super) fn could_not_look(&mut self, error: &io::Error) {
        let generation = self.generation;
        match error.raw_os_error().map(Errno::from_raw) {
            // it has ended, or has passed a wrong descriptor or address
            Some(
                Errno::ESRCH | Errno::ENOENT | Errno::EBADF | Errno::ENOTSOCK | Errno::EFAULT,
            ) => {}
            Some(Errno::ETIMEDOUT) => {
                self.blind = true;
                let patience = PATIENCE.as_secs();
                self.warn_once(
                    Warning::TooSlow,
                    format!("cannot inspect {generation} within {patience}s; the addresses that it binds from now on are not kept across a swap"),
                );
            }
            Some(Errno::EAGAIN) => self.warn_once(
                Warning::CannotLook,
                format!(
                    "cannot start a thread to inspect {generation}: {error}; what it binds is not kept across a swap\n\
                     try: a higher limit of processes (ulimit -u, or pids.max of its control group)"
                ),
            ),
            _ => self.warn_once(
                Warning::CannotLook,
                format!(
                    "cannot inspect {generation}: {error}; what it binds is not kept across a swap\n\
                     try: hotswap as root, a program file that its user may read, or --listen and a server that takes its sockets from \
                     there"
                ),
            ),
        }
    }

    pub(super) fn hint_once(&mut self, warning: Warning, text: String) {
        if !self.warned.contains(&warning) {
            self.warned.push(warning);
            self.events.push(CaptureEvent::Hint(warning, text));
        }
    }

    pub(super) fn warn_once(&mut self, warning: Warning, text: String) {
        if !self.warned.contains(&warning) {
            self.warned.push(warning);
            self.events.push(CaptureEvent::Warning(text));
        }
    }
}

fn our_network() -> Option<u64> {
    let any = unix_stream().ok()?;
    sys::network_of(any.as_fd()).ok()
}
