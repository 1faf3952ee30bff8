//! A tmpfs, with its bounds.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::path::inside_or_root;
use super::{inside_as, shown};
use crate::error::{Error, Layer, Result};
use crate::plan::{Inside, InsideKind, Step, attr};

/// A file system in memory, private to the sandbox, empty at the start and gone at the end.
///
/// Its bounds are part of the policy: 1 GiB and 65,536 files and directories, unless they are set. The memory is
/// taken when it is used. It is writable and executable; set-user-ID bits and devices have no effect.
///
/// # Examples
///
/// ```
/// use belljar::{Sandbox, Tmpfs};
///
/// let sandbox = Sandbox::new().tmpfs("/scratch").tmpfs(Tmpfs::new("/cache").size(16 << 20).inodes(1000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tmpfs {
    path: PathBuf,
    /// None for the kernel's own bound.
    size: Option<u64>,
    inodes: Option<u64>,
    mode: u32,
}

const SIZE: u64 = 1 << 30;
const INODES: u64 = 65_536;

impl Tmpfs {
    /// A tmpfs at `path`, an absolute path inside.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), size: Some(SIZE), inodes: Some(INODES), mode: 0o1777 }
    }

    /// Sets how many bytes it holds, in whole pages: at least 1, at most 2^63 - 1. The default is 1 GiB.
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Sets how many files and directories it holds, its root included: at least 1. The default is 65,536.
    pub fn inodes(mut self, inodes: u64) -> Self {
        self.inodes = Some(inodes);
        self
    }

    /// Leaves both bounds to the kernel, until they are set: half of the machine's memory, and as many files and
    /// directories as it has pages for (tmpfs(5)).
    ///
    /// What is not protected: a program that fills two of these takes all of the memory.
    pub fn kernel_bounds(mut self) -> Self {
        (self.size, self.inodes) = (None, None);
        self
    }

    /// Sets the permissions of its root. The default is 0o1777: everybody inside can write.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn lower(&self) -> Result<Step> {
        self.lower_with(attr::NO_SUID | attr::NO_DEV)
    }

    pub(super) fn lower_with(&self, attributes: u64) -> Result<Step> {
        let at = inside_as(&self.path, InsideKind::Dir, &format!("tmpfs {}", shown(&self.path)))?;
        self.lower_at(at, attributes)
    }

    /// In a root that may be mounted over.
    pub(super) fn lower_anywhere(&self) -> Result<Step> {
        match inside_or_root(&self.path, InsideKind::Dir) {
            Ok(at) => self.lower_at(at, attr::NO_SUID | attr::NO_DEV),
            Err(_) => self.lower(),
        }
    }

    fn lower_at(&self, at: Inside, attributes: u64) -> Result<Step> {
        let words = format!("tmpfs {}", shown(&self.path));
        let invalid = |cause: &str| Error::invalid(Layer::Mount, words.as_str(), cause).with_path(&self.path);
        let [mut size, mut inodes] = bounds(self.size, self.inodes, &words).map_err(|e| e.with_path(&self.path))?;
        for (bound, kernels) in [(&mut size, self.size.is_none()), (&mut inodes, self.inodes.is_none())] {
            if kernels {
                *bound = CString::default();
            }
        }
        if self.mode > 0o7777 {
            return Err(invalid("the mode must be at most 0o7777").with_errno(libc::EINVAL));
        }
        let number = |text: String| CString::new(text).map_err(|_| invalid("a number has a zero byte"));
        Ok(Step::Tmpfs { at, size, inodes, mode: number(format!("{:04o}", self.mode))?, attributes })
    }
}

/// The bounds of a tmpfs in kernel form, those that are not set by default.
pub(super) fn bounds(size: Option<u64>, inodes: Option<u64>, words: &str) -> Result<[CString; 2]> {
    let number = |value: u64, cause| {
        // The kernel takes 0 for "no bound", and more than 2^63 for something else.
        let fits = value != 0 && i64::try_from(value).is_ok();
        let text = CString::new(value.to_string()).ok().filter(|_| fits);
        text.ok_or_else(|| Error::invalid(Layer::Mount, words, cause).with_errno(libc::EINVAL))
    };
    let size = number(size.unwrap_or(SIZE), "the size must be 1 to 2^63 - 1 bytes")?;
    Ok([size, number(inodes.unwrap_or(INODES), "the number of inodes must be 1 to 2^63 - 1")?])
}

impl<P: AsRef<Path>> From<P> for Tmpfs {
    fn from(path: P) -> Self {
        Tmpfs::new(path)
    }
}
