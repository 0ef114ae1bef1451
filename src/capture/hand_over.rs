//! A captured generation that outlives the hotswap that started it: what the next one, in the same process, is told.
//!
//! Calls that come meanwhile wait in the kernel.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Capture;
use super::bound_sockets::{BoundSocket, BoundSockets};
use crate::listener::{BoundPath, CapturedAddress, ListenerId};
use crate::proc::process::ProcessId;
use crate::supervisor::Generation;

impl Capture {
    /// All that is known of the generation, and the descriptors in their order.
    pub fn hand_over(&self) -> (Value, Vec<BorrowedFd<'_>>) {
        let mut descriptors = vec![self.listener.as_fd()];
        let binders: Vec<(i32, u64)> = (self.binders.iter())
            .map(|binder| (binder.pid.as_raw(), binder.started))
            .collect();
        let state = json!({
            "generation": self.generation.0,
            "bounds": self.bound_sockets.hand_over(&mut descriptors),
            "binders": binders,
            "blind": self.blind,
        });
        (state, descriptors)
    }

    /// The other end of [`Capture::hand_over`]. `None` if what was told cannot be understood.
    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let generation = Generation(u32::try_from(state["generation"].as_u64()?).ok()?);
        let mut capture = Self::new(generation, descriptors.next()?);
        capture.bound_sockets = BoundSockets::take_over(&state["bounds"], descriptors)?;
        let binders: Vec<(i32, u64)> = serde_json::from_value(state["binders"].clone()).ok()?;
        capture.binders = (binders.into_iter())
            .map(|(pid, started)| ProcessId {
                pid: Pid::from_raw(pid),
                started,
            })
            .collect();
        capture.blind = state["blind"].as_bool()?;
        Some(capture)
    }
}

impl BoundSockets {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let all = self.all.iter();
        let all: Vec<Value> = all.map(|bound| bound.hand_over(descriptors)).collect();
        json!({ "all": all, "port_zero": self.port_zero })
    }

    fn take_over(state: &Value, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let mut bound_sockets = Self {
            port_zero: serde_json::from_value(state["port_zero"].clone()).ok()?,
            ..Self::default()
        };
        for bound in state["all"].as_array()? {
            bound_sockets
                .all
                .push(BoundSocket::take_over(bound, descriptors)?);
        }
        Some(bound_sockets)
    }
}

impl BoundSocket {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        descriptors.extend(self.kept.as_ref().map(AsFd::as_fd));
        descriptors.extend(self.path.as_ref().map(|path| path.directory.as_fd()));
        json!({
            "inode": self.inode,
            "address": self.address.written(),
            "process": self.process.as_raw(),
            "fd": self.fd,
            "kept": self.kept.is_some(),
            "path": self.path.as_ref().map(|path| (path.name.as_bytes(), path.file)),
            "listener": self.listener.map(|listener| listener.0),
        })
    }

    fn take_over(state: &Value, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let integer = |name: &str| i32::try_from(state[name].as_i64()?).ok();
        let address = CapturedAddress::of_written(&state["address"])?;
        let process = Pid::from_raw(integer("process")?);
        let mut bound = Self::new(state["inode"].as_u64()?, &address, process, integer("fd")?);
        if state["kept"].as_bool()? {
            bound.kept = Some(descriptors.next()?);
        }
        let path: Option<(Vec<u8>, (u64, u64))> =
            serde_json::from_value(state["path"].clone()).ok()?;
        if let Some((name, file)) = path {
            bound.path = Some(BoundPath {
                directory: descriptors.next()?,
                name: OsString::from_vec(name),
                file,
            });
        }
        let listener: Option<usize> = serde_json::from_value(state["listener"].clone()).ok()?;
        bound.listener = listener.map(ListenerId);
        Some(bound)
    }
}
