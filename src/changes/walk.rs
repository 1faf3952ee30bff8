//! Compares the upper directory with what lies below it.

use std::cell::RefCell;
use std::collections::btree_set::IntoIter;
#[cfg(feature = "image")]
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::ops::Range;

use super::layers::{Found, Layers, Meta, attributes, join};
use super::{ChangeKind, ChangeLimits, Count, FileType, Written, at};
use crate::error::Result;
use crate::sys::Errno;

/// The place of the upper directory among the layers.
const UPPER: usize = 0;

/// What the upper directory says about a path.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// Relative to the root; empty for the root itself.
    pub(crate) path: &'a [u8],
    /// What is there; of what is deleted, what was there.
    pub(crate) meta: &'a Meta,
    /// None if it is there as it was: a directory that has a change in it, or a copy that was not written to.
    pub(crate) change: Option<ChangeKind>,
    /// Whether this is a directory that nothing is seen of that was in it before.
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    pub(crate) hides: bool,
    /// Whether it lies in such a directory.
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    pub(crate) hidden: bool,
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    before: Option<&'a Found>,
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    layers: &'a Layers,
}

/// A directory under way.
struct Level {
    path: Vec<u8>,
    names: IntoIter<Vec<u8>>,
    /// The layers below that have a part in it.
    below: Vec<usize>,
    hidden: bool,
}

/// Calls `each` for everything in the upper directory, and for what it hides, in the order of the paths.
pub(crate) fn walk(
    written: &Written,
    limits: &ChangeLimits,
    each: &mut dyn FnMut(&Node<'_>) -> Result<()>,
) -> Result<()> {
    let layers = written.layers()?;
    let count = RefCell::new(Count::new(limits));
    let walk = Walk { written, layers: &layers, count };
    let root = walk.root(each)?;
    let mut levels = vec![walk.enter(Vec::new(), root, false)?];
    while let Some(level) = levels.last_mut() {
        match level.names.next() {
            Some(name) => {
                let path = join(&level.path, &name);
                let inner = walk.entry(level, path, each)?;
                levels.extend(inner);
            }
            None => drop(levels.pop()),
        }
    }
    Ok(())
}

struct Walk<'a> {
    written: &'a Written,
    layers: &'a Layers,
    count: RefCell<Count<'a>>,
}

impl Walk<'_> {
    /// Tells the root, and returns the layers below it.
    fn root(&self, each: &mut dyn FnMut(&Node<'_>) -> Result<()>) -> Result<Vec<usize>> {
        let below: Vec<_> = self.layers.root().into_iter().filter(|layer| *layer != UPPER).collect();
        let now = self.layers.meta(UPPER, b"")?.ok_or_else(|| at(b"", libc::ENOENT))?;
        let meta = match below.first() {
            Some(layer) => self.layers.meta(*layer, b"")?.ok_or_else(|| at(b"", libc::ENOENT))?,
            None => Meta::place(FileType::Directory),
        };
        let change = (now.mode != meta.mode).then_some(ChangeKind::Modified);
        let before = Found { meta, layer: below.first().copied(), dirs: below.clone() };
        let layers = self.layers;
        each(&Node { path: b"", meta: &now, change, hides: false, hidden: false, before: Some(&before), layers })?;
        Ok(below)
    }

    fn enter(&self, path: Vec<u8>, below: Vec<usize>, hidden: bool) -> Result<Level> {
        let count = &mut self.count.borrow_mut();
        let mut names = self.layers.names(&[UPPER], &path, count)?;
        if hidden {
            names.extend(self.layers.names(&below, &path, count)?);
        }
        Ok(Level { path, names: names.into_iter(), below, hidden })
    }

    /// Tells one path. Returns the level in it, if it is a directory.
    fn entry(
        &self,
        level: &Level,
        path: Vec<u8>,
        each: &mut dyn FnMut(&Node<'_>) -> Result<()>,
    ) -> Result<Option<Level>> {
        let now = match self.layers.meta(UPPER, &path)? {
            Some(meta) if self.layers.is_whiteout(UPPER, &path, &meta)? => None,
            meta => meta,
        };
        let before = self.before(&level.below, &path)?;
        let (meta, change) = match (&now, &before) {
            // Nothing was there to be hidden.
            (None, None) => return Ok(None),
            (None, Some(before)) => (&before.meta, Some(ChangeKind::Deleted)),
            (Some(now), None) => (now, Some(ChangeKind::Added)),
            (Some(now), Some(before)) => (now, (!self.is_same(&path, now, before)?).then_some(ChangeKind::Modified)),
        };
        let dirs = before.as_ref().map_or(&[][..], |before| before.dirs.as_slice());
        let is_dir = now.is_some_and(|now| now.is_dir());
        let hides = is_dir && !level.hidden && !dirs.is_empty() && self.layers.is_opaque(UPPER, &path)?;
        let (hidden, layers) = (level.hidden, self.layers);
        each(&Node { path: &path, meta, change, hides, hidden, before: before.as_ref(), layers })?;
        is_dir.then(|| self.enter(path, dirs.to_vec(), hidden || hides)).transpose()
    }

    /// What was at a path at the start of the first run.
    fn before(&self, below: &[usize], path: &[u8]) -> Result<Option<Found>> {
        let place = |kind: &FileType| Found { meta: Meta::place(*kind), layer: None, dirs: Vec::new() };
        let found = self.layers.find(below, path)?;
        Ok(found.or_else(|| self.written.places.get(path).map(place)))
    }

    fn is_same(&self, path: &[u8], now: &Meta, before: &Found) -> Result<bool> {
        let Found { meta, layer, .. } = before;
        let Some(layer) = *layer else {
            return Ok(now.is_dir() && meta.is_dir() && now.mode == meta.mode);
        };
        match now.file_type {
            FileType::Directory => {
                let told = |meta: &Meta| (meta.file_type, meta.mode, meta.uid, meta.gid);
                Ok(told(now) == told(meta) && self.same_attributes(path, layer)?.unwrap_or(true))
            }
            _ if !now.resembles(meta) => Ok(false),
            FileType::File => {
                Ok(self.same_attributes(path, layer)?.unwrap_or(false) && self.same_content(path, layer)?)
            }
            FileType::Symlink => Ok(self.layers.link(UPPER, path)? == self.layers.link(layer, path)?),
            _ => Ok(true),
        }
    }

    /// Whether two files have the same attributes; none if the caller may not know.
    fn same_attributes(&self, path: &[u8], layer: usize) -> Result<Option<bool>> {
        let mut both = Vec::new();
        for layer in [UPPER, layer] {
            let file = match self.layers.open(layer, path, libc::O_RDONLY) {
                Ok(Some(file)) => file,
                Err(error) if error.raw_os_error() != Some(libc::EACCES) => return Err(error),
                _ => return Ok(None),
            };
            both.push(attributes(&file).map_err(|Errno(errno)| at(path, errno))?);
        }
        Ok(Some(both.first() == both.last()))
    }

    /// Whether two files of one size, which the caller may read, have the same content.
    fn same_content(&self, path: &[u8], layer: usize) -> Result<bool> {
        let [mut now, mut before] = [self.layers.read(UPPER, path)?, self.layers.read(layer, path)?];
        let [mut left, mut right] = [vec![0; CHUNK], vec![0; CHUNK]];
        loop {
            let [now, before] = [chunk(&mut now, &mut left, path)?, chunk(&mut before, &mut right, path)?];
            if left.get(now.clone()) != right.get(before) {
                return Ok(false);
            }
            if now.is_empty() {
                return Ok(true);
            }
        }
    }
}

/// How much of a file is compared at once.
const CHUNK: usize = 65_536;

/// Reads a chunk, a whole one but at the end.
fn chunk(file: &mut File, buffer: &mut [u8], path: &[u8]) -> Result<Range<usize>> {
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(at(path, error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
    Ok(0..length)
}

#[cfg(feature = "image")]
impl Node<'_> {
    /// Opens what is there: a file or a directory.
    pub(crate) fn open(&self) -> Result<File> {
        let file = self.layers.open(UPPER, self.path, libc::O_RDONLY)?;
        file.map(File::from).ok_or_else(|| at(self.path, libc::ENOENT))
    }

    /// The target of a link.
    pub(crate) fn target(&self) -> Result<Vec<u8>> {
        self.layers.link(UPPER, self.path)
    }

    /// Whether the path was there, and not only as a place of the sandbox's own.
    pub(crate) fn was_in_a_layer(&self) -> bool {
        self.before.is_some_and(|before| before.layer.is_some())
    }

    /// If the path was there, and was the same sort of file with the same owner: the value that an attribute had then.
    pub(crate) fn kept(&self, attribute: &CStr) -> Result<Option<Option<Vec<u8>>>> {
        let told = |meta: &Meta| (meta.file_type, meta.uid, meta.gid);
        let before = self.before.filter(|before| told(&before.meta) == told(self.meta));
        let Some(layer) = before.and_then(|before| before.layer) else { return Ok(None) };
        if !matches!(self.meta.file_type, FileType::File | FileType::Directory) {
            return Ok(Some(None));
        }
        let Some(file) = self.layers.open(layer, self.path, libc::O_RDONLY)? else { return Ok(None) };
        let value = super::layers::attribute(&file, attribute);
        value.map(Some).map_err(|Errno(errno)| at(self.path, errno))
    }
}
