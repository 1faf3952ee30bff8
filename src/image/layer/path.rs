//! Paths of entries: they lead down from the root of the layer, and nowhere else.

use super::fault::{Checked, refuse};
use super::limits::UnpackLimits;

/// `NAME_MAX` of Linux.
pub(super) const COMPONENT: usize = 255;

/// A path below the root, as components joined by `/`: none of them is empty, `.` or `..`. The root itself is empty.
///
/// Any other byte stands for itself, but zero, which is in none.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Normalizes a name in an archive. As engines do, it takes an absolute one as relative to the root.
    pub(super) fn new(name: &[u8], limits: &UnpackLimits) -> Checked<Self> {
        if name.contains(&0) {
            refuse!("its path has a zero byte");
        }
        let components = || name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        if components().any(|part| part == b"..") {
            refuse!("its path leads upwards");
        }
        if components().any(|part| part.len() > COMPONENT) {
            refuse!("its path has a component of more than {COMPONENT} bytes");
        }
        let depth = components().count();
        if depth > limits.depth {
            refuse!("its path has {depth} components, and the limit is {}", limits.depth);
        }
        let path = components().collect::<Vec<_>>().join(&b'/');
        if path.len() > limits.path_bytes {
            refuse!("its path has {} bytes, and the limit is {}", path.len(), limits.path_bytes);
        }
        Ok(Self(path))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the root of the layer.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// The directory that it is in, and its name there. The root has neither.
    pub(crate) fn split(&self) -> Option<(EntryPath, &[u8])> {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            _ if self.is_root() => None,
            None => Some((Self(Vec::new()), &self.0)),
            Some(slash) => Some((Self(self.0[..slash].to_owned()), &self.0[slash + 1..])),
        }
    }

    /// The path of `name`, which is one component, in this directory.
    pub(super) fn join(&self, name: &[u8]) -> Self {
        match self.is_root() {
            true => Self(name.to_owned()),
            false => Self([&self.0, name].join(&b'/')),
        }
    }
}

impl std::fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
