//! Owning processes: by pidfd, so that no process id is ever mistaken for another.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::leaf::Leaf;
use super::strays;
use crate::sys::{self, Cloned, Ended};

/// A child of the host process. Dropping it does not end it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: libc::pid_t,
    pidfd: OwnedFd,
}

impl From<Cloned> for Process {
    fn from(Cloned { pid, pidfd }: Cloned) -> Self {
        let pidfd = OwnedFd::from(pidfd);
        // A host that has closed a standard stream would get it there, and the next sandbox would inherit it.
        let pidfd = match pidfd.as_raw_fd() {
            0..=2 => super::duplicate_from(pidfd.as_fd(), 3).unwrap_or(pidfd),
            _ => pidfd,
        };
        Self { pid, pidfd }
    }
}

impl Process {
    /// Waits for the end with waitid(2), and reaps.
    pub(crate) fn wait(&self, options: i32) -> sys::Result<Option<Ended>> {
        sys::wait(self.as_fd(), options)
    }

    /// The processor time of a process that has ended and is not reaped: its own, without that of children that it has
    /// waited for, which rusage has in the same number. See proc_pid_stat(5). None while it runs.
    pub(crate) fn own_time(&self, options: i32) -> Option<Duration> {
        self.wait(options | libc::WNOWAIT).ok()??;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // In hundredths of a second on every processor here: USER_HZ.
        Some(Duration::from_millis((user + system) * 10))
    }

    pub(crate) fn kill(&self) -> sys::Result<()> {
        sys::pidfd_send_signal(self.as_fd(), libc::SIGKILL)
    }

    /// The wait status, though somebody else has reaped the process.
    pub(crate) fn exit_info(&self) -> sys::Result<i32> {
        sys::exit_info(self.as_fd())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Namespaces kept alive by an init. Dropping it ends every process in them, and waits for that.
///
/// The program must be reaped first: init ends when all other processes of its namespace are gone.
#[derive(Debug)]
pub(crate) struct Cell {
    init: Process,
    lifeline: Option<OwnedFd>,
    detached: bool,
    /// The PID namespace of init.
    namespace: (u64, u64),
    /// Removed when init has ended, and so everything has.
    leaf: Option<Arc<Leaf>>,
}

/// What the host tells init on the lifeline; the byte itself says nothing.
const BYTE: &[u8] = b".";

impl Cell {
    pub(super) fn new(init: Process, lifeline: OwnedFd, namespace: (u64, u64)) -> Self {
        Self { init, lifeline: Some(lifeline), detached: false, namespace, leaf: None }
    }

    /// Has the cgroup stay until everything in the cell has ended.
    pub(super) fn holds(&mut self, leaf: Option<Arc<Leaf>>) {
        self.leaf = leaf;
    }

    /// Whether init has seen that time was up before the program had ended, which has been reaped: then init ends by itself,
    /// and its exit code tells.
    pub(crate) fn ran_out_of_time(&self) -> bool {
        strays::settle(&self.init, self.namespace);
        match self.init.wait(libc::WNOHANG | libc::WNOWAIT) {
            Ok(ended) => ended.is_some_and(|ended| (ended.code, ended.status) == (libc::CLD_EXITED, 1)),
            // Somebody else has reaped it. The form is that of wait(2).
            Err(_) => self.init.exit_info().is_ok_and(|status| status == 1 << 8),
        }
    }

    pub(crate) fn init(&self) -> &Process {
        &self.init
    }

    /// Tells init that the program runs as process 2.
    pub(super) fn started(&self) -> sys::Result<()> {
        self.tell()
    }

    /// Tells init to mind the program alone, and gives the cell up.
    pub(crate) fn detach(mut self) -> sys::Result<()> {
        let told = self.tell();
        self.detached = told.is_ok();
        told
    }

    fn tell(&self) -> sys::Result<()> {
        let Some(lifeline) = &self.lifeline else { return Ok(()) };
        sys::send(lifeline.as_fd(), BYTE)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        let _ = self.init.kill();
        drop(self.lifeline.take());
        strays::wait(&self.init, self.namespace);
    }
}
