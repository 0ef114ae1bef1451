//! The connections of a crowd, all on one thread and one epoll: what each is at, and what it met.
//!
//! The time of a request runs from when it was meant to be made, so that a server which stalls cannot hide what waited.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, SockaddrStorage, getsockname, getsockopt, recv, send, sockopt};

use super::crowd::{Habit, Shared};
use super::place::Target;
use super::tally::{Failure, Incident};
use super::wire::{Answer, failure, open};

/// When a client gives up.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Visits {
    shared: Arc<Shared>,
    targets: Vec<Target>,
    clients: Vec<Habit>,
    flows: Vec<(Duration, Habit)>,
    epoll: Epoll,
    open: HashMap<u64, Visit>,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    begun: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The next one of an endless flow comes.
    Arrival(usize),
    /// A client comes again, for a request that was meant to be made then.
    Come(Who, Instant),
    Speak(u64),
    GiveUp(u64),
}

/// On whose behalf a connection is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Client(usize),
    Flow(usize),
}

struct Visit {
    socket: OwnedFd,
    who: Who,
    habit: Habit,
    /// When the request was meant to be made.
    since: Instant,
    /// Answers so far on this connection.
    answers: usize,
    state: State,
}

enum State {
    Connecting,
    /// Connected, and silent for the moment.
    Silent,
    Asked(Vec<u8>),
}

impl Visits {
    pub fn new(
        shared: Arc<Shared>,
        targets: Vec<Target>,
        clients: Vec<Habit>,
        flows: Vec<(u32, Habit)>,
    ) -> Visits {
        let flows = flows
            .into_iter()
            .map(|(rate, habit)| (Duration::from_secs(1) / rate, habit));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll set");
        let (open, due) = (HashMap::new(), BinaryHeap::new());
        Visits {
            shared,
            targets,
            clients,
            flows: flows.collect(),
            epoll,
            open,
            due,
            begun: 0,
        }
    }

    /// Until the crowd is told to leave and the last of it has its answer.
    pub fn run(mut self) {
        let now = Instant::now();
        let clients = (0..self.clients.len()).map(Who::Client);
        self.due
            .extend(clients.map(|who| Reverse((now, Due::Come(who, now)))));
        self.due
            .extend((0..self.flows.len()).map(|i| Reverse((now, Due::Arrival(i)))));
        let mut events = [EpollEvent::empty(); 256];
        loop {
            if self.shared.is_leaving() {
                self.open
                    .retain(|_, visit| !matches!(visit.state, State::Silent) || visit.answers == 0);
                if self.open.is_empty() {
                    return;
                }
            }
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            let wait = next.map_or(20, |at| {
                at.saturating_duration_since(Instant::now())
                    .as_millis()
                    .min(20)
            });
            let wait = EpollTimeout::try_from(wait).expect("a short time");
            let woken = self.epoll.wait(&mut events, wait).unwrap_or(0);
            for event in &events[..woken] {
                self.woken(event.data());
            }
            self.time_passes(Instant::now());
        }
    }

    fn time_passes(&mut self, now: Instant) {
        while self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, due))) = self.due.pop() else {
                return;
            };
            match due {
                Due::Arrival(_) | Due::Come(..) if self.shared.is_leaving() => {}
                Due::Arrival(flow) => {
                    self.later(at + self.flows[flow].0, Due::Arrival(flow));
                    self.come(Who::Flow(flow), at);
                }
                Due::Come(who, since) => self.come(who, since),
                Due::Speak(id) => self.speak(id, at),
                Due::GiveUp(id) => self.give_up(id, at),
            }
        }
    }

    fn later(&mut self, at: Instant, due: Due) {
        self.due.push(Reverse((at, due)));
    }

    /// Opens a connection for a request that was meant to be made at `since`.
    fn come(&mut self, who: Who, since: Instant) {
        let habit = match who {
            Who::Client(client) => self.clients[client],
            Who::Flow(flow) => self.flows[flow].1,
        };
        self.begun += 1;
        let id = self.begun;
        let target =
            self.targets[usize::try_from(id).expect("a count") % self.targets.len()].clone();
        match open(&target) {
            Ok(socket) => {
                let watched = EpollEvent::new(EpollFlags::EPOLLOUT, id);
                self.epoll.add(&socket, watched).expect("a watched socket");
                self.open.insert(
                    id,
                    Visit {
                        socket,
                        who,
                        habit,
                        since,
                        answers: 0,
                        state: State::Connecting,
                    },
                );
                self.later(since + TIMEOUT, Due::GiveUp(id));
            }
            // The queue of a unix socket is full: a blocking connect(2) would wait.
            Err(Errno::EAGAIN) if since.elapsed() < TIMEOUT => {
                self.later(Instant::now() + PAUSE, Due::Come(who, since));
            }
            Err(errno) => self.incident(who, since, failure(errno), "at once".to_owned()),
        }
    }

    fn woken(&mut self, id: u64) {
        let Some(visit) = self.open.get_mut(&id) else {
            return;
        };
        match visit.state {
            State::Connecting => match getsockopt(&visit.socket, sockopt::SocketError) {
                Ok(0) => self.connected(id),
                Ok(errno) => self.fail(id, failure(Errno::from_raw(errno))),
                Err(errno) => self.fail(id, failure(errno)),
            },
            State::Silent | State::Asked(_) => self.hear(id),
        }
    }

    fn connected(&mut self, id: u64) {
        let Some(visit) = self.open.get_mut(&id) else {
            return;
        };
        visit.state = State::Silent;
        let mut watched = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, id);
        self.epoll
            .modify(&visit.socket, &mut watched)
            .expect("a watched socket");
        let silence = visit.habit.hesitation;
        if silence.is_zero() {
            self.speak(id, Instant::now());
        } else {
            self.later(Instant::now() + silence, Due::Speak(id));
        }
    }

    fn speak(&mut self, id: u64, at: Instant) {
        let Some(visit) = self.open.get_mut(&id) else {
            return;
        };
        if visit.answers > 0 {
            visit.since = at;
            self.due.push(Reverse((at + TIMEOUT, Due::GiveUp(id))));
        }
        visit.state = State::Asked(Vec::new());
        let request = visit.habit.request();
        match send(
            visit.socket.as_raw_fd(),
            request.as_bytes(),
            MsgFlags::MSG_NOSIGNAL,
        ) {
            Ok(_) => self.shared.asked(),
            Err(errno) => self.fail(id, failure(errno)),
        }
    }

    fn hear(&mut self, id: u64) {
        let Some(visit) = self.open.get_mut(&id) else {
            return;
        };
        let mut buffer = [0; 4096];
        let heard = recv(
            visit.socket.as_raw_fd(),
            &mut buffer,
            MsgFlags::MSG_DONTWAIT,
        );
        match (&mut visit.state, heard) {
            (_, Err(Errno::EAGAIN | Errno::EINTR)) => {}
            // A keep-alive connection may end while nothing is asked; the client comes again with a new one.
            (State::Silent, Ok(0) | Err(_)) if visit.answers > 0 => self.leave(id),
            (State::Asked(so_far), Ok(0)) => {
                let kind = if so_far.is_empty() {
                    Failure::Eof
                } else {
                    Failure::Truncated
                };
                self.fail(id, kind);
            }
            (State::Connecting | State::Silent, Ok(0)) => self.fail(id, Failure::Eof),
            (State::Asked(so_far), Ok(count)) => {
                so_far.extend_from_slice(&buffer[..count]);
                if let Some(answer) = Answer::whole(so_far) {
                    self.answered(id, &answer);
                }
            }
            (State::Connecting | State::Silent, Ok(_)) => {}
            (_, Err(errno)) => self.fail(id, failure(errno)),
        }
    }

    fn answered(&mut self, id: u64, answer: &Answer) {
        let Some(visit) = self.open.get_mut(&id) else {
            return;
        };
        if answer.status >= 500 {
            return self.fail(id, Failure::ServerError);
        }
        let (who, since) = (visit.who, visit.since);
        visit.answers += 1;
        visit.state = State::Silent;
        let stays = visit.habit.kept && !answer.closes;
        self.shared
            .answered(number(who, self.clients.len()), since, &answer.body);
        if stays {
            self.later(Instant::now() + PAUSE, Due::Speak(id));
        } else {
            self.leave(id);
        }
    }

    /// Closes the connection; its client comes again.
    fn leave(&mut self, id: u64) {
        if let Some(visit) = self.open.remove(&id) {
            self.come_again(visit.who);
        }
    }

    fn come_again(&mut self, who: Who) {
        let at = Instant::now() + PAUSE;
        match who {
            Who::Client(_) => self.later(at, Due::Come(who, at)),
            Who::Flow(_) => {}
        }
    }

    fn give_up(&mut self, id: u64, at: Instant) {
        let Some(visit) = self.open.get(&id) else {
            return;
        };
        let silent = matches!(visit.state, State::Silent) && visit.answers > 0;
        if !silent && visit.since + TIMEOUT <= at {
            self.fail(id, Failure::TimedOut);
        }
    }

    fn fail(&mut self, id: u64, failure: Failure) {
        let Some(visit) = self.open.remove(&id) else {
            return;
        };
        let untouched = match &visit.state {
            State::Asked(so_far) => so_far.is_empty(),
            State::Connecting | State::Silent => true,
        };
        let closed = matches!(failure, Failure::Reset | Failure::Eof);
        if visit.answers > 0 && untouched && closed {
            self.shared.stale();
            // What an HTTP client does: the same request at once, on a fresh connection.
            return self.come(visit.who, visit.since);
        }
        let who = format!("{}, {} answers before", visit.describe(), visit.answers);
        self.incident(visit.who, visit.since, failure, who);
    }

    fn incident(&mut self, who: Who, since: Instant, failure: Failure, said: String) {
        let at = self.shared.epoch.elapsed();
        self.shared.failed(Incident {
            failure,
            at,
            age: since.elapsed(),
            who: said,
        });
        self.come_again(who);
    }
}

/// Clients first, then flows.
fn number(who: Who, clients: usize) -> usize {
    match who {
        Who::Client(client) => client,
        Who::Flow(flow) => clients + flow,
    }
}

impl Visit {
    fn describe(&self) -> String {
        let from = getsockname::<SockaddrStorage>(self.socket.as_raw_fd());
        let doing = match self.state {
            State::Connecting => "connecting",
            State::Silent => "silent",
            State::Asked(_) => "waiting for the answer",
        };
        let from = from.map(|address| address.to_string()).unwrap_or_default();
        format!("{doing} from {from} ({:?})", self.habit)
    }
}
