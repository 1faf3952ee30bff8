//! What a file has besides its content, and how the hand sets it.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::stat::FileStat;

use super::hand::{FILE, Hand, PARENT, path};
use super::ownership::{Owners, Ownership};
use crate::agent::{Arg, Calls};
use crate::error::Result;
use crate::image::layer::Time;

/// Where tools without privilege keep the owner that a file should have: rootlesscontaine.rs.
pub(super) const OWNER: &[u8] = b"user.rootlesscontainers";

/// Mode, owner, time and extended attributes.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Time,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// Those of a file or directory in a finished layer.
    pub(super) fn of(file: &OwnedFd, stat: &FileStat, owners: &Owners) -> Self {
        let told = match owners.ownership {
            Ownership::Caller => read_owner(file),
            _ => owners.inside(stat.st_uid, stat.st_gid),
        };
        let mtime = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec.unsigned_abs() as u32 };
        Self { mode: stat.st_mode & 0o7777, owner: told.unwrap_or_default(), mtime, xattrs: Vec::new() }
    }

    /// How much memory it takes, beside its own.
    pub(super) fn size(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.as_bytes().len() + value.len() + 64).sum()
    }

    /// Sets everything on `FILE`, in the name of `entry`: the owner first, a change of which takes bits of the mode; the
    /// times last. What is set at once has to fit into a message, so extended attributes go one by one.
    pub(super) fn set(&self, hand: &mut Hand, entry: &[u8], ownership: Ownership) -> Result<()> {
        let (uid, gid) = self.owner;
        hand.add(entry, |calls| match ownership {
            Ownership::Caller if self.owner == (0, 0) => {}
            // Only told, so it does not matter where attributes are not to be had.
            Ownership::Caller => {
                let args = xattr(calls, OWNER, &owner(self.owner));
                calls.attempt(libc::SYS_fsetxattr, args);
            }
            _ => calls.call(libc::SYS_fchown, [FILE.into(), uid.into(), gid.into()]),
        })?;
        for (name, value) in &self.xattrs {
            hand.add(entry, |calls| {
                let args = xattr(calls, name.as_bytes(), value);
                calls.call(libc::SYS_fsetxattr, args);
            })?;
        }
        hand.add(entry, |calls| {
            calls.call(libc::SYS_fchmod, [FILE.into(), self.mode.into()]);
            let times = self.times(calls);
            calls.call(libc::SYS_utimensat, [FILE.into(), Arg::Number(0), times, 0.into()]);
        })
    }

    /// Sets owner and times on what must not be opened.
    pub(super) fn set_by_name(&self, ownership: Ownership, calls: &mut Calls, name: Arg) {
        let (uid, gid) = self.owner;
        let link = libc::AT_SYMLINK_NOFOLLOW;
        if ownership != Ownership::Caller {
            calls.call(libc::SYS_fchownat, [PARENT.into(), name, uid.into(), gid.into(), link.into()]);
        }
        let times = self.times(calls);
        calls.call(libc::SYS_utimensat, [PARENT.into(), name, times, link.into()]);
    }

    /// The time of access too: nobody has looked at it yet.
    fn times(&self, calls: &mut Calls) -> Arg {
        let time = [Arg::Number(self.mtime.seconds), Arg::Number(self.mtime.nanoseconds.into())];
        calls.words(&[time, time].concat())
    }
}

/// The arguments of fsetxattr(2) on `FILE`.
pub(super) fn xattr(calls: &mut Calls, name: &[u8], value: &[u8]) -> [Arg; 5] {
    let name = path(calls, name);
    let data = calls.data(value);
    [FILE.into(), name, data, (value.len() as u64).into(), 0.into()]
}

/// Stands for root there: that is whom the file belongs to inside anyway.
const NO_CHANGE: u32 = u32::MAX;

/// A message of Protocol Buffers with two numbers.
fn owner((uid, gid): (u32, u32)) -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        message.push(tag);
        let mut rest = if id == 0 { NO_CHANGE } else { id };
        while rest >= 0x80 {
            message.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        message.push(rest as u8);
    }
    message
}

/// The owner that a file of ours tells.
fn read_owner(file: &OwnedFd) -> Option<(u32, u32)> {
    // The descriptor is one to name the file by, not to read it.
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let mut message = [0; 16];
    let length = crate::sys::getxattr(&path, c"user.rootlesscontainers", &mut message).ok()?;
    parse_owner(message.get(..length)?)
}

fn parse_owner(message: &[u8]) -> Option<(u32, u32)> {
    let mut owner = (0, 0);
    let mut bytes = message.iter();
    while let Some(tag) = bytes.next() {
        let mut id = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = *bytes.next()?;
            id |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let id = u32::try_from(id).ok().map(|id| if id == NO_CHANGE { 0 } else { id })?;
        match tag {
            0x08 => owner.0 = id,
            0x10 => owner.1 = id,
            _ => return None,
        }
    }
    Some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_as_umoci_tells_it() {
        assert_eq!(owner((65532, 65532)), [0x08, 0xfc, 0xff, 0x03, 0x10, 0xfc, 0xff, 0x03]);
        assert_eq!(owner((0, 42)), [0x08, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x10, 42]);
        for both in [(0, 0), (0, 42), (65532, 65532), (u32::MAX - 1, 1)] {
            assert_eq!(parse_owner(&owner(both)), Some(both));
        }
    }
}
