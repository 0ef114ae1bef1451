//! The trait that every kind of listener implements, however it directs new connections to one generation.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::captured_address::BoundPath;
use super::context::ListenerContext;
use super::listening_socket::ListeningSocket;
use super::relay::Destination;
use super::unix_dir::{FileId, UnixDir};
use crate::socket::Inode;
use crate::socket::generation_socket::SocketKind;
use crate::socket::inet::InetAddress;
use crate::supervisor::{Generation, SocketChoice, Time};

/// One address: the sockets that generations have there, and the target. The defaults suit listeners without steering.
pub trait Steering {
    fn kind(&self) -> SocketKind;

    /// The address as users see it.
    fn address(&self) -> String;

    /// Each generation has a socket of its own there.
    fn is_steered(&self) -> bool;

    fn has(&self, inode: Inode) -> bool;

    fn socket_of(&self, generation: Generation) -> Option<&ListeningSocket>;

    /// The socket of a generation of a hotswap that is gone, as long as it listens.
    fn orphan_of(&self, _: Generation) -> Option<Inode> {
        None
    }

    /// A duplicate of this generation's socket, chosen or made now if it has none.
    fn inherited_socket(
        &mut self,
        generation: Generation,
        sockets: SocketChoice,
        context: &mut ListenerContext,
    ) -> io::Result<OwnedFd>;

    /// Nothing is to be verified of a socket that this generation has been given.
    fn is_settled(&self, _: Generation) -> bool {
        true
    }

    /// Verifies the index of a socket that this generation has just been given.
    fn settle(&mut self, _: Generation, _: &mut ListenerContext) -> io::Result<()> {
        Ok(())
    }

    /// Makes what must be there before new connections go to this generation.
    fn prepare(&mut self, _: Generation, _: &mut ListenerContext) -> io::Result<()> {
        Ok(())
    }

    /// New connections go to this generation's socket, if it has one that listens. Returns the previous target.
    fn cut_over(&mut self, _: Generation, _: &mut ListenerContext) -> io::Result<Option<Inode>> {
        Ok(None)
    }

    /// The same for a generation that is not spawned yet; but where clients of any user can be relayed, they wait on
    /// a socket of ours until the next cut-over, which no generation is given.
    fn park(
        &mut self,
        generation: Generation,
        context: &mut ListenerContext,
    ) -> io::Result<Option<Inode>> {
        self.cut_over(generation, context)
    }

    /// Clients wait there for a cut-over that is still to come.
    fn is_parked(&self) -> bool {
        false
    }

    /// That cut-over is done: clients that still wait there are for the first that listens.
    fn unpark(&mut self) {}

    /// Undoes a cut-over that failed on another listener.
    fn steer_back(&mut self, _: Inode, _: &mut ListenerContext) {}

    /// A server listens on a socket of its own at this address, which had others before.
    fn join(
        &mut self,
        generation: Generation,
        socket: OwnedFd,
        path: Option<BoundPath>,
        context: &mut ListenerContext,
    ) -> io::Result<()>;

    /// A server calls listen(2) once more on the socket that it has.
    fn listen_again(&mut self, inode: Inode, context: &mut ListenerContext) -> io::Result<()>;

    /// The generation is gone, or has closed its socket. Clients that wait where new connections go wait on for the next
    /// generation; those on other sockets are taken off them.
    fn leave(&mut self, generation: Generation, now: Time, context: &mut ListenerContext);

    /// New connections wait on a socket of ours from now on, until the next cut-over.
    fn hold(&mut self, _: &mut ListenerContext) -> io::Result<()> {
        Ok(())
    }

    /// New connections reach a socket of ours from now on, where they are reset, or nothing at all.
    fn turn_away(&mut self, context: &mut ListenerContext) -> io::Result<()> {
        self.hold(context)
    }

    /// hotswap ends while a service manager keeps the target: nothing changes for clients that come to it.
    fn leave_kept(&mut self, _: &mut ListenerContext) {}

    /// Closes our copies of this generation's sockets, so that they end with its own.
    fn let_go(&mut self, _: Generation, _: &mut ListenerContext) {}

    /// No client comes here, but to an address that overlaps.
    fn is_hidden(&self) -> bool {
        false
    }

    /// The generation that new connections go to has no socket here, and one at an address that overlaps: from now on
    /// they go there.
    fn hide(&mut self, _: &mut ListenerContext) -> io::Result<()> {
        Ok(())
    }

    /// A connection to this generation's socket, while all others go to the target.
    fn probe(&mut self, generation: Generation) -> io::Result<OwnedFd>;

    /// Events on these sockets: one was shut down, or a client came to a spare.
    fn woken(&mut self, events: &[(Inode, bool)], context: &mut ListenerContext);

    /// When to look again without an event.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Closes what is not needed any more.
    fn look(&mut self, _: Time, _: &mut ListenerContext) {}

    /// The address at which the kernel's tables tell who is there, and the sockets of which they tell whether they are
    /// idle.
    fn to_look_at(&self) -> Option<(InetAddress, Vec<Inode>)> {
        None
    }

    /// Takes note of who is there.
    fn recognize(&mut self, _: &mut ListenerContext) {}

    /// The socket that new connections go to.
    fn target(&self) -> Option<&ListeningSocket>;

    /// Whether clients wait in a socket that no generation has.
    fn is_waiting(&self) -> bool {
        let target = self.target();
        target.is_some_and(|target| self.is_steered() && target.owner.is_none())
    }

    /// Whether any generation has a socket there.
    fn is_owned(&self) -> bool;

    /// Gives the address up; clients that wait are counted and said.
    fn close(&mut self, context: &mut ListenerContext);

    /// Goes on with sockets that another hotswap has handed over.
    fn resume(&mut self, context: &mut ListenerContext);

    /// Its internet address, and a socket that tells its options.
    fn inet(&self) -> Option<(SocketAddr, BorrowedFd<'_>)> {
        None
    }

    /// Where clients are relayed to that are to reach the target; `None` if they would not.
    fn destination(&self) -> Option<Destination> {
        match self.dir() {
            Some(dir) => Some(Destination::Path(dir.path().to_owned())),
            None => Some(Destination::Inet(self.inet()?.0)),
        }
    }

    /// Whether only processes of one generation use its path: then no name is kept beside it.
    fn set_private(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Puts its path in the file system back, if it was taken away.
    fn put_back(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the next generation may bind its path itself: nothing is there, and nothing can be put back.
    fn lends_path(&mut self) -> bool {
        false
    }

    /// Sees to it that its path leads to where new connections go, and takes note of what this candidate does there.
    fn keep_up(&mut self, _: Option<Generation>, _: &mut ListenerContext) {}

    /// Its path in the file system.
    fn dir(&self) -> Option<&UnixDir> {
        None
    }

    /// The file that clients reach at the path, under all of its names.
    fn live_file(&self) -> Option<FileId> {
        None
    }

    /// Its name in the abstract namespace.
    fn abstract_name(&self) -> Option<&[u8]> {
        None
    }
}
