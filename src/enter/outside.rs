//! The agent that joins the namespaces: outside of the PID namespace, it has no name inside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use super::wear::Script;
use super::{Inside, PATIENCE, over};
use crate::agent::{Agent, Calls, SOCKET, image, sockets};
use crate::child::Child;
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::layer::fds::{self, Passed, Stdio};
use crate::layer::ids::Caller;
use crate::layer::inherit::Inherit;
use crate::layer::namespaces::Namespaces;
use crate::layer::{exec, process};
use crate::plan::{Lack, Memory, Plan, Step};
use crate::report::Report;
use crate::spawn::{Process, spawn};
use crate::sys::{self, Errno};

/// How many files are asked for at once: the host may have few descriptors left.
const AT_ONCE: usize = 64;

/// The agent's first free descriptor: where what is sent to it arrives.
const FIRST: RawFd = SOCKET + 1;

/// The agent, before it clones the one that goes in.
#[derive(Debug)]
pub(super) struct Outside(Agent);

impl Outside {
    /// Starts it with what every program starts with, as the host's own process, with all rights that this has.
    ///
    /// Its groups are those of the program: no more, also if the host has got others since, and no fewer.
    ///
    /// What the sandbox inherits it has from the thread that starts it, as the program has from the one that has started that.
    pub(super) fn start(inside: &Inside, inherit: Inherit) -> Result<Self> {
        let (inner, socket) = sockets()?;
        let null = Stdio::null();
        let passed = [Passed { number: SOCKET, fd: inner.into() }];
        let mut steps = vec![Step::Clone { process: "agent", namespaces: 0, memory: Memory::Shared }];
        // No terminal's signals reach it.
        process::lower_session(&mut steps);
        let given = fds::lower([&null, &null, &null], &passed, &mut steps)?;
        drop(passed);
        if !inherit.contains(Inherit::SCHEDULING) {
            process::lower_priorities(&mut steps);
        }
        if !inherit.contains(Inherit::OOM_SCORE) {
            process::lower_oom_score(&mut steps);
        }
        let caller = Caller::current();
        if (inside.leaves_groups || caller.in_groups) && caller.sets_groups() {
            steps.push(Step::DropGroups);
        }
        process::lower_signals(&mut steps);
        exec::lower_agent(image(), &mut steps);
        let mut plan = Plan { given, ..Plan::of_one(steps) };
        let child = spawn(&plan, Report::default(), Instant::now())?;
        // The other end of its socket: else nobody would see its end.
        plan.given.clear();
        Ok(Self(Agent::new(child, socket, SOCKET)))
    }

    /// Has it join the namespaces of init, which are these.
    pub(super) fn join(&mut self, inside: &Inside, own: Namespaces) -> Result<()> {
        let mut calls = Calls::default();
        // Its own program file, which it can't read, would be all that a link to /proc/self/exe inside leads to.
        let program = calls.data(b"/proc/self/exe\0");
        calls.attempt(libc::SYS_fchmodat, [libc::AT_FDCWD.into(), program, 0.into()]);
        not_dumpable(&mut calls);
        let mut joined = vec![inside.init.as_fd()];
        let first = calls.len();
        // What the program makes in its own cgroup.
        let made = if inside.fate.leaf().is_some() { own & Namespaces::CGROUP } else { Namespaces::empty() };
        self.enter_cgroup(inside)?;
        calls.call(libc::SYS_setns, [FIRST.into(), (own - Namespaces::TIME - made).bits().into()]);
        if !made.is_empty() {
            calls.call(libc::SYS_unshare, [made.bits().into()]);
        }
        // Init is in the host's: the program is the first that is not.
        let program = match own.contains(Namespaces::TIME) {
            true => Some(inside.program.upgrade().ok_or_else(over)?),
            false => None,
        };
        if let Some(program) = &program {
            joined.push(program.as_fd());
            calls.call(libc::SYS_setns, [(FIRST + 1).into(), Namespaces::TIME.bits().into()]);
        }
        close_from(FIRST, &mut calls);
        match self.0.run(&calls, &joined)? {
            Ok(()) => Ok(()),
            Err((_, Errno(libc::ESRCH))) => Err(over()),
            Err((index, Errno(errno))) => {
                let error = Error::os(Layer::Namespaces, "setns", errno);
                let refused = index >= first && errno == libc::EPERM;
                Err(if refused { error.with_kind(ErrorKind::Unsupported).with_hint(WHO_MAY) } else { error })
            }
        }
    }

    /// Has the limits of the sandbox bind it too, and what it clones.
    fn enter_cgroup(&mut self, inside: &Inside) -> Result<()> {
        let Some(leaf) = inside.fate.leaf() else { return Ok(()) };
        let leaf = leaf.upgrade().ok_or_else(over)?;
        if leaf.is_frozen() {
            let error = Error::new(Layer::Process, ErrorKind::Os, "enter", "the sandbox is paused");
            return Err(error.with_errno(libc::EAGAIN).with_hint("let it go on with Child::resume"));
        }
        let failed = |error: std::io::Error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            Error::os(Layer::Limits, Step::EnterCgroup.to_string(), errno).with_path(leaf.path())
        };
        leaf.write("cgroup.procs", self.0.child().id().to_string().as_bytes()).map_err(failed)
    }

    /// The sandbox's own /dev/null for each stream that is to be that, if it has one.
    pub(super) fn nulls(&mut self, steps: &[Step]) -> Result<Vec<(OwnedFd, RawFd)>> {
        let null = |step: &Step| match step {
            Step::InstallNull { write, fd, .. } => Some((*fd, if *write { libc::O_WRONLY } else { libc::O_RDONLY })),
            _ => None,
        };
        let nulls: Vec<_> = steps.iter().filter_map(null).collect();
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let open = nulls.iter().map(|(_, access)| Place {
            path: c"/dev/null",
            flags: access | flags,
            resolve: libc::RESOLVE_NO_SYMLINKS,
        });
        let opened = self.open(&open.collect::<Vec<_>>())?;
        let is_null = |file: &OwnedFd| sys::fstat(file.as_fd()).is_ok_and(|stat| stat.is_null());
        let fds = nulls.iter().map(|(fd, _)| *fd);
        let found: Vec<_> = opened.into_iter().zip(fds).filter(|(file, _)| is_null(file)).collect();
        let blocking = found.iter().try_for_each(|(file, _)| sys::set_blocking(file.as_fd()));
        blocking.map_err(|Errno(errno)| Error::os(Layer::Fds, "fcntl", errno))?;
        Ok(found)
    }

    /// What the names in rules for Landlock lead to now, in their order; the root for those that lead nowhere.
    pub(super) fn open_places(&mut self, steps: &[Step]) -> Result<Vec<OwnedFd>> {
        fn place(step: &Step) -> Option<Place<'_>> {
            let Step::LandlockPath { path, .. } = step else { return None };
            Some(Place { path, flags: libc::O_PATH, resolve: libc::RESOLVE_NO_MAGICLINKS })
        }
        let places: Vec<_> = steps.iter().filter_map(place).collect();
        let mut files = Vec::with_capacity(places.len());
        for places in places.chunks(AT_ONCE) {
            files.extend(self.open(places)?);
        }
        Ok(files)
    }

    /// Opens files inside; the root in the place of each that can't be opened.
    fn open(&mut self, places: &[Place<'_>]) -> Result<Vec<OwnedFd>> {
        let mut calls = Calls::default();
        let root = calls.data(b"/\0");
        for (number, place) in (FIRST..).zip(places) {
            calls.open(root, libc::O_PATH | libc::O_CLOEXEC, 0, Calls::call);
            let path = calls.data(place.path.to_bytes_with_nul());
            calls.open(path, place.flags | libc::O_CLOEXEC, place.resolve, Calls::attempt);
            let [opened, number] = [number + 1, number];
            calls.attempt(libc::SYS_dup3, [opened.into(), number.into(), libc::O_CLOEXEC.into()]);
            calls.attempt(libc::SYS_close, [opened.into()]);
        }
        if places.is_empty() {
            return Ok(Vec::new());
        }
        self.0.run(&calls, &[])?.map_err(|(_, Errno(errno))| Error::os(Layer::Mount, "open inside", errno))?;
        self.0.take_fds(FIRST, places.len())
    }

    /// Has it take upon itself what the program has: all but the limits and the filters, which would be in its own way.
    pub(super) fn wear(&mut self, steps: &[Step], ruleset: Option<BorrowedFd<'_>>, report: &mut Report) -> Result<()> {
        let later = |step: &&Step| !matches!(step, Step::Limit { .. } | Step::Seccomp { .. });
        let steps: Vec<&Step> = steps.iter().filter(later).collect();
        let mut groups = steps.split(|step| matches!(step, Step::SessionKeyring)).peekable();
        while let Some(group) = groups.next() {
            let restricts = group.iter().any(|step| matches!(step, Step::LandlockRestrict { .. }));
            let ruleset = ruleset.filter(|_| restricts);
            let mut script = Script::default();
            for step in group {
                script.wear(step, Some(FIRST))?;
            }
            script.close(|calls| {
                // A change of ids may have made it so again, if fs.suid_dumpable says that: proc(5).
                not_dumpable(calls);
                close_from(FIRST, calls);
            });
            script.run(&mut self.0, ruleset.as_slice())?;
            if groups.peek().is_some() {
                self.leave_keyring(report)?;
            }
        }
        Ok(())
    }

    /// Goes on as an ordinary start does where there is no keyring to be had.
    fn leave_keyring(&mut self, report: &mut Report) -> Result<()> {
        const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
        let mut calls = Calls::default();
        calls.call(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING.into(), 0.into()]);
        match self.0.run(&calls, &[])? {
            Ok(()) | Err((_, Errno(libc::ENOSYS | libc::EPERM))) => Ok(()),
            Err((_, Errno(libc::EDQUOT))) => {
                let (layer, why) = Lack::SessionKeyring.told();
                report.lack(layer, why);
                Ok(())
            }
            Err((_, Errno(errno))) => Err(Error::os(Layer::Process, Step::SessionKeyring.to_string(), errno)),
        }
    }

    /// Has a bound on the processes of the user hold for the clone too: the limit that the program itself gets comes after it. For
    /// a moment, the agent is one more.
    pub(super) fn bound(&mut self, steps: &[Step]) -> Result<()> {
        const PROCESSES: &str = "NPROC";
        let bound = steps.iter().find_map(|step| match step {
            Step::Limit { name: name @ PROCESSES, resource, soft, hard } if *soft != libc::RLIM64_INFINITY => {
                let (soft, hard) = (soft.saturating_add(1), hard.saturating_add(1));
                Some(Step::Limit { name, resource: *resource, soft, hard })
            }
            _ => None,
        });
        let Some(step) = bound else { return Ok(()) };
        let mut script = Script::default();
        script.wear(&step, None)?;
        script.run(&mut self.0, &[])
    }

    /// Has it clone the process inside, and end.
    pub(super) fn fork(self, child: impl FnOnce(Process) -> Result<Child>) -> Result<Agent> {
        self.0.fork(child, PATIENCE)
    }
}

const WHO_MAY: &str = "to enter a sandbox without a user namespace of its own takes CAP_SYS_ADMIN and CAP_SYS_PTRACE";

/// A file to open inside.
struct Place<'a> {
    path: &'a std::ffi::CStr,
    flags: i32,
    resolve: u64,
}

fn not_dumpable(calls: &mut Calls) {
    calls.call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 0.into()]);
}

fn close_from(first: RawFd, calls: &mut Calls) {
    calls.call(libc::SYS_close_range, [first.into(), u32::MAX.into(), 0.into()]);
}
