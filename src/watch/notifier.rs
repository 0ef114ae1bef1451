//! The thread that owns the `notify` watcher and waits for its answers.
//!
//! `notify` answers a request only once no events are left to read, so a program that touches files without a pause
//! would block the main loop.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use notify::{Config, ErrorKind, Event, RecommendedWatcher, RecursiveMode, Result, Watcher};

use crate::watch::symlinks::Directory;

enum NotifierCommand {
    Hold(Directory),
    LetGo(PathBuf),
}

pub struct Notifier(Sender<NotifierCommand>);

impl Notifier {
    /// Calls `note` for every event, and `answer` for every directory with whether it is watched; both on other
    /// threads.
    ///
    /// # Errors
    /// Why inotify or the thread is unavailable.
    pub fn start(
        note: impl Fn(Result<Event>) + Send + 'static,
        answer: impl Fn(Directory, Result<()>) + Send + 'static,
    ) -> std::result::Result<Self, String> {
        let runs = Arc::new(());
        let theirs = Arc::clone(&runs);
        let note = move |event: Result<Event>| {
            let _ = &theirs;
            note(event);
        };
        let watcher =
            RecommendedWatcher::new(note, Config::default()).map_err(|error| reason(&error))?;
        // If `notify` could not start its thread, it does not notice (the closure is dropped) and panics later.
        if Arc::strong_count(&runs) == 1 {
            mem::forget(watcher);
            return Err("cannot start a thread".into());
        }
        let (orders, taken) = mpsc::channel();
        let thread = thread::Builder::new().name("watch".into());
        thread
            .spawn(move || carry_out(&taken, watcher, answer))
            .map_err(|error| error.to_string())?;
        Ok(Self(orders))
    }

    pub fn hold(&self, directory: Directory) {
        // the thread receives for as long as this sender exists
        let _ = self.0.send(NotifierCommand::Hold(directory));
    }

    pub fn let_go(&self, path: &Path) {
        let _ = self.0.send(NotifierCommand::LetGo(path.to_owned()));
    }
}

/// Runs until the sender is dropped.
fn carry_out(
    orders: &Receiver<NotifierCommand>,
    mut watcher: RecommendedWatcher,
    answer: impl Fn(Directory, Result<()>),
) {
    while let Ok(order) = orders.recv() {
        match order {
            NotifierCommand::Hold(directory) => {
                let held = watcher.watch(&directory.path, RecursiveMode::NonRecursive);
                answer(directory, held);
            }
            // It fails for a removed directory, which `notify` has forgotten by itself.
            NotifierCommand::LetGo(path) => drop(watcher.unwatch(&path)),
        }
    }
}

/// The error in words, naming the limit that was reached.
pub fn reason(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => "the limit fs.inotify.max_user_watches is reached".into(),
        ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            // the kernel says the same for both
            let has_descriptors = std::fs::File::open("/dev/null").is_ok();
            if has_descriptors {
                "the limit fs.inotify.max_user_instances is reached".into()
            } else {
                "too many open files; raise the limit with ulimit -n".into()
            }
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}
