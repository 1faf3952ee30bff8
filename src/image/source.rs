//! Where the files of an image are: in a directory, or in an archive. By name, never through a link of the file system.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::archive::{Archive, Extent};
use super::digest::{self, Digest};
use super::{invalid, shown};
use crate::error::{Error, Layer, Result};
use crate::sys::{self, Errno};

/// The most that an index, a manifest or a configuration has: what registries take.
pub(super) const DOCUMENT_MAX: u64 = 4 << 20;

/// An image's files. They are held open: what is done to the path later changes nothing.
#[derive(Debug)]
pub(super) enum Source {
    Dir(OwnedFd),
    Archive {
        file: Arc<File>,
        archive: Archive,
        /// Of members that had to be read for their digest, by their names: a list may have one many times.
        digests: Mutex<HashMap<String, Digest>>,
    },
}

/// What compressed files start with, and what undoes it.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gunzip"), (b"\x28\xb5\x2f\xfd", "unzstd"), (b"\xfd7zXZ", "unxz"), (b"BZh", "bunzip2")];

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Not to wait for the other end of a FIFO.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|error| digest::error("open", error))?;
        let metadata = file.metadata().map_err(|error| digest::error("stat", error))?;
        if metadata.is_dir() {
            return Ok(Source::Dir(file.into()));
        }
        if !metadata.is_file() {
            return Err(invalid("open", "it is neither a directory nor a file"));
        }
        refuse_compressed(&file)?;
        let archive = Archive::scan(&file, metadata.len())?;
        Ok(Source::Archive { file: Arc::new(file), archive, digests: Mutex::default() })
    }

    /// The file of this name; none if there is none.
    pub(super) fn file(&self, name: &str) -> Result<Option<Section>> {
        match self {
            Source::Dir(dir) => file_below(dir, name),
            Source::Archive { file, archive, .. } => {
                let section =
                    |Extent { offset, size }| Section { file: Arc::clone(file), at: offset, end: offset + size };
                Ok(archive.file(name)?.map(section))
            }
        }
    }

    /// The digest of all of a file, which is read for that once.
    pub(super) fn digest(&self, name: &str, section: Section) -> std::io::Result<Digest> {
        let Source::Archive { digests, .. } = self else { return digest::of_reader(section) };
        let mut digests = digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = digests.get(name) {
            return Ok(known.clone());
        }
        let digest = digest::of_reader(section)?;
        digests.insert(name.to_owned(), digest.clone());
        Ok(digest)
    }

    /// The file with the content that `digest` names, which has `size` bytes.
    pub(super) fn blob(&self, digest: &Digest, size: u64) -> Result<Section> {
        let section = self.file(&blob_name(digest))?;
        let section = section.ok_or_else(|| invalid(digest.to_string(), "there is no such blob"))?;
        match section.size() == size {
            true => Ok(section),
            false => Err(invalid(digest.to_string(), format!("it has {} bytes, not {size}", section.size()))),
        }
    }

    /// All of a document that is proven by its digest.
    pub(super) fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let content = self.blob(digest, size)?.document(digest.as_str())?;
        match digest.names(&content) {
            true => Ok(content),
            false => Err(invalid(digest.to_string(), "the content has another digest")),
        }
    }

    /// The name of the member that a member leads to: engines write the layers of one image as links to another's.
    pub(super) fn follow(&self, name: &str) -> Result<Option<String>> {
        match self {
            Source::Dir(_) => Ok(None),
            Source::Archive { archive, .. } => archive.follow(name),
        }
    }

    pub(super) fn is_archive(&self) -> bool {
        matches!(self, Source::Archive { .. })
    }
}

/// Where a layout has the content that a digest names.
pub(super) fn blob_name(digest: &Digest) -> String {
    let (algorithm, digits) = digest.parts();
    format!("blobs/{algorithm}/{digits}")
}

/// A file, or the part of an archive that is one.
#[derive(Debug)]
pub(crate) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Section {
    pub(super) fn size(&self) -> u64 {
        self.end - self.at
    }

    /// The first bytes, without reading on.
    pub(super) fn starts_with(&self, magic: &[u8]) -> bool {
        let mut start = vec![0; magic.len()];
        self.size() >= magic.len() as u64 && self.file.read_exact_at(&mut start, self.at).is_ok() && start == magic
    }

    /// All of it, if it is no longer than a document may be.
    pub(super) fn document(mut self, name: &str) -> Result<Vec<u8>> {
        if self.size() > DOCUMENT_MAX {
            let cause = format!("it has {} bytes: a document has {DOCUMENT_MAX} at most", self.size());
            return Err(invalid(shown(name), cause));
        }
        let mut content = vec![0; self.size() as usize];
        self.read_exact(&mut content).map_err(|error| digest::error(shown(name), error))?;
        Ok(content)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.size()).unwrap_or(usize::MAX));
        let count = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A regular file below a directory. Whoever has made the directory chose what is in it: a link could lead anywhere.
fn file_below(dir: &OwnedFd, name: &str) -> Result<Option<Section>> {
    let path = CString::new(name).map_err(|_| invalid(shown(name), "the name has a zero byte"))?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    let file: OwnedFd = match sys::openat2(dir.as_fd(), &path, flags, 0, resolve) {
        Ok(file) => file.into(),
        Err(Errno(libc::ENOENT)) => return Ok(None),
        Err(Errno(libc::ELOOP)) => return Err(invalid(shown(name), "it is a symbolic link, or lies below one")),
        Err(Errno(errno)) => return Err(Error::os(Layer::Image, shown(name), errno)),
    };
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| digest::error(shown(name), error))?;
    match metadata.is_file() {
        true => Ok(Some(Section { file: Arc::new(file), at: 0, end: metadata.len() })),
        false => Err(invalid(shown(name), "it is no regular file")),
    }
}

/// Layers are read where they are in an archive, which a compressed one does not allow.
fn refuse_compressed(file: &File) -> Result<()> {
    let mut start = [0; 8];
    let length = file.read_at(&mut start, 0).map_err(|error| digest::error("read", error))?;
    let start = start.get(..length).unwrap_or_default();
    match COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, program)) => {
            let hint = format!("uncompress it first, with {program}: the layers inside may stay compressed");
            Err(invalid("open", "the archive is compressed as a whole").with_hint(hint))
        }
        None => Ok(()),
    }
}
