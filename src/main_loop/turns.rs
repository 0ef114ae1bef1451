//! What must wait until the swap under way has its verdict: checks, rolling back, and an upgrade amid other requests.

use super::World;
use super::waivers::Waivers;
use crate::supervisor::{ClientId, Event, Generation, Supervisor, Time};

pub(super) struct WaitingRequest {
    wants: Turn,
    /// What it was told that it waits for.
    told: Option<Generation>,
    /// What served when it began to wait for a swap: if it still does, nothing is left to be rolled back.
    served: Option<Generation>,
}

pub(super) enum Turn {
    Check(ClientId, Waivers),
    Rollback(ClientId),
    /// It would lose what else has happened, but is not done yet.
    Upgrade,
}

impl WaitingRequest {
    pub fn new(wants: Turn) -> Self {
        Self {
            wants,
            told: None,
            served: None,
        }
    }
}

impl World {
    /// Nothing else may be under way. However often it is asked for, it is one upgrade.
    pub(super) fn upgrade_later(&mut self) {
        let turns = &mut self.status_data.turns;
        turns.retain(|one| !matches!(one.wants, Turn::Upgrade));
        turns.push(WaitingRequest::new(Turn::Upgrade));
    }

    pub(super) fn nobody_waits(&self) -> bool {
        self.status_data.turns.is_empty()
    }

    /// Whether a request need not wait any longer.
    pub(super) fn turn_is_due(&self, supervisor: &Supervisor) -> bool {
        // a restart that waits for its time holds nothing up: it may be one of many
        let waits = supervisor.swap().is_none() || supervisor.backs_off();
        (waits || supervisor.is_stopping()) && !self.nobody_waits()
    }

    /// hotswap ends before it is their turn.
    pub(super) fn refuse_turns(&mut self, now: Time) {
        for one in std::mem::take(&mut self.status_data.turns) {
            let (client, why) = match one.wants {
                Turn::Check(client, _) => (client, "hotswap is stopping"),
                Turn::Rollback(client) => (client, "cannot roll back: hotswap is stopping"),
                Turn::Upgrade => continue,
            };
            self.control.refuse(client, why, now);
        }
    }

    /// What the first of them asks of the core, if it is its turn. The others are told what they wait for.
    pub(super) fn take_turn(&mut self, supervisor: &Supervisor, now: Time) -> Option<Event> {
        if self.turn_is_due(supervisor) {
            let WaitingRequest { wants, served, .. } = self.status_data.turns.remove(0);
            return match wants {
                Turn::Check(client, waivers) => {
                    self.waivers.add(waivers);
                    Some(Event::CheckAsked(client))
                }
                Turn::Upgrade => Some(Event::UpgradeAsked),
                Turn::Rollback(client) => match self.rollback_target(supervisor, served) {
                    Ok(target) => Some(Event::RollBackAsked(client, target)),
                    Err(why) => {
                        let why = format!("cannot roll back: {why}");
                        self.control.refuse(client, &why, now);
                        None
                    }
                },
            };
        }
        let swap = supervisor.swap()?;
        let serving = supervisor.serving().map(|serving| serving.generation);
        let mut waiting = std::mem::take(&mut self.status_data.turns);
        for one in &mut waiting {
            if one.told.replace(swap.generation) == Some(swap.generation) {
                continue;
            }
            let (Turn::Check(client, _) | Turn::Rollback(client)) = one.wants else {
                continue;
            };
            let mut text = self.what_is_waited_for(swap.generation, swap.deadline());
            if matches!(one.wants, Turn::Rollback(_)) && !swap.check {
                one.served = one.served.or(serving);
                let way = self.way_out_of_swap(supervisor);
                let way = way.map(|way| format!("\ntry: {way}"));
                text.extend(way);
            }
            self.control.progress(client, &text);
        }
        self.status_data.turns = waiting;
        None
    }

    fn rollback_target(
        &self,
        supervisor: &Supervisor,
        served: Option<Generation>,
    ) -> Result<Generation, String> {
        let serving = supervisor.serving().map(|serving| serving.generation);
        if let Some(serving) = serving.filter(|_| self.status_data.was_rolled_back()) {
            let name = self.control.name();
            return Err(format!(
                "{serving} already runs the program from before\ntry: hotswap swap {name}, which runs the file on disk"
            ));
        }
        let targets = supervisor.rollback_targets()?;
        if let Some(old) = served.filter(|_| served == serving) {
            return Err(format!(
                "the swap that it waited for has failed, and {old} keeps serving"
            ));
        }
        let programs = &self.status_data.programs;
        let is_other = |target: &&Generation| {
            !serving.is_some_and(|serving| programs.are_same(**target, serving))
        };
        let other = targets.iter().find(is_other);
        let target = *other
            .or(targets.first())
            .ok_or("nothing has served before")?;
        self.held_program(target).map_err(|why| {
            let name = self.control.name();
            format!("{target}: {why}\ntry: hotswap swap {name}, after putting the old files back")
        })?;
        if other.is_none() {
            return Err(format!(
                "{target} ran the same program as the one that serves"
            ));
        }
        Ok(target)
    }

    /// What a client can do who wants the swap under way to end.
    fn way_out_of_swap(&self, supervisor: &Supervisor) -> Option<String> {
        let swap = supervisor.swap().filter(|_| !supervisor.is_stopping())?;
        let generation = swap.generation;
        let pid = self.generations.get(&generation)?.server.pid();
        let old = supervisor.serving()?.generation;
        Some(format!(
            "kill {pid}, which ends {generation}; then {old} keeps serving"
        ))
    }
}
