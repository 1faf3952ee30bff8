//! Writes the changes as a layer: a tar archive in POSIX's pax format.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::{failed, invalid};
use crate::changes::{ChangeKind, Changes, Count, FileType, Meta, Node, Written, attributes, walk};
use crate::error::{Error, Result};
use crate::image::{Ownership, Stored};
use crate::plan::Escaped;
use crate::sys::Errno;

const BLOCK: u64 = 512;

/// The most that the numbers of a header have: 7 and 11 octal digits.
const ID_MAX: u32 = 0o7_777_777;
const TIME_MAX: i64 = 0o77_777_777_777;

/// What names stand for in a layer that start like this.
const MARK: &[u8] = b".wh.";

/// Hides all that was in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where tools without privilege keep the owner that a file should have.
const OWNER: &std::ffi::CStr = c"user.rootlesscontainers";

/// Writes all changes, in the order of their paths.
pub(super) fn write(changes: &Changes, output: &mut dyn Write) -> Result<()> {
    let _alone = changes.written.lock()?;
    let mut layer = Packer {
        output,
        written: &changes.written,
        owned: owned_by_caller(&changes.written),
        count: Count::new(&changes.limits),
        links: HashMap::new(),
    };
    walk(&changes.written, &changes.limits, &mut |node| layer.node(node))?;
    layer.put(&[0; 2 * BLOCK as usize])?;
    layer.output.flush().map_err(wrong)
}

/// Whether what lies below belongs to the caller, whatever its image says.
fn owned_by_caller(written: &Written) -> bool {
    let stored = written.keeps().and_then(|keeps| keeps.downcast_ref::<Stored>());
    stored.is_some_and(|stored| stored.ownership == Ownership::Caller)
}

struct Packer<'a> {
    output: &'a mut dyn Write,
    written: &'a Written,
    owned: bool,
    count: Count<'a>,
    /// Files with several names, by the first that was written.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// What an entry has besides its content.
#[derive(Default)]
struct Entry<'a> {
    path: &'a [u8],
    link: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: (i64, i64),
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Packer<'_> {
    fn node(&mut self, node: &Node<'_>) -> Result<()> {
        if node.change == Some(ChangeKind::Deleted) {
            // In a directory that hides all, nothing more has to be hidden; and what the sandbox itself had made is in no
            // layer.
            return if node.hidden || !node.was_in_a_layer() { Ok(()) } else { self.whiteout(node.path) };
        }
        let is_dir = node.meta.file_type == FileType::Directory;
        // A directory also for what is in it: without, it would be made with any mode.
        let needed = node.change.is_some() || node.hidden || (is_dir && !node.path.is_empty());
        if !needed {
            return Ok(());
        }
        check_name(node.path)?;
        match node.meta.file_type {
            FileType::Directory => {
                let path = if node.path.is_empty() { b"./".to_vec() } else { [node.path, b"/"].concat() };
                let entry = Entry { path: &path, xattrs: xattrs(node)?, ..self.entry(node)? };
                self.header(EntryType::Directory, &entry)?;
                if node.hides {
                    self.mark(&[node.path, b"/", OPAQUE].concat())?;
                }
                Ok(())
            }
            FileType::File => self.file(node),
            FileType::Symlink => {
                let target = node.target()?;
                let entry = Entry { link: &target, mode: 0o777, ..self.entry(node)? };
                self.header(EntryType::Symlink, &entry)
            }
            FileType::Fifo => {
                let entry = self.entry(node)?;
                self.header(EntryType::Fifo, &entry)
            }
            FileType::Socket | FileType::Device => Ok(()),
        }
    }

    fn file(&mut self, node: &Node<'_>) -> Result<()> {
        let Meta { size, inode, links, .. } = *node.meta;
        if let Some(first) = self.links.get(&inode).cloned() {
            let entry = Entry { link: &first, ..self.entry(node)? };
            return self.header(EntryType::Link, &entry);
        }
        self.count.bytes(size)?;
        let file = node.open()?;
        let entry = Entry { size, xattrs: xattrs(node)?, ..self.entry(node)? };
        self.header(EntryType::Regular, &entry)?;
        let failed = |error: io::Error| crate::changes::at(node.path, error.raw_os_error().unwrap_or(libc::EIO));
        let mut content = file.take(size);
        let mut buffer = vec![0; 65_536];
        let mut left = size;
        while left > 0 {
            let read = match content.read(&mut buffer) {
                Ok(0) => return Err(failed(io::Error::from_raw_os_error(libc::ESTALE))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            self.put(buffer.get(..read).unwrap_or_default())?;
            left = left.saturating_sub(read as u64);
        }
        self.pad(size)?;
        if links > 1 {
            self.links.insert(inode, node.path.to_owned());
        }
        Ok(())
    }

    fn entry<'a>(&self, node: &Node<'a>) -> Result<Entry<'a>> {
        let Meta { mode, mtime, .. } = *node.meta;
        Ok(Entry { path: node.path, mode, mtime, owner: self.owner(node)?, ..Entry::default() })
    }

    /// The owner as it is inside; of what was there and has not changed hands, as the base tells it.
    fn owner(&self, node: &Node<'_>) -> Result<(u32, u32)> {
        match node.kept(OWNER)? {
            Some(Some(told)) => Ok(read_owner(&told)),
            Some(None) if self.owned => Ok((0, 0)),
            _ => Ok(self.written.inside(node.meta.uid, node.meta.gid)),
        }
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        check_name(path)?;
        let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (above, name) = path.split_at_checked(name).unwrap_or_default();
        self.mark(&[above, MARK, name].concat())
    }

    fn mark(&mut self, path: &[u8]) -> Result<()> {
        self.header(EntryType::Regular, &Entry { path, ..Entry::default() })
    }

    /// Writes the header of an entry, and before it what does not fit in.
    fn header(&mut self, kind: EntryType, entry: &Entry<'_>) -> Result<()> {
        let records = records(entry);
        if !records.is_empty() {
            let size = records.len() as u64;
            // A name that says for what it is, to whoever does not know the format.
            let name = [b"PaxHeaders/", entry.path.get(..80.min(entry.path.len())).unwrap_or_default()].concat();
            self.put(
                block(EntryType::XHeader, &Entry { path: &name, size, mode: 0o644, ..Entry::default() }).as_bytes(),
            )?;
            self.put(&records)?;
            self.pad(size)?;
        }
        self.put(block(kind, entry).as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let length = size.next_multiple_of(BLOCK) - size;
        self.put([0; BLOCK as usize].get(..length as usize).unwrap_or_default())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(wrong)
    }
}

fn wrong(error: io::Error) -> Error {
    failed("write the layer", &error)
}

/// A header, with as much as fits in.
fn block(kind: EntryType, entry: &Entry<'_>) -> Header {
    let mut header = Header::new_ustar();
    let fits = |id: u32| u64::from(if id > ID_MAX { 0 } else { id });
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(fits(entry.owner.0));
    header.set_gid(fits(entry.owner.1));
    header.set_size(entry.size);
    header.set_mtime(entry.mtime.0.clamp(0, TIME_MAX).unsigned_abs());
    let old = header.as_old_mut();
    for (field, text) in [(&mut old.name, entry.path), (&mut old.linkname, entry.link)] {
        for (to, from) in field.iter_mut().zip(text) {
            *to = *from;
        }
    }
    header.set_cksum();
    header
}

/// What does not fit into a header: long names, large numbers, parts of seconds, attributes.
fn records(entry: &Entry<'_>) -> Vec<u8> {
    const NAME_MAX: usize = 100;
    let mut records = Vec::new();
    let Entry { path, link, owner: (uid, gid), mtime: (seconds, nanoseconds), size, .. } = *entry;
    if path.len() > NAME_MAX {
        record(&mut records, b"path", path);
    }
    if link.len() > NAME_MAX {
        record(&mut records, b"linkpath", link);
    }
    for (key, id) in [(&b"uid"[..], uid), (b"gid", gid)] {
        if id > ID_MAX {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if size > TIME_MAX.unsigned_abs() {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    if nanoseconds != 0 || !(0..=TIME_MAX).contains(&seconds) {
        record(&mut records, b"mtime", decimal(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", name.as_bytes()].concat(), value);
    }
    records
}

/// A record of an extended header: its own length in decimal digits, a space, key, `=`, value, and a newline.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").as_bytes());
    records.extend([key, b"=", value, b"\n"].concat());
}

/// A time as a decimal number. The kernel counts nanoseconds forwards, also before 1970.
fn decimal(seconds: i64, nanoseconds: i64) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        _ => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    }
}

/// The attributes of a file or directory, but for the one that stands for its owner.
fn xattrs(node: &Node<'_>) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut all = attributes(&node.open()?).map_err(|Errno(errno)| crate::changes::at(node.path, errno))?;
    all.retain(|(name, _)| name.as_c_str() != OWNER);
    // Readers of archives differ in where such a name ends, and in what it stands for.
    let differs = |name: &[u8]| name.contains(&b'=') || name.windows(3).any(|part| matches!(part, b"%3D" | b"%25"));
    match all.iter().find(|(name, _)| differs(name.as_bytes())) {
        Some((name, _)) => {
            let cause = format!("its attribute \"{}\" can't be told in a layer", Escaped(name.as_bytes()));
            Err(refused(node.path, &cause))
        }
        None => Ok(all),
    }
}

/// A name that stands for something else in a layer would change what the program has not.
fn check_name(path: &[u8]) -> Result<()> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name.starts_with(MARK) {
        true => Err(refused(path, "a name that starts with .wh. stands for a deleted file in a layer")),
        false => Ok(()),
    }
}

fn refused(path: &[u8], cause: &str) -> Error {
    use std::os::unix::ffi::OsStrExt;
    let path = [b"/", path].concat();
    let error = invalid(format!("pack {}", Escaped(&path)), cause);
    error.with_path(std::path::Path::new(std::ffi::OsStr::from_bytes(&path)))
}

/// A message of Protocol Buffers with two numbers, of which zeros are left out. What it is otherwise is root.
fn read_owner(mut message: &[u8]) -> (u32, u32) {
    let mut owner = (0, 0);
    while let Some((tag, rest)) = message.split_first() {
        let Some(length) = rest.iter().position(|byte| byte & 0x80 == 0).filter(|length| *length < 5) else { break };
        let (number, rest) = rest.split_at(length + 1);
        let value = number.iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        let Ok(value) = u32::try_from(value) else { break };
        match tag {
            0x08 => owner.0 = value,
            0x10 => owner.1 = value,
            _ => break,
        }
        message = rest;
    }
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_tell_their_own_length() {
        for length in [1, 2, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 985, 986, 987, 988, 989, 990, 991, 992] {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'x'; length]);
            let told: usize = String::from_utf8_lossy(&records).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, records.len(), "{length}");
        }
    }

    #[test]
    fn times_are_told_before_1970_too() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 5, "1.000000005"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.500000000"),
            (-1, 1, "-0.999999999"),
        ] {
            assert_eq!(decimal(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn owners_are_read_as_umoci_writes_them() {
        assert_eq!(read_owner(&[0x08, 0xfc, 0xff, 0x03, 0x10, 0xfc, 0xff, 0x03]), (65532, 65532));
        assert_eq!(read_owner(&[0x10, 42]), (0, 42));
        for broken in [&[][..], &[0x08], &[0x08, 0xff], &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[0x0a, 1]] {
            assert_eq!(read_owner(broken), (0, 0));
        }
    }
}
