//! Kernels with less than this one has, made by a filter of system calls on the calling thread: it stays there, and so
//! the thread has to be one of a process that runs one test.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How landlock_create_ruleset(2) fails where the kernel was built without it, and where it was not switched on.
pub(crate) const ABSENT: i32 = libc::ENOSYS;
pub(crate) const SWITCHED_OFF: i32 = libc::EOPNOTSUPP;

/// Makes a system call fail with an error number.
pub(crate) fn filter(call: i64, errno: i32) {
    install(call, None, libc::SECCOMP_RET_ERRNO | errno as u32, 0);
}

/// Makes landlock_create_ruleset(2) tell an older version than the kernel's. What it does is left to the kernel.
pub(crate) fn landlock_version(version: i64) {
    const ASKS_FOR_VERSION: u32 = 1;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let listener =
        install(libc::SYS_landlock_create_ruleset, Some(ASKS_FOR_VERSION), libc::SECCOMP_RET_USER_NOTIF, flags);
    // SAFETY: The kernel has just made it, for this process.
    let listener = unsafe { OwnedFd::from_raw_fd(listener as i32) };
    // It ends with the process.
    std::thread::spawn(move || while answer(&listener, version, 0) {});
}

/// Makes a system call take this much longer.
pub(crate) fn slow(call: i64, time: Duration) {
    const GO_ON: u32 = 1;
    let listener = install(call, None, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: The kernel has just made it, for this process.
    let listener = unsafe { OwnedFd::from_raw_fd(listener as i32) };
    let wait = move || {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(nix::Error::EINTR) {}
        std::thread::sleep(time);
        answer(&listener, 0, GO_ON)
    };
    // It ends with the process.
    std::thread::spawn(move || while wait() {});
}

/// A filter with one rule: `call`, with this third argument if one is given, comes to `action`.
fn install(call: i64, third: Option<u32>, action: u32, flags: u64) -> i64 {
    let line = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let (load, equal) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let ret = libc::BPF_RET | libc::BPF_K;
    let mut program = vec![line(load, 0, 0), line(equal, if third.is_some() { 3 } else { 1 }, call as u32)];
    // The low half of the third argument.
    program.extend(third.into_iter().flat_map(|value| [line(load, 0, 32), line(equal, 1, value)]));
    program.extend([line(ret, 0, action), line(ret, 0, libc::SECCOMP_RET_ALLOW)]);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `program` and what it points to outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    assert!(done >= 0, "seccomp: {}", std::io::Error::last_os_error());
    done
}

/// Answers one call with `value`, or as `flags` say.
fn answer(listener: &OwnedFd, value: i64, flags: u32) -> bool {
    /// `struct seccomp_notif_resp`.
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    // `struct seccomp_notif`, which starts with an id.
    let mut call = [0_u64; 10];
    // SAFETY: The kernel writes 80 bytes, which outlive the call.
    if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, call.as_mut_ptr()) } != 0 {
        return std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
    }
    let mut response = Response { id: call[0], value, error: 0, flags };
    // SAFETY: The kernel reads and writes the response, which outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw mut response) };
    true
}
