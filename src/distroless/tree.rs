//! A file system tree that is looked up as a program inside would: links lead nowhere but inside the tree.
//!
//! The tree is hostile, unless it is the host's own. A path is walked component by component from the descriptor of the
//! top, and no call follows a link by itself; what was walked is what is rebuilt inside.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::layer::mount::is_system;
use crate::sys::{self, Errno};

/// How many links a path may have, as for the kernel.
const LINKS_MAX: usize = 40;

/// The most paths that are looked up for one root: a program says how many directories each library is looked for in.
const LOOKUPS_MAX: usize = 1 << 18;

/// A tree, and what has been looked up in it.
#[derive(Debug)]
pub(crate) struct Tree {
    top: OwnedFd,
    /// Where it is on the host.
    path: PathBuf,
    /// What lies at a path that leads over no link.
    known: HashMap<PathBuf, Result<Kind, i32>>,
    lookups: usize,
}

/// What lies at a path, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File,
    /// A device, a socket or a FIFO.
    Other,
    Link(PathBuf),
}

/// Where a path has led.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Over no link.
    pub(crate) real: PathBuf,
    pub(crate) kind: Kind,
    /// The links on the way, with their targets.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
}

impl Tree {
    pub(crate) fn open(path: &Path) -> Result<Self, i32> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let top = sys::openat2(sys::CWD, &name, flags, 0, 0).map_err(|Errno(errno)| errno)?;
        Ok(Self { top: top.into(), path: path.to_owned(), known: HashMap::new(), lookups: 0 })
    }

    pub(crate) fn is_host(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The path of the host for a path in the tree.
    pub(crate) fn outside(&self, inside: &Path) -> PathBuf {
        self.path.join(relative(inside))
    }

    /// Looks an absolute path up. E2BIG says that it has been too many.
    pub(crate) fn find(&mut self, path: &Path) -> Result<Found, i32> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return Err(libc::E2BIG);
        }
        let mut rest = names(path);
        let mut found = Found { real: PathBuf::from("/"), kind: Kind::Dir, links: Vec::new() };
        while let Some(name) = rest.pop_front() {
            if found.kind != Kind::Dir {
                return Err(libc::ENOTDIR);
            }
            if name == ".." {
                found.real.pop();
                continue;
            }
            let next = found.real.join(&name);
            match self.kind(&next)? {
                Kind::Link(target) => {
                    if found.links.len() >= LINKS_MAX {
                        return Err(libc::ELOOP);
                    }
                    if target.is_absolute() {
                        found.real = PathBuf::from("/");
                    }
                    names(&target).into_iter().rev().for_each(|name| rest.push_front(name));
                    found.links.push((next, target));
                }
                kind => (found.real, found.kind) = (next, kind),
            }
        }
        Ok(found)
    }

    /// What lies at a path that leads over no link.
    pub(crate) fn kind(&mut self, path: &Path) -> Result<Kind, i32> {
        if let Some(known) = self.known.get(path) {
            return known.clone();
        }
        let kind = self.look(path);
        self.known.insert(path.to_owned(), kind.clone());
        kind
    }

    /// The same, without remembering it.
    pub(crate) fn look(&self, path: &Path) -> Result<Kind, i32> {
        let file = self.open_at(path, libc::O_PATH | libc::O_NOFOLLOW)?;
        let stat = sys::fstat(file.as_fd()).map_err(|Errno(errno)| errno)?;
        Ok(match stat.mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFREG => Kind::File,
            libc::S_IFLNK => {
                Kind::Link(nix::fcntl::readlinkat(&file, OsStr::new("")).map_err(|errno| errno as i32)?.into())
            }
            _ => Kind::Other,
        })
    }

    /// Opens a regular file for reading, at a path that leads over no link.
    pub(crate) fn read(&self, path: &Path) -> Result<File, i32> {
        // Something else may have come to be there: a FIFO must not hold whoever opens it.
        let file = self.open_at(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY)?;
        let stat = sys::fstat(file.as_fd()).map_err(|Errno(errno)| errno)?;
        match stat.mode & libc::S_IFMT == libc::S_IFREG {
            true => Ok(file.into()),
            false => Err(libc::EINVAL),
        }
    }

    /// The length of a regular file.
    pub(crate) fn length(&self, path: &Path) -> Result<u64, i32> {
        let file = File::from(self.open_at(path, libc::O_PATH)?);
        file.metadata().map(|metadata| metadata.len()).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The names in a directory, at a path that leads over no link; at most `max`.
    pub(crate) fn list(&self, path: &Path, max: usize) -> Result<Vec<OsString>, i32> {
        let dir = self.open_at(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
        // Through /proc, since std opens directories by path only; the descriptor is what is read.
        let number = std::os::fd::AsRawFd::as_raw_fd(&dir);
        let entries = std::fs::read_dir(format!("/proc/self/fd/{number}"));
        let mut names = Vec::new();
        for entry in entries.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))? {
            if names.len() == max {
                return Err(libc::E2BIG);
            }
            names.push(entry.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?.file_name());
        }
        names.sort();
        Ok(names)
    }

    fn open_at(&self, path: &Path, flags: i32) -> Result<OwnedFd, i32> {
        let name = relative(path).as_os_str();
        let name = if name.is_empty() { OsStr::new(".") } else { name };
        let name = CString::new(name.as_bytes()).map_err(|_| libc::EINVAL)?;
        // The host's own tree goes on below its mounts, /proc among them, and so does another.
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
        sys::openat2(self.top.as_fd(), &name, flags, 0, resolve).map(OwnedFd::from).map_err(|Errno(errno)| errno)
    }
}

impl Found {
    /// The first link on the way that somebody else than the system may have made.
    pub(crate) fn foreign_link(&self) -> Option<&Path> {
        let foreign = |link: &&PathBuf| !link.parent().is_some_and(is_system);
        self.links.iter().map(|(link, _)| link).find(foreign).map(PathBuf::as_path)
    }
}

/// A path in the tree, from its top.
fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}
