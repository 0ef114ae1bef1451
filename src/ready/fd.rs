//! `--ready fd:N`: a newline on a descriptor, as in s6.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read};

#[derive(Debug)]
pub struct ReadyFd {
    /// The descriptor's number in the candidate.
    pub number: RawFd,
    ours: Option<OwnedFd>,
    theirs: Option<OwnedFd>,
    came: bool,
}

impl ReadyFd {
    /// # Errors
    /// Those of pipe2(2).
    pub fn new(number: RawFd) -> io::Result<Self> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            number,
            ours: Some(ours),
            theirs: Some(theirs),
            came: false,
        })
    }

    pub fn take_theirs(&mut self) -> Option<OwnedFd> {
        self.theirs.take()
    }

    /// `None` once the newline or the end of the pipe was read.
    pub fn ours(&self) -> Option<BorrowedFd<'_>> {
        self.ours.as_ref().map(AsFd::as_fd)
    }

    pub fn came(&self) -> bool {
        self.came
    }

    /// Reads a piece of the input.
    pub fn read(&mut self) {
        let Some(ours) = &self.ours else { return };
        let mut piece = [0; 4096];
        match read(ours, &mut piece) {
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Ok(bytes @ 1..) if !piece.iter().take(bytes).any(|byte| *byte == b'\n') => return,
            Ok(1..) => self.came = true,
            Ok(0) | Err(_) => {}
        }
        self.ours = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::write;

    #[test]
    fn only_a_newline_counts() {
        let mut newline = ReadyFd::new(5).unwrap();
        let theirs = newline.take_theirs().unwrap();
        newline.read();
        assert!(
            !newline.came() && newline.ours().is_some(),
            "nothing has come"
        );
        write(&theirs, b"starting").unwrap();
        newline.read();
        assert!(
            !newline.came() && newline.ours().is_some(),
            "no newline has come"
        );
        write(&theirs, b" up\n").unwrap();
        newline.read();
        assert!(newline.came() && newline.ours().is_none());
    }

    #[test]
    fn a_closed_descriptor_is_not_polled_again() {
        let mut newline = ReadyFd::new(5).unwrap();
        drop(newline.take_theirs());
        newline.read();
        assert!(!newline.came() && newline.ours().is_none());
    }
}
