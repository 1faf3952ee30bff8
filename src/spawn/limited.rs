//! Holding a running sandbox to its limits, and telling which of them it has met.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::fate::Fate;
use super::leaf::{CpuTime, Leaf};
use super::{Cell, Process, above_streams, diagnosis};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::outcome::{Cause, Usage, UsageSource};
use crate::plan::{Plan, Step, Wall};
use crate::postfork::{Bounds, Reports};
use crate::sys::{self, Errno, Moment};

/// What holds a sandbox to its limits.
#[derive(Debug, Default)]
pub(crate) struct Limited {
    clock: Option<Arc<Clock>>,
    leaf: Option<Arc<Leaf>>,
    /// What else ends a command that has entered a sandbox.
    fate: Option<Fate>,
    cpu_time: Option<Duration>,
    /// What had been used before the program was started.
    before: CpuTime,
    ended_for_cpu_time: bool,
    /// Whether the time was up when the program was executed.
    late: bool,
}

/// The wall time.
#[derive(Debug)]
pub(super) struct Clock {
    wall: Wall,
    timer: OwnedFd,
    end: OnceLock<End>,
}

/// When the time is up. What is too far ahead to be told never comes.
#[derive(Clone, Copy, Debug)]
struct End {
    ends: Option<Instant>,
    /// The same on the kernel's clock.
    moment: Option<Moment>,
}

impl Limited {
    /// Makes what the plan asks for: the timer, which counts from `started` on, and the cgroup.
    pub(super) fn new(plan: &Plan, started: Instant) -> Result<Self> {
        let clock = plan.bounds.wall.map(|wall| Clock::new(wall, started)).transpose()?.map(Arc::new);
        let leaf = Leaf::make(plan)?.map(Arc::new);
        Ok(Self { clock, leaf, cpu_time: plan.bounds.cpu_time, ..Self::default() })
    }

    /// What is told of a command in a sandbox in use: its limits hold as that one's do, and the first handle minds them.
    pub(crate) fn entered(cpu_time: Option<Duration>, fate: Fate) -> Self {
        Self { cpu_time, fate: Some(fate), ..Self::default() }
    }

    /// What ends those who enter the sandbox.
    pub(super) fn fate(&self) -> Fate {
        Fate::new(self.clock.as_ref(), self.leaf.as_ref())
    }

    /// What the children of the start get of it.
    pub(super) fn bounds(&self) -> Bounds {
        let clock = self.clock.as_ref();
        Bounds {
            timer: clock.map(|clock| clock.timer.as_raw_fd()),
            cgroup: self.leaf.as_ref().map(|leaf| leaf.number()),
            deadline: clock.filter(|clock| !clock.wall.later).and_then(|clock| clock.end.get()?.moment),
        }
    }

    /// The cgroup, to be removed when nothing runs in it.
    pub(crate) fn leaf(&self) -> Option<&Arc<Leaf>> {
        self.leaf.as_ref()
    }

    /// Starts to count what an agent has waited with.
    pub(crate) fn begin(&mut self, started: Instant) -> Result<()> {
        self.before = self.leaf.as_ref().and_then(|leaf| leaf.cpu_time()).unwrap_or_default();
        self.clock.as_ref().map_or(Ok(()), |clock| clock.arm(started))
    }

    /// When to look at the processor time again, if somebody has to.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let left = self.cpu_time?.saturating_sub(self.used()?);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Some((left / processors as u32).clamp(Duration::from_millis(2), Duration::from_secs(1)))
    }

    /// Whether all processes together have used their time: then they are to be killed.
    pub(crate) fn has_used_its_cpu_time(&mut self) -> bool {
        let over = self.cpu_time.zip(self.used()).is_some_and(|(limit, used)| used >= limit);
        self.ended_for_cpu_time |= over;
        over
    }

    /// The processor time of all processes. None where nobody counts them.
    fn used(&self) -> Option<Duration> {
        Some(self.leaf.as_ref()?.cpu_time()?.total.saturating_sub(self.before.total))
    }

    /// The time that a program itself has used, if that may have ended it.
    pub(crate) fn own_time(&self, program: &Process, options: i32) -> Option<Duration> {
        self.cpu_time.and_then(|_| program.own_time(options))
    }

    /// What has ended a program that ended so, if it was a limit, or with the sandbox that it had entered.
    pub(crate) fn cause(
        &self,
        status: ExitStatus,
        own_time: Duration,
        (program, cell): (&Process, Option<&Cell>),
    ) -> Option<Cause> {
        if let Some(cause) = self.fate.as_ref().and_then(|fate| fate.cause(status, program.ended_for())) {
            return Some(cause);
        }
        let killed = status.signal() == Some(libc::SIGKILL);
        let asked = self.clock.as_ref().is_some_and(|clock| clock.asks());
        let over = self.clock.as_deref().filter(|clock| clock.is_over());
        // What bounds the set-up may still kill a program that is being executed: init sees no more than its end.
        if self.late && killed {
            return Some(Cause::TimedOut);
        }
        let init_saw = |(clock, cell): (&Clock, &Cell)| cell.ran_out_of_time().unwrap_or_else(|| clock.was_seen());
        if (killed || asked) && over.zip(cell).is_some_and(init_saw) {
            return Some(Cause::TimedOut);
        }
        if killed && self.leaf.as_ref().is_some_and(|leaf| leaf.ran_out_of_memory()) {
            return Some(Cause::OutOfMemory);
        }
        // A program can send itself these signals too. The kernel goes by whole ticks there, which on a busy virtual machine come
        // to more than what it tells in the end.
        let half = |limit| own_time * 2 >= limit;
        let by_kernel =
            matches!(status.signal(), Some(libc::SIGXCPU | libc::SIGKILL)) && self.cpu_time.is_some_and(half);
        (by_kernel || (killed && self.ended_for_cpu_time)).then_some(Cause::CpuTime)
    }

    /// What the kernel has counted for the whole group, where there is one.
    pub(crate) fn usage(&self, usage: Usage) -> Usage {
        let Some(leaf) = &self.leaf else { return usage };
        let mut usage = usage;
        if let Some(time) = leaf.cpu_time() {
            usage.user_time = time.user.saturating_sub(self.before.user);
            usage.system_time = time.system.saturating_sub(self.before.system);
            usage.time_source = UsageSource::Cgroup;
        }
        if let Some(peak) = leaf.peak_memory() {
            usage.peak_memory = Some((peak, UsageSource::Cgroup));
        }
        usage
    }

    /// Kills what is in the group, if there is one: all of the sandbox but init.
    pub(crate) fn kill(&self) {
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
    }

    /// Lets go of the group, which is removed when the last process has ended.
    pub(crate) fn release(&mut self) {
        self.leaf = None;
    }

    /// Lets the sandbox run on without this process.
    pub(crate) fn leave(&mut self) {
        if let Some(leaf) = self.leaf.take() {
            leaf.leave();
        }
    }
}

impl Clock {
    fn new(wall: Wall, started: Instant) -> Result<Self> {
        let step = Step::Timer { time: wall.time, grace: wall.grace };
        let failed = |Errno(errno)| Error::os(Layer::Limits, step.to_string(), errno);
        let timer = above_streams(sys::timer().map_err(failed)?.into())?;
        let clock = Self { wall, timer, end: OnceLock::new() };
        if !wall.later {
            clock.arm(started)?;
        }
        Ok(clock)
    }

    fn arm(&self, started: Instant) -> Result<()> {
        let step = Step::Timer { time: self.wall.time, grace: self.wall.grace };
        let failed = |Errno(errno)| Error::os(Layer::Limits, step.to_string(), errno);
        let moment = moment(started, self.wall.time).map_err(failed)?;
        let _ = self.end.set(End { ends: started.checked_add(self.wall.time), moment });
        let Some(moment) = moment else { return Ok(()) };
        sys::arm(self.timer.as_fd(), moment, self.wall.grace.unwrap_or_default()).map_err(failed)
    }

    /// Whether init has read the timer, a while after that has expired: it does not once the program has ended.
    pub(super) fn was_seen(&self) -> bool {
        let mut fds = [PollFd::new(self.timer.as_fd(), PollFlags::POLLIN)];
        // Where a signal waits for this thread, poll(2) says that, and only if there is nothing else to say.
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0) | Err(nix::Error::EINTR))
    }

    /// Whether everything is asked to end, and killed only a while later.
    pub(super) fn asks(&self) -> bool {
        self.wall.grace.is_some()
    }

    fn ends(&self) -> Option<Instant> {
        self.end.get()?.ends
    }

    pub(super) fn is_over(&self) -> bool {
        self.ends().is_some_and(|ends| Instant::now() >= ends)
    }
}

/// The end of `time` from `started` on, on the kernel's clock. [`Instant`] is of the same, but does not tell.
fn moment(started: Instant, time: Duration) -> sys::Result<Option<Moment>> {
    // In this order: rather late than early, since a program that was ended before the time is told to have been killed.
    let left = time.saturating_sub(started.elapsed());
    Ok(Moment::now()?.after(left))
}

/// The error of a start whose time was up, and what was done at that time, if that is known.
fn too_late(wall: Wall, during: Option<&str>) -> Error {
    let words = Step::Timer { time: wall.time, grace: wall.grace }.to_string();
    let during = during.map_or_else(String::new, |during| format!(", at \"{during}\""));
    let cause = format!("the time was up while the sandbox was set up{during}");
    Error::new(Layer::Limits, ErrorKind::Os, words, cause).with_errno(libc::ETIMEDOUT)
}

/// The same, at a step.
fn too_late_at(wall: Wall, step: Option<&Step>) -> Error {
    let during = step.map(|step| format!("{}: {step}", step.layer()));
    let path = step.and_then(|step| step.path(crate::plan::Operand::Source));
    path.into_iter().fold(too_late(wall, during.as_deref()), Error::with_path)
}

impl Limited {
    /// Fails where the time is up already.
    pub(super) fn check(&self) -> Result<()> {
        match &self.clock {
            Some(clock) if clock.is_over() && !clock.wall.later => Err(too_late(clock.wall, None)),
            _ => Ok(()),
        }
    }

    /// When the sandbox has to be set up, if its time counts already.
    pub(super) fn set_up_ends(&self) -> Option<Instant> {
        self.clock.as_ref().filter(|clock| !clock.wall.later)?.ends()
    }

    /// The error of a start whose time was up during this.
    pub(super) fn too_late(&self, during: &str) -> Error {
        let clock = self.clock.as_ref();
        clock.map_or_else(
            || Error::os(Layer::Limits, during, libc::ETIMEDOUT),
            |clock| too_late(clock.wall, Some(during)),
        )
    }

    /// Notes when the program was executed.
    pub(super) fn has_started(&mut self) {
        self.late = self.clock.as_ref().is_some_and(|clock| clock.is_over());
    }

    /// Names the limit behind an error of the start.
    pub(super) fn explain(&self, plan: &Plan, reports: &Reports, error: Error) -> Error {
        let errno = error.raw_os_error().unwrap_or_default();
        // A process that the timer has killed has no error number; that of init is the cell's word.
        let late = self.clock.as_ref().filter(|clock| clock.is_over() && matches!(errno, 0 | libc::ETIMEDOUT));
        if let Some(clock) = late {
            let mut steps = [&reports.program, &reports.init].into_iter().map(|report| plan.steps.get(report.step()));
            return too_late_at(clock.wall, steps.find_map(|step| step));
        }
        let clone = plan.steps.get(plan.program.clone).map(Step::to_string).unwrap_or_default();
        let entering = [clone, Step::EnterCgroup.to_string()].iter().any(|step| step == error.step());
        match &self.leaf {
            Some(_) if entering && errno != libc::ENOMEM => super::leaf::entry_failed(error, errno),
            // The kernel may find no memory for what it then tells to be missing: a file of /proc, say.
            Some(leaf) if errno == libc::ENOMEM || leaf.has_met_its_memory() => {
                error.with_hint(diagnosis::MEMORY_TOO_SMALL)
            }
            _ => error,
        }
    }
}
