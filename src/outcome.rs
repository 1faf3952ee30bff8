//! How a program ended, and what it used.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use crate::changes::{self, ChangeLimits, Changes, Written};
use crate::error::{Error, Layer, Result};

/// How a program ended. Nothing inside the sandbox can forge it: the kernel tells it to the host.
///
/// Of a sandbox whose root was [`ephemeral`](crate::Rootfs::ephemeral) or an [`overlay`](crate::Rootfs::overlay) it also
/// holds what was [changed](Outcome::changes), in memory in the first case, for as long as it or a clone is there.
#[derive(Clone, Debug)]
pub struct Outcome {
    status: ExitStatus,
    cause: Cause,
    usage: Usage,
    written: Option<Arc<Written>>,
}

impl PartialEq for Outcome {
    /// Compares how the programs ended and what they used, not what they have changed.
    fn eq(&self, other: &Self) -> bool {
        (self.status, self.cause, self.usage) == (other.status, other.cause, other.usage)
    }
}

impl Eq for Outcome {}

/// Why a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// It exited, with the code of [`Outcome::code`].
    Exited,
    /// A signal ended it: [`Outcome::signal`].
    Signaled,
    /// SIGSYS ended it: the kernel sends that where a filter kills for a system call, as [`Seccomp::kill`] asks for.
    ///
    /// The number of the call is not told, for nobody outside can know it: wait(2) tells the signal alone, the number
    /// is in the `siginfo_t` of a process that is gone, /proc/PID/syscall shows nothing of a zombie, and the kernel's
    /// audit record is for root alone. A filter that asks a supervisor (seccomp_unotify(2)) instead of killing would
    /// be weaker: where nobody answers, the call only waits, and the program could have no supervisor of its own any
    /// more (EBUSY). A filter that traps would leave the answer to the program.
    ///
    /// A program can also send itself SIGSYS: this says how it ended, and no more of what it has tried.
    ///
    /// [`Seccomp::kill`]: crate::Seccomp::kill
    Syscall,
    /// [`Child::kill`](crate::Child::kill) ended it; or its sandbox, where it is [another command](crate::Child::command) in
    /// there, was killed like that, or dropped.
    Killed,
    /// Its wall time was up: [`Limits::wall_time`](crate::Limits::wall_time).
    TimedOut,
    /// It has used its processor time: [`Limits::cpu_time`](crate::Limits::cpu_time). SIGXCPU to a program that
    /// has used less than half of it is a signal like any other.
    CpuTime,
    /// The sandbox has met its limit of memory: [`Limits::memory`](crate::Limits::memory).
    OutOfMemory,
    /// It has written more than it may: [`Limits::output`](crate::Limits::output). It was killed for that, unless it had
    /// ended by itself before that was seen.
    OutputLimit,
}

impl Outcome {
    /// `met` is what is known to have ended the program: of a limit, it is said even of one that has exited, which it does
    /// when it is asked to.
    pub(crate) fn new(status: ExitStatus, met: Option<Cause>, usage: Usage, written: Option<Arc<Written>>) -> Self {
        let cause = match (met, status.signal()) {
            (Some(cause), _) => cause,
            (None, None) => Cause::Exited,
            (None, Some(libc::SIGSYS)) => Cause::Syscall,
            (None, Some(_)) => Cause::Signaled,
        };
        Self { status, cause, usage, written }
    }

    /// Of a program that has written too much, whether it was killed for that in time or not; unless it was ended for
    /// something else before that was seen.
    pub(crate) fn over_output(self) -> Self {
        match self.cause {
            Cause::Exited | Cause::Signaled | Cause::Syscall => Self { cause: Cause::OutputLimit, ..self },
            _ => self,
        }
    }

    /// Whether the program exited with code 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code, if the program exited.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended the program, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The status as std has it.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Why the program ended.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// What the program used.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Lists what was added, modified and deleted in the root, within the bounds of [`ChangeLimits::new`].
    ///
    /// # Errors
    ///
    /// - [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): the root was neither [`ephemeral`](crate::Rootfs::ephemeral)
    ///   nor an [`overlay`](crate::Rootfs::overlay).
    /// - [`Os`](crate::ErrorKind::Os): a bound is met; another sandbox runs on the directory of an overlay; the
    ///   caller may not read what a program with other ids has made, or has made without a mode to read it; a directory below
    ///   is gone.
    pub fn changes(&self) -> Result<Changes> {
        self.changes_within(ChangeLimits::new())
    }

    /// As [`changes`](Outcome::changes), within other bounds, which also hold for an image that is made of the result.
    ///
    /// # Errors
    ///
    /// As for `changes`.
    pub fn changes_within(&self, limits: ChangeLimits) -> Result<Changes> {
        Changes::list(self.written("changes")?.clone(), limits)
    }

    /// Copies a file or directory of the root, as the program has left it, to `to`, which must not exist: within
    /// the bounds of [`ChangeLimits::new`].
    ///
    /// `from` is an absolute path inside. Files belong to the caller, with the modes that they had inside less set-id bits
    /// and the right of others to write, and with their times. Hard links become files of their own; extended attributes
    /// are not copied.
    ///
    /// No symbolic link is followed: neither on the way to `from`, nor there, nor below. A link below `from` is copied as
    /// one if it leads to a place in what is copied, by a relative path whose `..` are at its start; every other one is an
    /// error, and so is a FIFO, a socket and a device. So whoever uses the copy stays in it.
    ///
    /// To put files *in*, stack them: `Rootfs::layers([root, inputs])`, with [`ephemeral`](crate::Rootfs::ephemeral) for
    /// the program to change; or use [`Sandbox::bind_ro`](crate::Sandbox::bind_ro) and [`Sandbox::file`](crate::Sandbox::file).
    ///
    /// # Errors
    ///
    /// As for [`changes`](Outcome::changes); and where `from` does not exist or has something that is not copied, or `to`
    /// exists or can't be made. Nothing is left at `to` then.
    pub fn copy_out(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.copy_out_within(from, to, ChangeLimits::new())
    }

    /// As [`copy_out`](Outcome::copy_out), within other bounds.
    ///
    /// # Errors
    ///
    /// As for `copy_out`.
    pub fn copy_out_within(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, limits: ChangeLimits) -> Result<()> {
        changes::copy_out(self.written("copy out")?, &limits, from.as_ref(), to.as_ref())
    }

    fn written(&self, step: &str) -> Result<&Arc<Written>> {
        let none = || {
            let cause = "the root keeps no changes apart from what it is made from";
            let hint = "use Rootfs::ephemeral or Rootfs::overlay";
            Error::invalid(Layer::Mount, step, cause).with_hint(hint)
        };
        self.written.as_ref().ok_or_else(none)
    }
}

/// What a program used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub(crate) wall_time: Duration,
    pub(crate) user_time: Duration,
    pub(crate) system_time: Duration,
    pub(crate) time_source: UsageSource,
    pub(crate) peak_memory: Option<(u64, UsageSource)>,
}

/// Who has counted what a program used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UsageSource {
    /// The process itself and those of its descendants that were waited for: getrusage(2).
    #[default]
    Process,
    /// The cgroup of the sandbox: every process that was ever in it.
    Cgroup,
}

impl Usage {
    /// The time from the call that started the sandbox to when its end was seen: setting it up is counted, and so is
    /// the time in which nobody waited.
    pub fn wall_time(&self) -> Duration {
        self.wall_time
    }

    /// The processor time in user mode, of all that [`time_source`](Usage::time_source) counts. Zero where there is no
    /// cgroup and the host process had somebody else reap the program.
    pub fn user_time(&self) -> Duration {
        self.user_time
    }

    /// The processor time in kernel mode, of the same processes; a part of setting the sandbox up is counted.
    pub fn system_time(&self) -> Duration {
        self.system_time
    }

    /// Who has counted the processor time: the cgroup, where the sandbox has one.
    pub fn time_source(&self) -> UsageSource {
        self.time_source
    }

    /// The most memory, in bytes, that was in use at once: by the whole sandbox, files in memory included, where a cgroup
    /// counts it (Linux 5.19); else resident memory of the program or of one of its descendants.
    ///
    /// None where that can't be told: without a cgroup, the kernel counts a program that was started from shared memory from
    /// the host's own peak on (getrusage(2), *ru_maxrss*), so that only a program that was larger than the host was at its
    /// start has a figure.
    pub fn peak_memory(&self) -> Option<u64> {
        self.peak_memory.map(|(bytes, _)| bytes)
    }

    /// Who has counted the peak of memory. None where nobody could.
    pub fn peak_memory_source(&self) -> Option<UsageSource> {
        self.peak_memory.map(|(_, source)| source)
    }
}
