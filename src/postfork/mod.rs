//! What runs between clone and exec: nothing here allocates, locks or panics.
//!
//! A child obeys the steps of the plan, in order, and stops at the first that fails. In shared memory it runs beside
//! the other threads of the host, on the host's own heap, with the host's thread-local storage: so it makes raw
//! system calls on prepared data, and its report is a few words that the parent reads afterwards.

mod mount;
mod program;

use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::os::fd::{AsFd, RawFd};

use crate::plan::{Fault, Launch, Memory, Operand, Plan, Step};
use crate::sys::{self, Errno, Fd};

/// How much of a program that can't be executed is handed to the parent, which tells the reason from it.
const HEAD: usize = 4096;

/// What the children of one spawn get besides the plan.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The end of the lifeline that init reads.
    pub(crate) lifeline: RawFd,
    /// The init image.
    pub(crate) init: &'a [u8],
    /// The pidfd of the process that holds the user namespace.
    pub(crate) holder: RawFd,
    /// The pidfd of init.
    pub(crate) cell: RawFd,
    /// The descriptors for the program; [`Step::Install`] has indices into them.
    pub(crate) given: &'a [RawFd],
    /// The devices of the file systems that this sandbox has made, and may make files on: 0 for a free place.
    pub(crate) own: &'a [AtomicU64],
}

/// What a child tells its parent, in memory that both see.
#[derive(Debug)]
pub(crate) struct Report {
    /// The step under way.
    step: AtomicU32,
    /// Why it failed, or 0.
    errno: AtomicI32,
    operand: AtomicU32,
    /// The process that a go-between has cloned, and its pidfd in the host's table: 0 and -1 for none.
    pid: AtomicI32,
    pidfd: AtomicI32,
    /// The candidate that could not be executed, and the start of its file.
    candidate: AtomicU32,
    head_length: AtomicU32,
    head: [AtomicU8; HEAD],
}

impl Default for Report {
    fn default() -> Self {
        Self {
            step: AtomicU32::new(u32::MAX),
            errno: AtomicI32::new(0),
            operand: AtomicU32::new(0),
            pid: AtomicI32::new(0),
            pidfd: AtomicI32::new(-1),
            candidate: AtomicU32::new(0),
            head_length: AtomicU32::new(0),
            head: [const { AtomicU8::new(0) }; HEAD],
        }
    }
}

impl Report {
    /// The step that was under way at the end.
    pub(crate) fn step(&self) -> usize {
        self.step.load(Relaxed) as usize
    }

    /// Why that step failed, if it did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let errno = self.errno.load(Relaxed);
        let operand = match self.operand.load(Relaxed) {
            1 => Operand::Source,
            2 => Operand::Target,
            _ => Operand::Call,
        };
        (errno != 0).then_some(Fault { errno, operand })
    }

    /// What a go-between has cloned: the process id, and the pidfd, which the caller then owns.
    pub(crate) fn cloned(&self) -> Option<(libc::pid_t, RawFd)> {
        let pid = self.pid.load(Relaxed);
        (pid != 0).then(|| (pid, self.pidfd.load(Relaxed)))
    }

    /// The candidate that could not be executed, and the start of its file.
    pub(crate) fn candidate(&self) -> (usize, Vec<u8>) {
        let length = self.head_length.load(Relaxed) as usize;
        let head = self.head.iter().take(length).map(|byte| byte.load(Relaxed)).collect();
        (self.candidate.load(Relaxed) as usize, head)
    }

    /// Makes the report ready for the next process.
    pub(crate) fn clear(&self) {
        self.step.store(u32::MAX, Relaxed);
        self.errno.store(0, Relaxed);
        self.pid.store(0, Relaxed);
        self.pidfd.store(-1, Relaxed);
    }

    fn fail(&self, fault: Fault) {
        let operand = match fault.operand {
            Operand::Call => 0,
            Operand::Source => 1,
            Operand::Target => 2,
        };
        self.operand.store(operand, Relaxed);
        self.errno.store(fault.errno, Relaxed);
    }

    fn at(&self, step: usize) {
        self.step.store(step as u32, Relaxed);
    }

    fn set_candidate(&self, index: usize, head: &[u8]) {
        self.candidate.store(index as u32, Relaxed);
        self.head_length.store(head.len() as u32, Relaxed);
        for (to, from) in self.head.iter().zip(head) {
            to.store(*from, Relaxed);
        }
    }
}

/// What a step comes to.
type Done = Result<(), Fault>;

impl From<Errno> for Fault {
    fn from(Errno(errno): Errno) -> Fault {
        Fault { errno, operand: Operand::Call }
    }
}

/// Says what of a step an error is about.
fn on<T>(operand: Operand, result: sys::Result<T>) -> Result<T, Fault> {
    result.map_err(|Errno(errno)| Fault { errno, operand })
}

/// The body of a process: takes its steps, the last of which is an exec that does not return.
fn run(plan: &Plan, launch: &Launch, context: &Context<'_>, report: &Report) {
    let mut state = State { context, report, workspace: None, root: None };
    let first = launch.body.start;
    let steps = plan.steps.get(launch.body.clone()).unwrap_or_default();
    for (offset, step) in steps.iter().enumerate() {
        report.at(first.wrapping_add(offset));
        if let Err(fault) = state.take(step) {
            report.fail(fault);
            sys::exit(127);
        }
    }
}

/// The body of a go-between: enters namespaces that exist, then clones the process as its own sibling, so that the
/// new process is the host's child.
///
/// It shares the host's descriptor table, since it touches none of it: a copy would be paid for by every open file.
fn enter(plan: &Plan, launch: &Launch, context: &Context<'_>, report: &Report, stack: sys::Stack<'_>) {
    let mut state = State { context, report, workspace: None, root: None };
    for index in launch.enter.clone() {
        report.at(index);
        let done = plan.steps.get(index).map(|step| state.take(step));
        if let Some(Err(fault)) = done {
            report.fail(fault);
            sys::exit(127);
        }
    }
    report.at(launch.clone);
    match clone_body(plan, launch, context, report, stack, libc::CLONE_PARENT as u64) {
        Ok(cloned) => {
            report.pidfd.store(cloned.pidfd.into_raw(), Relaxed);
            report.pid.store(cloned.pid, Relaxed);
            sys::exit(0)
        }
        Err(errno) => {
            report.fail(errno.into());
            sys::exit(127)
        }
    }
}

/// Clones the go-between of `launch`, which ends when it has cloned the process. It gets the first stack, and the
/// process the second.
pub(crate) fn clone_entry(
    plan: &Plan,
    launch: &Launch,
    context: &Context<'_>,
    report: &Report,
    [stack, inner]: [sys::Stack<'_>; 2],
) -> sys::Result<sys::Cloned> {
    let entry = || enter(plan, launch, context, report, inner);
    let flags = (libc::CLONE_VM | libc::CLONE_FILES) as u64;
    // SAFETY: As in `clone_body`.
    #[allow(unsafe_code)]
    unsafe {
        sys::clone(flags, stack, &entry)
    }
}

/// Clones the process that runs the body of `launch`.
pub(crate) fn clone_body(
    plan: &Plan,
    launch: &Launch,
    context: &Context<'_>,
    report: &Report,
    stack: sys::Stack<'_>,
    flags: u64,
) -> sys::Result<sys::Cloned> {
    let Some(Step::Clone { namespaces, memory, .. }) = plan.steps.get(launch.clone) else {
        return Err(Errno(libc::EINVAL));
    };
    let flags = flags | namespaces;
    let shared = libc::CLONE_VM as u64;
    let body = || run(plan, launch, context, report);
    // SAFETY: The steps are taken by system calls on data that outlives the child's use of it, and end in exec or
    // exit: nothing on the way allocates, locks, panics or touches thread-local storage.
    #[allow(unsafe_code)]
    let clone = |flags| unsafe { sys::clone(flags, stack, &body) };
    match memory {
        Memory::Shared => clone(flags | shared),
        Memory::Copied => clone(flags),
        Memory::SharedIfAllowed => match clone(flags | shared) {
            Err(Errno(libc::EINVAL)) => clone(flags),
            result => result,
        },
    }
}

/// What a process has in hand while it takes its steps.
struct State<'a> {
    context: &'a Context<'a>,
    report: &'a Report,
    /// The tmpfs that everything of our own is made on.
    workspace: Option<Fd>,
    /// The root to be.
    root: Option<Fd>,
}

impl State<'_> {
    /// Takes one step.
    fn take(&mut self, step: &Step) -> Done {
        match step {
            // Done by the host, or by `clone_body`.
            Step::Clone { .. } | Step::Maps { .. } => Err(Errno(libc::EINVAL).into()),
            Step::WriteProc { path, data, .. } => write_proc(path, data),
            Step::EnterHolder { namespaces } => Ok(sys::setns(sys::borrow(self.context.holder), *namespaces)?),
            Step::EndHolder => Ok(sys::pidfd_send_signal(sys::borrow(self.context.holder), libc::SIGKILL)?),
            Step::EnterCell { namespaces } => Ok(sys::setns(sys::borrow(self.context.cell), *namespaces)?),
            Step::Unshare { namespaces } => Ok(sys::unshare(*namespaces)?),
            Step::LoopbackUp => Ok(sys::loopback_up()?),
            Step::Hostname { name } => Ok(sys::sethostname(name)?),
            Step::Domainname => Ok(sys::setdomainname(c"(none)")?),
            Step::Private => self.make_private(),
            Step::Workspace => self.make_workspace(),
            Step::RootEmpty => self.root_empty(),
            Step::RootDir { source } => self.root_dir(source),
            Step::RootLayered { source } => self.root_layered(source),
            Step::OverlayTrial => self.overlay_trial(),
            Step::Dir { at } => self.dir(at),
            Step::File { at, name, data } => self.file(at, name, &data.0),
            Step::Symlink { target, at } => self.symlink(target, at),
            Step::Bind { source, at, attributes } => self.bind(source, at, *attributes),
            Step::Tmpfs { at, size, inodes, mode, attributes } => {
                self.tmpfs(at, [(c"size", size), (c"nr_inodes", inodes), (c"mode", mode)], *attributes)
            }
            Step::Proc { at } => self.proc(at),
            Step::Devpts { at } => self.devpts(at),
            Step::Mask { at } => self.mask(at),
            Step::Protect { at } => self.protect(at),
            Step::Seal { at, attributes } => self.seal(at, *attributes),
            Step::Pivot => self.pivot(),
            Step::ExecInit { mode, securebits, argv, envp } => self.exec_init(*mode, *securebits, argv, envp),
            Step::Setsid => Ok(sys::setsid()?),
            Step::Inherit { fd } => Ok(sys::keep_on_exec(sys::borrow(*fd))?),
            Step::Install { given, fd, .. } => self.install(*given, *fd),
            Step::CloseRest { ranges } => program::close(ranges),
            Step::OomScore { data } => program::set_oom_score(data),
            Step::Nice => program::default_nice(),
            Step::IoPriority => Ok(sys::reset_io_priority()?),
            Step::Affinity => Ok(sys::reset_affinity()?),
            Step::Personality => Ok(sys::reset_personality()?),
            Step::TimerSlack { nanoseconds } => Ok(sys::set_timer_slack(*nanoseconds)?),
            Step::Umask { mask } => {
                sys::umask(*mask);
                Ok(())
            }
            Step::Limit { resource, soft, hard, .. } => Ok(sys::lower_limit(*resource, *soft, *hard)?),
            Step::DropGroups => Ok(sys::drop_groups()?),
            Step::SetGid { id } => Ok(sys::setgid(*id)?),
            Step::SetUid { id } => Ok(sys::setuid(*id)?),
            Step::Securebits { bits } => Ok(sys::set_securebits(*bits)?),
            Step::BoundingSet => Ok(sys::drop_bounding_set()?),
            Step::AmbientSet => Ok(sys::clear_ambient_set()?),
            Step::CapabilitySets => Ok(sys::drop_capabilities()?),
            Step::NoNewPrivs => Ok(sys::no_new_privs()?),
            Step::Chdir { path } => program::chdir(path),
            Step::Signals => program::default_signals(),
            Step::Exec { candidates, argv, envp, .. } => self.exec(candidates, argv, envp),
        }
    }
}

/// Writes a file of the process's own in /proc.
fn write_proc(path: &core::ffi::CStr, data: &[u8]) -> Done {
    let file = sys::openat2(sys::CWD, path, libc::O_WRONLY, 0, libc::RESOLVE_NO_MAGICLINKS)?;
    Ok(sys::write_all(file.as_fd(), data)?)
}
