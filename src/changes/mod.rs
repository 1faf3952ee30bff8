//! What a program has changed of its root: listed, copied out, and, with the feature `image`, committed.
//!
//! The upper directory of an overlay is the program's: every name, link, mode and size in it is its choice. It is read
//! by descriptor, never through a symbolic link, and within bounds. What a hostile program gains by it is at most a wrong
//! picture of its own changes. Overlayfs's marks it can't make: the kernel refuses device 0/0 on an overlay, and keeps
//! attributes in `user.overlay.*` that are set inside under other names.

mod copy;
mod layers;
mod walk;
mod written;

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::Escaped;
pub(crate) use copy::copy_out;
#[cfg(feature = "image")]
pub(crate) use layers::{Meta, attributes};
#[cfg(feature = "image")]
pub(crate) use walk::{Node, walk};
pub(crate) use written::Written;

/// What a program has added, modified and deleted in its root, in the order of the paths.
///
/// [`Outcome::changes`](crate::Outcome::changes) lists it, for a root that is [`ephemeral`](crate::Rootfs::ephemeral) or
/// an [`overlay`](crate::Rootfs::overlay); for the latter these are the changes of all runs. What was written to /tmp, to
/// binds and to whatever else is mounted is not among them.
///
/// - A directory is modified if its mode, owner or extended attributes have changed, or if it was something else; not if
///   only its time has, as by every file that is made in it.
/// - A file that was opened for writing, and is as it was, is not modified: where size, mode, owner and time are the same,
///   the content is compared.
/// - With a directory all that was in it is deleted, and is not told one by one.
/// - A renamed file is deleted under one name and added under the other.
/// - Of the root itself only the mode counts.
///
/// Printed, it reads like the output of `docker diff`, which also tells every directory above a change as changed.
///
/// What is not protected: the names are the program's, and may be any bytes. Printed, they are escaped.
///
/// As long as this or the [`Outcome`](crate::Outcome) is there, so is the memory of an ephemeral root. Parts of the root are
/// copied out by [`Outcome::copy_out`](crate::Outcome::copy_out).
///
/// # Examples
///
/// ```no_run
/// use belljar::{Rootfs, Sandbox};
///
/// let sandbox = Sandbox::new().rootfs(Rootfs::dir("/srv/trixie").ephemeral());
/// let outcome = sandbox.command("make").args(["-C", "/src", "install"]).status()?;
/// let changes = outcome.changes()?;
/// for change in &changes {
///     println!("{change}: {} bytes", change.size());
/// }
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Changes {
    list: Vec<Change>,
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    pub(crate) written: Arc<Written>,
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "for what writes layers"))]
    pub(crate) limits: ChangeLimits,
}

/// One path that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    path: PathBuf,
    kind: ChangeKind,
    file_type: FileType,
    size: u64,
}

/// What has happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was there, and was different.
    Modified,
    /// It is no longer there.
    Deleted,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character or block device.
    Device,
}

/// Bounds for looking at what a program has left: it may be large, or look so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeLimits {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl ChangeLimits {
    /// The defaults: a million files and directories, and 4 GiB.
    pub fn new() -> Self {
        Self { entries: 1_000_000, bytes: 4 << 30 }
    }

    /// Sets how many files and directories are looked at, at most, by each call. All of their paths together may take
    /// 64 MiB.
    pub fn entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// Sets how many bytes of content are copied or committed by each call, at most, holes included. To list changes,
    /// content is only read where that is needed to tell whether it has changed.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }
}

impl Default for ChangeLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl Changes {
    pub(crate) fn list(written: Arc<Written>, limits: ChangeLimits) -> Result<Self> {
        let _alone = written.lock()?;
        let mut list = Vec::new();
        walk::walk(&written, &limits, &mut |node| {
            if let Some(kind) = node.change {
                let meta = node.meta;
                let path = Path::new("/").join(Path::new(std::ffi::OsStr::from_bytes(node.path)));
                list.push(Change { path, kind, file_type: meta.file_type, size: meta.size });
            }
            Ok(())
        })?;
        Ok(Self { list, written, limits })
    }

    /// The changes, in the order of their paths.
    pub fn iter(&self) -> std::slice::Iter<'_, Change> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = &'a Change;
    type IntoIter = std::slice::Iter<'a, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Changes {
    /// A line for each change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

impl Change {
    /// The path, as it is inside.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has happened to it.
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// What is there now; of what is deleted, what was there.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// How many bytes it has or had: of a file its content, of a symbolic link its target, of all else 0.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl fmt::Display for Change {
    /// `A /path`, `C /path` or `D /path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        write!(f, "{letter} {}", Escaped(self.path.as_os_str().as_bytes()))
    }
}

/// How many bytes all paths together may have: they are kept in memory.
const PATHS_MAX: u64 = 64 << 20;

/// Counts against the bounds.
#[derive(Debug)]
pub(crate) struct Count<'a> {
    limits: &'a ChangeLimits,
    entries: u64,
    names: u64,
    bytes: u64,
}

impl<'a> Count<'a> {
    pub(crate) fn new(limits: &'a ChangeLimits) -> Self {
        Self { limits, entries: 0, names: 0, bytes: 0 }
    }

    /// Counts an entry with a path of this length.
    fn entry(&mut self, path: usize) -> Result<()> {
        self.entries += 1;
        self.names = self.names.saturating_add(path as u64);
        let many = self.entries > self.limits.entries || self.names > PATHS_MAX;
        match many {
            true => {
                Err(exceeded(format!("there are more than {} files, or their paths are too long", self.limits.entries)))
            }
            false => Ok(()),
        }
    }

    /// Counts content.
    pub(crate) fn bytes(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > self.limits.bytes {
            true => Err(exceeded(format!("there are more than {} bytes", self.limits.bytes))),
            false => Ok(()),
        }
    }
}

fn exceeded(cause: String) -> Error {
    Error::new(Layer::Mount, ErrorKind::Os, "changes", cause)
        .with_errno(libc::EFBIG)
        .with_hint("ChangeLimits sets the bounds: Outcome::changes_within and copy_out_within")
}

/// An error about a path inside.
pub(crate) fn at(path: &[u8], errno: i32) -> Error {
    let hint = match errno {
        libc::EACCES | libc::EPERM => {
            "the caller may not read it: it belongs to another of the mapped ids, or its mode forbids it"
        }
        libc::ELOOP => "symbolic links are not followed: the program may have left them",
        libc::ENAMETOOLONG => "the program has made a path that is longer than a path may be",
        _ => "",
    };
    let path = [b"/", path].concat();
    let error = Error::os(Layer::Mount, format!("changes: {}", Escaped(&path)), errno);
    let error = error.with_path(PathBuf::from(std::ffi::OsStr::from_bytes(&path)));
    if hint.is_empty() { error } else { error.with_hint(hint) }
}
