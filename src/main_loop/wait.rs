//! Waits in poll(2), and turns what woke it into events.
//!
//! Within one wake-up deaths come first, then readiness, then requests, then what has elapsed.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;

use super::World;
use super::generation::Part;
use super::poll::{PollOutcome, poll, poll_with_glances};
use super::status::AskedBy;
use crate::log::{self as lines, PendingLines};
use crate::polled::Polled;
use crate::ready::Readiness;
use crate::record::signal_name;
use crate::signals::SignalRequest;
use crate::supervisor::{Event, Generation, Supervisor, Time};
use crate::sys;
use crate::sys::memory;

/// Who has something in the poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Lines,
    Listeners,
    Control,
    Upkeep,
    Watch,
    Keys,
    Keeper,
    Manager,
    Programs,
    Fitness,
    Of(Generation, Part),
    Command(Pid),
}

type Polling<'a> = (Source, (BorrowedFd<'a>, PollFlags));

/// What one wake-up brought, in the order in which the core hears it.
#[derive(Default)]
pub(super) struct Batch {
    /// When.
    pub now: Time,
    pub deaths: Vec<Event>,
    pub readiness: Vec<Event>,
    pub requests: Vec<Event>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.deaths.is_empty() && self.readiness.is_empty() && self.requests.is_empty()
    }
}

impl World {
    pub(super) fn wait(&mut self, supervisor: &Supervisor) -> Result<Vec<Event>> {
        let due = supervisor.deadline();
        let beat = due.map(|_| self.pulse.next());
        let turn = self.turn_is_due(supervisor).then(sys::now);
        let next = self.deadline().into_iter();
        let next = next.chain(due).chain(beat).chain(turn).min();
        let rests = self.has_worked && due.is_none() && self.awaits_nothing();
        if rests {
            self.has_worked = false;
        }
        let woken = self.poll(next, rests)?;
        self.pulse.beat(next);
        let now = sys::now();
        let mut batch = Batch {
            now,
            ..Batch::default()
        };
        for (room, fd, flags) in woken {
            self.woken(room, fd, flags, &mut batch);
        }
        // Clients wait from now on: the rest has time until then.
        if !self.tell_of_judging(&mut batch) {
            self.look(&mut batch);
            self.tell_of_judging(&mut batch);
        }
        self.count_waiting_clients(supervisor);
        self.answer_status_requests(supervisor, now);
        self.show_status(supervisor, now);
        if batch
            .requests
            .iter()
            .any(|event| matches!(event, Event::SwapAsked(_)))
        {
            self.watch.asked();
        }
        let elapsed = due.filter(|due| *due <= now).map(|_| Event::Elapsed);
        if batch.is_empty() && elapsed.is_none() {
            batch.requests.extend(self.take_turn(supervisor, now));
        }
        let restarts = supervisor.backs_off() && elapsed.is_some();
        let restarts = restarts
            || batch
                .deaths
                .iter()
                .any(|death| matches!(death, Event::Died(..)));
        let judged = restarts.then(|| self.judge_file(supervisor)).flatten();
        let unproven = self.unproven(supervisor, now);
        let events = judged.into_iter().chain(batch.deaths).chain(unproven);
        let events = events.chain(batch.readiness).chain(batch.requests);
        Ok(events.chain(elapsed).collect())
    }

    fn poll(&mut self, due: Option<Time>, rests: bool) -> Result<Vec<(Source, RawFd, PollFlags)>> {
        let polled = self.polled();
        let mut fds: Vec<PollFd> = polled
            .iter()
            .map(|(_, (fd, flags))| PollFd::new(*fd, *flags))
            .collect();
        let mut starting = self
            .generations
            .values()
            .filter_map(|one| one.readiness.as_ref());
        let glance = starting.find_map(Readiness::glance);
        // To the nanosecond: it never wakes before its time, only to wait again.
        let timeout = due.map(|due| due.saturating_sub(sys::now()));
        if rests {
            memory::give_back();
        }
        let outcome = match glance {
            Some(glance) => poll_with_glances(&mut fds, due, glance)?,
            None => poll(&mut fds, timeout)?,
        };
        // What is due is looked at, and the poll tried again.
        if outcome == PollOutcome::Nothing {
            return Ok(Vec::new());
        }
        let count = fds.len();
        let ready = polled
            .iter()
            .zip(&fds)
            .filter_map(|((room, (fd, _)), polled)| {
                let flags = polled.revents().filter(|flags| !flags.is_empty())?;
                Some((*room, fd.as_raw_fd(), flags))
            });
        let ready = ready.collect();
        self.note_poll(outcome, count);
        Ok(ready)
    }

    /// Says once of each limit that it is below what hotswap has open.
    fn note_poll(&mut self, outcome: PollOutcome, count: usize) {
        let PollOutcome::InParts(limit) = outcome else {
            self.few_descriptors = None;
            return;
        };
        if self.few_descriptors.replace(limit) != Some(limit) {
            let pid = std::process::id();
            self.warn(format!(
                "the limit of open descriptors is {limit} now, and hotswap waits for {count} of them: it continues, but slower\n\
                 try: prlimit --pid {pid} --nofile=1024"
            ));
        }
    }

    /// All that the poll serves.
    fn rooms(&self) -> Vec<(Source, &dyn Polled)> {
        let mut all: Vec<(Source, &dyn Polled)> = vec![
            (Source::Signals, &self.signals),
            (Source::Lines, &PendingLines),
            (Source::Listeners, &self.listeners),
            (Source::Control, &self.control),
            (Source::Upkeep, &self.upkeep),
            (Source::Watch, &self.watch),
            (Source::Keys, &self.keys),
            (Source::Manager, &self.manager),
            (Source::Programs, &self.status_data.programs),
            (Source::Fitness, &self.fitness_due),
        ];
        let keeper = self.keeper.iter();
        all.extend(keeper.map(|keeper| (Source::Keeper, keeper as &dyn Polled)));
        for (generation, one) in &self.generations {
            let rooms = one.rooms();
            all.extend(rooms.map(|(part, room)| (Source::Of(*generation, part), room)));
        }
        let commands = self.commands.iter();
        all.extend(commands.map(|(_, one)| (Source::Command(one.pid()), one as &dyn Polled)));
        all
    }

    fn polled(&self) -> Vec<Polling<'_>> {
        let mut all = Vec::new();
        for (source, room) in self.rooms() {
            all.extend(room.polled().into_iter().map(|polled| (source, polled)));
        }
        all
    }

    /// When to look whether the unix paths lead where they should: with the look of the watcher, if it polls.
    fn paths_due(&self) -> Option<Time> {
        let wanted = !self.args.poll.is_zero() && self.listeners.serve_paths();
        wanted.then(|| self.paths_looked + self.args.poll)
    }

    /// When one of the rooms wants to look again.
    fn deadline(&self) -> Option<Time> {
        let rooms = self.rooms().into_iter();
        let rooms = rooms.filter_map(|(_, room)| room.deadline());
        let others = [self.paths_due(), self.build.deadline()];
        rooms.chain(others.into_iter().flatten()).min()
    }

    /// It will be a while before something happens: no room has begun what it has to go on with.
    fn awaits_nothing(&self) -> bool {
        let regular = |source| matches!(source, Source::Watch | Source::Upkeep | Source::Manager);
        let mut rooms = self.rooms().into_iter();
        rooms.all(|(source, room)| regular(source) || room.deadline().is_none())
    }

    fn woken(&mut self, room: Source, fd: RawFd, flags: PollFlags, batch: &mut Batch) {
        let now = batch.now;
        match room {
            Source::Signals => self.handle_signals(batch),
            Source::Lines => lines::flush(),
            Source::Listeners => {
                let incidents = self.listeners.woken(now);
                self.publish_incidents(&incidents);
                if self.listeners.have_arrivals(now) {
                    self.release_closed_listeners(now);
                }
            }
            Source::Control => self.handle_clients(fd, flags, batch),
            Source::Upkeep => self.upkeep.woken(self.next_poll()),
            Source::Watch => {
                self.watch.woken(now);
                self.note_writers();
                if self.args.hold {
                    self.watch.look_at_touched();
                }
            }
            Source::Keys => self.handle_keys(batch),
            Source::Keeper => self.keeper_ended(now),
            Source::Of(generation, Part::Server) => self.handle_server(generation, fd, batch),
            Source::Of(generation, Part::Capture) => self.handle_capture(generation, flags, batch),
            Source::Of(generation, Part::Notify) => {
                self.read_notify_messages(generation, now);
            }
            Source::Of(generation, Part::Readiness) => {
                let one = self.generations.get_mut(&generation);
                if let Some(readiness) = one.and_then(|one| one.readiness.as_mut()) {
                    readiness.woken();
                }
            }
            Source::Command(pid) => {
                if let Some((_, command)) = self
                    .commands
                    .iter_mut()
                    .find(|(_, command)| command.pid() == pid)
                {
                    command.woken(fd);
                }
            }
            // They have deadlines alone.
            Source::Manager
            | Source::Programs
            | Source::Fitness
            | Source::Of(_, Part::Drain | Part::Lingering) => {}
        }
    }

    fn handle_signals(&mut self, batch: &mut Batch) {
        let mut all = Vec::new();
        loop {
            // Read at once, all of them: a second SIGTERM hides behind a first that is still pending.
            let mut asked = self.signals.read();
            // A server in the style of endless: it tells its old parent to stop, and means that it is ready.
            asked.retain(
                |asked| !matches!(asked, SignalRequest::Stop { sender } if self.ready_by_signal(*sender)),
            );
            let reaps = asked.contains(&SignalRequest::Reap);
            all.extend(asked);
            if !reaps {
                break;
            }
            // Whatever the dead have sent has come by now, and is read as long as they are known.
            self.reap(batch);
        }
        for asked in all {
            batch.requests.extend(match asked {
                SignalRequest::Swap => {
                    log::debug!("SIGHUP asks for a swap");
                    self.status_data.asked_by = AskedBy::Signal;
                    self.repair_control();
                    Some(Event::SwapAsked(None))
                }
                SignalRequest::Stop { .. } | SignalRequest::Quit => Some(Event::StopAsked(None)),
                SignalRequest::HungUp => {
                    self.status_data.terminal_closed = true;
                    Some(Event::StopAsked(None))
                }
                SignalRequest::Interrupt => Some(Event::Interrupted),
                SignalRequest::Ignored(number) => {
                    let name = signal_name(number);
                    self.warn(format!(
                        "{name} is ignored\ntry: SIGTERM to stop, SIGHUP to swap"
                    ));
                    None
                }
                SignalRequest::Reopen => Some(Event::ReopenAsked),
                SignalRequest::Upgrade => {
                    self.repair_control();
                    self.check_upgrade();
                    None
                }
                SignalRequest::Reap => None,
            });
        }
        // those that came together are one, however long it takes to do what follows from the first
        let mut has_stop = false;
        batch.requests.retain(|event| {
            let is_stop = matches!(event, Event::StopAsked(None) | Event::Interrupted);
            !(is_stop && std::mem::replace(&mut has_stop, true))
        });
    }

    fn note_writers(&mut self) {
        let generations = self.generations.values();
        self.watch.note_writers(&|| {
            let processes = generations.clone().map(|one| one.server.processes());
            processes.flatten().collect()
        });
    }

    fn look(&mut self, batch: &mut Batch) {
        let now = batch.now;
        self.look_at_lingering(batch);
        self.name_listeners(None, now);
        self.look_at_candidate(batch);
        self.look_at_draining(batch);
        let incidents = self.listeners.look(now);
        self.publish_incidents(&incidents);
        self.look_at_muted(now);
        for one in self.generations.values_mut() {
            one.notify.look(now);
            one.server.look(now);
        }
        for (_, command) in &mut self.commands {
            command.look(now);
        }
        self.control.look(now);
        // clients wait for what is ready
        if batch.readiness.is_empty() {
            self.status_data.hash_on();
        }
        self.manager.look(now);
        if self.fitness_due.is_due(now) {
            batch.requests.extend(self.check_program());
        }
        let watch_is_due = self.watch.deadline().is_some_and(|due| due <= now);
        if watch_is_due || self.paths_due().is_some_and(|due| due <= now) {
            self.keep_paths_up();
        }
        if watch_is_due || self.upkeep.is_due(now) {
            self.repair_control();
        }
        if watch_is_due {
            self.has_worked = true;
            self.note_writers();
            let changed = self.watch.look(now);
            for line in self.watch.take_unfit() {
                self.note_unfit(line);
            }
            batch.requests.extend(self.files_changed(&changed, now));
        }
        batch.requests.extend(self.conclude_build(now));
    }
}
