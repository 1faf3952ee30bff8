//! What keeps a killed init from ending, and the host with it. The default filter refuses the first two.
//!
//! - Processes that a program has made children of the host's, instead of its own: clone(2), `CLONE_PARENT`. Such a one, once
//!   dead, waits for the host to reap it, and the kernel keeps init until its namespace is empty.
//! - Processes that have stopped at their end for whoever traces them (ptrace(2), `PTRACE_O_TRACEEXIT`). Two that trace each
//!   other so never end: nothing in the kernel ends them.
//! - Processes that leave init, to which a program may have given the lowest priority, no time to die in, and to kill them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Process;
use crate::sys::{self, Errno};

/// How long init takes, in milliseconds, where nothing is in its way. A look too early finds nothing to do.
const SOON: u8 = 50;

/// How deep PID namespaces nest: pid_namespaces(7).
const NESTED: usize = 32;

/// How often it is looked for what can't be told from other children, before init is left to them.
const PATIENCE: usize = 10;

/// Reaps init, which has been killed, and first what keeps it from ending: `namespace` is the PID namespace.
///
/// To look into a process that has made itself not dumpable takes privilege on newer kernels, even if it is dead. Such a one
/// may be anybody's child in this process: it stays a zombie, and init with it, but nobody waits for them: false. Nor for
/// what is held by who traces it.
pub(super) fn wait(init: &Process, namespace: (u64, u64)) -> bool {
    let mut search = Search::default();
    while !ends_soon(init) {
        if !search.again(init, namespace) {
            return false;
        }
    }
    let _ = init.wait(0);
    true
}

/// Looks for what keeps an init from ending, again and again.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// How often there was one in a row of which nothing can be told.
    unknown: usize,
}

impl Search {
    /// How long to wait before each look.
    #[cfg(feature = "tokio")]
    pub(crate) const PAUSE: Duration = Duration::from_millis(SOON as u64);

    /// Looks once. False means that init is to be left to what is there.
    pub(super) fn again(&mut self, init: &Process, namespace: (u64, u64)) -> bool {
        self.goes_on(!end(init, namespace))
    }

    /// Counts a look. False if there was one thing in a row of looks that does not end.
    pub(crate) fn goes_on(&mut self, unknown: bool) -> bool {
        self.unknown = if unknown { self.unknown + 1 } else { 0 };
        self.unknown <= PATIENCE
    }
}

/// Waits for the end of init, which has not been killed, but ends by itself since its program has ended: at most a second,
/// for it may have been kept from that.
pub(super) fn settle(init: &Process, namespace: (u64, u64)) {
    for _ in 0..1000 / u32::from(SOON) {
        if ends_soon(init) {
            break;
        }
        end(init, namespace);
    }
}

/// Waits for the end of a process that has been killed. False if it is held.
pub(super) fn wait_killed(process: &Process) -> bool {
    let mut held = 0;
    while !ends_soon(process) {
        held = if is_held(process.pid()) { held + 1 } else { 0 };
        if held == PATIENCE {
            return false;
        }
    }
    true
}

fn ends_soon(process: &Process) -> bool {
    let deadline = Instant::now() + Duration::from_millis(SOON.into());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            // Signals in a row take no patience.
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return true,
            // A filter around the host process keeps it from poll(2).
            Err(_) if matches!(process.wait(libc::WNOHANG | libc::WNOWAIT), Ok(None)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return true,
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// Kills what is in the namespace, and reaps what of that is the host's child and dead. No other process is touched: which
/// namespace one is in can be told until it is reaped. False means that there is one of which it can't.
fn end(init: &Process, namespace: (u64, u64)) -> bool {
    let mut all_known = true;
    // The host's own namespace is never one to end. And none is known by zeroes.
    let is_own = || File::open("/proc/self/ns/pid").map_or(true, |own| is_within(&own, namespace));
    if namespace == (0, 0) || is_own() {
        return false;
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| *pid != init.pid()) {
        // First the pidfd: it stands for one process, also if the number is another's by then.
        let Ok(process) = sys::pidfd_open(pid) else { continue };
        match File::open(format!("/proc/{pid}/ns/pid")) {
            Ok(own) if is_within(&own, namespace) => {
                let _ = sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL);
                // Where the host is kept from reaping, there is nothing to wait for.
                all_known &= matches!(sys::wait(process.as_fd(), libc::WNOHANG), Ok(_) | Err(Errno(libc::ECHILD)));
                all_known &= !is_held(pid);
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => all_known &= !is_zombie_of_ours(pid),
            _ => {}
        }
    }
    all_known
}

/// Whether a PID namespace is this one, or one below.
fn is_within(own: &File, namespace: (u64, u64)) -> bool {
    let is_it = |file: BorrowedFd<'_>| sys::fstat(file).is_ok_and(|stat| (stat.device, stat.inode) == namespace);
    let above = |inner: BorrowedFd<'_>| sys::parent_namespace(inner).ok().map(OwnedFd::from);
    let mut outer = std::iter::successors(above(own.as_fd()), |inner| above(inner.as_fd())).take(NESTED);
    is_it(own.as_fd()) || outer.any(|file| is_it(file.as_fd()))
}

/// Whether a thread of a process that has been killed has stopped for whoever traces it.
pub(super) fn is_held(pid: libc::pid_t) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.any(|thread| after_name(&thread.path()).starts_with(" t "))
}

/// What proc_pid_stat(5) tells after the name: the state, and the parent.
fn after_name(process: &Path) -> String {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().to_owned()
}

/// Whether a process is a child of the host's that has ended.
fn is_zombie_of_ours(pid: libc::pid_t) -> bool {
    let stat = after_name(&Path::new("/proc").join(pid.to_string()));
    let mut fields = stat.split_whitespace();
    fields.next() == Some("Z") && fields.next() == Some(&*std::process::id().to_string())
}
