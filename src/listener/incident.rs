//! What listeners report to the user, in words.

use std::fmt;
use std::io;

/// Something to report to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// Clients in the queue of a gone generation were closed.
    Lost {
        listener: String,
        connections: usize,
    },
    /// Clients in the queue of a gone generation are relayed to the serving one, which sees hotswap's address.
    Relayed {
        listener: String,
        connections: usize,
        first: bool,
    },
    /// A stranger has joined the group: it gets no connection, but its leaving moves members.
    Stranger { listener: String, who: String },
    /// A generation shut down a socket that clients need: it listens again.
    Repaired { listener: String },
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
                let these = count(*connections);
                write!(f, "{these} that waited on {listener} had to be closed")
            }
            Self::Relayed {
                listener,
                connections,
                first,
            } => {
                let these = count(*connections);
                let are = if *connections == 1 { "is" } else { "are" };
                write!(
                    f,
                    "{these} that waited on {listener} for a generation that is gone {are} relayed"
                )?;
                let meaning = ": the server sees hotswap's address, not theirs";
                f.write_str(if *first { meaning } else { "" })
            }
            Self::Stranger { listener, who } => {
                write!(f, "{who} listens on {listener} too, and gets no connection")
            }
            Self::Repaired { listener } => {
                write!(
                    f,
                    "{listener} was shut down by its server and listens again"
                )
            }
            Self::Broken { listener, why } => write!(f, "cannot listen on {listener} again: {why}"),
        }
    }
}

fn count(connections: usize) -> String {
    match connections {
        1 => "1 connection".to_owned(),
        more => format!("{more} connections"),
    }
}
