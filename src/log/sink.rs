//! stderr, without waiting for its reader.
//!
//! Output for a slow reader is kept up to a limit; beyond it whole lines are dropped, and a line says so. The file flags
//! of stderr are left alone: the server may share them.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Stderr, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::LazyLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

/// As much as a pipe holds by itself. A longer line is kept all the same, where nothing waits before it.
const LIMIT: usize = 64 * 1024;

/// poll(2) promises room for so much in a pipe.
const PIECE: usize = 4096;

/// How long `finish` waits for a reader, in milliseconds.
const FINISH_TIMEOUT_MS: u8 = 100;

static STDERR: LazyLock<Stderr> = LazyLock::new(io::stderr);

pub struct Sink {
    way: StderrKind,
    waiting: Vec<u8>,
    /// The stream that has begun a line, and not ended it yet.
    begun: Option<u64>,
    lost: usize,
}

enum StderrKind {
    /// A pipe, opened once more, so that O_NONBLOCK is ours alone.
    Pipe(File),
    Socket,
    /// A terminal or a file: a look before each write.
    Other,
}

impl Sink {
    pub const fn new() -> Self {
        Self {
            way: StderrKind::Other,
            waiting: Vec::new(),
            begun: None,
            lost: 0,
        }
    }

    /// Looks at what stderr is.
    pub fn choose_way(&mut self) {
        let own = "/proc/self/fd/2";
        let Ok(kind) = std::fs::metadata(own).map(|found| found.file_type()) else {
            return;
        };
        if kind.is_socket() {
            self.way = StderrKind::Socket;
        } else if kind.is_fifo() {
            let again = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(own);
            self.way = again.map_or(StderrKind::Other, StderrKind::Pipe);
        }
    }

    #[cfg(test)]
    pub fn through(pipe: File) -> Self {
        Self {
            way: StderrKind::Pipe(pipe),
            ..Self::new()
        }
    }

    /// Writes whole lines of ours, now or later. They stand by themselves, whatever a server has left unfinished.
    pub fn push(&mut self, lines: &[u8]) {
        self.add(lines, None);
    }

    /// Writes what a server has written, which may end anywhere.
    pub fn pass_on(&mut self, stream: u64, piece: &[u8]) {
        self.add(piece, Some(stream));
    }

    fn add(&mut self, bytes: &[u8], stream: Option<u64>) {
        self.flush();
        // once lines are lost, so are the next, until that has been said in their place
        let room = self.waiting.is_empty() || self.waiting.len() + bytes.len() <= LIMIT;
        if self.lost > 0 || !room {
            self.lost += 1;
            return;
        }
        if self.begun != stream {
            self.end_line();
        }
        self.waiting.extend_from_slice(bytes);
        self.begun = stream.filter(|_| bytes.last() != Some(&b'\n'));
        self.flush();
    }

    fn end_line(&mut self) {
        if self.begun.take().is_some() {
            self.waiting.push(b'\n');
        }
    }

    pub fn flush(&mut self) {
        self.write_waiting();
        if self.lost > 0 && self.waiting.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            let said = if lost == 1 { "line was" } else { "lines were" };
            let line = format!("hotswap: {lost} {said} lost here: nobody read them in time\n");
            self.end_line();
            self.waiting.extend_from_slice(line.as_bytes());
            self.write_waiting();
        }
    }

    fn write_waiting(&mut self) {
        while !self.waiting.is_empty() {
            match self.write_some() {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // nobody will ever read it
                Err(_) => self.waiting.clear(),
            }
        }
    }

    fn write_some(&mut self) -> io::Result<usize> {
        let piece = &self.waiting[..self.waiting.len().min(PIECE)];
        match &mut self.way {
            StderrKind::Pipe(pipe) => pipe.write(piece),
            StderrKind::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(STDERR.as_raw_fd(), piece, flags)?)
            }
            StderrKind::Other if has_room(STDERR.as_fd(), PollTimeout::ZERO) => {
                Ok(nix::unistd::write(&*STDERR, piece)?)
            }
            StderrKind::Other => Err(ErrorKind::WouldBlock.into()),
        }
    }

    pub fn pending(&self) -> Option<BorrowedFd<'static>> {
        (!self.waiting.is_empty()).then(|| STDERR.as_fd())
    }

    pub fn finish(&mut self) {
        self.flush();
        if self
            .pending()
            .is_some_and(|fd| has_room(fd, FINISH_TIMEOUT_MS.into()))
        {
            self.flush();
        }
    }
}

fn has_room(fd: BorrowedFd, patience: PollTimeout) -> bool {
    let mut asked = [PollFd::new(fd, PollFlags::POLLOUT)];
    matches!(poll(&mut asked, patience), Ok(1..))
}
