//! The steps of a template, which many starts go on from, and of a start from it.
//!
//! What a start mounts for itself comes on top of the template's tree, which it has a copy of. What it takes for that lies
//! in the mount that the root is mounted over: no path leads there, and no list of mounts inside has it. There is a /proc
//! too, of a PID namespace that has ended: the kernel lets a user namespace mount a new one only where its mount namespace
//! has another that nothing is mounted on.

use core::ffi::CStr;
use std::os::fd::AsFd;

use super::mount::{EMPTY_DIR, EMPTY_FILE, HIDDEN, clone_source, create};
use super::{Done, State, on};
use crate::plan::{Fault, HostPath, Inside, InsideKind, Operand, attr};
use crate::sys::{self, Errno, Reach};

/// The name of the /proc that is hidden.
const PROC: &CStr = c"proc";

/// What tells that a network namespace without an interface that is up was used.
const COUNTERS: [&CStr; 5] = [
    c"/proc/self/net/sockstat",
    c"/proc/self/net/snmp",
    c"/proc/self/net/snmp6",
    c"/proc/self/net/netstat",
    c"/proc/self/net/ip6_flowlabel",
];

const SEALED: u64 = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC;

impl State<'_> {
    pub(super) fn write_proc(&self, path: &CStr, data: &[u8]) -> Done {
        let file = self.context.open_proc(path, libc::O_WRONLY, libc::RESOLVE_NO_MAGICLINKS)?;
        Ok(sys::write_all(file.as_fd(), data)?)
    }

    pub(super) fn enter_owner(&self) -> Done {
        let [user, ..] = self.context.template;
        Ok(sys::setns_fd(sys::borrow(user), libc::CLONE_NEWUSER)?)
    }

    pub(super) fn enter_template(&self, network: bool) -> Done {
        let [_, mount, kept, own_network] = self.context.template;
        // First the user namespace, which gives the capabilities for the others.
        self.enter_owner()?;
        if network {
            sys::setns_fd(sys::borrow(own_network), libc::CLONE_NEWNET)?;
        }
        sys::setns_fd(sys::borrow(mount), libc::CLONE_NEWNS)?;
        // The copy of the mount namespace that is made next has a copy of this directory too: the only way there.
        Ok(sys::fchdir(sys::borrow(kept))?)
    }

    pub(super) fn hand_over(&self) -> Done {
        let host = sys::borrow(self.context.handover);
        for path in [c"/proc/self/ns/user", c"/proc/self/ns/mnt"] {
            let namespace = self.context.open_proc(path, libc::O_RDONLY, 0)?;
            sys::send_fd(host, namespace.as_fd())?;
        }
        Ok(sys::send_fd(host, self.hidden()?)?)
    }

    pub(super) fn hand_over_network(&self) -> Done {
        let namespace = self.context.open_proc(c"/proc/self/ns/net", libc::O_RDONLY, 0)?;
        let host = sys::borrow(self.context.handover);
        sys::send_fd(host, namespace.as_fd())?;
        for path in COUNTERS {
            match self.context.open_proc(path, libc::O_RDONLY, 0) {
                // This kernel lacks that protocol.
                Err(Errno(libc::ENOENT)) => {}
                file => sys::send_fd(host, file?.as_fd())?,
            }
        }
        Ok(())
    }

    pub(super) fn stage(&self, source: &HostPath, name: &CStr, kind: InsideKind, attributes: u64) -> Done {
        let hidden = sys::openat2(self.workspace()?, HIDDEN, libc::O_PATH, 0, 0)?;
        match kind {
            InsideKind::Dir => sys::mkdirat(hidden.as_fd(), name, 0o755)?,
            InsideKind::File => drop(create(hidden.as_fd(), name, 0o444)?),
        }
        let mount = on(Operand::Source, clone_source(source))?;
        sys::mount_setattr(mount.as_fd(), Reach::Tree, attributes)?;
        Ok(sys::attach_at(mount.as_fd(), hidden.as_fd(), name)?)
    }

    pub(super) fn stage_file(&self, name: &CStr, data: &[u8]) -> Done {
        let hidden = sys::openat2(self.workspace()?, HIDDEN, libc::O_PATH, 0, 0)?;
        let file = create(hidden.as_fd(), name, 0o444)?;
        Ok(sys::write_all(file.as_fd(), data)?)
    }

    pub(super) fn keep(&mut self) -> Done {
        self.hide()?;
        let context = sys::fsopen(c"proc")?;
        let proc = sys::fsmount(context.as_fd(), attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC)?;
        Ok(sys::attach_at(proc.as_fd(), self.hidden()?, PROC)?)
    }

    pub(super) fn take_up(&mut self) -> Done {
        self.hidden = Some(sys::openat2(sys::CWD, c".", libc::O_PATH, 0, 0)?);
        let root = sys::openat2(sys::CWD, c"/", libc::O_PATH, 0, 0)?;
        sys::fchdir(root.as_fd())?;
        self.root = Some(root);
        Ok(())
    }

    /// The start has its own by now. The program may be allowed to make namespaces: this one, of which nothing is hidden,
    /// would let it mount another there.
    pub(super) fn cover_proc(&self) -> Done {
        let empty = sys::clone_tree(self.hidden()?, EMPTY_DIR)?;
        Ok(sys::attach_at(empty.as_fd(), self.hidden()?, PROC)?)
    }

    /// pivot_root(2) to the workspace; what was to be the root comes to lie on top of it.
    pub(super) fn pivot_over(&mut self) -> Done {
        sys::fchdir(self.workspace()?)?;
        sys::pivot_root_here()?;
        // Lazily, as in `pivot`.
        sys::detach_here()?;
        Ok(sys::attach_at(self.root()?, sys::CWD, c"/")?)
    }

    pub(super) fn attach(&mut self, name: &CStr, at: &Inside, attributes: u64) -> Done {
        let mount = sys::clone_tree(self.hidden()?, name)?;
        if attributes & attr::READ_ONLY == 0 {
            self.add_writable(mount.as_fd())?;
        }
        self.mount(mount, at, Reach::Tree, attributes)
    }

    pub(super) fn hidden(&self) -> Result<std::os::fd::BorrowedFd<'_>, Fault> {
        self.hidden.as_ref().map(AsFd::as_fd).ok_or(Errno(libc::EBADF).into())
    }

    /// Puts a read-only mount over what is hidden in the workspace, if there is none yet.
    pub(super) fn hide(&mut self) -> Done {
        if self.hidden.is_some() {
            return Ok(());
        }
        let hidden = sys::clone_tree(self.workspace()?, HIDDEN)?;
        sys::mount_setattr(hidden.as_fd(), Reach::Mount, SEALED)?;
        sys::attach_at(hidden.as_fd(), self.workspace()?, HIDDEN)?;
        self.hidden = Some(hidden);
        Ok(())
    }

    /// Makes the sandbox's own /proc the root of this process, and what is hidden its directory: there, paths can't lead
    /// elsewhere, whoever renames directories, and one system call binds what hides something.
    fn enter_proc(&mut self) -> Done {
        if self.outside.is_some() {
            return Ok(());
        }
        self.hide()?;
        let Some(proc) = &self.proc else { return Err(Errno(libc::EBADF).into()) };
        let outside = sys::openat2(sys::CWD, c"/", libc::O_PATH, 0, 0)?;
        sys::fchdir(proc.as_fd())?;
        sys::chroot_here()?;
        self.outside = Some(outside);
        Ok(sys::fchdir(self.hidden()?)?)
    }

    /// Has this process have its root again.
    pub(super) fn leave_proc(&mut self) -> Done {
        let Some(outside) = self.outside.take() else { return Ok(()) };
        sys::fchdir(outside.as_fd())?;
        Ok(sys::chroot_here()?)
    }

    /// Hides something right below the sandbox's own /proc, which is most likely of this kind.
    pub(super) fn mask_in_proc(&mut self, path: &CStr, kind: InsideKind) -> Done {
        self.enter_proc()?;
        let (likely, other) = match kind {
            InsideKind::File => (EMPTY_FILE, EMPTY_DIR),
            InsideKind::Dir => (EMPTY_DIR, EMPTY_FILE),
        };
        // A file is put over a file only, a directory over a directory. To be refused takes longer than all other masks: the
        // kernel waits for its other processors before it drops a mount that had no place.
        match sys::bind(likely, path) {
            Err(Errno(libc::ENOTDIR)) => on(Operand::Target, sys::bind(other, path)),
            Err(Errno(libc::ENOENT)) => Ok(()),
            done => on(Operand::Target, done),
        }
    }

    /// Makes something right below the sandbox's own /proc read-only.
    pub(super) fn protect_in_proc(&mut self, path: &CStr) -> Done {
        self.enter_proc()?;
        match sys::bind(path, path) {
            Err(Errno(libc::ENOENT)) => Ok(()),
            done => {
                on(Operand::Target, done)?;
                on(Operand::Target, sys::mount_setattr_at(sys::CWD, path, Reach::Mount, SEALED))
            }
        }
    }
}
