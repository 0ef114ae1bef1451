//! What is open on a listener: its accept queue, its handshakes, and the connections that came through it.
//!
//! It only looks, by getsockopt(2), sock_diag(7) and /proc, and never touches a connection.

pub mod accept_queue;
pub mod activity;
pub mod half_open;
pub mod inet;
pub mod listening;
pub mod process_sockets;
mod sock_diag;
pub mod unix;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use nix::sys::stat::fstat;

use crate::sys;

/// The inode by which /proc and sock_diag(7) name a socket.
///
/// # Errors
/// Those of fstat(2).
pub fn inode_of(socket: BorrowedFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}

/// How many connections wait to be accepted on a TCP listener.
///
/// # Errors
/// Those of getsockopt(2).
pub fn accept_queue(listener: BorrowedFd) -> io::Result<u32> {
    Ok(sys::tcp_info(listener)?.tcpi_unacked)
}

/// In which of the kernel's tables a TCP socket is.
///
/// # Errors
/// Those of getsockopt(2).
pub fn family_of(socket: BorrowedFd) -> io::Result<inet::Family> {
    let domain = sys::socket_option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    Ok(if domain == libc::AF_INET6 {
        inet::Family::V6
    } else {
        inet::Family::V4
    })
}

/// Whether a process has accepted this TCP connection of ours to a listener on this machine.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn is_accepted(client: SocketAddr, server: SocketAddr) -> io::Result<bool> {
    inet::is_accepted(client, server)
}

/// Whether a process has accepted this unix connection of ours.
///
/// # Errors
/// Those of the sock_diag(7) answer.
pub fn has_owned_peer(client: BorrowedFd) -> io::Result<bool> {
    unix::has_owned_peer(inode_of(client)?)
}
