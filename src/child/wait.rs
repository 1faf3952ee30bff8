//! Waiting for the end, and what the kernel tells of it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Child;
use crate::error::{Error, Layer, Result};
use crate::outcome::{Outcome, Usage, UsageSource};
use crate::spawn::Cell;
use crate::sys::{Ended, Errno};

/// How long a program that has ended is left to whoever traces it inside, before it is looked again: until he lets go of
/// it, it can't be reaped (ptrace(2)). Init takes him along.
pub(super) const TRACED: Duration = Duration::from_millis(1);

/// How often it is looked whether a program that was killed is held.
const AGAIN: Duration = Duration::from_millis(50);

/// For how long at a stretch one has to be held to be given up: who traces it was killed with it, and lets go at once,
/// unless he is held too.
const GIVEN_UP: Duration = Duration::from_millis(500);

/// Since when a program that was killed is seen to be held.
#[derive(Debug, Default)]
pub(super) struct Held(Option<Instant>);

impl Child {
    /// Waits for the end of the program for at most `timeout`. None means that it still runs, unharmed, or was killed and
    /// has not ended yet.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome>> {
        if let Some(outcome) = self.outcome.clone() {
            return Ok(Some(outcome));
        }
        // A deadline that lies too far ahead to be told is none.
        let deadline = Instant::now().checked_add(timeout);
        let mut held = Held::default();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let look = self.next_look()?.into_iter().chain(left).chain(self.look_again()).min();
            if wait_readable(self.ends(), [], look).map_err(|errno| failed(errno as i32))? {
                let ended = self.end(libc::WNOHANG)?;
                if ended.is_some() {
                    return Ok(ended);
                }
                std::thread::sleep(TRACED);
            }
            held.look(self)?;
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
        }
    }

    /// What tells of an end: of the program's, and of init's, with which the kernel kills all that is inside.
    pub(super) fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let lifeline = self.cell.as_ref().filter(|_| !self.is_killed()).and_then(Cell::lifeline);
        [self.program.as_fd()].into_iter().chain(lifeline)
    }

    /// Whether everything inside was killed, as far as it had not ended.
    pub(super) fn is_killed(&self) -> bool {
        self.ended.is_some() || self.cell.as_ref().is_some_and(|cell| cell.lifeline().is_none_or(has_hung_up))
    }

    /// After how long to look again whether the program is held.
    pub(super) fn look_again(&self) -> Option<Duration> {
        self.is_killed().then_some(AGAIN)
    }

    /// What the pidfd tells of a program that is gone. waitid(2) has no child any more a moment before it does.
    fn exit_info(&self) -> crate::sys::Result<i32> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.program.exit_info() {
                Err(Errno(libc::ENODATA)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                result => return result,
            }
        }
    }

    /// The status of a program that somebody else has reaped.
    pub(super) fn status_after_reaping(&self, Errno(errno): Errno) -> Result<(ExitStatus, Usage)> {
        match self.exit_info() {
            Ok(status) => Ok((ExitStatus::from_raw(status), Usage::default())),
            Err(_) => Err(Error::os(Layer::Process, "wait", errno).with_hint(
                "the host process ignores SIGCHLD, or waits for any child: before Linux 6.15 the status is lost then",
            )),
        }
    }
}

impl Held {
    /// Looks once, at a program that has not been reaped. An error means that it is not to be waited for: who traces it has
    /// been killed too, and is held by another. No signal of any kind ends those: they are dying already.
    pub(super) fn look(&mut self, child: &Child) -> Result<()> {
        let program = &child.program;
        if !child.is_killed() || !(program.is_held() || is_readable(program.as_fd())) {
            self.0 = None;
            return Ok(());
        }
        match self.0.get_or_insert_with(Instant::now).elapsed() < GIVEN_UP {
            true => Ok(()),
            false => Err(failed(libc::EDEADLK).with_hint(
                "whoever traces the program holds it at its end: if that is another of the sandbox, which it holds as \
                 well, both stay until the machine ends; a filter that refuses ptrace keeps them from it",
            )),
        }
    }
}

fn failed(errno: i32) -> Error {
    Error::os(Layer::Process, "wait", errno)
}

fn has_hung_up(lifeline: BorrowedFd<'_>) -> bool {
    // What is asked for is told anyway: poll(2).
    matches!(poll(&mut [PollFd::new(lifeline, PollFlags::empty())], PollTimeout::ZERO), Ok(1..))
}

/// Whether a descriptor can be read, or is at its end, now.
pub(super) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    matches!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO), Ok(1..))
}

/// Waits until one of the descriptors can be read or is at its end, at most for `timeout`: whether one of the first is.
pub(super) fn wait_readable<'a>(
    first: impl IntoIterator<Item = BorrowedFd<'a>>,
    others: impl IntoIterator<Item = BorrowedFd<'a>>,
    timeout: Option<Duration>,
) -> nix::Result<bool> {
    let mut fds: Vec<_> = first.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let count = fds.len();
    fds.extend(others.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    match poll(&mut fds, poll_timeout(timeout)) {
        Ok(_) => Ok(fds.iter().take(count).filter_map(PollFd::any).any(|ready| ready)),
        // Who waits looks again in any case.
        Err(nix::Error::EINTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// In milliseconds, rounded up, so that a wait never ends early; None waits for ever.
pub(super) fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let milliseconds = left.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

pub(super) fn status(ended: &Ended) -> ExitStatus {
    // The form of wait(2): the exit code in the second byte, or the signal, with 0x80 for a core dump.
    ExitStatus::from_raw(match ended.code {
        libc::CLD_EXITED => (ended.status & 0xff) << 8,
        libc::CLD_DUMPED => ended.status | 0x80,
        _ => ended.status,
    })
}

pub(super) fn usage(ended: &Ended, host_peak: u64) -> Usage {
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    let peak = ended.usage.ru_maxrss.unsigned_abs();
    Usage {
        wall_time: Duration::ZERO,
        user_time: duration(ended.usage.ru_utime),
        system_time: duration(ended.usage.ru_stime),
        time_source: UsageSource::Process,
        peak_memory: (peak > host_peak).then(|| (peak.saturating_mul(1024), UsageSource::Process)),
    }
}
