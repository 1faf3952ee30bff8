//! What the layers below have: a layer may have another name for a file of theirs, and be silent about its directories.

use std::os::fd::OwnedFd;

use nix::sys::stat::{FileStat, fstat};

use super::attributes::Attributes;
use super::hand::{self, FILE, Hand, OTHER, PARENT, TREE, close_from, create, open, unlink};
use super::marks::OPAQUE;
use super::ownership::Owners;
use crate::agent::Arg;
use crate::error::{Error, Layer, Result};
use crate::image::layer::EntryPath;
use crate::plan::Escaped;
use crate::sys::Errno;

/// How much one call copies at most: the kernel's own bound.
const COPY: u64 = 0x7fff_f000;

/// Something in a finished layer.
pub(super) struct Found<'a> {
    layer: &'a str,
    fd: OwnedFd,
    stat: FileStat,
}

impl Found<'_> {
    /// Its size, if it is a file.
    pub(super) fn file_size(&self) -> Option<u64> {
        (self.stat.st_mode & libc::S_IFMT == libc::S_IFREG).then(|| self.stat.st_size.unsigned_abs())
    }

    /// Mode, owner and time of a file or directory.
    pub(super) fn attributes(&self, owners: &Owners) -> Attributes {
        Attributes::of(&self.fd, &self.stat, owners)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.stat.st_mode & libc::S_IFMT == libc::S_IFDIR
    }

    fn is_whiteout(&self) -> bool {
        self.stat.st_mode & libc::S_IFMT == libc::S_IFCHR
    }
}

impl Hand {
    /// Looks for a path in layers, the uppermost first, as an overlay of them would.
    pub(super) fn look_up<'a>(&mut self, layers: &'a [String], path: &EntryPath) -> Result<Option<Found<'a>>> {
        for layer in layers {
            match self.open_in(layer, path)? {
                Ok(fd) => {
                    let stat = fstat(&fd).map_err(|errno| failed(path, Errno(errno as i32)))?;
                    let found = Found { layer, fd, stat };
                    return Ok((!found.is_whiteout()).then_some(found));
                }
                // Something above it that is no directory hides what is below, as a whiteout does.
                Err(Errno(libc::ENOTDIR | libc::ELOOP)) => return Ok(None),
                Err(Errno(libc::ENOENT)) if self.is_opaque(layer, path)? => return Ok(None),
                Err(Errno(libc::ENOENT)) => {}
                Err(errno) => return Err(failed(path, errno)),
            }
        }
        Ok(None)
    }

    /// Copies a file of a layer to `name` in `PARENT`, which is `FILE` then.
    pub(super) fn copy(&mut self, from: &Found<'_>, path: &EntryPath, name: &[u8]) -> Result<()> {
        let size = from.file_size().unwrap_or_default();
        let copied = self.attempt(|calls| {
            close_from(calls, FILE);
            Hand::open_layer(calls, from.layer);
            open(calls, FILE, path.as_bytes(), libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK);
            // The number of the new file has to be the one that attributes are set on.
            calls.call(libc::SYS_close, [FILE.into()]);
            unlink(calls, name);
            create(calls, PARENT, name);
            for _ in 0..size.div_ceil(COPY) {
                let zero = || Arg::Number(0);
                let args = [OTHER.into(), zero(), FILE.into(), zero(), COPY.into(), zero()];
                calls.call(libc::SYS_copy_file_range, args);
            }
            if size != 0 {
                calls.whole(libc::SYS_lseek, [FILE.into(), 0.into(), libc::SEEK_END.into()], size as usize);
            }
            calls.call(libc::SYS_close, [OTHER.into()]);
        })?;
        copied.map_err(|(_, Errno(errno))| hand::failed("copy", path.as_bytes(), errno))
    }

    fn open_in(&mut self, layer: &str, path: &EntryPath) -> Result<std::result::Result<OwnedFd, Errno>> {
        let opened = self.attempt(|calls| {
            close_from(calls, FILE);
            Hand::open_layer(calls, layer);
            open(calls, FILE, path.as_bytes(), libc::O_PATH | libc::O_NOFOLLOW);
        })?;
        match opened {
            Ok(()) => self.take(OTHER).map(Ok),
            Err((_, errno)) => Ok(Err(errno)),
        }
    }

    /// Whether a layer hides what the layers below it have at a path that it has not itself.
    fn is_opaque(&mut self, layer: &str, path: &EntryPath) -> Result<bool> {
        let mut dir = path.clone();
        while let Some((above, _)) = dir.split() {
            dir = above;
            let marked = self.attempt(|calls| {
                close_from(calls, FILE);
                Hand::open_layer(calls, layer);
                open(calls, FILE, dir.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY);
                let name = hand::path(calls, OPAQUE);
                calls.call(libc::SYS_fgetxattr, [OTHER.into(), name, 0.into(), 0.into()]);
            })?;
            if marked.is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sets what a directory of the tree is to have.
    pub(super) fn set_dir(&mut self, path: &EntryPath, attributes: &Attributes, owners: &Owners) -> Result<()> {
        self.add(path.as_bytes(), |calls| {
            close_from(calls, FILE);
            open(calls, TREE, path.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY);
        })?;
        attributes.set(self, path.as_bytes(), owners.ownership)
    }
}

fn failed(path: &EntryPath, Errno(errno): Errno) -> Error {
    Error::os(Layer::Image, format!("look for \"{}\" in the layers below", Escaped(path.as_bytes())), errno)
}
