//! Captures what a server binds by itself, so that its address survives a swap.
//!
//! A generation under the [`filter`] stops in bind(2), listen(2) and unlink(2) until it is answered here. It is a
//! convenience, not a sandbox: a call that is not understood is carried out by the kernel.

mod availability;
mod bind;
mod bound_sockets;
mod caller;
mod common_ancestor;
mod explain;
pub mod filter;
mod impersonate;
mod learned;
mod listen;
mod new_listeners;
mod notification;
mod options;
mod receiver;
mod server_path;
mod server_socket;
mod sockaddr;
pub mod trial;
mod unlink;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::poll::PollFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::address::AddressPattern;
use crate::handoff;
use crate::listener::{ListenerId, Listeners};
use crate::polled::Polled;
use crate::proc::process::ProcessId;
use crate::supervisor::{Generation, Time};
use crate::sys::seccomp;
use bound_sockets::{BoundSocket, BoundSockets};
use filter::Stops;
use learned::LearnedOptions;
use new_listeners::NewListener;
use notification::{Notification, ReceivedCall, int};
use receiver::Receiver;

pub use availability::available;
pub use explain::START_THERE;

/// How many calls are answered at once, so that a server that binds in a tight loop does not block the others.
const AT_ONE_GO: usize = 8;
/// How many binding processes are remembered; the first ones matter.
const MOST_BINDERS: usize = 64;

/// What a generation under the filter has done.
#[derive(Debug, PartialEq, Eq)]
pub enum CaptureEvent {
    /// One of its processes has an address, or listens there.
    Binds,
    /// It listens on an address that hotswap did not have until now.
    Listens(String),
    Warning(String),
    /// What is not kept across a swap, and that once in the life of this hotswap.
    Hint(Warning, String),
    /// No task is left under the filter: the generation is gone.
    Gone,
}

/// Warnings that are given once per generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Warning {
    CannotLook,
    TooSlow,
    PortZero,
    OtherNetwork,
    TooMany,
    TooManyToName,
    InEpoll,
    AddressChanged,
    InUse,
    PathMoved,
    Multipath,
    NoCopy,
    Rights,
    UdpInUse,
}

/// What answering a call needs from other rooms.
pub struct CallContext<'a> {
    pub now: Time,
    pub listeners: &'a mut Listeners,
    /// What is left to the server.
    pub capture_not: &'a [AddressPattern],
    /// What relative paths in these are relative to.
    pub directory: &'a Path,
    /// All processes of the generation.
    pub processes: &'a dyn Fn() -> Vec<Pid>,
}

/// How a call ends, unless it fails.
enum CallResult {
    /// It returns 0.
    Succeed,
    /// The kernel carries it out.
    Continue,
}

/// The notifications of one generation, and what has followed from them. Calls during an upgrade wait in the kernel, or
/// go over with its state.
#[derive(Serialize, Deserialize)]
pub struct Capture {
    generation: Generation,
    #[serde(with = "handoff::descriptor")]
    listener: Arc<OwnedFd>,
    /// Without it, calls are received by the main loop itself.
    #[serde(skip)]
    receiver: Option<Receiver>,
    /// Received before an upgrade, and not answered yet.
    #[serde(default)]
    received: Vec<ReceivedCall>,
    bound_sockets: BoundSockets,
    /// The processes that bound what listens now.
    binders: Vec<ProcessId>,
    /// Its memory could not be read in time: its calls are no longer answered here.
    blind: bool,
    gone: bool,
    /// Its unlink(2) is stopped.
    paths: bool,
    /// Where its sockets may not be duplicated.
    #[serde(default)]
    learned: Option<LearnedOptions>,
    /// Tells of names that go from the directories of unix paths, while it drains and its unlink(2) is not stopped.
    #[serde(skip)]
    removals: Option<Inotify>,
    #[serde(skip)]
    new_listeners: Vec<NewListener>,
    announced: usize,
    warned: Vec<Warning>,
    #[serde(skip)]
    events: Vec<CaptureEvent>,
}

impl Capture {
    /// `listener` is what [`filter::install`] has returned to the generation's first process, and `stops` what it was
    /// told.
    pub fn new(generation: Generation, listener: OwnedFd, stops: Stops) -> Self {
        seccomp::wake_synchronously(listener.as_fd());
        let listener = Arc::new(listener);
        Self {
            generation,
            receiver: Receiver::start(Arc::clone(&listener)).ok(),
            received: Vec::new(),
            listener,
            bound_sockets: BoundSockets::default(),
            binders: Vec::new(),
            blind: false,
            gone: false,
            paths: stops.paths,
            learned: stops.options.then(LearnedOptions::default),
            removals: None,
            new_listeners: Vec::new(),
            announced: 0,
            warned: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Before an upgrade: exec ends the thread that receives, and what it has received is in the state.
    pub fn pause(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            self.received.extend(receiver.stop());
        }
    }

    /// After an upgrade, or if it came to nothing.
    pub fn resume(&mut self) {
        self.receiver = Receiver::start(Arc::clone(&self.listener)).ok();
        match &self.receiver {
            Some(receiver) if !self.received.is_empty() => receiver.wake(),
            Some(_) => {}
            // nothing would wake the main loop for them: the kernel carries them out
            None => self
                .received
                .drain(..)
                .for_each(|call| drop(Notification::new(self.listener.as_fd(), &call))),
        }
    }

    fn next_call(&mut self) -> Option<ReceivedCall> {
        if !self.received.is_empty() {
            return Some(self.received.remove(0));
        }
        match &self.receiver {
            Some(receiver) => receiver.take(),
            None => ReceivedCall::try_receive(self.listener.as_fd()),
        }
    }

    /// Where its stopped calls come from.
    pub fn notifications(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// It is to end, and may unlink what clients come by: that is put back at once.
    pub fn guard_paths(&mut self, listeners: &Listeners) {
        if self.paths || self.removals.is_some() || !listeners.have_paths() {
            return;
        }
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let Ok(removals) = Inotify::init(flags) else {
            return; // what it unlinks is put back once it is gone
        };
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        for directory in listeners.directories() {
            let _ = removals.add_watch(&directory, gone);
        }
        self.removals = Some(removals);
    }

    fn put_paths_back(&self, listeners: &mut Listeners) {
        let Some(removals) = &self.removals else {
            return;
        };
        while let Ok(events) = removals.read_events() {
            let names = events.iter().filter_map(|event| event.name.as_ref());
            if names
                .into_iter()
                .any(|name| listeners.have_path_named(name))
            {
                listeners.put_paths_back();
            }
        }
    }

    /// Answers some of the calls that wait.
    pub fn woken(&mut self, flags: PollFlags, context: &mut CallContext) -> Vec<CaptureEvent> {
        let mut answered = 0;
        // kept alive while the calls that came through it are answered
        let listener = Arc::clone(&self.listener);
        while answered < AT_ONE_GO
            && let Some(call) = self.next_call()
        {
            self.answer(Notification::new(listener.as_fd(), &call), context);
            answered += 1;
        }
        self.put_paths_back(context.listeners);
        let is_over = match &self.receiver {
            Some(receiver) => answered < AT_ONE_GO && receiver.is_over(),
            None => answered == 0 && flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR),
        };
        if is_over {
            self.gone = true;
            self.events.push(CaptureEvent::Gone);
        }
        std::mem::take(&mut self.events)
    }

    /// Whether there is anything to log, now or later.
    pub fn has_news(&self) -> bool {
        !self.new_listeners.is_empty() || !self.events.is_empty()
    }

    /// Gives up the listeners that the server has closed: otherwise hotswap would keep them open, and nobody would answer.
    pub fn sweep(&mut self, context: &mut CallContext) {
        self.release_closed(|bound| bound.listener.is_some(), context);
    }

    fn release_closed(&mut self, wanted: impl Fn(&BoundSocket) -> bool, context: &mut CallContext) {
        for listener in self.bound_sockets.drop_closed(wanted, context.processes) {
            context
                .listeners
                .abandon(self.generation, listener, context.now);
            self.new_listeners.retain(|new| new.id != listener);
        }
    }

    fn answer(&mut self, call: Notification, context: &mut CallContext) {
        let [first, second, third, fourth, fifth, _] = call.arguments;
        let fd = int(first);
        let answer = match call.number {
            _ if self.blind => Ok(CallResult::Continue),
            libc::SYS_bind => self.bind(&call, fd, (second, int(third)), context),
            libc::SYS_listen => self.listen(&call, fd, context),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => Ok(self.unlink(&call, libc::AT_FDCWD, first, context.listeners)),
            // a directory is never a listener
            libc::SYS_unlinkat if int(third) & libc::AT_REMOVEDIR == 0 => {
                Ok(self.unlink(&call, fd, second, context.listeners))
            }
            libc::SYS_setsockopt => {
                let (option, value) = ((int(second), int(third)), (fourth, int(fifth)));
                Ok(self.set_option(&call, fd, option, value))
            }
            _ => Ok(CallResult::Continue),
        };
        match answer {
            Ok(CallResult::Succeed) => call.answer(0),
            Ok(CallResult::Continue) => drop(call),
            Err(error) => call.answer(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// The processes that have bound something: the filter proves that they belong to the generation.
    pub fn binders(&self) -> &[ProcessId] {
        &self.binders
    }

    /// The process that gets the stop signal, if it is not the main one: a wrapper would end and leave the server behind.
    pub fn stop_target(&self) -> Option<Pid> {
        common_ancestor::common_ancestor(&self.binders)
    }

    /// Whether it has called bind(2) or listen(2), as a server does that also runs without hotswap.
    pub fn called_bind_or_listen(&self) -> bool {
        self.bound_sockets.are_in_use()
    }

    /// Whether it has bound something that cannot be looked into.
    pub fn is_hidden(&self) -> bool {
        self.warned.contains(&Warning::CannotLook) || self.is_in_other_network()
    }

    /// Whether it has bound something in another network namespace than hotswap's.
    pub fn is_in_other_network(&self) -> bool {
        self.warned.contains(&Warning::OtherNetwork)
    }

    /// Whether it listens on a port that the kernel has chosen for it, which no client can know beforehand.
    pub fn listens_on_chosen_port(&self) -> bool {
        self.bound_sockets.listens_on_chosen_port
    }

    /// Whether it has bound this one itself: others may be kept for it.
    pub fn listens_on(&self, listener: ListenerId) -> bool {
        let mut all = self.bound_sockets.all.iter();
        all.any(|bound| bound.listener == Some(listener))
    }

    /// Whether it listens on something.
    pub fn has_listeners(&self) -> bool {
        let mut all = self.bound_sockets.all.iter();
        all.any(|bound| bound.listener.is_some())
    }

    fn note_binder(&mut self, process: Pid) {
        self.events.push(CaptureEvent::Binds);
        if self.binders.len() < MOST_BINDERS
            && let Some(process) = ProcessId::of(process)
            && !self.binders.contains(&process)
        {
            self.binders.push(process);
        }
    }
}

impl Polled for Capture {
    fn polled(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        if self.gone {
            return Vec::new();
        }
        let calls = match &self.receiver {
            Some(receiver) => receiver.fd(),
            None => self.listener.as_fd(),
        };
        let removals = self.removals.as_ref().map(AsFd::as_fd);
        let all = [calls].into_iter().chain(removals);
        all.map(|fd| (fd, PollFlags::POLLIN)).collect()
    }

    /// When new listeners are to be logged.
    fn deadline(&self) -> Option<Time> {
        let new = self.new_listeners.first();
        new.map(NewListener::due)
    }
}

#[cfg(test)]
mod tests;
