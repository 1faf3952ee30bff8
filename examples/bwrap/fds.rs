//! Descriptors that the caller has left open, and names by number.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// A copy of the descriptor that was inherited under this number. The number itself stays open as long as this process.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    borrow(number).try_clone_to_owned()
}

/// All that can be read from it.
pub(crate) fn content(number: RawFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::from(inherited(number)?).read_to_end(&mut content)?;
    Ok(content)
}

/// What an execve(2) in this process would pass on, but for the three streams.
pub(crate) fn passed_on() -> io::Result<Vec<RawFd>> {
    let numbers = fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_passed = |number: &RawFd| {
        let flags = fcntl(borrow(*number), FcntlArg::F_GETFD);
        *number > 2 && flags.is_ok_and(|flags| !FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC))
    };
    Ok(numbers.filter(is_passed).collect())
}

#[allow(unsafe_code)]
fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: It is used for one system call at a time, which says so where nothing is open under the number; and nothing
    // in this process closes what it has inherited.
    unsafe { BorrowedFd::borrow_raw(number) }
}
