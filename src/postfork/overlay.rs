//! The steps that stack directories by overlayfs.
//!
//! The kernel gets the layers as numbers of descriptors, relative to /proc/self/fd: so no path of the host's is looked up
//! a second time, none needs escapes, none can be read inside, and hundreds of them fit into the one page of options that
//! mount(2) takes on every kernel.

use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering::Relaxed;
use std::os::fd::{AsFd, BorrowedFd};

use super::mount::{ROOT, new_tmpfs};
use super::{Done, State, on};
use crate::plan::{Fault, HostPath, Operand, Upper, attr};
use crate::sys::{self, Errno, Fd, Reach};

/// The names in the workspace: where the stage is mounted, what is made there, and the tmpfs for what the program writes.
const STAGE: &CStr = c"stage";
const PLACES: &CStr = c"upper";
const PLACES_WORK: &CStr = c"work";
const CHANGES: &CStr = c"changes";

/// What the program writes, below the directory for it, and what overlayfs needs beside that.
const DIFF: &CStr = c"diff";
const WORK: &CStr = c"work";

/// More than the kernel stacks.
const LAYERS: usize = 512;

const DIRECTORY: c_int = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

impl State<'_> {
    pub(super) fn root_overlay(&mut self, lowers: &[HostPath], upper: &Upper) -> Done {
        let staged = self.end_stage()?;
        let mut layers = Layers::new();
        if staged {
            layers.add(sys::openat2(self.workspace()?, PLACES, libc::O_PATH, 0, 0)?)?;
        }
        for lower in lowers.iter().rev() {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let opened = sys::openat2(sys::CWD, &lower.0, flags, 0, libc::RESOLVE_NO_SYMLINKS);
            layers.add(on(Operand::Source, opened)?)?;
        }
        let top = layers.topmost_first().nth(usize::from(staged));
        match upper {
            Upper::Nothing => {
                let root = self.stack(&layers, None, ROOT)?;
                self.mounted_root(root)
            }
            Upper::Private => {
                let root = self.under_places(&layers, ROOT)?;
                self.add_own(root.as_fd())?;
                self.mounted_root(root)
            }
            Upper::Stage => self.begin_stage(&layers),
            Upper::Tmpfs { size, inodes } => {
                let options: [(&CStr, &CStr); 3] = [(c"size", size), (c"nr_inodes", inodes), (c"mode", c"0755")];
                let mount = new_tmpfs(&options, attr::NO_SUID | attr::NO_DEV)?;
                let workspace = self.workspace()?;
                sys::mkdirat(workspace, CHANGES, 0o755)?;
                sys::attach_at(mount.as_fd(), workspace, CHANGES)?;
                let base = sys::openat2(workspace, CHANGES, DIRECTORY, 0, 0)?;
                self.under_changes(&layers, top, base.as_fd())
            }
            Upper::Kept { base } => {
                let base = sys::openat2(sys::CWD, &base.0, DIRECTORY, 0, libc::RESOLVE_NO_SYMLINKS);
                let base = on(Operand::Target, base)?;
                // Two overlays on one upper directory are undefined.
                on(Operand::Target, sys::lock(base.as_fd()))?;
                self.under_changes(&layers, top, base.as_fd())?;
                self.kept = Some(base);
                Ok(())
            }
        }
    }

    /// An overlay of nothing but the workspace: shows whether this host has them in a user namespace.
    pub(super) fn overlay_trial(&self) -> Done {
        let workspace = self.workspace()?;
        let mut layers = Layers::new();
        layers.add(sys::openat2(workspace, ROOT, libc::O_PATH, 0, 0)?)?;
        self.under_places(&layers, ROOT).map(drop)
    }

    /// Where the next steps make the places that the layers lack; nothing is mounted there.
    fn begin_stage(&mut self, layers: &Layers) -> Done {
        let workspace = self.workspace()?;
        sys::mkdirat(workspace, STAGE, 0o755)?;
        let stage = match layers.count {
            0 => {
                sys::mkdirat(workspace, PLACES, 0o755)?;
                let stage = sys::clone_tree(workspace, PLACES)?;
                sys::attach_at(stage.as_fd(), workspace, STAGE)?;
                stage
            }
            _ => self.under_places(layers, STAGE)?,
        };
        self.add_own(stage.as_fd())?;
        self.staged = Some(sys::fstat(stage.as_fd())?.device);
        self.root = Some(stage);
        Ok(())
    }

    /// Tells whether there was a stage. Its upper directory is no one's then, and may become a layer.
    fn end_stage(&mut self) -> Result<bool, Fault> {
        let Some(device) = self.staged.take() else { return Ok(false) };
        // The number may be that of the next file system, where nothing is to be made.
        for own in self.context.own.iter().filter(|own| own.load(Relaxed) == device) {
            own.store(0, Relaxed);
        }
        self.root = None;
        sys::fchdir(self.workspace()?)?;
        sys::unmount(STAGE)?;
        Ok(true)
    }

    /// The layers, and on them a part of the workspace.
    fn under_places(&self, layers: &Layers, at: &CStr) -> Result<Fd, Fault> {
        let workspace = self.workspace()?;
        let dir = |name| {
            sys::mkdirat(workspace, name, 0o755)?;
            sys::openat2(workspace, name, libc::O_PATH, 0, 0)
        };
        let [upper, work] = [dir(PLACES)?, dir(PLACES_WORK)?];
        self.stack(layers, Some([upper.as_fd(), work.as_fd()]), at)
    }

    /// The layers, and on them what the program writes, which the host gets to know.
    fn under_changes(&mut self, layers: &Layers, top: Option<BorrowedFd<'_>>, base: BorrowedFd<'_>) -> Done {
        let (diff, made) = on(Operand::Target, own_dir(base, DIFF))?;
        let (work, _) = on(Operand::Target, own_dir(base, WORK))?;
        if let (true, Some(top)) = (made, top) {
            look_like(diff.as_fd(), top)?;
        }
        on(Operand::Target, sys::check_attributes(work.as_fd()))?;
        let root = self.stack(layers, Some([diff.as_fd(), work.as_fd()]), ROOT)?;
        sys::send_fd(sys::borrow(self.context.handover), base)?;
        self.mounted_root(root)
    }

    fn mounted_root(&mut self, root: Fd) -> Done {
        sys::mount_setattr(root.as_fd(), Reach::Tree, attr::NO_SUID | attr::NO_DEV)?;
        self.root = Some(root);
        Ok(())
    }

    /// Mounts the overlay at a name in the workspace.
    pub(super) fn stack(&self, layers: &Layers, upper: Option<[BorrowedFd<'_>; 2]>, at: &CStr) -> Result<Fd, Fault> {
        let workspace = self.workspace()?;
        let mut options = Text::new();
        options.add(b"lowerdir=")?;
        for (index, layer) in layers.topmost_first().enumerate() {
            options.add(if index == 0 { b"" } else { b":" })?;
            options.add_number(layer)?;
        }
        if let Some([upper, work]) = upper {
            options.add(b",upperdir=")?;
            options.add_number(upper)?;
            options.add(b",workdir=")?;
            options.add_number(work)?;
        }
        // In a user namespace the overlay can't keep its marks in trusted.*; without one it could, but layers are to mean
        // the same everywhere.
        options.add(b",userxattr")?;
        let mut target = Text::new();
        target.add_number(workspace)?;
        target.add(b"/")?;
        target.add(at.to_bytes())?;
        let numbers = sys::openat2(sys::CWD, c"/proc/self/fd", libc::O_PATH, 0, 0)?;
        sys::fchdir(numbers.as_fd())?;
        sys::mount_overlay(target.get()?, options.get()?)?;
        Ok(sys::openat2(workspace, at, libc::O_PATH | libc::O_DIRECTORY, 0, 0)?)
    }
}

/// A directory for the overlay, and whether it was made.
fn own_dir(base: BorrowedFd<'_>, name: &CStr) -> sys::Result<(Fd, bool)> {
    let made = match sys::mkdirat(base, name, 0o755) {
        Ok(()) => true,
        Err(Errno(libc::EEXIST)) => false,
        Err(errno) => return Err(errno),
    };
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    sys::openat2(base, name, DIRECTORY, 0, resolve).map(|dir| (dir, made))
}

/// Owner and mode of the root are those of the upper directory: so it gets those of the topmost layer, the owner if that
/// has a meaning inside.
fn look_like(diff: BorrowedFd<'_>, top: BorrowedFd<'_>) -> sys::Result<()> {
    let stat = sys::fstat(top)?;
    match sys::fchown(diff, stat.uid, stat.gid) {
        Ok(()) | Err(Errno(libc::EINVAL)) => {}
        Err(errno) => return Err(errno),
    }
    sys::fchmod(diff, stat.mode & 0o7777)
}

/// The open layers of an overlay, the topmost first.
pub(super) struct Layers {
    dirs: [Option<Fd>; LAYERS],
    count: usize,
}

impl Layers {
    pub(super) fn new() -> Self {
        Self { dirs: [const { None }; LAYERS], count: 0 }
    }

    pub(super) fn add(&mut self, dir: Fd) -> sys::Result<()> {
        *self.dirs.get_mut(self.count).ok_or(Errno(libc::E2BIG))? = Some(dir);
        self.count += 1;
        Ok(())
    }

    fn topmost_first(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.dirs.iter().flatten().map(AsFd::as_fd)
    }
}

/// A string that is put together in place: as long as the options of mount(2) may be.
struct Text {
    bytes: [u8; 4096],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; 4096], length: 0 }
    }

    /// Leaves room for the zero byte.
    fn room(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - 1;
        self.bytes.get_mut(self.length..end).unwrap_or_default()
    }

    fn add(&mut self, bytes: &[u8]) -> sys::Result<()> {
        self.room().get_mut(..bytes.len()).ok_or(Errno(libc::E2BIG))?.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    fn add_number(&mut self, fd: BorrowedFd<'_>) -> sys::Result<()> {
        self.length += sys::digits(fd, self.room())?;
        Ok(())
    }

    fn get(&self) -> sys::Result<&CStr> {
        sys::text(&self.bytes)
    }
}
