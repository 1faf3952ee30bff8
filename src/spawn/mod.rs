//! Starting the processes of a plan, and owning them.

mod arena;
mod below;
mod diagnosis;
mod fate;
mod holder;
mod leaf;
mod limited;
mod process;
mod processors;
mod strays;
mod template;
mod trial;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::changes::Written;
use crate::child::{Child, Parts, Pty};
use crate::enter::Inside;
use crate::error::{Error, Layer, Result};
use crate::plan::{self, Fault, Given, Lack, Launch, Lease, Plan, Step, Upper};
use crate::postfork::{Children, Context, Report, Reports, Writable};
use crate::sys::{self, Arena, Cloned, Ended, Errno, Sharing, SignalSet, Told, Words};

pub(crate) use below::pid_of;
use below::{IdMaps, as_seen_here, end_below, maps_of};
pub(crate) use diagnosis::exec_hint;
pub(crate) use fate::Fate;
pub(crate) use holder::{find as find_helper, names as caller_names};
pub(crate) use limited::Limited;
pub(crate) use process::{Cell, Ending, Entered, Process, Watched};
#[cfg(feature = "tokio")]
pub(crate) use strays::Search;
pub(crate) use template::make as make_template;
pub(crate) use trial::attempt;

/// Carries a plan out.
pub(crate) fn spawn(plan: &Plan, mut holds: crate::report::Report, started: Instant) -> Result<Child> {
    // Of a template little is left to init, and a processor that turns out to be busy would cost more than it saves.
    let has_init = plan.cell.as_ref().is_some_and(|cell| cell.init.is_some());
    let spreads = has_init && plan.template.is_none() && processors::one_is_idle();
    let mut wiring = Wiring::open(&plan.steps, &plan.given)?;
    let mut limited = Limited::new(plan, started)?;
    limited.check()?;
    let arena = arena::take(plan)?;
    let image = sys::init_image();
    let own = own_devices(plan);
    let words = words(plan, arena.sharing())?;
    let (writable, named) = words.split_at(writable_mounts(plan));
    let holder =
        plan.holder.as_ref().map(|holder| holder::start(plan, holder, &arena, &image, &limited)).transpose()?;
    let hands_over = |step: &Step| keeps_changes(step) || matches!(step, Step::HandPtyOver);
    let handover = plan.steps.iter().any(hands_over).then(lifeline).transpose()?;
    let lifeline = plan.cell.as_ref().and_then(|cell| cell.init.as_ref()).map(|_| lifeline()).transpose()?;
    let number = |fd: &OwnedFd| fd.as_raw_fd();
    let network = template::network(plan)?;
    let context = Context {
        lifeline: lifeline.as_ref().map_or(-1, |(inner, _)| number(inner)),
        lifeline_host: lifeline.as_ref().map_or(-1, |(_, outer)| number(outer)),
        init: &image,
        holder: holder.as_ref().map_or(-1, |holder| holder.init().as_fd().as_raw_fd()),
        given: &wiring.numbers(),
        own: &own,
        handover: handover.as_ref().map_or(-1, |(inner, _)| number(inner)),
        writable,
        named,
        template: plan.template.as_ref().map_or([-1; 4], |template| template.numbers(network.as_ref())),
        proc: plan.template.as_ref().map_or(-1, |template| number(&template.proc)),
        bounds: limited.bounds(),
        spreads,
        ..Context::default()
    };
    let children = children(plan, &context, &arena);
    let started_in = match &plan.cell {
        Some(cell) => start_cell(children, cell, (lifeline, network), &limited),
        None => start_single(children, &plan.program, &arena.program).map(|program| (None, program)),
    };
    let (cell, program) = started_in.map_err(|error| limited.explain(plan, &arena, error))?;
    limited.has_started();
    for lack in Lack::ALL.into_iter().filter(|lack| arena.lacks(*lack)) {
        let (layer, why) = lack.told();
        holds.lack(layer, why);
    }
    arena::give_back(arena);
    let host_peak = sys::own_peak_memory();
    let keeps = plan.keeps.clone();
    let ids = match plan.steps.iter().any(keeps_changes) {
        true => maps_of(plan, cell.as_ref().map_or(&program, Cell::init))?,
        false => None,
    };
    let streams = wiring.streams();
    let inside =
        cell.as_ref().map(|cell| Inside::new(plan, cell, (&program, limited.fate()), (writable, named)).into());
    let parts = Parts { program, cell, streams, started, host_peak, report: holds, keeps, inside, limited };
    let mut child = Child::new(parts);
    if let Some((inner, outer)) = handover {
        // Else a child that has sent nothing would be waited for.
        drop(inner);
        take_over(plan, &mut child, &outer, ids)?;
    }
    Ok(child)
}

/// Receives what is handed over, in the order in which it is sent: init has built the root before there was a program.
fn take_over(plan: &Plan, child: &mut Child, outer: &OwnedFd, ids: Option<IdMaps>) -> Result<()> {
    let receive = |layer, what| {
        let failed = |Errno(errno)| Error::os(layer, what, errno);
        sys::receive_fd(outer.as_fd()).map_err(failed).and_then(|fd| above_streams(fd.into()))
    };
    if plan.steps.iter().any(keeps_changes) {
        child.set_written(Written::new(receive(Layer::Mount, "receive the changes")?, plan, ids));
    }
    if plan.steps.iter().any(|step| matches!(step, Step::HandPtyOver)) {
        child.pty = Some(Pty::new(receive(Layer::Fds, "receive pty")?)?);
    }
    Ok(())
}

/// Whether the host gets to know the directory of what the program writes.
fn keeps_changes(step: &Step) -> bool {
    matches!(step, Step::RootOverlay { upper: Upper::Tmpfs { .. } | Upper::Kept { .. }, .. })
}

/// A place for every file system that the plan makes.
fn own_devices(plan: &Plan) -> Vec<AtomicU64> {
    let makes = |step: &&Step| {
        let entry = matches!(step, Step::Entry(entry) if entry.makes_file_system());
        let root = matches!(step, Step::RootEmpty | Step::RootMemory | Step::RootOverlay { .. });
        entry || root || matches!(step, Step::RootCopy { .. } | Step::Tmpfs { .. })
    };
    plan.steps.iter().filter(makes).map(|_| AtomicU64::new(0)).collect()
}

/// How many words tell of the mounts that the program may write to.
fn writable_mounts(plan: &Plan) -> usize {
    let mounts = match &plan.template {
        Some(template) => template.writable.len(),
        None => plan.steps.iter().filter(|step| step.mounts_writable()).count(),
    };
    mounts * Writable::WORDS
}

/// Words for every such mount, then two for every file that Landlock's rules name for the caller.
fn words(plan: &Plan, sharing: Sharing) -> Result<Words> {
    let names = |step: &&Step| matches!(step, Step::LandlockPath { mount: None, .. });
    let count = writable_mounts(plan) + 2 * plan.steps.iter().filter(names).count();
    let words = Words::new(count, sharing).map_err(|Errno(errno)| Error::os(Layer::Process, "mmap", errno))?;
    let shared = plan.template.iter().flat_map(|template| &template.writable);
    for (writable, file) in Writable::all(&words).zip(shared) {
        if let Some(file) = file {
            writable.share(*file);
        }
    }
    Ok(words)
}

fn children<'a>(plan: &'a Plan, context: &'a Context<'a>, arena: &'a Arena<Reports>) -> Children<'a> {
    Children { plan, context, reports: arena, stacks: arena.stacks() }
}

/// Starts one process of the plan, and returns when it has executed its program.
fn start_single(children: Children<'_>, launch: &Launch, report: &Report) -> Result<Process> {
    let blocked = BlockedSignals::new()?;
    let cloned = children.clone_single(launch, report);
    drop(blocked);
    let failed = |errno| diagnosis::failed(children.plan, launch.clone, errno);
    cloned.map_err(|Errno(errno)| failed(errno))?;
    let process = report.process.take().map(Process::from).ok_or_else(|| failed(libc::ECHILD))?;
    check(children, launch, report, process)
}

/// Starts the cell, and returns when the program has been executed in it.
fn start_cell(
    children: Children<'_>,
    cell: &plan::Cell,
    (lifeline, network): (Option<(OwnedFd, OwnedFd)>, Option<Lease>),
    limited: &Limited,
) -> Result<(Option<Cell>, Process)> {
    let Children { plan, reports, .. } = children;
    let told = Told::default();
    let blocked = BlockedSignals::new()?;
    let cloned = children.clone_cell(cell, &told);
    drop(blocked);
    cloned.map_err(|Errno(errno)| diagnosis::failed(plan, cell.clone, errno))?;
    let ended = told.take().map(Process::from).ok_or(Errno(libc::ECHILD)).and_then(|cell| cell.wait(0));
    let ended = end_below(reports, ended);
    let process = |told: Cloned| Process::from(if cell.below.is_some() { as_seen_here(told) } else { told });
    let [init, program] = [&reports.init, &reports.program].map(|report| report.process.take().map(process));
    if !has_finished(children, &ended) {
        // Killed, it may leave processes that are still being set up in this memory: they end before that goes. The
        // program first: init ends only when all other processes of its namespace are reaped.
        for process in [program, init].into_iter().flatten() {
            let _ = process.kill();
            let _ = strays::wait(&process, reports.pid_namespace());
        }
        let step = if plan.steps.get(reports.cell.step()).is_some() { reports.cell.step() } else { cell.clone };
        return Err(diagnosis::died(plan, step, ended.ok().flatten()));
    }
    let made = |(init, (_, outer))| Cell::new(init, outer, reports.pid_namespace(), network);
    let mut init = init.zip(lifeline).map(made);
    init.iter_mut().for_each(|cell| cell.holds(limited.leaf().cloned()));
    let program = check_cell(children, cell, program)?;
    if let Some(Err(Errno(errno))) = init.as_ref().map(Cell::started) {
        // Before the cell is dropped, for the same reason.
        let _ = program.kill();
        let _ = program.wait(0);
        return Err(Error::os(Layer::Process, "tell init", errno));
    }
    Ok((init, program))
}

/// Whether a cell has come to an end of its own. If somebody else has reaped it, how far the program is tells.
fn has_finished(children: Children<'_>, ended: &sys::Result<Option<Ended>>) -> bool {
    match ended {
        Ok(Some(ended)) => ended.code == libc::CLD_EXITED,
        _ => children.reports.program.step() + 1 == children.plan.program.body.end,
    }
}

/// Tells which of the processes of a cell has failed, if one has.
fn check_cell(children: Children<'_>, cell: &plan::Cell, program: Option<Process>) -> Result<Process> {
    let Children { plan, reports, .. } = children;
    let step = reports.init.step();
    // A cell ends the lifeline if it has failed, or the program: there init then waits for the namespace, or calls, in vain. Every
    // other failure of init's is its own, and says more: a user namespace that is worth nothing fails both, and its maps
    // show it best.
    let is_end = |fault: Fault| fault.errno == libc::EPIPE;
    let waits = |step: &Step| matches!(step, Step::JoinNetwork | Step::ExecInit { .. });
    let waited = plan.steps.get(step).is_some_and(waits) && reports.init.fault().is_none_or(is_end);
    // A signal has ended init in the middle of a step: with it ends what is in its namespace.
    let is_ready = |init: &Launch| step + 1 == init.body.end;
    let started = plan.steps.get(step).is_some();
    let died = started && reports.init.fault().is_none() && !cell.init.as_ref().is_none_or(is_ready);
    if let Some(program) = program {
        let checked = check(children, &plan.program, &reports.program, program);
        return match reports.init.fault() {
            Some(fault) if checked.is_err() && !waited => Err(diagnosis::step(plan, &reports.init, reports, fault)),
            None if checked.is_err() && died && reports.program.fault().is_none() => {
                Err(diagnosis::died(plan, step, None))
            }
            _ => checked,
        };
    }
    if died {
        return Err(diagnosis::died(plan, step, None));
    }
    let order = if waited { [&reports.cell, &reports.init] } else { [&reports.init, &reports.cell] };
    match order.into_iter().find_map(|report| Some((report, report.fault()?))) {
        Some((report, fault)) => Err(diagnosis::step(plan, report, reports, fault)),
        None => Err(diagnosis::died(plan, reports.cell.step(), None)),
    }
}

/// Tells a process that has executed its program from one that has failed before.
fn check(children: Children<'_>, launch: &Launch, report: &Report, process: Process) -> Result<Process> {
    let Children { plan, reports, .. } = children;
    let executing = report.step() + 1 == launch.body.end;
    if executing && report.fault().is_none() {
        return Ok(process);
    }
    let ended = process.wait(0);
    match report.fault() {
        Some(fault) => Err(diagnosis::step(plan, report, reports, fault)),
        // A signal from outside, or the out-of-memory killer: no step has failed.
        None => Err(diagnosis::died(plan, report.step(), ended.ok().flatten())),
    }
}

/// Blocks every signal in the calling thread, so that no handler of the host's runs in a child that shares its memory.
pub(crate) struct BlockedSignals(SignalSet);

impl BlockedSignals {
    pub(crate) fn new() -> Result<Self> {
        let failed = |Errno(errno)| Error::os(Layer::Process, "block signals", errno);
        sys::set_signal_mask(SignalSet::MAX).map(Self).map_err(failed)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let _ = sys::set_signal_mask(self.0);
    }
}

/// The descriptors for the program, opened, and the host's ends of its pipes.
#[derive(Debug)]
pub(crate) struct Wiring {
    given: Vec<Opened>,
    streams: [Option<OwnedFd>; 3],
}

/// A descriptor that the child puts in its place.
#[derive(Debug)]
enum Opened {
    Own(OwnedFd),
    Callers(std::sync::Arc<OwnedFd>),
}

impl Wiring {
    pub(crate) fn open(steps: &[Step], given: &[Given]) -> Result<Self> {
        let (mut wiring, all) = (Wiring { given: Vec::new(), streams: [None, None, None] }, given);
        let targets: Vec<RawFd> = steps.iter().filter_map(target).collect();
        let installs = steps.iter().filter_map(|step| match step {
            Step::Install { given, fd, .. } | Step::InstallNull { given, fd, .. } => Some((all.get(*given)?, *fd)),
            _ => None,
        });
        for (given, fd) in installs {
            let opened = wiring.open_one(given, fd)?;
            let clear = clear_of(opened, &targets).map_err(|errno| failed(fd, errno as i32))?;
            wiring.given.push(clear);
        }
        Ok(wiring)
    }

    fn open_one(&mut self, given: &Given, fd: RawFd) -> Result<Opened> {
        match given {
            Given::Fd(fd) => Ok(Opened::Callers(fd.clone())),
            Given::Null { write } => {
                let null = File::options().read(!write).write(*write).open("/dev/null");
                let error = |error: std::io::Error| failed(fd, error.raw_os_error().unwrap_or(libc::EIO));
                null.map(|file| Opened::Own(file.into())).map_err(|e| error(e).with_path("/dev/null"))
            }
            Given::Pipe { write } => {
                let (read_end, write_end) = pipe()?;
                let (inside, outside) = if *write { (write_end, read_end) } else { (read_end, write_end) };
                if let Some(stream) = usize::try_from(fd).ok().and_then(|fd| self.streams.get_mut(fd)) {
                    *stream = Some(outside);
                }
                Ok(Opened::Own(inside))
            }
        }
    }

    /// What a step refers to by its index.
    pub(crate) fn get(&self, given: usize) -> Option<BorrowedFd<'_>> {
        self.given.get(given).map(AsFd::as_fd)
    }

    fn numbers(&self) -> Vec<RawFd> {
        self.given.iter().map(|fd| fd.as_fd().as_raw_fd()).collect()
    }

    /// The host's ends of the pipes.
    pub(crate) fn streams(&mut self) -> [Option<OwnedFd>; 3] {
        std::mem::take(&mut self.streams)
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Opened::Own(fd) => fd.as_fd(),
            Opened::Callers(fd) => fd.as_fd(),
        }
    }
}

fn failed(fd: RawFd, errno: i32) -> Error {
    Error::os(Layer::Fds, format!("fd {fd}"), errno)
}

/// The number that a step fills.
fn target(step: &Step) -> Option<RawFd> {
    match step {
        Step::Install { fd, .. } | Step::InstallNull { fd, .. } | Step::InstallPty { fd } | Step::Inherit { fd } => {
            Some(*fd)
        }
        _ => None,
    }
}

/// Moves a descriptor out of the way of those that the child will fill, so that their order does not matter.
fn clear_of(opened: Opened, targets: &[RawFd]) -> nix::Result<Opened> {
    let mut opened = opened;
    while targets.contains(&opened.as_fd().as_raw_fd()) {
        let next = opened.as_fd().as_raw_fd() + 1;
        opened = Opened::Own(duplicate_from(opened.as_fd(), next)?);
    }
    Ok(opened)
}

#[allow(unsafe_code)]
fn duplicate_from(fd: BorrowedFd<'_>, first: RawFd) -> nix::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let new = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(first))?;
    // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// The two ends of a lifeline, or of what is handed over: for the child, and for the host. A socket, because writing to one raises no SIGPIPE.
fn lifeline() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |error: std::io::Error| Error::os(Layer::Fds, "socketpair", error.raw_os_error().unwrap_or(libc::EIO));
    let (inner, outer) = UnixStream::pair().map_err(failed)?;
    Ok((above_streams(inner.into())?, above_streams(outer.into())?))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::os(Layer::Fds, "pipe", errno as i32))?;
    Ok((above_streams(read)?, above_streams(write)?))
}

/// Moves a descriptor away from 0, 1 and 2, where a host that has closed them gets its new ones, and which children
/// fill.
pub(crate) fn above_streams(fd: OwnedFd) -> Result<OwnedFd> {
    match fd.as_raw_fd() {
        0..=2 => duplicate_from(fd.as_fd(), 3).map_err(|errno| Error::os(Layer::Fds, "dup", errno as i32)),
        _ => Ok(fd),
    }
}
