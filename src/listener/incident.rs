//! What listeners report to the user, in words.

use std::fmt;
use std::io;

/// What a user should hear about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// Clients that waited on a socket whose generation is gone, and were closed.
    Lost {
        listener: String,
        connections: usize,
    },
    /// The same, but carried to the generation that serves; it sees hotswap's address for theirs.
    Relayed {
        listener: String,
        connections: usize,
        first: bool,
    },
    /// Somebody else's socket has joined the group: it gets no connection, but hotswap must reckon with it.
    Stranger { listener: String, who: String },
    /// A generation shut a socket down that clients need: it listens again.
    Repaired { listener: String },
    /// It could not be made to listen again.
    Broken { listener: String, why: String },
}

impl Incident {
    /// What came of an attempt to listen again.
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
