//! Resource limits: the caller's value, and the rlimits that it comes to.

mod cgroup;
mod check;
mod io;
mod place;
mod report;
mod resource;
mod rlimit;

use std::time::Duration;

use crate::plan::Wall;

pub(crate) use cgroup::{AS_ROOT, Cgroup, DELEGATE, UNIFY};
pub(crate) use check::check;
pub use io::IoMax;
pub(crate) use place::{Directory, Place};
pub(crate) use report::told;
pub use resource::Resource;
pub(crate) use rlimit::{Setting, last, lower};

/// What a sandbox may use. A plain value: every setter takes it and returns it, never fails and touches nothing.
///
/// A limit that is set binds, for every kind of caller, or the program is not started and the error says what would help.
/// Without any, a program has the limits of a process that a host starts which nobody has tuned (getrlimit(2)), whatever
/// the host process's own are.
///
/// [`memory`](Limits::memory), [`memory_high`](Limits::memory_high), [`swap`](Limits::swap),
/// [`cpu_max`](Limits::cpu_max), [`io_max`](Limits::io_max) and [`io_weight`](Limits::io_weight) take a cgroup of version
/// 2: a directory that [`Sandbox::cgroup`](crate::Sandbox::cgroup) names, or the host process's own if that is delegated
/// to it. [`host::probe`](crate::host::probe) tells whether there is one, and how to get one.
///
/// A setter that is called again replaces what it has set; but [`io_max`](Limits::io_max) and [`rlimit`](Limits::rlimit)
/// add, and two of them that contradict each other are an error of the start.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use belljar::{Cause, Limits, Rootfs, Sandbox};
///
/// let limits = Limits::new().wall_time(Duration::from_millis(200)).open_files(64).file_size(1 << 20);
/// let sandbox = Sandbox::new().rootfs(Rootfs::host()).limits(limits);
/// let outcome = sandbox.command("sleep").arg("60").status()?;
/// assert_eq!(outcome.cause(), Cause::TimedOut);
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub(crate) memory: Option<u64>,
    pub(crate) memory_high: Option<u64>,
    pub(crate) swap: Option<u64>,
    pub(crate) pids: Option<u64>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) term_grace: Option<Duration>,
    pub(crate) open_files: Option<u64>,
    pub(crate) file_size: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) tmp_size: Option<u64>,
    pub(crate) cpu_max: Option<(Duration, Duration)>,
    pub(crate) io_max: Vec<IoMax>,
    pub(crate) io_weight: Option<u64>,
    pub(crate) rlimits: Vec<(Resource, u64, u64)>,
}

impl Limits {
    /// No limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the sandbox may take; `later` tells that this is counted from when an agent is told what to execute.
    pub(crate) fn wall(&self, later: bool) -> Option<Wall> {
        self.wall_time.map(|time| Wall { time, grace: self.term_grace, later })
    }

    /// Sets how much memory all processes of the sandbox may have together, in bytes: what they allocate, the pages of
    /// files that they read and write, and what they put into a tmpfs. What the policy itself puts there is not counted.
    ///
    /// When there is no more to reclaim the kernel kills them all, and the cause is
    /// [`OutOfMemory`](crate::Cause::OutOfMemory). Unless [`swap`](Limits::swap) is set, nothing is swapped: else the
    /// limit would only move memory elsewhere. Needs a cgroup of version 2 with the memory controller.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Sets how much memory the sandbox may have, in bytes, before it is slowed down and its memory reclaimed; nothing is
    /// killed for it. At most [`memory`](Limits::memory). Needs a cgroup of version 2 with the memory controller.
    pub fn memory_high(mut self, bytes: u64) -> Self {
        self.memory_high = Some(bytes);
        self
    }

    /// Sets how much of the sandbox's memory may be in swap space, in bytes, on top of [`memory`](Limits::memory). 0 is
    /// none. Needs a cgroup of version 2 with the memory controller, in a kernel that counts swap.
    pub fn swap(mut self, bytes: u64) -> Self {
        self.swap = Some(bytes);
        self
    }

    /// Sets how many processes and threads may exist in the sandbox at a time, the program among them: at least 1.
    ///
    /// With a cgroup of version 2 that has the pids controller it binds every program. Else it is `RLIMIT_NPROC`, which
    /// counts for each user in a user namespace since Linux 5.14, and does not bind the host's user 0: where it would not
    /// bind, the start fails. With it, those that have started the program are counted for a moment.
    pub fn pids(mut self, count: u64) -> Self {
        self.pids = Some(count);
        self
    }

    /// Sets how much processor time may be used. If that ends the program, the cause is
    /// [`CpuTime`](crate::Cause::CpuTime).
    ///
    /// Each process by itself is held to it in any case, in whole seconds, rounded up: it gets SIGXCPU, and a second later
    /// SIGKILL (`RLIMIT_CPU`; the kernel counts by ticks there, and may be early on a busy virtual machine). With a cgroup
    /// of version 2 all processes of the sandbox together are, while somebody waits for the program.
    ///
    /// What is not protected: the sum, while nobody waits, since no kernel bounds it. It is looked at in
    /// [`wait`](crate::Child::wait), [`wait_timeout`](crate::Child::wait_timeout), [`try_wait`](crate::Child::try_wait) and
    /// what is built on them; a host process that does none of these, or has [detached](crate::Child::detach) the sandbox,
    /// leaves each process to its own limit. What binds then too are [`pids`](Limits::pids), which bounds how many there are
    /// to add up, [`cpu_max`](Limits::cpu_max) and [`wall_time`](Limits::wall_time).
    pub fn cpu_time(mut self, time: Duration) -> Self {
        self.cpu_time = Some(time);
        self
    }

    /// Sets how long the sandbox may take from the call that starts it, setting up included. Then everything in it is
    /// killed, also if nobody waits, and the cause is [`TimedOut`](crate::Cause::TimedOut). The clock is
    /// `CLOCK_MONOTONIC`, which stands still while the machine is suspended.
    ///
    /// If time is up before the program runs, the start fails with an error that converts to
    /// [`io::ErrorKind::TimedOut`](std::io::ErrorKind::TimedOut), and what was setting up is killed: also newuidmap(1) and
    /// newgidmap(1). Needs [`Namespaces::PID`](crate::Namespaces::PID).
    ///
    /// What is not bounded: the host process's own look at what the policy names, before there is a process. On a file system
    /// that does not answer (FUSE, or a network's), stat(2) and open(2) hold the thread that starts the program for as long
    /// as that lasts, as they would hold any other. And in a [`Pool`](crate::Pool) time counts from when a command is started:
    /// what is built ahead has no bound.
    pub fn wall_time(mut self, time: Duration) -> Self {
        self.wall_time = Some(time);
        self
    }

    /// Sets how long everything in the sandbox has from a SIGTERM at the end of [`wall_time`](Limits::wall_time) until it
    /// is killed. The default is no SIGTERM.
    pub fn term_grace(mut self, grace: Duration) -> Self {
        self.term_grace = Some(grace);
        self
    }

    /// Sets how many descriptors each process may have open: at least 1 (`RLIMIT_NOFILE`, soft and hard).
    pub fn open_files(mut self, count: u64) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Sets how large a file may be made, in bytes (`RLIMIT_FSIZE`, soft and hard). Who writes on gets SIGXFSZ, or EFBIG.
    ///
    /// What is not protected: the number of files. Below a [`bind`](crate::Sandbox::bind), only a quota bounds them all.
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.file_size = Some(bytes);
        self
    }

    /// Sets how many bytes the program may write to standard output, and how many to standard error, where they are
    /// captured by [`Command::output`](crate::Command::output) or
    /// [`Child::wait_with_output`](crate::Child::wait_with_output). The first of them are kept; when there is one more, the
    /// sandbox is killed, and the cause is [`OutputLimit`](crate::Cause::OutputLimit). Without this limit 32 MiB of each are
    /// kept, the rest is read and forgotten, and the program runs on.
    ///
    /// What is not protected: streams that are not captured. A pipe that the caller reads by itself holds 64 KiB, and then the
    /// program waits; a file that is passed as a stream grows up to [`file_size`](Limits::file_size).
    pub fn output(mut self, bytes: u64) -> Self {
        self.output = Some(bytes);
        self
    }

    /// How many bytes of each captured stream are kept.
    pub(crate) fn output_limit(&self) -> Option<u64> {
        self.output
    }

    /// Sets the size of the sandbox's own /tmp, in bytes: at least 1. The default is 1 GiB.
    pub fn tmp_size(mut self, bytes: u64) -> Self {
        self.tmp_size = Some(bytes);
        self
    }

    /// Sets how much processor time all processes of the sandbox together may have in each period; then they wait for the
    /// next. A quota of twice the period is two processors. The kernel takes both from 1 millisecond on, and periods up
    /// to 1 second.
    ///
    /// Needs a cgroup of version 2 with the cpu controller.
    pub fn cpu_max(mut self, quota: Duration, period: Duration) -> Self {
        self.cpu_max = Some((quota, period));
        self
    }

    /// Adds limits on the use of one block device. Needs a cgroup of version 2 with the io controller.
    ///
    /// What is not protected: a file system in memory has no device; and what the kernel writes later is only counted where
    /// the file system supports that (ext4, btrfs and XFS do), with the memory controller.
    pub fn io_max(mut self, max: IoMax) -> Self {
        self.io_max.push(max);
        self
    }

    /// Sets the sandbox's share of busy block devices, from 1 to 10,000: others have 100. Needs a cgroup of version 2 with
    /// the io controller, and a scheduler of the device's that knows weights (bfq, or io.cost).
    pub fn io_weight(mut self, weight: u64) -> Self {
        self.io_weight = Some(weight);
        self
    }

    /// Sets a limit of getrlimit(2): the soft one, which the program may raise, up to the hard one. [`u64::MAX`] is none.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.rlimits.push((resource, soft, hard));
        self
    }
}
