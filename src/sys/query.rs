//! Questions about the kernel that change nothing.

use core::ffi::CStr;
use std::os::fd::BorrowedFd;

use super::{Errno, Result, call, ptr, raw};

/// landlock_create_ruleset(2) with `LANDLOCK_CREATE_RULESET_VERSION`: the version of the Landlock interface.
pub(crate) fn landlock_version() -> Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: usize = 1;
    let args = [0, 0, LANDLOCK_CREATE_RULESET_VERSION];
    // SAFETY: For this question the kernel wants no structure, and makes no descriptor.
    unsafe { call(libc::SYS_landlock_create_ruleset, args) }.map(|version| version as u32)
}

/// seccomp(2) with `SECCOMP_GET_ACTION_AVAIL`: whether filters can have this action.
pub(crate) fn seccomp_has(action: u32) -> Result<()> {
    let args = [libc::SECCOMP_GET_ACTION_AVAIL as usize, 0, &raw const action as usize];
    // SAFETY: The kernel reads one number, which outlives the call.
    unsafe { call(libc::SYS_seccomp, args) }.map(drop)
}

/// getgroups(2): whether the caller is in other groups than this one. Too many to be told are others.
pub(crate) fn in_other_groups(own: u32) -> bool {
    let mut groups = [0_u32; 64];
    let args = [groups.len(), groups.as_mut_ptr() as usize];
    // SAFETY: The kernel writes at most as many numbers as are given.
    let count = unsafe { call(libc::SYS_getgroups, args) };
    count.map_or(true, |count| groups.iter().take(count).any(|group| *group != own))
}

/// capget(2): the permitted set of the calling thread.
pub(crate) fn permitted_capabilities() -> Result<u64> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: The kernel reads the header of 8 bytes and writes, for this version, two entries of 12 bytes.
    unsafe { call(libc::SYS_capget, [header.as_ptr() as usize, sets.as_mut_ptr() as usize]) }?;
    let [_, low, _, _, high, _] = sets;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// clone3(2) with arguments of no size, which makes no process: EINVAL says that the call is to be had.
pub(crate) fn clone3_refusal() -> Errno {
    // SAFETY: With a size of 0 the kernel reads nothing.
    unsafe { call(libc::SYS_clone3, [0, 0]) }.err().unwrap_or(Errno(libc::EIO))
}

/// getxattr(2): returns how long the value is.
#[cfg(feature = "image")]
pub(crate) fn getxattr(path: &CStr, name: &CStr, value: &mut [u8]) -> Result<usize> {
    let args = [ptr(path), ptr(name), value.as_mut_ptr() as usize, value.len()];
    // SAFETY: Both strings end in a zero byte; the kernel writes at most `value.len()` bytes into `value`.
    unsafe { call(libc::SYS_getxattr, args) }
}

/// getxattr(2): the size of an extended attribute.
pub(crate) fn xattr_size(path: &CStr, name: &CStr) -> Result<usize> {
    // SAFETY: Both strings end in a zero byte and are only read; with a size of 0 the kernel writes nothing.
    unsafe { call(libc::SYS_getxattr, [ptr(path), ptr(name), 0, 0]) }
}

/// The root of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountRoot {
    /// The id of the mount.
    pub(crate) id: u64,
    /// The file that is mounted: its device and inode.
    pub(crate) file: (u64, u64),
}

/// statx(2) with `STATX_MNT_ID`: the mount that `file` is the root of, if it is one (Linux 5.8).
pub(crate) fn root_of_mount(file: BorrowedFd<'_>) -> Result<Option<MountRoot>> {
    const STATX_INO: usize = 0x100;
    const STATX_MNT_ID: usize = 0x1000;
    const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    // The kernel's `struct statx`, of which not every C library has all: stx_attributes, stx_ino, both halves of
    // stx_dev, stx_mnt_id.
    let mut stat = [0_u64; 32];
    let flags = libc::AT_EMPTY_PATH as usize;
    let args = [raw(file), ptr(c""), flags, STATX_INO | STATX_MNT_ID, stat.as_mut_ptr() as usize];
    // SAFETY: The path ends in a zero byte, and the kernel writes one structure of 256 bytes, which is what there is.
    unsafe { call(libc::SYS_statx, args) }?;
    let [_, attributes, _, _, inode, ..] = stat;
    let [.., device, id, _, _, _, _, _, _, _, _, _, _, _, _, _] = stat;
    let root = MountRoot { id, file: (device, inode) };
    Ok((attributes & STATX_ATTR_MOUNT_ROOT != 0).then_some(root))
}
