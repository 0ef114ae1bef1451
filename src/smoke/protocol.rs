//! What a server speaks at an address where no request was answered as it should be.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::http::Peer;
use crate::ready::http::exchange::{client_hello, is_tls};

/// How long a server may take to answer a hello.
const ANSWER: Duration = Duration::from_secs(2);

/// It answers the hello of TLS as such, if only with an alert. Many servers of TLS answer a plain request with nothing at
/// all, or with a status.
pub fn speaks_tls(peer: &Peer) -> bool {
    let Peer::Tcp(address) = peer else {
        return false;
    };
    let Ok(mut stream) = TcpStream::connect_timeout(address, ANSWER) else {
        return false;
    };
    let mut answer = [0; 2];
    let _ = stream.set_read_timeout(Some(ANSWER));
    let answered = stream
        .write_all(&client_hello())
        .and_then(|()| stream.read_exact(&mut answer));
    answered.is_ok() && is_tls(&answer)
}
