//! Sending new connections to another generation, on every listener or on none.

use std::io;

use super::reuseport::{ATTEMPTS, too_many_strangers};
use super::steer::Inode;
use super::{Incident, Listener, ListenerId, ListenerKind, Listeners, SocketSource};
use crate::supervisor::Generation;

impl Listeners {
    /// New connections go to this generation from now on, wherever it listens; `--listen`ed sockets that it has not are
    /// made first, so that clients can wait for it. On the listeners that are excepted clients stay with whom they have,
    /// until that is gone. Cutting back is the same.
    ///
    /// # Errors
    /// Then nothing has changed.
    pub fn cut_over(
        &mut self,
        generation: Generation,
        except: &[ListenerId],
    ) -> io::Result<Vec<Incident>> {
        self.complete(generation)?;
        let snapshot = self.snapshot();
        for listener in &mut self.all {
            match &mut listener.sort {
                ListenerKind::Group(group) => {
                    group.prepare(generation, &snapshot, &mut self.context)?;
                }
                ListenerKind::Shared(shared) => shared.repair(&self.context)?,
                ListenerKind::Path(_) => {}
            }
        }
        let mut done: Vec<(usize, Option<Inode>)> = Vec::new();
        for at in 0..self.all.len() {
            if except.contains(&self.all[at].id) {
                continue;
            }
            let result = match &mut self.all[at].sort {
                ListenerKind::Group(group) => group.cut_over(generation, &mut self.context),
                ListenerKind::Path(path) => path.cut_over(generation, &mut self.context),
                ListenerKind::Shared(_) => Ok(None),
            };
            match result {
                Ok(before) => done.push((at, before)),
                Err(error) => {
                    self.cut_back(&done);
                    return Err(error);
                }
            }
        }
        self.serving = Some(generation);
        self.forget_unowned();
        Ok(self.context.take_incidents())
    }

    /// Makes what sockets this generation has not.
    fn complete(&mut self, generation: Generation) -> io::Result<()> {
        // clients wait for one that is not spawned yet; else who has not bound an address may not be about to
        let unborn = self.spawning < Some(generation);
        let lacks = |listener: &Listener| {
            let due = unborn || listener.captured.is_none();
            due && listener.held(generation).is_none()
        };
        if !self.all.iter().any(lacks) {
            return Ok(());
        }
        let snapshot = self.snapshot();
        for listener in self.all.iter_mut().filter(|listener| lacks(listener)) {
            match &mut listener.sort {
                ListenerKind::Group(group) => {
                    group.inherited_socket(
                        generation,
                        SocketSource::Own,
                        &snapshot,
                        &mut self.context,
                    )?;
                }
                ListenerKind::Path(path) => {
                    path.inherited_socket(generation, SocketSource::Own, &self.context)?;
                }
                ListenerKind::Shared(_) => {}
            }
        }
        self.settle(generation)
    }

    fn cut_back(&mut self, done: &[(usize, Option<Inode>)]) {
        for (at, before) in done {
            let Some(before) = *before else { continue };
            match &mut self.all[*at].sort {
                ListenerKind::Group(group) => group.steer_back(before, &mut self.context),
                ListenerKind::Path(path) => path.steer_back(before, &mut self.context),
                ListenerKind::Shared(_) => {}
            }
        }
    }

    /// Its main process is dead. Clients wait for whoever comes next, even where what is left of it has no listener.
    pub fn died(&mut self, generation: Generation) {
        self.serving.take_if(|serving| *serving == generation);
    }

    /// Makes sure of the places of this generation's sockets that have just joined a group.
    pub(super) fn settle(&mut self, generation: Generation) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            if !self.groups().any(|group| group.is_new(generation)) {
                return Ok(());
            }
            let snapshot = self.snapshot();
            for listener in &mut self.all {
                if let ListenerKind::Group(group) = &mut listener.sort {
                    group.settle(generation, &snapshot, &mut self.context)?;
                }
            }
        }
        Err(too_many_strangers())
    }
}
