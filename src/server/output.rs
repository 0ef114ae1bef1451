//! Passes on what a generation writes to its stderr.
//!
//! Whole lines are passed on as they come, no faster than ours is read: a server that writes without pause waits for its
//! reader, as it would without hotswap between, and the loop gets its turn after every piece. A line that is not ended is
//! passed on after a moment, so that a prompt is seen.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use crate::retry::is_for_later;
use crate::supervisor::Time;
use crate::{handoff, log, sys};

/// How many lines a verdict shows.
const LINES: usize = 20;
/// The longest part of a line that is kept.
const LONGEST_LINE: usize = 1000;
/// A part of what the log keeps for a slow reader: its own lines find room beside it.
const PIECE: usize = 16 * 1024;
/// How long an unfinished line is waited for, and how much of it.
const UNFINISHED: Duration = Duration::from_millis(200);
const LONGEST_UNFINISHED: usize = 256 * 1024;
/// What a pipe that somebody has made large holds.
const LARGEST_PIPE: usize = 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub struct Output {
    /// `None` once everybody has closed it.
    #[serde(with = "handoff::optional_descriptor")]
    pipe: Option<File>,
    /// The pipe's inode, which no other stream has at the same time.
    stream: u64,
    tail: Tail,
    /// What has come of a line that is not ended, and not passed on yet.
    unfinished: Vec<u8>,
    /// When it is passed on as it is.
    due: Option<Time>,
}

impl Output {
    /// Also returns the end that the server writes to.
    ///
    /// # Errors
    /// Those of pipe(2).
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        // only our end: the server's stderr blocks, as always
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let output = Self {
            stream: fstat(&ours)?.st_ino,
            pipe: Some(File::from(ours)),
            tail: Tail::default(),
            unfinished: Vec::new(),
            due: None,
        };
        Ok((output, theirs))
    }

    /// The inode of the pipe.
    pub fn pipe_inode(&self) -> u64 {
        self.stream
    }

    /// Our end, until everybody has closed the other one.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// While it can be passed on.
    pub fn polled(&self) -> Option<BorrowedFd<'_>> {
        let pipe = self.pipe.as_ref().map(AsFd::as_fd);
        pipe.filter(|_| log::pending().is_none())
    }

    /// Passes one piece on.
    pub fn woken(&mut self) {
        self.pass();
    }

    /// When [`Output::look`] is due.
    pub fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// Passes on what has waited long enough for the end of its line.
    pub fn look(&mut self, now: Time) {
        if self.due.is_some_and(|due| due <= now) {
            self.pass_on_unfinished();
        }
    }

    fn pass_on_unfinished(&mut self) {
        self.due = None;
        let unfinished = std::mem::take(&mut self.unfinished);
        if !unfinished.is_empty() {
            log::pass_on(self.stream, &unfinished);
        }
    }

    fn pass_on_lines(&mut self, piece: &[u8]) {
        self.unfinished.extend_from_slice(piece);
        if let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') {
            self.due = None;
            let rest = self.unfinished.split_off(end + 1);
            let lines = std::mem::replace(&mut self.unfinished, rest);
            log::pass_on(self.stream, &lines);
        }
        if self.unfinished.len() >= LONGEST_UNFINISHED {
            self.pass_on_unfinished();
        }
        if self.due.is_none() && !self.unfinished.is_empty() {
            self.due = Some(sys::now() + UNFINISHED);
        }
    }

    /// What is left in the pipe of a server that has ended, whether ours is read or not.
    pub fn finish(&mut self) {
        let mut left = LARGEST_PIPE;
        while left > 0 {
            match self.pass() {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        self.pass_on_unfinished();
    }

    fn pass(&mut self) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        let mut buffer = [0; PIECE];
        match pipe.read(&mut buffer) {
            Ok(bytes) if bytes > 0 => {
                let piece = &buffer[..bytes];
                self.tail.take(piece);
                self.pass_on_lines(piece);
                bytes
            }
            Err(error) if is_for_later(&error) => 0,
            Ok(_) | Err(_) => {
                self.pipe = None;
                self.pass_on_unfinished();
                0
            }
        }
    }

    pub fn last_lines(&self) -> Vec<String> {
        self.tail.last_lines()
    }
}

/// The last lines of a stream, each cut to a length that somebody reads.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tail {
    lines: VecDeque<String>,
    /// An unfinished line.
    begun: Vec<u8>,
}

impl Tail {
    fn take(&mut self, piece: &[u8]) {
        let mut parts = piece.split(|byte| *byte == b'\n');
        if let Some(first) = parts.next() {
            self.begin(first);
        }
        for part in parts {
            self.end_line();
            self.begin(part);
        }
    }

    fn begin(&mut self, part: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(as_text(&line));
    }

    fn last_lines(&self) -> Vec<String> {
        let begun = Some(as_text(&self.begun)).filter(|line| !line.is_empty());
        let lines: Vec<String> = self.lines.iter().cloned().chain(begun).collect();
        lines[lines.len().saturating_sub(LINES)..].to_vec()
    }
}

fn as_text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn after(pieces: &[&[u8]]) -> Vec<String> {
        let mut tail = Tail::default();
        for piece in pieces {
            tail.take(piece);
        }
        tail.last_lines()
    }

    #[test]
    fn a_line_that_came_in_pieces_is_one() {
        assert_eq!(
            after(&[b"pan", b"icked\r\nat ", b"once"]),
            ["panicked", "at once"]
        );
    }

    #[test]
    fn the_last_twenty_lines_are_kept() {
        let lines: Vec<String> = (1..=30).map(|n| format!("line {n}\n")).collect();
        let kept = after(&[lines.concat().as_bytes()]);
        assert_eq!(kept.len(), LINES);
        assert_eq!(kept.first().map(String::as_str), Some("line 11"));
        assert_eq!(kept.last().map(String::as_str), Some("line 30"));
    }

    #[test]
    fn a_line_without_end_takes_no_room() {
        let kept = after(&[&[b'x'; 5000], &[b'x'; 5000], b"\nshort"]);
        assert_eq!(kept[0].len(), LONGEST_LINE);
        assert_eq!(kept[1], "short");
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_makes_no_difference(
            stream in vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let (one, other) = stream.split_at(cut.index(stream.len() + 1));
            prop_assert_eq!(after(&[one, other]), after(&[&stream]));
        }
    }
}
