//! Makes the tree of one layer, in the form that overlayfs stacks.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::hand::{FILE, Hand, OTHER, PARENT, TREE, close_from, create, open, path};
use super::ownership::Ownership;
use crate::agent::{Arg, Calls};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::image::layer::{Entry, EntryPath, Kind, LayerReader, Time};
use crate::plan::Escaped;
use crate::sys::Errno;

/// What the kernel's overlay takes for "nothing of the layers below". In a user namespace it can't be in trusted.*.
const OPAQUE: &[u8] = b"user.overlay.opaque";

/// Where tools without privilege keep the owner that a file should have: rootlesscontaine.rs.
const OWNER: &[u8] = b"user.rootlesscontainers";

/// How much of a file is in one call.
const CHUNK: usize = 56 << 10;

/// How much is kept in mind of a layer's directories and whiteouts, which are seen to at the end: their paths, and some.
const KEPT_BYTES: usize = 256 << 20;

/// From which size on a file is sent to the disk at once, so that there is less to wait for at the end.
const WRITE_OUT: u64 = 256 << 10;

/// How far one call copies: what the kernel takes at most.
const COPY: i64 = 0x7fff_f000;

/// A tree that is being made.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    hand: &'a mut Hand,
    ownership: Ownership,
    /// The names of the layers below in the store, the uppermost first.
    below: &'a [String],
    /// The directory that `PARENT` is.
    parent: Option<EntryPath>,
    /// The hashes of the directories that there are: a hostile archive may have millions.
    dirs: HashSet<u64>,
    hash: RandomState,
    /// Directories with what they are to be in the end: making a file in one changes its times.
    late: Vec<(EntryPath, Attributes)>,
    whiteouts: Vec<EntryPath>,
    opaque: Vec<EntryPath>,
    kept: usize,
    notes: Notes,
}

/// What is to be known of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Whether it hides something of the layers below, which only an overlay shows.
    pub(super) whiteouts: bool,
    /// Whether it has something of the layers below.
    pub(super) copies: bool,
    /// How many device files were left out.
    pub(super) devices: u64,
    /// How many extended attributes were left out.
    pub(super) xattrs: u64,
}

/// What a file has besides its content.
#[derive(Debug)]
struct Attributes {
    mode: u32,
    owner: (u32, u32),
    mtime: Time,
    xattrs: Vec<(std::ffi::CString, Vec<u8>)>,
}

impl<'a> Tree<'a> {
    /// Begins a tree in the directory `name` of the hand's work.
    pub(super) fn new(hand: &'a mut Hand, name: &str, ownership: Ownership, below: &'a [String]) -> Result<Self> {
        hand.enter(name)?;
        let hash = RandomState::new();
        let dirs = HashSet::from([hash.hash_one(&[][..] as &[u8])]);
        Ok(Self {
            hand,
            ownership,
            below,
            parent: None,
            dirs,
            hash,
            late: Vec::new(),
            whiteouts: Vec::new(),
            opaque: Vec::new(),
            kept: 0,
            notes: Notes::default(),
        })
    }

    /// Makes what the layer says, to its end.
    pub(super) fn fill(mut self, reader: &mut LayerReader, progress: &mut dyn FnMut()) -> Result<Notes> {
        while let Some(entry) = reader.next_entry()? {
            self.entry(entry, reader)?;
            progress();
        }
        self.finish()
    }

    fn entry(&mut self, entry: Entry, reader: &mut LayerReader) -> Result<()> {
        let Entry { path, kind, mode, uid, gid, mtime, xattrs, dropped_xattrs } = entry;
        let all = xattrs.len();
        // A program inside gains nothing by a file's capabilities; to set them takes one that the hand has not.
        let xattrs: Vec<_> = xattrs.into_iter().filter(|(name, _)| name.as_bytes().starts_with(b"user.")).collect();
        self.notes.xattrs += (dropped_xattrs.len() + all - xattrs.len()) as u64;
        let attributes = Attributes { mode, owner: (uid, gid), mtime, xattrs };
        match kind {
            Kind::Dir => self.dir(path, attributes),
            Kind::File { size } => self.file(&path, size, &attributes, reader),
            Kind::Symlink(target) => self.symlink(&path, &target, &attributes),
            Kind::HardLink(other) => self.hard_link(&path, &other, &attributes),
            Kind::Fifo => self.fifo(&path, &attributes),
            // A sandbox has devices of its own, and none of an image works there.
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.notes.devices += 1;
                Ok(())
            }
            Kind::Whiteout => {
                self.keep(&path)?;
                self.whiteouts.push(path);
                Ok(())
            }
            Kind::Opaque => {
                self.ensure(&path)?;
                self.keep(&path)?;
                self.opaque.push(path);
                Ok(())
            }
        }
    }

    fn dir(&mut self, path: EntryPath, attributes: Attributes) -> Result<()> {
        if !path.is_root() && !self.is_made(&path) {
            let name = self.name(&path)?;
            self.hand.add(path.as_bytes(), |calls| {
                unlink(calls, &name);
                make_dir(calls, PARENT, &name);
            })?;
            self.made(&path);
        }
        self.keep(&path)?;
        self.late.push((path, attributes));
        Ok(())
    }

    fn file(&mut self, path: &EntryPath, size: u64, attributes: &Attributes, reader: &mut LayerReader) -> Result<()> {
        let name = self.name(path)?;
        self.hand.add(path.as_bytes(), |calls| {
            unlink(calls, &name);
            create(calls, PARENT, &name);
        })?;
        loop {
            let data = reader.data()?;
            if data.is_empty() {
                break;
            }
            for chunk in data.chunks(CHUNK) {
                self.hand.add(path.as_bytes(), |calls| {
                    let bytes = calls.data(chunk);
                    calls.whole(libc::SYS_write, [FILE.into(), bytes, (chunk.len() as u64).into()], chunk.len());
                })?;
            }
        }
        let ownership = self.ownership;
        self.hand.add(path.as_bytes(), |calls| {
            attributes.set(ownership, calls);
            if size >= WRITE_OUT {
                let args = [FILE.into(), 0.into(), 0.into(), libc::SYNC_FILE_RANGE_WRITE.into()];
                calls.attempt(libc::SYS_sync_file_range, args);
            }
            calls.call(libc::SYS_close, [FILE.into()]);
        })
    }

    fn symlink(&mut self, link: &EntryPath, target: &[u8], attributes: &Attributes) -> Result<()> {
        let name = self.name(link)?;
        let ownership = self.ownership;
        self.hand.add(link.as_bytes(), |calls| {
            unlink(calls, &name);
            let target = path(calls, target);
            let name = path(calls, &name);
            calls.call(libc::SYS_symlinkat, [target, PARENT.into(), name]);
            attributes.set_by_name(ownership, calls, name);
        })
    }

    fn fifo(&mut self, fifo: &EntryPath, attributes: &Attributes) -> Result<()> {
        let name = self.name(fifo)?;
        let ownership = self.ownership;
        self.hand.add(fifo.as_bytes(), |calls| {
            unlink(calls, &name);
            let name = path(calls, &name);
            calls.call(libc::SYS_mknodat, [PARENT.into(), name, (libc::S_IFIFO | 0o600).into(), 0.into()]);
            attributes.set_by_name(ownership, calls, name);
            calls.call(libc::SYS_fchmodat, [PARENT.into(), name, attributes.mode.into()]);
        })
    }

    /// Another name of a file in this layer; of one below, a copy.
    fn hard_link(&mut self, link: &EntryPath, other: &EntryPath, attributes: &Attributes) -> Result<()> {
        let name = self.name(link)?;
        let Some((dir, other_name)) = other.split() else { return Err(self.refused(link, "it links to the root")) };
        let linked = self.hand.attempt(|calls| {
            close_from(calls, FILE);
            open(calls, TREE, dir.as_bytes(), libc::O_PATH | libc::O_DIRECTORY);
            unlink(calls, &name);
            let [old, new] = [other_name, &name].map(|name| path(calls, name));
            calls.call(libc::SYS_linkat, [FILE.into(), old, PARENT.into(), new, 0.into()]);
            close_from(calls, FILE);
        })?;
        match linked {
            Ok(()) => Ok(()),
            Err((_, Errno(libc::ENOENT))) => self.copy(link, other, attributes),
            Err((_, Errno(errno))) => {
                Err(Error::os(Layer::Image, format!("link \"{}\"", Escaped(link.as_bytes())), errno))
            }
        }
    }

    /// Copies a file of the layers below, from the uppermost that has it.
    fn copy(&mut self, link: &EntryPath, other: &EntryPath, attributes: &Attributes) -> Result<()> {
        let name = self.name(link)?;
        let ownership = self.ownership;
        for layer in self.below {
            let copied = self.hand.attempt(|calls| {
                close_from(calls, FILE);
                Hand::open_layer(calls, layer);
                let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
                open(calls, FILE, other.as_bytes(), flags);
                // The number of the new file has to be the one that attributes are set on.
                calls.call(libc::SYS_close, [FILE.into()]);
                create(calls, PARENT, &name);
                for _ in 0..8 {
                    let zero = || Arg::Number(0);
                    let args = [OTHER.into(), zero(), FILE.into(), zero(), Arg::Number(COPY), zero()];
                    calls.call(libc::SYS_copy_file_range, args);
                }
                attributes.set(ownership, calls);
                close_from(calls, FILE);
            })?;
            match copied {
                Ok(()) => {
                    self.notes.copies = true;
                    return Ok(());
                }
                Err((_, Errno(libc::ENOENT))) => {}
                Err((_, Errno(errno))) => {
                    return Err(Error::os(Layer::Image, format!("copy \"{}\"", Escaped(link.as_bytes())), errno));
                }
            }
        }
        Err(self.refused(link, &format!("it links to \"{}\", which is in no layer", Escaped(other.as_bytes()))))
    }

    /// Sees to what has to be last.
    fn finish(mut self) -> Result<Notes> {
        self.notes.whiteouts = !self.whiteouts.is_empty() || !self.opaque.is_empty();
        for path in std::mem::take(&mut self.whiteouts) {
            self.whiteout(&path)?;
        }
        for path in std::mem::take(&mut self.opaque) {
            self.hand.add(path.as_bytes(), |calls| mark_opaque(calls, &path))?;
        }
        let ownership = self.ownership;
        for (path, attributes) in std::mem::take(&mut self.late).into_iter().rev() {
            self.hand.add(path.as_bytes(), |calls| {
                open(calls, TREE, path.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY);
                attributes.set(ownership, calls);
                calls.call(libc::SYS_close, [FILE.into()]);
            })?;
        }
        self.hand.flush()?;
        Ok(self.notes)
    }

    /// Hides what is below. Something of the same name in this layer is not hidden, but it stands alone.
    fn whiteout(&mut self, hidden: &EntryPath) -> Result<()> {
        let name = self.name(hidden)?;
        let made = self.hand.attempt(|calls| {
            let name = path(calls, &name);
            calls.call(libc::SYS_mknodat, [PARENT.into(), name, libc::S_IFCHR.into(), 0.into()]);
        })?;
        match made {
            Ok(()) => Ok(()),
            Err((_, Errno(libc::EEXIST))) => match self.hand.attempt(|calls| mark_opaque(calls, hidden))? {
                Ok(()) | Err((_, Errno(libc::ENOTDIR | libc::ELOOP))) => Ok(()),
                Err((_, errno)) => Err(hiding(hidden, errno)),
            },
            Err((_, errno)) => Err(hiding(hidden, errno)),
        }
    }

    /// Makes the directory that an entry is in `PARENT`, and returns its name there.
    fn name(&mut self, path: &EntryPath) -> Result<Vec<u8>> {
        let Some((dir, name)) = path.split() else { return Err(self.refused(path, "the root is a directory")) };
        let name = name.to_owned();
        if self.parent.as_ref() != Some(&dir) {
            self.ensure(&dir)?;
            self.hand.add(path.as_bytes(), |calls| {
                calls.call(libc::SYS_close, [PARENT.into()]);
                open(calls, TREE, dir.as_bytes(), libc::O_PATH | libc::O_DIRECTORY);
            })?;
            self.parent = Some(dir);
        }
        Ok(name)
    }

    /// Makes the directories that the archive has left out, or has later.
    fn ensure(&mut self, dir: &EntryPath) -> Result<()> {
        if self.is_made(dir) {
            return Ok(());
        }
        let Some((above, name)) = dir.split() else { return Ok(()) };
        self.ensure(&above)?;
        self.hand.add(dir.as_bytes(), |calls| {
            open(calls, TREE, above.as_bytes(), libc::O_PATH | libc::O_DIRECTORY);
            make_dir(calls, FILE, name);
            calls.call(libc::SYS_close, [FILE.into()]);
        })?;
        self.made(dir);
        Ok(())
    }

    fn is_made(&self, dir: &EntryPath) -> bool {
        self.dirs.contains(&self.hash.hash_one(dir.as_bytes()))
    }

    fn made(&mut self, dir: &EntryPath) {
        self.dirs.insert(self.hash.hash_one(dir.as_bytes()));
    }

    /// Counts what is kept to the end.
    fn keep(&mut self, path: &EntryPath) -> Result<()> {
        self.kept += path.as_bytes().len() + size_of::<(EntryPath, Attributes)>();
        match self.kept > KEPT_BYTES {
            true => Err(self.refused(path, "the layer has too many directories and whiteouts")),
            false => Ok(()),
        }
    }

    fn refused(&self, path: &EntryPath, cause: &str) -> Error {
        let step = format!("unpack \"{}\"", Escaped(path.as_bytes()));
        Error::new(Layer::Image, ErrorKind::InvalidImage, step, cause)
    }
}

impl Attributes {
    /// Sets everything on `FILE`: the owner first, a change of which takes bits of the mode; the times last.
    fn set(&self, ownership: Ownership, calls: &mut Calls) {
        let (uid, gid) = self.owner;
        match ownership {
            Ownership::Caller if self.owner == (0, 0) => {}
            // Only told, so it does not matter where attributes are not to be had.
            Ownership::Caller => {
                let args = xattr(calls, OWNER, &owner(self.owner));
                calls.attempt(libc::SYS_fsetxattr, args);
            }
            _ => calls.call(libc::SYS_fchown, [FILE.into(), uid.into(), gid.into()]),
        }
        for (name, value) in &self.xattrs {
            let args = xattr(calls, name.as_bytes(), value);
            calls.call(libc::SYS_fsetxattr, args);
        }
        calls.call(libc::SYS_fchmod, [FILE.into(), self.mode.into()]);
        let times = self.times(calls);
        calls.call(libc::SYS_utimensat, [FILE.into(), Arg::Number(0), times, 0.into()]);
    }

    /// Sets owner and times on what must not be opened.
    fn set_by_name(&self, ownership: Ownership, calls: &mut Calls, name: Arg) {
        let (uid, gid) = self.owner;
        let link = libc::AT_SYMLINK_NOFOLLOW;
        if ownership != Ownership::Caller {
            calls.call(libc::SYS_fchownat, [PARENT.into(), name, uid.into(), gid.into(), link.into()]);
        }
        let times = self.times(calls);
        calls.call(libc::SYS_utimensat, [PARENT.into(), name, times, link.into()]);
    }

    /// The time of access too: nobody has looked at it yet.
    fn times(&self, calls: &mut Calls) -> Arg {
        let time = [Arg::Number(self.mtime.seconds), Arg::Number(self.mtime.nanoseconds.into())];
        calls.words(&[time, time].concat())
    }
}

fn unlink(calls: &mut Calls, name: &[u8]) {
    let name = path(calls, name);
    calls.attempt(libc::SYS_unlinkat, [PARENT.into(), name, 0.into()]);
}

/// If it is there, it may be something else, and then whatever is made in it fails.
fn make_dir(calls: &mut Calls, dir: i32, name: &[u8]) {
    let name = path(calls, name);
    calls.attempt(libc::SYS_mkdirat, [dir.into(), name, 0o755.into()]);
}

fn mark_opaque(calls: &mut Calls, dir: &EntryPath) {
    close_from(calls, FILE);
    open(calls, TREE, dir.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY);
    let args = xattr(calls, OPAQUE, b"y");
    calls.call(libc::SYS_fsetxattr, args);
    calls.call(libc::SYS_close, [FILE.into()]);
}

/// The arguments of fsetxattr(2).
fn xattr(calls: &mut Calls, name: &[u8], value: &[u8]) -> [Arg; 5] {
    let name = path(calls, name);
    let data = calls.data(value);
    [FILE.into(), name, data, (value.len() as u64).into(), 0.into()]
}

/// A message of Protocol Buffers with two numbers, of which zeros are left out.
fn owner((uid, gid): (u32, u32)) -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        if id != 0 {
            message.push(tag);
            let mut rest = id;
            while rest >= 0x80 {
                message.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            message.push(rest as u8);
        }
    }
    message
}

fn hiding(path: &EntryPath, Errno(errno): Errno) -> Error {
    let hint = "the marks of an overlay need a file system with device files and extended attributes user.*";
    Error::os(Layer::Image, format!("hide \"{}\"", Escaped(path.as_bytes())), errno).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_as_umoci_tells_it() {
        assert_eq!(owner((65532, 65532)), [0x08, 0xfc, 0xff, 0x03, 0x10, 0xfc, 0xff, 0x03]);
        assert_eq!(owner((0, 42)), [0x10, 42]);
    }
}
