//! Directories that are stacked, read the way that overlayfs does.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, fstatat};

use super::{Count, FileType, at};
use crate::error::Result;
use crate::sys::{self, Errno};

/// Never through a link, and never out of the layer, whatever is in it.
const RESOLVE: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

/// Layers, the uppermost first.
#[derive(Debug)]
pub(super) struct Layers {
    roots: Vec<OwnedFd>,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) meta: Meta,
    /// The layer that it is in; none if it is a place of the sandbox's own.
    pub(super) layer: Option<usize>,
    /// Of a directory, all layers that have a part in it.
    pub(super) dirs: Vec<usize>,
}

/// What is known of a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) file_type: FileType,
    /// The permissions.
    pub(crate) mode: u32,
    /// The owner, as the host has it.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// The time of the last change, in seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    device: u64,
    /// Which file it is, for other names of the same.
    pub(crate) inode: (u64, u64),
    pub(crate) links: u64,
}

impl Meta {
    fn new(stat: &FileStat) -> Self {
        let file_type = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR | libc::S_IFBLK => FileType::Device,
            _ => FileType::File,
        };
        let sized = matches!(file_type, FileType::File | FileType::Symlink);
        Self {
            file_type,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if sized { stat.st_size.unsigned_abs() } else { 0 },
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            device: stat.st_rdev,
            inode: (stat.st_dev, stat.st_ino),
            links: stat.st_nlink as _,
        }
    }

    /// A place of the sandbox's own.
    pub(super) fn place(file_type: FileType) -> Self {
        let (mode, inode) = (0o755, (0, 0));
        Self { file_type, mode, uid: 0, gid: 0, size: 0, mtime: (0, 0), device: 0, inode, links: 1 }
    }

    /// Whether nothing that can be seen without a look at the content tells the two apart.
    pub(super) fn resembles(&self, other: &Self) -> bool {
        // The same file in two layers, and its number of names, differ.
        let Self { inode, links, .. } = *self;
        *self == Self { inode, links, ..*other }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }
}

impl Layers {
    pub(super) fn new(roots: Vec<OwnedFd>) -> Self {
        Self { roots }
    }

    /// The root, which is made of every layer.
    pub(super) fn root(&self) -> Vec<usize> {
        (0..self.roots.len()).collect()
    }

    /// Opens a path in a layer; "" is the layer itself. None if it is not there.
    pub(super) fn open(&self, layer: usize, path: &[u8], flags: i32) -> Result<Option<OwnedFd>> {
        let root = self.roots.get(layer).ok_or_else(|| at(path, libc::ENOENT))?;
        let name = if path.is_empty() { CString::from(c".") } else { c_path(path)? };
        // openat2(2) refuses flags that have no effect.
        let opens = if flags & libc::O_PATH == 0 { libc::O_NONBLOCK | libc::O_NOCTTY } else { 0 };
        let flags = flags | opens | libc::O_NOFOLLOW;
        match sys::openat2(root.as_fd(), &name, flags, 0, RESOLVE) {
            Ok(opened) => Ok(Some(opened.into())),
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(Errno(errno)) => Err(at(path, errno)),
        }
    }

    /// Opens a file to read it.
    pub(super) fn read(&self, layer: usize, path: &[u8]) -> Result<File> {
        let file = self.open(layer, path, libc::O_RDONLY)?.map(File::from).ok_or_else(|| at(path, libc::ENOENT))?;
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if is_file { Ok(file) } else { Err(at(path, libc::EINVAL)) }
    }

    /// What a layer alone has at a path.
    pub(super) fn meta(&self, layer: usize, path: &[u8]) -> Result<Option<Meta>> {
        let Some(file) = self.open(layer, path, libc::O_PATH)? else { return Ok(None) };
        let stat = fstatat(&file, c"", AtFlags::AT_EMPTY_PATH).map_err(|errno| at(path, errno as i32))?;
        Ok(Some(Meta::new(&stat)))
    }

    /// Whether what a layer has at a path says that nothing is there.
    pub(super) fn is_whiteout(&self, layer: usize, path: &[u8], meta: &Meta) -> Result<bool> {
        match meta.file_type {
            FileType::Device => Ok(meta.device == 0),
            // From Linux 6.7 on, in a directory that says so.
            FileType::File if meta.size == 0 => {
                let (above, _) = split(path);
                Ok(self.mark(layer, path, c"user.overlay.whiteout")?.is_some()
                    && self.opaque(layer, above)? == Some(b'x'))
            }
            _ => Ok(false),
        }
    }

    /// Whether a directory of a layer hides what is below.
    pub(super) fn is_opaque(&self, layer: usize, path: &[u8]) -> Result<bool> {
        Ok(self.opaque(layer, path)? == Some(b'y'))
    }

    fn opaque(&self, layer: usize, path: &[u8]) -> Result<Option<u8>> {
        Ok(self.mark(layer, path, c"user.overlay.opaque")?.and_then(|value| value.first().copied()))
    }

    /// An attribute of overlayfs's. A directory that can't be read is taken for one without: to list it fails by itself.
    fn mark(&self, layer: usize, path: &[u8], name: &std::ffi::CStr) -> Result<Option<Vec<u8>>> {
        let file = match self.open(layer, path, libc::O_RDONLY) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => return Ok(None),
            Err(error) => return Err(error),
        };
        attribute(&file, name).map_err(|Errno(errno)| at(path, errno))
    }

    /// What is seen at a path, where `dirs` are the layers that make up the directory above.
    pub(super) fn find(&self, dirs: &[usize], path: &[u8]) -> Result<Option<Found>> {
        let mut found: Option<Found> = None;
        for layer in dirs {
            let Some(meta) = self.meta(*layer, path)? else { continue };
            if self.is_whiteout(*layer, path, &meta)? {
                break;
            }
            match &mut found {
                None => found = Some(Found { meta, layer: Some(*layer), dirs: Vec::new() }),
                Some(_) if !meta.is_dir() => break,
                Some(_) => {}
            }
            let Some(found) = found.as_mut().filter(|found| found.meta.is_dir()) else { break };
            found.dirs.push(*layer);
            if self.is_opaque(*layer, path)? {
                break;
            }
        }
        Ok(found)
    }

    /// The names in the directories of these layers, whiteouts among them.
    pub(super) fn names(&self, dirs: &[usize], path: &[u8], count: &mut Count<'_>) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for layer in dirs {
            let Some(opened) = self.open(*layer, path, libc::O_RDONLY | libc::O_DIRECTORY)? else { continue };
            let failed = |errno: nix::Error| at(path, errno as i32);
            let mut dir =
                Dir::openat(&opened, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                    .map_err(failed)?;
            for entry in dir.iter() {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." && names.insert(name.to_owned()) {
                    count.entry(path.len() + 1 + name.len())?;
                }
            }
        }
        Ok(names)
    }

    /// The target of a symbolic link.
    pub(super) fn link(&self, layer: usize, path: &[u8]) -> Result<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        let link = self.open(layer, path, libc::O_PATH)?.ok_or_else(|| at(path, libc::ENOENT))?;
        let target = nix::fcntl::readlinkat(&link, c"").map_err(|errno| at(path, errno as i32))?;
        Ok(target.into_vec())
    }
}

/// The path of an entry of a directory.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_owned() } else { [dir, b"/", name].concat() }
}

/// The directory of an entry, and its name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let above = path.get(..slash.unwrap_or(0)).unwrap_or_default();
    (above, path.get(slash.map_or(0, |slash| slash + 1)..).unwrap_or_default())
}

pub(super) fn c_path(path: &[u8]) -> Result<CString> {
    CString::new(path).map_err(|_| at(path, libc::EINVAL))
}

/// The attributes in `user.*` that programs set, by name: none of overlayfs's own, and none of a link's, which has none.
pub(crate) fn attributes(file: &impl AsFd) -> sys::Result<Vec<(CString, Vec<u8>)>> {
    let names = grown(|buffer| sys::attribute_names(file.as_fd(), buffer));
    let names = match names {
        Ok(names) => names,
        Err(Errno(libc::EOPNOTSUPP)) => Vec::new(),
        Err(errno) => return Err(errno),
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
        if let Some(value) = attribute(file, &name)? {
            all.push((name, value));
        }
    }
    all.sort();
    Ok(all)
}

/// The value of an attribute, if the file has it.
pub(crate) fn attribute(file: &impl AsFd, name: &std::ffi::CStr) -> sys::Result<Option<Vec<u8>>> {
    match grown(|buffer| sys::attribute(file.as_fd(), name, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What a call writes, with as much room as it needs: attributes have 64 KiB at most (xattr(7)).
fn grown(mut call: impl FnMut(&mut [u8]) -> sys::Result<usize>) -> sys::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    let length = match call(&mut buffer) {
        Err(Errno(libc::ERANGE)) => {
            buffer.resize(65_536, 0);
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(length);
    Ok(buffer)
}
