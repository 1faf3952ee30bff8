//! What a run leaves behind: the upper directory, and what lies below it.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::FileType;
use super::layers::Layers;
use crate::error::{Error, Layer, Result};
use crate::plan::{HostPath, InsideKind, Plan, Step, Upper};
use crate::sys::{self, Errno};

const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

/// The changes of a run, as the kernel has left them, and what it takes to understand them.
pub(crate) struct Written {
    /// The directory that has the upper directory in it.
    base: OwnedFd,
    /// The directories below, the uppermost first.
    lowers: Vec<CString>,
    /// What the sandbox itself has made between them and the upper directory, by path.
    pub(super) places: BTreeMap<Vec<u8>, FileType>,
    /// Maps of user and group ids: inside, outside, count. None where ids are the host's.
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    ids: Option<[Vec<[u32; 3]>; 2]>,
    /// What holds the layers of an image in their store.
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "only held"))]
    keeps: Option<Arc<dyn Any + Send + Sync>>,
}

impl Written {
    /// `base` is what the plan has the program's changes kept in, and `ids` are the maps of its user and group ids.
    pub(crate) fn new(base: OwnedFd, plan: &Plan, ids: Option<[Vec<[u32; 3]>; 2]>) -> Self {
        let keeps = plan.keeps.clone();
        let mut written = Self { base, lowers: Vec::new(), places: BTreeMap::new(), ids, keeps };
        for step in &plan.steps {
            match step {
                Step::RootOverlay { upper: Upper::Tmpfs { .. } | Upper::Kept { .. }, lowers } => {
                    written.lowers = lowers.iter().rev().map(|HostPath(path)| path.clone()).collect();
                    break;
                }
                Step::Place { at } => {
                    let kind = if at.kind == InsideKind::Dir { FileType::Directory } else { FileType::File };
                    written.add_place(at.path.to_bytes(), kind);
                }
                Step::Symlink { at, .. } => written.add_place(at.path.to_bytes(), FileType::Symlink),
                _ => {}
            }
        }
        written
    }

    /// Adds a place, and the directories above it.
    fn add_place(&mut self, path: &[u8], kind: FileType) {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        for (index, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let above = path.get(..index).unwrap_or_default();
            self.places.entry(above.to_owned()).or_insert(FileType::Directory);
        }
        self.places.entry(path.to_owned()).or_insert(kind);
    }

    /// The upper directory, and what lies below it.
    pub(super) fn layers(&self) -> Result<Layers> {
        let mut layers = vec![self.upper()?];
        layers.extend(self.lowers()?);
        Ok(Layers::new(layers))
    }

    fn upper(&self) -> Result<OwnedFd> {
        let opened = sys::openat2(self.base.as_fd(), c"diff", DIRECTORY, 0, libc::RESOLVE_BENEATH);
        opened.map(OwnedFd::from).map_err(|Errno(errno)| Error::os(Layer::Mount, "open the changes", errno))
    }

    fn lowers(&self) -> Result<Vec<OwnedFd>> {
        let open = |path: &CString| {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let opened = sys::openat2(sys::CWD, path, flags, 0, libc::RESOLVE_NO_SYMLINKS);
            let failed = |Errno(errno)| {
                Error::os(Layer::Mount, "open what the changes are made to", errno).with_path(crate::plan::os(path))
            };
            opened.map(OwnedFd::from).map_err(failed)
        };
        self.lowers.iter().map(open).collect()
    }

    /// Keeps other sandboxes from the directory for as long as what is returned is there.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let failed = |Errno(errno)| Error::os(Layer::Mount, "lock the changes", errno);
        // A lock belongs to the open file: another one, so that this does not end what others hold.
        let base = sys::openat2(self.base.as_fd(), c".", DIRECTORY, 0, libc::RESOLVE_BENEATH).map_err(failed)?;
        match sys::lock_shared(base.as_fd()) {
            Ok(()) => Ok(Lock(base.into())),
            Err(Errno(libc::EWOULDBLOCK)) => {
                let hint = "another sandbox runs on the directory of the changes: wait for its end";
                Err(failed(Errno(libc::EWOULDBLOCK)).with_hint(hint))
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Lets another sandbox write to the upper directory: nobody inside does any more. By hand, for a child that another
    /// thread is starting may have a copy of the descriptor for a moment.
    pub(crate) fn release(&self) {
        let _ = sys::unlock(self.base.as_fd());
    }

    /// What holds the layers of an image in their store.
    #[cfg(feature = "image")]
    pub(crate) fn keeps(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.keeps.as_deref()
    }

    /// A user and a group of the host's as they are inside; who is not mapped is nobody there.
    #[cfg(feature = "image")]
    pub(crate) fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        const NOBODY: u32 = 65_534;
        let find = |map: &[[u32; 3]], id: u32| {
            let line = |[inside, outside, count]: &[u32; 3]| {
                id.checked_sub(*outside).filter(|offset| offset < count).map(|offset| inside + offset)
            };
            map.iter().find_map(line).unwrap_or(NOBODY)
        };
        match &self.ids {
            Some([uids, gids]) => (find(uids, uid), find(gids, gid)),
            None => (uid, gid),
        }
    }
}

/// Keeps other sandboxes from the directory of the changes. Undone by hand, for a child that another thread is starting may
/// have a copy of the descriptor for a moment.
#[must_use]
pub(crate) struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = sys::unlock(self.0.as_fd());
    }
}

impl fmt::Debug for Written {
    /// Leaves the places out, which are many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("base", &self.base).finish_non_exhaustive()
    }
}
