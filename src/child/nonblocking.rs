//! Reading what is there, and never waiting for more.
//!
//! A poll before each read is not enough: a program can open its pipe anew and read it too, or discard what its
//! terminal holds, and so keep the host waiting in the read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::spawn::above_streams;

/// An open file that no read and no write waits for.
#[derive(Debug)]
pub(super) struct Nonblocking {
    file: File,
    /// The flags that it had, if duplicates have them in common.
    before: Option<OFlag>,
}

impl Nonblocking {
    /// A pipe is opened anew: `O_NONBLOCK` is a flag of the open file description, which the caller's duplicates refer to as
    /// well (open(2)). For others, and where there is no /proc, it is set until this is dropped.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
        if flags.contains(OFlag::O_NONBLOCK) {
            return Ok(Self { file, before: None });
        }
        if let Some(file) = opened_anew(&file) {
            return Ok(Self { file, before: None });
        }
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { file, before: Some(flags) })
    }

    /// To read and write.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// The same pipe, with flags of its own.
fn opened_anew(file: &File) -> Option<File> {
    let same = file.metadata().ok().filter(|metadata| metadata.file_type().is_fifo())?;
    // Of the thread: it may have a table of descriptors of its own.
    let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    let anew = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let anew = File::from(above_streams(anew.into()).ok()?);
    let found = anew.metadata().ok()?;
    ((found.dev(), found.ino()) == (same.dev(), same.ino())).then_some(anew)
}

impl AsFd for Nonblocking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Nonblocking {
    fn drop(&mut self) {
        if let Some(flags) = self.before {
            let _ = fcntl(&self.file, FcntlArg::F_SETFL(flags));
        }
    }
}
