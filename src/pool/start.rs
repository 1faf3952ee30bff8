//! A parked sandbox, and starting a program in it.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::Seccomp;
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
use crate::sys::CStringArray;

/// A sandbox with an agent in the place of its program.
#[derive(Debug)]
pub(crate) struct Parked(Agent);

/// The agent's first free descriptor: where what is sent to it arrives.
const FIRST: RawFd = SOCKET + 1;

impl Parked {
    pub(super) fn build(sandbox: &Sandbox) -> Result<Self> {
        let mut agent = Agent::start(sandbox)?;
        // The program does not get the socket. And from the answer on, the agent waits.
        let mut calls = Calls::default();
        calls.call(libc::SYS_fcntl, [SOCKET.into(), libc::F_SETFD.into(), libc::FD_CLOEXEC.into()]);
        match agent.run(&calls, &[])? {
            Ok(()) => Ok(Self(agent)),
            Err((_, errno)) => Err(Error::os(Layer::Process, "park a sandbox", errno.0)),
        }
    }
}

/// The policy that a parked sandbox is built from, and the filters that are left for the end: one of the caller's own may
/// not let the agent make its last calls.
pub(super) fn split(sandbox: &Sandbox) -> Result<(Sandbox, Vec<Step>)> {
    let mut filters = Vec::new();
    match &sandbox.seccomp {
        Some(named) if !named.is_off() => {
            named.lower(&mut filters)?;
            Ok((sandbox.clone().seccomp(Seccomp::off()), filters))
        }
        _ => Ok((sandbox.clone(), filters)),
    }
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
    let directory = process::directory(command.directory.as_deref())?;
    let mut wiring = Wiring::open(&steps, &given)?;
    let sent = sent(&steps, &wiring);
    Program { program: &command.program, args: &command.args, env: command.env.clone() }.lower(&mut steps)?;
    let mut calls = Calls::default();
    change_directory(&directory, sent.len(), &mut calls);
    let next = put_in_place(&sent, &mut calls);
    shared.filters().iter().for_each(|step| add_filter(step, &mut calls));
    if let Some(Step::Exec { candidates, argv, envp, .. }) = steps.last() {
        execute(candidates, argv, envp, &mut calls);
    }
    if !calls.fits() {
        return Ok(None);
    }
    let Some(Parked(mut agent)) = shared.take() else { return Ok(None) };
    let sources: Vec<BorrowedFd<'_>> = sent.iter().map(|(source, _)| *source).collect();
    match agent.execute(&calls, &sources, next) {
        Ok(true) => Ok(Some(agent.into_child(wiring.streams(), started, shared.clone()))),
        Ok(false) | Err(_) => Ok(None),
    }
}

/// What is sent to the agent, and the number that each is to have. /dev/null it has in the place of a stream already.
fn sent<'a>(steps: &[Step], wiring: &'a Wiring) -> Vec<(BorrowedFd<'a>, RawFd)> {
    let source = |step: &Step| match step {
        Step::Inherit { fd } => Some((crate::sys::borrow(*fd), *fd)),
        Step::Install { given, fd, .. } => Some((wiring.get(*given)?, *fd)),
        _ => None,
    };
    steps.iter().filter_map(source).collect()
}

/// Before anything is moved: now the number of what is opened is known. Never through a link of /proc.
fn change_directory(directory: &CString, sent: usize, calls: &mut Calls) {
    if directory.as_bytes() == b"/" {
        return;
    }
    let path = calls.data(directory.as_bytes_with_nul());
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let how = calls.words(&[flags.into(), 0.into(), libc::RESOLVE_NO_MAGICLINKS.into()]);
    let opened = FIRST + sent as RawFd;
    calls.call(libc::SYS_openat2, [libc::AT_FDCWD.into(), path, how, 24.into()]);
    calls.call(libc::SYS_fchdir, [opened.into()]);
    calls.call(libc::SYS_close, [opened.into()]);
}

/// Puts descriptors where the program is to have them, and returns where the socket is then.
fn put_in_place(sent: &[(BorrowedFd<'_>, RawFd)], calls: &mut Calls) -> RawFd {
    let copy = |calls: &mut Calls, from: RawFd, to: RawFd, flags: i32| {
        calls.call(libc::SYS_dup3, [from.into(), to.into(), flags.into()]);
    };
    let highest = sent.iter().map(|(_, to)| *to).max().unwrap_or(0);
    if highest < SOCKET {
        for (from, (_, to)) in (FIRST..).zip(sent) {
            copy(calls, from, *to, 0);
        }
        return SOCKET;
    }
    // First out of each other's way.
    let clear = highest.max(FIRST + sent.len() as RawFd) + 1;
    for (index, from) in (SOCKET..).take(sent.len() + 1).enumerate() {
        copy(calls, from, clear + index as RawFd, libc::O_CLOEXEC);
        calls.call(libc::SYS_close, [from.into()]);
    }
    for (from, (_, to)) in (clear + 1..).zip(sent) {
        copy(calls, from, *to, 0);
    }
    clear
}

fn add_filter(step: &Step, calls: &mut Calls) {
    let Step::Seccomp { program } = step else { return };
    const SECCOMP_SET_MODE_FILTER: i32 = 1;
    let instructions = calls.data(&crate::sys::filter_bytes(program));
    let program = calls.words(&[Arg::Number(program.len() as i64), instructions]);
    calls.call(libc::SYS_seccomp, [SECCOMP_SET_MODE_FILTER.into(), 0.into(), program]);
}

fn execute(candidates: &[CString], argv: &CStringArray, envp: &CStringArray, calls: &mut Calls) {
    let [argv, envp] = [argv, envp].map(|strings| {
        let strings: Vec<Arg> = strings.iter().map(|string| calls.data(string.to_bytes_with_nul())).collect();
        calls.words(&[&strings[..], &[Arg::Number(0)]].concat())
    });
    for path in candidates {
        let path = calls.data(path.as_bytes_with_nul());
        calls.unless(libc::SYS_execve, [path, argv, envp], libc::ENOENT);
    }
}
