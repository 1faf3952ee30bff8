//! A directory beside what is to be made, for what is not whole yet.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::failed;
use crate::error::Result;
use crate::sys::{self, Errno};

/// How many names are tried: what a killed process has left may have some.
const TRIES: u32 = 1000;

/// It is removed, with what is in it, when this is dropped.
pub(super) struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes it in the directory that `to` is to be in.
    pub(super) fn beside(to: &Path) -> Result<Self> {
        let wrong = |error: &io::Error| failed("make a directory", error).with_path(to);
        let to = std::path::absolute(to).map_err(|error| wrong(&error))?;
        let parent = to.parent().filter(|_| to.file_name().is_some());
        let parent = parent.ok_or_else(|| wrong(&io::Error::from_raw_os_error(libc::EINVAL)))?;
        // Told now, and not only when all is done.
        if to.symlink_metadata().is_ok() {
            return Err(wrong(&io::Error::from_raw_os_error(libc::EEXIST)));
        }
        let mut number = 0;
        loop {
            let path = parent.join(format!(".belljar-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < TRIES => number += 1,
                Err(error) => return Err(wrong(&error)),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts what was made at its place, where nothing may be.
    pub(super) fn put(self, made: &Path, to: &Path) -> Result<()> {
        let wrong = |error: io::Error| failed("put it in its place", &error).with_path(to);
        // On the disk first: what is in its place has to be whole.
        let dir = fs::File::open(&self.path).map_err(wrong)?;
        sys::syncfs(dir.as_fd()).map_err(|Errno(errno)| wrong(io::Error::from_raw_os_error(errno)))?;
        let renamed = renameat2(AT_FDCWD, made, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE);
        renamed.map_err(|errno| wrong(errno.into()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
