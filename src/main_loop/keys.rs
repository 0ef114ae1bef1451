//! Keys under `--dev`: lines that are typed at the terminal hotswap was started on.
//!
//! The terminal stays as it is: no raw mode, so a key is sent by Enter, and nothing has to be put back. While hotswap is in
//! the background it reads nothing, because what is typed then is meant for the shell.

use std::io::{self, IsTerminal, Stdin};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpgrp, read, tcgetpgrp};

use super::World;
use super::status::AskedBy;
use super::wait::Batch;
use crate::log as lines;
use crate::polled::Polled;
use crate::status;
use crate::supervisor::{Event, Supervisor, Time};

const HELP: &str = "keys: r swap, s status, c clear, q stop, ? help; then Enter";
/// A longer line is no key.
const LONGEST: usize = 4096;
/// Ctrl-D ends the input of a terminal for a moment. One that ends this often in a row has nobody at it.
const MOST_ENDS: u32 = 100;
/// Lines that hotswap prints itself, as a stream of their own.
const STREAM: u64 = u64::MAX;

/// Reads stdin, if it is a terminal.
pub(super) struct Keys {
    stdin: Option<Stdin>,
    /// The beginning of a line.
    line: Vec<u8>,
    /// How often in a row the input has ended.
    ends: u32,
    /// The table is asked for.
    shows_status: bool,
}

impl Keys {
    pub fn none() -> Self {
        Self {
            stdin: None,
            line: Vec::new(),
            ends: 0,
            shows_status: false,
        }
    }

    /// Says which keys there are.
    pub fn open() -> Self {
        let stdin = Some(io::stdin()).filter(Stdin::is_terminal);
        // Somebody may put hotswap into the background between our look and our read, which then fails by EIO.
        if stdin.is_some() && SigSet::from(Signal::SIGTTIN).thread_block().is_ok() {
            log::info!("{HELP}");
        }
        Self {
            stdin,
            ..Self::none()
        }
    }

    /// Somebody may be at them.
    pub fn are_read(&self) -> bool {
        self.stdin.is_some()
    }

    /// The lines that have been sent. What is typed after Ctrl-D is read, too.
    fn read(&mut self) -> Vec<String> {
        let Some(stdin) = self.stdin.as_ref().filter(|stdin| is_in_front(stdin)) else {
            return Vec::new();
        };
        let mut bytes = [0; 512];
        let count = match read(stdin.as_fd(), &mut bytes) {
            Ok(0) if self.ends < MOST_ENDS => {
                self.ends += 1;
                return vec!["?".to_owned()];
            }
            Ok(0) => {
                log::warn!("the terminal's input has ended: keys no longer work");
                self.stdin = None;
                return Vec::new();
            }
            Ok(count) => count,
            Err(_) => return Vec::new(),
        };
        self.ends = 0;
        self.line.extend(bytes.iter().take(count));
        let mut lines = Vec::new();
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(line.trim_ascii()).into_owned());
        }
        if self.line.len() > LONGEST {
            self.line.clear();
        }
        lines
    }
}

impl Polled for Keys {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let stdin = self.stdin.as_ref().filter(|stdin| is_in_front(stdin));
        Vec::from_iter(stdin.map(|stdin| (stdin.as_fd(), PollFlags::POLLIN)))
    }
}

fn is_in_front(stdin: &Stdin) -> bool {
    tcgetpgrp(stdin).is_ok_and(|group| group == getpgrp())
}

impl World {
    pub(super) fn handle_keys(&mut self, batch: &mut Batch) {
        for key in self.keys.read() {
            match key.as_str() {
                "" => {}
                "r" | "rs" => {
                    log::debug!("a key asks for a swap");
                    self.status_data.asked_by = AskedBy::Key;
                    self.build_again(batch.now);
                    batch.requests.push(Event::SwapAsked(None));
                }
                "s" => self.keys.shows_status = true,
                "c" => lines::clear_terminal(),
                "q" => batch.requests.push(Event::StopAsked(None)),
                _ => lines::pass_on(STREAM, format!("{HELP}\n").as_bytes()),
            }
        }
    }

    /// The table of `hotswap status`, with the last verdict, however long ago that has scrolled away.
    pub(super) fn show_status(&mut self, supervisor: &Supervisor, now: Time) {
        if std::mem::take(&mut self.keys.shows_status) {
            let table = status::table(&self.state(supervisor, now));
            lines::pass_on(STREAM, table.as_bytes());
        }
    }
}
