//! The steps of entries, which may lie over each other, and over the root.

use core::ffi::CStr;
use std::ffi::CString;
use std::os::fd::AsFd;

use super::mount::{clone_source, create};
use super::overlay::Layers;
use super::{Done, State, on};
use crate::plan::{EntryStep, EntryUpper, Fault, HostPath, Inside, Operand, attr};
use crate::sys::{self, Errno, Fd, Reach};

impl State<'_> {
    pub(super) fn entry(&mut self, step: &EntryStep) -> Done {
        match step {
            EntryStep::MakePlaces => self.makes_places = true,
            EntryStep::Dir { at, mode } => self.with_parents(*mode, |state| state.entry_dir(at, *mode))?,
            EntryStep::File { at, mode, data } => {
                self.with_parents(*mode, |state| state.entry_file(at, *mode, &data.0))?;
            }
            EntryStep::Data { at, name, mode, data, attributes } => {
                let file = create(self.workspace()?, name, *mode)?;
                sys::fchmod(file.as_fd(), *mode)?;
                sys::write_all(file.as_fd(), &data.0)?;
                let mount = sys::clone_tree(self.workspace()?, name)?;
                self.with_parents(*mode, |state| state.mount(mount, at, Reach::Mount, *attributes))?;
            }
            EntryStep::Same { source, file, at, attributes } => self.bind_same(source, *file, at, *attributes)?,
            EntryStep::Mqueue { at } => {
                let context = sys::fsopen(c"mqueue")?;
                let mount = sys::fsmount(context.as_fd(), attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC)?;
                let target = self.target(at)?;
                self.note_cover(target.as_fd())?;
                on(Operand::Target, sys::attach(mount.as_fd(), target.as_fd()))?;
            }
            EntryStep::Overlay { at, lowers, upper, names } => self.entry_overlay(at, lowers, upper, names)?,
            EntryStep::Mode { at, mode } => self.set_mode(at, *mode)?,
        }
        Ok(())
    }

    /// Directories that are missing on the way deny to others what the thing itself does.
    fn with_parents(&mut self, mode: u32, make: impl FnOnce(&mut Self) -> Done) -> Done {
        let usual = self.parents_mode;
        for bits in [0o070, 0o007] {
            if mode & bits == 0 {
                self.parents_mode &= !bits;
            }
        }
        let made = make(self);
        self.parents_mode = usual;
        made
    }

    fn entry_dir(&self, at: &Inside, mode: u32) -> Done {
        match self.open(&at.path, libc::O_DIRECTORY) {
            Err(Fault { errno: libc::ENOENT, .. }) => {}
            there => return there.map(drop),
        }
        let (dir, name) = self.parent(at)?;
        self.check_own(dir.as_fd())?;
        on(Operand::Target, sys::mkdirat(dir.as_fd(), name, 0o700))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let made = on(Operand::Target, sys::openat2(dir.as_fd(), name, flags, 0, libc::RESOLVE_BENEATH))?;
        Ok(sys::fchmod(made.as_fd(), mode)?)
    }

    fn entry_file(&self, at: &Inside, mode: u32, data: &[u8]) -> Done {
        let (dir, name) = self.parent(at)?;
        self.check_own(dir.as_fd())?;
        let file = match create(dir.as_fd(), name, 0o600) {
            Ok(file) => {
                sys::fchmod(file.as_fd(), mode)?;
                file
            }
            Err(Errno(libc::EEXIST)) => {
                let flags = libc::O_WRONLY | libc::O_TRUNC | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
                on(Operand::Target, sys::openat2(dir.as_fd(), name, flags, 0, libc::RESOLVE_BENEATH))?
            }
            failed => on(Operand::Target, failed)?,
        };
        Ok(sys::write_all(file.as_fd(), data)?)
    }

    fn bind_same(&mut self, source: &HostPath, file: [u64; 2], at: &Inside, attributes: u64) -> Done {
        let mount = on(Operand::Source, clone_source(source))?;
        let stat = sys::fstat(mount.as_fd())?;
        if [stat.device, stat.inode] != file {
            return Err(Fault { errno: libc::ESTALE, operand: Operand::Source });
        }
        self.mount(mount, at, Reach::Tree, attributes)
    }

    fn entry_overlay(&mut self, at: &Inside, lowers: &[HostPath], upper: &EntryUpper, names: &[CString; 3]) -> Done {
        let mut layers = Layers::new();
        let open = |path: &HostPath, operand| {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            on(operand, sys::openat2(sys::CWD, &path.0, flags, 0, libc::RESOLVE_NO_SYMLINKS))
        };
        for lower in lowers.iter().rev() {
            layers.add(open(lower, Operand::Source)?)?;
        }
        let [name, upper_name, work_name] = names;
        let workspace = self.workspace()?;
        let made = |name: &CStr| {
            sys::mkdirat(workspace, name, 0o755)?;
            sys::openat2(workspace, name, libc::O_PATH | libc::O_DIRECTORY, 0, 0)
        };
        made(name)?;
        let dirs: Option<[Fd; 2]> = match upper {
            EntryUpper::Nothing => None,
            EntryUpper::Memory => Some([made(upper_name)?, made(work_name)?]),
            EntryUpper::Dirs([upper, work]) => Some([open(upper, Operand::Target)?, open(work, Operand::Target)?]),
        };
        let mount = self.stack(&layers, dirs.as_ref().map(|dirs| dirs.each_ref().map(AsFd::as_fd)), name)?;
        if matches!(upper, EntryUpper::Memory) {
            self.add_own(mount.as_fd())?;
        }
        let read_only = if dirs.is_none() { attr::READ_ONLY } else { 0 };
        self.mount(mount, at, Reach::Mount, attr::NO_SUID | attr::NO_DEV | read_only)
    }

    fn set_mode(&self, at: &Inside, mode: u32) -> Done {
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = on(Operand::Target, sys::openat2(self.root()?, &at.path, flags, 0, resolve))?;
        self.check_own(file.as_fd())?;
        on(Operand::Target, sys::fchmod(file.as_fd(), mode))
    }
}
