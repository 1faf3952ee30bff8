//! Starting the processes of a plan, and owning them.

mod arena;
mod diagnosis;
mod holder;
mod process;
mod trial;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::child::{Child, Parts};
use crate::error::{Error, Layer, Result};
use crate::plan::{self, Given, Launch, Memory, Plan, Step};
use crate::postfork::{Children, Context, Report, Reports};
use crate::sys::{self, Arena, Ended, Errno, SignalSet};

pub(crate) use holder::{find as find_helper, names as caller_names};
pub(crate) use process::{Cell, Process};
pub(crate) use trial::attempt;

/// Carries a plan out.
pub(crate) fn spawn(plan: &Plan, holds: crate::report::Report, started: Instant) -> Result<Child> {
    let mut wiring = Wiring::open(plan)?;
    let arena = arena::take(plan)?;
    let image = sys::init_image();
    let own = own_devices(plan);
    let holder = plan.holder.as_ref().map(|holder| holder::start(plan, holder, &arena, &image)).transpose()?;
    let lifeline = plan.cell.as_ref().and_then(|cell| cell.init.as_ref()).map(|_| lifeline()).transpose()?;
    let number = |fd: &OwnedFd| fd.as_raw_fd();
    let context = Context {
        lifeline: lifeline.as_ref().map_or(-1, |(inner, _)| number(inner)),
        lifeline_host: lifeline.as_ref().map_or(-1, |(_, outer)| number(outer)),
        init: &image,
        holder: holder.as_ref().map_or(-1, |holder| holder.init().as_fd().as_raw_fd()),
        given: &wiring.numbers(),
        own: &own,
    };
    let children = children(plan, &context, &arena);
    let (cell, program) = match &plan.cell {
        Some(cell) => start_cell(children, cell, lifeline)?,
        None => (None, start_single(children, &plan.program, &arena.program)?),
    };
    arena::give_back(arena);
    let host_peak = sys::own_peak_memory();
    Ok(Child::new(Parts { program, cell, streams: wiring.streams(), started, host_peak, report: holds }))
}

/// A place for every file system that the plan makes.
fn own_devices(plan: &Plan) -> Vec<AtomicU64> {
    let makes = |step: &&Step| matches!(step, Step::RootEmpty | Step::RootLayered { .. } | Step::Tmpfs { .. });
    plan.steps.iter().filter(makes).map(|_| AtomicU64::new(0)).collect()
}

fn children<'a>(plan: &'a Plan, context: &'a Context<'a>, arena: &'a Arena<Reports>) -> Children<'a> {
    Children { plan, context, reports: arena, stacks: arena.stacks() }
}

/// Starts one process of the plan, and returns when it has executed its program.
fn start_single(children: Children<'_>, launch: &Launch, report: &Report) -> Result<Process> {
    let blocked = BlockedSignals::new()?;
    let cloned = children.clone_single(launch, report);
    drop(blocked);
    match cloned {
        Err(Errno(errno)) => Err(diagnosis::failed(children.plan, launch.clone, errno)),
        Ok(cloned) => check(children, launch, report, Process::new(cloned.pid, cloned.pidfd.into())),
    }
}

/// Starts the cell, and returns when the program has been executed in it.
fn start_cell(
    children: Children<'_>,
    cell: &plan::Cell,
    lifeline: Option<(OwnedFd, OwnedFd)>,
) -> Result<(Option<Cell>, Process)> {
    let Children { plan, reports, .. } = children;
    let blocked = BlockedSignals::new()?;
    let cloned = children.clone_cell(cell);
    drop(blocked);
    let cloned = cloned.map_err(|Errno(errno)| diagnosis::failed(plan, cell.clone, errno))?;
    // It has ended: only this thread can wait for it by its id.
    let ended = sys::wait(sys::Target::Pid(cloned.pid), 0);
    let process = |report: &Report| report.cloned().map(|(pid, pidfd)| Process::from_raw(pid, pidfd));
    let program = process(&reports.program);
    // A cell ends after init's execution, unless it is killed. Then init may wait for it, and in this memory.
    if let (None, Some((_, host_end))) = (&program, &lifeline) {
        let _ = sys::shutdown(host_end.as_fd());
        if matches!(plan.steps.get(cell.clone), Some(Step::Clone { memory: Memory::Shared, .. })) {
            sys::wait_for_zero(&reports.init_sets_up);
        }
    }
    let init = process(&reports.init).zip(lifeline).map(|(init, (_, outer))| Cell::new(init, outer));
    let program = check_cell(children, cell, program, ended)?;
    if let Some(Err(Errno(errno))) = init.as_ref().map(Cell::started) {
        // Before the cell is dropped: init ends only when all processes of the cell are reaped.
        let _ = program.kill();
        let _ = program.wait(0);
        return Err(Error::os(Layer::Process, "tell init", errno));
    }
    Ok((init, program))
}

/// Tells which of the processes of a cell has failed, if one has.
fn check_cell(
    children: Children<'_>,
    cell: &plan::Cell,
    program: Option<Process>,
    ended: sys::Result<Option<Ended>>,
) -> Result<Process> {
    let Children { plan, reports, .. } = children;
    if let Some(program) = program {
        return check(children, &plan.program, &reports.program, program);
    }
    // A cell that has failed ends the lifeline, where init then waits for the namespace in vain. Every other failure of
    // init's is its own, and says more: a user namespace that is worth nothing fails both, and its maps show it best.
    let waited = matches!(plan.steps.get(reports.init.step()), Some(Step::JoinNetwork));
    let order = if waited { [&reports.cell, &reports.init] } else { [&reports.init, &reports.cell] };
    if let Some((report, fault)) = order.into_iter().find_map(|report| Some((report, report.fault()?))) {
        return Err(diagnosis::step(plan, report, reports, fault));
    }
    let killed = cell.init.as_ref().filter(|init| reports.init.step() + 1 != init.body.end);
    let report = if killed.is_some() { &reports.init } else { &reports.cell };
    Err(diagnosis::died(plan, report.step(), ended.ok().flatten()))
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
struct BlockedSignals(SignalSet);

impl BlockedSignals {
    fn new() -> Result<Self> {
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
struct Wiring {
    given: Vec<Opened>,
    streams: [Option<OwnedFd>; 3],
}

/// A descriptor that the child puts in its place.
enum Opened {
    Own(OwnedFd),
    Callers(std::sync::Arc<OwnedFd>),
}

impl Wiring {
    fn open(plan: &Plan) -> Result<Self> {
        let mut wiring = Wiring { given: Vec::new(), streams: [None, None, None] };
        let targets: Vec<RawFd> = plan.steps.iter().filter_map(target).collect();
        let installs = plan.steps.iter().filter_map(|step| match step {
            Step::Install { given, fd, .. } | Step::InstallNull { given, fd, .. } => {
                Some((plan.given.get(*given)?, *fd))
            }
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

    fn numbers(&self) -> Vec<RawFd> {
        self.given.iter().map(|fd| fd.as_fd().as_raw_fd()).collect()
    }

    fn streams(&mut self) -> [Option<OwnedFd>; 3] {
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
        Step::Install { fd, .. } | Step::InstallNull { fd, .. } | Step::Inherit { fd } => Some(*fd),
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

/// The two ends of a lifeline: for init, and for the host. A socket, because writing to one raises no SIGPIPE.
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
fn above_streams(fd: OwnedFd) -> Result<OwnedFd> {
    match fd.as_raw_fd() {
        0..=2 => duplicate_from(fd.as_fd(), 3).map_err(|errno| Error::os(Layer::Fds, "dup", errno as i32)),
        _ => Ok(fd),
    }
}
