//! System calls that give memory back.

use std::ffi::{c_int, c_void};
use std::ptr::{null_mut, with_exposed_provenance_mut};

use nix::unistd::{SysconfVar, sysconf};

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
