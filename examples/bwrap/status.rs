//! What others are told about the sandbox, in JSON.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use belljar::Namespaces;
use nix::fcntl::{FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2};
use nix::libc;

use crate::fds;
use crate::options::{Failure, Options, Result};

/// Whom to tell, and whom to wait for.
pub(crate) struct Watchers {
    info: Option<OwnedFd>,
    status: Option<OwnedFd>,
    block: Option<OwnedFd>,
    /// Who waits until somebody has written the maps of ids, and has told `info` so.
    users_block: Option<OwnedFd>,
    waits_for_users: bool,
    namespaces: Namespaces,
    /// Files inside that are locked as long as this process lasts, and what holds the locks.
    lock_files: Vec<OsString>,
    locks: Mutex<Vec<OwnedFd>>,
}

/// The names in /proc/ID/ns, in the order of the documents.
const NAMES: [(&str, Namespaces); 6] = [
    ("cgroup", Namespaces::CGROUP),
    ("ipc", Namespaces::IPC),
    ("mnt", Namespaces::MOUNT),
    ("net", Namespaces::NET),
    ("pid", Namespaces::PID),
    ("uts", Namespaces::UTS),
];

impl Watchers {
    pub(crate) fn new(options: &Options, namespaces: Namespaces) -> Result<Self> {
        let open = |fd: Option<RawFd>| fd.map(fds::inherited).transpose();
        let write = |fd| open(fd).map_err(|error| Failure::os("Write to info_fd", &error));
        Ok(Self {
            info: write(options.info_fd)?,
            status: write(options.json_status_fd)?,
            // What is not open does not block.
            block: open(options.block_fd).unwrap_or(None),
            users_block: open(options.userns_block_fd).unwrap_or(None),
            waits_for_users: options.userns_block_fd.is_some(),
            namespaces,
            lock_files: options.lock_files.clone(),
            locks: Mutex::default(),
        })
    }

    /// Whether anybody has to do with a sandbox before its program runs.
    pub(crate) fn wait(&self) -> bool {
        self.info.is_some() || self.status.is_some() || self.block.is_some() || !self.lock_files.is_empty()
    }

    /// Tells about a process in a new user namespace, and waits until its maps are written.
    pub(crate) fn made_users(&self, pid: u32) -> io::Result<()> {
        if let Some(info) = &self.info {
            write(info, &format!("{{\n    \"child-pid\": {pid}\n}}\n"))?;
        }
        wait_for(self.users_block.as_ref())
    }

    /// Tells about the process that becomes the program, and waits if that was asked for.
    pub(crate) fn started(&self, pid: u32) -> io::Result<()> {
        let inode = |name: &str| std::fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|file| file.ino()).ok();
        let own = NAMES.iter().filter(|(_, namespace)| self.namespaces.contains(*namespace));
        let members: Vec<_> = std::iter::once(("child-pid".to_owned(), u64::from(pid)))
            .chain(own.filter_map(|(name, _)| Some((format!("{name}-namespace"), inode(name)?))))
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        if let Some(info) = self.info.as_ref().filter(|_| !self.waits_for_users) {
            write(info, &format!("{{\n    {}\n}}\n", members.join(",\n    ")))?;
        }
        if let Some(status) = &self.status {
            write(status, &format!("{{ {} }}\n", members.join(", ")))?;
        }
        for path in &self.lock_files {
            let file = open_inside(pid, path).map_err(|error| told("open lock", path, &error))?;
            lock(&file).map_err(|error| told("lock", path, &error))?;
            self.locks.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        }
        wait_for(self.block.as_ref())
    }

    /// Tells how the program has ended.
    pub(crate) fn ended(&self, code: i32) {
        if let Some(status) = &self.status {
            // There is nobody to tell about a reader that is gone.
            let _ = write(status, &format!("{{ \"exit-code\": {code} }}\n"));
        }
    }
}

/// Opens a file inside, which no link leads out from.
fn open_inside(pid: u32, path: &OsStr) -> io::Result<OwnedFd> {
    let root = File::open(format!("/proc/{pid}/root"))?;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC);
    Ok(openat2(root, path, how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS))?)
}

/// Takes a lock for reading.
fn lock(file: &OwnedFd) -> io::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_SETLK(&whole))?;
    Ok(())
}

/// Waits until something can be read, or nothing ever will. What is not open does not block.
fn wait_for(block: Option<&OwnedFd>) -> io::Result<()> {
    match block {
        Some(block) => File::from(block.try_clone()?).read(&mut [0]).map(drop),
        None => Ok(()),
    }
}

fn told(what: &str, path: &OsStr, error: &io::Error) -> io::Error {
    let Failure(message) = Failure::os(format!("Unable to {what} file {}", path.to_string_lossy()), error);
    io::Error::new(error.kind(), message)
}

fn write(to: &OwnedFd, text: &str) -> io::Result<()> {
    File::from(to.try_clone()?).write_all(text.as_bytes())
}
