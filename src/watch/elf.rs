//! Whether a file is a complete program: a script, or an ELF whose headers, segments and sections lie within it.
//!
//! Every number in the file is untrusted: each is read within bounds, and no sum overflows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a file is to execve(2), as far as its headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecFormat {
    Script,
    /// A complete ELF.
    Whole,
    /// An ELF that the kernel could load, but whose section headers point outside it: truncated, or made by a packer.
    Loadable,
    /// Neither: for binfmt_misc, or not a program at all.
    Foreign,
    /// An ELF that the kernel could not load, or an empty file.
    Torn,
}

/// Two of the identification bytes of elf(5).
const CLASS: usize = 4;
const DATA: usize = 5;
/// `PT_NULL`: an unused entry of the program header table.
const UNUSED: u64 = 0;
/// `SHT_NULL` and `SHT_NOBITS`: sections that take no space in the file.
const WITHOUT_BYTES: [u64; 2] = [0, 8];

/// Reads the headers of `file`, which is `size` bytes long.
///
/// # Errors
/// Those of pread(2).
pub fn exec_format(file: &File, size: u64) -> io::Result<ExecFormat> {
    let mut head = [0; 64];
    let length = read_up_to(file, &mut head)?;
    let head = &head[..length];
    if head.starts_with(b"#!") {
        return Ok(ExecFormat::Script);
    }
    if !head.starts_with(b"\x7fELF") {
        let torn = head.is_empty() || b"\x7fELF".starts_with(head) || head.iter().all(|&b| b == 0);
        return Ok(if torn {
            ExecFormat::Torn
        } else {
            ExecFormat::Foreign
        });
    }
    let Some(elf) = Elf::parse(head) else {
        return Ok(ExecFormat::Torn);
    };
    if !elf.segments_lie_within(file, size)? {
        return Ok(ExecFormat::Torn);
    }
    Ok(if elf.sections_lie_within(file, size)? {
        ExecFormat::Whole
    } else {
        ExecFormat::Loadable
    })
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, length as u64) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// One of the two tables of headers.
#[derive(Clone, Copy)]
struct Table {
    offset: u64,
    entry: u64,
    count: u64,
}

struct Elf {
    wide: bool,
    little: bool,
    segments: Table,
    sections: Table,
}

impl Elf {
    fn parse(head: &[u8]) -> Option<Self> {
        let wide = match head.get(CLASS)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let little = match head.get(DATA)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        let number = |at, bytes| number(head, at, bytes, little);
        let table = |offset, entry, count| {
            Some(Table {
                offset,
                entry,
                count,
            })
        };
        let (segments, sections) = if wide {
            (
                table(number(32, 8)?, number(54, 2)?, number(56, 2)?)?,
                table(number(40, 8)?, number(58, 2)?, number(60, 2)?)?,
            )
        } else {
            (
                table(number(28, 4)?, number(42, 2)?, number(44, 2)?)?,
                table(number(32, 4)?, number(46, 2)?, number(48, 2)?)?,
            )
        };
        Some(Self {
            wide,
            little,
            segments,
            sections,
        })
    }

    fn segments_lie_within(&self, file: &File, size: u64) -> io::Result<bool> {
        let entry = if self.wide { 56 } else { 32 };
        if self.segments.count == 0 || self.segments.entry != entry {
            return Ok(false);
        }
        all_within(file, size, self.segments, |entry| {
            let (offset, length) = if self.wide {
                (self.number(entry, 8, 8)?, self.number(entry, 32, 8)?)
            } else {
                (self.number(entry, 4, 4)?, self.number(entry, 16, 4)?)
            };
            let unused = self.number(entry, 0, 4)? == UNUSED;
            Some(unused || length == 0 || ends_within(offset, length, size))
        })
    }

    fn sections_lie_within(&self, file: &File, size: u64) -> io::Result<bool> {
        let entry = if self.wide { 64 } else { 40 };
        let mut table = self.sections;
        if table.offset == 0 {
            return Ok(true);
        }
        if table.entry != entry {
            return Ok(false);
        }
        // More sections than the header can count: the first entry has their number. Only the table itself is checked.
        table.count = table.count.max(1);
        all_within(file, size, table, |entry| {
            let (offset, length) = if self.wide {
                (self.number(entry, 24, 8)?, self.number(entry, 32, 8)?)
            } else {
                (self.number(entry, 16, 4)?, self.number(entry, 20, 4)?)
            };
            let without = WITHOUT_BYTES.contains(&self.number(entry, 4, 4)?);
            Some(without || ends_within(offset, length, size))
        })
    }

    fn number(&self, bytes: &[u8], at: usize, width: usize) -> Option<u64> {
        number(bytes, at, width, self.little)
    }
}

/// Whether the table, and every entry by `within`, lies within the file.
fn all_within(
    file: &File,
    size: u64,
    table: Table,
    within: impl Fn(&[u8]) -> Option<bool>,
) -> io::Result<bool> {
    let bytes = table.entry.checked_mul(table.count);
    let Some(bytes) = bytes.filter(|&bytes| ends_within(table.offset, bytes, size)) else {
        return Ok(false);
    };
    let (Ok(bytes), Ok(entry)) = (usize::try_from(bytes), usize::try_from(table.entry)) else {
        return Ok(false);
    };
    let mut entries = vec![0; bytes];
    match file.read_exact_at(&mut entries, table.offset) {
        Ok(()) => {}
        // The file has become shorter.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut entries = entries.chunks_exact(entry.max(1));
    Ok(entries.all(|entry| within(entry) == Some(true)))
}

fn ends_within(offset: u64, length: u64, size: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= size)
}

fn number(bytes: &[u8], at: usize, width: usize, little: bool) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    let push = |sum: u64, &byte: &u8| (sum << 8) | u64::from(byte);
    Some(if little {
        bytes.iter().rev().fold(0, push)
    } else {
        bytes.iter().fold(0, push)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn form_of(bytes: &[u8]) -> ExecFormat {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        exec_format(&file, bytes.len() as u64).unwrap()
    }

    fn put(bytes: &mut [u8], at: usize, width: usize, value: u64, little: bool) {
        for i in 0..width {
            let shift = if little { i } else { width - 1 - i };
            bytes[at + i] = u8::try_from(value >> (8 * shift) & 0xff).unwrap();
        }
    }

    /// One segment over the whole file, and two sections: none, and one of 16 bytes.
    fn elf(wide: bool, little: bool) -> Vec<u8> {
        let (header, segment, section) = if wide { (64, 56, 64) } else { (52, 32, 40) };
        let body = header + segment;
        let table = body + 16;
        let mut bytes = vec![0; table + 2 * section];
        let size = bytes.len() as u64;
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[CLASS] = if wide { 2 } else { 1 };
        bytes[DATA] = if little { 1 } else { 2 };
        let mut put = |at, width, value: usize| put(&mut bytes, at, width, value as u64, little);
        let word = if wide { 8 } else { 4 };
        put(if wide { 32 } else { 28 }, word, header);
        put(if wide { 40 } else { 32 }, word, table);
        put(if wide { 54 } else { 42 }, 2, segment);
        put(if wide { 56 } else { 44 }, 2, 1);
        put(if wide { 58 } else { 46 }, 2, section);
        put(if wide { 60 } else { 48 }, 2, 2);
        put(header, 4, 1);
        put(
            header + if wide { 32 } else { 16 },
            word,
            usize::try_from(size).unwrap(),
        );
        put(table + section + 4, 4, 1);
        put(table + section + if wide { 24 } else { 16 }, word, body);
        put(table + section + if wide { 32 } else { 20 }, word, 16);
        bytes
    }

    #[test]
    fn a_script_is_known_by_its_first_two_bytes() {
        assert_eq!(form_of(b"#!/bin/sh\n"), ExecFormat::Script);
        assert_eq!(form_of(b"#!"), ExecFormat::Script);
    }

    #[test]
    fn what_is_neither_script_nor_elf_is_foreign_and_nothing_is_torn() {
        assert_eq!(form_of(b"echo hello\n"), ExecFormat::Foreign);
        assert_eq!(form_of(b""), ExecFormat::Torn);
        assert_eq!(form_of(b"\x7fE"), ExecFormat::Torn);
        assert_eq!(form_of(&[0; 4096]), ExecFormat::Torn);
    }

    #[test]
    fn an_elf_is_whole_in_either_width_and_either_order() {
        for (wide, little) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(form_of(&elf(wide, little)), ExecFormat::Whole);
        }
    }

    #[test]
    fn an_elf_cut_anywhere_is_not_whole() {
        for (wide, little) in [(true, true), (false, false)] {
            let bytes = elf(wide, little);
            for length in 0..bytes.len() {
                assert_eq!(
                    form_of(&bytes[..length]),
                    ExecFormat::Torn,
                    "of {length} bytes"
                );
            }
        }
    }

    #[test]
    fn an_elf_whose_sections_alone_are_cut_off_is_loadable() {
        let mut bytes = elf(true, true);
        put(&mut bytes, 64 + 32, 8, 64, true);
        bytes.truncate(140);
        assert_eq!(form_of(&bytes), ExecFormat::Loadable);
    }

    #[test]
    fn a_running_program_is_whole() {
        let file = File::open("/proc/self/exe").unwrap();
        let size = file.metadata().unwrap().len();
        assert_eq!(exec_format(&file, size).unwrap(), ExecFormat::Whole);
    }

    proptest::proptest! {
        #[test]
        fn no_header_however_odd_is_trusted(
            position in 0_usize..200, value: u64, width in 1_usize..9, wide: bool, little: bool,
        ) {
            let mut bytes = elf(wide, little);
            let at = position.min(bytes.len() - width);
            put(&mut bytes, at, width, value, little);
            form_of(&bytes);
        }
    }
}
