//! What was seen last of a candidate that did not get ready in time.

use std::fmt;

use super::stopped::Stopped;
use crate::record::signal_name;
use crate::supervisor::Exit;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReadyReason {
    /// There, as the log names its listeners.
    DoesNotAccept(Vec<String>),
    /// A first generation without a listener that still used the processor.
    ListensNowhere,
    /// READY=1 was never sent.
    NoReadyMessage,
    /// READY=1 was not sent, and an earlier generation had sent it.
    NoReadyMessageAgain,
    /// No newline came on this descriptor.
    NoNewline(i32),
    /// The last answer to a GET of this path.
    Answers {
        path: String,
        answer: HttpAnswer,
    },
    CommandEnded(Exit),
    CommandRuns,
    /// It has no socket that leads to it alone.
    NothingToAsk,
    /// By this signal, if that is known.
    Stopped(Option<i32>),
}

/// What a server made of an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAnswer {
    Status(u16),
    Tls,
    /// Something that is neither HTTP nor TLS.
    Other,
    /// It closed the connection without an answer.
    Closed,
    Reset,
    Silence,
}

/// The words of the verdict, behind the name of the generation.
impl fmt::Display for NotReadyReason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::DoesNotAccept(all) => write!(f, "does not accept on {}", all.join(", ")),
            Self::ListensNowhere => f.write_str("does not listen on anything, and is busy"),
            Self::NoReadyMessage => f.write_str("READY=1 was never sent"),
            Self::NoReadyMessageAgain => {
                f.write_str("READY=1 was not sent, although an earlier version sent it")
            }
            Self::NoNewline(fd) => write!(f, "no newline on descriptor {fd}"),
            Self::Answers { path, answer } => match answer {
                HttpAnswer::Status(status) => write!(f, "answers GET {path} with status {status}"),
                HttpAnswer::Tls => f.write_str("answers with TLS"),
                HttpAnswer::Other => f.write_str("does not answer with HTTP"),
                HttpAnswer::Closed => f.write_str("closed the connection without an answer"),
                HttpAnswer::Reset => f.write_str("reset the connection without an answer"),
                HttpAnswer::Silence => write!(f, "does not answer GET {path}"),
            },
            Self::CommandEnded(Exit::Status(status)) => {
                write!(f, "the command exited with status {status}")
            }
            Self::CommandEnded(Exit::Signal(number)) => {
                write!(f, "the command was killed by {}", signal_name(*number))
            }
            Self::CommandEnded(Exit::CannotRun(_, why)) => f.write_str(why),
            Self::CommandEnded(Exit::Background | Exit::Unknown) | Self::CommandRuns => {
                f.write_str("the command is still running")
            }
            Self::NothingToAsk => {
                f.write_str("has no TCP port or unix path where it could be asked")
            }
            Self::Stopped(signal) => f.write_str(&stopped_by(*signal)),
        }
    }
}

/// `is suspended by SIGTTOU, because it wants the terminal`.
pub fn stopped_by(signal: Option<i32>) -> String {
    match signal {
        Some(number @ (libc::SIGTTIN | libc::SIGTTOU)) => {
            format!(
                "is suspended by {}, because it wants the terminal",
                signal_name(number)
            )
        }
        Some(number) => format!("is suspended by {}", signal_name(number)),
        None => "is suspended by a signal".to_owned(),
    }
}

/// What the user can do about it. Continued, one that wants the terminal would be stopped again at once.
pub fn hint_at_stopped(stopped: &Stopped) -> String {
    match stopped.signal {
        Some(libc::SIGTTIN) => {
            "a file, a variable, or an option for what it asks, since no server can read the terminal".into()
        }
        Some(libc::SIGTTOU) => {
            "stty -tostop, if it only writes to the terminal, or an option that keeps it off the terminal".into()
        }
        _ => format!("kill -CONT {}", stopped.pid),
    }
}

impl NotReadyReason {
    /// What the user can do about it, as a command or an option.
    pub fn hint(&self, is_first: bool) -> Option<String> {
        match self {
            Self::DoesNotAccept(all) if !is_first => {
                let without = all.iter().map(|address| format!(" --without {address}"));
                Some(format!("hotswap swap{}", without.collect::<String>()))
            }
            Self::NoReadyMessageAgain => Some("hotswap swap --forget-ready".to_owned()),
            Self::NothingToAsk => Some("--ready auto".to_owned()),
            Self::ListensNowhere => Some(
                "a longer --ready-timeout; or --ready after:1s, if it never listens on a port"
                    .to_owned(),
            ),
            Self::Answers {
                answer: HttpAnswer::Tls,
                ..
            } => Some("--ready tcp, or --ready exec:COMMAND".to_owned()),
            Self::DoesNotAccept(_)
            | Self::NoReadyMessage
            | Self::NoNewline(_)
            | Self::Answers { .. }
            | Self::CommandEnded(_)
            | Self::CommandRuns
            | Self::Stopped(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_as_the_end_of_a_verdict() {
        let addresses = vec!["127.0.0.1:9090".to_owned(), "/run/api.sock".to_owned()];
        let reason = NotReadyReason::DoesNotAccept(addresses);
        assert_eq!(
            reason.to_string(),
            "does not accept on 127.0.0.1:9090, /run/api.sock"
        );
        let hint = "hotswap swap --without 127.0.0.1:9090 --without /run/api.sock";
        assert_eq!(reason.hint(false).as_deref(), Some(hint));
        assert_eq!(reason.hint(true), None, "nothing serves it");
        let stopped = NotReadyReason::Stopped(Some(libc::SIGTTOU));
        let text = "is suspended by SIGTTOU, because it wants the terminal";
        assert_eq!(stopped.to_string(), text);
        let ended = NotReadyReason::CommandEnded(Exit::Status(7));
        assert_eq!(ended.to_string(), "the command exited with status 7");
    }
}
