//! What the processors spent on this process and on all that it has started.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::ptr;
use std::time::Duration;

use crate::common::{Result, host};

/// The time of this process, and of the children that it has waited for and theirs.
pub(crate) fn processor_time() -> Result<Duration> {
    // SAFETY: `struct rusage` holds numbers only, for which all zeros are values.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: The kernel writes one `struct rusage`.
    check(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) })?;
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime) + host::children_time()?)
}

/// Makes what others leave behind this process's own children: bwrap does not wait for its last process, and without
/// that nobody would learn what it took.
pub(crate) fn adopt_orphans() -> Result {
    // SAFETY: No pointers. It concerns this process alone.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Waits until no child is left.
pub(crate) fn wait_for_all() -> Result {
    loop {
        // SAFETY: A null pointer asks for no status.
        if unsafe { libc::waitpid(-1, ptr::null_mut(), libc::__WALL) } < 0 {
            return match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
                error => Err(error.into()),
            };
        }
    }
}

fn check(result: libc::c_int) -> Result {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}
