//! The steps that build the root, all by descriptor.
//!
//! The content of a root is hostile: every path inside is resolved with `RESOLVE_IN_ROOT` from the root's own
//! descriptor, so that no link of it leads out; and files are only made on file systems that this sandbox has made,
//! whatever a link may say, so that nothing is ever made on the host's.

use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering::Relaxed;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Done, State, Writable, on};
use crate::plan::{Fault, HostPath, Inside, InsideKind, Operand, attr};
use crate::sys::{self, Errno, Fd, Reach, Stat};

/// How often a lookup that a rename has raced with is tried again (EAGAIN of openat2(2)).
const TRIES: usize = 1000;

/// The names in the workspace.
pub(super) const ROOT: &CStr = c"root";
pub(super) const HIDDEN: &CStr = c"hidden";
/// And in what is hidden.
pub(super) const EMPTY_FILE: &CStr = c"file";
pub(super) const EMPTY_DIR: &CStr = c"dir";
const PROC: &CStr = c"proc";

impl State<'_> {
    pub(super) fn make_private(&self) -> Done {
        let root = sys::openat2(sys::CWD, c"/", libc::O_PATH, 0, 0)?;
        Ok(sys::mount_setattr(root.as_fd(), Reach::Tree, 0)?)
    }

    /// Mounts the workspace over the host's root, where no lookup by an absolute path gets to see it.
    pub(super) fn make_workspace(&mut self) -> Done {
        // The host's mask would show in the modes of all that is made: a root that only its owner may enter.
        sys::umask(0o022);
        let workspace = new_tmpfs(&[(c"mode", c"0755")], attr::NO_SUID | attr::NO_DEV)?;
        sys::attach_at(workspace.as_fd(), sys::CWD, c"/")?;
        sys::mkdirat(workspace.as_fd(), ROOT, 0o755)?;
        sys::mkdirat(workspace.as_fd(), HIDDEN, 0o755)?;
        let hidden = sys::openat2(workspace.as_fd(), HIDDEN, libc::O_PATH, 0, 0)?;
        sys::mkdirat(hidden.as_fd(), EMPTY_DIR, 0o555)?;
        sys::mkdirat(hidden.as_fd(), PROC, 0o555)?;
        create(hidden.as_fd(), EMPTY_FILE, 0o444)?;
        self.workspace = Some(workspace);
        Ok(())
    }

    pub(super) fn root_empty(&mut self) -> Done {
        let root = sys::clone_tree(self.workspace()?, ROOT)?;
        self.add_own(root.as_fd())?;
        self.set_root(root)
    }

    pub(super) fn root_dir(&mut self, source: &HostPath, attributes: u64) -> Done {
        let root = clone_source(source)?;
        sys::mount_setattr(root.as_fd(), Reach::Tree, attributes)?;
        self.set_root(root)
    }

    pub(super) fn set_root(&mut self, root: Fd) -> Done {
        sys::mount_setattr(root.as_fd(), Reach::Tree, attr::NO_SUID | attr::NO_DEV)?;
        sys::attach_at(root.as_fd(), self.workspace()?, ROOT)?;
        self.root = Some(root);
        Ok(())
    }

    pub(super) fn dir(&self, at: &Inside) -> Done {
        self.target(at)?;
        // What is there already may be something else.
        self.open(&at.path, libc::O_DIRECTORY).map(drop)
    }

    /// Makes the file in the root itself, if its place is free: that is sealed. Elsewhere, binds one over the place.
    pub(super) fn file(&mut self, at: &Inside, name: &CStr, data: &[u8]) -> Done {
        if let Err(Fault { errno: libc::ENOENT, .. }) = self.open(&at.path, 0) {
            let (dir, name) = self.parent(at)?;
            let device = self.check_own(dir.as_fd())?;
            if device == sys::fstat(self.root()?)?.device {
                let file = on(Operand::Target, create(dir.as_fd(), name, 0o444))?;
                return Ok(sys::write_all(file.as_fd(), data)?);
            }
        }
        let workspace = self.workspace()?;
        let file = create(workspace, name, 0o444)?;
        sys::write_all(file.as_fd(), data)?;
        let mount = sys::clone_tree(workspace, name)?;
        self.mount(mount, at, Reach::Mount, attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV)
    }

    pub(super) fn symlink(&self, target: &CStr, at: &Inside) -> Done {
        let (dir, name) = self.parent(at)?;
        let is_there = || on(Operand::Target, sys::links_to(dir.as_fd(), name, target));
        match self.check_own(dir.as_fd()) {
            Err(Fault { errno: libc::ENOENT, .. }) if is_there()? => return Ok(()),
            checked => checked?,
        };
        match sys::symlinkat(target, dir.as_fd(), name) {
            Err(Errno(libc::EEXIST | libc::EROFS)) if is_there()? => Ok(()),
            made => on(Operand::Target, made),
        }
    }

    pub(super) fn bind(&mut self, source: &HostPath, at: &Inside, attributes: u64) -> Done {
        let mount = match source.0.as_bytes() {
            b"/" => self.clone_host()?,
            _ => on(Operand::Source, clone_source(source))?,
        };
        if attributes & attr::READ_ONLY == 0 {
            self.add_writable(mount.as_fd())?;
        }
        self.mount(mount, at, Reach::Tree, attributes)
    }

    pub(super) fn tmpfs(&mut self, at: &Inside, options: [(&CStr, &CStr); 3], attributes: u64) -> Done {
        let mount = new_tmpfs(&options, attributes)?;
        self.add_writable(mount.as_fd())?;
        let device = sys::fstat(mount.as_fd())?.device;
        let target = self.target(at)?;
        self.note_cover(target.as_fd())?;
        on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))?;
        self.add_device(device)?;
        self.on_root(mount, at);
        Ok(())
    }

    /// All of the host's mounts, but for our own: the workspace lies over the host's root.
    fn clone_host(&self) -> Result<Fd, Fault> {
        let workspace = self.workspace()?;
        sys::make_unbindable(workspace)?;
        let mount =
            sys::openat2(sys::CWD, c"/", libc::O_PATH, 0, 0).and_then(|root| sys::clone_tree(root.as_fd(), c""));
        sys::mount_setattr(workspace, Reach::Mount, 0)?;
        on(Operand::Source, mount)
    }

    /// What is mounted on the root is the root from now on.
    fn on_root(&mut self, mount: Fd, at: &Inside) {
        if at.components.is_empty() {
            self.root = Some(mount);
            self.proc_by_name = None;
        }
    }

    pub(super) fn proc(&mut self, at: &Inside) -> Done {
        let context = sys::fsopen(c"proc")?;
        let mount = sys::fsmount(context.as_fd(), attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC)?;
        let target = self.target(at)?;
        self.note_cover(target.as_fd())?;
        on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))?;
        if at.path.as_c_str() == c"/proc" {
            let Stat { device, inode, .. } = sys::fstat(mount.as_fd())?;
            (self.proc, self.proc_by_name) = (Some(mount), Some((device, inode)));
        } else if self.proc.is_none() {
            self.proc = Some(mount);
        }
        Ok(())
    }

    /// The sandbox's own /proc, if it is what lies at that path.
    fn named_proc(&self) -> Option<&Fd> {
        self.proc.as_ref().filter(|_| self.proc_by_name.is_some())
    }

    /// What comes to lie over the sandbox's own /proc has its name from then on.
    pub(super) fn note_cover(&mut self, target: BorrowedFd<'_>) -> Done {
        if self.proc_by_name.is_some() {
            let Stat { device, inode, .. } = sys::fstat(target)?;
            self.proc_by_name = self.proc_by_name.filter(|proc| *proc != (device, inode));
        }
        Ok(())
    }

    pub(super) fn devpts(&mut self, at: &Inside) -> Done {
        let context = sys::fsopen(c"devpts")?;
        for (key, value) in [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"max", c"64")] {
            sys::fsconfig(context.as_fd(), key, value)?;
        }
        let mount = sys::fsmount(context.as_fd(), attr::NO_SUID | attr::NO_EXEC)?;
        let target = self.target(at)?;
        self.note_cover(target.as_fd())?;
        on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))
    }

    /// What is not there needs no mask.
    pub(super) fn mask(&mut self, at: &Inside) -> Done {
        if let Some(path) = self.in_proc(at) {
            return self.mask_in_proc(path, at.kind);
        }
        self.leave_proc()?;
        let Some(target) = self.existing(at)? else { return Ok(()) };
        let empty = if sys::fstat(target.as_fd())?.is_dir() { EMPTY_DIR } else { EMPTY_FILE };
        self.hide()?;
        let mount = sys::clone_tree(self.hidden()?, empty)?;
        on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))
    }

    /// What is not there needs no protection.
    pub(super) fn protect(&mut self, at: &Inside) -> Done {
        if let Some(path) = self.in_proc(at) {
            return self.protect_in_proc(path);
        }
        self.leave_proc()?;
        let Some(target) = self.existing(at)? else { return Ok(()) };
        let mount = sys::clone_tree(target.as_fd(), c"")?;
        let attributes = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC;
        sys::mount_setattr(mount.as_fd(), Reach::Tree, attributes)?;
        on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))
    }

    /// The path of what lies right below the sandbox's own /proc, as it is there.
    fn in_proc<'a>(&self, at: &'a Inside) -> Option<&'a CStr> {
        let [_, [dir, _]] = at.components.as_slice() else { return None };
        let within = at.path.to_bytes_with_nul().strip_prefix(b"/proc")?;
        let path = CStr::from_bytes_with_nul(within).ok()?;
        (self.named_proc().is_some() && dir.as_c_str() == c"/proc").then_some(path)
    }

    pub(super) fn seal(&self, at: &Inside, attributes: u64) -> Done {
        // An empty list of components means the root itself, whatever has been mounted over it since.
        if at.components.is_empty() {
            return Ok(sys::mount_setattr(self.root()?, Reach::Mount, attributes)?);
        }
        // This mount, wherever its name leads by now in a root that others write to.
        if let Some(proc) = self.named_proc().filter(|_| at.path.as_c_str() == c"/proc") {
            // Whoever reads there, the times of reading to be set among that, counts as a writer for as long (EBUSY).
            let set = |_| {
                Some(sys::mount_setattr(proc.as_fd(), Reach::Mount, attributes))
                    .filter(|set| *set != Err(Errno(libc::EBUSY)))
            };
            return Ok((0..TRIES).find_map(set).unwrap_or(Err(Errno(libc::EBUSY)))?);
        }
        let flags = if at.kind == InsideKind::Dir { libc::O_DIRECTORY } else { 0 };
        let target = self.open(&at.path, flags)?;
        on(Operand::Target, sys::mount_setattr(target.as_fd(), Reach::Mount, attributes))
    }

    /// pivot_root(2), *pivot_root(".", ".")*: puts the old root on top of the new, and takes it off again.
    pub(super) fn pivot(&mut self) -> Done {
        // Out of the way: "." below means whatever lies on top there, and that has to be the old root. Moved
        // into the old root, the workspace goes with it, which saves an unmount: the dearest step of all, since
        // each waits until no processor looks at the mount table.
        sys::attach_at(self.workspace()?, sys::CWD, c"/proc")?;
        sys::fchdir(self.root()?)?;
        sys::pivot_root_here()?;
        // Lazily: the old root is busy, since this process has the workspace open.
        sys::detach_here()?;
        let root = sys::openat2(sys::CWD, c"/", libc::O_PATH, 0, 0)?;
        Ok(sys::fchdir(root.as_fd())?)
    }

    /// Sets the attributes of a detached mount, and attaches it.
    pub(super) fn mount(&mut self, mount: Fd, at: &Inside, reach: Reach, attributes: u64) -> Done {
        sys::mount_setattr(mount.as_fd(), reach, attributes)?;
        let target = self.target(at)?;
        self.note_cover(target.as_fd())?;
        on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))?;
        self.on_root(mount, at);
        Ok(())
    }

    /// The place `at`, made with its parents if it is missing.
    pub(super) fn target(&self, at: &Inside) -> Result<Fd, Fault> {
        match self.open(&at.path, 0) {
            Err(Fault { errno: libc::ENOENT, .. }) => {}
            result => return result,
        }
        let (dir, name) = self.parent(at)?;
        self.make(dir.as_fd(), name, at.kind)
    }

    /// The directory that holds `at`, made if it is missing, and the name in it.
    pub(super) fn parent<'a>(&self, at: &'a Inside) -> Result<(Fd, &'a CStr), Fault> {
        let Some(([dir, name], parents)) = at.components.split_last() else {
            return Err(Errno(libc::EEXIST).into());
        };
        let opened = match self.open(dir, libc::O_DIRECTORY) {
            Err(Fault { errno: libc::ENOENT, .. }) => {
                self.make_dirs(parents)?;
                self.open(dir, libc::O_DIRECTORY)?
            }
            result => result?,
        };
        Ok((opened, name))
    }

    /// The place `at`, if there is one.
    fn existing(&self, at: &Inside) -> Result<Option<Fd>, Fault> {
        let within = at.path.to_bytes_with_nul().strip_prefix(b"/proc/").map(CStr::from_bytes_with_nul);
        let opened = match (self.named_proc(), within) {
            (Some(proc), Some(Ok(path))) => {
                let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
                on(Operand::Target, sys::openat2(proc.as_fd(), path, libc::O_PATH, 0, resolve))
            }
            _ => self.open(&at.path, 0),
        };
        match opened {
            Ok(target) => Ok(Some(target)),
            Err(Fault { errno: libc::ENOENT | libc::ENOTDIR, .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Makes what is missing of a line of directories.
    fn make_dirs(&self, components: &[[CString; 2]]) -> Done {
        for [dir, name] in components {
            let dir = self.open(dir, libc::O_DIRECTORY)?;
            // A link counts as there: the next lookup follows it, inside the root.
            match sys::openat2(dir.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0, libc::RESOLVE_BENEATH) {
                Err(Errno(libc::ENOENT)) => self.make(dir.as_fd(), name, InsideKind::Dir).map(drop)?,
                result => on(Operand::Target, result).map(drop)?,
            }
        }
        Ok(())
    }

    /// Makes a mount point, which only has to exist.
    fn make(&self, dir: BorrowedFd<'_>, name: &CStr, kind: InsideKind) -> Result<Fd, Fault> {
        self.check_own(dir)?;
        let made = match kind {
            InsideKind::Dir => sys::mkdirat(dir, name, self.parents_mode).and_then(|()| {
                let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
                sys::openat2(dir, name, flags, 0, libc::RESOLVE_BENEATH)
            }),
            InsideKind::File => create(dir, name, 0o444),
        };
        on(Operand::Target, made)
    }

    /// Looks a path up inside the root to be.
    pub(super) fn open(&self, path: &CStr, flags: c_int) -> Result<Fd, Fault> {
        let resolve = libc::RESOLVE_IN_ROOT | self.context.resolve;
        let root = self.root()?;
        let mut opened = Err(Errno(libc::EAGAIN));
        for _ in 0..TRIES {
            opened = sys::openat2(root, path, libc::O_PATH | flags, 0, resolve);
            if !matches!(opened, Err(Errno(libc::EAGAIN))) {
                break;
            }
        }
        on(Operand::Target, opened)
    }

    pub(super) fn workspace(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.workspace.as_ref().map(AsFd::as_fd).ok_or(Errno(libc::EBADF).into())
    }

    pub(super) fn root(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno(libc::EBADF).into())
    }

    /// Remembers that files may be made on this file system.
    pub(super) fn add_own(&self, file: BorrowedFd<'_>) -> Done {
        self.add_device(sys::fstat(file)?.device)
    }

    /// Remembers a mount, for Landlock's rules: later, its name may lead elsewhere.
    pub(super) fn add_writable(&self, mount: BorrowedFd<'_>) -> Done {
        let root = sys::root_of_mount(mount)?.ok_or(Errno(libc::ENOTSUP))?;
        let free = Writable::all(self.context.writable).find(|known| known.is_free());
        free.ok_or(Errno(libc::ENOSPC))?.set(root.id + 1, root.file);
        Ok(())
    }

    fn add_device(&self, device: u64) -> Done {
        let free = self.context.own.iter().find(|own| own.load(Relaxed) == 0);
        free.ok_or(Errno(libc::ENOSPC))?.store(device, Relaxed);
        Ok(())
    }

    /// Lets nothing be made on a file system of the host's; returns which of the sandbox's own it is.
    pub(super) fn check_own(&self, dir: BorrowedFd<'_>) -> Result<u64, Fault> {
        let device = sys::fstat(dir)?.device;
        if self.makes_places {
            return Ok(device);
        }
        match self.context.own.iter().any(|own| own.load(Relaxed) == device) {
            true => Ok(device),
            false => Err(Fault { errno: libc::ENOENT, operand: Operand::Target }),
        }
    }
}

/// A new tmpfs, detached.
pub(super) fn new_tmpfs(options: &[(&CStr, &CStr)], attributes: u64) -> sys::Result<Fd> {
    let context = sys::fsopen(c"tmpfs")?;
    sys::fsconfig(context.as_fd(), c"source", c"belljar")?;
    // What is not said is left to the kernel.
    for (key, value) in options.iter().filter(|(_, value)| !value.is_empty()) {
        sys::fsconfig(context.as_fd(), key, value)?;
    }
    sys::fsmount(context.as_fd(), attributes)
}

/// A detached copy of the mounts at a path of the host, which leads over no link.
pub(super) fn clone_source(source: &HostPath) -> sys::Result<Fd> {
    let source = sys::openat2(sys::CWD, &source.0, libc::O_PATH, 0, libc::RESOLVE_NO_SYMLINKS)?;
    sys::clone_tree(source.as_fd(), c"")
}

pub(super) fn create(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> sys::Result<Fd> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    sys::openat2(dir, name, flags, mode, libc::RESOLVE_BENEATH)
}
