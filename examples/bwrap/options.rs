//! What a command line says.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use belljar::Namespaces;

/// A message that ends the program.
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// A message with the kernel's word for an error, as perror(3) has it.
    pub(crate) fn os(message: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let cause = error.to_string();
        let words = cause.split_once(" (os error").map_or(cause.as_str(), |(words, _)| words);
        Self(format!("{message}: {words}"))
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The options that are left when all are read. Of those with one value the last counts.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) unshare: Namespaces,
    /// Namespaces that are left out where they can't be had.
    pub(crate) unshare_try: Namespaces,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) hostname: Option<OsString>,
    pub(crate) chdir: Option<OsString>,
    pub(crate) argv0: Option<OsString>,
    /// In their order: a value, or None to remove the variable; no name to remove them all.
    pub(crate) environment: Vec<(Option<OsString>, Option<OsString>)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) seccomp: Vec<RawFd>,
    /// Whether the filter is one by itself, or one of several.
    pub(crate) filters_alone: Option<bool>,
    /// In their order: whether it is added, and its name.
    pub(crate) capabilities: Vec<(bool, belljar::Capabilities)>,
    /// Namespaces that are there: of users, and of users again after the set-up, and of processes.
    pub(crate) userns: Option<RawFd>,
    pub(crate) userns2: Option<RawFd>,
    pub(crate) pidns: Option<RawFd>,
    pub(crate) userns_block_fd: Option<RawFd>,
    pub(crate) block_fd: Option<RawFd>,
    pub(crate) info_fd: Option<RawFd>,
    pub(crate) json_status_fd: Option<RawFd>,
    pub(crate) lock_files: Vec<OsString>,
    /// Those that options have named, and so are no business of the program's.
    pub(crate) named: Vec<RawFd>,
    pub(crate) passed: Vec<RawFd>,
    pub(crate) inherit_fds: bool,
    pub(crate) new_session: bool,
    pub(crate) die_with_parent: bool,
    pub(crate) as_pid_1: bool,
    pub(crate) disable_userns: bool,
    pub(crate) assert_userns_disabled: bool,
    pub(crate) command: Vec<OsString>,
}

impl Options {
    /// Nothing but what is always so.
    pub(crate) fn new() -> Self {
        Self { unshare: Namespaces::empty(), unshare_try: Namespaces::empty(), ..Self::default() }
    }
}

/// One operation on the file system.
pub(crate) struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) perms: Option<u32>,
}

pub(crate) enum Kind {
    Bind { source: PathBuf, access: Access, optional: bool },
    BindFd { fd: RawFd, access: Access },
    RemountReadOnly,
    Proc,
    Dev,
    Tmpfs { size: Option<u64> },
    Mqueue,
    Dir,
    File { fd: RawFd },
    Data { fd: RawFd, access: Access },
    Symlink { content: PathBuf },
    Chmod { mode: u32 },
    Overlay { layers: Vec<PathBuf>, upper: Upper },
}

/// Where an overlay keeps what is written.
pub(crate) enum Upper {
    Nowhere,
    Memory,
    Dirs(PathBuf, PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
    Devices,
}
