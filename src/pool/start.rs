//! A parked sandbox, and starting a program in it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Shared;
use crate::agent::{Agent, Arg, Calls, SOCKET};
use crate::child::Child;
use crate::command::Command;
use crate::error::{Error, Layer, Result};
use crate::layer::exec::Program;
use crate::layer::fds::{self, Stdio};
use crate::layer::process;
use crate::plan::Step;
use crate::sandbox::Sandbox;
use crate::spawn::Wiring;
use crate::sys::{AgentData, CStringArray, Errno};

/// A sandbox with an agent in the place of its program.
#[derive(Debug)]
pub(crate) struct Parked(Agent);

/// Where a parked agent has its socket: out of the way of most programs' descriptors, and the last number for which every
/// process has room already (`NR_OPEN_DEFAULT`).
const PARKED: RawFd = 63;

/// The agent's first free descriptor, once its socket is parked: where what is sent to it arrives.
const FIRST: RawFd = SOCKET;

impl Parked {
    pub(super) fn build(sandbox: &Arc<Sandbox>) -> Result<Self> {
        let failed = |(_, Errno(errno))| Error::os(Layer::Process, "park a sandbox", errno);
        let mut agent = Agent::start_unfiltered(sandbox.clone())?;
        agent.move_socket(PARKED)?.map_err(failed)?;
        // What a link to /proc/self/exe leads to when the program is executed: an ordinary start refuses that too. The
        // agent has only its own file there, if it has a /proc.
        let mut calls = Calls::default();
        let own = calls.data(b"/proc/self/exe\0");
        calls.attempt(libc::SYS_fchmodat, [libc::AT_FDCWD.into(), own, 0.into()]);
        agent.run(&calls, &[])?.map_err(failed)?;
        Ok(Self(agent))
    }
}

/// What an image says of every command: where it starts, which is where a parked agent is, and its home directory.
#[cfg(feature = "image")]
pub(super) fn defaults(sandbox: &Arc<Sandbox>) -> Result<(PathBuf, Option<OsString>)> {
    let settled = crate::image::settle(&Command::new(sandbox.clone(), "".as_ref()))?;
    let Some(command) = settled.map(|settled| settled.command) else { return Ok((PathBuf::from("/"), None)) };
    let home = command.env.get(OsStr::new("HOME")).filter(|_| command.home_of_image).cloned();
    Ok((command.directory.unwrap_or_else(|| PathBuf::from("/")), home))
}

#[cfg(not(feature = "image"))]
pub(super) fn defaults(_: &Arc<Sandbox>) -> Result<(PathBuf, Option<OsString>)> {
    Ok((PathBuf::from("/"), None))
}

/// The environment of a command, which starts with that of its image.
fn environment(command: &Command, home: Option<&OsStr>) -> BTreeMap<OsString, OsString> {
    let mut env = command.env.clone();
    env.extend(home.filter(|_| command.home_of_image).map(|home| ("HOME".into(), home.to_owned())));
    env
}

/// What is sent to an agent: calls, with descriptors and the numbers that they are to have.
struct Order<'a> {
    calls: Calls,
    sent: Vec<(BorrowedFd<'a>, RawFd)>,
    witness: Option<File>,
}

/// Starts a command in a parked sandbox. None if there is none, or the program can't be executed by it: then an ordinary
/// start does it, or tells why not.
pub(crate) fn start(
    shared: &Arc<Shared>,
    command: &Command,
    streams: [&Stdio; 3],
    started: Instant,
) -> Result<Option<Child>> {
    let mut steps = Vec::new();
    let given = fds::lower(streams, &command.passed, &mut steps)?;
    // /dev/null it has in the place of each stream already.
    steps.retain(|step| !matches!(step, Step::InstallNull { .. }));
    let directory = command.directory.as_deref().filter(|directory| *directory != shared.directory());
    let directory = directory.map(|directory: &Path| process::directory(Some(directory))).transpose()?;
    let mut wiring = Wiring::open(&steps, &given)?;
    let sent = sent(&steps, &wiring);
    let env = environment(command, shared.home());
    Program { program: &command.program, args: &command.args, env, arg0: None, pwd: Vec::new() }.lower(&mut steps)?;
    let order = order(shared.filters(), directory, sent, steps.last())?;
    if !order.calls.fits() {
        return Ok(None);
    }
    let agent = executed(shared, &order);
    // Only now: what builds the next would compete with this start.
    shared.has_taken();
    Ok(agent.map(|agent| agent.into_child(wiring.streams(), started, shared.clone())))
}

/// An agent that has become the program, if there is one that could.
fn executed(shared: &Shared, order: &Order<'_>) -> Option<Agent> {
    while let Some(Parked(mut agent)) = shared.take() {
        match execute(&mut agent, order) {
            Ok(true) => return Some(agent),
            // Ended from outside while it waited.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {}
            Ok(false) | Err(_) => return None,
        }
    }
    None
}

/// What is sent to the agent, and the number that each is to have.
fn sent<'a>(steps: &[Step], wiring: &'a Wiring) -> Vec<(BorrowedFd<'a>, RawFd)> {
    let mut opened = 0..;
    let source = |step: &Step| match step {
        Step::Inherit { fd } => Some((crate::sys::borrow(*fd), *fd)),
        Step::Install { fd, .. } => Some((wiring.get(opened.next()?)?, *fd)),
        _ => None,
    };
    steps.iter().filter_map(source).collect()
}

fn order<'a>(
    filters: &[Step],
    directory: Option<CString>,
    sent: Vec<(BorrowedFd<'a>, RawFd)>,
    exec: Option<&Step>,
) -> Result<Order<'a>> {
    let mut calls = Calls::default();
    let next = FIRST + sent.len() as RawFd;
    let witness = (!filters.is_empty()).then(witness).transpose()?;
    if witness.is_some() {
        map_witness(next, &mut calls);
    }
    if let Some(directory) = directory {
        change_directory(&directory, next, &mut calls);
    }
    put_in_place(&sent, &mut calls);
    filters.iter().for_each(|step| add_filter(step, &mut calls));
    if let Some(Step::Exec { candidates, argv, envp, .. }) = exec {
        execute_one(candidates, argv, envp, &mut calls);
    }
    Ok(Order { calls, sent, witness })
}

/// Has the agent execute a program. False if it could not.
fn execute(agent: &mut Agent, order: &Order<'_>) -> Result<bool> {
    let failed = |(_, Errno(errno))| Error::os(Layer::Process, "agent: make room", errno);
    let (_, above) = clear_of(&order.sent);
    if above > PARKED {
        agent.move_socket(above)?.map_err(failed)?;
    }
    let witness = order.witness.iter().map(AsFd::as_fd);
    let sources: Vec<BorrowedFd<'_>> = order.sent.iter().map(|(source, _)| *source).chain(witness).collect();
    let gone = agent.execute(&order.calls, &sources)?;
    Ok(gone && !order.witness.as_ref().is_some_and(tells_failure))
}

/// A page that the agent leaves its answer in: behind a filter of the caller's, it may not be allowed to send one.
fn witness() -> Result<File> {
    let failed = |errno: i32| Error::os(Layer::Seccomp, "memfd", errno);
    let page = memfd_create(c"belljar", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno as i32))?;
    let page = File::from(crate::spawn::above_streams(page)?);
    page.set_len(AgentData::MESSAGE).map_err(|error| failed(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(page)
}

/// In the place of the agent's own page: the next message is its last, so that it needs the rest of that no more.
fn map_witness(fd: RawFd, calls: &mut Calls) {
    let [access, flags] = [libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED];
    let [at, length] = [AgentData::AT, AgentData::MESSAGE].map(Arg::from);
    calls.call(libc::SYS_mmap, [at, length, access.into(), flags.into(), fd.into(), 0.into()]);
    calls.call(libc::SYS_close, [fd.into()]);
}

/// Whether there is an answer, which there is of calls that have failed; the mapping goes with the exec.
fn tells_failure(page: &File) -> bool {
    let mut answer = [0; 8];
    page.read_exact_at(&mut answer, AgentData::ANSWER).is_err() || answer != [0; 8]
}

/// Before anything is moved: now the number of what is opened is known. Never through a link of /proc.
fn change_directory(directory: &CString, opened: RawFd, calls: &mut Calls) {
    let path = calls.data(directory.as_bytes_with_nul());
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let how = calls.words(&[flags.into(), 0.into(), libc::RESOLVE_NO_MAGICLINKS.into()]);
    calls.call(libc::SYS_openat2, [libc::AT_FDCWD.into(), path, how, 24.into()]);
    calls.call(libc::SYS_fchdir, [opened.into()]);
    calls.call(libc::SYS_close, [opened.into()]);
}

/// The first number that nothing arrives at and nothing is to have, and the first behind a copy of all that is sent.
fn clear_of(sent: &[(BorrowedFd<'_>, RawFd)]) -> (RawFd, RawFd) {
    let highest = sent.iter().map(|(_, to)| *to).max().unwrap_or(0);
    let count = sent.len() as RawFd;
    // One more arrives, or is opened.
    let clear = (FIRST + count).max(highest) + 1;
    (clear, clear + count)
}

/// Puts descriptors where the program is to have them. Where they have arrived, the exec closes them.
fn put_in_place(sent: &[(BorrowedFd<'_>, RawFd)], calls: &mut Calls) {
    let copy = |calls: &mut Calls, from: RawFd, to: RawFd, flags: i32| {
        calls.call(libc::SYS_dup3, [from.into(), to.into(), flags.into()]);
    };
    let mut first = FIRST;
    if sent.iter().any(|(_, to)| *to >= FIRST) {
        // First out of each other's way.
        (first, _) = clear_of(sent);
        for index in 0..sent.len() as RawFd {
            copy(calls, FIRST + index, first + index, libc::O_CLOEXEC);
        }
    }
    for (from, (_, to)) in (first..).zip(sent) {
        copy(calls, from, *to, 0);
    }
}

fn add_filter(step: &Step, calls: &mut Calls) {
    let Step::Seccomp { program } = step else { return };
    const SECCOMP_SET_MODE_FILTER: i32 = 1;
    let instructions = calls.data(&crate::sys::filter_bytes(program));
    let program = calls.words(&[Arg::Number(program.len() as i64), instructions]);
    calls.call(libc::SYS_seccomp, [SECCOMP_SET_MODE_FILTER.into(), 0.into(), program]);
}

fn execute_one(candidates: &[CString], argv: &CStringArray, envp: &CStringArray, calls: &mut Calls) {
    let [argv, envp] = [argv, envp].map(|strings| {
        let strings: Vec<Arg> = strings.iter().map(|string| calls.data(string.to_bytes_with_nul())).collect();
        calls.words(&[&strings[..], &[Arg::Number(0)]].concat())
    });
    for (index, path) in candidates.iter().enumerate() {
        let path = calls.data(path.as_bytes_with_nul());
        calls.unless(libc::SYS_execve, [path, argv, envp], libc::ENOENT);
        // A program that is there, and lacks what it needs to start, is not passed over.
        if index + 1 < candidates.len() {
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            calls.unless(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into()], libc::ENOENT);
        }
    }
}
