//! System calls that give memory back.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut, with_exposed_provenance_mut};

use nix::unistd::{SysconfVar, sysconf};

use crate::proc;

/// The most mappings that are given back: more than twice as many as a program has that has just begun.
const MOST_MAPPINGS: usize = 64;

/// Gives back what this process does not need while it sleeps: what it has freed, and the pages of its program, which the
/// kernel maps again when they are next run. A breakpoint of a debugger is lost.
pub fn give_back() {
    // SAFETY: it gives back only what was freed.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: the function is of the type that is called, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(unmap_read_only), null_mut()) };
}

/// The segments of the first module that nothing writes to: relocations are in another one.
unsafe extern "C" fn unmap_read_only(
    module: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> c_int {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let Some(page) = page.and_then(|page| usize::try_from(page).ok()) else {
        return 0;
    };
    // SAFETY: the C library passes what it knows of a module, with as many headers as it says.
    let (base, headers) = unsafe {
        let module = &*module;
        let count = usize::from(module.dlpi_phnum);
        let headers = std::slice::from_raw_parts(module.dlpi_phdr, count);
        (module.dlpi_addr, headers)
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (from, length) = (usize::try_from(base + header.p_vaddr), header.p_memsz);
        let (Ok(from), Ok(length)) = (from, usize::try_from(length)) else {
            continue;
        };
        let into_page = from % page;
        let first = with_exposed_provenance_mut(from - into_page);
        // SAFETY: no page of it differs from the file, which the kernel reads it from again.
        unsafe { libc::madvise(first, into_page + length, libc::MADV_DONTNEED) };
    }
    // others use the libraries, too
    1
}

/// Sleeps until `channel` is closed or `ended` is readable, and then executes this program anew, as `name`: with the same
/// variables, and those descriptors that survive an exec.
///
/// Meanwhile it has nothing in memory but its stack and the piece of program that waits: no heap, and none of the pages
/// that the dynamic linker has written to. So it can only go on by an exec.
pub fn sleep_and_begin_again(channel: BorrowedFd, ended: BorrowedFd, name: &CStr) -> ! {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let wait_for = |source: BorrowedFd, events| libc::pollfd {
        fd: source.as_raw_fd(),
        events,
        revents: 0,
    };
    let sources = [wait_for(channel, 0), wait_for(ended, libc::POLLIN)];
    let (path, arguments) = (c"/proc/self/exe".as_ptr(), [name.as_ptr(), null()]);
    let before_next_try = libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let no = null::<c_void>();
    let mut mappings = [(0, 0); MOST_MAPPINGS];
    let mapped = proc::memory::mapped_beside_stack();
    for (place, mapping) in mappings.iter_mut().zip(mapped) {
        *place = mapping;
    }
    let system_call: unsafe extern "C" fn(c_long, ...) -> c_long = libc::syscall;
    // SAFETY: signals are blocked, no other thread is there, and from the first call on nothing is used but the stack, and
    // code that the kernel reads again from its file. So no function is called by its name: the table that leads to it
    // is given back. What the kernel writes for the C library goes to a new page.
    unsafe {
        let (call, variables) = ((&raw const system_call).read_volatile(), environ);
        let mut next = 0;
        while next < MOST_MAPPINGS {
            let (from, length) = mappings[next];
            call(libc::SYS_madvise, from, length, libc::MADV_DONTNEED);
            next += 1;
        }
        let two = 2_usize;
        call(libc::SYS_ppoll, &raw const sources, two, no, no, 0_usize);
        loop {
            call(libc::SYS_execve, path, &raw const arguments, variables);
            // out of memory, as may be when something has just been killed
            call(
                libc::SYS_ppoll,
                no,
                0_usize,
                &raw const before_next_try,
                no,
                0_usize,
            );
        }
    }
}
