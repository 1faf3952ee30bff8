//! What runs between clone and exec: nothing here allocates, locks or panics.
//!
//! A child obeys the steps of the plan, in order, and stops at the first that fails. In shared memory it runs beside
//! the other threads of the host, on the host's own heap, with the host's thread-local storage: so it makes raw
//! system calls on prepared data, and its report is a few words that the parent reads afterwards.

mod bounds;
mod context;
mod copy;
mod entry;
mod init;
mod mount;
mod overlay;
mod program;
mod report;
mod template;
mod terminal;

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use std::os::fd::AsFd;

pub(crate) use bounds::Bounds;
pub(crate) use context::{Context, Writable};
pub(crate) use report::{Report, Reports};

use crate::plan::{Cell, Fault, Lack, Launch, Memory, Operand, Plan, Step};
use crate::sys::{self, Errno, Fd, Return, Told};

/// How much of a program that can't be executed is handed to the parent, which tells the reason from it.
const HEAD: usize = 4096;

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

/// What every child of a spawn has at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Children<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) context: &'a Context<'a>,
    pub(crate) reports: &'a Reports,
    /// One for the cell, one for init, one for the program; the first also for what the host clones, and the last for a cell
    /// that the cell clones.
    pub(crate) stacks: [sys::Stack<'a>; sys::STACKS],
}

impl<'a> Children<'a> {
    /// Clones the cell; returns when it has ended.
    ///
    /// It shares the host's descriptor table: a copy would be paid for by every open file. So it opens nothing, or what
    /// was open when somebody kills it would stay open in the host. What the kernel opens for it are the pidfds of those
    /// that it clones, and it tells the host of them in the same call ([`Told`]).
    pub(crate) fn clone_cell(self, cell: &Cell, told: &Told) -> sys::Result<libc::pid_t> {
        let body = || self.run_cell(cell);
        let [stack, ..] = self.stacks;
        self.clone(cell.clone, libc::CLONE_FILES as u64, stack, Return::AfterExec, told, &body)
    }

    /// Clones a process that takes the steps of `launch`, the last of which executes a program.
    pub(crate) fn clone_single(self, launch: &Launch, report: &Report) -> sys::Result<libc::pid_t> {
        let body = || self.run(launch.body.clone(), report);
        let [stack, ..] = self.stacks;
        self.clone(launch.clone, 0, stack, Return::AfterExec, &report.process, &body)
    }

    /// The body of the cell.
    fn run_cell(self, cell: &Cell) {
        let report = &self.reports.cell;
        self.take(cell.body.clone(), report).unwrap_or_else(|fault| give_up(report, fault));
        match &cell.below {
            Some(below) => self.start_below(cell, below),
            None => self.run_in_cell(cell),
        }
        sys::exit(0)
    }

    /// Clones the process that does the rest; returns when it has ended. It is the host's child too, which tells how it ended.
    fn start_below(self, cell: &Cell, below: &Launch) {
        let Reports { cell: report, below: told, .. } = self.reports;
        let [_, _, _, stack] = self.stacks;
        report.at(below.clone);
        let body = || {
            self.take(below.body.clone(), report).unwrap_or_else(|fault| give_up(report, fault));
            self.run_in_cell(cell);
            sys::exit(0)
        };
        let flags = (libc::CLONE_FILES | libc::CLONE_PARENT) as u64;
        if let Err(errno) = self.clone(below.clone, flags, stack, Return::AfterExec, told, &body) {
            give_up(report, errno.into());
        }
    }

    /// Clones init and the program, from where they are to be.
    fn run_in_cell(self, cell: &Cell) {
        let Reports { cell: report, init: init_report, program, .. } = self.reports;
        // Init uses it, and the rest of this memory, until it is executed.
        let body = || self.run(cell.init.as_ref().map_or(0..0, |init| init.body.clone()), init_report);
        if let Some(init) = &cell.init {
            self.start_init(init, &body, cell.meanwhile.clone());
        }
        self.start_program();
        if cell.init.is_some() {
            if !program.executes(&self.plan.program) {
                self.let_init_end();
            }
            self.wait_for_init().unwrap_or_else(|fault| give_up(report, fault));
        }
    }

    /// Clones init, which takes its steps while the cell goes on: most machines have two processors.
    fn start_init<F: Fn()>(self, init: &Launch, body: &F, meanwhile: Range<usize>) {
        let Reports { cell: report, init: init_report, init_sets_up, not_ready, .. } = self.reports;
        let [_, stack, ..] = self.stacks;
        report.at(init.clone);
        not_ready.store(1, Relaxed);
        let returns = Return::AtOnce(init_sets_up);
        let cloned = self.clone(init.clone, libc::CLONE_PARENT as u64, stack, returns, &init_report.process, body);
        let pid = cloned.unwrap_or_else(|errno| give_up(report, errno.into()));
        // The scheduler may have left init on this processor, where it would wait for the cell to sleep.
        if self.context.spreads {
            let _ = sys::push_off_this_processor(pid);
        }
        if let Err(fault) = self.take(meanwhile, report) {
            self.abandon_init();
            give_up(report, fault);
        }
    }

    /// Has init not wait for a program that does not come.
    fn let_init_end(self) {
        let _ = sys::shutdown(sys::borrow(self.context.lifeline_host));
        sys::set_to_zero(&self.reports.not_ready);
    }

    /// Waits for init too: it uses this memory until it is executed.
    fn abandon_init(self) {
        self.let_init_end();
        let _ = self.wait_for_init();
    }

    /// Clones the program; returns when it is executed, or has failed.
    fn start_program(self) {
        let Reports { cell: report, program, .. } = self.reports;
        let [_, _, stack, _] = self.stacks;
        let Launch { clone, body } = &self.plan.program;
        report.at(*clone);
        let run = || self.run(body.clone(), program);
        let sibling = libc::CLONE_PARENT as u64;
        if let Err(errno) = self.clone(*clone, sibling, stack, Return::AfterExec, &program.process, &run) {
            self.abandon_init();
            give_up(report, errno.into());
        }
    }

    /// The body of a process that executes a program, which does not return.
    fn run(self, steps: Range<usize>, report: &Report) {
        self.take(steps, report).unwrap_or_else(|fault| give_up(report, fault));
    }

    fn take(self, steps: Range<usize>, report: &Report) -> Done {
        let mut state = State {
            context: self.context,
            reports: self.reports,
            plan: self.plan,
            workspace: None,
            hidden: None,
            outside: None,
            root: None,
            proc: None,
            proc_by_name: None,
            staged: None,
            kept: None,
            ruleset: None,
            pty: None,
            directory: 0,
            makes_places: false,
            parents_mode: 0o755,
        };
        for (index, step) in self.plan.steps.iter().enumerate().take(steps.end).skip(steps.start) {
            report.at(index);
            state.take(step)?;
        }
        Ok(())
    }

    /// Clones as the step `clone` says.
    fn clone<F: Fn()>(
        self,
        clone: usize,
        flags: u64,
        stack: sys::Stack<'a>,
        returns: Return<'_>,
        told: &Told,
        body: &F,
    ) -> sys::Result<libc::pid_t> {
        let Some(Step::Clone { namespaces, memory, .. }) = self.plan.steps.get(clone) else {
            return Err(Errno(libc::EINVAL));
        };
        let flags = flags | namespaces;
        let cgroup = self.context.bounds.cgroup.filter(|_| clone == self.plan.program.clone);
        let shared = libc::CLONE_VM as u64;
        // SAFETY: The steps are taken by system calls on data that outlives the child's use of it, and end in exec or
        // exit: nothing on the way allocates, locks, panics or touches thread-local storage. Who clones with
        // `Return::AtOnce` waits for the word; the host reaps what a killed cell leaves before this memory goes.
        #[allow(unsafe_code)]
        let clone = |flags| unsafe { sys::clone(flags, cgroup, stack, returns, told, body) };
        match memory {
            Memory::Shared => clone(flags | shared),
            Memory::Copied => clone(flags),
            Memory::SharedIfAllowed => match clone(flags | shared) {
                Err(Errno(libc::EINVAL)) => clone(flags),
                result => result,
            },
        }
    }
}

fn give_up(report: &Report, fault: Fault) -> ! {
    report.fail(fault);
    sys::exit(127)
}

/// What a process has in hand while it takes its steps.
struct State<'a> {
    context: &'a Context<'a>,
    reports: &'a Reports,
    plan: &'a Plan,
    /// The tmpfs that everything of our own is made on.
    workspace: Option<Fd>,
    /// What is kept out of sight: a read-only mount.
    hidden: Option<Fd>,
    /// The root of this process, while it has another.
    outside: Option<Fd>,
    /// The root to be.
    root: Option<Fd>,
    /// The sandbox's own /proc: its name may lead elsewhere when its parts are hidden, if somebody renames directories.
    proc: Option<Fd>,
    /// Its device and inode, if it lies at the path /proc, and nothing over it.
    proc_by_name: Option<(u64, u64)>,
    /// The file system of the stage, while there is one.
    staged: Option<u64>,
    /// The directory of the host's that changes are kept in, locked.
    kept: Option<Fd>,
    /// The Landlock rules, until they are in force.
    ruleset: Option<Fd>,
    /// The program's terminal.
    pty: Option<terminal::Pty>,
    /// Which of several directories the process has gone to.
    directory: usize,
    /// Whether missing places are made in directories of the host too.
    makes_places: bool,
    /// The mode of directories that are made on the way to something.
    parents_mode: u32,
}

impl State<'_> {
    /// Through the lifeline, which nobody else uses yet.
    fn pass_network(&self) -> Done {
        let namespace = self.context.open_proc(c"/proc/self/ns/net", libc::O_RDONLY, 0)?;
        Ok(sys::send_fd(sys::borrow(self.context.lifeline_host), namespace.as_fd())?)
    }

    /// Goes on without where the host keeps /proc/sys from being written, as container engines do.
    fn forbid_user_namespaces(&self) -> Done {
        let (dir, path) = match &self.proc {
            Some(proc) => (proc.as_fd(), c"sys/user/max_user_namespaces"),
            None => (sys::CWD, c"/proc/sys/user/max_user_namespaces"),
        };
        match sys::openat2(dir, path, libc::O_WRONLY, 0, libc::RESOLVE_NO_MAGICLINKS) {
            Err(Errno(libc::ENOENT | libc::EACCES | libc::EPERM | libc::EROFS)) => {
                self.reports.lacks.fetch_or(Lack::UserNamespaces.bit(), Relaxed);
                Ok(())
            }
            file => Ok(sys::write_all(file?.as_fd(), b"0")?),
        }
    }

    /// Goes on with the host's where the quota of keys is used up: without one to leave, the kernel does not look at it.
    fn leave_session_keyring(&self) -> Done {
        match sys::join_session_keyring() {
            Err(Errno(libc::EDQUOT)) => {
                self.reports.lacks.fetch_or(Lack::SessionKeyring.bit(), Relaxed);
                Ok(())
            }
            // There are no keyrings, or a filter that the host process is under keeps them from the program too.
            Err(Errno(libc::ENOSYS | libc::EPERM)) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Takes one step.
    fn take(&mut self, step: &Step) -> Done {
        if !matches!(step, Step::Mask { .. } | Step::Protect { .. }) {
            self.leave_proc()?;
        }
        match step {
            // Done by the host, or by `Children::clone`.
            Step::Clone { .. } | Step::Timer { .. } | Step::Maps { .. } | Step::MapsByCaller { .. } => {
                Err(Errno(libc::EINVAL).into())
            }
            Step::CgroupEnable { .. } | Step::Cgroup { .. } | Step::CgroupFile { .. } => {
                Err(Errno(libc::EINVAL).into())
            }
            Step::EnterCgroup => self.enter_cgroup(),
            Step::Deadline => Ok(self.context.bounds.deadline.map_or(Ok(()), sys::die_at)?),
            Step::WriteProc { path, data, .. } => self.write_proc(path, data),
            Step::NotDumpable => Ok(sys::not_dumpable()?),
            Step::Join { kind, namespace, .. } => Ok(sys::setns_fd(namespace.as_fd(), *kind as i32)?),
            Step::EnterHolder { namespaces } => Ok(sys::setns(sys::borrow(self.context.holder), *namespaces)?),
            Step::EnterOwner => self.enter_owner(),
            Step::EnterTemplate { network } => self.enter_template(*network),
            Step::HandOver => self.hand_over(),
            Step::HandOverNetwork => self.hand_over_network(),
            Step::EndHolder => Ok(sys::pidfd_send_signal(sys::borrow(self.context.holder), libc::SIGKILL)?),
            Step::Unshare { namespaces } => Ok(sys::unshare(*namespaces)?),
            Step::NotePidNamespace => {
                self.reports.note_pid_namespace(self.context);
                Ok(())
            }
            Step::Ready => {
                sys::set_to_zero(&self.reports.not_ready);
                Ok(())
            }
            Step::AwaitReady => {
                sys::wait_for_zero(&self.reports.not_ready);
                Ok(())
            }
            Step::AwaitInit => self.await_init(),
            Step::PassNetwork => self.pass_network(),
            Step::JoinNetwork => {
                let namespace = sys::receive_fd(sys::borrow(self.context.lifeline))?;
                Ok(sys::setns_fd(namespace.as_fd(), libc::CLONE_NEWNET)?)
            }
            Step::LoopbackUp => Ok(sys::loopback_up()?),
            Step::NoUserNamespaces => self.forbid_user_namespaces(),
            Step::Hostname { name } => Ok(sys::sethostname(name)?),
            Step::Domainname => Ok(sys::setdomainname(c"(none)")?),
            Step::Private => self.make_private(),
            Step::Workspace => self.make_workspace(),
            Step::RootEmpty | Step::RootMemory => self.root_empty(),
            Step::Entry(entry) => self.entry(entry),
            Step::RootDir { source, attributes } => self.root_dir(source, *attributes),
            Step::RootOverlay { lowers, upper } => self.root_overlay(lowers, upper),
            Step::RootCopy { size, inodes } => self.root_copy(size, inodes),
            Step::Place { at } | Step::Leave { at, .. } => self.target(at).map(drop),
            Step::OverlayTrial => self.overlay_trial(),
            Step::Dir { at } => self.dir(at),
            Step::File { at, name, data } => self.file(at, name, &data.0),
            Step::Symlink { target, at } => self.symlink(target, at),
            Step::Bind { source, at, attributes } => self.bind(source, at, *attributes),
            Step::Stage { source, name, at, attributes } => self.stage(source, name, at.kind, *attributes),
            Step::StageFile { name, data, .. } => self.stage_file(name, &data.0),
            Step::Keep => self.keep(),
            Step::TakeUp => self.take_up(),
            Step::CoverProc => self.cover_proc(),
            Step::Attach { name, at, attributes, .. } => self.attach(name, at, *attributes),
            Step::Tmpfs { at, size, inodes, mode, attributes } => {
                self.tmpfs(at, [(c"size", size), (c"nr_inodes", inodes), (c"mode", mode)], *attributes)
            }
            Step::Copy { source, at } => self.copy(source, at),
            Step::Proc { at } => self.proc(at),
            Step::Devpts { at } => self.devpts(at),
            Step::Mask { at } => self.mask(at),
            Step::Protect { at } => self.protect(at),
            Step::Seal { at, attributes } => self.seal(at, *attributes),
            Step::Pivot => self.pivot(),
            Step::PivotOver => self.pivot_over(),
            Step::ExecInit { mode, kept, securebits, argv, envp } => {
                self.exec_init(*mode, *kept, *securebits, argv, envp)
            }
            Step::Hold { socket } => program::hold(socket.as_deref()),
            Step::EndWithThread => Ok(sys::end_with_parent()?),
            Step::Setsid => Ok(sys::setsid()?),
            Step::OpenPty { rows, columns, owner } => self.open_pty(*rows, *columns, *owner),
            Step::TakeTerminal => self.take_terminal(),
            Step::HandPtyOver => self.hand_pty_over(),
            Step::InstallPty { fd } => self.install_pty(*fd),
            Step::SessionKeyring => self.leave_session_keyring(),
            Step::Inherit { fd } => Ok(sys::keep_on_exec(sys::borrow(*fd))?),
            Step::Install { given, fd, .. } => self.install(*given, *fd),
            Step::InstallNull { given, write, fd } => self.install_null(*given, *write, *fd),
            Step::CloseRest { ranges } => program::close(ranges),
            Step::OomScore { data } => self.set_oom_score(data),
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
            Step::BoundingSet { kept } => Ok(sys::limit_bounding_set(*kept)?),
            Step::AmbientSet => Ok(sys::clear_ambient_set()?),
            Step::CapabilitySets { kept } => Ok(sys::set_capabilities(*kept)?),
            Step::RaiseAmbient { kept } => Ok(sys::raise_ambient_set(*kept)?),
            Step::NoNewPrivs => Ok(sys::no_new_privs()?),
            Step::Chdir { path } => program::chdir(path),
            Step::ChdirFirst { paths } => self.chdir_first(paths),
            Step::LandlockRuleset { handled, version } => self.landlock_ruleset(handled, *version),
            Step::LandlockPath { path, mount, access, file } => self.landlock_path(path, *mount, *access, *file),
            Step::LandlockPort { port, access } => Ok(sys::landlock_allow_port(self.ruleset()?, *port, *access)?),
            Step::LandlockPassed { fds, read, write } => self.landlock_passed(fds, *read, *write),
            Step::LandlockRestrict { flags } => self.landlock_restrict(*flags),
            Step::Seccomp { program } => Ok(sys::add_filter(program)?),
            Step::Signals => program::default_signals(),
            Step::CaughtSignals => program::default_caught_signals(),
            Step::ExecAgent { image, argv, envp } => program::exec_agent(&image.0, argv, envp),
            Step::Look { directory, candidates, .. } => program::look(directory, candidates),
            Step::Exec { candidates, argv, envp, .. } => self.exec(candidates, argv, envp),
        }
    }
}
