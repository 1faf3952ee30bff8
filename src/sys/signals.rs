//! Signals, as they are waited for.

use core::ffi::c_int;
use core::mem::size_of;
use std::os::fd::BorrowedFd;

use super::{Errno, Fd, Result, SignalSet, call, raw};

/// The highest number of a signal: signal(7).
pub(crate) const LAST_SIGNAL: c_int = 64;

/// The set of one signal, which is one of 1 to [`LAST_SIGNAL`].
pub(crate) fn set_of(signal: c_int) -> SignalSet {
    1 << ((signal - 1) & 63)
}

/// rt_sigprocmask(2) with `SIG_BLOCK`, of the calling thread; returns the old mask.
pub(crate) fn block_signals(signals: SignalSet) -> Result<SignalSet> {
    let mut old: SignalSet = 0;
    let args = [libc::SIG_BLOCK as usize, &raw const signals as usize, &raw mut old as usize, 8];
    // SAFETY: The kernel reads one set of 8 bytes and writes another.
    unsafe { call(libc::SYS_rt_sigprocmask, args) }?;
    Ok(old)
}

/// signalfd4(2), closed on exec, which does not wait.
pub(crate) fn signalfd(signals: SignalSet) -> Result<Fd> {
    let flags = (libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as usize;
    // SAFETY: The kernel reads one set of 8 bytes.
    unsafe { call(libc::SYS_signalfd4, [usize::MAX, &raw const signals as usize, 8, flags]) }.map(Fd::new)
}

/// Reads one signal from a signalfd: its number. None if there is none now.
pub(crate) fn next_signal(signalfd: BorrowedFd<'_>) -> Result<Option<c_int>> {
    // `struct signalfd_siginfo`: the number comes first.
    let mut info = [0_u32; 32];
    let args = [raw(signalfd), info.as_mut_ptr() as usize, size_of::<[u32; 32]>()];
    // SAFETY: The kernel writes at most as many bytes as are given.
    match unsafe { call(libc::SYS_read, args) } {
        Ok(_) => Ok(info.first().map(|signal| *signal as c_int)),
        Err(Errno(libc::EAGAIN)) => Ok(None),
        Err(errno) => Err(errno),
    }
}
