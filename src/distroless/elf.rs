//! What an ELF file says about the files that it needs. The file is hostile: everything in it is bounded.

use std::ffi::OsString;
use std::io::{Cursor, Read, Seek};
use std::os::unix::ffi::OsStringExt;

use object::elf::{self, FileHeader32, FileHeader64};
use object::endian::Endianness;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef, StringTable};

/// The most that is read of the program headers: what the kernel takes (`load_elf_phdrs` in fs/binfmt_elf.c).
const HEADERS_MAX: u64 = 65_536;

/// The most that is read of the dynamic section, in bytes; real ones have some hundred.
const DYNAMIC_MAX: u64 = 1 << 18;

/// The most libraries that one file names.
const NEEDED_MAX: usize = 1024;

/// The most bytes that all names and paths in a file have together.
const TEXT_MAX: usize = 1 << 16;

/// What makes a file fit a loader: class and machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) wide: bool,
    pub(crate) little: bool,
    pub(crate) number: u16,
}

/// What a file needs, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) machine: Machine,
    /// The loader: PT_INTERP.
    pub(crate) interpreter: Option<OsString>,
    pub(crate) soname: Option<OsString>,
    pub(crate) needed: Vec<OsString>,
    pub(crate) rpath: Option<OsString>,
    pub(crate) runpath: Option<OsString>,
    /// Whether the default directories are left out: linked with `-z nodefaultlib`.
    pub(crate) no_default: bool,
}

/// Why a file can't be read as ELF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It does not begin like one.
    NotElf,
    /// It does, but breaks the format, or a bound, in this part.
    Bad(&'static str),
    /// It can't be opened.
    Closed(i32),
}

/// Reads what is held in memory.
#[allow(dead_code, reason = "an entry for tests and fuzzers, which hold no file")]
pub(crate) fn needs(bytes: &[u8]) -> Result<Needs, Flaw> {
    needs_of(Cursor::new(bytes))
}

/// Reads a file, and of that only what counts.
pub(crate) fn needs_of(file: impl Read + Seek) -> Result<Needs, Flaw> {
    let cache = ReadCache::new(file);
    let ident = (&cache).read_bytes_at(0, 16).map_err(|()| Flaw::NotElf)?;
    match ident {
        [0x7f, b'E', b'L', b'F', elf::ELFCLASS32, ..] => Reader::<FileHeader32<Endianness>, _>::new(&cache)?.needs(),
        [0x7f, b'E', b'L', b'F', elf::ELFCLASS64, ..] => Reader::<FileHeader64<Endianness>, _>::new(&cache)?.needs(),
        [0x7f, b'E', b'L', b'F', ..] => Err(Flaw::Bad("the class")),
        _ => Err(Flaw::NotElf),
    }
}

/// A file whose headers have been read.
struct Reader<'a, E: FileHeader, R> {
    data: R,
    endian: E::Endian,
    header: &'a E,
    segments: &'a [E::ProgramHeader],
}

impl<'a, E: FileHeader<Endian = Endianness>, R: ReadRef<'a>> Reader<'a, E, R> {
    fn new(data: R) -> Result<Self, Flaw> {
        let header = E::parse(data).map_err(|_| Flaw::Bad("the header"))?;
        let endian = header.endian().map_err(|_| Flaw::Bad("the header"))?;
        let size = u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
        // The kernel does not run a file with more, and so nor with the escape that says how many more.
        if size > HEADERS_MAX || header.e_phnum(endian) == elf::PN_XNUM {
            return Err(Flaw::Bad("the number of program headers"));
        }
        let segments = header.program_headers(endian, data).map_err(|_| Flaw::Bad("the program headers"))?;
        Ok(Self { data, endian, header, segments })
    }

    fn needs(&self) -> Result<Needs, Flaw> {
        let machine = Machine {
            wide: self.header.is_class_64(),
            little: self.header.is_little_endian(),
            number: self.header.e_machine(self.endian),
        };
        let mut needs = Needs {
            machine,
            interpreter: self.interpreter()?,
            soname: None,
            needed: Vec::new(),
            rpath: None,
            runpath: None,
            no_default: false,
        };
        if let Some(segment) = self.segment(elf::PT_DYNAMIC) {
            self.read_dynamic(segment, &mut needs)?;
        }
        Ok(needs)
    }

    fn segment(&self, kind: u32) -> Option<&'a E::ProgramHeader> {
        self.segments.iter().find(|segment| segment.p_type(self.endian) == kind)
    }

    fn interpreter(&self) -> Result<Option<OsString>, Flaw> {
        let flaw = Flaw::Bad("the path of the loader");
        let Some(segment) = self.segment(elf::PT_INTERP) else { return Ok(None) };
        // As for the kernel: 2 bytes to PATH_MAX, the last of them zero.
        if !(2..=libc::PATH_MAX as u64).contains(&segment.p_filesz(self.endian).into()) {
            return Err(flaw);
        }
        let path = segment.data(self.endian, self.data).map_err(|()| flaw)?;
        let end = path.iter().position(|byte| *byte == 0).ok_or(flaw)?;
        Ok(Some(OsString::from_vec(path.get(..end).ok_or(flaw)?.to_vec())))
    }

    fn read_dynamic(&self, segment: &E::ProgramHeader, needs: &mut Needs) -> Result<(), Flaw> {
        let flaw = Flaw::Bad("the dynamic section");
        if segment.p_filesz(self.endian).into() > DYNAMIC_MAX {
            return Err(Flaw::Bad("the size of the dynamic section"));
        }
        let entries = segment.dynamic(self.endian, self.data).map_err(|_| flaw)?.unwrap_or_default();
        let pairs = entries.iter().map(|entry| (entry.d_tag(self.endian).into(), entry.d_val(self.endian).into()));
        let pairs: Vec<(u64, u64)> = pairs.take_while(|(tag, _)| *tag != u64::from(elf::DT_NULL)).collect();
        let value =
            |wanted: u32| pairs.iter().rev().find(|(tag, _)| *tag == u64::from(wanted)).map(|(_, value)| *value);
        let named =
            |wanted: u32| pairs.iter().filter(move |(tag, _)| *tag == u64::from(wanted)).map(|(_, value)| *value);
        needs.no_default = value(elf::DT_FLAGS_1).unwrap_or(0) & u64::from(elf::DF_1_NODEFLIB) != 0;
        if named(elf::DT_NEEDED).count() > NEEDED_MAX {
            return Err(Flaw::Bad("the number of needed libraries"));
        }
        let strings = self.strings(value(elf::DT_STRTAB), value(elf::DT_STRSZ));
        let string = |offset: u64| {
            let flaw = Flaw::Bad("the name of a library");
            let strings = strings.as_ref().ok_or(Flaw::Bad("the string table"))?;
            let name = strings.get(u32::try_from(offset).map_err(|_| flaw)?).map_err(|()| flaw)?;
            Ok(OsString::from_vec(name.to_vec()))
        };
        needs.needed = named(elf::DT_NEEDED).map(string).collect::<Result<_, _>>()?;
        needs.soname = value(elf::DT_SONAME).map(string).transpose()?;
        needs.rpath = value(elf::DT_RPATH).map(string).transpose()?;
        needs.runpath = value(elf::DT_RUNPATH).map(string).transpose()?;
        let texts = needs.needed.iter().chain([&needs.soname, &needs.rpath, &needs.runpath].into_iter().flatten());
        match texts.map(|text| text.len()).sum::<usize>() > TEXT_MAX {
            true => Err(Flaw::Bad("the length of names")),
            false => Ok(()),
        }
    }

    /// The string table, which is named by where it lies in memory.
    fn strings(&self, address: Option<u64>, size: Option<u64>) -> Option<StringTable<'a, R>> {
        let (address, size) = (address?, size?);
        let offset = self.segments.iter().find_map(|segment| {
            let (start, length) = (segment.p_vaddr(self.endian).into(), segment.p_filesz(self.endian).into());
            let within = address.checked_sub(start).filter(|within| *within < length)?;
            let loaded = segment.p_type(self.endian) == elf::PT_LOAD;
            loaded.then(|| segment.p_offset(self.endian).into().checked_add(within)).flatten()
        })?;
        Some(StringTable::new(self.data, offset, offset.checked_add(size)?))
    }
}

impl Machine {
    /// Whether a program for it runs on this host, as far as its processor goes.
    pub(crate) fn runs_here(self) -> bool {
        let known = match std::env::consts::ARCH {
            "x86_64" => [(true, elf::EM_X86_64), (false, elf::EM_386)],
            _ => [(true, elf::EM_AARCH64), (false, elf::EM_ARM)],
        };
        self.little && known.contains(&(self.wide, self.number))
    }

    /// Its name: as in the directories of Debian, and in the files of musl.
    pub(crate) fn name(self) -> Option<&'static str> {
        Some(match (self.wide, self.number) {
            (true, elf::EM_X86_64) => "x86_64",
            (false, elf::EM_386) => "i386",
            (true, elf::EM_AARCH64) => "aarch64",
            (false, elf::EM_ARM) => "arm",
            (true, elf::EM_RISCV) => "riscv64",
            (true, elf::EM_PPC64) => "ppc64",
            (true, elf::EM_S390) => "s390x",
            _ => return None,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "machine {} ({} bits)", self.number, if self.wide { 64 } else { 32 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small program: one segment that holds the file, the path of its loader, and a dynamic section.
    fn program() -> Vec<u8> {
        let strings = b"\0libone.so.1\0libtwo.so\0/opt/lib\0$ORIGIN\0me.so\0";
        let interpreter = b"/lib/ld.so\0";
        let dynamic = [
            (u64::from(elf::DT_NEEDED), 1),
            (elf::DT_NEEDED.into(), 13),
            (elf::DT_RPATH.into(), 23),
            (elf::DT_RUNPATH.into(), 32),
            (elf::DT_SONAME.into(), 40),
            (elf::DT_FLAGS_1.into(), elf::DF_1_NODEFLIB.into()),
            (elf::DT_STRTAB.into(), 0x1_0000 + 512),
            (elf::DT_STRSZ.into(), strings.len() as u64),
            (elf::DT_NULL.into(), 0),
            // What comes after the end does not count.
            (elf::DT_NEEDED.into(), 99),
        ];
        let mut bytes = vec![0x7f, b'E', b'L', b'F', elf::ELFCLASS64, elf::ELFDATA2LSB, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut half = |value: u16| bytes.extend(value.to_le_bytes());
        [elf::ET_DYN, elf::EM_X86_64, 1, 0].into_iter().for_each(&mut half);
        for value in [0_u64, 64, 0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 4]);
        [64_u16, 56, 3, 64, 0, 0].into_iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        let segments = [
            (elf::PT_LOAD, 0, 1024),
            (elf::PT_INTERP, 480, interpreter.len()),
            (elf::PT_DYNAMIC, 256, 16 * dynamic.len()),
        ];
        for (kind, offset, size) in segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(4_u32.to_le_bytes());
            let words = [offset, offset + 0x1_0000, offset + 0x1_0000, size as u64, size as u64, 8];
            words.into_iter().for_each(|word: u64| bytes.extend(word.to_le_bytes()));
        }
        bytes.resize(256, 0);
        dynamic.iter().for_each(|(tag, value)| {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        });
        bytes.resize(480, 0);
        bytes.extend(interpreter);
        bytes.resize(512, 0);
        bytes.extend(strings);
        bytes.resize(1024, 0);
        bytes
    }

    #[test]
    fn a_program_says_what_it_needs() {
        let needs = needs(&program()).unwrap();
        assert_eq!(needs.machine.to_string(), "x86_64");
        assert_eq!(needs.interpreter.as_deref(), Some("/lib/ld.so".as_ref()));
        assert_eq!(needs.needed, ["libone.so.1", "libtwo.so"]);
        let texts = [&needs.rpath, &needs.runpath, &needs.soname].map(|text| text.clone().unwrap());
        assert_eq!(texts, ["/opt/lib", "$ORIGIN", "me.so"]);
        assert!(needs.no_default);
        assert_eq!(super::needs(b"#!/bin/sh\n and more than a header"), Err(Flaw::NotElf));
        assert_eq!(super::needs(b""), Err(Flaw::NotElf));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = program();
            bytes[at..at + value.len()].copy_from_slice(value);
            needs(&bytes)
        };
        // The number of program headers, with the escape for more than fit, and where they are.
        assert_eq!(with(56, &[0xff, 0xff]), Err(Flaw::Bad("the number of program headers")));
        assert_eq!(with(56, &[0x00, 0xff]), Err(Flaw::Bad("the number of program headers")));
        assert_eq!(with(32, &[0xff; 8]), Err(Flaw::Bad("the program headers")));
        // The sizes of the loader's path and of the dynamic section.
        let headers = [64 + 56 + 32, 64 + 56 * 2 + 32];
        assert_eq!(with(headers[0], &[1]), Err(Flaw::Bad("the path of the loader")));
        assert_eq!(with(headers[0], &[0xff; 8]), Err(Flaw::Bad("the path of the loader")));
        assert_eq!(with(headers[1], &[0xff; 7]), Err(Flaw::Bad("the size of the dynamic section")));
        assert_eq!(with(headers[1], &[0, 0, 1]), Err(Flaw::Bad("the dynamic section")));
        // A name outside of the string table, and a table outside of the file.
        assert_eq!(with(264, &[0xff; 4]), Err(Flaw::Bad("the name of a library")));
        assert_eq!(with(256 + 6 * 16 + 8, &[0xff; 8]), Err(Flaw::Bad("the string table")));
        assert!(with(256 + 7 * 16 + 8, &[0xff; 8]).is_err());
    }

    #[test]
    fn no_mutation_of_it_makes_the_reader_panic() {
        let good = program();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..=next(6) {
                let at = next(600);
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, next(256) as u8][next(6)];
            }
            if next(8) == 0 {
                bytes.truncate(next(good.len()));
            }
            match needs(&bytes) {
                Ok(needs) => {
                    read += 1;
                    assert!(needs.needed.len() <= NEEDED_MAX && needs.needed.iter().all(|name| name.len() <= 4096));
                }
                Err(_) => refused += 1,
            }
        }
        assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused: one of them is not tried");
    }
}
