//! What must follow from an event, but for the care of those that leave.

use super::*;

impl Model {
    pub(super) fn hear(&mut self, event: &Event, falls_back: bool) {
        match event {
            Launched => self.ask(Cause::First),
            SwapAsked(by) => {
                let newest = self.newest;
                self.owed.extend(by.map(|client| (client, newest)));
                self.ask(Cause::Asked);
            }
            FileChanged => self.ask(Cause::File),
            FileTouched => self.touch(),
            FilesJudged => self.judged_by = None,
            BeforeSwapEnded(result) => {
                if let Some(way) = self.on_way(At::Command) {
                    let first = way.cause == Cause::First;
                    way.at = At::Check;
                    match result {
                        Err(why) => self.fail(Reason::BeforeSwap(why.clone())),
                        Ok(()) if first => self.wait_to_spawn(None),
                        Ok(()) => self.check(),
                    }
                }
            }
            ProgramChecked(result) => {
                if let Some(way) = self.on_way(At::Check) {
                    let number = way.number;
                    let stops_first = self.policy.stop_first;
                    match result {
                        Err(why) => self.fail(Reason::NotFit(why.clone())),
                        Ok(()) if stops_first && self.serving.is_some() => {
                            self.cut_over_to(At::Room, number);
                        }
                        Ok(()) => self.wait_to_spawn(None),
                    }
                }
            }
            CannotSpawn(generation, why) => {
                if self.candidate() == Some(*generation) {
                    self.lives.remove(generation);
                    self.fail(Reason::CannotSpawn(why.clone()));
                }
            }
            Ready(generation) => {
                let starting = self.on_way(At::Starting).map(|way| way.number);
                if starting == Some(*generation) {
                    let spawned = self.way.and_then(|way| way.spawned);
                    let took = self.now.saturating_sub(spawned.unwrap_or(self.now));
                    self.longest_start = self.longest_start.max(took);
                    match &mut self.way {
                        Some(way) if self.judged_by.is_some() => way.ready = true,
                        _ => self.cut_over_to(At::CuttingOver, *generation),
                    }
                }
            }
            CutOverDone(generation) => self.cut_over(*generation),
            CannotCutOver(generation, why) => {
                let way = self.way.filter(|way| way.number == *generation);
                if way.is_some_and(Way::is_cut_over_to) {
                    self.fail(Reason::CannotCutOver(why.clone()));
                }
            }
            Event::Unproven(generation, how) => {
                let proving = self.on_way(At::Proving).map(|way| way.number);
                if proving == Some(*generation) {
                    self.fail(Reason::NotProven(how.clone()));
                }
            }
            Died(generation, exit) => self.die(*generation, exit, falls_back),
            Gone(generation) => drop(self.lives.remove(generation)),
            Queued(generation, queue) => {
                let one = self.waits_on(*generation);
                if let Some(one) = one.filter(|one| one.quiesces_until.is_none()) {
                    one.queue = *queue;
                }
            }
            Quiet(generation) => {
                if let Some(one) = self.waits_on(*generation) {
                    one.quiet = one.quiesces_until.is_some();
                }
            }
            StopAsked(by) => self.stop(*by, self.policy.stop_quiesce),
            Interrupted => self.stop(None, self.policy.interrupt_quiesce),
            UpgradeAsked => self.upgrade = true,
            ReopenAsked => self.reopen(),
            Event::OnDisk(what) => self.goes_back = *what == OnDisk::Another { is_held: true },
            // which program runs, and no history asks for the others: drills do
            RollBackAsked(..) | SameProgram(_) | CheckAsked(_) | Event::LeftAlone(_) => {}
            Elapsed => self.elapse(),
        }
    }

    /// What has waited for this moment: a spawn, the end, an upgrade.
    pub(super) fn go_on(&mut self) {
        let idle = self.serving.is_none();
        let in_the_way = |way: &Way| {
            let mut leaving = self.leaving();
            leaving.any(|(whose, one)| (one.has_targets && idle) || way.after == Some(whose))
        };
        let way = self
            .way
            .filter(|way| way.at == At::Spawn && way.until.is_none());
        if let Some(way) = way.filter(|way| !in_the_way(way)) {
            self.spawn(way.number, idle);
        }
        if let Some(status) = self.ends {
            self.pending = None;
            self.refuse(|_| true);
            if std::mem::take(&mut self.upgrade) {
                self.follows.push(RefuseUpgrade(STOPPING));
            }
            if self.lives.is_empty() {
                self.follows.push(End(status));
            }
        }
        if self.way.is_none() && self.ends.is_none() {
            self.prepare();
        }
        let calm = self
            .way
            .is_none_or(|way| way.at == At::Spawn && way.until.is_some());
        let calm = calm && !self.held && self.judged_by.is_none();
        if self.upgrade && calm && self.pending.is_none() {
            self.upgrade = false;
            // found out anew
            self.goes_back = false;
            self.follows.push(upgrade());
        }
    }

    fn die(&mut self, generation: Generation, exit: &Exit, falls_back: bool) {
        let now = self.now;
        if let Some(life) = self.lives.get_mut(&generation) {
            life.exit = Some(exit.clone());
        }
        if self.candidate() == Some(generation) {
            let since = self.way.and_then(|way| way.spawned).unwrap_or(now);
            return self.fail(Reason::Exited(exit.clone(), now.saturating_sub(since)));
        }
        let dead = self.serving.take_if(|(serving, _)| *serving == generation);
        let Some((_, since)) = dead else { return };
        (self.held, self.judged_by) = (false, None);
        let served = now.saturating_sub(since);
        let again = self.restarts > 0 && served < seconds(10);
        let background =
            *exit == Exit::Background && (again || served < Duration::from_millis(250));
        let drain_timeout = self.policy.drain_timeout;
        let patience = if background {
            seconds(2)
        } else {
            drain_timeout
        };
        self.leave(generation, patience, background);
        if served >= seconds(10) {
            self.restarts = 0;
        }
        let on_change = self.policy.restart == RestartPolicy::OnChange;
        match self.way {
            Some(way) if way.at == At::Starting => {
                self.follows.push(Inherit(way.number));
                self.hurry(way);
            }
            Some(way) if way.spawned.is_some() || on_change => {}
            None if on_change => {}
            _ => self.start_again(exit, background && !falls_back),
        }
        if on_change && !self.way.is_some_and(Way::is_cut_over_to) {
            self.clients_wait();
        }
    }

    /// Nothing serves, and nothing is on its way but what has to be prepared: that comes after the restart. `hopeless` is
    /// one that would go into the background again.
    fn start_again(&mut self, exit: &Exit, hopeless: bool) {
        if let Some(way) = self.way.take() {
            self.pending = Some(way.cause);
            let runs = way.at == At::Command;
            self.follows.extend(runs.then_some(EndBeforeSwap));
        }
        let clean = *exit == Exit::Status(0) && self.policy.restart == RestartPolicy::OnFailure;
        match self.policy.restart {
            RestartPolicy::OnChange => {}
            RestartPolicy::Always | RestartPolicy::OnFailure if !hopeless && !clean => {
                self.restart();
            }
            _ => self.end(exit.status()),
        }
    }

    /// "Every generation drains; one that drains already keeps its deadline. A second signal sends the stop signals that
    /// have not gone out yet; the next one kills." What comes within 50ms is the same signal.
    fn stop(&mut self, by: Option<ClientId>, patience: Duration) {
        if self.signals > 0 {
            if by.is_none() && self.now >= self.signaled_at + Duration::from_millis(50) {
                self.signaled_at = self.now;
                let waits = self.leaving().any(|(_, one)| !one.told);
                self.signals += 1;
                if self.signals > 2 || !waits {
                    self.ends = Some(137);
                }
            }
            return;
        }
        self.signals = 1;
        self.signaled_at = self.now;
        self.patience = patience;
        self.clients_wait_until = None;
        self.ends.get_or_insert(0);
        let held = std::mem::take(&mut self.held);
        let released = self.serving.filter(|_| held);
        self.follows
            .extend(released.map(|serving| CutOver(serving.0)));
        self.judged_by = None;
        self.follows.push(TURN_AWAY);
        let until = self.now + patience;
        for life in self.lives.values_mut() {
            let quiescing = life.leaving.as_mut().filter(|one| !one.told);
            let quiescing = quiescing.and_then(|one| one.quiesces_until.as_mut());
            if let Some(longest) = quiescing {
                *longest = until.min(*longest);
            }
        }
        let serving = self.serving.take().map(|serving| serving.0);
        let way = self.way.filter(|way| way.is_cut_over_to());
        let proving = way.filter(|way| way.spawned.is_some());
        let proving = proving.map(|way| way.number);
        self.dismiss(Reason::Stopping);
        for generation in serving.into_iter().chain(proving) {
            self.follows.push(Empty(generation));
            self.leave(generation, self.policy.drain_timeout, false);
        }
    }

    pub(super) fn clients_wait(&mut self) {
        let until = self.now + seconds(30);
        self.clients_wait_until.get_or_insert(until);
    }

    pub(super) fn end(&mut self, status: u8) {
        self.ends = Some(status);
        self.follows.push(ENDED);
    }

    fn elapse(&mut self) {
        let now = self.now;
        if self
            .clients_wait_until
            .take_if(|until| *until <= now)
            .is_some()
        {
            self.follows.push(TurnAway(Refusal::NothingServes));
        }
        self.judged_by.take_if(|until| *until <= now);
        let late = |way: &Way| way.until.is_some_and(|until| until <= now);
        if let Some(at) = self.way.filter(late).map(|way| way.at) {
            self.pass(at);
        } else if self.gives_way_at().is_some_and(|from| from <= now) {
            self.replace();
        }
        let given_up = |one: &Leaving| one.kills >= 10 && one.kill_at <= now;
        let lives = &mut self.lives;
        lives.retain(|_, life| !life.leaving.as_ref().is_some_and(given_up));
    }

    /// There it has been for long enough.
    fn pass(&mut self, at: At) {
        let command = self.policy.before_swap.unwrap_or_default();
        match at {
            At::Command => self.fail(Reason::BeforeSwapTooLong(command)),
            At::Check => self.fail(Reason::NotFit("the program is still being written".into())),
            At::Room | At::CuttingOver => self.fail(Reason::CannotCutOver("no answer".into())),
            At::Spawn => self.back_off_ends(),
            At::Starting => {
                if let Some(way) = self.way.filter(|way| way.ready) {
                    return self.cut_over_to(At::CuttingOver, way.number);
                }
                let spawned = self.way.and_then(|way| way.spawned).unwrap_or_default();
                let until = self.way.and_then(|way| way.until).unwrap_or_default();
                self.fail(Reason::NotReady(until.saturating_sub(spawned)));
            }
            At::Proving => self.serve(),
        }
    }

    fn reopen(&mut self) {
        let rest = [self.serving.map(|serving| serving.0), self.candidate()];
        let mut living = self.in_order();
        living.extend(rest.into_iter().flatten());
        living.retain(|whose| self.lives[whose].exit.is_none());
        self.follows.extend(living.into_iter().map(Reopen));
    }

    pub(super) fn drain(&mut self, old: Option<Generation>) {
        if let Some(old) = old {
            self.follows.push(Empty(old));
            self.leave(old, self.policy.drain_timeout, false);
            self.drains = Some(old);
        }
    }

    pub(super) fn leave(&mut self, generation: Generation, patience: Duration, failed: bool) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        self.left += 1;
        let kill_at = self.now + patience;
        let serves = self.serving.is_some_and(|serving| serving.0 != generation);
        life.leaving = Some(Leaving {
            since: self.now,
            order: self.left,
            // The next one has the sockets of the dead.
            queue: if life.exit.is_some() {
                Queue::Settled
            } else {
                Queue::Waiting
            },
            quiesces_until: None,
            relays: 0,
            quiet: false,
            stop_by: kill_at.saturating_sub(seconds(2).min(patience / 2)),
            // in the background the server itself lives on
            told: failed && !matches!(life.exit, None | Some(Exit::Background)),
            kill_at,
            kills: 0,
            failed,
            has_targets: failed && !serves,
        });
    }

    pub(super) fn answer(&mut self, whose: impl Fn(Generation) -> bool, verdict: &Verdict) {
        let clients = self.owed_to(whose);
        if !clients.is_empty() {
            self.follows.push(Answer(clients, verdict.clone()));
        }
    }

    pub(super) fn refuse(&mut self, whose: impl Fn(Generation) -> bool) {
        let clients = self.owed_to(whose);
        if !clients.is_empty() {
            self.follows.push(Refuse(clients, STOPPING));
        }
    }

    fn owed_to(&mut self, whose: impl Fn(Generation) -> bool) -> Vec<ClientId> {
        let owed = self.owed.iter().filter(|(_, after)| whose(**after));
        let clients = owed.map(|(client, _)| *client).collect();
        self.owed.retain(|_, after| !whose(*after));
        clients
    }

    fn waits_on(&mut self, generation: Generation) -> Option<&mut Leaving> {
        let leaving = self.lives.get_mut(&generation)?.leaving.as_mut();
        leaving.filter(|one| !one.told)
    }
}
