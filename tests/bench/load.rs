//! Clients, and what each of their requests met.
//!
//! Nothing is tried again. The time of a request runs from when it was meant to be made, so a stall hides nothing.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// When a client gives up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a server says of itself; its times are of the monotonic clock, in nanoseconds, and 0 where it says none.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub generation: u32,
    pub began: u128,
    pub ready: u128,
}

/// One request: when it was meant to be made, how long it took from then, and who answered or what went wrong.
#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    pub took: Duration,
    pub met: Result<Answer, &'static str>,
}

/// One request on a connection of its own.
pub fn ask(address: SocketAddr) -> Result<Answer, &'static str> {
    let connected = TcpStream::connect_timeout(&address, TIMEOUT);
    ask_on(&mut connected.map_err(|error| kind(&error))?, "close")
}

fn ask_on(stream: &mut TcpStream, connection: &str) -> Result<Answer, &'static str> {
    let request = format!("GET / HTTP/1.1\r\nHost: bench\r\nConnection: {connection}\r\n\r\n");
    let exchange = |stream: &mut TcpStream| -> io::Result<(usize, [u8; 512])> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        stream.write_all(request.as_bytes())?;
        let (mut length, mut buffer) = (0, [0; 512]);
        while body(&String::from_utf8_lossy(&buffer[..length])).is_none() {
            match stream.read(&mut buffer[length..])? {
                0 => break,
                more => length += more,
            }
        }
        Ok((length, buffer))
    };
    let (length, buffer) = exchange(stream).map_err(|error| kind(&error))?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    match understood(&text) {
        Some(answer) => Ok(answer),
        None if length == 0 => Err("closed without an answer"),
        None if text.contains(" 200 ") => Err("truncated"),
        None => Err("another status"),
    }
}

/// The body of an answer, if all of it is there.
fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    body.get(..length.parse().ok()?)
}

/// `generation 2 began 17 ready 42`, or the first two words of it.
fn understood(answer: &str) -> Option<Answer> {
    let mut words = body(answer)?.split_ascii_whitespace().skip(1).step_by(2);
    let generation = words.next()?.parse().ok()?;
    let mut stamp = || words.next().map_or(Some(0), |word| word.parse().ok());
    Some(Answer {
        generation,
        began: stamp()?,
        ready: stamp()?,
    })
}

fn kind(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "timed out",
        _ => "another error",
    }
}

/// Between two questions, lest the processor is taken from whoever is to answer.
const PAUSE: Duration = Duration::from_micros(100);

/// Asks again and again until that generation or a later one answers; how it did, and when it had.
pub fn until_answered_by(address: SocketAddr, generation: u32) -> (Answer, Instant) {
    loop {
        match ask(address) {
            Ok(answer) if answer.generation >= generation => return (answer, Instant::now()),
            _ => thread::sleep(PAUSE),
        }
    }
}

/// Clients who come `rate` times a second, whether or not the earlier ones have been answered, until they are told to leave.
pub struct Flow {
    leaving: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Request>>>,
}

impl Flow {
    pub fn begin(address: SocketAddr, rate: u32) -> Flow {
        let leaving = Arc::new(AtomicBool::new(false));
        let clients = 16;
        let begun = Instant::now();
        let client = |number: u32| {
            let leaving = Arc::clone(&leaving);
            thread::spawn(move || {
                let mut met = Vec::new();
                for turn in (number..).step_by(clients as usize) {
                    let at = begun + Duration::from_secs(1) * turn / rate;
                    thread::sleep(at.saturating_duration_since(Instant::now()));
                    if leaving.load(Ordering::Relaxed) {
                        break;
                    }
                    let answer = ask(address);
                    let took = at.elapsed();
                    met.push(Request {
                        at,
                        took,
                        met: answer,
                    });
                }
                met
            })
        };
        let clients = (0..clients).map(client).collect();
        Flow { leaving, clients }
    }

    pub fn end(self) -> Vec<Request> {
        self.leaving.store(true, Ordering::Relaxed);
        let met = self
            .clients
            .into_iter()
            .map(|client| client.join().expect("a client"));
        let mut all: Vec<Request> = met.flatten().collect();
        all.sort_by_key(|request| request.at);
        all
    }
}

/// Requests a second of clients on keep-alive connections, each asking again as soon as it is answered.
pub fn throughput(address: SocketAddr, lasting: Duration) -> f64 {
    let begun = Instant::now();
    let client = || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let mut count = 0_u32;
        while begun.elapsed() < lasting {
            ask_on(&mut stream, "keep-alive").expect("an answer");
            count += 1;
        }
        count
    };
    let counts: u32 = thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .map(|one| one.join().expect("a client"))
            .sum()
    });
    f64::from(counts) / begun.elapsed().as_secs_f64()
}

/// Every failure, by kind.
pub fn failures(requests: &[Request]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for kind in requests
        .iter()
        .filter_map(|request| request.met.as_ref().err())
    {
        *kinds.entry(*kind).or_default() += 1;
    }
    kinds
}
