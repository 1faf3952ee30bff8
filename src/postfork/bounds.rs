//! What bounds the children from outside.

use std::os::fd::{AsFd, RawFd};

use super::{Children, Done, Reports, State};
use crate::sys::{self, Errno};

/// What bounds the children of one spawn from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The timer that init minds.
    pub(crate) timer: Option<RawFd>,
    /// The directory of the sandbox's cgroup.
    pub(crate) cgroup: Option<RawFd>,
    /// When who is still setting up is killed.
    pub(crate) deadline: Option<sys::Moment>,
}

impl Bounds {
    pub(crate) const NONE: Self = Self { timer: None, cgroup: None, deadline: None };
}

impl Children<'_> {
    /// Waits until init has been executed, and kills it when time is up: a timer of its own could not, since it is process 1.
    pub(super) fn wait_for_init(self) -> Done {
        let Reports { init, init_sets_up, .. } = self.reports;
        let in_time = self.context.bounds.deadline.is_none_or(|end| sys::wait_for_zero_until(init_sets_up, end));
        if !in_time {
            sys::pidfd_send_signal(sys::borrow(init.process.pidfd()), libc::SIGKILL)?;
        }
        sys::wait_for_zero(init_sets_up);
        if in_time { Ok(()) } else { Err(Errno(libc::ETIMEDOUT).into()) }
    }
}

impl State<'_> {
    /// Goes there where the clone did not: clone3(2) may be missing.
    pub(super) fn enter_cgroup(&self) -> Done {
        let Some(cgroup) = self.context.bounds.cgroup.filter(|_| !self.reports.program.process.placed()) else {
            return Ok(());
        };
        let flags = libc::O_WRONLY;
        let file = sys::openat2(sys::borrow(cgroup), c"cgroup.procs", flags, 0, libc::RESOLVE_BENEATH)?;
        Ok(sys::write_all(file.as_fd(), b"0")?)
    }
}
