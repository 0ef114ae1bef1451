//! The names of hotswap's own sockets beside a unix path: `PATH.hotswap-3` is that of generation 3.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;

/// What is appended to a path for the names beside it; the number of the generation follows, or a word.
pub const BESIDE: &str = ".hotswap-";

/// The name of that number beside a name, or as that word.
pub fn beside(name: &OsStr, which: impl Display) -> OsString {
    let mut name = name.to_owned();
    name.push(format!("{BESIDE}{which}"));
    name
}

/// The numbers to try for a generation's name: another hotswap, whose server binds the same path, may use any.
pub fn numbers_beside(generation: u32) -> impl Iterator<Item = u32> {
    generation..generation.saturating_add(20)
}

/// The name that one with a number is beside; any other as it is.
pub fn without_number(name: &OsStr) -> &OsStr {
    let bytes = name.as_bytes();
    let mut parts = bytes.windows(BESIDE.len());
    let Some(at) = parts.rposition(|part| part == BESIDE.as_bytes()) else {
        return name;
    };
    let number = str::from_utf8(&bytes[at + BESIDE.len()..]);
    let is_number = number.is_ok_and(|number| number.parse::<u32>().is_ok());
    OsStr::from_bytes(&bytes[..if is_number { at } else { bytes.len() }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_number_tells_which_path_it_is_beside() {
        for number in [0, 3, 999_999] {
            let name = beside(OsStr::new("api.sock"), number);
            assert_eq!(without_number(&name), "api.sock");
        }
        for other in ["api.sock", "api.sock.hotswap-kept", "api.sock.hotswap-"] {
            assert_eq!(without_number(OsStr::new(other)), other);
        }
        let twice = OsStr::new("api.hotswap-1.hotswap-2");
        assert_eq!(without_number(twice), "api.hotswap-1");
    }
}
