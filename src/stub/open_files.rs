//! The limit of open descriptors: hotswap raises its own, and gives every child the original one. And none of those that it
//! was started with.
//!
//! hotswap has each listener open once for every generation; a server may rely on a low limit (select(2)).

use std::ffi::OsString;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Soft and hard, as hotswap was started with them.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Once, before anything is opened. If the limit cannot be raised, that is no error: what needs more will fail by itself.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = GIVEN.set((soft, hard));
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// For the program that this process becomes.
pub fn put_back() {
    if let Some((soft, hard)) = GIVEN.get() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard);
    }
}

/// That a shell has opened a file for the server, as for `<(command)`: it would be there for one generation at most. What a
/// user means by a lower number is a socket of the server's.
pub fn not_passed(command: &[OsString]) -> Option<String> {
    const FIRST: u32 = 9;
    let named = command.iter().find_map(|argument| {
        let argument = argument.to_str()?;
        let directories = ["/dev/fd/", "/proc/self/fd/"].into_iter();
        let mut numbers = directories.filter_map(|directory| argument.split_once(directory));
        let (_, number) = numbers.next()?;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = number.get(..digits)?.parse().ok()?;
        (number >= FIRST).then_some((argument, number))
    });
    let (argument, number) = named?;
    Some(format!(
        "the server does not get descriptor {number}, which its argument {argument} names: another generation would find it read to its end\n\
         try: the path of a file"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_shell_has_opened_for_the_server_is_not_passed() {
        let said = |argument: &str| not_passed(&["./server".into(), argument.into()]);
        for argument in ["/dev/fd/63", "--config=/dev/fd/63", "@/proc/self/fd/63"] {
            let said = said(argument).unwrap();
            assert!(said.contains(&format!(
                "descriptor 63, which its argument {argument} names"
            )));
        }
        for argument in [
            "/dev/fd/3",
            "/dev/fd/",
            "/dev/fdx/63",
            "63",
            "/proc/1/fd/63",
        ] {
            assert_eq!(said(argument), None, "{argument}");
        }
    }
}
