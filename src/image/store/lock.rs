//! Locks between processes: flock(2), which ends with the process.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::failed;
use crate::error::Result;

/// A locked file, until it is dropped.
pub(super) type Locked = Flock<File>;

/// What came of an attempt.
enum Attempt {
    Locked(Locked),
    /// Somebody else has it.
    Busy,
    /// Whoever had it has removed the file.
    Gone,
}

/// Waits for the lock of a file, which is made if it is missing.
pub(super) fn lock(path: &Path, how: FlockArg) -> Result<Locked> {
    loop {
        if let Attempt::Locked(locked) = attempt(path, how)? {
            return Ok(locked);
        }
    }
}

/// Takes the lock of a file for oneself, unless somebody else has it. The file is made if it is missing.
pub(super) fn try_lock(path: &Path) -> Result<Option<Locked>> {
    loop {
        match attempt(path, FlockArg::LockExclusiveNonblock)? {
            Attempt::Locked(locked) => return Ok(Some(locked)),
            Attempt::Busy => return Ok(None),
            Attempt::Gone => {}
        }
    }
}

fn attempt(path: &Path, how: FlockArg) -> Result<Attempt> {
    let wrong = |error: io::Error| failed("lock", &error).with_path(path);
    let file = open(path).map_err(wrong)?;
    let locked = flock(file, how).map_err(wrong)?;
    let Some(locked) = locked else { return Ok(Attempt::Busy) };
    // Whoever had it may have removed the file: then this is the lock of nothing.
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let there = std::fs::symlink_metadata(path).ok().map(identity);
    match there == locked.metadata().ok().map(identity) {
        true => Ok(Attempt::Locked(locked)),
        false => Ok(Attempt::Gone),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    // The umask of the host may have taken some of it.
    if file.metadata()?.mode() & 0o600 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// flock(2), again after a signal; none where it would have to wait and must not.
fn flock(mut file: File, how: FlockArg) -> io::Result<Option<Locked>> {
    loop {
        match Flock::lock(file, how) {
            Ok(locked) => return Ok(Some(locked)),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((same, Errno::EINTR)) => file = same,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}
