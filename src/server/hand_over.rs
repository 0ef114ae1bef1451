//! A generation that outlives the hotswap that started it: what the next one, in the same process, is told of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Server;
use super::output::Output;
use super::tree::ProcessTree;
use crate::supervisor::Generation;

impl Server {
    /// All that is known of it once it runs, and its descriptors in their order.
    pub fn hand_over(&self) -> (Value, Vec<BorrowedFd<'_>>) {
        let pipe = self.output.as_ref().and_then(Output::pipe);
        let program = self.program.as_ref().map(AsFd::as_fd);
        let strays: Vec<(i32, u64)> = (self.tree.strays.iter())
            .map(|(pid, started)| (pid.as_raw(), *started))
            .collect();
        let state = json!({
            "generation": self.generation.0,
            "main": self.tree.main.as_raw(),
            "started": u64::try_from(self.started.as_nanos()).unwrap_or(u64::MAX),
            "mark": self.tree.mark,
            "since": self.tree.since,
            "strays": strays,
            "pipe": pipe.is_some(),
            "program": program.is_some(),
            "last_lines": self.last_lines(),
            "binder": self.binder.map(Pid::as_raw),
            "main_lives": self.tree.main_lives,
            "doomed": self.doomed,
        });
        (state, pipe.into_iter().chain(program).collect())
    }

    /// The other end of [`Server::hand_over`]. `None` if what was told cannot be understood.
    pub fn take_over(
        state: &Value,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let flag = |name: &str| state[name].as_bool();
        let pipe = if flag("pipe")? {
            Some(descriptors.next()?)
        } else {
            None
        };
        let program = if flag("program")? {
            Some(descriptors.next()?)
        } else {
            None
        };
        let lines: Vec<String> = serde_json::from_value(state["last_lines"].clone()).ok()?;
        let has_output = pipe.is_some() || !lines.is_empty();
        Some(Self {
            generation: Generation(u32::try_from(state["generation"].as_u64()?).ok()?),
            started: Duration::from_nanos(state["started"].as_u64()?),
            tree: tree(state)?,
            channel: None,
            refusal: None,
            output: has_output.then(|| Output::over(pipe, lines)),
            program,
            binder: pid(&state["binder"]),
            doomed: flag("doomed")?,
        })
    }
}

fn tree(state: &Value) -> Option<ProcessTree> {
    let strays: Vec<(i32, u64)> = serde_json::from_value(state["strays"].clone()).ok()?;
    Some(ProcessTree {
        main: pid(&state["main"])?,
        main_lives: state["main_lives"].as_bool()?,
        since: state["since"].as_u64()?,
        mark: serde_json::from_value(state["mark"].clone()).ok()?,
        strays: (strays.into_iter())
            .map(|(pid, started)| (Pid::from_raw(pid), started))
            .collect(),
    })
}

fn pid(state: &Value) -> Option<Pid> {
    let number = i32::try_from(state.as_i64()?).ok()?;
    // 0 and less mean whole groups to kill(2)
    (number > 0).then(|| Pid::from_raw(number))
}
