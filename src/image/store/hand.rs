//! The hand of a store: an agent in a sandbox whose only files are what is being unpacked, and the finished layers to
//! read.
//!
//! What an archive says reaches the file system only as system calls that the hand makes, on paths that are resolved
//! beneath a directory and over no link. Were one of them wrong, there is nothing else for it to reach than what others
//! are making in the same store.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::ownership::Owners;
use crate::agent::{Agent, Arg, Calls};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::Escaped;
use crate::sandbox::Sandbox;
use crate::sys::Errno;
use crate::{Capabilities, Landlock};

/// The descriptors of the agent that calls are made on. Each has its number because it is opened in this order.
pub(super) const TREE: i32 = 4;
pub(super) const PARENT: i32 = 5;
pub(super) const FILE: i32 = 6;
pub(super) const OTHER: i32 = 7;

/// Where the sandbox has what is being made, and what is finished.
const WORK: &str = "/work";
const LAYERS: &str = "/layers";

/// How long a message gets before it is sent. What is added at once, an extended attribute of 64 KiB for example, has
/// to fit in behind it: `AgentData::MESSAGE_MAX`.
const MESSAGE: usize = 80 << 10;

/// How many messages may be on their way: enough that the hand never waits for the next.
const AHEAD: usize = 4;

/// What a path of the archive is resolved by: never upwards, never over a link.
const RESOLVE: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

/// What tells who a call was made for.
type Labels = Vec<(usize, Vec<u8>)>;

/// An agent that makes files.
#[derive(Debug)]
pub(super) struct Hand {
    agent: Agent,
    calls: Calls,
    labels: Labels,
    /// The labels of the messages that are on their way.
    sent: VecDeque<Labels>,
}

impl Hand {
    /// Starts one that works in `work`, and reads `layers`; both are directories of the host's.
    pub(super) fn start(work: &Path, layers: &Path, owners: &Owners) -> Result<Self> {
        let keeps = Capabilities::CHOWN
            | Capabilities::DAC_OVERRIDE
            | Capabilities::DAC_READ_SEARCH
            | Capabilities::FOWNER
            | Capabilities::FSETID;
        let sandbox = Sandbox::new()
            .bind(work, WORK)
            .bind_ro(layers, LAYERS)
            .capabilities(keeps)
            .landlock(Landlock::derived().with_devices());
        let agent = Agent::start(&owners.map(sandbox))?;
        Ok(Self { agent, calls: Calls::default(), labels: Vec::new(), sent: VecDeque::new() })
    }

    /// Adds calls, in the name of an entry. They are made soon, and a failure is told by one of the next.
    pub(super) fn add(&mut self, entry: &[u8], fill: impl FnOnce(&mut Calls)) -> Result<()> {
        if self.labels.last().is_none_or(|(_, last)| last != entry) {
            self.labels.push((self.calls.len(), entry.to_owned()));
        }
        fill(&mut self.calls);
        if self.calls.size() >= MESSAGE { self.send() } else { Ok(()) }
    }

    /// Makes what is not made yet, and waits until all is done.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.send()?;
        while !self.sent.is_empty() {
            self.hear()?;
        }
        Ok(())
    }

    /// Makes calls at once, and tells the error number if one fails, with its index.
    pub(super) fn attempt(&mut self, fill: impl FnOnce(&mut Calls)) -> Result<std::result::Result<(), (usize, Errno)>> {
        self.flush()?;
        let mut calls = Calls::default();
        fill(&mut calls);
        self.agent.run(&calls, &[])
    }

    /// Opens a directory below a tree, to be read by the host.
    pub(super) fn open_dir(&mut self, path: &[u8]) -> Result<std::result::Result<OwnedFd, Errno>> {
        let opened = self.attempt(|calls| {
            close_from(calls, FILE);
            open(calls, TREE, path, libc::O_RDONLY | libc::O_DIRECTORY);
        })?;
        // The parent may not be open, and then the number is that one.
        match opened {
            Err((_, errno)) => Ok(Err(errno)),
            Ok(()) => self.take(FILE).map(Ok),
        }
    }

    /// Takes a descriptor of the agent's over.
    pub(super) fn take(&mut self, number: i32) -> Result<OwnedFd> {
        self.agent.take_fd(number)
    }

    /// Makes the directory `name` of the work the tree, and tells whether it is there.
    pub(super) fn enter(&mut self, name: &str) -> Result<bool> {
        let path = format!("{WORK}/{name}");
        let entered = self.attempt(|calls| {
            close_from(calls, TREE);
            open_at(calls, libc::AT_FDCWD, path.as_bytes(), libc::O_PATH | libc::O_DIRECTORY, 0);
            // A parent, so that the numbers of what is opened later do not depend on whether there is one.
            open_at(calls, libc::AT_FDCWD, path.as_bytes(), libc::O_PATH | libc::O_DIRECTORY, 0);
        })?;
        match entered {
            Ok(()) => Ok(true),
            Err((_, Errno(libc::ENOENT))) => Ok(false),
            Err((_, Errno(errno))) => Err(Error::os(Layer::Image, "enter the work directory", errno)),
        }
    }

    /// Opens the tree of a finished layer.
    pub(super) fn open_layer(calls: &mut Calls, layer: &str) {
        let path = format!("{LAYERS}/{layer}/diff");
        open_at(calls, libc::AT_FDCWD, path.as_bytes(), libc::O_PATH | libc::O_DIRECTORY, 0);
    }

    fn send(&mut self) -> Result<()> {
        if self.calls.is_empty() {
            return Ok(());
        }
        while self.sent.len() >= AHEAD {
            self.hear()?;
        }
        self.agent.send(&std::mem::take(&mut self.calls), &[])?;
        self.sent.push_back(std::mem::take(&mut self.labels));
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        let answer = self.agent.answer()?;
        let labels = self.sent.pop_front().unwrap_or_default();
        answer.map_err(|(index, Errno(errno))| {
            let label = labels.iter().rev().find(|(first, _)| *first <= index);
            failed("unpack", label.map_or(&[][..], |(_, name)| name), errno)
        })
    }
}

/// What a failure is about: the image, if one entry contradicts another; else the host.
pub(super) fn failed(verb: &str, entry: &[u8], errno: i32) -> Error {
    let step = format!("{verb} \"{}\"", Escaped(entry));
    match errno {
        libc::EEXIST | libc::ENOTDIR | libc::EISDIR | libc::ELOOP => {
            let cause = format!("another entry stands in its way: {}", std::io::Error::from_raw_os_error(errno));
            Error::new(Layer::Image, ErrorKind::InvalidImage, step, cause).with_errno(errno)
        }
        _ => Error::os(Layer::Image, step, errno),
    }
}

/// A path in kernel form.
pub(super) fn path(calls: &mut Calls, path: &[u8]) -> Arg {
    calls.data(&[path, b"\0"].concat())
}

/// openat2(2) of a path beneath `dir`; the empty one is `dir` itself.
pub(super) fn open(calls: &mut Calls, dir: i32, name: &[u8], flags: i32) {
    open_at(calls, dir, if name.is_empty() { b"." } else { name }, flags, RESOLVE);
}

/// openat2(2) of a new file.
pub(super) fn create(calls: &mut Calls, dir: i32, name: &[u8]) {
    let path = path(calls, name);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let how = calls.words(&[flags.into(), 0o600.into(), RESOLVE.into()]);
    calls.call(libc::SYS_openat2, [dir.into(), path, how, HOW.into()]);
}

/// unlinkat(2) of whatever is no directory in `PARENT`, if it is there.
pub(super) fn unlink(calls: &mut Calls, name: &[u8]) {
    let name = path(calls, name);
    calls.attempt(libc::SYS_unlinkat, [PARENT.into(), name, 0.into()]);
}

pub(super) fn close_from(calls: &mut Calls, first: i32) {
    calls.call(libc::SYS_close_range, [first.into(), u32::MAX.into(), 0.into()]);
}

/// The size of `struct open_how`.
const HOW: i32 = 24;

fn open_at(calls: &mut Calls, dir: i32, name: &[u8], flags: i32, resolve: u64) {
    let path = path(calls, name);
    let how = calls.words(&[(flags | libc::O_CLOEXEC).into(), 0.into(), resolve.into()]);
    calls.call(libc::SYS_openat2, [dir.into(), path, how, HOW.into()]);
}
