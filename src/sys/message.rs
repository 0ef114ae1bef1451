//! Messages on unix sockets: bytes, descriptors, and the sender.

use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::MsgFlags;
use nix::unistd::{Pid, Uid};

/// One message, or a piece of a stream.
#[derive(Debug)]
pub struct ReceivedMessage {
    /// With `MSG_TRUNC` the length of all of it, which may be more than the buffer holds.
    pub bytes: usize,
    /// As many as this process could take: fewer than were sent if it is out of descriptors.
    pub descriptors: Vec<OwnedFd>,
    /// Where the socket has `SO_PASSCRED`.
    pub sender: Option<Sender>,
}

/// Who sent a message, as the kernel had it then: it may be gone by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub pid: Pid,
    pub uid: Uid,
}

/// recvmsg(2) with at most 253 descriptors (`SCM_MAX_FD`), which arrive close-on-exec and are owned from then on.
///
/// By the C library's own call: nix does not give out what has come with a message that was cut short, and nobody would
/// close it then.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(
    socket: BorrowedFd,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> io::Result<ReceivedMessage> {
    // room for 253 descriptors and a ucred, aligned for their headers
    let mut control = [0_u64; 160];
    let mut slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: zeroes are a valid msghdr, which says that there is nothing.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = (flags | MsgFlags::MSG_CMSG_CLOEXEC).bits();
    // SAFETY: the kernel writes at most the lengths that are said, into buffers that outlive the call.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let mut message = ReceivedMessage {
        bytes: usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?,
        descriptors: Vec::new(),
        sender: None,
    };
    // SAFETY: the kernel has left a chain of whole entries in `control`, and its length in the header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: as above; entries are aligned for their headers.
        let entry = unsafe { &*next };
        // SAFETY: the data of an entry follows its header.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: computes a length.
        let before = unsafe { libc::CMSG_LEN(0) } as usize;
        let length = (entry.cmsg_len as usize).saturating_sub(before);
        match (entry.cmsg_level, entry.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                // SAFETY: so many bytes of data follow the header.
                let numbers = unsafe { std::slice::from_raw_parts(data, length) };
                for number in numbers.as_chunks().0 {
                    // SAFETY: the kernel has just made this number, and nobody else knows it.
                    let fd = unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) };
                    message.descriptors.push(fd);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: the data is long enough to be one ucred.
                let sender = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                message.sender = Some(Sender {
                    pid: Pid::from_raw(sender.pid),
                    uid: Uid::from_raw(sender.uid),
                });
            }
            _ => {}
        }
        // SAFETY: as for the first one.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(message)
}
