//! What the children of a start have at hand besides the plan.

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::os::fd::{BorrowedFd, RawFd};

use super::Bounds;
use crate::sys::{self, Fd, MountRoot, Stat};

/// What the children of one spawn get besides the plan.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The end of the lifeline that init reads, and the host's.
    pub(crate) lifeline: RawFd,
    pub(crate) lifeline_host: RawFd,
    /// The init image.
    pub(crate) init: &'a [u8],
    /// The pidfd of the process that holds the user namespace.
    pub(crate) holder: RawFd,
    /// The descriptors for the program; [`Step::Install`] has indices into them.
    pub(crate) given: &'a [RawFd],
    /// The devices of the file systems that this sandbox has made, and may make files on: 0 for a free place.
    pub(crate) own: &'a [AtomicU64],
    /// Where the host gets the directory of what the program writes, and then the master of its terminal.
    pub(crate) handover: RawFd,
    pub(crate) bounds: Bounds,
    /// The mounts that the program may write to, in their order: [`Writable::WORDS`] for each.
    pub(crate) writable: &'a [AtomicU64],
    /// The files that Landlock's rules name for the caller, in their order: device and inode of each; zeroes for none yet.
    pub(crate) named: &'a [AtomicU64],
    /// What the template has: its user and mount namespaces, what it keeps, and a network namespace for this start.
    pub(crate) template: [RawFd; 4],
    /// The host's /proc, if it is not to be found by its name.
    pub(crate) proc: RawFd,
    /// Whether init is to have a processor of its own: one is idle, and what init does first takes long.
    pub(crate) spreads: bool,
    /// How paths in the root are looked up, beside `RESOLVE_IN_ROOT`.
    pub(crate) resolve: u64,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Self {
            lifeline: -1,
            lifeline_host: -1,
            init: &[],
            holder: -1,
            given: &[],
            own: &[],
            handover: -1,
            bounds: Bounds::NONE,
            writable: &[],
            named: &[],
            template: [-1; 4],
            proc: -1,
            spreads: false,
            resolve: libc::RESOLVE_NO_MAGICLINKS,
        }
    }
}

impl Context<'_> {
    /// Opens a file of the host's /proc.
    pub(super) fn open_proc(&self, path: &CStr, flags: c_int, resolve: u64) -> sys::Result<Fd> {
        let (dir, path) = self.in_proc(path);
        sys::openat2(dir, path, flags, 0, resolve)
    }

    /// Tells which file it is that a file of the host's /proc leads to.
    pub(super) fn stat_proc(&self, path: &CStr) -> sys::Result<Stat> {
        let (dir, path) = self.in_proc(path);
        sys::stat_at(dir, path)
    }

    fn in_proc<'p>(&self, path: &'p CStr) -> (BorrowedFd<'_>, &'p CStr) {
        let within = path.to_bytes_with_nul().strip_prefix(b"/proc/").map(CStr::from_bytes_with_nul);
        match (self.proc, within) {
            (0.., Some(Ok(within))) => (sys::borrow(self.proc), within),
            _ => (sys::CWD, path),
        }
    }
}

/// A mount that the program may write to: which one it is when its name may lead elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writable<'a> {
    /// Its id plus 1; 0 if it is not made yet, and all ones if it is the template's: its copies have ids of their own.
    id: &'a AtomicU64,
    /// The device and inode of what is mounted.
    file: [&'a AtomicU64; 2],
}

impl<'a> Writable<'a> {
    /// How many words one takes.
    pub(crate) const WORDS: usize = 3;

    /// All that the words tell of.
    pub(crate) fn all(words: &'a [AtomicU64]) -> impl Iterator<Item = Self> {
        words.chunks_exact(Self::WORDS).filter_map(|words| match words {
            [id, device, inode] => Some(Self { id, file: [device, inode] }),
            _ => None,
        })
    }

    /// Says that it is one of the template's.
    pub(crate) fn share(self, file: (u64, u64)) {
        self.set(u64::MAX, file);
    }

    /// What is mounted, if it is.
    pub(crate) fn file(self) -> Option<(u64, u64)> {
        let [device, inode] = self.file;
        (!self.is_free()).then(|| (device.load(Relaxed), inode.load(Relaxed)))
    }

    pub(super) fn is_free(self) -> bool {
        self.id.load(Relaxed) == 0
    }

    pub(super) fn set(self, id: u64, (device, inode): (u64, u64)) {
        for (word, value) in self.file.into_iter().zip([device, inode]) {
            word.store(value, Relaxed);
        }
        self.id.store(id, Relaxed);
    }

    pub(crate) fn is(self, root: MountRoot) -> bool {
        match self.id.load(Relaxed) {
            u64::MAX => self.file() == Some(root.file),
            id => root.id + 1 == id,
        }
    }
}
