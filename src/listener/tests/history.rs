use proptest::prelude::*;

use super::*;

/// What may happen to the sockets of a group.
#[derive(Clone, Debug)]
enum ListenerStep {
    Spawn,
    CutOver(prop::sample::Index),
    Gone(prop::sample::Index),
    ShutDown(prop::sample::Index),
    TwoShutDown(prop::sample::Index),
    StrangerComes,
    StrangerGoes(prop::sample::Index),
    Reap,
}

fn happening() -> impl Strategy<Value = ListenerStep> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(ListenerStep::Spawn),
        3 => index().prop_map(ListenerStep::CutOver),
        3 => index().prop_map(ListenerStep::Gone),
        1 => index().prop_map(ListenerStep::ShutDown),
        1 => index().prop_map(ListenerStep::TwoShutDown),
        1 => Just(ListenerStep::StrangerComes),
        1 => index().prop_map(ListenerStep::StrangerGoes),
        2 => Just(ListenerStep::Reap),
    ]
}

/// A house whose every client must be found at the serving generation.
struct ListenerHistory {
    fixture: Fixture,
    living: Vec<(Generation, TestServer)>,
    serving: Generation,
    /// It has shut its socket down: clients wait for the next one that comes.
    is_shut: bool,
    number: u32,
    /// SocketChoice of others, which hotswap is not told of.
    strangers: Vec<OwnedFd>,
    /// There was ever one.
    had_strangers: bool,
}

impl ListenerHistory {
    fn begin(listen: &str) -> Self {
        let mut fixture = Fixture::listening(&[listen]);
        let server = fixture.serving(G1);
        Self {
            fixture,
            living: vec![(G1, server)],
            serving: G1,
            is_shut: false,
            number: 1,
            strangers: Vec::new(),
            had_strangers: false,
        }
    }

    fn others(&self) -> Vec<Generation> {
        let all = self.living.iter().map(|(generation, _)| *generation);
        all.filter(|generation| *generation != self.serving)
            .collect()
    }

    fn server(&self, generation: Generation) -> &TestServer {
        let mut living = self.living.iter();
        &living.find(|(other, _)| *other == generation).unwrap().1
    }

    /// Whether hotswap has looked at the group meanwhile.
    fn happens(&mut self, what: &ListenerStep) -> bool {
        let others = self.others();
        match what {
            ListenerStep::Spawn if self.living.len() < 6 => {
                self.number += 1;
                let generation = Generation(self.number);
                let server = self.fixture.spawn(generation, SocketChoice::Own);
                self.living.push((generation, server));
                if std::mem::take(&mut self.is_shut) {
                    self.serving = generation;
                }
                return true;
            }
            ListenerStep::CutOver(index) if !others.is_empty() => {
                let generation = *index.get(&others);
                if self.is_lost(generation) {
                    return false;
                }
                if let Err(error) = self.fixture.listeners.cut_over(generation, &[]) {
                    assert!(self.is_lost(generation), "{error}");
                    return false;
                }
                let held = self.fixture.listeners.sockets_of(generation);
                if held[0].listens {
                    (self.serving, self.is_shut) = (generation, false);
                }
                return true;
            }
            ListenerStep::Gone(index) if !others.is_empty() => {
                let generation = *index.get(&others);
                self.living.retain(|(other, _)| *other != generation);
                self.fixture.leave(generation);
            }
            ListenerStep::ShutDown(index) => {
                let (generation, server) = &self.living[index.index(self.living.len())];
                server.shuts_down();
                self.is_shut |= *generation == self.serving;
            }
            ListenerStep::TwoShutDown(index) if others.len() > 1 => {
                let first = index.index(others.len());
                self.server(others[first]).shuts_down();
                self.server(others[(first + 1) % others.len()]).shuts_down();
            }
            ListenerStep::StrangerComes if self.strangers.len() < 4 => {
                self.had_strangers = true;
                let at = self.fixture.address().parse().unwrap();
                let socket = joins(at, true);
                sys::listen(socket.as_fd(), 16).unwrap();
                self.strangers.push(socket);
            }
            ListenerStep::StrangerGoes(index) if !self.strangers.is_empty() => {
                self.strangers.remove(index.index(self.strangers.len()));
            }
            ListenerStep::Reap => {
                // while a stranger is there nothing is closed, and the deadlines have no end
                for _ in 0..20 {
                    if let Some(deadline) = self.fixture.listeners.deadline() {
                        self.fixture.listeners.look(deadline);
                    }
                }
            }
            ListenerStep::Spawn
            | ListenerStep::CutOver(_)
            | ListenerStep::Gone(_)
            | ListenerStep::StrangerComes
            | ListenerStep::StrangerGoes(_)
            | ListenerStep::TwoShutDown(_) => {}
        }
        false
    }

    /// Several candidates at a time, which hotswap never has, cannot be told apart once they have moved.
    fn is_lost(&self, generation: Generation) -> bool {
        let ListenerKind::Group(group) = &self.fixture.listeners.all[0].steering else {
            return false;
        };
        let inode = group.socket_of(generation).map(|socket| socket.inode);
        inode.is_some_and(|inode| {
            group
                .members()
                .uncertain_indexes()
                .iter()
                .any(|lost| lost.1 == inode)
        })
    }

    fn clients_find_it(&self) {
        // those by which hotswap has found out where it is
        self.server(self.serving).answers();
        let clients = self.fixture.clients(3);
        let answered = self.server(self.serving).answers();
        let expected = if self.is_shut { 0 } else { clients.len() };
        assert_eq!(answered, expected, "of {}", self.serving);
    }

    /// Every member is where the model has it.
    fn probes_find_each(&mut self) {
        // they move all but the serving one and the candidate, and hotswap looks when it has to
        if self.had_strangers {
            return;
        }
        for generation in self.others() {
            let held = self.fixture.listeners.sockets_of(generation);
            if !held[0].listens || self.is_lost(generation) {
                continue;
            }
            // those by which hotswap has found out where it is
            self.server(generation).answers();
            match self.fixture.listeners.probe(generation, ListenerId(0)) {
                Ok(_probe) => assert_eq!(self.server(generation).answers(), 1, "{generation}"),
                Err(error) => panic!("{generation}: {error}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_model_is_the_kernels_array(
        history in prop::collection::vec(happening(), 1..40),
        v6 in any::<bool>(),
        heard in any::<bool>(),
    ) {
        let mut group = ListenerHistory::begin(if v6 { "[::1]:0" } else { "127.0.0.1:0" });
        for what in &history {
            let known = group.happens(what);
            if heard {
                group.fixture.wake();
            } else if !known {
                continue;
            }
            group.clients_find_it();
            group.probes_find_each();
        }
    }
}
