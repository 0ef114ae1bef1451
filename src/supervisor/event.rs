//! The events that the core takes, and the actions that it returns.

use std::time::Duration;

use super::{Cause, ClientId, Exit, Generation, OnDisk, ProgramChoice, Queue, SavedState, Time};

/// What has happened, as reported by the main loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// hotswap has started.
    Launched,
    /// SIGHUP (`None`) or a client wants a swap.
    SwapAsked(Option<ClientId>),
    FileChanged,
    /// A watched file seems to have changed: that is being judged.
    FileTouched,
    /// Nothing is being judged any more. What has changed was said before.
    FilesJudged,
    /// Said before a restart.
    OnDisk(OnDisk),
    BeforeSwapEnded(Result<(), String>),
    ProgramChecked(Result<(), String>),
    CannotSpawn(Generation, String),
    Ready(Generation),
    CutOverDone(Generation),
    CannotCutOver(Generation, String),
    /// What was to prove itself does not, and why: a signal has stopped it, or it has closed its socket.
    Unproven(Generation, String),
    /// Its main process has ended.
    Died(Generation, Exit),
    /// Nothing of it is left.
    Gone(Generation),
    /// An orphan that serves an address the candidate does not: it is left running.
    LeftAlone(Generation),
    Queued(Generation, Queue),
    /// None of its connections is busy.
    Quiet(Generation),
    /// A signal (`None`) or a client wants an end.
    StopAsked(Option<ClientId>),
    /// SIGINT, or a terminal that has closed: somebody waits for the end.
    Interrupted,
    /// A client wants back the program of that generation, one of those that can be had back.
    RollBackAsked(ClientId, Generation),
    /// What that one ran, one that served later runs as well.
    SameProgram(Generation),
    /// A client wants to know whether the next version gets ready.
    CheckAsked(ClientId),
    /// A new version of hotswap exists and runs.
    UpgradeAsked,
    /// SIGUSR1: the servers should reopen their logs.
    ReopenAsked,
    /// The deadline has passed.
    Elapsed,
}

/// What the main loop must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    RunBeforeSwap(Generation),
    /// End the command: it is no longer needed, or has taken too long.
    EndBeforeSwap,
    /// Report by [`Event::ProgramChecked`] whether the program is complete.
    CheckProgram,
    Spawn {
        generation: Generation,
        cause: Cause,
        sockets: SocketChoice,
        program: ProgramChoice,
        ready_timeout: Duration,
    },
    CutOver(Generation),
    /// New connections wait on sockets of hotswap's, until the next cut-over.
    Hold,
    /// The serving generation has died: its sockets and new connections go to this candidate before it is ready.
    Inherit(Generation),
    /// It serves from now on.
    Serve(Generation),
    /// It served, and is dead.
    Lose(Generation),
    /// Watch its accept queues and handshakes.
    Empty(Generation),
    /// Relay its queued connections to the serving generation.
    Relay(Generation),
    /// Watch its connections.
    Quiesce(Generation),
    /// Its stop signal: to the process that accepts, then to its main process, then to whatever is left.
    Stop(Generation),
    /// SIGKILL, to all of it.
    Kill(Generation),
    Reopen(Generation),
    /// It is gone or unkillable: free everything that is kept for it.
    Free(Generation),
    /// New connections are refused from now on.
    TurnAway(Refusal),
    Announce(Transition),
    Answer(Vec<ClientId>, Verdict),
    Upgrade(Box<SavedState>),
    RefuseUpgrade(&'static str),
    /// A request, of a client if there is one, waits for that generation, until this time at the latest: it has joined the
    /// swap to it, or waits for the verdict on it first.
    Postpone(Option<ClientId>, Generation, Option<Time>),
    /// Nothing is done for these clients, and why.
    Refuse(Vec<ClientId>, &'static str),
    /// hotswap's own exit status.
    End(u8),
}

/// Why new connections are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Until a generation is cut over to.
    NothingServes,
    /// For good: the server has ended, and hotswap ends with it.
    Ended,
    /// For good: hotswap is to stop.
    Stopping,
}

/// Which sockets a new generation gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketChoice {
    /// Its own, which get no client before the cut-over.
    Own,
    /// The current targets, with the clients that wait there.
    Target,
}

/// A change that is logged and sent to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    Proving(Generation),
    /// It was ready, and is discarded: nobody wanted more.
    Checked(Generation),
    Serving {
        generation: Generation,
        cause: Cause,
        draining: Option<Generation>,
    },
    /// A swap, a restart or the first start has failed.
    Failed(Failure),
    /// The serving one has died.
    Dead {
        generation: Generation,
        exit: Exit,
        then: Then,
    },
    Gone {
        generation: Generation,
        exit: Option<Exit>,
    },
    /// The drain timeout has passed.
    DrainTimeout(Generation),
    /// More were draining than the limit allows.
    KilledEarly(Generation),
    /// SIGKILL has not ended it.
    Unkillable(Generation),
    /// The last program that worked runs again.
    FallingBack {
        to: Generation,
    },
    /// Nothing serves; a changed file or a request is waited for.
    WaitingForChange,
    /// Clients have waited long enough for the next version.
    Refusing,
    /// Too many generations drain: the changed file waits.
    ChangeWaits,
    /// The command before a swap makes room for a restart, and runs again after that.
    CommandEnded,
    Stopping,
}

/// What follows the death of the serving generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    RestartAfter(Duration),
    /// This candidate was already starting.
    CandidateServes(Generation),
    /// The same, if it is ready within this time. A restart follows otherwise.
    CandidateServesWithin(Generation, Duration),
    WaitForChange,
    End,
}

/// Why a generation did not get to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub generation: Generation,
    pub cause: Cause,
    pub reason: Reason,
    /// It had been cut over to.
    pub rolled_back: bool,
    pub keeps_serving: Option<Generation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its main process ended this long after the spawn, or after the cut-over if it was proving.
    Exited(Exit, Duration),
    NotReady(Duration),
    /// hotswap could not spawn it.
    CannotSpawn(String),
    CannotCutOver(String),
    /// It lives, and has not proven itself.
    NotProven(String),
    /// The program file is missing, not executable or not complete.
    NotFit(String),
    BeforeSwap(String),
    BeforeSwapTooLong(Duration),
    /// A newer file or a request replaced it.
    Replaced,
    Stopping,
}

/// The answer to clients that asked for a swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Serving {
        generation: Generation,
        replaced: Option<Generation>,
    },
    Failed(Failure),
    Checked(Generation),
}
