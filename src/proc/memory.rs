//! The memory of a process: a piece of it, and how much there is.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{after, in_base, lines, number, read as read_file, words};

/// Reads another process's memory, as far as it goes.
///
/// # Errors
/// `EFAULT` if there is none, `EPERM` if it may not be read.
pub fn read(process: Pid, address: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    let remote = [RemoteIoVec { base, len: length }];
    let read = match process_vm_readv(process, &mut [IoSliceMut::new(&mut bytes)], &remote) {
        Ok(read) => read,
        Err(Errno::EFAULT) => return Err(Errno::EFAULT.into()),
        // some sandboxes forbid one and not the other
        Err(_) => File::open(format!("/proc/{process}/mem"))?.read_at(&mut bytes, address)?,
    };
    if read == 0 && length > 0 {
        return Err(Errno::EFAULT.into());
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// What this process has mapped beside its stack: each with its address and length.
pub fn mapped_beside_stack() -> Vec<(usize, usize)> {
    let maps = read_file("/proc/self/maps").unwrap_or_default();
    lines(&maps).filter_map(beside_stack).collect()
}

fn beside_stack(line: &[u8]) -> Option<(usize, usize)> {
    let mut words = words(line);
    let mut ends = words.next()?.split(|byte| *byte == b'-');
    let mut end = || usize::try_from(in_base(ends.next()?, 16)?).ok();
    let (from, to) = (end()?, end()?);
    let is_stack = words.any(|word| word == b"[stack]");
    (!is_stack).then_some((from, to.checked_sub(from)?))
}

/// Resident bytes; shared memory counts for each process.
pub fn resident(process: Pid) -> Option<u64> {
    let pages = resident_pages(&read_file(format!("/proc/{process}/statm")).ok()?)?;
    let size = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages.saturating_mul(u64::try_from(size).ok()?))
}

fn resident_pages(statm: &[u8]) -> Option<u64> {
    number(words(statm).nth(1)?)
}

/// Resident bytes, with shared memory divided among the processes. The kernel walks every page for it.
pub fn proportional(process: Pid) -> Option<u64> {
    proportional_size(&read_file(format!("/proc/{process}/smaps_rollup")).ok()?)
}

fn proportional_size(rollup: &[u8]) -> Option<u64> {
    let kibibytes: u64 = number(words(after(rollup, "Pss:")?).next()?)?;
    Some(kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_it_is() {
        let text = *b"four";
        let address = text.as_ptr() as u64;
        assert_eq!(read(Pid::this(), address, 4).unwrap(), b"four");
        let error = read(Pid::this(), 0, 4).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn sizes_are_read() {
        assert!(resident(Pid::this()) > Some(0));
        assert_eq!(resident_pages(b"5000 1234 800 10 0 900 0\n"), Some(1234));
        let rollup = b"55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:   812 kB\n";
        assert_eq!(proportional_size(rollup), Some(812 * 1024));
        assert_eq!(proportional_size(b""), None);
    }

    #[test]
    fn all_that_is_mapped_is_known_but_for_the_stack() {
        let program = b"55d0f000-55d10000 r-xp 00000000 fe:00 12 /bin/hotswap";
        assert_eq!(beside_stack(program), Some((0x55d0_f000, 0x1000)));
        let anonymous = b"7feb000-7fec000 rw-p 00000000 00:00 0 ";
        assert_eq!(beside_stack(anonymous), Some((0x7fe_b000, 0x1000)));
        let stack = b"7ffd000-7ffe000 rw-p 00000000 00:00 0    [stack]";
        assert_eq!(beside_stack(stack), None);
        assert_eq!(beside_stack(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_read_is_trusted(bytes: Vec<u8>, size in "Pss:[ -]{0,3}[0-9]{0,22}( kB)?") {
            beside_stack(&bytes);
            resident_pages(&bytes);
            proportional_size(&bytes);
            proportional_size(size.as_bytes());
        }
    }
}
