//! Another command in a sandbox that is in use.
//!
//! The program inside is hostile, and it runs: nobody who shares the host's memory may go where it is. So an agent goes, a
//! process with nothing of the host in it. It joins the namespaces of init while it is still outside of the PID namespace, where
//! nobody inside has a name for it, and takes upon itself there what the program has: ids, capabilities, rules. Then it
//! clones a copy of itself as the host's child, which is born inside with all that on, not dumpable, and holding
//! nothing but its end of a socket. That one gets the descriptors, and executes.

mod outside;
mod rules;
mod wear;

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::agent::{Agent, Executed, Order, PARKED, SOCKET, sent};
use crate::child::{Child, Parts};
use crate::command::Command;
use crate::compile::own_namespaces;
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::layer::exec::Program;
use crate::layer::fds::{self, Stdio};
use crate::layer::limits;
use crate::layer::namespaces::Namespaces;
use crate::layer::process;
use crate::plan::{Plan, Step};
use crate::pool::{defaults, environment};
use crate::report::Report;
use crate::sandbox::Sandbox;
use crate::spawn::{Cell, Entered, Fate, Limited, Process, Watched, Wiring};
use crate::sys::Errno;
use outside::Outside;
use wear::{Executable, Script};

/// How long a process inside may take, in all, for what takes microseconds: others there may have its signals and its processor.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many descriptors can be passed: what has them put in place goes in one message.
const DESCRIPTORS: usize = 1000;

/// What a command needs to enter a sandbox.
#[derive(Debug)]
pub(crate) struct Entry {
    inside: Option<Arc<Inside>>,
    report: Report,
}

/// What another command in a sandbox starts from.
#[derive(Debug)]
pub(crate) struct Inside {
    init: Process,
    program: Watched,
    entered: Entered,
    /// What ends the sandbox.
    fate: Fate,
    /// What the program has taken upon itself.
    steps: Vec<Step>,
    /// Whether the program has left the groups of the host process.
    leaves_groups: bool,
    /// The writable mounts: words of [`Writable`].
    mounts: Vec<AtomicU64>,
    /// What the caller's own rules for Landlock are about: device and inode of each.
    named: Vec<u64>,
}

impl Child {
    /// Makes a command that runs in this sandbox, beside the program: in the same namespaces and the same root, as the same
    /// user with the same groups, under the same rules and limits.
    ///
    /// Its [`Child`] is a process of its own: id, pidfd, outcome and streams are those of the new program, whose true status
    /// comes from the kernel. [`kill`](Child::kill), [`wait`](Child::wait) and a drop mean that process alone, and not what
    /// it has left behind. The sandbox is still that of the first program: it ends with that, or with the first handle, and every
    /// command in it is killed then. Of a command that was killed like that, the outcome says why the sandbox has ended:
    /// [`TimedOut`](crate::Cause::TimedOut) and [`OutOfMemory`](crate::Cause::OutOfMemory) where it has met that limit,
    /// [`CpuTime`](crate::Cause::CpuTime) where the sum of all was looked at, [`Killed`](crate::Cause::Killed) where the first handle
    /// was killed or dropped, and [`Signaled`](crate::Cause::Signaled) where the first program has ended by itself. The command
    /// may be started any number of times, from many threads at once.
    ///
    /// What that is not: the kernel does not tell when a process has ended. One that somebody inside has killed just before its
    /// sandbox met a limit, and that nobody has waited for until then, is taken for one that the limit has ended. And one that
    /// exits when it is asked to at the end of its time, with [`Limits::term_grace`](crate::Limits::term_grace), has exited.
    ///
    /// The program in the sandbox need not be trusted: the new process is not dumpable until it executes, holds nothing
    /// that could be taken from it, and looks up its directory and its program when it has no more rights than any other
    /// process there. What the program can do is what it can do to all its processes of the same user: once the command
    /// runs, send it signals, or, if the filter allows it, trace it; and before, keep it from starting, which is an error then,
    /// after 30 seconds at most.
    ///
    /// Landlock's rules are those of the first start, for the files that they were for then: what has been put in the place
    /// of a file that a rule names is not meant by it. Each command is confined by itself: where Landlock
    /// scopes signals and abstract sockets (Linux 6.12), neither reach from a command to the program, nor back.
    ///
    /// # Errors
    ///
    /// None here; those of [`Command::spawn`] and, when the command is started:
    ///
    /// - [`Os`](ErrorKind::Os) with `ESRCH`: the sandbox has ended; with `EAGAIN`: its cgroup is
    ///   [frozen](Child::pause).
    /// - [`InvalidPolicy`](ErrorKind::InvalidPolicy): the sandbox has no PID namespace, and so nobody who keeps it; the command
    ///   asks for a [terminal](Command::pty), a hook, a [name of its own](Command::arg0) or a choice of directories; or more than
    ///   1000 descriptors are [passed](Command::fd). On the way in each takes two numbers, so that for more than some 500
    ///   the host process needs a higher soft `RLIMIT_NOFILE` than the usual 1024.
    /// - [`Unsupported`](ErrorKind::Unsupported): the host process may not enter. The one who made a user namespace
    ///   always may; without one, it takes `CAP_SYS_ADMIN` and `CAP_SYS_PTRACE`.
    ///
    /// [`Command::plan`] tells how the sandbox itself is started.
    ///
    /// # Kernel
    ///
    /// Linux 5.15 or later.
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox, Stdio};
    ///
    /// let sandbox = Sandbox::new().rootfs(Rootfs::host());
    /// let mut server = sandbox.command("sleep").arg("1000").spawn()?;
    /// let output = server.command("sh").args(["-c", "echo here > /tmp/note; cat /tmp/note"]).output()?;
    /// assert_eq!(output.stdout, b"here\n");
    /// let output = server.command("cat").arg("/tmp/note").output()?;
    /// assert_eq!(output.stdout, b"here\n");
    /// server.kill()?;
    /// server.wait()?;
    /// assert!(server.command("true").spawn().is_err(), "the sandbox has ended");
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let entry = Entry { inside: self.inside.clone(), report: self.report().clone() };
        Command::entering(self.policy.clone().unwrap_or_default(), program.as_ref(), Arc::new(entry))
    }
}

impl Inside {
    pub(crate) fn new(
        plan: &Plan,
        cell: &Cell,
        (program, fate): (&Process, Fate),
        (mounts, named): (&[AtomicU64], &[AtomicU64]),
    ) -> Self {
        let within = |range: std::ops::Range<usize>| plan.steps.get(range).unwrap_or_default();
        // What the program has from the cell that cloned it; the rest of that the agent has from the host.
        let meanwhile = plan.cell.as_ref().map(|cell| cell.meanwhile.clone()).unwrap_or_default();
        let inherited = within(meanwhile).iter().filter(|step| matches!(step, Step::BoundingSet { .. }));
        // Ids that it has from there too.
        let entry = plan.cell.as_ref().map(|cell| cell.body.clone()).unwrap_or_default();
        let is_taken_on =
            |step: &&Step| matches!(step, Step::Securebits { .. } | Step::SetGid { .. } | Step::SetUid { .. });
        let taken_on = within(entry).iter().filter(is_taken_on);
        let own = within(plan.program.body.clone()).iter().filter(|step| wear::is_of_policy(step));
        Self {
            init: cell.init().clone(),
            program: program.downgrade(),
            entered: cell.entered().clone(),
            fate,
            steps: inherited.chain(taken_on).chain(own).cloned().collect(),
            leaves_groups: plan.steps.iter().any(|step| matches!(step, Step::DropGroups)),
            mounts: mounts.iter().map(|word| word.load(Relaxed).into()).collect(),
            named: named.iter().map(|word| word.load(Relaxed)).collect(),
        }
    }

    /// Whether there is nothing to enter any more. A sandbox ends when its program does.
    fn has_ended(&self) -> bool {
        let program = self.program.upgrade();
        self.entered.is_over() || [Some(&self.init), program.as_ref()].into_iter().flatten().any(has_ended)
    }

    /// The filters, the caller's own among them, which a parked agent has put off.
    fn filters(&self, policy: &Sandbox) -> Result<Vec<Step>> {
        let is_filter = |step: &&Step| matches!(step, Step::Seccomp { .. });
        let mut filters: Vec<Step> = self.steps.iter().filter(is_filter).cloned().collect();
        if let Some(named) = policy.seccomp.as_ref().filter(|_| filters.is_empty()) {
            named.lower(&mut filters)?;
        }
        Ok(filters)
    }
}

/// A pidfd is readable once its process has ended: pidfd_open(2).
fn has_ended(process: &Process) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// Starts a command in the sandbox that it is for.
pub(crate) fn start(entry: &Entry, command: &Command, streams: [&Stdio; 3], started: Instant) -> Result<Child> {
    let Some(inside) = &entry.inside else {
        let cause = "another command needs Namespaces::PID: without it, a sandbox is its program alone";
        return Err(Error::invalid(Layer::Namespaces, "setns", cause));
    };
    if command.sandbox.join.has_inner() {
        let cause = "another command can't go on to an inner user namespace, where the program is";
        return Err(Error::invalid(Layer::Namespaces, "setns", cause));
    }
    if command.passed.len() > DESCRIPTORS {
        let cause = format!("another command can be passed {DESCRIPTORS} descriptors, and not more");
        return Err(Error::invalid(Layer::Fds, "pass descriptors", cause));
    }
    if inside.has_ended() {
        return Err(over());
    }
    match enter((inside, &entry.report), command, streams, started) {
        Err(error) if error.kind() != ErrorKind::InvalidPolicy && inside.has_ended() => Err(over()),
        result => result,
    }
}

fn over() -> Error {
    Error::new(Layer::Namespaces, ErrorKind::Os, "setns", "the sandbox has ended").with_errno(libc::ESRCH)
}

/// A command on its way in.
struct Entering<'a> {
    inside: &'a Arc<Inside>,
    policy: &'a Arc<Sandbox>,
    started: Instant,
    report: Report,
    /// The streams and descriptors, and what is executed, last.
    steps: Vec<Step>,
    directory: CString,
    filters: Vec<Step>,
    /// The limit that a parked agent has put off, as a program of the pool's gets it in its order.
    last: Option<Step>,
}

fn enter(
    (inside, report): (&Arc<Inside>, &Report),
    command: &Command,
    streams: [&Stdio; 3],
    started: Instant,
) -> Result<Child> {
    let policy = &command.sandbox;
    let mut steps = Vec::new();
    let given = fds::lower(streams, &command.passed, &mut steps)?;
    let (directory, home) = defaults(policy)?;
    let directory = process::directory(command.directory.as_deref().or(Some(&directory)))?;
    let env = environment(command, home.as_deref());
    let (program, args) = (&command.program, &command.args);
    Program { program, args, env, arg0: None, pwd: Vec::new() }.lower(&mut steps)?;
    let filters = inside.filters(policy)?;
    let last = limits::last(&policy.limits)?;
    let wiring = Wiring::open(&steps, &given)?;
    let entering = Entering { inside, policy, started, report: report.clone(), steps, directory, filters, last };
    entering.run(wiring)
}

impl Entering<'_> {
    fn run(mut self, mut wiring: Wiring) -> Result<Child> {
        let streams = wiring.streams();
        let mut outside = Outside::start(self.inside, self.policy.inherit)?;
        outside.join(self.inside, self.namespaces())?;
        let nulls = outside.nulls(&self.steps)?;
        let mut sent = sent(&self.steps, &wiring);
        for (null, fd) in &nulls {
            sent.iter_mut().filter(|(_, to)| to == fd).for_each(|(source, _)| *source = null.as_fd());
        }
        self.confine(&mut outside, &sent)?;
        outside.bound(&self.inside.steps)?;
        let mut agent = outside.fork(|program| self.child(program, streams))?;
        agent.move_socket(PARKED)?.map_err(|(_, Errno(errno))| Error::os(Layer::Process, "agent: park", errno))?;
        let executable = self.settle(&mut agent)?;
        let mut order = Order::new(sent, &self.filters)?;
        let script = self.last_calls(&mut order, &executable)?;
        match agent.carry_out(&order)? {
            Executed::Yes => Ok(agent.into_program()),
            Executed::No(failed) => Err(script.error(failed, &executable)),
        }
    }

    /// Which of its namespaces are not the host's.
    fn namespaces(&self) -> Namespaces {
        own_namespaces(self.policy) | self.policy.join.kinds() & Namespaces::USER
    }

    /// Puts on outside what the copy has from there.
    fn confine(&mut self, outside: &mut Outside, sent: &[(BorrowedFd<'_>, RawFd)]) -> Result<()> {
        let files = outside.open_places(&self.inside.steps)?;
        let ruleset = rules::ruleset(self.inside, &self.policy.landlock, &files, sent)?;
        outside.wear(&self.inside.steps, ruleset.as_ref().map(AsFd::as_fd), &mut self.report)
    }

    /// The handle of the process inside. From here on, whoever ends the sandbox reaps that.
    fn child(&self, program: Process, streams: [Option<OwnedFd>; 3]) -> Result<Child> {
        let is_over = !self.inside.entered.add(&program);
        let mut child = Child::new(Parts {
            program,
            cell: None,
            streams,
            started: self.started,
            // Its memory was never the host's.
            host_peak: 0,
            report: self.report.clone(),
            keeps: None,
            inside: Some(self.inside.clone()),
            limited: Limited::entered(self.policy.limits.cpu_time, self.inside.fate.clone()),
        });
        child.policy = Some(self.policy.clone());
        if is_over { Err(over()) } else { Ok(child) }
    }

    /// Has the process inside start a session, go to its directory and look for the program, as any other there would.
    fn settle(&self, agent: &mut Agent) -> Result<Executable> {
        let mut script = Script::default();
        script.add(&Step::Setsid, |calls| calls.call(libc::SYS_setsid, []));
        let chdir = Step::Chdir { path: self.directory.clone() };
        script.add(&chdir, |calls| calls.change_directory(&self.directory, SOCKET));
        script.run(agent, &[])?;
        Executable::find(agent, self.steps.last())
    }

    /// The limits after the descriptors, which a low one must not be in the way of; then the filter, and the program.
    fn last_calls<'a>(&'a self, order: &mut Order<'_>, executable: &Executable) -> Result<Script<'a>> {
        let Some(step @ Step::Exec { argv, envp, .. }) = self.steps.last() else {
            return Err(Error::os(Layer::Exec, "execve", libc::EINVAL));
        };
        let [argv, envp] = order.map_strings(argv, envp)?;
        order.put_in_place();
        let mut script = Script::after(std::mem::take(&mut order.calls));
        let limits = self.inside.steps.iter().filter(|step| matches!(step, Step::Limit { .. }));
        for step in limits.chain(&self.last) {
            script.wear(step, None)?;
        }
        for step in &self.filters {
            script.add(step, |calls| calls.add_last(step));
        }
        script.add(step, |calls| {
            let path = calls.data(executable.path.as_bytes_with_nul());
            calls.call(libc::SYS_execve, [path, argv, envp]);
        });
        order.calls = script.take_calls();
        Ok(script)
    }
}
