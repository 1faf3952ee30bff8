//! Waiting for the end, and what the kernel tells of it.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Child;
use crate::error::{Error, Layer, Result};
use crate::outcome::{Outcome, Usage, UsageSource};
use crate::sys::{Ended, Errno};

impl Child {
    /// Waits for the end of the program for at most `timeout`. None means that it still runs, unharmed.
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
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let look = self.next_look()?.into_iter().chain(left).min();
            let mut fds = [PollFd::new(self.program.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, poll_timeout(look)) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(None),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return self.end(0),
                Err(errno) => return Err(Error::os(Layer::Process, "wait", errno as i32)),
            }
        }
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
