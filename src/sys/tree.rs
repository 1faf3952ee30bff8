//! What it takes to make and copy trees of files: owners, modes, times, attributes, directory entries, locks.

use core::ffi::{CStr, c_int};
use std::os::fd::BorrowedFd;

use super::{Errno, Fd, Result, call, ptr, raw};

/// flock(2) with `LOCK_EX`, and an error where it would wait.
pub(crate) fn lock(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_flock, [raw(file), (libc::LOCK_EX | libc::LOCK_NB) as usize]) }.map(drop)
}

/// flock(2) with `LOCK_UN`.
pub(crate) fn unlock(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_flock, [raw(file), libc::LOCK_UN as usize]) }.map(drop)
}

/// Tells whether a directory of the caller's can have attributes in `user.*`, which xattr(7) leaves to file systems: sets
/// one, and takes it away.
pub(crate) fn check_attributes(dir: BorrowedFd<'_>) -> Result<()> {
    const NAME: &CStr = c"user.belljar";
    // SAFETY: The name ends in a zero byte; the value is empty.
    unsafe { call(libc::SYS_fsetxattr, [raw(dir), ptr(NAME), ptr(c""), 0, 0]) }?;
    // SAFETY: As above.
    unsafe { call(libc::SYS_fremovexattr, [raw(dir), ptr(NAME)]) }.map(drop)
}

/// fchown(2).
pub(crate) fn fchown(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fchown, [raw(file), uid as usize, gid as usize]) }.map(drop)
}

/// fchownat(2) of `name` itself.
pub(crate) fn fchownat(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> Result<()> {
    let args = [raw(dir), ptr(name), uid as usize, gid as usize, libc::AT_SYMLINK_NOFOLLOW as usize];
    // SAFETY: `name` ends in a zero byte and is only read.
    unsafe { call(libc::SYS_fchownat, args) }.map(drop)
}

/// fchmod(2).
pub(crate) fn fchmod(file: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fchmod, [raw(file), mode as usize]) }.map(drop)
}

/// utimensat(2) of `name` itself.
pub(crate) fn set_times(dir: BorrowedFd<'_>, name: &CStr, times: &[libc::timespec; 2]) -> Result<()> {
    let args = [raw(dir), ptr(name), times.as_ptr() as usize, libc::AT_SYMLINK_NOFOLLOW as usize];
    // SAFETY: `name` ends in a zero byte, and `times` are two; both are only read.
    unsafe { call(libc::SYS_utimensat, args) }.map(drop)
}

/// utimensat(2) of an open file.
pub(crate) fn set_times_of(file: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> Result<()> {
    // SAFETY: No path stands for the descriptor itself, and `times` are two, which are only read.
    unsafe { call(libc::SYS_utimensat, [raw(file), 0, times.as_ptr() as usize, 0]) }.map(drop)
}

/// mknodat(2) of a FIFO or a socket, which have no device number.
pub(crate) fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `name` ends in a zero byte and is only read.
    unsafe { call(libc::SYS_mknodat, [raw(dir), ptr(name), mode as usize, 0]) }.map(drop)
}

/// readlinkat(2) of the link that `link` is: the target, which a zero byte follows.
pub(crate) fn read_link<'a>(link: BorrowedFd<'_>, buffer: &'a mut [u8]) -> Result<&'a CStr> {
    let room = buffer.len().saturating_sub(1);
    // SAFETY: The path ends in a zero byte; the kernel writes at most `room` bytes into `buffer`.
    let length = unsafe { call(libc::SYS_readlinkat, [raw(link), ptr(c""), buffer.as_mut_ptr() as usize, room]) }?;
    *buffer.get_mut(length).ok_or(Errno(libc::ENAMETOOLONG))? = 0;
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno(libc::EINVAL))
}

/// sendfile(2), until the end of `from`.
pub(crate) fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    const AT_ONCE: usize = 1 << 30;
    loop {
        // SAFETY: No offset is given; there are no other pointers.
        match unsafe { call(libc::SYS_sendfile, [raw(to), raw(from), 0, AT_ONCE]) } {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A directory that is read entry by entry.
#[derive(Debug)]
pub(crate) struct Entries {
    dir: Fd,
}

/// The name of a directory entry, and its zero byte.
pub(crate) type Name = [u8; 256];

impl Entries {
    pub(crate) fn new(dir: Fd) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.dir.as_fd()
    }

    /// The next entry, "." and ".." among them; none at the end.
    ///
    /// By getdents64(2) for some entries, of which the first counts: the place after it is set again by lseek(2), so that
    /// nothing is kept between two calls.
    pub(crate) fn next(&self, name: &mut Name) -> Result<bool> {
        // `struct linux_dirent64`: inode, next offset, length of the entry, type, name.
        const OFFSET: usize = 8;
        const LENGTH: usize = 16;
        const NAME: usize = 19;
        let mut buffer = [0_u8; 512];
        // SAFETY: The kernel writes at most as many bytes as are given.
        let read =
            unsafe { call(libc::SYS_getdents64, [raw(self.dir()), buffer.as_mut_ptr() as usize, buffer.len()]) }?;
        if read == 0 {
            return Ok(false);
        }
        let number = |at: usize, length: usize| {
            let bytes = buffer.get(at..at + length).unwrap_or_default();
            bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (offset, length) = (number(OFFSET, 8), number(LENGTH, 2) as usize);
        let text = buffer.get(NAME..length).and_then(|text| CStr::from_bytes_until_nul(text).ok());
        let text = text.ok_or(Errno(libc::EIO))?.to_bytes_with_nul();
        name.get_mut(..text.len()).ok_or(Errno(libc::ENAMETOOLONG))?.copy_from_slice(text);
        // SAFETY: No pointers.
        unsafe { call(libc::SYS_lseek, [raw(self.dir()), offset as usize, libc::SEEK_SET as usize]) }?;
        Ok(true)
    }
}

/// The string in a buffer that a zero byte ends.
pub(crate) fn text(buffer: &[u8]) -> Result<&CStr> {
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno(libc::EINVAL))
}

/// A descriptor's number in decimal digits, written to `buffer`; returns how many.
pub(crate) fn digits(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    let mut number = raw(fd) as c_int as u32;
    let length = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let digits = buffer.get_mut(..length).ok_or(Errno(libc::E2BIG))?;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    Ok(length)
}

/// fstatfs(2): the magic number of the file system.
pub(crate) fn file_system(file: BorrowedFd<'_>) -> Result<u64> {
    let mut stat = core::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: The kernel writes one `struct statfs`, which is what libc's type is on 64-bit processors.
    unsafe { call(libc::SYS_fstatfs, [raw(file), stat.as_mut_ptr() as usize]) }?;
    // SAFETY: All zeroes is a value of this plain structure, and so is what the kernel has written.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type as u64)
}

/// flock(2) with `LOCK_SH`, and an error where it would wait.
pub(crate) fn lock_shared(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_flock, [raw(file), (libc::LOCK_SH | libc::LOCK_NB) as usize]) }.map(drop)
}

/// fgetxattr(2): returns how many bytes the value has.
pub(crate) fn attribute(file: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
    let args = [raw(file), ptr(name), buffer.as_mut_ptr() as usize, buffer.len()];
    // SAFETY: `name` ends in a zero byte; the kernel writes at most `buffer.len()` bytes into `buffer`.
    unsafe { call(libc::SYS_fgetxattr, args) }
}

/// flistxattr(2): returns how many bytes the names have, each with a zero byte at its end.
pub(crate) fn attribute_names(file: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: The kernel writes at most `buffer.len()` bytes into `buffer`.
    unsafe { call(libc::SYS_flistxattr, [raw(file), buffer.as_mut_ptr() as usize, buffer.len()]) }
}
