//! The mount API by descriptor: fsopen(2) and its family (Linux 5.2), mount_setattr(2) (Linux 5.12).

use core::ffi::{CStr, c_int, c_uint};
use core::mem::size_of;
use std::os::fd::BorrowedFd;

use super::{Fd, Result, call, ptr, raw};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const AT_RECURSIVE: c_int = 0x8000;
const OPEN_TREE_CLONE: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;

/// fsopen(2).
pub(crate) fn fsopen(kind: &CStr) -> Result<Fd> {
    // SAFETY: `kind` ends in a zero byte and is only read.
    unsafe { call(libc::SYS_fsopen, [ptr(kind), FSOPEN_CLOEXEC as usize]) }.map(Fd::new)
}

/// fsconfig(2) with `FSCONFIG_SET_STRING`.
pub(crate) fn fsconfig(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    let args = [raw(context), FSCONFIG_SET_STRING as usize, ptr(key), ptr(value), 0];
    // SAFETY: Both strings end in a zero byte and are only read.
    unsafe { call(libc::SYS_fsconfig, args) }.map(drop)
}

/// fsconfig(2) with `FSCONFIG_CMD_CREATE`, then fsmount(2): the new file system as a detached mount.
pub(crate) fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> Result<Fd> {
    let args = [raw(context), FSCONFIG_CMD_CREATE as usize, 0, 0, 0];
    // SAFETY: This command takes no key and no value.
    unsafe { call(libc::SYS_fsconfig, args) }?;
    let args = [raw(context), FSMOUNT_CLOEXEC as usize, attributes as usize];
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fsmount, args) }.map(Fd::new)
}

/// mount(2) of a new overlay: a value for fsconfig(2) holds 256 bytes, and the options of mount(2) a page, which is what
/// the names of hundreds of layers take before Linux 6.8 gave each of them a call of its own.
pub(crate) fn mount_overlay(target: &CStr, options: &CStr) -> Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let args = [ptr(c"belljar"), ptr(target), ptr(c"overlay"), flags as usize, ptr(options)];
    // SAFETY: All strings end in a zero byte and are only read.
    unsafe { call(libc::SYS_mount, args) }.map(drop)
}

/// mount(2) with `MS_BIND`: one call, where a detached copy takes several and a mount namespace for itself. The new mount
/// has the attributes of the old.
pub(crate) fn bind(source: &CStr, target: &CStr) -> Result<()> {
    let args = [ptr(source), ptr(target), 0, libc::MS_BIND as usize, 0];
    // SAFETY: Both paths end in a zero byte and are only read; there is no type and no option.
    unsafe { call(libc::SYS_mount, args) }.map(drop)
}

/// umount2(2), of what nobody uses.
pub(crate) fn unmount(target: &CStr) -> Result<()> {
    // SAFETY: The path ends in a zero byte and is only read.
    unsafe { call(libc::SYS_umount2, [ptr(target), 0]) }.map(drop)
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached, recursive copy of the mounts at `dir` + `path`.
pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &CStr) -> Result<Fd> {
    let flags = OPEN_TREE_CLONE as usize
        | (AT_RECURSIVE | libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::O_CLOEXEC) as usize;
    // SAFETY: `path` ends in a zero byte and is only read.
    unsafe { call(libc::SYS_open_tree, [raw(dir), ptr(path), flags]) }.map(Fd::new)
}

/// move_mount(2): attaches the mount that `mount` is, where `target` is.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = (MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) as usize;
    // SAFETY: Both paths are the empty string, which ends in a zero byte.
    unsafe { call(libc::SYS_move_mount, [raw(mount), ptr(c""), raw(target), ptr(c""), flags]) }.map(drop)
}

/// move_mount(2): attaches the mount that `mount` is, at `dir` + `path`.
pub(crate) fn attach_at(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH as usize;
    // SAFETY: Both paths end in a zero byte and are only read.
    unsafe { call(libc::SYS_move_mount, [raw(mount), ptr(c""), raw(dir), ptr(path), flags]) }.map(drop)
}

/// What [`mount_setattr`] applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// One mount.
    Mount,
    /// A mount and all below it.
    Tree,
}

/// mount_setattr(2): sets attributes, and makes the mounts private: they neither send nor receive mount events.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, reach: Reach, attributes: u64) -> Result<()> {
    mount_setattr_at(mount, c"", reach, attributes)
}

/// [`mount_setattr`] of the mount at `dir` + `path`.
pub(crate) fn mount_setattr_at(dir: BorrowedFd<'_>, path: &CStr, reach: Reach, attributes: u64) -> Result<()> {
    let attr = MountAttr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    let flags = match reach {
        Reach::Mount => libc::AT_EMPTY_PATH,
        Reach::Tree => libc::AT_EMPTY_PATH | AT_RECURSIVE,
    };
    let args = [raw(dir), ptr(path), flags as usize, &raw const attr as usize, size_of::<MountAttr>()];
    // SAFETY: `path` ends in a zero byte, `attr` outlives the call and its size is given; the kernel only reads them.
    unsafe { call(libc::SYS_mount_setattr, args) }.map(drop)
}

/// chroot(2) to the working directory.
pub(crate) fn chroot_here() -> Result<()> {
    // SAFETY: The path ends in a zero byte and is only read.
    unsafe { call(libc::SYS_chroot, [ptr(c".")]) }.map(drop)
}

/// mount_setattr(2): keeps a mount, and those below it, out of copies of what it is mounted on.
pub(crate) fn make_unbindable(mount: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr { attr_set: 0, attr_clr: 0, propagation: libc::MS_UNBINDABLE, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH as usize;
    let args = [raw(mount), ptr(c""), flags, &raw const attr as usize, size_of::<MountAttr>()];
    // SAFETY: `attr` outlives the call and its size is given; the kernel only reads it.
    unsafe { call(libc::SYS_mount_setattr, args) }.map(drop)
}

/// pivot_root(2) with both paths ".": the working directory becomes the root, and the old root lies on top of it.
pub(crate) fn pivot_root_here() -> Result<()> {
    // SAFETY: Both paths end in a zero byte and are only read.
    unsafe { call(libc::SYS_pivot_root, [ptr(c"."), ptr(c".")]) }.map(drop)
}

/// umount2(2) of "." with `MNT_DETACH`.
pub(crate) fn detach_here() -> Result<()> {
    // SAFETY: The path ends in a zero byte and is only read.
    unsafe { call(libc::SYS_umount2, [ptr(c"."), libc::MNT_DETACH as usize]) }.map(drop)
}
