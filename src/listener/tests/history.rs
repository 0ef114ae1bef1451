use proptest::prelude::*;

use super::*;

/// What may happen to the sockets of a group.
#[derive(Clone, Debug)]
enum Happening {
    Spawn,
    CutOver(prop::sample::Index),
    Gone(prop::sample::Index),
    ShutDown(prop::sample::Index),
    TwoShutDown(prop::sample::Index),
    StrangerComes,
    StrangerGoes(prop::sample::Index),
    Reap,
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Happening::Spawn),
        3 => index().prop_map(Happening::CutOver),
        3 => index().prop_map(Happening::Gone),
        1 => index().prop_map(Happening::ShutDown),
        1 => index().prop_map(Happening::TwoShutDown),
        1 => Just(Happening::StrangerComes),
        1 => index().prop_map(Happening::StrangerGoes),
        2 => Just(Happening::Reap),
    ]
}

/// A house whose every client must be found at the serving generation.
struct History {
    house: House,
    living: Vec<(Generation, Server)>,
    serving: Generation,
    number: u32,
    /// Sockets of others, which hotswap is not told of.
    strangers: Vec<OwnedFd>,
    /// There was ever one.
    had_strangers: bool,
}

impl History {
    fn begin(listen: &str) -> Self {
        let mut house = House::listening(&[listen]);
        let server = house.serving(G1);
        Self {
            house,
            living: vec![(G1, server)],
            serving: G1,
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

    fn server(&self, generation: Generation) -> &Server {
        let mut living = self.living.iter();
        &living.find(|(other, _)| *other == generation).unwrap().1
    }

    /// Whether hotswap has looked at the group meanwhile.
    fn happens(&mut self, what: &Happening) -> bool {
        let others = self.others();
        match what {
            Happening::Spawn if self.living.len() < 6 => {
                self.number += 1;
                let generation = Generation(self.number);
                let server = self.house.spawn(generation, Sockets::Own);
                self.living.push((generation, server));
                return true;
            }
            Happening::CutOver(index) if !others.is_empty() => {
                let generation = *index.get(&others);
                if self.is_lost(generation) {
                    return false;
                }
                if let Err(error) = self.house.listeners.cut_over(generation, &[]) {
                    assert!(self.is_lost(generation), "{error}");
                    return false;
                }
                let held = self.house.listeners.sockets_of(generation);
                if held[0].listens {
                    self.serving = generation;
                }
                return true;
            }
            Happening::Gone(index) if !others.is_empty() => {
                let generation = *index.get(&others);
                self.living.retain(|(other, _)| *other != generation);
                self.house.leave(generation);
            }
            Happening::ShutDown(index) => {
                self.living[index.index(self.living.len())].1.shuts_down();
            }
            Happening::TwoShutDown(index) if others.len() > 1 => {
                let first = index.index(others.len());
                self.server(others[first]).shuts_down();
                self.server(others[(first + 1) % others.len()]).shuts_down();
            }
            Happening::StrangerComes if self.strangers.len() < 4 => {
                self.had_strangers = true;
                let Sort::Group(group) = &self.house.listeners.all[0].sort else {
                    return false;
                };
                let socket = open::tcp_socket(group.family(), group.address(), 0, true).unwrap();
                sys::listen(socket.as_fd(), 16).unwrap();
                self.strangers.push(socket);
            }
            Happening::StrangerGoes(index) if !self.strangers.is_empty() => {
                self.strangers.remove(index.index(self.strangers.len()));
            }
            Happening::Reap => {
                // while a stranger is there nothing is closed, and the deadlines have no end
                for _ in 0..20 {
                    if let Some(deadline) = self.house.listeners.deadline() {
                        self.house.listeners.look(deadline);
                    }
                }
            }
            Happening::Spawn
            | Happening::CutOver(_)
            | Happening::Gone(_)
            | Happening::StrangerComes
            | Happening::StrangerGoes(_)
            | Happening::TwoShutDown(_) => {}
        }
        false
    }

    /// Several candidates at a time, which hotswap never has, cannot be told apart once they have moved.
    fn is_lost(&self, generation: Generation) -> bool {
        let Sort::Group(group) = &self.house.listeners.all[0].sort else {
            return false;
        };
        let inode = group.socket_of(generation).map(|socket| socket.inode);
        inode.is_some_and(|inode| group.order().in_doubt().iter().any(|lost| lost.1 == inode))
    }

    fn clients_find_it(&self) {
        // those by which hotswap has found out where it is
        self.server(self.serving).answers();
        let clients = self.house.clients(3);
        let answered = self.server(self.serving).answers();
        assert_eq!(answered, clients.len(), "of {}", self.serving);
    }

    /// Every member is where the model has it.
    fn probes_find_each(&mut self) {
        // they move all but the serving one and the candidate, and hotswap looks when it has to
        if self.had_strangers {
            return;
        }
        for generation in self.others() {
            let held = self.house.listeners.sockets_of(generation);
            if !held[0].listens || self.is_lost(generation) {
                continue;
            }
            // those by which hotswap has found out where it is
            self.server(generation).answers();
            match self.house.listeners.probe(generation, ListenerId(0)) {
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
        let mut group = History::begin(if v6 { "[::1]:0" } else { "127.0.0.1:0" });
        for what in &history {
            let known = group.happens(what);
            if heard {
                group.house.wake();
            } else if !known {
                continue;
            }
            group.clients_find_it();
            group.probes_find_each();
        }
    }
}
