//! The steps that copy directories into memory: a root, where layers can't be stacked, and what a program gets to change.
//!
//! Everything goes by descriptor and over no link, since somebody may change the source meanwhile.

use core::ffi::{CStr, c_int};
use std::os::fd::{AsFd, BorrowedFd};

use super::mount::{create, new_tmpfs};
use super::{Done, State, on};
use crate::plan::{HostPath, Inside, Operand, attr};
use crate::sys::{self, Entries, Errno, Fd, Name, Reach, Stat};

/// The name in the workspace.
const COPY: &CStr = c"copy";

/// How deep directories may be nested: each level has two descriptors.
const DEPTH: usize = 128;

const DIRECTORY: c_int = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

impl State<'_> {
    /// The root to be is mounted in the workspace, and goes with it; the copy takes its place.
    pub(super) fn root_copy(&mut self, size: &CStr, inodes: &CStr) -> Done {
        let attributes = attr::NO_SUID | attr::NO_DEV;
        let mount = new_tmpfs(&[(c"size", size), (c"nr_inodes", inodes), (c"mode", c"0755")], attributes)?;
        sys::mount_setattr(mount.as_fd(), Reach::Mount, attributes)?;
        let workspace = self.workspace()?;
        sys::mkdirat(workspace, COPY, 0o755)?;
        sys::attach_at(mount.as_fd(), workspace, COPY)?;
        let from = sys::openat2(self.root()?, c".", DIRECTORY, 0, 0)?;
        let to = sys::openat2(mount.as_fd(), c".", DIRECTORY, 0, 0)?;
        copy_tree(Level { from: Entries::new(from), to })?;
        self.add_own(mount.as_fd())?;
        self.root = Some(mount);
        Ok(())
    }
}

impl State<'_> {
    /// The tmpfs lies at that place by now, and nobody else has seen it.
    pub(super) fn copy(&self, source: &HostPath, at: &Inside) -> Done {
        let from = on(Operand::Source, sys::openat2(sys::CWD, &source.0, DIRECTORY, 0, libc::RESOLVE_NO_SYMLINKS))?;
        let place = self.target(at)?;
        self.check_own(place.as_fd())?;
        let to = sys::openat2(place.as_fd(), c".", DIRECTORY, 0, 0)?;
        Ok(copy_tree(Level { from: Entries::new(from), to })?)
    }
}

/// A directory that is being copied.
struct Level {
    from: Entries,
    to: Fd,
}

/// Copies without recursion, for the stack is small.
fn copy_tree(root: Level) -> sys::Result<()> {
    let mut levels = [const { None }; DEPTH];
    let mut depth = 0;
    let mut next = Some(root);
    loop {
        let slot = levels.get_mut(depth).ok_or(Errno(libc::ELOOP))?;
        let level: &Level = match next.take() {
            Some(level) => slot.insert(level),
            None => slot.as_ref().ok_or(Errno(libc::EBADF))?,
        };
        let mut name: Name = [0; 256];
        if level.from.next(&mut name)? {
            next = copy_entry(level, sys::text(&name)?)?;
            depth += usize::from(next.is_some());
            continue;
        }
        // What is made in a directory changes its times, and its mode might forbid it.
        finish(level.to.as_fd(), &sys::fstat(level.from.dir())?)?;
        *slot = None;
        match depth.checked_sub(1) {
            Some(above) => depth = above,
            None => return Ok(()),
        }
    }
}

/// Copies one entry; returns a directory, whose content is still to be copied.
fn copy_entry(level: &Level, name: &CStr) -> sys::Result<Option<Level>> {
    if name == c"." || name == c".." {
        return Ok(None);
    }
    let to = level.to.as_fd();
    let open = |flags| sys::openat2(level.from.dir(), name, flags | libc::O_NOFOLLOW, 0, libc::RESOLVE_BENEATH);
    let entry = open(libc::O_PATH)?;
    let stat = sys::fstat(entry.as_fd())?;
    match stat.mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let Some(from) = readable(open(DIRECTORY))? else { return Ok(None) };
            sys::mkdirat(to, name, 0o700)?;
            let to = sys::openat2(to, name, DIRECTORY, 0, libc::RESOLVE_BENEATH)?;
            return Ok(Some(Level { from: Entries::new(from), to }));
        }
        libc::S_IFREG => {
            // Should it be a FIFO by now, nobody waits for its other end.
            let Some(from) = readable(open(libc::O_RDONLY | libc::O_NONBLOCK))? else { return Ok(None) };
            if sys::fstat(from.as_fd())?.mode & libc::S_IFMT != libc::S_IFREG {
                return Err(Errno(libc::ESTALE));
            }
            let file = create(to, name, 0o600)?;
            sys::copy_content(from.as_fd(), file.as_fd())?;
            finish(file.as_fd(), &stat)?;
        }
        libc::S_IFLNK => {
            let mut buffer = [0; libc::PATH_MAX as usize];
            sys::symlinkat(sys::read_link(entry.as_fd(), &mut buffer)?, to, name)?;
            may_be_unmapped(sys::fchownat(to, name, stat.uid, stat.gid))?;
            sys::set_times(to, name, &stat.times)?;
        }
        libc::S_IFIFO | libc::S_IFSOCK => {
            sys::mknodat(to, name, stat.mode)?;
            may_be_unmapped(sys::fchownat(to, name, stat.uid, stat.gid))?;
            sys::set_times(to, name, &stat.times)?;
        }
        // A device, which would have no effect.
        _ => {}
    }
    Ok(None)
}

/// What the caller may not read, the program could not read either.
fn readable(opened: sys::Result<Fd>) -> sys::Result<Option<Fd>> {
    match opened {
        Err(Errno(libc::EACCES)) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Gives a file or directory the owner, mode and times of what it is a copy of.
fn finish(file: BorrowedFd<'_>, stat: &Stat) -> sys::Result<()> {
    may_be_unmapped(sys::fchown(file, stat.uid, stat.gid))?;
    sys::fchmod(file, stat.mode & 0o7777)?;
    sys::set_times_of(file, &stat.times)
}

/// An owner who is nobody inside is left out.
fn may_be_unmapped(owned: sys::Result<()>) -> sys::Result<()> {
    match owned {
        Err(Errno(libc::EINVAL)) => Ok(()),
        owned => owned,
    }
}
