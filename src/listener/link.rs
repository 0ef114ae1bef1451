//! Symlinks by which clients come to the unix path of one generation alone: each generation leads them to its own.
//!
//! hotswap only notes where they lead before a swap, and leads them there again if that comes to nothing.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::beside::beside;
use super::{Listener, ListenerId, Listeners};
use crate::supervisor::Generation;

/// How many names of a directory are looked at.
const MOST_NAMES: usize = 4_096;

/// A symlink to the path of this listener, and what it says.
pub(super) struct Link {
    of: ListenerId,
    at: PathBuf,
    to: PathBuf,
}

impl Listeners {
    /// Before a candidate is spawned, which may lead them elsewhere.
    pub fn note_links(&mut self) {
        let serving = self.serving;
        let paths = self.all.iter().filter_map(|listener| {
            let live = self.is_of_one_generation(listener) && serving == owner_of(listener);
            let dir = listener.steering.dir().filter(|_| live)?;
            Some((listener.id, dir))
        });
        let links = paths.flat_map(|(id, dir)| links_to(id, dir.path()));
        let links = links.collect();
        self.links = serving.map(|serving| (serving, links));
    }

    /// The candidate has failed: they lead to the serving generation again.
    pub fn put_links_back(&mut self) {
        let of_serving = |links: &mut (Generation, _)| self.serving == Some(links.0);
        let links = self.links.take_if(of_serving).map(|(_, links)| links);
        for Link { at, to, .. } in links.into_iter().flatten() {
            if let Err(error) = put_back(&at, &to) {
                let (at, to) = (at.display(), to.display());
                log::warn!("cannot point the symlink {at} at {to} again: {error}");
            }
        }
    }

    /// Which of those that a candidate has bound it has instead of a path that only the generation before it has bound,
    /// beside which there is nothing else. While that one serves, clients must have come there by a link, or look for the
    /// name of a process.
    pub fn path_instead(
        &self,
        of: ListenerId,
        bound: &[ListenerId],
        nothing_serves: bool,
    ) -> Option<ListenerId> {
        let bound_by_one = |listener: &&Listener| self.is_of_one_generation(listener);
        let mut all = self.all.iter().filter(bound_by_one);
        let from = all.clone().find(|listener| listener.id == of)?;
        let names_process = from.path_use.is_some_and(|used| used.names_process);
        let mut links = self.links.iter().flat_map(|(_, links)| links);
        let is_led_to = links.any(|link| link.of == of);
        if !(nothing_serves || names_process || is_led_to) {
            return None;
        }
        let own = all.find(|listener| bound.contains(&listener.id))?;
        Some(own.id)
    }

    pub fn is_path(&self, listener: ListenerId) -> bool {
        let listener = self.get(listener);
        listener.is_some_and(|one| one.steering.dir().is_some())
    }

    /// A path that is not known by another name, and that no other generation has bound.
    fn is_of_one_generation(&self, listener: &Listener) -> bool {
        let alone = listener.path_use.is_some_and(|used| !used.shared);
        let has_one_name = (listener.steering.dir()).is_some_and(|dir| dir.names().count() == 1);
        alone && has_one_name && self.counts(listener)
    }
}

fn owner_of(listener: &Listener) -> Option<Generation> {
    listener.steering.target()?.owner
}

/// The symlinks in its directory that lead to this path.
fn links_to(of: ListenerId, path: &Path) -> Vec<Link> {
    let Some(directory) = path.parent() else {
        return Vec::new();
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let links = entries.take(MOST_NAMES).filter_map(|entry| {
        let at = entry.path();
        let to = fs::read_link(&at).ok()?;
        let leads_here = fs::canonicalize(&at).ok()? == fs::canonicalize(path).ok()?;
        leads_here.then_some(Link { of, at, to })
    });
    links.collect()
}

/// Whatever has taken its place that is no symlink stays.
fn put_back(at: &Path, to: &Path) -> io::Result<()> {
    match fs::read_link(at) {
        Ok(there) if there == to => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let passing = beside(at.as_os_str(), "new");
    let passing = Path::new(&passing);
    let _ = fs::remove_file(passing);
    symlink(to, passing)?;
    fs::rename(passing, at)
}
