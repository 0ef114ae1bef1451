//! What systemd is told: ready, reloading, stopping, the status line, and the watchdog.

use std::ffi::OsString;
use std::time::Duration;

use nix::unistd::Pid;

use super::message::{ManagerSocket, Message};
use super::store::{Store, Wanted};
use crate::escape::{divide_hint, escape};
use crate::polled::Polled;
use crate::supervisor::{Cause, Supervisor, Time};
use crate::sys::clock;

/// How often we ask for more time while a start, a swap or a stop lasts, and how much.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_FOR: Duration = Duration::from_secs(15);

/// The service manager around us, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    channel: Option<ManagerSocket>,
    /// Half the watchdog's interval.
    sign_of_life: Option<Duration>,
    next_sign: Option<Time>,
    /// The first generation has served.
    ready: bool,
    reloading: bool,
    stopping: bool,
    next_ask: Option<Time>,
    status: String,
    store: Store,
}

impl ServiceManager {
    /// The one in our own environment.
    pub fn around_us(now: Time) -> Self {
        Self::of(|name| std::env::var_os(name), Pid::this(), now)
    }

    pub(super) fn of(variable: impl Fn(&str) -> Option<OsString>, us: Pid, now: Time) -> Self {
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let channel = variable("NOTIFY_SOCKET").and_then(|name| ManagerSocket::to(&name));
        let ours = variable("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == u64::try_from(us.as_raw()).ok();
        let allowed = number("WATCHDOG_USEC").filter(|allowed| ours && *allowed > 0);
        let sign_of_life = allowed
            .filter(|_| channel.is_some())
            .map(|allowed| Duration::from_micros(allowed / 2));
        Self {
            sign_of_life,
            next_sign: sign_of_life.map(|_| now),
            next_ask: channel.as_ref().map(|_| now + ASK_EVERY),
            channel,
            ready: false,
            reloading: false,
            stopping: false,
            status: String::new(),
            store: Store::new(number("FDSTORE").is_some_and(|most| most > 0)),
        }
    }

    /// The sockets that it is to keep while there is no hotswap: those that new connections go to.
    pub fn keep<'a>(&mut self, wanted: impl FnOnce() -> Vec<Wanted<'a>>, now: Time) {
        if let Some(channel) = &mut self.channel {
            for message in self.store.follow(&wanted(), now) {
                channel.send(message, now);
            }
        }
    }

    /// Whether clients that come after a stop can wait for the next hotswap.
    pub fn keeps_sockets(&self) -> bool {
        self.channel.is_some() && self.store.keeps()
    }

    /// hotswap ends.
    pub fn finish(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.finish();
        }
    }

    /// What it is known to keep.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// A reload was asked for by signal: the manager waits for a sign that is younger than its request.
    pub fn asked(&mut self, supervisor: &Supervisor, now: Time) {
        if supervisor.swap().is_some() && self.ready && !self.stopping {
            self.reload(now);
        }
    }

    /// Reports what has changed since the last call; call it after every step.
    /// `failed` is what the last swap came to, if that was nothing.
    pub fn follow(&mut self, supervisor: &Supervisor, failed: Option<&str>, now: Time) {
        if self.channel.is_none() {
            return;
        }
        let swaps = supervisor.swap().map(|swap| swap.cause);
        let reloads = matches!(swaps, Some(Cause::Asked | Cause::File));
        if supervisor.is_stopping() {
            if !self.stopping {
                self.stopping = true;
                self.begin("STOPPING=1\n", now);
            }
        } else if !self.ready {
            if supervisor.serving().is_some() && swaps != Some(Cause::First) {
                self.ready = true;
                self.end(now);
            }
        } else if reloads && !self.reloading {
            self.reload(now);
        } else if swaps.is_none() && self.reloading {
            self.reloading = false;
            self.end(now);
        }
        let status = describe(supervisor, failed);
        if status != self.status {
            self.send(&format!("STATUS={status}\n"), now);
            self.status = status;
        }
    }

    fn reload(&mut self, now: Time) {
        self.reloading = true;
        let since = (now + clock::stood_still()).as_micros();
        self.begin(&format!("RELOADING=1\nMONOTONIC_USEC={since}\n"), now);
    }

    fn begin(&mut self, message: &str, now: Time) {
        self.send(message, now);
        self.ask(now);
    }

    fn end(&mut self, now: Time) {
        self.next_ask = None;
        self.send("READY=1\n", now);
    }

    /// Asks for more time; repeated for as long as it takes, since every state has its own deadline here.
    fn ask(&mut self, now: Time) {
        self.next_ask = self.channel.as_ref().map(|_| now + ASK_EVERY);
        let more = ASK_FOR.as_micros();
        self.send(&format!("EXTEND_TIMEOUT_USEC={more}\n"), now);
    }

    fn send(&mut self, message: &str, now: Time) {
        if let Some(channel) = &mut self.channel {
            channel.send(Message::from(message), now);
        }
    }

    pub fn look(&mut self, now: Time) {
        if let Some(channel) = &mut self.channel {
            channel.flush(now);
        }
        self.store.look(now);
        if let Some(every) = self.sign_of_life
            && self.next_sign.is_some_and(|next| next <= now)
        {
            self.next_sign = Some(now + every);
            self.send("WATCHDOG=1\n", now);
        }
        if self.next_ask.is_some_and(|next| next <= now) {
            self.ask(now);
        }
    }
}

impl Polled for ServiceManager {
    /// When [`ServiceManager::look`] is due.
    fn deadline(&self) -> Option<Time> {
        let again = self.channel.as_ref().and_then(|channel| channel.again);
        [self.next_sign, self.next_ask, again, self.store.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// The line of `systemctl status`.
fn describe(supervisor: &Supervisor, failed: Option<&str>) -> String {
    let draining = supervisor.draining().len();
    let serving = supervisor.serving().map(|serving| serving.generation);
    let candidate = supervisor.swap().map(|swap| {
        let stage = if swap.is_proving() {
            "proving"
        } else {
            "starting"
        };
        format!("{} is {stage}", swap.generation)
    });
    let state = match (serving, &candidate) {
        _ if supervisor.is_stopping() => return format!("stopping, {draining} still draining"),
        (None, None) => "nothing serves; waiting for a change".to_owned(),
        (None, Some(next)) => next.clone(),
        (Some(serving), None) => format!("{serving} is serving"),
        (Some(serving), Some(next)) => format!("{serving} is serving, {next}"),
    };
    let draining = if draining > 0 {
        format!(", {draining} draining")
    } else {
        String::new()
    };
    let failed = failed.filter(|_| candidate.is_none());
    // one line: what to try is in the log
    let failed = failed.map(|failed| format!("; {}", escape(divide_hint(failed).0)));
    format!("{state}{draining}{}", failed.unwrap_or_default())
}
