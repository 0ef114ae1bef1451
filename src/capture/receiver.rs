//! The thread that receives a generation's stopped calls and hands them to the main loop.
//!
//! A signal ends a stopped call with `EINTR` until the call has been received, and the main loop may be busy. So this
//! thread does nothing else, and it decides nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::notification::ReceivedCall;

pub struct Receiver {
    /// No more than the server has threads: each waits in its call.
    calls: mpsc::Receiver<ReceivedCall>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Wakes the main loop.
    wake: EventFd,
    /// Ends the thread, which never reads it.
    end: EventFd,
    /// No task is left under the filter.
    is_over: AtomicBool,
}

impl Receiver {
    /// # Errors
    /// If the process is out of descriptors or threads.
    pub fn start(listener: Arc<OwnedFd>) -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let shared = Arc::new(Shared {
            wake: EventFd::from_value_and_flags(0, flags)?,
            end: EventFd::from_value_and_flags(0, flags)?,
            is_over: AtomicBool::new(false),
        });
        let (sender, calls) = mpsc::channel();
        let its_own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("receive".to_owned())
            .spawn(move || its_own.receive(listener.as_fd(), &sender))?;
        Ok(Self {
            calls,
            shared,
            thread: Some(thread),
        })
    }

    /// Readable while there may be something to take.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// Makes [`Receiver::fd`] readable.
    pub fn wake(&self) {
        let _ = self.shared.wake.write(1);
    }

    /// The next call, if any.
    pub fn take(&self) -> Option<ReceivedCall> {
        self.calls.try_recv().ok().or_else(|| {
            let _ = self.shared.wake.read();
            // it may have come just before that
            self.calls.try_recv().ok()
        })
    }

    pub fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::SeqCst)
    }

    /// Ends the thread, and returns what it has received and nobody has taken.
    pub fn stop(mut self) -> Vec<ReceivedCall> {
        self.end();
        self.calls.try_iter().collect()
    }

    fn end(&mut self) {
        let _ = self.shared.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn receive(&self, listener: BorrowedFd, calls: &Sender<ReceivedCall>) {
        loop {
            let mut polled = [
                PollFd::new(listener, PollFlags::POLLIN),
                PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let [of_listener, of_end] = polled.map(|one| one.revents());
            if of_end.is_some_and(|flags| !flags.is_empty()) {
                return;
            }
            let of_listener = of_listener.unwrap_or(PollFlags::empty());
            if of_listener.contains(PollFlags::POLLIN) {
                // nobody waits any more if this fails
                if let Ok(call) = ReceivedCall::receive(listener) {
                    let _ = calls.send(call);
                    let _ = self.wake.write(1);
                }
            } else if of_listener.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                self.is_over.store(true, Ordering::SeqCst);
                let _ = self.wake.write(1);
                return;
            }
        }
    }
}
