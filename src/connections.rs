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
