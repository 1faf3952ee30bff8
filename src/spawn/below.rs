//! What there is to know of sandboxes that join namespaces of somebody else's.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::Process;
use crate::error::{Error, Layer, Result};
use crate::plan::{Maps, Plan};
use crate::postfork::Reports;
use crate::sys::{self, Cloned, Ended};

/// Maps of user and group ids: inside, outside, count.
pub(super) type IdMaps = [Vec<[u32; 3]>; 2];

/// Reaps the second cell, which the first has waited for, if there was one: how that has ended counts.
pub(super) fn end_below(reports: &Reports, cell: sys::Result<Option<Ended>>) -> sys::Result<Option<Ended>> {
    let Some(below) = reports.below.take().map(Process::from) else { return cell };
    let waited_for = matches!(&cell, Ok(Some(ended)) if ended.code == libc::CLD_EXITED);
    if !waited_for {
        let _ = below.kill();
    }
    let ended = below.wait(0);
    if waited_for { ended } else { cell }
}

/// A process with the id that it has in the host's PID namespace, where another has cloned it. Where there is no /proc, it
/// has none.
pub(super) fn as_seen_here(told: Cloned) -> Cloned {
    let pid = pid_of(told.pidfd.as_fd()).unwrap_or(0);
    Cloned { pid, ..told }
}

/// The process that a pidfd stands for, as the host sees it: pidfd_open(2) tells of fdinfo.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Option<libc::pid_t> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(pid)
}

/// The maps of the ids in a sandbox, as one of its processes has them: not the program, which may have gone on, if there is
/// another.
pub(super) fn maps_of(plan: &Plan, process: &Process) -> Result<Option<IdMaps>> {
    match &plan.ids {
        Maps::None => Ok(None),
        Maps::Known(maps) => Ok(Some(maps.clone())),
        Maps::OfOthers => Ok(Some([read_map(process, "uid_map")?, read_map(process, "gid_map")?])),
    }
}

/// A map as the host sees it: user_namespaces(7).
fn read_map(process: &Process, name: &str) -> Result<Vec<[u32; 3]>> {
    let path = format!("/proc/{}/{name}", process.pid());
    let failed = |error: std::io::Error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Error::os(Layer::Ids, format!("read {name}"), errno).with_path(&path)
    };
    let text = fs::read_to_string(&path).map_err(failed)?;
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next()??])
    };
    Ok(text.lines().filter_map(line).collect())
}
