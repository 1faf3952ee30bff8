//! Terminals: ioctl_tty(2), pty(7).

use core::ffi::{CStr, c_int};
use std::os::fd::{BorrowedFd, RawFd};

use super::{CWD, Fd, Result, call, openat2, raw};

/// ioctl(2) with an argument that is a number or the address of something that outlives the call.
///
/// # Safety
///
/// As for the request itself: an address must be valid for what the kernel does with it.
unsafe fn request(terminal: BorrowedFd<'_>, request: usize, arg: usize) -> Result<usize> {
    // SAFETY: The caller vouches for the argument.
    unsafe { call(libc::SYS_ioctl, [raw(terminal), request, arg]) }
}

/// Opens the master of a new terminal: what is at `path` need not be one. It becomes no controlling terminal.
pub(crate) fn open_master(path: &CStr) -> Result<Fd> {
    openat2(CWD, path, libc::O_RDWR | libc::O_NOCTTY, 0, libc::RESOLVE_NO_MAGICLINKS)
}

/// `TIOCGPTN`: the number of a master's terminal. ENOTTY for whatever is no master.
pub(crate) fn terminal_number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number = 0_u32;
    // SAFETY: The kernel writes one number of 32 bits.
    unsafe { request(master, libc::TIOCGPTN as usize, &raw mut number as usize) }?;
    Ok(number)
}

/// `TIOCSPTLCK`: lets the terminal of a master be opened.
pub(crate) fn unlock_terminal(master: BorrowedFd<'_>) -> Result<()> {
    let lock: c_int = 0;
    // SAFETY: The kernel reads one number of 32 bits.
    unsafe { request(master, libc::TIOCSPTLCK as usize, &raw const lock as usize) }.map(drop)
}

/// `TIOCGPTPEER` (Linux 4.13): opens the terminal of a master, wherever its name leads.
pub(crate) fn open_terminal(master: BorrowedFd<'_>) -> Result<Fd> {
    let flags = (libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as usize;
    // SAFETY: The argument is a number.
    unsafe { request(master, libc::TIOCGPTPEER as usize, flags) }.map(Fd::new)
}

/// `TIOCSWINSZ`: sets the size; the processes in the terminal's foreground get SIGWINCH if it has changed.
pub(crate) fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: The kernel reads one `struct winsize`.
    unsafe { request(terminal, libc::TIOCSWINSZ as usize, &raw const size as usize) }.map(drop)
}

/// `TIOCSCTTY`: makes a terminal the controlling one of this session, which has none, and takes none away.
pub(crate) fn take_terminal(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: The argument is a number.
    unsafe { request(terminal, libc::TIOCSCTTY as usize, 0) }.map(drop)
}

/// fcntl(2) with `F_DUPFD_CLOEXEC`: another descriptor, with a number from `first` on.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, first: RawFd) -> Result<Fd> {
    let args = [raw(fd), libc::F_DUPFD_CLOEXEC as usize, first as usize];
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fcntl, args) }.map(Fd::new)
}
