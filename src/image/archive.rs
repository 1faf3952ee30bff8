//! The members of an archive, by name: found by reading the headers once, without unpacking anything.
//!
//! The format is POSIX's ustar and pax, with GNU's long names. What programs read in different ways is refused: an
//! archive that shows one thing to a scanner and another to us is none.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header, PaxExtensions};

use super::{digest, invalid, shown};
use crate::error::{Error, Result};

const BLOCK: u64 = 512;

/// Far more than any image has: two members a layer, and some.
const ENTRIES_MAX: usize = 65_536;

/// The longest name: the kernel's PATH_MAX.
const NAME_MAX: usize = 4096;

/// The most that all names have together.
const NAMES_MAX: usize = 8 << 20;

/// The most that extended headers of one member have.
const EXTENDED_MAX: u64 = 65_536;

/// How many links lead to a file: engines write one.
const LINKS_MAX: usize = 8;

const NO_FILE: &str = "it has content, and is no file";

/// Where the members of an archive are.
#[derive(Debug, Default)]
pub(super) struct Archive {
    members: HashMap<Vec<u8>, Member>,
    /// The bytes of all names, which are kept in memory.
    names: usize,
}

#[derive(Debug)]
enum Member {
    File(Extent),
    /// The name that it leads to.
    Link(Vec<u8>),
}

/// A part of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Archive {
    /// Reads the headers of an archive of `size` bytes.
    pub(super) fn scan(file: &File, size: u64) -> Result<Self> {
        let mut archive = Self::default();
        let mut extended = Extended::default();
        let mut at = 0;
        let mut entries = 0;
        while let Some(header) = header(file, at, size)? {
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(invalid("archive", format!("it has more than {ENTRIES_MAX} entries")));
            }
            let extent = Extent { offset: at + BLOCK, size: extended.size_of(&header, at)? };
            let end = extent.offset.checked_add(extent.size).filter(|end| *end <= size);
            let end = end.ok_or_else(|| broken(at, "the archive ends within it"))?;
            if !extended.take(file, &header, extent, at)? {
                archive.add(&header, std::mem::take(&mut extended), extent, at)?;
            }
            at = end.next_multiple_of(BLOCK);
        }
        Ok(archive)
    }

    /// The regular file of this name.
    pub(super) fn file(&self, name: &str) -> Result<Option<Extent>> {
        match self.members.get(name.as_bytes()) {
            Some(Member::File(extent)) => Ok(Some(*extent)),
            Some(Member::Link(_)) => Err(invalid(shown(name), "it is a link")),
            None => Ok(None),
        }
    }

    /// The regular file of this name, or that links of this name lead to within the archive; and its own name.
    pub(super) fn follow(&self, name: &str) -> Result<Option<String>> {
        let words = || shown(name);
        let mut real = plain(name.as_bytes(), b"").map_err(|cause| invalid(words(), cause))?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&real) {
                Some(Member::Link(target)) => real.clone_from(target),
                Some(Member::File(_)) => return Ok(String::from_utf8(real).ok()),
                None => return Ok(None),
            }
        }
        Err(invalid(words(), format!("more than {LINKS_MAX} links lead there")))
    }

    fn add(&mut self, header: &Header, extended: Extended, extent: Extent, at: u64) -> Result<()> {
        let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = || extended.link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let named = plain(&name, b"").map_err(|cause| broken(at, cause))?;
        let kind = header.entry_type();
        let member = match kind {
            // The oldest archives have directories as files whose names end so.
            EntryType::Regular | EntryType::Continuous if !name.ends_with(b"/") => Member::File(extent),
            EntryType::Regular | EntryType::Continuous if extent.size > 0 => return Err(broken(at, NO_FILE)),
            EntryType::Symlink | EntryType::Link => {
                let dir = if kind.is_symlink() { parent(&named) } else { b"" };
                let target = plain(&target().unwrap_or_default(), dir).map_err(|cause| broken(at, cause))?;
                Member::Link(target)
            }
            _ => return Ok(()),
        };
        self.names += named.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
        if self.names > NAMES_MAX {
            return Err(invalid("archive", format!("the names have more than {NAMES_MAX} bytes")));
        }
        let words = shown(&named);
        match self.members.insert(named, member) {
            Some(_) => Err(broken(at, &format!("there is a second \"{words}\""))),
            None => Ok(()),
        }
    }
}

/// What stands before a header in place of what does not fit in it.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    /// The size of an entry's content.
    fn size_of(&self, header: &Header, at: u64) -> Result<u64> {
        let kind = header.entry_type();
        let own = header.entry_size().map_err(|_| broken(at, "its size is no number"))?;
        let known = is_extended(kind) || kind.is_file() || kind.is_contiguous();
        let size = if is_extended(kind) { own } else { self.size.unwrap_or(own) };
        // Some read content after such a header, and others the next header.
        let bare = kind.is_dir()
            || kind.is_symlink()
            || kind.is_hard_link()
            || kind.is_fifo()
            || kind.is_character_special()
            || kind.is_block_special();
        match (known, bare, size) {
            (true, ..) | (false, true, 0) => Ok(size),
            (false, true, _) => Err(broken(at, NO_FILE)),
            (false, false, _) => Err(broken(at, &format!("its type {:#04x} is not known", kind.as_byte()))),
        }
    }

    /// Takes an entry in that is about the next one. Tells whether it was.
    fn take(&mut self, file: &File, header: &Header, extent: Extent, at: u64) -> Result<bool> {
        let kind = header.entry_type();
        if !is_extended(kind) {
            return Ok(false);
        }
        if extent.size > EXTENDED_MAX {
            return Err(broken(at, &format!("an extended header has more than {EXTENDED_MAX} bytes")));
        }
        let mut content = vec![0; extent.size as usize];
        file.read_exact_at(&mut content, extent.offset).map_err(|error| digest::error("archive", error))?;
        match kind {
            EntryType::GNULongName => self.name = Some(until_zero(&content)),
            EntryType::GNULongLink => self.link = Some(until_zero(&content)),
            _ => self.take_pax(&content, kind == EntryType::XGlobalHeader, at)?,
        }
        Ok(true)
    }

    fn take_pax(&mut self, content: &[u8], global: bool, at: u64) -> Result<()> {
        for record in PaxExtensions::new(content) {
            let record = record.map_err(|_| broken(at, "a record of an extended header is broken"))?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            let is_ours = matches!(key, b"path" | b"linkpath" | b"size");
            if key.starts_with(b"GNU.sparse.") || (global && is_ours) {
                return Err(broken(at, &format!("{} is not supported", shown(key))));
            }
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| broken(at, "its size is no number"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_extended(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// The header at `at`, or nothing at the end of the archive: two blocks of zeroes, or just the end.
fn header(file: &File, at: u64, size: u64) -> Result<Option<Header>> {
    if at >= size {
        return Ok(None);
    }
    let mut header = Header::new_old();
    read_block(file, at, size, header.as_mut_bytes())?;
    if header.as_bytes().iter().all(|byte| *byte == 0) {
        let mut next = [0; BLOCK as usize];
        if at + BLOCK < size {
            read_block(file, at + BLOCK, size, &mut next)?;
        }
        return match next.iter().all(|byte| *byte == 0) {
            true => Ok(None),
            false => Err(broken(at, "a block of zeroes in the middle")),
        };
    }
    // Every byte, with the field of the sum itself as spaces.
    let sum = header.as_bytes().iter().enumerate();
    let sum: u32 = sum.map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u32::from(*byte) }).sum();
    match header.cksum() {
        Ok(expected) if expected == sum => Ok(Some(header)),
        _ => Err(broken(at, "this is no header of a tar archive")),
    }
}

fn read_block(file: &File, at: u64, size: u64, block: &mut [u8; BLOCK as usize]) -> Result<()> {
    if at + BLOCK > size {
        return Err(broken(at, "the archive ends within a header"));
    }
    file.read_exact_at(block, at).map_err(|error| digest::error("archive", error))
}

/// A name from `dir` on, without what has no meaning in it; neither may lead out of the archive.
fn plain(name: &[u8], dir: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    if name.len() > NAME_MAX {
        return Err("a name is too long");
    }
    if name.starts_with(b"/") || name.contains(&0) {
        return Err("a name is absolute, or has a zero byte");
    }
    let mut parts: Vec<&[u8]> = dir.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop().ok_or("a name leads out of the archive")?),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

fn parent(name: &[u8]) -> &[u8] {
    let slash = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    name.get(..slash).unwrap_or_default()
}

fn broken(at: u64, cause: &str) -> Error {
    invalid(format!("entry at byte {at}"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An archive of these entries: type, name, link, content.
    fn archive(entries: &[(u8, &str, &str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, link, content) in entries {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(EntryType::new(*kind));
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend(header.as_bytes());
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    fn scan(bytes: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Archive::scan(&file, bytes.len() as u64)
    }

    #[test]
    fn members_are_found_with_long_names_and_through_links() {
        let long = "d/".repeat(80) + "file";
        let pax = |key: &str, value: &str| {
            let rest = format!(" {key}={value}\n");
            let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
            format!("{length}{rest}").into_bytes()
        };
        let gnu = [long.as_bytes(), b"\0"].concat();
        let archive = scan(&archive(&[
            (b'5', "./a/", "", b""),
            (b'0', "./a/b", "", b"text"),
            (b'2', "c/layer.tar", "../a/./b", b""),
            (b'2', "e/layer.tar", "../c/layer.tar", b""),
            (b'1', "hard", "a/b", b""),
            (b'2', "loop", "loop", b""),
            (b'g', "global", "", &pax("comment", "text")),
            (b'x', "pax", "", &pax("path", &long)),
            (b'0', "short", "", b"12"),
            (b'L', "gnu", "", &[b"other/", gnu.as_slice()].concat()),
            (b'0', "short", "", b"123"),
        ]));
        let archive = archive.unwrap();
        assert_eq!(archive.file("a/b").unwrap(), Some(Extent { offset: 1024, size: 4 }));
        assert_eq!(archive.file(&long).unwrap().unwrap().size, 2);
        assert_eq!(archive.file(&format!("other/{long}")).unwrap().unwrap().size, 3);
        assert_eq!(archive.file("a").unwrap(), None);
        archive.file("c/layer.tar").unwrap_err();
        for name in ["c/layer.tar", "./e//layer.tar", "hard", "a/b"] {
            assert_eq!(archive.follow(name).unwrap().as_deref(), Some("a/b"), "{name}");
        }
        assert_eq!(archive.follow("none").unwrap(), None);
        archive.follow("loop").unwrap_err();
        archive.follow("../x").unwrap_err();
    }

    #[test]
    fn what_can_be_read_in_two_ways_or_leads_out_is_refused() {
        let good = archive(&[(b'0', "a", "", b"text")]);
        let mut changed = good.clone();
        changed[0] = b'b';
        let mut lone = good.clone();
        lone[1024 + 512] = 1;
        let cases = [
            (archive(&[(b'0', "a", "", b""), (b'0', "./a", "", b"")]), "there is a second \"a\""),
            (archive(&[(b'0', "../a", "", b"")]), "leads out"),
            (archive(&[(b'0', "/a", "", b"")]), "absolute"),
            (archive(&[(b'2', "a", "../b", b"")]), "leads out"),
            (archive(&[(b'2', "a", "/etc/passwd", b"")]), "absolute"),
            (archive(&[(b'2', "a", "b", b"content")]), "is no file"),
            (archive(&[(b'0', "a/", "", b"content")]), "is no file"),
            (archive(&[(b'S', "a", "", b"")]), "type 0x53"),
            (archive(&[(b'x', "p", "", b"18 GNU.sparse.x=1\n"), (b'0', "a", "", b"")]), "GNU.sparse.x"),
            (archive(&[(b'g', "p", "", b"10 path=b\n"), (b'0', "a", "", b"")]), "path is not supported"),
            (archive(&[(b'x', "p", "", b"99 path=b\n"), (b'0', "a", "", b"")]), "record"),
            (archive(&[(b'x', "p", "", b"13 size=9999\n"), (b'0', "a", "", b"")]), "ends within it"),
            (archive(&[(b'L', "p", "", &[b'a'; 70_000])]), "more than 65536 bytes"),
            (good[..514].to_vec(), "ends within it"),
            (good[..300].to_vec(), "ends within a header"),
            (changed, "no header"),
            (lone, "a block of zeroes in the middle"),
        ];
        scan(&good).unwrap();
        for (bytes, cause) in cases {
            let error = scan(&bytes).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}: not {cause}");
        }
        let long = vec![b'n'; 4000];
        let entries = (0..3000).flat_map(|number| {
            let name = format!("{number:05}");
            let long = [name.as_bytes(), &long].concat();
            [(b'L', "l", "", long), (b'0', "a", "", Vec::new())]
        });
        let entries: Vec<_> = entries.collect();
        let named: Vec<_> =
            entries.iter().map(|(kind, name, link, text)| (*kind, *name, *link, text.as_slice())).collect();
        assert!(scan(&archive(&named)).unwrap_err().to_string().contains("more than 8388608 bytes"));
        let many = archive(&vec![(b'5', "d", "", &b""[..]); ENTRIES_MAX + 1]);
        assert!(scan(&many).unwrap_err().to_string().contains("more than 65536 entries"));
    }
}
