//! `--ready exec:COMMAND`: a command that is run again and again until it succeeds.

use super::probe::AGAIN;
use super::{NotReadyReason, ReadyBy, ReadyRequest};
use crate::supervisor::{Exit, Time};

#[derive(Debug)]
pub struct ExecCommand {
    command: String,
    running: bool,
    /// How it ended last.
    ended: Option<Exit>,
    not_before: Time,
}

impl ExecCommand {
    pub fn new(command: &str, started: Time) -> Self {
        Self {
            command: command.to_owned(),
            running: false,
            ended: None,
            not_before: started,
        }
    }

    /// Asks for the command to be run if it is time for that; from then on it counts as running.
    pub fn look(&mut self, now: Time, requests: &mut Vec<ReadyRequest>) -> Option<ReadyBy> {
        if self.ended == Some(Exit::Status(0)) {
            return Some(ReadyBy::Command);
        }
        if !self.running && now >= self.not_before {
            self.running = true;
            self.not_before = now + AGAIN;
            requests.push(ReadyRequest::ExecCommand(self.command.clone()));
        }
        None
    }

    pub fn ended(&mut self, exit: Exit) {
        self.running = false;
        self.ended = Some(exit);
    }

    /// How it ended last, which says more than that it runs once more. `None` before it has run.
    pub fn not_ready_reason(&self) -> Option<NotReadyReason> {
        let ended = self.ended.clone().map(NotReadyReason::CommandEnded);
        ended.or(self.running.then_some(NotReadyReason::CommandRuns))
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
        let reason = execute.not_ready_reason();
        assert_eq!(reason, Some(NotReadyReason::CommandRuns));
        execute.ended(Exit::Status(7));
        let reason = NotReadyReason::CommandEnded(Exit::Status(7));
        assert_eq!(execute.not_ready_reason(), Some(reason));
        assert_eq!(execute.deadline(), Some(start + AGAIN));
        assert!(!runs_at(&mut execute, start), "too early");
        assert!(runs_at(&mut execute, start + AGAIN));
        execute.ended(Exit::Status(0));
        assert_eq!(
            execute.look(start + AGAIN * 2, &mut Vec::new()),
            Some(ReadyBy::Command)
        );
    }
}
