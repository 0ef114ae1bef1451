//! Whom the watching itself is left to: `notify`, and a thread that waits for its answers.
//!
//! `notify` reads events until there are none before it hears what else is wanted of it, so that whoever touches files
//! without a pause would keep us waiting.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use notify::{Config, ErrorKind, Event, RecommendedWatcher, RecursiveMode, Result, Watcher};

use crate::watch::places::Directory;

enum Order {
    Hold(Directory),
    LetGo(PathBuf),
}

pub struct Notifier(Sender<Order>);

impl Notifier {
    /// `note` is told of every event, and `answer` of every directory whether it is held; both on other threads.
    ///
    /// # Errors
    /// Why there is no inotify, or no thread.
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
        // `notify` does not notice that its thread could not be started, with all that it was given, and panics later.
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
        // it takes orders for as long as we are there
        let _ = self.0.send(Order::Hold(directory));
    }

    pub fn let_go(&self, path: &Path) {
        let _ = self.0.send(Order::LetGo(path.to_owned()));
    }
}

/// Until nobody gives orders any more.
fn carry_out(
    orders: &Receiver<Order>,
    mut watcher: RecommendedWatcher,
    answer: impl Fn(Directory, Result<()>),
) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Hold(directory) => {
                let held = watcher.watch(&directory.path, RecursiveMode::NonRecursive);
                answer(directory, held);
            }
            // `notify` forgets a directory that has gone by itself.
            Order::LetGo(path) => drop(watcher.unwatch(&path)),
        }
    }
}

/// In words, what a limit has to do with it among them.
pub fn reason(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => "the limit fs.inotify.max_user_watches is reached".into(),
        ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            "the limit fs.inotify.max_user_instances is reached".into()
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}
