//! Makes the tree of one layer, in the form that overlayfs stacks.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use super::attributes::{Attributes, OWNER};
use super::hand::{FILE, Hand, PARENT, TREE, close_from, create, failed, open, path, unlink};
use super::lower::Found;
use super::ownership::Owners;
use crate::agent::Calls;
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::image::layer::{Entry, EntryPath, Kind, LayerReader, UnpackLimits};
use crate::plan::Escaped;
use crate::sys::Errno;

/// How much of a file is in one call.
const CHUNK: usize = 56 << 10;

/// How much is kept in mind of a layer's directories and whiteouts, which are seen to at the end: their paths, and some.
const KEPT_BYTES: usize = 256 << 20;

/// A tree that is being made.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub(super) hand: &'a mut Hand,
    pub(super) owners: &'a Owners,
    /// The names of the layers below in the store, the uppermost first.
    pub(super) below: &'a [String],
    /// How many bytes may still be copied from there, and until when.
    copies: u64,
    end: Option<Instant>,
    /// The directory that `PARENT` is.
    parent: Option<EntryPath>,
    /// The hashes of the directories that there are: a hostile archive may have millions.
    dirs: HashSet<u64>,
    hash: RandomState,
    /// Directories with what they are to be in the end: making a file in one changes its times.
    late: Vec<(EntryPath, Attributes)>,
    /// Directories that the archive has something in.
    implied: Vec<EntryPath>,
    whiteouts: Vec<EntryPath>,
    opaque: Vec<EntryPath>,
    kept: usize,
    pub(super) notes: Notes,
}

/// What is to be known of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Whether it would be another one over other layers.
    pub(super) chained: bool,
    /// Whether nothing of the layers below is there any more.
    pub(super) alone: bool,
    /// How many device files were left out.
    pub(super) devices: u64,
    /// How many extended attributes were left out.
    pub(super) xattrs: u64,
}

impl<'a> Tree<'a> {
    /// Begins a tree in the directory `name` of the hand's work.
    pub(super) fn new(
        hand: &'a mut Hand,
        name: &str,
        owners: &'a Owners,
        below: &'a [String],
        limits: &UnpackLimits,
    ) -> Result<Self> {
        if !hand.enter(name)? {
            return Err(Error::os(Layer::Image, "enter the work directory", libc::ENOENT));
        }
        let hash = RandomState::new();
        let dirs = HashSet::from([hash.hash_one(&[][..] as &[u8])]);
        Ok(Self {
            hand,
            owners,
            below,
            copies: limits.bytes,
            end: Instant::now().checked_add(limits.time),
            parent: None,
            dirs,
            hash,
            late: Vec::new(),
            implied: Vec::new(),
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
        let is_mark = matches!(kind, Kind::Whiteout | Kind::Opaque);
        if !is_mark && !self.owners.have((uid, gid)) {
            return Err(not_had(&path, uid, gid));
        }
        // A program inside gains nothing by a file's capabilities; to set them takes one that the hand has not. The
        // owner is told by us. Links and FIFOs have no attributes of users.
        let has = matches!(kind, Kind::File { .. } | Kind::Dir);
        let kept = |name: &[u8]| has && name.starts_with(b"user.") && name != OWNER;
        let xattrs: Vec<_> = xattrs.into_iter().filter(|(name, _)| kept(name.as_bytes())).collect();
        self.notes.xattrs += (dropped_xattrs.len() + all - xattrs.len()) as u64;
        let attributes = Attributes { mode, owner: (uid, gid), mtime, xattrs };
        match kind {
            Kind::Dir => self.dir(path, attributes),
            Kind::File { .. } => self.file(&path, &attributes, reader),
            Kind::Symlink(target) => self.symlink(&path, &target, &attributes),
            Kind::HardLink(other) => self.hard_link(&path, &other),
            Kind::Fifo => self.fifo(&path, &attributes),
            // A sandbox has devices of its own, and none of an image works there.
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.notes.devices += 1;
                Ok(())
            }
            Kind::Whiteout => {
                self.keep(&path, 0)?;
                self.whiteouts.push(path);
                Ok(())
            }
            Kind::Opaque => {
                self.keep(&path, 0)?;
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
        self.keep(&path, attributes.size())?;
        self.late.push((path, attributes));
        Ok(())
    }

    fn file(&mut self, path: &EntryPath, attributes: &Attributes, reader: &mut LayerReader) -> Result<()> {
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
        self.set(path, attributes)
    }

    fn symlink(&mut self, link: &EntryPath, target: &[u8], attributes: &Attributes) -> Result<()> {
        let name = self.name(link)?;
        let ownership = self.owners.ownership;
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
        let ownership = self.owners.ownership;
        self.hand.add(fifo.as_bytes(), |calls| {
            unlink(calls, &name);
            let name = path(calls, &name);
            calls.call(libc::SYS_mknodat, [PARENT.into(), name, (libc::S_IFIFO | 0o600).into(), 0.into()]);
            attributes.set_by_name(ownership, calls, name);
            calls.call(libc::SYS_fchmodat, [PARENT.into(), name, attributes.mode.into()]);
        })
    }

    /// Another name of a file in this layer; of one below, a copy.
    fn hard_link(&mut self, link: &EntryPath, other: &EntryPath) -> Result<()> {
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
            Err((_, Errno(libc::ENOENT))) => self.copy(link, other),
            Err((_, Errno(libc::EPERM))) => {
                Err(self.refused(link, &format!("it links to \"{}\", which is no file", Escaped(other.as_bytes()))))
            }
            Err((_, Errno(errno))) => Err(failed("link", link.as_bytes(), errno)),
        }
    }

    /// Copies a file of the layers below.
    fn copy(&mut self, link: &EntryPath, other: &EntryPath) -> Result<()> {
        let name = self.name(link)?;
        let found = self.hand.look_up(self.below, other)?;
        let size = found.as_ref().and_then(Found::file_size);
        let (Some(found), Some(size)) = (found, size) else {
            let cause = format!(
                "it links to \"{}\", which is no file of this layer or of one below",
                Escaped(other.as_bytes())
            );
            return Err(self.refused(link, &cause));
        };
        let Some(rest) = self.copies.checked_sub(size) else {
            return Err(self.refused(link, "more is copied from the layers below than a layer may have bytes"));
        };
        self.copies = rest;
        self.notes.chained = true;
        self.hand.copy(&found, other, &name)?;
        // It is another name of that file, whatever the entry says.
        self.set(link, &found.attributes(self.owners))
    }

    /// Sees to what has to be last.
    fn finish(mut self) -> Result<Notes> {
        let (whiteouts, opaque) = (std::mem::take(&mut self.whiteouts), std::mem::take(&mut self.opaque));
        let hidden: HashSet<u64> = whiteouts.iter().map(|path| self.hash(path)).collect();
        let emptied: HashSet<u64> = opaque.iter().map(|path| self.hash(path)).collect();
        // A mark in a directory that hides all below is seen by who lists it (readdir.c of overlayfs): so is one that
        // hides nothing.
        let covered = |tree: &Self, path: &EntryPath| {
            path.split().is_some_and(|(dir, _)| tree.is_among(&dir, &hidden) || tree.is_among(&dir, &emptied))
        };
        for path in &whiteouts {
            if !covered(&self, path) {
                self.whiteout(path)?;
            }
        }
        for path in &opaque {
            self.opaque(path, covered(&self, path))?;
        }
        // The last entry of a directory is the one that counts, so it is the first here.
        let mut seen = HashSet::new();
        for (path, attributes) in std::mem::take(&mut self.late).into_iter().rev() {
            if seen.insert(self.hash(&path)) {
                self.hand.set_dir(&path, &attributes, self.owners)?;
            }
        }
        for path in std::mem::take(&mut self.implied) {
            if !seen.contains(&self.hash(&path)) && !self.is_among(&path, &hidden) {
                self.inherit(&path)?;
            }
        }
        self.hand.flush()?;
        Ok(self.notes)
    }

    /// Sets everything on `FILE`, and closes it.
    fn set(&mut self, path: &EntryPath, attributes: &Attributes) -> Result<()> {
        attributes.set(self.hand, path.as_bytes(), self.owners.ownership)?;
        self.hand.add(path.as_bytes(), |calls| calls.call(libc::SYS_close, [FILE.into()]))
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
    pub(super) fn ensure(&mut self, dir: &EntryPath) -> Result<()> {
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
        self.keep(dir, 0)?;
        self.implied.push(dir.clone());
        Ok(())
    }

    fn is_made(&self, dir: &EntryPath) -> bool {
        self.dirs.contains(&self.hash(dir))
    }

    fn made(&mut self, dir: &EntryPath) {
        let hash = self.hash(dir);
        self.dirs.insert(hash);
    }

    pub(super) fn hash(&self, path: &EntryPath) -> u64 {
        self.hash.hash_one(path.as_bytes())
    }

    /// The reader looks at the time while it reads; what comes after that may take long, too.
    pub(super) fn check_time(&self, path: &EntryPath) -> Result<()> {
        match self.end.is_some_and(|end| Instant::now() > end) {
            true => Err(self.refused(path, "unpacking the layer takes longer than it may")),
            false => Ok(()),
        }
    }

    /// Counts what is kept to the end.
    fn keep(&mut self, path: &EntryPath, more: usize) -> Result<()> {
        self.kept += path.as_bytes().len() + size_of::<(EntryPath, Attributes)>() + more;
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

/// If it is there, it may be something else, and then whatever is made in it fails.
fn make_dir(calls: &mut Calls, dir: i32, name: &[u8]) {
    let name = path(calls, name);
    calls.attempt(libc::SYS_mkdirat, [dir.into(), name, 0o755.into()]);
}

fn not_had(path: &EntryPath, uid: u32, gid: u32) -> Error {
    let step = format!("unpack \"{}\"", Escaped(path.as_bytes()));
    let cause = format!("it belongs to {uid}:{gid}, and the caller has no files with these ids to make");
    let hint = "Ownership::Caller keeps them in an attribute; for Ownership::Subordinate, a longer range has them";
    Error::new(Layer::Image, ErrorKind::Unsupported, step, cause).with_hint(hint)
}
