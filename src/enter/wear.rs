//! Steps as calls of an agent's.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;

use crate::agent::{Agent, Arg, Calls, SOCKET};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{Operand, Step, os};
use crate::spawn::exec_hint;
use crate::sys::{self, Errno};

/// How much of a program that can't be executed is looked at for the reason.
const HEAD: usize = 4096;

/// Whether a step is of the policy: the rest belongs to one command, or is what an agent has on already.
pub(super) fn is_of_policy(step: &Step) -> bool {
    let streams =
        matches!(step, Step::Inherit { .. } | Step::Install { .. } | Step::InstallNull { .. } | Step::CloseRest { .. });
    let command = matches!(
        step,
        Step::Chdir { .. }
            | Step::Look { .. }
            | Step::Exec { .. }
            | Step::ExecAgent { .. }
            | Step::LandlockPassed { .. }
            | Step::ChdirFirst { .. }
            | Step::Hold { .. }
            | Step::EndWithThread
            | Step::OpenPty { .. }
            | Step::TakeTerminal
            | Step::HandPtyOver
            | Step::InstallPty { .. }
    );
    // The agent is in the cgroup already, and init minds the time.
    let bounds = matches!(step, Step::Deadline | Step::EnterCgroup | Step::Unshare { .. });
    // Of a prepared sandbox the program itself makes the part of the root that no other has.
    let root = step.layer() == Layer::Mount || matches!(step, Step::NoUserNamespaces);
    let worn = matches!(
        step,
        Step::Setsid
            | Step::Signals
            | Step::CaughtSignals
            | Step::OomScore { .. }
            | Step::Ready
            | Step::AwaitReady
            | Step::AwaitInit
            | Step::PassNetwork
            | Step::Nice
            | Step::IoPriority
            | Step::Affinity
            | Step::Personality
            | Step::TimerSlack { .. }
            | Step::LoopbackUp
            | Step::NotDumpable
            | Step::Join { .. }
    );
    !streams && !command && !worn && !bounds && !root
}

/// Calls, and the steps that they are taken for.
#[derive(Debug, Default)]
pub(super) struct Script<'a> {
    calls: Calls,
    /// For each call, the step; none for calls before the first step.
    steps: Vec<Option<&'a Step>>,
}

impl<'a> Script<'a> {
    /// Goes on after calls that are there.
    pub(super) fn after(calls: Calls) -> Self {
        let steps = vec![None; calls.len()];
        Self { calls, steps }
    }

    /// Adds the calls of a step.
    pub(super) fn add<'b: 'a>(&mut self, step: &'b Step, add: impl FnOnce(&mut Calls)) {
        add(&mut self.calls);
        self.steps.resize(self.calls.len(), Some(step));
    }

    /// Adds calls that belong to no step.
    pub(super) fn close(&mut self, add: impl FnOnce(&mut Calls)) {
        add(&mut self.calls);
        self.steps.resize(self.calls.len(), None);
    }

    pub(super) fn take_calls(&mut self) -> Calls {
        std::mem::take(&mut self.calls)
    }

    /// Adds what a process takes upon itself; `ruleset` is the number of Landlock's rules.
    pub(super) fn wear(&mut self, step: &'a Step, ruleset: Option<RawFd>) -> Result<()> {
        let calls = &mut self.calls;
        let prctl = |calls: &mut Calls, option: i32, args: [Arg; 2]| {
            calls.call(libc::SYS_prctl, [option.into(), args[0], args[1], 0.into(), 0.into()]);
        };
        let none = Arg::from(0);
        match step {
            Step::Umask { mask } => calls.call(libc::SYS_umask, [(*mask).into()]),
            Step::DropGroups => calls.call(libc::SYS_setgroups, [none, none]),
            Step::SetGid { id } => calls.call(libc::SYS_setresgid, [Arg::from(*id); 3]),
            Step::SetUid { id } => calls.call(libc::SYS_setresuid, [Arg::from(*id); 3]),
            Step::Securebits { bits } => prctl(calls, libc::PR_SET_SECUREBITS, [(*bits).into(), none]),
            Step::BoundingSet { kept } => {
                for capability in numbers(sys::known_capabilities() & !kept) {
                    prctl(calls, libc::PR_CAPBSET_DROP, [capability, none]);
                }
            }
            Step::AmbientSet => prctl(calls, libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL.into(), none]),
            Step::CapabilitySets { kept } => set_capabilities(*kept, calls),
            Step::RaiseAmbient { kept } => {
                for capability in numbers(*kept) {
                    prctl(calls, libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE.into(), capability]);
                }
            }
            Step::NoNewPrivs => prctl(calls, libc::PR_SET_NO_NEW_PRIVS, [1.into(), none]),
            Step::LandlockRestrict { flags } => {
                calls.call(libc::SYS_landlock_restrict_self, [ruleset.unwrap_or(-1).into(), (*flags).into()]);
            }
            // These the host has made the rules of.
            Step::LandlockRuleset { .. } | Step::LandlockPath { .. } | Step::LandlockPort { .. } => {}
            Step::Limit { resource, soft, hard, .. } => limit(step, [*soft, *hard], *resource, calls)?,
            // Nothing may be left out because nobody has thought of it here.
            _ => {
                let cause = "a command in a sandbox in use can't take this step";
                return Err(Error::new(step.layer(), ErrorKind::Unsupported, step.to_string(), cause));
            }
        }
        self.steps.resize(self.calls.len(), Some(step));
        Ok(())
    }

    /// Has an agent make the calls.
    pub(super) fn run(&self, agent: &mut Agent, fds: &[BorrowedFd<'_>]) -> Result<()> {
        agent.run(&self.calls, fds)?.map_err(|fault| self.fault(fault))
    }

    fn fault(&self, (index, Errno(errno)): (usize, Errno)) -> Error {
        let Some(step) = self.steps.get(index).copied().flatten() else {
            return Error::os(Layer::Process, "agent", errno);
        };
        let error = Error::os(step.layer(), step.to_string(), errno);
        match step.path(Operand::Call) {
            Some(path) => error.with_path(path),
            None => error,
        }
    }

    /// Why an agent has not become the program.
    pub(super) fn error(&self, failed: Option<(usize, Errno)>, executable: &Executable) -> Error {
        let Some((index, errno)) = failed else { return Error::os(Layer::Process, "agent", libc::ECHILD) };
        match self.steps.get(index).copied().flatten() {
            Some(step @ Step::Exec { .. }) => executable.error(step, errno),
            _ => self.fault((index, errno)),
        }
    }
}

fn numbers(mask: u64) -> impl Iterator<Item = Arg> {
    (0..u64::BITS).filter(move |bit| mask >> bit & 1 == 1).map(Arg::from)
}

fn set_capabilities(kept: u64, calls: &mut Calls) {
    const VERSION_3: u32 = 0x2008_0522;
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let header = calls.data(&bytes(&[VERSION_3, 0]));
    let sets = calls.data(&bytes(&[low, low, low, high, high, high]));
    calls.call(libc::SYS_capset, [header, sets]);
}

/// At most these, where the hard limit of the host, which the agent has, is lower.
fn limit(step: &Step, [soft, hard]: [u64; 2], resource: u32, calls: &mut Calls) -> Result<()> {
    let known = sys::hard_limit(resource);
    let hard = hard.min(known.map_err(|Errno(errno)| Error::os(step.layer(), step.to_string(), errno))?);
    let limit = calls.words(&[soft.min(hard).into(), hard.into()]);
    calls.call(libc::SYS_prlimit64, [0.into(), resource.into(), limit, 0.into()]);
    Ok(())
}

/// What is executed, of all that it may be.
#[derive(Debug)]
pub(super) struct Executable {
    pub(super) path: CString,
    /// The file, if it can be read: for the reason why it can't be executed.
    file: Option<File>,
}

impl Executable {
    /// Looks for the program as execvp(3) does, with the rights of the process inside.
    pub(super) fn find(agent: &mut Agent, exec: Option<&Step>) -> Result<Self> {
        let Some(step @ Step::Exec { candidates, .. }) = exec else {
            return Err(Error::os(Layer::Exec, "execve", libc::EINVAL));
        };
        let mut worst = Errno(libc::ENOENT);
        for path in candidates {
            match access(agent, path)? {
                Ok(()) => return Ok(Self { path: path.clone(), file: open(agent, path)? }),
                Err(Errno(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(errno @ Errno(libc::EACCES)) => worst = errno,
                Err(errno) => return Err(Self { path: path.clone(), file: None }.error(step, errno)),
            }
        }
        Err(none(step, worst))
    }

    fn error(&self, step: &Step, Errno(errno): Errno) -> Error {
        let error = Error::os(Layer::Exec, step.to_string(), errno).with_path(os(&self.path));
        let mut head = vec![0; HEAD];
        let length = self.file.as_ref().and_then(|file| file.read_at(&mut head, 0).ok());
        head.truncate(length.unwrap_or(0));
        match exec_hint(errno, &head) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

fn none(step: &Step, Errno(errno): Errno) -> Error {
    let error = Error::os(Layer::Exec, step.to_string(), errno);
    let error = step.path(Operand::Call).into_iter().fold(error, Error::with_path);
    exec_hint(errno, &[]).into_iter().fold(error, Error::with_hint)
}

/// Whether a file can be executed, as far as its mode tells.
fn access(agent: &mut Agent, path: &CString) -> Result<std::result::Result<(), Errno>> {
    let mut calls = Calls::default();
    let path = calls.data(path.as_bytes_with_nul());
    // By its real ids, which are the effective ones.
    calls.call(libc::SYS_faccessat, [libc::AT_FDCWD.into(), path, libc::X_OK.into()]);
    Ok(agent.run(&calls, &[])?.map_err(|(_, errno)| errno))
}

/// Opens a regular file inside, if that is one which can be read.
fn open(agent: &mut Agent, path: &CString) -> Result<Option<File>> {
    let mut calls = Calls::default();
    let path = calls.data(path.as_bytes_with_nul());
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    calls.open(path, flags, libc::RESOLVE_NO_MAGICLINKS, Calls::call);
    if agent.run(&calls, &[])?.is_err() {
        return Ok(None);
    }
    let file = File::from(agent.take_fd(SOCKET)?);
    Ok(file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file))
}
