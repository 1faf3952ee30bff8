//! Descriptors, and files by descriptor.

use core::ffi::{CStr, c_int};
use core::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use super::{Errno, Result, call, ptr, raw};

/// An owned descriptor that is closed by the raw call: `OwnedFd` closes through libc, which may write `errno`.
#[derive(Debug)]
pub(crate) struct Fd(RawFd);

impl Fd {
    pub(super) fn new(result: usize) -> Self {
        Fd(result as RawFd)
    }

    /// Moves the descriptor to a number, where it is left open across exec.
    pub(crate) fn put_at(self, number: RawFd) -> Result<()> {
        if self.0 == number {
            keep_on_exec(self.as_fd())?;
            self.into_raw();
            return Ok(());
        }
        dup_to(self.as_fd(), number)
    }

    /// Gives the descriptor up without closing it.
    pub(crate) fn into_raw(self) -> RawFd {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: The descriptor is open for as long as `self` lives, and is not -1.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: The descriptor is owned here, and not used again.
        let _ = unsafe { call(libc::SYS_close, [self.0 as usize]) };
    }
}

impl From<Fd> for OwnedFd {
    fn from(fd: Fd) -> OwnedFd {
        // SAFETY: `into_raw` hands the ownership over.
        unsafe { OwnedFd::from_raw_fd(fd.into_raw()) }
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(fd.into_raw_fd())
    }
}

/// Borrows a descriptor that the caller knows by its number.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: A wrong number makes the calls that get it fail with EBADF; nothing in memory depends on it. Only
    // -1 is not allowed, and 0 cannot be mistaken for it.
    unsafe { BorrowedFd::borrow_raw(fd.max(0)) }
}

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2), closed on exec.
pub(crate) fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: c_int, mode: u32, resolve: u64) -> Result<Fd> {
    let flags = (flags | libc::O_CLOEXEC) as u64;
    let how = OpenHow { flags, mode: mode.into(), resolve };
    let args = [raw(dir), ptr(path), &raw const how as usize, size_of::<OpenHow>()];
    // SAFETY: `path` ends in a zero byte, `how` outlives the call and its size is given; both are only read.
    unsafe { call(libc::SYS_openat2, args) }.map(Fd::new)
}

/// dup3(2) without `O_CLOEXEC`: `target` is left open across exec.
pub(crate) fn dup_to(source: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    // SAFETY: No pointers. The descriptor table is the child's own.
    unsafe { call(libc::SYS_dup3, [raw(source), target as usize, 0]) }.map(drop)
}

/// Leaves `fd` open across exec.
pub(crate) fn keep_on_exec(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fcntl, [raw(fd), libc::F_SETFD as usize, 0]) }.map(drop)
}

/// What a file is open for, and its other flags: fcntl(2) with `F_GETFL`.
pub(crate) fn status_flags(fd: BorrowedFd<'_>) -> Result<c_int> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fcntl, [raw(fd), libc::F_GETFL as usize, 0]) }.map(|flags| flags as c_int)
}

/// Clears the flags of an open file, `O_NONBLOCK` among them.
pub(crate) fn set_blocking(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fcntl, [raw(fd), libc::F_SETFL as usize, 0]) }.map(drop)
}

/// close_range(2): closes `first` to `last`, both included.
pub(crate) fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: No pointers. The descriptor table is the child's own, and what it closes is not used again.
    unsafe { call(libc::SYS_close_range, [first as usize, last as usize, 0]) }.map(drop)
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: has exec close `first` and everything above.
pub(crate) fn close_on_exec(first: u32) -> Result<()> {
    let args = [first as usize, u32::MAX as usize, libc::CLOSE_RANGE_CLOEXEC as usize];
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_close_range, args) }.map(drop)
}

/// write(2), until all is written.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        // SAFETY: The kernel reads at most `data.len()` bytes of `data`.
        match unsafe { call(libc::SYS_write, [raw(fd), data.as_ptr() as usize, data.len()]) } {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(written) => data = data.get(written..).unwrap_or_default(),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// write(2), once.
pub(crate) fn write_once(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
    // SAFETY: The kernel reads at most `data.len()` bytes of `data`.
    unsafe { call(libc::SYS_write, [raw(fd), data.as_ptr() as usize, data.len()]) }
}

/// sendto(2) of all of `data`, without SIGPIPE and without waiting: EAGAIN where it does not fit the socket's buffer.
pub(crate) fn send(socket: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
    let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as usize;
    // SAFETY: The kernel reads at most `data.len()` bytes of `data`; there is no address.
    unsafe { call(libc::SYS_sendto, [raw(socket), data.as_ptr() as usize, data.len(), flags, 0, 0]) }.map(drop)
}

/// The control message of unix(7) that carries one descriptor: `struct cmsghdr`, the descriptor, and padding.
#[repr(C)]
struct PassedFd {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: RawFd,
    padding: c_int,
}

impl PassedFd {
    /// Without the padding.
    const LENGTH: usize = size_of::<Self>() - size_of::<c_int>();

    fn new(fd: RawFd) -> Self {
        Self { length: Self::LENGTH, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, fd, padding: 0 }
    }
}

/// Calls sendmsg(2) or recvmsg(2) with one byte and one control message.
fn message(nr: core::ffi::c_long, socket: BorrowedFd<'_>, control: &mut PassedFd, flags: c_int) -> Result<usize> {
    let mut byte = 0_u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: All zeroes is a value of this plain structure, and stands for "none" in each field.
    let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
    header.msg_iov = &raw mut data;
    header.msg_iovlen = 1;
    header.msg_control = core::ptr::from_mut(control).cast();
    header.msg_controllen = size_of::<PassedFd>() as _;
    // SAFETY: The header names one byte and one control message with their sizes; all of them outlive the call.
    unsafe { call(nr, [raw(socket), &raw mut header as usize, flags as usize]) }
}

/// sendmsg(2) of one descriptor.
pub(crate) fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<()> {
    let mut control = PassedFd::new(raw(fd) as RawFd);
    message(libc::SYS_sendmsg, socket, &mut control, libc::MSG_NOSIGNAL).map(drop)
}

/// recvmsg(2) of one descriptor; waits for it.
pub(crate) fn receive_fd(socket: BorrowedFd<'_>) -> Result<Fd> {
    let mut control = PassedFd::new(-1);
    control.length = 0;
    let received = loop {
        match message(libc::SYS_recvmsg, socket, &mut control, libc::MSG_CMSG_CLOEXEC) {
            // A handler of the host's has run.
            Err(Errno(libc::EINTR)) => {}
            result => break result?,
        }
    };
    match received == 1 && control.length == PassedFd::LENGTH && control.kind == libc::SCM_RIGHTS {
        true => Ok(Fd(control.fd)),
        false => Err(Errno(libc::EPIPE)),
    }
}

/// shutdown(2), both ways: whoever reads at the other end gets the end of the stream.
pub(crate) fn shutdown(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_shutdown, [raw(socket), libc::SHUT_RDWR as usize]) }.map(drop)
}

/// pipe2(2): the end that is read, and the one that is written. Both are closed on exec.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: The kernel writes two numbers of 32 bits.
    unsafe { call(libc::SYS_pipe2, [ends.as_mut_ptr() as usize, libc::O_CLOEXEC as usize]) }?;
    let [reader, writer] = ends;
    Ok((Fd(reader), Fd(writer)))
}

/// read(2), once.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: The kernel writes at most `buffer.len()` bytes to it.
        match unsafe { call(libc::SYS_read, [raw(socket), buffer.as_mut_ptr() as usize, buffer.len()]) } {
            Err(Errno(libc::EINTR)) => {}
            result => return result,
        }
    }
}

/// pread(2): returns how many bytes were read.
pub(crate) fn pread(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let args = [raw(fd), buffer.as_mut_ptr() as usize, buffer.len(), offset as usize];
    // SAFETY: The kernel writes at most `buffer.len()` bytes into `buffer`.
    unsafe { call(libc::SYS_pread64, args) }
}

/// ioctl(2) with `FIONREAD`: how many bytes a pipe holds.
pub(crate) fn bytes_waiting(pipe: BorrowedFd<'_>) -> Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: The kernel writes one number of 32 bits.
    unsafe { call(libc::SYS_ioctl, [raw(pipe), libc::FIONREAD as usize, &raw mut count as usize]) }?;
    Ok(count.unsigned_abs() as usize)
}

/// mkdirat(2).
pub(crate) fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `name` ends in a zero byte and is only read.
    unsafe { call(libc::SYS_mkdirat, [raw(dir), ptr(name), mode as usize]) }.map(drop)
}

/// symlinkat(2).
pub(crate) fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: Both strings end in a zero byte and are only read.
    unsafe { call(libc::SYS_symlinkat, [ptr(target), raw(dir), ptr(name)]) }.map(drop)
}

/// Tells whether `name` in `dir` is a symbolic link to exactly `target`: readlinkat(2).
pub(crate) fn links_to(dir: BorrowedFd<'_>, name: &CStr, target: &CStr) -> Result<bool> {
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    let args = [raw(dir), ptr(name), buffer.as_mut_ptr() as usize, buffer.len()];
    // SAFETY: `name` ends in a zero byte; the kernel writes at most `buffer.len()` bytes into `buffer`.
    match unsafe { call(libc::SYS_readlinkat, args) } {
        Ok(length) => Ok(buffer.get(..length) == Some(target.to_bytes())),
        // Nothing, or no link.
        Err(Errno(libc::ENOENT | libc::EINVAL)) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What [`fstat`] tells of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The times of the last access and the last change of the content, in the form of utimensat(2).
    pub(crate) times: [libc::timespec; 2],
    /// Which device the file itself is.
    special: u64,
}

impl Stat {
    /// Whether this is the device of null(4).
    pub(crate) fn is_null(self) -> bool {
        const NULL: u64 = 1 << 8 | 3;
        self.mode & libc::S_IFMT == libc::S_IFCHR && self.special == NULL
    }

    pub(crate) fn is_dir(self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// fstat(2).
pub(crate) fn fstat(fd: BorrowedFd<'_>) -> Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: The kernel writes one `struct stat`, which is what libc's type is on 64-bit processors.
    unsafe { call(libc::SYS_fstat, [raw(fd), stat.as_mut_ptr() as usize]) }?;
    Ok(told(stat))
}

/// fstatat(2), through all links: no descriptor is needed for that.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, path: &CStr) -> Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    let args = [raw(dir), ptr(path), stat.as_mut_ptr() as usize, 0];
    // SAFETY: `path` ends in a zero byte and is only read; the kernel writes one `struct stat`, as above.
    unsafe { call(libc::SYS_newfstatat, args) }?;
    Ok(told(stat))
}

fn told(stat: MaybeUninit<libc::stat>) -> Stat {
    // SAFETY: All zeroes is a value of this plain structure, and so is what the kernel has written.
    let stat = unsafe { stat.assume_init() };
    let time = |seconds, nanoseconds| libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = [time(stat.st_atime, stat.st_atime_nsec), time(stat.st_mtime, stat.st_mtime_nsec)];
    let (uid, gid) = (stat.st_uid, stat.st_gid);
    Stat { device: stat.st_dev, inode: stat.st_ino, mode: stat.st_mode, uid, gid, times, special: stat.st_rdev }
}

/// fchdir(2).
pub(crate) fn fchdir(dir: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fchdir, [raw(dir)]) }.map(drop)
}

/// syncfs(2).
#[cfg(feature = "image")]
pub(crate) fn syncfs(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_syncfs, [raw(file)]) }.map(drop)
}
