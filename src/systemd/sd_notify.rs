//! What systemd is told: ready, reloading, stopping, the status line, and the watchdog.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::unistd::Pid;

use crate::escape::escape;
use crate::polled::Polled;
use crate::supervisor::{Cause, Supervisor, Time};
use crate::sys::clock;

/// How often we ask for more time while a start, a swap or a stop lasts, and how much.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_FOR: Duration = Duration::from_secs(15);
/// How long to wait when the manager's queue is full.
const AGAIN: Duration = Duration::from_millis(100);
/// How many messages are kept for a manager that does not read.
const UNSENT: usize = 16;

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
}

#[derive(Debug)]
struct ManagerSocket {
    socket: UnixDatagram,
    address: SocketAddr,
    unsent: VecDeque<String>,
    again: Option<Time>,
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
        }
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
            channel.send(message, now);
        }
    }

    pub fn look(&mut self, now: Time) {
        if let Some(channel) = &mut self.channel {
            channel.flush(now);
        }
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
        [self.next_sign, self.next_ask, again]
            .into_iter()
            .flatten()
            .min()
    }
}

impl ManagerSocket {
    fn to(name: &OsStr) -> Option<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok()?,
            [b'/', ..] => SocketAddr::from_pathname(name).ok()?,
            _ => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self {
            socket,
            address,
            unsent: VecDeque::new(),
            again: None,
        })
    }

    fn send(&mut self, message: &str, now: Time) {
        if self.unsent.len() < UNSENT {
            self.unsent.push_back(message.to_owned());
        }
        self.flush(now);
    }

    fn flush(&mut self, now: Time) {
        self.again = None;
        while let Some(message) = self.unsent.front() {
            let sent = self.socket.send_to_addr(message.as_bytes(), &self.address);
            if sent.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                self.again = Some(now + AGAIN);
                return;
            }
            self.unsent.pop_front();
        }
    }
}

/// The line of `systemctl status`.
fn describe(supervisor: &Supervisor, failed: Option<&str>) -> String {
    let draining = supervisor.draining().len();
    let serving = supervisor.serving().map(|serving| serving.generation);
    let candidate = supervisor.swap().map(|swap| swap.generation);
    let state = match (serving, candidate) {
        _ if supervisor.is_stopping() => return format!("stopping, {draining} still draining"),
        (None, None) => "nothing serves; waiting for a change".to_owned(),
        (None, Some(next)) => format!("{next} is on its way"),
        (Some(serving), None) => format!("{serving} is serving"),
        (Some(serving), Some(next)) => format!("{serving} is serving, {next} is on its way"),
    };
    let draining = if draining > 0 {
        format!(", {draining} draining")
    } else {
        String::new()
    };
    let failed = failed.filter(|_| candidate.is_none());
    let failed = failed.map(|failed| format!("; {}", escape(failed)));
    format!("{state}{draining}{}", failed.unwrap_or_default())
}
