//! A captured generation that outlives the hotswap that started it: what the next one, in the same process, is told.
//!
//! Calls that come meanwhile wait in the kernel.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Capture;
use super::bound::{Bound, Bounds};
use crate::listener::{BoundPath, CapturedAddress, ListenerId};
use crate::proc::process::Process;
use crate::supervisor::Generation;

impl Capture {
    /// All that is known of the generation, and the descriptors in their order.
    pub fn hand_over(&self) -> (Value, Vec<BorrowedFd<'_>>) {
        let mut descriptors = vec![self.listener.as_fd()];
        let binders: Vec<(i32, u64)> = (self.binders.iter())
            .map(|binder| (binder.pid.as_raw(), binder.started))
            .collect();
        let told = json!({
            "generation": self.generation.0,
            "bounds": self.bounds.hand_over(&mut descriptors),
            "binders": binders,
            "blind": self.blind,
        });
        (told, descriptors)
    }

    /// The other end of [`Capture::hand_over`]. `None` if what was told cannot be understood.
    pub fn take_over(
        told: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let generation = Generation(u32::try_from(told["generation"].as_u64()?).ok()?);
        let mut capture = Self::new(generation, descriptors.next()?);
        capture.bounds = Bounds::take_over(&told["bounds"], descriptors)?;
        let binders: Vec<(i32, u64)> = serde_json::from_value(told["binders"].clone()).ok()?;
        capture.binders = (binders.into_iter())
            .map(|(pid, started)| Process {
                pid: Pid::from_raw(pid),
                started,
            })
            .collect();
        capture.blind = told["blind"].as_bool()?;
        Some(capture)
    }
}

impl Bounds {
    fn hand_over<'a>(&'a self, descriptors: &mut Vec<BorrowedFd<'a>>) -> Value {
        let all = self.all.iter();
        let all: Vec<Value> = all.map(|bound| bound.hand_over(descriptors)).collect();
        json!({ "all": all, "port_zero": self.port_zero })
    }

    fn take_over(told: &Value, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let mut bounds = Self {
            port_zero: serde_json::from_value(told["port_zero"].clone()).ok()?,
            ..Self::default()
        };
        for bound in told["all"].as_array()? {
            bounds.all.push(Bound::take_over(bound, descriptors)?);
        }
        Some(bounds)
    }
}

impl Bound {
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

    fn take_over(told: &Value, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let integer = |name: &str| i32::try_from(told[name].as_i64()?).ok();
        let address = CapturedAddress::of_written(&told["address"])?;
        let process = Pid::from_raw(integer("process")?);
        let mut bound = Self::new(told["inode"].as_u64()?, &address, process, integer("fd")?);
        if told["kept"].as_bool()? {
            bound.kept = Some(descriptors.next()?);
        }
        let path: Option<(Vec<u8>, (u64, u64))> =
            serde_json::from_value(told["path"].clone()).ok()?;
        if let Some((name, file)) = path {
            bound.path = Some(BoundPath {
                directory: descriptors.next()?,
                name: OsString::from_vec(name),
                file,
            });
        }
        let listener: Option<usize> = serde_json::from_value(told["listener"].clone()).ok()?;
        bound.listener = listener.map(ListenerId);
        Some(bound)
    }
}
