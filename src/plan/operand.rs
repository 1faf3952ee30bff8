//! What steps take, and what becomes of them.

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;

use crate::error::Layer;

/// A map of ids, and who writes it.
#[derive(Clone, Debug)]
pub(crate) struct MapLines {
    /// Inside, outside, count.
    pub(crate) lines: Vec<[u32; 3]>,
    /// Whether newuidmap(1) or newgidmap(1) has to.
    pub(crate) helper: bool,
}

/// What the host does with the id of a process before that goes on.
#[derive(Clone)]
pub(crate) struct Hook(pub(crate) Arc<dyn Fn(u32) -> std::io::Result<()> + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Whose memory a child runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The host's, as with vfork(2): the cost does not grow with the host.
    Shared,
    /// A copy, as with fork(2): for a child that changes its ids. In shared memory that would clear the dumpable
    /// flag of the host, and let processes of the new id reach the host's memory.
    Copied,
    /// The host's, or a copy where the kernel refuses a time namespace in shared memory, as Linux 6.1 does.
    SharedIfAllowed,
}

/// What a file gets to hold.
#[derive(Clone)]
pub(crate) struct Content(pub(crate) Arc<[u8]>);

impl fmt::Debug for Content {
    /// Leaves the bytes out: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// An absolute path of the host that has no symbolic links.
#[derive(Clone, Debug)]
pub(crate) struct HostPath(pub(crate) CString);

/// What lies on top of the directories of an overlay.
#[derive(Clone, Debug)]
pub(crate) enum Upper {
    /// Nothing: they have all that is needed.
    Nothing,
    /// A part of the workspace, for the places that they lack; it is sealed in the end.
    Private,
    /// The same, until the next root: there it lies below what the program writes, which so holds nothing of ours.
    Stage,
    /// A tmpfs of the sandbox's own.
    Tmpfs { size: CString, inodes: CString },
    /// A directory of the host.
    Kept { base: HostPath },
}

/// What a path inside is, where it has to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum InsideKind {
    #[default]
    Dir,
    File,
}

/// An absolute path inside, split up for making what is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inside {
    pub(crate) path: CString,
    pub(crate) kind: InsideKind,
    /// Each component from the top: the directory that holds it, and its name.
    pub(crate) components: Vec<[CString; 2]>,
}

/// What a step failed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// The call itself.
    Call,
    /// What it takes from the host.
    Source,
    /// The place inside.
    Target,
}

/// Why a step failed: what its child reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) errno: i32,
    pub(crate) operand: Operand,
}

/// What a step of the default policy could not do on this host, and the start goes on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    UserNamespaces,
    SessionKeyring,
    SignalAll,
}

impl Lack {
    pub(crate) const ALL: [Self; 3] = [Self::UserNamespaces, Self::SessionKeyring, Self::SignalAll];

    /// Its place in a word of bits.
    pub(crate) fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Which layer is not whole, and why.
    pub(crate) fn told(self) -> (Layer, &'static str) {
        match self {
            Self::SessionKeyring => {
                (Layer::Process, "the session keyring is the host's: the caller has as many keys as it may have")
            }
            Self::SignalAll => {
                (Layer::Process, "no signal reaches all processes: their ids differ, and the caller has no CAP_KILL")
            }
            Self::UserNamespaces => {
                (Layer::Namespaces, "new user namespaces are not bounded: /proc/sys can't be written on this host")
            }
        }
    }
}

/// Mount attributes: see mount_setattr(2).
pub(crate) mod attr {
    pub(crate) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub(crate) const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub(crate) const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub(crate) const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
}
