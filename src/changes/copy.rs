//! Copies a part of the root out, as the program has left it.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use super::layers::{Found, Layers, Meta, c_path, join};
use super::{ChangeLimits, Count, FileType, Written, at};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::Escaped;
use crate::sys::{self, Errno};

const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;

/// Copies what is at `from` inside to `to` outside.
pub(crate) fn copy_out(written: &Written, limits: &ChangeLimits, from: &Path, to: &Path) -> Result<()> {
    let _alone = written.lock()?;
    let layers = written.layers()?;
    let (path, found) = resolve(&layers, from)?;
    let (Some(name), Some(parent)) = (to.file_name(), to.parent()) else {
        return Err(outside(to, libc::EINVAL));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(parent);
    let parent = opened.map_err(|error| outside(parent, error.raw_os_error().unwrap_or(libc::EIO)))?;
    let name = c_path(name.as_bytes())?;
    let mut copy = Copy { layers: &layers, count: Count::new(limits), to, dirs: Vec::new(), made: false };
    let is_dir = found.meta.is_dir();
    let copied = match found.meta.file_type {
        FileType::Directory => copy.tree(parent.as_fd(), &name, path, found),
        _ => copy.entry(parent.as_fd(), &name, &path, &found, None),
    };
    if copied.is_err() && copy.made {
        let _ = if is_dir { fs::remove_dir_all(to) } else { fs::remove_file(to) };
    }
    copied
}

/// Finds a path, component by component.
fn resolve(layers: &Layers, from: &Path) -> Result<(Vec<u8>, Found)> {
    let root = layers.meta(0, b"")?.ok_or_else(|| at(b"", libc::ENOENT))?;
    let mut found = Found { meta: root, layer: Some(0), dirs: layers.root() };
    let mut path = Vec::new();
    let invalid = |cause| {
        let step = format!("copy out {}", Escaped(from.as_os_str().as_bytes()));
        Error::invalid(Layer::Mount, step, cause).with_errno(libc::EINVAL).with_path(from)
    };
    if !from.is_absolute() {
        return Err(invalid("the path inside must be absolute"));
    }
    for component in from.components() {
        match component {
            Component::Normal(name) => {
                match found.meta.file_type {
                    FileType::Directory => {}
                    FileType::Symlink => return Err(at(&path, libc::ELOOP)),
                    _ => return Err(at(&path, libc::ENOTDIR)),
                }
                path = join(&path, name.as_bytes());
                found = layers.find(&found.dirs, &path)?.ok_or_else(|| at(&path, libc::ENOENT))?;
            }
            Component::ParentDir => return Err(invalid("the path inside must not have \"..\"")),
            _ => {}
        }
    }
    Ok((path, found))
}

struct Copy<'a> {
    layers: &'a Layers,
    count: Count<'a>,
    to: &'a Path,
    /// The directories that were made, with what they get when all is in them: below the parent of the first.
    dirs: Vec<(CString, Meta)>,
    /// Whether something of ours is at the destination.
    made: bool,
}

impl Copy<'_> {
    /// Copies a directory, and what is in it, a directory at a time.
    fn tree(&mut self, parent: std::os::fd::BorrowedFd<'_>, name: &CString, path: Vec<u8>, found: Found) -> Result<()> {
        self.make_dir(parent, name)?;
        self.dirs.push((name.clone(), found.meta));
        let mut pending = vec![(Vec::new(), found)];
        while let Some((below, found)) = pending.pop() {
            let place = c_path(&join(name.as_bytes(), &below))?;
            let dir = self.open_dir(parent, &place, libc::O_PATH)?;
            let inside = if below.is_empty() { path.clone() } else { join(&path, &below) };
            for entry in self.layers.names(&found.dirs, &inside, &mut self.count)? {
                let inside = join(&inside, &entry);
                // Hidden, or gone.
                let Some(found) = self.layers.find(&found.dirs, &inside)? else { continue };
                let entry = (c_path(&entry)?, join(&below, &entry));
                if found.meta.is_dir() {
                    self.make_dir(dir.as_fd(), &entry.0)?;
                    self.dirs.push((c_path(&join(name.as_bytes(), &entry.1))?, found.meta));
                    pending.push((entry.1, found));
                } else {
                    let depth = below.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
                    self.entry(dir.as_fd(), &entry.0, &inside, &found, Some(depth))?;
                }
            }
        }
        // What is in a directory changes its time, and its mode might forbid that.
        for (place, meta) in std::mem::take(&mut self.dirs).iter().rev() {
            let dir = self.open_dir(parent, place, libc::O_RDONLY)?;
            self.finish(&dir, meta, 0o700)?;
        }
        Ok(())
    }

    /// Copies what is no directory. A link may lead as far up as `depth`.
    fn entry(
        &mut self,
        dir: std::os::fd::BorrowedFd<'_>,
        name: &CString,
        inside: &[u8],
        found: &Found,
        depth: Option<usize>,
    ) -> Result<()> {
        let layer = found.layer.ok_or_else(|| at(inside, libc::ENOENT))?;
        match (found.meta.file_type, depth) {
            (FileType::File, _) => {
                self.count.bytes(found.meta.size)?;
                let source = self.layers.read(layer, inside)?;
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
                let file = sys::openat2(dir, name, flags, 0o600, BENEATH).map_err(|errno| self.failed(errno))?;
                self.made = true;
                let mut file = fs::File::from(OwnedFd::from(file));
                // No more than was counted, should it grow.
                let copied = io::copy(&mut source.take(found.meta.size), &mut file);
                copied.map_err(|error| outside(self.to, error.raw_os_error().unwrap_or(libc::EIO)))?;
                self.finish(&file.into(), &found.meta, 0o600)
            }
            (FileType::Symlink, Some(depth)) => {
                let target = self.layers.link(layer, inside)?;
                if !stays(&target, depth) {
                    let cause = format!("a symbolic link to \"{}\" would lead out of the copy", Escaped(&target));
                    return Err(refused(inside, &cause, libc::EXDEV));
                }
                sys::symlinkat(&c_path(&target)?, dir, name).map_err(|errno| self.failed(errno))
            }
            (FileType::Symlink, None) => Err(at(inside, libc::ELOOP)),
            _ => Err(refused(inside, "only files, directories and symbolic links are copied", libc::EINVAL)),
        }
    }

    fn make_dir(&mut self, dir: std::os::fd::BorrowedFd<'_>, name: &CString) -> Result<()> {
        sys::mkdirat(dir, name, 0o700).map_err(|errno| self.failed(errno))?;
        self.made = true;
        Ok(())
    }

    fn open_dir(&self, parent: std::os::fd::BorrowedFd<'_>, path: &CString, flags: i32) -> Result<OwnedFd> {
        let flags = flags | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let opened = sys::openat2(parent, path, flags, 0, BENEATH);
        opened.map(OwnedFd::from).map_err(|errno| self.failed(errno))
    }

    /// Sets the mode, which has no set-id bits and lets nobody else write, and the time.
    fn finish(&self, file: &OwnedFd, meta: &Meta, least: u32) -> Result<()> {
        sys::fchmod(file.as_fd(), meta.mode & 0o755 | least).map_err(|errno| self.failed(errno))?;
        let time = libc::timespec { tv_sec: meta.mtime.0, tv_nsec: meta.mtime.1 };
        sys::set_times_of(file.as_fd(), &[time, time]).map_err(|errno| self.failed(errno))
    }

    fn failed(&self, Errno(errno): Errno) -> Error {
        outside(self.to, errno)
    }
}

/// Whether a link in a directory that lies `depth` below the top of the copy leads to a place in it. Only at the start
/// is `..` the directory above: behind the name of another link it is wherever that leads to.
fn stays(target: &[u8], depth: usize) -> bool {
    let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let up = names.clone().take_while(|name| *name == b"..").count();
    !target.starts_with(b"/") && up <= depth && !names.skip(up).any(|name| name == b"..")
}

fn refused(inside: &[u8], cause: &str, errno: i32) -> Error {
    let path = [b"/", inside].concat();
    let step = format!("copy out {}", Escaped(&path));
    let error = Error::new(Layer::Mount, ErrorKind::Os, step, cause).with_errno(errno);
    error.with_path(Path::new(std::ffi::OsStr::from_bytes(&path)))
}

fn outside(path: &Path, errno: i32) -> Error {
    Error::os(Layer::Mount, format!("copy out to {}", Escaped(path.as_os_str().as_bytes())), errno).with_path(path)
}

#[cfg(test)]
mod tests {
    use super::stays;

    #[test]
    fn a_link_stays_if_it_goes_up_at_its_start_and_not_too_far() {
        for (target, depth, good) in [
            ("a", 0, true),
            ("./a//b/.", 0, true),
            ("..", 0, false),
            ("..", 1, true),
            ("../../a", 2, true),
            ("./../..", 1, false),
            ("a/..", 5, false),
            ("../a/../b", 5, false),
            ("/a", 5, false),
            ("..a", 0, true),
        ] {
            assert_eq!(stays(target.as_bytes(), depth), good, "{target} {depth}");
        }
    }
}
