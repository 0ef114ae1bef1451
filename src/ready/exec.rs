//! `--ready exec:COMMAND`: a command that is run again and again until it succeeds.

use super::probe::AGAIN;
use super::{Ready, ReadyBy, ReadyRequest};
use crate::supervisor::Time;

#[derive(Debug)]
pub struct ExecCommand {
    command: String,
    running: bool,
    succeeded: bool,
    not_before: Time,
}

impl ExecCommand {
    pub fn new(command: &str, started: Time) -> Self {
        Self {
            command: command.to_owned(),
            running: false,
            succeeded: false,
            not_before: started,
        }
    }

    /// Asks for the command to be run if it is time for that; from then on it counts as running.
    pub fn look(&mut self, now: Time, requests: &mut Vec<ReadyRequest>) -> Option<Ready> {
        if self.succeeded {
            return Some(ReadyBy::Command.into());
        }
        if !self.running && now >= self.not_before {
            self.running = true;
            self.not_before = now + AGAIN;
            requests.push(ReadyRequest::ExecCommand(self.command.clone()));
        }
        None
    }

    pub fn ended(&mut self, succeeded: bool) {
        self.running = false;
        self.succeeded |= succeeded;
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<Time> {
        (!self.running).then_some(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_run_again_until_it_succeeds_and_never_twice_at_once() {
        let start = Time::from_secs(9);
        let mut execute = ExecCommand::new("./is-ready", start);
        let runs_at = |execute: &mut ExecCommand, at| {
            let mut requests = Vec::new();
            assert_eq!(execute.look(at, &mut requests), None);
            requests == [ReadyRequest::ExecCommand("./is-ready".into())]
        };
        assert!(runs_at(&mut execute, start));
        assert!(!runs_at(&mut execute, start + AGAIN * 9), "it still runs");
        assert_eq!(execute.deadline(), None);
        execute.ended(false);
        assert_eq!(execute.deadline(), Some(start + AGAIN));
        assert!(!runs_at(&mut execute, start), "too early");
        assert!(runs_at(&mut execute, start + AGAIN));
        execute.ended(true);
        assert_eq!(
            execute.look(start + AGAIN * 2, &mut Vec::new()),
            Some(ReadyBy::Command.into())
        );
    }
}
