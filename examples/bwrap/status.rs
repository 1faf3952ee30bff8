//! What others are told about the sandbox, in JSON.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use belljar::Namespaces;

use crate::fds;
use crate::options::{Failure, Options, Result};

/// Whom to tell, and whom to wait for.
pub(crate) struct Watchers {
    info: Option<OwnedFd>,
    status: Option<OwnedFd>,
    block: Option<OwnedFd>,
    namespaces: Namespaces,
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
            namespaces,
        })
    }

    /// Whether anybody has to do with a sandbox before its program runs.
    pub(crate) fn wait(&self) -> bool {
        self.info.is_some() || self.status.is_some() || self.block.is_some()
    }

    /// Tells about the process that becomes the program, and waits if that was asked for.
    pub(crate) fn started(&self, pid: u32) -> io::Result<()> {
        let inode = |name: &str| std::fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|file| file.ino()).ok();
        let own = NAMES.iter().filter(|(_, namespace)| self.namespaces.contains(*namespace));
        let members: Vec<_> = std::iter::once(("child-pid".to_owned(), u64::from(pid)))
            .chain(own.filter_map(|(name, _)| Some((format!("{name}-namespace"), inode(name)?))))
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        if let Some(info) = &self.info {
            write(info, &format!("{{\n    {}\n}}\n", members.join(",\n    ")))?;
        }
        if let Some(status) = &self.status {
            write(status, &format!("{{ {} }}\n", members.join(", ")))?;
        }
        match &self.block {
            Some(block) => File::from(block.try_clone()?).read(&mut [0]).map(drop),
            None => Ok(()),
        }
    }

    /// Tells how the program has ended.
    pub(crate) fn ended(&self, code: i32) {
        if let Some(status) = &self.status {
            // There is nobody to tell about a reader that is gone.
            let _ = write(status, &format!("{{ \"exit-code\": {code} }}\n"));
        }
    }
}

fn write(to: &OwnedFd, text: &str) -> io::Result<()> {
    File::from(to.try_clone()?).write_all(text.as_bytes())
}
