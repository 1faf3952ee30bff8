//! Removes trees, whoever their files belong to.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use super::hand::{FILE, Hand, PARENT, TREE, close_from, open, path};
use crate::error::{Error, Layer, Result};
use crate::sys::Errno;

impl Hand {
    /// Removes a directory of the hand's work, with all that is in it.
    ///
    /// The hand may enter every directory, the host need not; so the host only reads what the hand has opened.
    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        // From where its paths begin: with more before them, they could be too long.
        if self.enter(&format!("{name}/diff"))? {
            self.remove_below(Vec::new())?;
        }
        self.enter(".")?;
        self.remove_below(name.as_bytes().to_vec())
    }

    /// Removes a directory below the tree; of the tree itself, which has no name, only what is in it.
    fn remove_below(&mut self, first: Vec<u8>) -> Result<()> {
        let mut dirs = vec![first];
        while let Some(dir) = dirs.last().cloned() {
            let below = self.empty(&dir)?;
            if below.is_empty() {
                dirs.pop();
                self.remove_dir(&dir)?;
            }
            dirs.extend(below);
        }
        Ok(())
    }

    /// Removes all files of a directory, and returns the directories in it.
    fn empty(&mut self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        let opened = match self.open_dir(dir)? {
            Err(Errno(libc::ENOENT)) => return Ok(Vec::new()),
            opened => opened.map_err(|errno| failed(dir, errno))?,
        };
        let (files, dirs) = list(&opened).map_err(|errno| failed(dir, Errno(errno)))?;
        self.add(dir, |calls| {
            calls.call(libc::SYS_close, [PARENT.into()]);
            open(calls, TREE, dir, libc::O_PATH | libc::O_DIRECTORY);
        })?;
        for name in files {
            self.add(&name, |calls| {
                let name = path(calls, &name);
                calls.attempt(libc::SYS_unlinkat, [PARENT.into(), name, 0.into()]);
            })?;
        }
        self.flush()?;
        let path = |name: Vec<u8>| if dir.is_empty() { name } else { [dir, b"/", &name].concat() };
        Ok(dirs.into_iter().map(path).collect())
    }

    fn remove_dir(&mut self, dir: &[u8]) -> Result<()> {
        if dir.is_empty() {
            return Ok(());
        }
        let above = dir.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &dir[..slash]);
        let name = &dir[if above.is_empty() { 0 } else { above.len() + 1 }..];
        let removed = self.attempt(|calls| {
            close_from(calls, FILE);
            open(calls, TREE, above, libc::O_PATH | libc::O_DIRECTORY);
            let name = path(calls, name);
            calls.call(libc::SYS_unlinkat, [FILE.into(), name, libc::AT_REMOVEDIR.into()]);
            calls.call(libc::SYS_close, [FILE.into()]);
        })?;
        match removed {
            Ok(()) | Err((_, Errno(libc::ENOENT))) => Ok(()),
            Err((_, errno)) => Err(failed(dir, errno)),
        }
    }
}

type Names = Vec<Vec<u8>>;

/// The names in a directory: of files, and of directories.
fn list(dir: &OwnedFd) -> std::result::Result<(Names, Names), i32> {
    let number = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    // It is open already: this asks for no right of its own but to read, which the hand had.
    let mut opened = nix::dir::Dir::from_fd(dir.try_clone().map_err(number)?).map_err(|errno| errno as i32)?;
    for entry in opened.iter() {
        let entry = entry.map_err(|errno| errno as i32)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let is_dir = match entry.file_type() {
            Some(kind) => kind == nix::dir::Type::Directory,
            // Some file systems do not tell it there.
            None => nix::sys::stat::fstatat(dir, OsStr::from_bytes(name), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR),
        };
        if is_dir { &mut dirs } else { &mut files }.push(name.to_vec());
    }
    Ok((files, dirs))
}

fn failed(path: &[u8], Errno(errno): Errno) -> Error {
    Error::os(Layer::Image, format!("remove \"{}\"", crate::plan::Escaped(path)), errno)
}
