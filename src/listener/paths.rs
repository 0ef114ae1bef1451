//! The unix paths among the listeners: whether they lead where they should, and which files are theirs.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::captured_address::PathEntry;
use super::incident::Incident;
use super::unix_dir::UnixDir;
use super::{Listener, Listeners};
use crate::supervisor::Generation;

impl Listeners {
    /// Whether any listener is a unix path.
    pub fn have_paths(&self) -> bool {
        self.places().next().is_some()
    }

    /// The directories of those paths.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.places().map(UnixDir::here).collect()
    }

    /// Somebody has unlinked one of them: it leads to where it led.
    pub fn put_paths_back(&mut self) {
        for Listener { steering, .. } in &mut self.all {
            if let Err(error) = steering.put_back() {
                let incident = Incident::broken(steering.address(), &error);
                self.context.incident(incident);
            }
        }
    }

    /// Whether clients come by any unix path.
    pub fn serve_paths(&self) -> bool {
        let mut all = self.all.iter();
        all.any(|listener| listener.steering.dir().is_some() && self.counts(listener))
    }

    /// Every unix path leads to the serving generation, or that it does not is said once. A change of mode or owner is one
    /// of the candidate's own socket.
    pub fn keep_paths_up(&mut self, candidate: Option<Generation>) -> Vec<Incident> {
        for Listener { steering, .. } in &mut self.all {
            steering.keep_up(candidate, &mut self.context);
        }
        self.context.take_incidents()
    }

    pub fn have_path_named(&self, name: &OsStr) -> bool {
        self.places().any(|dir| dir.names().any(|own| own == name))
    }

    fn places(&self) -> impl Iterator<Item = &UnixDir> {
        self.all
            .iter()
            .filter_map(|listener| listener.steering.dir())
    }

    /// Whether clients connect there, to a socket that hotswap knows.
    pub fn meets_live_path(&mut self, entry: &PathEntry, generation: Generation) -> bool {
        let live = self.all.iter().find(|Listener { steering, .. }| {
            let here = |dir: &&UnixDir| dir.is_at(entry.directory, &entry.name);
            let (dir, live) = (steering.dir().filter(here), steering.live_file());
            dir.is_some_and(|dir| live.is_some_and(|live| dir.has(&entry.name, live)))
        });
        let Some(live) = live.map(|listener| listener.id) else {
            return false;
        };
        self.meet(generation, live);
        self.has(live)
    }
}
