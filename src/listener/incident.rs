//! What listeners report to the user, in words.

use std::fmt;
use std::io;

use super::unix_dir::LedTo;
use crate::record::plural;
use crate::supervisor::Refusal;

/// Something to report to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// Clients in the queue of a gone generation were closed.
    Lost {
        listener: String,
        connections: usize,
    },
    /// Queued clients are relayed to the next generation, which sees the address that they had connected to as theirs.
    Relayed {
        listener: String,
        connections: usize,
        first: bool,
    },
    /// They do not wait for the next version: all generations have one socket there.
    NotHeld { listener: String },
    /// Clients that came while nobody was let in.
    Refused { connections: usize, why: Refusal },
    /// A stranger has joined the group: it gets no connection, but its leaving moves members.
    Stranger { listener: String, who: String },
    /// A generation shut down a socket that clients need: it listens again.
    Repaired { listener: String },
    /// A unix path leads elsewhere, and cannot be put back.
    Misled { listener: String, to: LedTo },
    /// It could not be made to listen again.
    Broken { listener: String, why: String },
}

impl Incident {
    /// The result of an attempt to listen again.
    pub fn listens_again(listener: String, again: io::Result<()>) -> Self {
        match again {
            Ok(()) => Self::Repaired { listener },
            Err(error) => Self::broken(listener, &error),
        }
    }

    pub fn broken(listener: String, error: &io::Error) -> Self {
        let why = error.to_string();
        Self::Broken { listener, why }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Lost {
                listener,
                connections,
            } => {
                let these = plural(*connections, "connection");
                write!(f, "closed {these} queued on {listener}")
            }
            Self::Relayed {
                listener,
                connections,
                first,
            } => {
                let these = plural(*connections, "connection");
                write!(
                    f,
                    "relaying {these} queued on {listener} to the next generation"
                )?;
                let meaning = if listener.contains('/') {
                    ", which sees hotswap's process and user instead of theirs"
                } else {
                    ", which sees an address of this host instead of theirs"
                };
                f.write_str(if *first { meaning } else { "" })
            }
            Self::NotHeld { listener } => write!(
                f,
                "clients of {listener} do not wait for the next version: all generations share its socket"
            ),
            Self::Refused { connections, why } => {
                let these = plural(*connections, "connection");
                let were = if *connections == 1 { "was" } else { "were" };
                let meanwhile = match why {
                    Refusal::NothingServes => "while nothing served",
                    Refusal::Ended => "once the server had ended",
                    Refusal::Stopping => "during the stop",
                };
                write!(f, "{these} {were} refused {meanwhile}")
            }
            Self::Stranger { listener, who } => {
                write!(
                    f,
                    "{who} also listens on {listener}; it gets no connections"
                )
            }
            Self::Repaired { listener } => {
                write!(
                    f,
                    "{listener} was shut down by its server and listens again"
                )
            }
            Self::Misled { listener, to } => write!(
                f,
                "{listener} leads to {to} instead of the serving generation, and cannot be put back\n\
                 try: hotswap swap{}",
                to.first()
            ),
            Self::Broken { listener, why } => write!(f, "cannot listen on {listener} again: {why}"),
        }
    }
}
