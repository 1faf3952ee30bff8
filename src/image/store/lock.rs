//! Locks between processes: flock(2), which ends with the process.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::failed;
use crate::error::Result;

/// A locked file, until it is dropped.
pub(super) type Locked = Flock<File>;

/// Waits for the lock of a file, which is made if it is missing.
pub(super) fn lock(path: &Path, shared: FlockArg) -> Result<Locked> {
    loop {
        if let Some(locked) = open(path, shared, true)? {
            return Ok(locked);
        }
    }
}

/// Takes the lock of a file for oneself, unless somebody else has it or the file is not there.
pub(super) fn try_lock(path: &Path) -> Result<Option<Locked>> {
    open(path, FlockArg::LockExclusiveNonblock, false)
}

fn open(path: &Path, how: FlockArg, create: bool) -> Result<Option<Locked>> {
    let wrong = |error: io::Error| failed("lock", &error).with_path(path);
    let mut options = File::options();
    options.read(true).write(true).create(create).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path).map_err(wrong)?;
    let locked = match Flock::lock(file, how) {
        Ok(locked) => locked,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(wrong(errno.into())),
    };
    // Whoever had it may have removed the file: then this is the lock of nothing.
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let there = std::fs::symlink_metadata(path).ok().map(identity);
    Ok((there == locked.metadata().ok().map(identity)).then_some(locked))
}
