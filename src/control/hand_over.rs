//! The control socket and its clients over a re-execution of hotswap: they notice nothing, and get their answers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::Control;
use super::protocol::{Message, What};
use super::socket::Socket;
use super::visitor::{Stage, Visitor};
use crate::supervisor::{Client, Generation};

impl Control {
    /// What the next hotswap needs, and the descriptors that go with it, in order.
    pub fn hand_over(&self) -> (Value, Vec<BorrowedFd<'_>>) {
        let visitors: Vec<Value> = self
            .visitors
            .iter()
            .map(|(client, visitor)| visitor_to_json(*client, visitor))
            .collect();
        let socket = self.socket.as_ref().map(|socket| {
            let (device, inode) = socket.identity();
            // A path need not be text.
            let path = socket.path().as_os_str().as_bytes();
            json!({"path": path, "device": device, "inode": inode})
        });
        let state = json!({
            "name": self.name,
            "socket": socket,
            "last": self.last,
            "visitors": visitors,
        });
        let socket = self.socket.iter().map(AsFd::as_fd);
        let visitors = self.visitors.values().map(|visitor| visitor.stream.as_fd());
        (state, socket.chain(visitors).collect())
    }

    /// Takes up what [`Control::hand_over`] gave.
    ///
    /// # Errors
    /// With a state that no hotswap has written.
    pub fn take_over(state: &Value, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| unreadable("descriptors"));
        let name = state.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| unreadable("name"))?.to_owned();
        let socket = match state.get("socket").filter(|socket| socket.is_object()) {
            Some(socket) => {
                let path: PathBuf = OsString::from_vec(bytes(socket, "path")?).into();
                let identity = (number(socket, "device")?, number(socket, "inode")?);
                Some(Socket::inherited(next()?, path, identity))
            }
            None => None,
        };
        let mut visitors = BTreeMap::new();
        for visitor in list(state, "visitors") {
            let client = Client(number(visitor, "client")?);
            visitors.insert(client, visitor_from_json(visitor, next()?)?);
        }
        Ok(Self {
            last: number(state, "last")?,
            visitors,
            ..Self::with(socket, name)
        })
    }
}

fn visitor_to_json(client: Client, visitor: &Visitor) -> Value {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let (stage, until, request) = match visitor.stage {
        Stage::Asking { until } => ("asking", Some(until), None),
        Stage::Waiting(what) => ("waiting", None, Some(what.to_json())),
        Stage::Leaving { until } => ("leaving", Some(until), None),
    };
    let owed = visitor.owed.as_ref().map(|(generation, verdict)| {
        json!({
            "generation": generation.0,
            "message": Message::Verdict(verdict.clone()).to_json(),
        })
    });
    json!({
        "client": client.0,
        "stage": stage,
        "until": until.map(micros),
        "request": request,
        "input": visitor.input,
        "output": visitor.output.iter().collect::<Vec<_>>(),
        "silent": visitor.silent,
        "owed": owed,
    })
}

fn visitor_from_json(given: &Value, descriptor: OwnedFd) -> io::Result<Visitor> {
    let until = || number(given, "until").map(Duration::from_micros);
    let stage = match given.get("stage").and_then(Value::as_str) {
        Some("asking") => Stage::Asking { until: until()? },
        Some("leaving") => Stage::Leaving { until: until()? },
        Some("waiting") => {
            let request = given.get("request").map(Value::to_string);
            let what = What::read(request.unwrap_or_default().as_bytes());
            Stage::Waiting(what.map_err(|_| unreadable("request"))?)
        }
        _ => return Err(unreadable("stage")),
    };
    let owed = match given.get("owed").filter(|owed| owed.is_object()) {
        Some(owed) => {
            let generation = u32::try_from(number(owed, "generation")?);
            let generation = Generation(generation.map_err(|_| unreadable("generation"))?);
            let message = owed.get("message").map(Value::to_string);
            match Message::read(message.unwrap_or_default().as_bytes()) {
                Some(Message::Verdict(verdict)) => Some((generation, verdict)),
                _ => return Err(unreadable("message")),
            }
        }
        None => None,
    };
    Ok(Visitor {
        stream: UnixStream::from(descriptor),
        stage,
        input: bytes(given, "input")?,
        output: bytes(given, "output")?.into(),
        silent: given.get("silent") == Some(&Value::Bool(true)),
        owed,
    })
}

fn list<'a>(state: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = state.get(key).and_then(Value::as_array);
    list.into_iter().flatten()
}

fn number(state: &Value, key: &'static str) -> io::Result<u64> {
    let number = state.get(key).and_then(Value::as_u64);
    number.ok_or_else(|| unreadable(key))
}

fn bytes(state: &Value, key: &'static str) -> io::Result<Vec<u8>> {
    let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes: Option<Vec<u8>> = list(state, key).map(byte).collect();
    bytes.ok_or_else(|| unreadable(key))
}

fn unreadable(what: &str) -> io::Error {
    let why = format!("cannot take over the control socket: no {what}");
    io::Error::new(io::ErrorKind::InvalidData, why)
}
