//! Whether a file is a complete program: a script, or an ELF whose headers, segments and sections lie within it.

use std::fs::File;
use std::io::{self, Read, Seek};

use object::elf::{FileHeader32, FileHeader64, PT_NULL, SHT_NULL};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, ReadCache, ReadRef};

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

/// How an ELF begins.
const MAGIC: &[u8] = b"\x7fELF";

/// Reads the headers of `file`, which is at offset 0, and stays there.
///
/// # Errors
/// Those of read(2) and lseek(2).
pub fn exec_format(mut file: &File) -> io::Result<ExecFormat> {
    let mut head = Vec::new();
    file.take(64).read_to_end(&mut head)?;
    let data = ReadCache::new(file);
    let format = match head.strip_prefix(MAGIC) {
        // the class, and the order of bytes
        Some([1, 1 | 2, ..]) => elf_format::<FileHeader32<Endianness>>(&data),
        Some([2, 1 | 2, ..]) => elf_format::<FileHeader64<Endianness>>(&data),
        Some(_) => None,
        None if head.starts_with(b"#!") => Some(ExecFormat::Script),
        None if MAGIC.starts_with(&head) || head.iter().all(|&byte| byte == 0) => None,
        None => Some(ExecFormat::Foreign),
    };
    file.rewind()?;
    Ok(format.unwrap_or(ExecFormat::Torn))
}

/// `None` if the kernel could not load it.
fn elf_format<Elf>(data: &ReadCache<&File>) -> Option<ExecFormat>
where
    Elf: FileHeader<Endian = Endianness>,
{
    let size = data.len().ok()?;
    let ends_within = |(offset, length): (u64, u64)| {
        let end = offset.checked_add(length);
        end.is_some_and(|end| end <= size)
    };
    let header: &Elf = data.read_at(0).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    let mut used = segments.iter().filter(|one| {
        let (_, length) = one.file_range(endian);
        one.p_type(endian) != PT_NULL && length > 0
    });
    if segments.is_empty() || !used.all(|one| ends_within(one.file_range(endian))) {
        return None;
    }
    let sections = header.section_headers(endian, data);
    let is_whole = sections.is_ok_and(|sections| {
        let mut used = sections
            .iter()
            .filter(|one| one.sh_type(endian) != SHT_NULL);
        used.all(|one| one.file_range(endian).is_none_or(ends_within))
    });
    Some(if is_whole {
        ExecFormat::Whole
    } else {
        ExecFormat::Loadable
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Two of the identification bytes of elf(5).
    const CLASS: usize = 4;
    const DATA: usize = 5;

    fn form_of(bytes: &[u8]) -> ExecFormat {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        exec_format(&file).unwrap()
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
        assert_eq!(exec_format(&file).unwrap(), ExecFormat::Whole);
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
