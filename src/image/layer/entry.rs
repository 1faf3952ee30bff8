//! One entry of a layer, checked.

use std::ffi::CString;

use super::fault::{Checked, Fault, refuse};
use super::header::Header;
use super::limits::UnpackLimits;
use super::path::EntryPath;
use super::pax::Pax;

/// A file, directory, link, device or whiteout of a layer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: EntryPath,
    pub(crate) kind: Kind,
    /// The permission bits, with set-user-ID, set-group-ID and the sticky bit: at most 0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// `user.*` and `security.capability`.
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
    /// The names of all other ones.
    pub(crate) dropped_xattrs: Vec<CString>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File {
        size: u64,
    },
    Dir,
    /// The target, which may lead anywhere: 1 to 4,095 bytes, none of them zero.
    Symlink(Vec<u8>),
    /// The other name, which may be in a lower layer.
    HardLink(EntryPath),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// The path is not there any more in the layers below. Nothing else of the entry counts.
    Whiteout,
    /// Nothing of the directory's content in the layers below is there any more. Nothing else of the entry counts.
    Opaque,
}

/// A time of modification, since 1970 or before it. A file system may hold less, and clamp it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    /// Below 1,000,000,000, and always forwards.
    pub(crate) nanoseconds: u32,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A header, and all that went before it and is about it.
pub(super) struct Parts {
    pub(super) header: Header,
    pub(super) pax: Pax,
    /// GNU tar's long name and long link.
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
}

impl Parts {
    /// The name as it is in the archive.
    pub(super) fn name(&self) -> Vec<u8> {
        let long = self.pax.path.as_ref().or(self.long_name.as_ref());
        long.cloned().unwrap_or_else(|| self.header.name())
    }

    fn link(&self) -> Vec<u8> {
        let long = self.pax.link.as_ref().or(self.long_link.as_ref());
        long.cloned().unwrap_or_else(|| self.header.link())
    }

    pub(super) fn check(self, limits: &UnpackLimits) -> Checked<Entry> {
        let name = self.name();
        let path = EntryPath::new(&name, limits)?;
        let kind = self.kind(&name, &path, limits)?;
        if path.is_root() && kind != Kind::Dir {
            refuse!("the root of a layer is a directory, and nothing else");
        }
        let (path, kind) = whiteout(path, kind)?;
        let header = &self.header;
        Ok(Entry {
            path,
            kind,
            mode: header.mode,
            uid: id("user", self.pax.uid.unwrap_or(header.uid))?,
            gid: id("group", self.pax.gid.unwrap_or(header.gid))?,
            mtime: self.pax.mtime.unwrap_or(Time { seconds: header.mtime, nanoseconds: 0 }),
            xattrs: self.pax.xattrs.kept,
            dropped_xattrs: self.pax.xattrs.dropped,
        })
    }

    fn kind(&self, name: &[u8], path: &EntryPath, limits: &UnpackLimits) -> Checked<Kind> {
        let told = self.header.size;
        let size = self.pax.size.unwrap_or(told);
        let kind = match self.header.kind() {
            // Version 7 has no type for directories. A long name is newer than that.
            0 if name.ends_with(b"/") && *name == self.header.name() => Kind::Dir,
            0 | b'0' | b'7' => Kind::File { size },
            b'1' => Kind::HardLink(self.other_name(path, limits)?),
            b'2' => Kind::Symlink(target(self.link(), limits)?),
            b'3' => char_device(self.header.device()?)?,
            b'4' => self.header.device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            b'S' => refuse!("it is a sparse file, which is not supported: pack it without holes"),
            other => refuse!("its type is '{}', which is not known", other.escape_ascii()),
        };
        match kind {
            Kind::File { size } if size > limits.file_bytes => {
                refuse!("it has {size} bytes, and the limit is {}", limits.file_bytes)
            }
            Kind::File { .. } => {}
            // Whether that many bytes follow is something that readers differ in.
            _ if size != 0 || told != 0 => refuse!("it has a size, and is no file"),
            _ => {}
        }
        if kind != Kind::Dir && name.ends_with(b"/") {
            refuse!("its name is one of a directory, and its type is not");
        }
        Ok(kind)
    }

    fn other_name(&self, path: &EntryPath, limits: &UnpackLimits) -> Checked<EntryPath> {
        let link = self.link();
        match EntryPath::new(&link, limits) {
            Ok(other) if other.is_root() || other == *path || link.ends_with(b"/") => {
                refuse!("it is a hard link to the root, to a directory or to itself")
            }
            Ok(other) => Ok(other),
            Err(fault) => Err(fault.of("the other name of the hard link")),
        }
    }
}

fn target(target: Vec<u8>, limits: &UnpackLimits) -> Checked<Vec<u8>> {
    match target.len() {
        0 => refuse!("it is a symbolic link to nothing"),
        length if length > limits.path_bytes => {
            refuse!("the target of the link has {length} bytes, and the limit is {}", limits.path_bytes)
        }
        _ => Ok(target),
    }
}

fn char_device((major, minor): (u32, u32)) -> Checked<Kind> {
    match (major, minor) {
        (0, 0) => {
            let fault =
                Fault::new("it is the character device 0, 0, which overlayfs takes for a file that is not there");
            Err(fault.with_hint("It was packed from a directory of overlayfs: pack what is mounted instead."))
        }
        _ => Ok(Kind::CharDevice { major, minor }),
    }
}

/// A whole number of an owner: 2^32 - 1 is "no owner" for the kernel.
fn id(whose: &str, id: u64) -> Checked<u32> {
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => refuse!("its {whose} id is {id}, and the largest is {}", u32::MAX - 1),
    }
}

/// Takes the names of whiteouts for what they mean.
fn whiteout(path: EntryPath, kind: Kind) -> Checked<(EntryPath, Kind)> {
    let marked = |path: &EntryPath| path.components().any(|part| part.starts_with(WHITEOUT));
    let Some((dir, name)) = path.split() else { return Ok((path, kind)) };
    if marked(&dir) {
        refuse!("its path goes through a whiteout");
    }
    let Some(of) = name.strip_prefix(WHITEOUT) else {
        return match &kind {
            Kind::HardLink(other) if marked(other) => refuse!("it is a hard link to a whiteout"),
            _ => Ok((path, kind)),
        };
    };
    // aufs, where the names come from, has them as links of each other.
    if !matches!(kind, Kind::File { size: 0 } | Kind::HardLink(_)) {
        refuse!("it is a whiteout, and no empty file");
    }
    match of {
        _ if name == OPAQUE => Ok((dir, Kind::Opaque)),
        b"" | b"." | b".." => refuse!("it is a whiteout of nothing that has a name"),
        _ if of.starts_with(WHITEOUT) => refuse!("it is of aufs itself, and no whiteout"),
        _ => Ok((dir.join(of), Kind::Whiteout)),
    }
}
