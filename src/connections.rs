//! What is open on a listener: its accept queue, its half-open handshakes, and its connections.
//!
//! It only reads, by getsockopt(2), sock_diag(7) and /proc, and never touches a connection.

pub mod accept_queue;
pub mod activity;
pub mod half_open;
pub mod inet;
pub mod listening;
pub mod process_sockets;
mod sock_diag;
pub mod unix;

/// Whether the kernel may be asked about connections at all.
///
/// # Errors
/// Those of socket(2): `EAFNOSUPPORT` where a service may not use `AF_NETLINK`.
pub fn available() -> std::io::Result<()> {
    sock_diag::open().map(drop)
}
