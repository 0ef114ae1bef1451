//! Captured addresses that overlap without being the same: of which generation clients reach the socket.

use super::captured_address::CapturedAddress;
use super::{Listener, ListenerId, Listeners};
use crate::supervisor::Generation;

impl Listeners {
    /// Whether a captured socket overlaps with that address without having the very same one.
    pub fn have_overlapping(&self, asked: &CapturedAddress) -> bool {
        self.overlapping(asked).next().is_some()
    }

    /// The address of another generation alone that overlaps with this one.
    pub fn served_beside(&self, generation: Generation, asked: &CapturedAddress) -> Option<String> {
        let mut overlapping = self.overlapping(asked);
        let of_others = |listener: &&Listener| {
            listener.held(generation).is_none() && listener.steering.is_owned()
        };
        let there = overlapping.find(of_others)?;
        Some(there.steering.address())
    }

    /// Which of those that a candidate has bound overlaps with an address that it has not.
    pub fn overlapping_instead(&self, of: ListenerId, bound: &[ListenerId]) -> Option<ListenerId> {
        let mut overlapping = self.overlapping(self.get(of)?.captured.as_ref()?);
        let own = overlapping.find(|listener| bound.contains(&listener.id))?;
        Some(own.id)
    }

    /// Whether clients of that address reach another generation, by one that overlaps.
    pub(super) fn is_served_elsewhere(
        &self,
        generation: Generation,
        asked: &CapturedAddress,
    ) -> bool {
        let serving = self.serving.filter(|serving| *serving != generation);
        serving.is_some_and(|serving| {
            let mut overlapping = self.overlapping(asked);
            overlapping.any(|listener| listener.held(serving).is_some())
        })
    }

    /// Where this generation does not listen, but at an address that covers it, new connections go there, and so do those
    /// that wait for a generation.
    pub(super) fn hide_covered(&mut self, generation: Generation) {
        let own = |listener: &&Listener| listener.held(generation).is_some_and(|own| own.listens);
        let served: Vec<CapturedAddress> = (self.all.iter().filter(own))
            .filter_map(|listener| listener.captured.clone())
            .collect();
        for listener in &mut self.all {
            let Some(asked) = listener.captured.as_ref().filter(|_| !own(&&*listener)) else {
                continue;
            };
            if !served.iter().any(|there| there.covers(asked)) {
                continue;
            }
            if let Err(error) = listener.steering.hide(&mut self.context) {
                log::debug!("cannot lead clients of {asked} to the overlapping address: {error}");
            }
            if !listener.steering.is_owned() {
                self.context.awaited.came(listener.id);
            }
        }
    }

    fn overlapping<'a>(&'a self, asked: &'a CapturedAddress) -> impl Iterator<Item = &'a Listener> {
        self.all.iter().filter(move |listener| {
            let there = listener.captured.as_ref();
            there.is_some_and(|there| there != asked && there.overlaps(asked))
        })
    }
}
