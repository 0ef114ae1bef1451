//! From what the core announces to the words, and to all who follow.

use std::time::Duration;

use log::Level;

use super::World;
use super::generation::Spawned;
use crate::log as lines;
use crate::news::{Kind, News};
use crate::ready::Lack;
use crate::supervisor::{Announcement, Cause, Exit, Failure, Generation, Reason, Time};
use crate::sys;

impl World {
    pub(super) fn announce(&mut self, announcement: &Announcement) {
        let news = match announcement {
            Announcement::Proving(generation) => {
                let (how, after) = self.shown_ready(*generation);
                News::proving(*generation, &how, after)
            }
            Announcement::Serving {
                generation,
                cause,
                draining,
            } => self.serves(*generation, *cause, *draining),
            Announcement::Failed(failure) => {
                let old = failure
                    .serves_on
                    .filter(|_| self.args.dev)
                    .and_then(|old| self.generations.get(&old));
                let age = old.map(|old| sys::now().saturating_sub(old.server.started()));
                self.fails(failure, age)
            }
            Announcement::Dead {
                generation,
                exit,
                then,
            } => {
                let after = self.since(*generation, |one| one.serving_since);
                News::dead(*generation, exit, after, *then)
            }
            Announcement::Gone { generation, exit } => {
                let news = self.goes(*generation, exit.as_ref());
                self.tell(&news);
                self.control.gone(*generation, &news.text, sys::now());
                return;
            }
            Announcement::Unkillable(generation) => {
                let text = "cannot be killed: it is left to the system";
                let news = News::of(Kind::Warning, *generation, text).at(Level::Error);
                self.tell(&news);
                self.control.gone(*generation, &news.text, sys::now());
                return;
            }
            Announcement::DrainTimeout(generation) => {
                News::killed(*generation, "its time to end has passed")
            }
            Announcement::KilledEarly(generation) => {
                News::killed(*generation, "more are draining than --max-draining allows")
            }
            Announcement::FallingBack { to } => self.falls_back(*to),
            Announcement::WaitingForChange => News::notice("nothing serves: waiting for a change"),
            Announcement::Stopping => News::new(Kind::Stopping, "stopping"),
        };
        self.tell(&news);
    }

    /// The log, the hooks, and whoever follows.
    pub(super) fn tell(&mut self, news: &News) {
        lines::log_news(news);
        self.tell_clients(news);
        self.run_hook(news);
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.tell(&News::warning(text));
    }

    fn serves(
        &mut self,
        generation: Generation,
        cause: Cause,
        draining: Option<Generation>,
    ) -> News {
        let (how, after) = self.shown_ready(generation);
        let draining = draining.map(|old| (old, self.connections_of(old)));
        let news = News::serving(generation, &how, after, draining);
        self.figures
            .served(generation, cause, after, &news.text, sys::now());
        news
    }

    fn fails(&mut self, failure: &Failure, age: Option<Duration>) -> News {
        if let Some(lack) = self.lack_of(failure) {
            self.warn(lack);
        }
        let news = News::failed(failure, age);
        self.figures.failed(failure, &news.text, sys::now());
        news
    }

    /// What it was waited for in vain.
    fn lack_of(&self, failure: &Failure) -> Option<String> {
        let Reason::NotReady(_) = failure.reason else {
            return None;
        };
        let generation = failure.generation;
        let readiness = self.generations.get(&generation)?.readiness.as_ref()?;
        Some(match readiness.lack()? {
            Lack::Word => format!("{generation} does not say READY=1, as the one before it did"),
            Lack::Accepting(listeners) => {
                let addresses = listeners.iter().map(|one| self.listeners.address_of(*one));
                let addresses: Vec<String> = addresses.collect();
                format!("{generation} does not accept on {}", addresses.join(", "))
            }
            Lack::Answer { path, status } => {
                format!("{generation} answers to {path} with status {status}")
            }
        })
    }

    fn falls_back(&self, good: Generation) -> News {
        let program = format!("the last good program, that of {good},");
        let text = match self.kept_program(good) {
            Ok(_) => format!("{program} runs again until the next change"),
            Err(why) => format!("{program} cannot be run again: {why}"),
        };
        News::warning(text).at(Level::Error)
    }

    /// As they were counted when it began to drain.
    fn connections_of(&self, generation: Generation) -> Option<usize> {
        let drain = self.generations.get(&generation)?.drain.as_ref()?;
        drain.connections()
    }

    fn goes(&mut self, generation: Generation, exit: Option<&Exit>) -> News {
        let one = self.generations.get(&generation);
        let served = one.is_some_and(|one| one.serving_since.is_some());
        let was_ended = one.is_some_and(|one| one.drains_since.is_some());
        let after = self.since(generation, |one| {
            one.drains_since
                .or(one.serving_since)
                .or(Some(one.server.started()))
        });
        if served {
            self.figures.counters.gone_after(after);
        }
        let news = News::gone(generation, after, exit);
        // That a candidate died by itself has been said.
        if served || was_ended {
            news
        } else {
            news.at(Level::Debug)
        }
    }

    fn shown_ready(&self, generation: Generation) -> (String, Duration) {
        let one = self.generations.get(&generation);
        one.and_then(|one| one.ready.clone()).unwrap_or_else(|| {
            let after = self.since(generation, |one| Some(one.server.started()));
            ("ready".into(), after)
        })
    }

    fn since(&self, generation: Generation, moment: impl Fn(&Spawned) -> Option<Time>) -> Duration {
        let now = sys::now();
        now.saturating_sub(
            self.generations
                .get(&generation)
                .and_then(moment)
                .unwrap_or(now),
        )
    }
}
